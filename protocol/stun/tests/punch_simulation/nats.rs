//! NATs as RFC 4787 describes them: how they map, what they let in, and which ports they take.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use shoal_stun::fuzzing::Random;
use shoal_stun::message::Nat;
use shoal_stun::nat::Behaviour;
use shoal_stun::nat::Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};

/// A type of NAT; `step` makes ports of new mappings follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    mapping: Behaviour,
    pub(crate) filtering: Behaviour,
    pub(crate) step: i16,
}

const fn kind(name: &'static str, mapping: Behaviour, filtering: Behaviour, step: i16) -> Kind {
    Kind { name, mapping, filtering, step }
}

/// The types of docs/punch.md, and some between them.
pub(crate) const KINDS: [Kind; 8] = [
    kind("full cone", EndpointIndependent, EndpointIndependent, 0),
    kind("address-restricted", EndpointIndependent, AddressDependent, 0),
    kind("port-restricted", EndpointIndependent, AddressAndPortDependent, 0),
    kind("symmetric, up", AddressAndPortDependent, AddressAndPortDependent, 1),
    kind("symmetric, down", AddressAndPortDependent, AddressAndPortDependent, -2),
    kind("symmetric", AddressAndPortDependent, AddressAndPortDependent, 0),
    kind("symmetric by address", AddressDependent, AddressAndPortDependent, 0),
    kind("symmetric, open to addresses", AddressAndPortDependent, AddressDependent, 0),
];

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    /// What of the destination it is for.
    towards: (Option<IpAddr>, Option<u16>),
    port: u16,
    sent_to: BTreeSet<SocketAddr>,
}

/// One box with one outside address.
#[derive(Debug)]
pub(crate) struct NatBox {
    pub(crate) kind: Kind,
    pub(crate) outside: IpAddr,
    mappings: Vec<Mapping>,
    pub(crate) newest: u16,
    dice: Random,
}

fn part(behaviour: Behaviour, other: SocketAddr) -> (Option<IpAddr>, Option<u16>) {
    match behaviour {
        EndpointIndependent => (None, None),
        AddressDependent => (Some(other.ip()), None),
        AddressAndPortDependent => (Some(other.ip()), Some(other.port())),
    }
}

impl NatBox {
    pub(crate) fn new(kind: Kind, outside: IpAddr, seed: u64) -> Self {
        let mut dice = Random::new(seed);
        let newest = 30_000 + dice.below(20_000) as u16;
        Self { kind, outside, mappings: Vec::new(), newest, dice }
    }

    /// Everything is forgotten, as when it is switched off and on.
    pub(crate) fn reboot(&mut self) {
        self.mappings.clear();
        self.newest = 30_000 + self.dice.below(20_000) as u16;
    }

    /// The outside address of a datagram to `to`.
    pub(crate) fn outbound(&mut self, inside: SocketAddr, to: SocketAddr) -> SocketAddr {
        let towards = part(self.kind.mapping, to);
        let known = self.mappings.iter().position(|known| known.inside == inside && known.towards == towards);
        let at = known.unwrap_or_else(|| {
            let port = self.free_port();
            self.mappings.push(Mapping { inside, towards, port, sent_to: BTreeSet::new() });
            self.mappings.len() - 1
        });
        let mapping = &mut self.mappings[at];
        mapping.sent_to.insert(to);
        SocketAddr::new(self.outside, mapping.port)
    }

    fn free_port(&mut self) -> u16 {
        loop {
            let port = match self.kind.step {
                0 => 1_024 + self.dice.below(60_000) as u16,
                step => self.newest.wrapping_add_signed(step),
            };
            self.newest = port;
            if self.mappings.iter().all(|known| known.port != port) {
                return port;
            }
        }
    }

    /// Whom inside a datagram to an outside port reaches, if it is let in.
    pub(crate) fn inbound(&self, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        let mapping = self.mappings.iter().find(|known| known.port == port)?;
        let expected = part(self.kind.filtering, from);
        mapping.sent_to.iter().any(|to| part(self.kind.filtering, *to) == expected).then_some(mapping.inside)
    }

    /// What a client inside finds out (docs/punch.md, "The type of a NAT"). The last of the three mappings is the newest.
    pub(crate) fn discover(&mut self, inside: SocketAddr, towards: [SocketAddr; 3]) -> Nat {
        let [first, second, third] = towards.map(|to| self.outbound(inside, to).port());
        let mapping = match (first == second, second == third) {
            (true, _) => EndpointIndependent,
            (false, true) => AddressDependent,
            (false, false) => AddressAndPortDependent,
        };
        let (one, other) = (second.wrapping_sub(first) as i16, third.wrapping_sub(second) as i16);
        let step = if one == other { one } else { 0 };
        let newest = if step == 0 { 0 } else { third };
        Nat { mapping: Some(mapping), filtering: Some(self.kind.filtering), step, newest }
    }
}
