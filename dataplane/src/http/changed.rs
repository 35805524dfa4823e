//! Which other objects an answer to an unsafe method says it has changed (RFC 9111 section 4.4).

use shoal_http::caching::field;
use shoal_http::{path, query};

use super::context::Context;
use crate::routes::OriginTarget;
use crate::slices::key::SliceKey;
use crate::slices::store::OpenRequest;

/// The objects that Location and Content-Location among the header lines `relay` name, if they belong to the same channel:
/// by the URL of one of its origins, or by the one the viewer knows, whose host is `host`.
pub(super) fn others(ctx: &Context, request: &OpenRequest, host: Option<&str>, relay: &[u8]) -> Vec<SliceKey> {
    let channel = &request.channel;
    let mut keys = Vec::new();
    let values = field(relay, "location").chain(field(relay, "content-location"));
    for value in values.filter_map(|value| std::str::from_utf8(value).ok()) {
        let Some((authority, target)) = split(value) else { continue };
        let (raw_path, raw_query) = target.split_once('?').unwrap_or((target, ""));
        let Ok(path) = path::normalize(raw_path) else { continue };
        let mut allowed = String::new();
        query::filter(raw_query, |name| channel.cache.keeps(name), &mut allowed);
        let mut add = |rest: &str| keys.push(SliceKey::new(ctx.key_seed, &channel.id, rest, &allowed));
        if authority.is_none() || authority == host {
            channel.below(&path).into_iter().for_each(&mut add);
        }
        for origin in &channel.origins {
            if let OriginTarget::Http(http) = &origin.target
                && authority.is_none_or(|authority| authority == &*http.authority)
                && let Some(rest) = path.strip_prefix(&*http.base)
            {
                add(rest);
            }
        }
    }
    keys
}

/// Authority, if there is one, and the rest without its fragment; `None` for what is not a URL of ours.
fn split(value: &str) -> Option<(Option<&str>, &str)> {
    let value = value.split('#').next().unwrap_or_default();
    let rest = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
    let Some(rest) = rest.or_else(|| value.strip_prefix("//")) else {
        return value.starts_with('/').then_some((None, value));
    };
    let slash = rest.find('/')?;
    Some((Some(&rest[..slash]), &rest[slash..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split() {
        for (value, wanted) in [
            ("/a/b?c#d", Some((None, "/a/b?c"))),
            ("http://h:1/a", Some((Some("h:1"), "/a"))),
            ("//h/", Some((Some("h"), "/"))),
            ("http://h", None),
            ("a/b", None),
            ("", None),
        ] {
            assert_eq!(split(value), wanted, "{value}");
        }
    }
}
