//! Bounds on what nodes tell of themselves: it is kept in memory and shown, and a broken node must not fill either.

use std::collections::BTreeMap;

use shoal_link::node::{ENDPOINTS_MAX, Endpoints, Health, bounded_reasons};

/// Longest name of a region, realm, host or reason; what is longer is cut.
const MAX_NAME: usize = 255;

/// Bounds a name.
pub(super) fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_NAME));
    text.retain(|c| !c.is_control());
    text
}

/// Bounds where a node is reached.
pub(super) fn endpoints(mut told: Endpoints) -> Endpoints {
    told.https = told.https.map(super::connection::cut);
    told.udp.truncate(ENDPOINTS_MAX);
    told.turn = told.turn.map(|mut turn| {
        turn.realm = short(turn.realm);
        turn.tls_name = turn.tls_name.map(short);
        turn.tcp_ports.truncate(ENDPOINTS_MAX);
        turn
    });
    told
}

/// Bounds how a node is.
pub(super) fn health(mut told: Health) -> Health {
    let mut refusals: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, count) in told.refusals {
        let sum = refusals.entry(short(reason)).or_default();
        *sum = sum.saturating_add(count);
    }
    told.refusals = bounded_reasons(refusals);
    told
}

#[cfg(test)]
mod tests {
    use shoal_link::node::{REASONS_MAX, TurnEndpoints};

    use super::*;

    #[test]
    fn a_broken_node_fills_nothing() {
        let long = "x\n".repeat(10_000);
        assert_eq!(short(long.clone()).len(), MAX_NAME.div_ceil(2));
        let told = endpoints(Endpoints {
            https: Some(long.clone()),
            udp: vec!["192.0.2.1:3478".parse().unwrap(); 1_000],
            turn: Some(TurnEndpoints { realm: long.clone(), tcp_ports: vec![1; 1_000], tls_name: Some(long.clone()) }),
        });
        assert!(told.https.unwrap().len() < 10_000);
        assert_eq!((told.udp.len(), told.turn.unwrap().tcp_ports.len()), (ENDPOINTS_MAX, ENDPOINTS_MAX));
        let refusals =
            (0..5_000).map(|n| (format!("{n:05}{long}"), 1)).chain([("y".repeat(300), 2), ("y".repeat(400), 3)]);
        let told = health(Health { refusals: refusals.collect(), ..Health::default() });
        assert_eq!((told.refusals.len(), told.refusals.values().sum::<u64>()), (REASONS_MAX, 5_005));
        assert_eq!(told.refusals[&"y".repeat(MAX_NAME)], 5);
    }
}
