//! Following an origin's redirects, no further than a channel allows (RFC 9110 section 15.4).

use std::sync::Arc;

use shoal_http::caching::field;
use shoal_http::path;

use super::error::UpstreamError;
use super::head::OriginHead;
use super::http::{HttpBody, HttpPool};
use super::{Ask, Asked};
use crate::routes::{Channel, HttpTarget, OriginState, OriginTarget};

/// Asks `origin`, and whomever its redirects name as long as they may be followed. What the last one says is the answer: a
/// redirect that may not be followed too.
pub(super) async fn fetch(
    pool: &HttpPool,
    origin: &Arc<OriginState>,
    target: &HttpTarget,
    ask: &Ask<'_>,
) -> Result<(OriginHead, HttpBody), UpstreamError> {
    let (mut head, mut body) = pool.fetch(origin, target, ask).await?;
    let Some(channel) = ask.follow.filter(|_| !ask.asked.is_some_and(Asked::is_unsafe)) else {
        return Ok((head, body));
    };
    let mut at = Place { origin: Arc::clone(origin), path: format!("{}{}", target.base, ask.path) };
    let mut left = channel.forward.redirects;
    while let Some(next) = location(&head).and_then(|location| at.to(location, channel)) {
        left = left.checked_sub(1).ok_or(UpstreamError::Redirects(channel.forward.redirects))?;
        let OriginTarget::Http(target) = &next.origin.target else { break };
        body.finish();
        let target = HttpTarget { base: "/".into(), ..target.clone() };
        let ask = Ask { path: next.path.trim_start_matches('/'), ..*ask };
        (head, body) = pool.fetch(&next.origin, &target, &ask).await?;
        at = next;
    }
    Ok((head, body))
}

/// Where a redirect leads, as it says.
fn location(head: &OriginHead) -> Option<&str> {
    let redirects = matches!(head.status, 301 | 302 | 303 | 307 | 308);
    let value = field(&head.relay, "location").next().filter(|_| redirects)?;
    std::str::from_utf8(value).ok()
}

/// An origin, and the path with its query there.
struct Place {
    origin: Arc<OriginState>,
    path: String,
}

impl Place {
    /// The place that `location` names, seen from here; `None` when that is none of the channel's.
    fn to(&self, location: &str, channel: &Channel) -> Option<Place> {
        let location = location.split('#').next().unwrap_or_default();
        let (scheme, rest) = match location.split_once("://") {
            Some((scheme, rest)) if !scheme.contains('/') => (scheme, Some(rest)),
            _ => (scheme_of(&self.origin)?, location.strip_prefix("//")),
        };
        let (origin, target) = match rest {
            Some(rest) => {
                let (authority, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let origin = channel.origins.iter().find(|origin| is_at(origin, scheme, authority))?;
                (origin, if target.is_empty() { "/" } else { target }.to_owned())
            }
            None if location.starts_with('/') => (&self.origin, location.to_owned()),
            None => {
                let path = self.path.split('?').next().unwrap_or_default();
                let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
                (&self.origin, format!("{folder}{location}"))
            }
        };
        let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
        let mut path = path::normalize(path).ok()?.into_owned();
        // It goes into a request line.
        if let Some(query) = query.filter(|query| query.bytes().all(|byte| byte.is_ascii_graphic())) {
            path.push('?');
            path.push_str(query);
        }
        Some(Place { origin: Arc::clone(origin), path })
    }
}

fn scheme_of(origin: &OriginState) -> Option<&str> {
    Some(origin.url.split_once("://")?.0)
}

/// Whether URLs with this scheme and authority are the origin's.
fn is_at(origin: &OriginState, scheme: &str, authority: &str) -> bool {
    let Some((own_scheme, rest)) = origin.url.split_once("://") else { return false };
    let own = rest.split('/').next().unwrap_or_default();
    let default_port = if own_scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase();
    own_scheme.eq_ignore_ascii_case(scheme) && bare(own) == bare(authority)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_channels_own_hosts_are_led_to() {
        let channel = crate::testing::channel(json!({
            "origins": [
                { "id": "main", "url": "http://main.test/base/" },
                { "id": "cdn", "url": "http://cdn.test:8080/", "weight": 0 },
                { "id": "files", "url": "file:/srv/media" },
            ],
            "forward": { "redirects": 2 },
        }));
        let at = Place { origin: Arc::clone(&channel.origins[0]), path: "/base/a/b.ts?q".to_owned() };
        for (location, wanted) in [
            ("/x/y?z#f", Some("main /x/y?z")),
            ("c.ts", Some("main /base/a/c.ts")),
            ("../c.ts", Some("main /base/c.ts")),
            ("http://main.test/c", Some("main /c")),
            ("HTTP://MAIN.test:80/c", Some("main /c")),
            ("//cdn.test:8080/c?a=b", Some("cdn /c?a=b")),
            ("http://cdn.test:8080", Some("cdn /")),
            ("/x?a=\u{e9}", Some("main /x")),
            ("http://cdn.test/c", None),
            ("https://main.test/c", None),
            ("http://main.test.evil/c", None),
            ("http://main.test@evil/c", None),
            ("file:///srv/media/x", None),
            ("/../../x", None),
        ] {
            let place = at.to(location, &channel).map(|place| format!("{} {}", place.origin.id, place.path));
            assert_eq!(place.as_deref(), wanted, "{location}");
        }
    }
}
