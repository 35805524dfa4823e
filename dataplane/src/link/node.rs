//! What this node tells of itself: where viewers reach it, and how it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use shoal_link::node::{ENDPOINTS_MAX, Endpoints, Health, TurnEndpoints, XdpHealth, XdpMode, bounded_reasons};

use crate::routes::host_and_port;
use crate::settings::Settings;
use crate::telemetry::metrics::{Counter, Gauge, Node};
use crate::telemetry::node::NodeStats;
use crate::telemetry::stats::{CacheResult, ShardStats};

/// Where viewers reach the node, as far as its configuration tells. `names` are those in its certificates.
pub(super) fn endpoints(settings: &Settings, names: &[String]) -> Endpoints {
    let port = settings.udp.port;
    let udp = settings.udp.addresses.iter().map(|ip| SocketAddr::new(public(settings, *ip), port));
    let host = settings.node.public_url.as_deref().and_then(host_of);
    let certified = host.as_deref().filter(|host| is_certified(host, names));
    let turn = settings.turn.as_ref().map(|turn| TurnEndpoints {
        realm: turn.realm.clone(),
        tcp_ports: turn.tcp_ports.iter().copied().take(ENDPOINTS_MAX).collect(),
        // A wildcard names no host.
        tls_name: match turn.tcp_ports.is_empty() {
            true => None,
            false => {
                certified.or(names.iter().map(String::as_str).find(|name| !name.starts_with('*'))).map(str::to_owned)
            }
        },
    });
    Endpoints { https: https(settings, certified), udp: udp.take(ENDPOINTS_MAX).collect(), turn }
}

/// The public address behind which this one is. Only a relay's is known to be behind a one-to-one NAT, and that is all of the
/// machine's.
fn public(settings: &Settings, ip: IpAddr) -> IpAddr {
    let Some(turn) = &settings.turn else { return ip };
    match ip {
        IpAddr::V4(v4) => turn.ipv4.filter(|at| at.bind == v4).map_or(ip, |at| at.public.into()),
        IpAddr::V6(v6) => turn.ipv6.filter(|at| at.bind == v6).map_or(ip, |at| at.public.into()),
    }
}

/// `certified`: the host of `node.public_url`, if a certificate has it.
fn https(settings: &Settings, certified: Option<&str>) -> Option<String> {
    let given = settings.node.public_url.as_ref().filter(|url| url.starts_with("https://"));
    let listener = || {
        let port = settings.tls.listen.iter().map(SocketAddr::port).find(|port| *port != 0)?;
        let host = certified?;
        Some(if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") })
    };
    given.cloned().or_else(listener)
}

/// The host of a base URL, lower case, without its port.
fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    host_and_port(authority).map(|(host, _)| host.to_ascii_lowercase())
}

/// Whether a certificate has the name itself, or a wildcard for it (RFC 6125 section 6.4.3).
fn is_certified(host: &str, names: &[String]) -> bool {
    let wild = host.find('.').and_then(|dot| host.get(dot..));
    names.iter().any(|name| name == host || name.strip_prefix('*').is_some_and(|name| Some(name) == wild))
}

