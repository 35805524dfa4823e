//! Who asks: the address that a request came from, also through proxies that are trusted.

use std::net::{IpAddr, SocketAddr};

use axum::http::{Extensions, HeaderMap};
use ipnet::IpNet;

/// Where a connection comes from; an extension of each of its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote(pub(crate) SocketAddr);

/// The client's address: the connection's, or where that is a trusted proxy's, the last address in X-Forwarded-For that is
/// none. IPv4 written as IPv6 is IPv4.
pub(crate) fn address(extensions: &Extensions, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut address = extensions.get::<Remote>()?.0.ip().to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    if !is_trusted(&address) {
        return Some(address);
    }
    let hops = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    for hop in hops.iter().rev().flat_map(|value| value.rsplit(',')) {
        let Some(hop) = parse(hop.trim()) else { break };
        address = hop;
        if !is_trusted(&address) {
            break;
        }
    }
    Some(address)
}

/// An address, as proxies write it: with or without a port, in brackets or not.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    parsed.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(remote: &str, forwarded: &[&str]) -> Option<String> {
        let mut extensions = Extensions::new();
        extensions.insert(Remote(remote.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        address(&extensions, &headers, &trusted).map(|address| address.to_string())
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_as_far_as_the_first_stranger() {
        assert_eq!(seen("192.0.2.1:5", &["198.51.100.1"]).unwrap(), "192.0.2.1");
        assert_eq!(seen("10.0.0.1:5", &["198.51.100.1"]).unwrap(), "198.51.100.1");
        assert_eq!(seen("10.0.0.1:5", &["203.0.113.9, 198.51.100.1, 10.0.0.2"]).unwrap(), "198.51.100.1");
        assert_eq!(seen("10.0.0.1:5", &["203.0.113.9", "198.51.100.1:80"]).unwrap(), "198.51.100.1");
        assert_eq!(seen("[::1]:5", &["[2001:db8::1]"]).unwrap(), "2001:db8::1");
        assert_eq!(seen("[::ffff:10.0.0.1]:5", &["nonsense"]).unwrap(), "10.0.0.1");
        assert_eq!(seen("10.0.0.1:5", &[]).unwrap(), "10.0.0.1");
        assert_eq!(address(&Extensions::new(), &HeaderMap::new(), &[]), None);
    }
}
