//! Who can connect (docs/punch.md, "Who can connect").

use std::net::SocketAddr;

use crate::message::Nat;
use crate::nat::Behaviour;

/// Where a peer can be reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    pub(super) address: SocketAddr,
    pub(super) nat: Nat,
    pub(super) relayed: Option<SocketAddr>,
}

/// Whether there is any way between two peers: straight, through one relay, or through both. If `relayed_only`, the last.
pub(super) fn has_way(a: &Reach, b: &Reach, relayed_only: bool) -> bool {
    let through = |relayed: Option<SocketAddr>, other: SocketAddr| {
        relayed.is_some_and(|relayed| relayed.is_ipv4() == other.is_ipv4())
    };
    if b.relayed.is_some_and(|relayed| through(a.relayed, relayed)) {
        return true;
    }
    let straight = a.address.is_ipv4() == b.address.is_ipv4() && can_connect(&a.nat, &b.nat);
    !relayed_only && (straight || through(a.relayed, b.address) || through(b.relayed, a.address))
}

/// Whether two peers behind these NATs can talk without a relay: one of them can reach the other. Unknown counts as
/// endpoint-independent.
#[must_use]
pub fn can_connect(a: &Nat, b: &Nat) -> bool {
    reaches(a, b) || reaches(b, a)
}

/// Whether the first check of `from` gets through: it knows where `to` is, and `to`'s NAT lets it in.
fn reaches(from: &Nat, to: &Nat) -> bool {
    let filters_by_port = to.filtering == Some(Behaviour::AddressAndPortDependent);
    is_known(to) && (!filters_by_port || is_known(from))
}

/// Whether the outside address towards a new destination is known beforehand.
fn is_known(nat: &Nat) -> bool {
    nat.has_step() || nat.mapping.is_none_or(|mapping| mapping == Behaviour::EndpointIndependent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The columns of the table, in its order.
    const KINDS: [(&str, &[Nat]); 5] = {
        use Behaviour::{AddressAndPortDependent as Port, AddressDependent as Address, EndpointIndependent as Any};
        const fn nat(mapping: Option<Behaviour>, filtering: Option<Behaviour>, step: i16) -> Nat {
            Nat { mapping, filtering, step, newest: if step == 0 { 0 } else { 5_000 } }
        }
        [
            ("open, full cone", &[nat(Some(Any), Some(Any), 0), nat(None, None, 0), nat(None, Some(Any), 0)]),
            ("address-restricted", &[nat(Some(Any), Some(Address), 0), nat(None, Some(Address), 0)]),
            ("port-restricted", &[nat(Some(Any), Some(Port), 0), nat(None, Some(Port), 0)]),
            (
                "symmetric with a step",
                &[nat(Some(Port), Some(Port), 1), nat(Some(Port), Some(Port), -2), nat(Some(Address), Some(Port), 1)],
            ),
            ("symmetric", &[nat(Some(Port), Some(Port), 0), nat(Some(Address), Some(Port), 0)]),
        ]
    };

    #[test]
    fn a_relay_is_a_way_for_addresses_of_its_family() {
        let reach = |address: &str, relayed: &str, symmetric: bool| Reach {
            address: address.parse().unwrap(),
            nat: KINDS[if symmetric { 4 } else { 0 }].1[0],
            relayed: relayed.parse().ok(),
        };
        let ways = |a: &Reach, b: &Reach| {
            assert_eq!(has_way(a, b, false), has_way(b, a, false));
            assert_eq!(has_way(a, b, true), has_way(b, a, true));
            [has_way(a, b, false), has_way(a, b, true)]
        };
        let (v4, v6) = ("192.0.2.1:1000", "[2001:db8::1]:1000");
        let symmetric = reach(v4, "", true);
        assert_eq!(ways(&reach(v4, "", false), &symmetric), [true, false]);
        assert_eq!(ways(&symmetric, &symmetric), [false, false]);
        assert_eq!(ways(&reach(v4, v4, true), &symmetric), [true, false]);
        assert_eq!(ways(&reach(v4, v6, true), &symmetric), [false, false]);
        assert_eq!(ways(&reach(v6, v4, true), &symmetric), [true, false]);
        assert_eq!(ways(&reach(v6, "", false), &reach(v4, "", false)), [false, false], "two families");
        assert_eq!(ways(&reach(v4, v4, true), &reach(v4, v4, true)), [true, true]);
        assert_eq!(ways(&reach(v6, v4, true), &reach(v6, v4, true)), [true, true]);
        assert_eq!(ways(&reach(v4, v6, true), &reach(v6, v4, true)), [true, false], "one relay, not both");
    }

    #[test]
    fn it_is_the_table_of_the_documentation() {
        let page = include_str!("../../../../docs/punch.md");
        let (_, section) = page.split_once("## Who can connect").unwrap();
        let rows: Vec<Vec<&str>> = section
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows[0][1..], KINDS.map(|(name, _)| name));
        assert_eq!(rows.len(), 2 + KINDS.len());
        for (row, (name, nats)) in rows[2..].iter().zip(KINDS) {
            assert_eq!(row[0], name);
            for (cell, (other, others)) in row[1..].iter().zip(KINDS) {
                for (a, b) in nats.iter().flat_map(|a| others.iter().map(move |b| (a, b))) {
                    assert!(["yes", "relay"].contains(cell));
                    assert_eq!(can_connect(a, b), *cell == "yes", "{name}, {other}: {a:?}, {b:?}");
                    assert_eq!(can_connect(a, b), can_connect(b, a));
                }
            }
        }
    }
}
