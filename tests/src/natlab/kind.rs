//! Kinds of NAT: what each does, and how nftables does it.

use std::fmt;

/// What stands between a client and the public net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A router: the client has a public address.
    Open,
    /// A router that lets in only answers: "symmetric UDP firewall" of RFC 3489.
    Firewall,
    /// One mapping for all destinations; everybody may use it.
    FullCone,
    /// One mapping; addresses that were sent to may use it.
    AddressRestricted,
    /// One mapping; addresses and ports that were sent to may use it.
    PortRestricted,
    /// A mapping with a random port for each destination.
    Symmetric,
    /// A mapping for each destination, whose port is `step` above the one before: ours, on a TUN device.
    Sequential {
        /// From one mapping's port to the next one's; may be negative.
        step: i16,
    },
    /// No UDP at all.
    Blocked,
}

/// On what a mapping, or who may use it, depends (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependence {
    /// Not on the other endpoint.
    Independent,
    /// On its address.
    Address,
    /// On its address and port.
    AddressAndPort,
}

/// What packets show of a NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Whether the address that others see is the client's own.
    pub transparent: bool,
    /// When a new mapping is made.
    pub mapping: Dependence,
    /// Whose packets are let in.
    pub filtering: Dependence,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::Sequential { step: 1 },
        Self::Blocked,
    ];

    /// What it does to UDP over IPv4; nothing where there is none.
    pub fn behaviour(self) -> Option<Behaviour> {
        use Dependence::{Address, AddressAndPort, Independent};
        let (transparent, mapping, filtering) = match self {
            Self::Open => (true, Independent, Independent),
            Self::Firewall => (true, Independent, AddressAndPort),
            Self::FullCone => (false, Independent, Independent),
            Self::AddressRestricted => (false, Independent, Address),
            Self::PortRestricted => (false, Independent, AddressAndPort),
            Self::Symmetric | Self::Sequential { .. } => (false, AddressAndPort, AddressAndPort),
            Self::Blocked => return None,
        };
        Some(Behaviour { transparent, mapping, filtering })
    }

    /// The same for IPv6, which is routed, not translated: behind every kind of NAT there is a firewall.
    pub fn behaviour_v6(self) -> Option<Behaviour> {
        match self {
            Self::Open | Self::Blocked => self.behaviour(),
            _ => Self::Firewall.behaviour(),
        }
    }

    /// Whether two clients who know each other's address as a third party sees it, and who take an answer from wherever
    /// it comes, can reach each other. Port prediction can do more: see [`Kind::predictable`].
    pub fn punches(self, other: Self) -> bool {
        let (Some(one), Some(other)) = (self.behaviour(), other.behaviour()) else { return false };
        let lets_in = |filter: Behaviour, from: Behaviour| {
            from.mapping == Dependence::Independent || filter.filtering != Dependence::AddressAndPort
        };
        lets_in(one, other) && lets_in(other, one)
    }

    /// Whether the port of the next mapping can be told from those before.
    pub fn predictable(self) -> bool {
        matches!(self, Self::Sequential { .. })
    }

    /// Whether the client's own address is a public one.
    pub(super) fn is_routed(self) -> bool {
        matches!(self, Self::Open | Self::Firewall)
    }

    /// The ruleset of its namespace, whose devices are `inner` and `outer`; of 1000 packets, `lost` are.
    ///
    /// Whatever is for nobody inside is dropped before Linux answers it: with the answer to an early packet of the
    /// other side, or with its entry in the connection table alone, the port would be taken when the client punches.
    pub(super) fn rules(self, lost: u32) -> String {
        let forward = match self {
            Self::Open => "",
            Self::Blocked => "meta l4proto udp drop",
            Self::Firewall => r#"iifname "outer" ct state != { established, related } drop"#,
            _ => r#"iifname "outer" meta nfproto ipv6 ct state != { established, related } drop"#,
        };
        let translation = match self {
            Self::Open | Self::Firewall => String::new(),
            Self::PortRestricted | Self::Blocked => masquerade("masquerade", ""),
            Self::Symmetric => masquerade("masquerade fully-random", ""),
            Self::FullCone => masquerade("masquerade", &cone(r#"iifname "outer""#)),
            Self::AddressRestricted => {
                masquerade("masquerade", &cone(r#"iifname "outer" ip saddr . udp dport @asked"#))
            }
            // UDP over IPv4 is not the kernel's business here.
            Self::Sequential { .. } => masquerade("meta l4proto != udp masquerade", UNTRACKED),
        };
        format!(
            r#"table inet lab {{
    chain loss {{
        type filter hook forward priority -10
        iifname "outer" numgen random mod 1000 < {lost} drop
        oifname "outer" numgen random mod 1000 < {lost} drop
    }}
    chain forward {{
        type filter hook forward priority filter
        {forward}
    }}
    chain self {{
        type filter hook input priority filter
        iifname "outer" meta l4proto {{ tcp, udp }} drop
    }}
}}
{translation}"#
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Open => "open",
            Self::Firewall => "symmetric firewall",
            Self::FullCone => "full cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::Sequential { .. } => "sequential symmetric",
            Self::Blocked => "UDP blocked",
        })
    }
}

fn masquerade(how: &str, more: &str) -> String {
    format!(
        r#"table ip nat {{
    chain out {{
        type nat hook postrouting priority srcnat
        oifname "outer" {how}
    }}
    {more}
}}
"#
    )
}

/// What makes one mapping for all: masquerading keeps the port, so the port tells whose it is.
fn cone(who: &str) -> String {
    format!(
        r#"map inside {{
        type inet_service : ipv4_addr . inet_service
        flags dynamic, timeout
        timeout 5m
        size 4096
    }}
    set asked {{
        type ipv4_addr . inet_service
        flags dynamic, timeout
        timeout 5m
        size 65535
    }}
    chain note {{
        type filter hook postrouting priority mangle
        oifname "outer" update @inside {{ udp sport : ip saddr . udp sport }}
        oifname "outer" update @asked {{ ip daddr . udp sport }}
    }}
    chain in {{
        type nat hook prerouting priority dstnat
        {who} dnat ip to udp dport map @inside
    }}"#
    )
}

const UNTRACKED: &str = "chain untracked {
        type filter hook prerouting priority raw
        meta l4proto udp notrack
    }";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_reach_whom() {
        for one in Kind::ALL {
            for other in Kind::ALL {
                assert_eq!(one.punches(other), other.punches(one), "{one} and {other}");
                assert!(!one.punches(Kind::Blocked));
            }
        }
        assert!(Kind::PortRestricted.punches(Kind::PortRestricted));
        assert!(Kind::Symmetric.punches(Kind::AddressRestricted));
        assert!(!Kind::Symmetric.punches(Kind::PortRestricted));
        assert!(!Kind::Symmetric.punches(Kind::Symmetric));
    }
}
