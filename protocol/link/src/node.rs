//! What a node tells of itself: where viewers reach it, and how it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most addresses and ports of each kind that a node tells.
pub const ENDPOINTS_MAX: usize = 32;

/// Most reasons for refusals that are told apart; the rarest are one, [`OTHER_REASONS`].
pub const REASONS_MAX: usize = 32;

/// Reasons beyond [`REASONS_MAX`].
pub const OTHER_REASONS: &str = "other";

/// Where viewers reach a node, beside its base URL.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Endpoints {
    /// Base URL for viewers by TLS, without a trailing slash.
    pub https: Option<String>,
    /// Public addresses and ports of STUN, punching and the relay, by UDP.
    #[schemars(with = "Vec<String>")]
    pub udp: Vec<SocketAddr>,
    /// The relay, if it is served.
    pub turn: Option<TurnEndpoints>,
}

/// How the relay is reached, beside by UDP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct TurnEndpoints {
    /// Realm of credentials.
    pub realm: String,
    /// Ports by TCP, on the addresses of [`Endpoints::udp`]. Each of them speaks TLS as well, if there are certificates.
    pub tcp_ports: Vec<u16>,
    /// A name that clients may verify by TLS; none: no TLS.
    pub tls_name: Option<String>,
}

impl Endpoints {
    /// `stun:` URIs (RFC 7064).
    #[must_use]
    pub fn stun_urls(&self) -> Vec<String> {
        self.udp.iter().map(|at| format!("stun:{at}")).collect()
    }

    /// `turn:` and `turns:` URIs (RFC 7065), the cheapest way first: UDP, TCP, TLS.
    #[must_use]
    pub fn turn_urls(&self) -> Vec<String> {
        let Some(turn) = &self.turn else { return Vec::new() };
        let udp = self.udp.iter().map(|at| format!("turn:{at}?transport=udp"));
        let ports = || turn.tcp_ports.iter();
        let at = |at: &SocketAddr, port: &u16| SocketAddr::new(at.ip(), *port);
        let tcp =
            self.udp.iter().flat_map(|one| ports().map(move |port| format!("turn:{}?transport=tcp", at(one, port))));
        let name = turn.tls_name.iter();
        let tls = name.flat_map(|name| ports().map(move |port| format!("turns:{name}:{port}?transport=tcp")));
        udp.chain(tcp).chain(tls).collect()
    }
}

/// How a node is. Sums run from the start of its process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// Open client connections.
    pub connections: u64,
    /// Bytes in the RAM tier.
    pub cache_bytes: u64,
    /// Busy fraction of the busiest shard, 0 to 1000.
    pub busy_permille: u16,
    /// It takes no more viewers: true from SIGTERM or a drain command on.
    pub draining: bool,
    /// Requests answered, refusals included.
    pub requests: u64,
    /// Bytes handed to the kernel for viewers: bodies, heads and framing.
    pub bytes_sent: u64,
    /// Requests answered from RAM.
    pub ram_hits: u64,
    /// Requests answered from disk.
    pub disk_hits: u64,
    /// Requests for which something was fetched, or that waited for another's fetch.
    pub misses: u64,
    /// Requests and connections refused, by reason; the rarest reasons together as `other`.
    pub refusals: BTreeMap<String, u64>,
    /// What comes before the sockets.
    pub xdp: XdpHealth,
}

/// XDP in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct XdpHealth {
    /// How it runs.
    pub mode: XdpMode,
    /// Packets that it dropped, for whatever reason, since its maps were made.
    pub dropped: u64,
}

/// How XDP runs on the interfaces of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// No interfaces are configured.
    #[default]
    Off,
    /// Configured, and running on none of them.
    Unavailable,
    /// By the kernel's stack.
    Generic,
    /// By the drivers.
    Native,
    /// By the network cards.
    Offloaded,
    /// Not the same on all of them.
    Mixed,
}

impl XdpMode {
    /// Of numbers of interfaces.
    #[must_use]
    pub fn of(configured: bool, generic: u64, native: u64, offloaded: u64) -> Self {
        match (generic, native, offloaded) {
            (0, 0, 0) if configured => Self::Unavailable,
            (0, 0, 0) => Self::Off,
            (_, 0, 0) => Self::Generic,
            (0, _, 0) => Self::Native,
            (0, 0, _) => Self::Offloaded,
            _ => Self::Mixed,
        }
    }
}

/// Brings counts by reason below [`REASONS_MAX`] entries: the rarest become one. No count is lost.
#[must_use]
pub fn bounded_reasons(counts: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    if counts.len() <= REASONS_MAX {
        return counts;
    }
    let mut by_count: Vec<(String, u64)> = counts.into_iter().collect();
    by_count.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    let rare = by_count.split_off(REASONS_MAX - 1);
    let rest = rare.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    let mut kept: BTreeMap<String, u64> = by_count.into_iter().collect();
    let other = kept.entry(OTHER_REASONS.to_owned()).or_default();
    *other = other.saturating_add(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_every_way() {
        let mut endpoints = Endpoints {
            https: None,
            udp: vec!["192.0.2.1:3478".parse().unwrap(), "[2001:db8::1]:3478".parse().unwrap()],
            turn: None,
        };
        assert_eq!(endpoints.stun_urls(), ["stun:192.0.2.1:3478", "stun:[2001:db8::1]:3478"]);
        assert!(endpoints.turn_urls().is_empty());
        let tls_name = Some("edge.example.com".to_owned());
        endpoints.turn = Some(TurnEndpoints { realm: "shoal".to_owned(), tcp_ports: vec![3478, 443], tls_name });
        let expected = [
            "turn:192.0.2.1:3478?transport=udp",
            "turn:[2001:db8::1]:3478?transport=udp",
            "turn:192.0.2.1:3478?transport=tcp",
            "turn:192.0.2.1:443?transport=tcp",
            "turn:[2001:db8::1]:3478?transport=tcp",
            "turn:[2001:db8::1]:443?transport=tcp",
            "turns:edge.example.com:3478?transport=tcp",
            "turns:edge.example.com:443?transport=tcp",
        ];
        assert_eq!(endpoints.turn_urls(), expected);
    }

    #[test]
    fn modes_in_one_word() {
        assert_eq!(XdpMode::of(false, 0, 0, 0), XdpMode::Off);
        assert_eq!(XdpMode::of(true, 0, 0, 0), XdpMode::Unavailable);
        assert_eq!(XdpMode::of(true, 2, 0, 0), XdpMode::Generic);
        assert_eq!(XdpMode::of(true, 0, 1, 0), XdpMode::Native);
        assert_eq!(XdpMode::of(true, 0, 0, 1), XdpMode::Offloaded);
        assert_eq!(XdpMode::of(true, 1, 1, 0), XdpMode::Mixed);
    }

    #[test]
    fn rare_reasons_become_one_and_no_count_is_lost() {
        let few: BTreeMap<String, u64> = (0..REASONS_MAX as u64).map(|n| (format!("r{n:03}"), n)).collect();
        assert_eq!(bounded_reasons(few.clone()), few);
        let mut many: BTreeMap<String, u64> = (0..100_u64).map(|n| (format!("r{n:03}"), n)).collect();
        many.insert(OTHER_REASONS.to_owned(), 1_000);
        let total: u64 = many.values().sum();
        let kept = bounded_reasons(many);
        // `other` was among the most frequent itself.
        assert_eq!((kept.len(), kept.values().sum::<u64>()), (REASONS_MAX - 1, total));
        assert_eq!(kept["r099"], 99);
        assert!(kept[OTHER_REASONS] > 1_000 && !kept.contains_key("r001"));
    }
}
