//! Host names: their shape, and patterns of them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::Ipv6Addr;

/// Exact names and whole sub-trees, told in time that does not grow with their number.
#[derive(Debug, Default)]
pub(super) struct HostPatterns {
    exact: HashSet<Box<str>>,
    /// What follows the `*.`
    below: HashSet<Box<str>>,
}

impl HostPatterns {
    /// Adds `name.example` or `*.name.example`; false when it is neither.
    pub(super) fn insert(&mut self, pattern: &str) -> bool {
        let pattern = pattern.to_ascii_lowercase();
        let (set, name) = match pattern.strip_prefix("*.") {
            Some(name) => (&mut self.below, name),
            None => (&mut self.exact, pattern.as_str()),
        };
        let valid = is_host(name);
        if valid {
            set.insert(name.into());
        }
        valid
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }

    /// Whether a host in lower case, without port, is covered.
    pub(super) fn matches(&self, host: &str) -> bool {
        self.exact.contains(host) || (!self.below.is_empty() && parents(host).any(|parent| self.below.contains(parent)))
    }
}

/// What follows each dot of a name: its parent domains, nearest first.
pub fn parents(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter_map(|(dot, _)| host.get(dot + 1..))
}

/// A host in lower case without port: a name, an IPv4 address, or an IPv6 address in brackets.
pub fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    host.len() <= 253 && host.split('.').all(|label| !label.is_empty() && label.bytes().all(allowed))
}

/// Host and port of `host` or `host:port`, in lower case. `None` when it is neither.
pub fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|&port| port > 0)?)
        }
        Some(_) => return None,
        None => None,
    };
    let host = host.to_ascii_lowercase();
    is_host(&host).then_some((host, port))
}

/// A host as it is looked up: lower case, without port and without the root's dot.
pub fn bare_host(host: &str) -> Cow<'_, str> {
    let end = match host.rfind(':') {
        // A colon inside brackets is part of an IPv6 address.
        Some(colon) if !host.get(colon..).is_some_and(|after| after.contains(']')) => colon,
        _ => host.len(),
    };
    let host = host.get(..end).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_what_is_below_and_not_the_name_itself() {
        let mut patterns = HostPatterns::default();
        assert!(patterns.is_empty());
        assert!(patterns.insert("*.Example.com") && patterns.insert("one.test") && patterns.insert("192.0.2.1"));
        for host in ["a.example.com", "a.b.example.com", "one.test", "192.0.2.1"] {
            assert!(patterns.matches(host), "{host}");
        }
        for host in ["example.com", "badexample.com", "a.example.com.evil.test", "a.one.test", "com", ""] {
            assert!(!patterns.matches(host), "{host}");
        }
    }

    #[test]
    fn what_is_no_host_is_no_pattern() {
        let mut patterns = HostPatterns::default();
        for pattern in ["", "*", "*.", "a..b", "a.*.b", "http://a.b", "a.b:80", "a b", "*.*.a", "ex%61mple"] {
            assert!(!patterns.insert(pattern), "{pattern}");
        }
        assert!(patterns.is_empty());
    }

    #[test]
    fn authorities_fall_into_host_and_port() {
        let ok = |host: &str, port| Some((host.to_owned(), port));
        for (authority, parts) in [
            ("Origin.Example", ok("origin.example", None)),
            ("origin.example:8080", ok("origin.example", Some(8080))),
            ("[::1]:81", ok("[::1]", Some(81))),
            ("[::1]", ok("[::1]", None)),
            ("127.0.0.1:1", ok("127.0.0.1", Some(1))),
            ("a:0", None),
            ("a:65536", None),
            ("a:", None),
            ("a:+1", None),
            ("::1", None),
            ("user@a", None),
            ("", None),
        ] {
            assert_eq!(host_and_port(authority), parts, "{authority}");
        }
    }

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        for (given, bare) in [
            ("Edge.Example:8080", "edge.example"),
            ("edge.example.", "edge.example"),
            ("edge.example.:80", "edge.example"),
            ("[2001:DB8::1]:80", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("192.0.2.1:80", "192.0.2.1"),
            ("", ""),
            (":", ""),
        ] {
            assert_eq!(bare_host(given), bare);
        }
    }
}
