//! Which peers may be relayed to. A relay that reaches what its own network keeps inside is an open door, so everything
//! that is not the public Internet is closed unless a tenant opens it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::credentials::PeerRules;

/// Whether a peer's address may be given a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// It is where this node relays from: only relay ports are peers.
    Relay,
    Forbidden,
}

/// What of the node's own addresses a peer must not be.
#[derive(Debug, Clone)]
pub(super) struct OwnAddresses {
    /// All of the node's.
    pub(super) all: Vec<IpAddr>,
    /// Those that it relays from.
    pub(super) relays: Vec<IpAddr>,
    /// Relay ports of all shards.
    pub(super) ports: RangeInclusive<u16>,
}

impl OwnAddresses {
    pub(super) fn judge(&self, peer: IpAddr, rules: &PeerRules) -> Verdict {
        if rules.deny.iter().any(|network| network.contains(&peer)) || is_tunnelled(peer) {
            return Verdict::Forbidden;
        }
        // What a translator makes of an address is judged as that address, but no relay is reached that way.
        if let Some(ip) = translated(peer) {
            let allowed = self.judge(ip.into(), rules) == Verdict::Allowed;
            return if allowed { Verdict::Allowed } else { Verdict::Forbidden };
        }
        // Two clients that both relay here are one another's peers.
        if self.relays.contains(&peer) {
            return Verdict::Relay;
        }
        if self.all.contains(&peer) || peer != peer.to_canonical() {
            return Verdict::Forbidden;
        }
        let opened = rules.allow.iter().any(|network| network.contains(&peer));
        // What is never one host stays closed.
        let host = match peer {
            IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
        };
        if is_public(peer) || opened && host { Verdict::Allowed } else { Verdict::Forbidden }
    }
}

/// Whether an address is one host's on the public Internet (RFC 6890 and its registries).
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || a == 127
        || a >= 224
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_documentation()
        // Shared by carriers (RFC 6598), benchmarks (RFC 2544), protocol assignments, 6to4 relays.
        || a == 100 && b & 0xc0 == 64
        || a == 198 && b & 0xfe == 18
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(ip) = translated(ip.into()) {
        return is_public_v4(ip);
    }
    let [a, b, ..] = ip.segments();
    match (a, b) {
        // 6to4; Teredo, benchmarks, ORCHID and other assignments of 2001::/23; documentation (RFC 3849, RFC 9637).
        (0x2002, _) | (0x2001, 0..=0x1ff | 0xdb8) => false,
        (0x3fff, 0..=0xfff) => false,
        // Global unicast is 2000::/3; all else is local, multicast, mapped, translated by somebody's own rule, or unassigned.
        _ => a & 0xe000 == 0x2000,
    }
}

/// The IPv4 address that an IPv6 one is translated to (RFC 6052).
const fn translated(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(Ipv4Addr::from_bits((high as u32) << 16 | low as u32)),
        _ => None,
    }
}

/// Whether it is one of Teredo (RFC 4380) or 6to4 (RFC 3056): packets could go round between the tunnel's end and a server
/// that has such clients or peers (RFC 8656 section 21.4).
pub(super) fn is_tunnelled(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if matches!(ip.segments(), [0x2002, ..] | [0x2001, 0, ..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(peer: &str, allow: &[&str], deny: &[&str]) -> Verdict {
        let own = OwnAddresses {
            all: ["10.0.0.1", "5.5.5.5", "5.5.5.6"].map(|ip| ip.parse().unwrap()).to_vec(),
            relays: vec!["5.5.5.5".parse().unwrap()],
            ports: 1..=2,
        };
        let parse = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        own.judge(peer.parse().unwrap(), &PeerRules { allow: parse(allow), deny: parse(deny) })
    }

    #[test]
    fn only_the_public_internet_is_open() {
        for peer in [
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "64:ff9b::808:808",
        ] {
            assert_eq!(judge(peer, &[], &[]), Verdict::Allowed, "{peer}");
        }
        for peer in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "198.18.0.1",
            "198.19.255.255",
            "192.0.0.8",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b::a01:203",
            "64:ff9b:1::808:808",
            "2002:808:808::1",
            "2002:7f00:1::1",
            "2002:a01:203::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "4000::1",
        ] {
            assert_eq!(judge(peer, &[], &[]), Verdict::Forbidden, "{peer}");
        }
    }

    #[test]
    fn tenants_open_and_close_networks_but_not_the_node_itself() {
        assert_eq!(judge("10.1.2.3", &["10.0.0.0/8"], &[]), Verdict::Allowed);
        assert_eq!(judge("127.0.0.1", &["127.0.0.0/8"], &[]), Verdict::Allowed);
        assert_eq!(judge("10.0.0.1", &["10.0.0.0/8"], &[]), Verdict::Forbidden, "an address of the node");
        assert_eq!(judge("5.5.5.6", &["0.0.0.0/0"], &[]), Verdict::Forbidden, "a public one of the node");
        assert_eq!(judge("5.5.5.5", &[], &[]), Verdict::Relay);
        assert_eq!(judge("5.5.5.5", &[], &["5.0.0.0/8"]), Verdict::Forbidden);
        assert_eq!(judge("8.8.8.8", &["0.0.0.0/0"], &["8.8.8.0/24"]), Verdict::Forbidden);
        for peer in ["224.0.0.1", "255.255.255.255", "0.0.0.0"] {
            assert_eq!(judge(peer, &["0.0.0.0/0"], &[]), Verdict::Forbidden);
        }
        for peer in ["ff02::1", "::", "::ffff:10.1.1.1", "2002:808:808::1", "2001::1"] {
            assert_eq!(judge(peer, &["::/0"], &[]), Verdict::Forbidden);
        }
        // What a translator makes of an address is judged as that address.
        assert_eq!(judge("64:ff9b::505:506", &["::/0", "0.0.0.0/0"], &[]), Verdict::Forbidden, "the node itself");
        assert_eq!(judge("64:ff9b::505:505", &["::/0"], &[]), Verdict::Forbidden, "its relay, past the ports");
        assert_eq!(judge("64:ff9b::808:808", &[], &["8.8.8.0/24"]), Verdict::Forbidden);
        assert_eq!(judge("64:ff9b::a01:203", &["10.0.0.0/8"], &[]), Verdict::Allowed);
    }
}
