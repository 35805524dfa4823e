//! What is known of the NAT in front of a peer, and which of them can connect (docs/punch.md, "Who can connect").

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a NAT maps or filters (RFC 4787 sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// Nobody knows.
    #[default]
    Unknown,
    /// The same for all destinations.
    EndpointIndependent,
    /// By the destination's address.
    AddressDependent,
    /// By its address and port.
    AddressAndPortDependent,
}

/// The NAT in front of a peer, as the peer or the punch service found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Nat {
    /// How it maps.
    pub mapping: Behaviour,
    /// What it lets in.
    pub filtering: Behaviour,
    /// Whether the outside ports of new mappings can be told beforehand.
    pub predictable: bool,
}

impl Nat {
    /// In one byte.
    pub(crate) fn pack(self) -> u8 {
        self.mapping as u8 | (self.filtering as u8) << 2 | u8::from(self.predictable) << 4
    }

    /// Inverse of [`pack`](Self::pack).
    pub(crate) fn unpack(byte: u8) -> Self {
        let behaviour = |bits: u8| match bits & 3 {
            0 => Behaviour::Unknown,
            1 => Behaviour::EndpointIndependent,
            2 => Behaviour::AddressDependent,
            _ => Behaviour::AddressAndPortDependent,
        };
        Self { mapping: behaviour(byte), filtering: behaviour(byte >> 2), predictable: byte & 1 << 4 != 0 }
    }

    /// A short word for counts: `unknown`, `open`, `address_restricted`, `port_restricted` or `symmetric`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match (self.mapping, self.filtering) {
            (Behaviour::AddressDependent | Behaviour::AddressAndPortDependent, _) => "symmetric",
            (_, Behaviour::AddressAndPortDependent) => "port_restricted",
            (_, Behaviour::AddressDependent) => "address_restricted",
            (Behaviour::Unknown, _) | (_, Behaviour::Unknown) => "unknown",
            (Behaviour::EndpointIndependent, Behaviour::EndpointIndependent) => "open",
        }
    }
}

/// Whether two peers behind these NATs can talk without a relay: one of them can reach the other. Unknown counts as
/// endpoint-independent.
#[must_use]
pub fn can_connect(a: Nat, b: Nat) -> bool {
    reaches(a, b) || reaches(b, a)
}

/// Whether the first check of `from` gets through: it knows where `to` is, and `to`'s NAT lets it in.
fn reaches(from: Nat, to: Nat) -> bool {
    is_known(to) && (to.filtering != Behaviour::AddressAndPortDependent || is_known(from))
}

/// Whether the outside address towards a new destination is known beforehand.
fn is_known(nat: Nat) -> bool {
    nat.predictable || matches!(nat.mapping, Behaviour::Unknown | Behaviour::EndpointIndependent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nat_fits_into_its_byte() {
        use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent, Unknown};
        let all = [Unknown, EndpointIndependent, AddressDependent, AddressAndPortDependent];
        for (mapping, filtering) in all.into_iter().flat_map(|mapping| all.map(|filtering| (mapping, filtering))) {
            for predictable in [false, true] {
                let nat = Nat { mapping, filtering, predictable };
                assert_eq!(Nat::unpack(nat.pack()), nat);
            }
        }
    }

    #[test]
    fn the_table_of_the_punch_page_holds() {
        use Behaviour::{AddressAndPortDependent as Port, AddressDependent as Address, EndpointIndependent as Any};
        let nat = |mapping, filtering, predictable| Nat { mapping, filtering, predictable };
        let kinds = [
            nat(Any, Any, false),
            nat(Any, Address, false),
            nat(Any, Port, false),
            nat(Port, Port, true),
            nat(Port, Port, false),
        ];
        let expected = ["11111", "11111", "11110", "11110", "11000"];
        for (a, row) in kinds.iter().zip(expected) {
            let found: String = kinds.iter().map(|b| if can_connect(*a, *b) { '1' } else { '0' }).collect();
            assert_eq!(found, row, "{a:?}");
        }
    }
}
