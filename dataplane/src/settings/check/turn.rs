//! Section `turn`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use shoal_stun::credentials::MAX_REALM;
use shoal_stun::turn::{Limits, RelayAddress};

use super::{Problems, clash};
use crate::config;
use crate::settings::{TurnSettings, UdpSettings};

/// Ports below are the system's own.
const FIRST_PORT: u16 = 1024;
/// Allocations of a shard at most.
const MAX_ALLOCATIONS: usize = 1 << 20;
/// Permissions, and channels, of an allocation at most.
const MAX_PEERS: usize = 1024;
/// Ports of TURN by TCP at most: each has a listener on each address and shard.
const MAX_TCP_PORTS: usize = 8;
/// Connections of a shard at most.
const MAX_CONNECTIONS: usize = 1 << 20;
/// Ports that are kept with their neighbours' tokens at most, for each shard.
const RESERVATIONS: usize = 1_024;

/// `taken`: what is served by TCP already, and the keys that say so.
pub(super) fn settings(
    raw: &config::Turn,
    udp: &UdpSettings,
    shards: usize,
    taken: &[(&str, &[SocketAddr])],
    problems: &mut Problems,
) -> Option<TurnSettings> {
    let key = "turn.relay_addresses";
    let (mut ipv4, mut ipv6) = (None, None);
    for text in &raw.relay_addresses {
        let (bind, public) = text.split_once('/').unwrap_or((text, text));
        let remedy = "write an address such as 192.0.2.1, or the machine's and the public one: 10.0.0.1/192.0.2.1";
        let (Some(bind), Some(public)) = (problems.parse(key, bind, remedy), problems.parse(key, public, remedy))
        else {
            continue;
        };
        let twice = match (bind, public) {
            (IpAddr::V4(bind), IpAddr::V4(public)) => ipv4.replace(relay(bind, public, text, problems)).is_some(),
            (IpAddr::V6(bind), IpAddr::V6(public)) => ipv6.replace(relay(bind, public, text, problems)).is_some(),
            _ => {
                problems.add(key, format_args!("{text:?}"), "both addresses must be of one family");
                false
            }
        };
        if twice {
            problems.add(key, format_args!("{text:?}"), "is the second address of its family; give one of each");
        }
    }
    let ports = ports(&raw.ports, shards, problems);
    if raw.realm.is_empty() || raw.realm.len() > MAX_REALM || raw.realm.chars().any(|c| c.is_control() || c == '"') {
        let problem = format_args!("must be 1 to {MAX_REALM} bytes of text without quotes");
        problems.add("turn.realm", format_args!("{:?}", raw.realm), problem);
    }
    let max_lifetime_s = problems.within("turn.max_lifetime_s", raw.max_lifetime_s, 60, 86_400, "seconds");
    let limits = Limits {
        allocations: problems.within("turn.allocations", raw.allocations, 1, MAX_ALLOCATIONS, "allocations"),
        permissions: problems.within("turn.permissions", raw.permissions, 1, MAX_PEERS, "addresses"),
        channels: problems.within("turn.channels", raw.channels, 1, MAX_PEERS, "channels"),
        reservations: RESERVATIONS,
        default_lifetime_s: problems.within("turn.lifetime_s", raw.lifetime_s, 60, max_lifetime_s.max(60), "seconds"),
        max_lifetime_s,
    };
    let socket_bytes = problems.within("turn.socket_bytes", raw.socket_bytes, 16 << 10, 1 << 30, "bytes");
    let connections = problems.within("turn.connections", raw.connections, 1, MAX_CONNECTIONS, "connections");
    if ipv4.is_none() && ipv6.is_none() {
        return None;
    }
    if udp.addresses.is_empty() {
        let problem = "clients reach the relay by `udp.addresses`; give some there, or none here";
        problems.add(key, raw.relay_addresses.join(", "), problem);
    }
    let mut served = [Some(udp.port), udp.alternate_port].into_iter().flatten();
    if let Some(port) = served.find(|port| ports.as_ref().is_some_and(|ports| ports.contains(port))) {
        let problem = format_args!("must not hold {port}, a port of section udp");
        problems.add("turn.ports", format_args!("{:?}", raw.ports), problem);
    }
    let tcp_ports = tcp_ports(raw, udp, taken, problems);
    Some(TurnSettings {
        ipv4,
        ipv6,
        ports: ports?,
        realm: raw.realm.clone(),
        limits,
        allocations_per_address: raw.allocations_per_address,
        refusals_per_address: raw.refusals_per_address,
        socket_bytes,
        tcp_ports,
        connections,
        connections_per_address: match raw.connections_per_address {
            0 => u32::MAX,
            limit => limit,
        },
    })
}

