//! Who can connect (docs/punch.md, "Who can connect").

use crate::message::Nat;
use crate::nat::Behaviour;

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
