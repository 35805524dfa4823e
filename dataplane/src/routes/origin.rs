//! Where a channel's bytes come from.

use std::path::PathBuf;
use std::sync::Arc;

use shoal_link::access::names::host_and_port;
use shoal_link::channel::Origin;

use super::error::FieldError;
use super::health::{Health, HealthEvent};
use super::parents::Parent;

/// One origin, prepared, with its health.
#[derive(Debug)]
pub struct OriginState {
    /// Unique within the channel; labels metrics and the ledger.
    pub id: Arc<str>,
    /// The URL as configured.
    pub url: Box<str>,
    /// The URL taken apart.
    pub target: OriginTarget,
    /// Lower orders are tried first.
    pub order: u16,
    /// Share among healthy origins of the same order; 0: not asked at all.
    pub weight: u16,
    /// Whether it may be asked for ranges.
    pub range: bool,
    /// Path below the URL that health checks GET.
    pub health_path: Option<Box<str>>,
    /// Milliseconds between health checks.
    pub health_interval_ms: u32,
    /// Outlives the snapshot while channel, id and URL stay the same.
    pub health: Arc<Health>,
    /// The parent that stands for the origin.
    pub parent: Option<Arc<Parent>>,
}

/// What kind of origin it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginTarget {
    /// A server.
    Http(HttpTarget),
    /// A local folder.
    File {
        /// Absolute.
        root: PathBuf,
    },
}

/// A server and where below it the channel begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// Name or address, in lower case; an IPv6 address without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
    /// Path prefix, with a slash at both ends.
    pub base: Box<str>,
    /// What the Host field says.
    pub authority: Box<str>,
    /// With TLS: the name that its certificate must have, that of the Host field.
    pub tls: Option<Box<str>>,
}

impl OriginState {
    /// `field` is the origin's place in its channel. `before` has the same channel and id.
    pub(super) fn compile(raw: &Origin, field: &str, before: Option<&Self>) -> Result<Self, FieldError> {
        let target = parse_url(&raw.url).map_err(|remedy| FieldError::new(format!("{field}.url"), &raw.url, remedy))?;
        let target = match (target, &raw.host) {
            (OriginTarget::Http(target), Some(host)) => {
                if host_and_port(host).is_none() {
                    let remedy = "is no host; write a name with or without a port, as in cdn.example.com";
                    return Err(FieldError::new(format!("{field}.host"), host, remedy));
                }
                let tls = target.tls.and_then(|_| host_and_port(host)).map(|(host, _)| bare(&host).into());
                OriginTarget::Http(HttpTarget { authority: host.as_str().into(), tls, ..target })
            }
            (target, _) => target,
        };
        if let Some(path) = &raw.health_path
            && !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        {
            let remedy = "is no path; percent-encode spaces and characters beyond ASCII";
            return Err(FieldError::new(format!("{field}.health_path"), path, remedy));
        }
        let health_path: Option<Box<str>> = raw.health_path.as_deref().map(|path| path.trim_start_matches('/').into());
        let before = before.filter(|before| *before.url == raw.url);
        let health = match before {
            None => Arc::default(),
            Some(before) if before.health_path == health_path => before.health.clone(),
            // What the old check said, a new one or none at all may never take back.
            Some(before) => Arc::new(Health::new(before.health.state().after(HealthEvent::Unchecked, 0))),
        };
        Ok(Self {
            id: raw.id.as_str().into(),
            url: raw.url.as_str().into(),
            target,
            order: raw.order,
            weight: raw.weight,
            range: raw.range,
            health_path,
            health_interval_ms: raw.health_interval_ms,
            health,
            parent: None,
        })
    }
}

fn parse_url(url: &str) -> Result<OriginTarget, &'static str> {
    if let Some(root) = url.strip_prefix("file:") {
        if !root.starts_with('/') || root.starts_with("//") || root.contains('\0') {
            return Err("must name an absolute folder with one slash after the colon, as in file:/srv/video");
        }
        return Ok(OriginTarget::File { root: root.into() });
    }
    let (rest, port_of_scheme) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (rest, 80),
        (_, Some(rest)) => (rest, 443),
        _ => return Err("must begin with http://, https:// or file:/"),
    };
    let (authority, base) = match rest.find('/').and_then(|slash| rest.split_at_checked(slash)) {
        Some(parts) => parts,
        None => (rest, "/"),
    };
    let (host, port) = host_and_port(authority)
        .ok_or("must have a host, and a port from 1 to 65535 if any, as in http://origin:8080/")?;
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\\".contains(&byte);
    if !base.ends_with('/') || !base.bytes().all(plain) {
        return Err("must end with a slash, without query, fragment or spaces, as in http://origin/live/");
    }
    let bare = bare(&host);
    Ok(OriginTarget::Http(HttpTarget {
        host: bare.into(),
        port: port.unwrap_or(port_of_scheme),
        base: base.into(),
        authority: authority.into(),
        tls: (port_of_scheme == 443).then(|| bare.into()),
    }))
}

/// An IPv6 address without its brackets; other hosts as they are.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, base, authority) in [
            ("http://Origin.test", "origin.test", 80, "/", "Origin.test"),
            ("http://origin.test:8080/live/", "origin.test", 8080, "/live/", "origin.test:8080"),
            ("http://[::1]:81/", "::1", 81, "/", "[::1]:81"),
            ("http://192.0.2.1/a/b/", "192.0.2.1", 80, "/a/b/", "192.0.2.1"),
            ("https://Origin.test/a/", "origin.test", 443, "/a/", "Origin.test"),
            ("https://[::1]:8443/", "::1", 8443, "/", "[::1]:8443"),
        ] {
            let [host, base, authority] = [host, base, authority].map(Box::<str>::from);
            let tls = url.starts_with("https:").then(|| host.clone());
            assert_eq!(parse_url(url), Ok(OriginTarget::Http(HttpTarget { host, port, base, authority, tls })));
        }
        assert_eq!(parse_url("file:/srv/video"), Ok(OriginTarget::File { root: "/srv/video".into() }));
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "",
            "https://",
            "https:///a/",
            "http://",
            "http:///x/",
            "http://a:0/",
            "http://a:99999/",
            "http://u@a/",
            "http://a/b",
            "http://a/?x/",
            "http://a/b c/",
            "http://a/\r\n/",
            "file:srv",
            "file:///srv",
            "ftp://a/",
            "http://a b/",
        ] {
            assert!(parse_url(url).is_err(), "{url}");
        }
    }
}