/// How the node is.
pub(super) fn health(settings: &Settings, shards: &[Arc<ShardStats>], node: &NodeStats, draining: bool) -> Health {
    let gauge = |gauge| shards.iter().map(move |shard| shard.gauge(gauge));
    let mut by_cache = [0_u64; CacheResult::COUNT];
    let mut refusals: BTreeMap<String, u64> = BTreeMap::new();
    for shard in shards {
        by_cache.iter_mut().zip(shard.requests_by_cache()).for_each(|(sum, count)| *sum += count);
        shard.each_refusal(|reason, count| *refusals.entry(reason.to_owned()).or_default() += count);
    }
    let of = |results: &[CacheResult]| results.iter().map(|result| by_cache[*result as usize]).sum();
    let xdp = XdpHealth {
        mode: XdpMode::of(
            !settings.xdp.interfaces.is_empty(),
            node.get(Node::XdpGeneric),
            node.get(Node::XdpNative),
            node.get(Node::XdpOffloaded),
        ),
        dropped: node.xdp_dropped(),
    };
    Health {
        connections: gauge(Gauge::Connections).sum(),
        cache_bytes: gauge(Gauge::CacheBytes).sum(),
        busy_permille: gauge(Gauge::BusyPermille).max().unwrap_or(0).min(1_000) as u16,
        draining,
        requests: by_cache.iter().sum(),
        bytes_sent: shards.iter().map(|shard| shard.counter(Counter::WireBytes)).sum(),
        ram_hits: of(&[CacheResult::Hit, CacheResult::Stale]),
        disk_hits: of(&[CacheResult::Disk]),
        misses: of(&[CacheResult::Miss, CacheResult::Revalidated, CacheResult::Coalesced, CacheResult::Bypass]),
        refusals: bounded_reasons(refusals),
        xdp,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_stun::turn::RelayAddress;

    use super::*;
    use crate::config::{CertificateFiles, Config};
    use crate::settings::Machine;
    use crate::testing;

    fn settings(change: impl FnOnce(&mut Config)) -> Settings {
        let mut config = Config::default();
        config.node.state_dir = std::env::temp_dir().display().to_string();
        change(&mut config);
        config.validate_on(&Machine::this()).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_node_without_udp_or_names_tells_nothing() {
        assert_eq!(endpoints(&testing::settings(), &[]), Endpoints::default());
    }

    #[test]
    fn addresses_are_those_that_viewers_see() {
        let settings = settings(|config| {
            config.node.public_url = "http://Edge1.example.com:8080/".to_owned();
            config.tls.listen = vec!["0.0.0.0:8443".to_owned()];
            let [certificate, key] = ["chain.pem", "key.pem"].map(str::to_owned);
            config.tls.certificates = vec![CertificateFiles { certificate, key }];
            config.udp.addresses = names(&["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
            config.turn.relay_addresses = names(&["10.0.0.1/192.0.2.1", "2001:db8::1"]);
            config.turn.tcp_ports = vec![443];
        });
        assert!(matches!(settings.turn.as_ref().unwrap().ipv4, Some(RelayAddress { .. })));
        let told = endpoints(&settings, &names(&["*.other.test", "first.test", "*.example.com"]));
        let expected: Vec<SocketAddr> =
            ["192.0.2.1:3478", "10.0.0.2:3478", "[2001:db8::1]:3478"].iter().map(|at| at.parse().unwrap()).collect();
        assert_eq!(told.udp, expected);
        assert_eq!(told.https.as_deref(), Some("https://edge1.example.com:8443"));
        let turn = told.turn.unwrap();
        assert_eq!((turn.tcp_ports, turn.tls_name.as_deref()), (vec![3478, 443], Some("edge1.example.com")));

        // Without a certificate for that name it is none to go by.
        let told = endpoints(&settings, &names(&["*.other.test", "first.test", "*.edge1.example.com"]));
        assert_eq!((told.https, told.turn.unwrap().tls_name.as_deref()), (None, Some("first.test")));
        assert_eq!(endpoints(&settings, &names(&["*.other.test"])).turn.unwrap().tls_name, None);
    }

    #[test]
    fn a_url_with_tls_is_the_one() {
        let settings = settings(|config| config.node.public_url = "https://cdn.example.com/edge".to_owned());
        assert_eq!(endpoints(&settings, &[]).https.as_deref(), Some("https://cdn.example.com/edge"));
    }

    #[test]
    fn health_sums_the_shards() {
        let shards = [Arc::new(ShardStats::default()), Arc::new(ShardStats::default())];
        for (shard, n) in shards.iter().zip(1..) {
            shard.set(Gauge::Connections, n);
            shard.add(Counter::WireBytes, 100 * n);
            shard.request(200, CacheResult::Hit, Duration::ZERO, Duration::ZERO);
            shard.request(200, CacheResult::Coalesced, Duration::ZERO, Duration::ZERO);
            shard.request(403, CacheResult::None, Duration::ZERO, Duration::ZERO);
            shard.refusal("ticket_expired");
        }
        let node = NodeStats::default();
        let mut packets = [0; shoal_probes::maps::VERDICTS];
        packets[shoal_probes::maps::Verdict::Passed as usize] = 1_000;
        packets[shoal_probes::maps::Verdict::Blocked as usize] = 3;
        packets[shoal_probes::maps::Verdict::Shape as usize] = 4;
        node.set_xdp(&packets);
        let health = health(&testing::settings(), &shards, &node, true);
        assert_eq!((health.connections, health.bytes_sent, health.requests), (3, 300, 6));
        assert_eq!((health.ram_hits, health.disk_hits, health.misses), (2, 0, 2));
        assert_eq!(health.refusals, BTreeMap::from([("ticket_expired".to_owned(), 2)]));
        assert_eq!((health.xdp.mode, health.xdp.dropped, health.draining), (XdpMode::Off, 7, true));
    }
}