fn tcp_ports(
    raw: &config::Turn,
    udp: &UdpSettings,
    taken: &[(&str, &[SocketAddr])],
    problems: &mut Problems,
) -> Vec<u16> {
    let key = "turn.tcp_ports";
    if !raw.tcp {
        if let Some(port) = raw.tcp_ports.first() {
            problems.add(key, port, "is for TURN by TCP; set turn.tcp, or give no ports");
        }
        return Vec::new();
    }
    let mut ports = vec![udp.port];
    for &port in &raw.tcp_ports {
        if port == 0 {
            problems.add(key, port, "must be from 1 to 65535; 5349 is where clients expect TURN by TLS");
        } else if ports.contains(&port) {
            problems.add(key, port, "is there twice; udp.port is one of them by itself");
        } else {
            ports.push(port);
        }
    }
    if ports.len() > MAX_TCP_PORTS {
        problems.add(key, raw.tcp_ports.len(), format_args!("give at most {}", MAX_TCP_PORTS - 1));
    }
    for address in udp.addresses.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))) {
        for (other_key, others) in taken {
            if let Some(other) = others.iter().find(|other| clash(**other, address)) {
                let key = if address.port() == udp.port { "turn.tcp" } else { key };
                problems.add(key, address, format_args!("is already taken by {other} in {other_key}"));
            }
        }
    }
    ports
}

fn relay<A: Copy + Into<IpAddr>>(bind: A, public: A, text: &str, problems: &mut Problems) -> RelayAddress<A> {
    for address in [bind.into(), public.into()] {
        if address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            problems.add("turn.relay_addresses", format_args!("{text:?}"), "is no address of one machine");
        }
    }
    RelayAddress { bind, public }
}

fn ports(text: &str, shards: usize, problems: &mut Problems) -> Option<RangeInclusive<u16>> {
    let range = text.split_once('-').and_then(|(first, last)| {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port >= FIRST_PORT);
        Some(port(first)?..=port(last)?)
    });
    let Some(range) = range.filter(|range| !range.is_empty()) else {
        let problem = format_args!("write the first and the last port, from {FIRST_PORT} on, such as 49152-65535");
        problems.add("turn.ports", format_args!("{text:?}"), problem);
        return None;
    };
    // Each shard needs an even port and the next one.
    if range.len() < 4 * shards {
        let problem =
            format_args!("{} ports are too few for {shards} shards; give four for each, at least", range.len());
        problems.add("turn.ports", format_args!("{text:?}"), problem);
        return None;
    }
    Some(range)
}

/// Of all ports of the node those that one shard relays from: an even number of them from an even one on, so that no pair of
/// an even port and the next one is of two shards.
pub(crate) fn ports_of_shard(ports: &RangeInclusive<u16>, shard: usize, shards: usize) -> RangeInclusive<u16> {
    let first = u32::from(*ports.start()).next_multiple_of(2);
    let each = (u32::from(*ports.end()) + 1 - first) / shards as u32 / 2 * 2;
    let start = first + each * shard as u32;
    start as u16..=(start + each - 1) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_divided_evenly_and_in_pairs() {
        for (ports, shards) in [(49152..=65535, 3), (1025..=1060, 4), (65_500..=65_535, 2), (2000..=2003, 1)] {
            let mut next = *ports.start();
            for shard in 0..shards {
                let own = ports_of_shard(&ports, shard, shards);
                assert!(
                    *own.start() >= next
                        && own.start().is_multiple_of(2)
                        && own.len().is_multiple_of(2)
                        && !own.is_empty(),
                    "{own:?}"
                );
                next = own.end().saturating_add(1);
                assert!(own.end() <= ports.end());
            }
        }
    }
}
