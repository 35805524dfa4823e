//! What peers tell each other of their NATs, who can connect, and which port comes next.

use std::collections::VecDeque;
use std::net::SocketAddr;

use shoal_stun::nat::{Behaviour, Report};

/// Ports that a peer checks beyond the newest one of a NAT with a step.
pub const PREDICTED: u16 = 8;

/// The lowest port that is checked without having been seen.
const FIRST_PORT: u16 = 1_024;

/// Destinations that are remembered; what is older counts as new.
const DESTINATIONS: usize = 512;

/// What discovery has found of a NAT; as an attribute, NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nat {
    /// How addresses are mapped, if that is known.
    pub mapping: Option<Behaviour>,
    /// What is let in, if that is known.
    pub filtering: Option<Behaviour>,
    /// From one mapping's outside port to the next one's; 0: nobody can tell.
    pub step: i16,
    /// The outside port of the newest mapping; 0 without a step.
    pub newest: u16,
}

impl Nat {
    /// Of what was found, without a step.
    #[must_use]
    pub const fn of(report: &Report) -> Self {
        Self { mapping: report.mapping, filtering: report.filtering, step: 0, newest: 0 }
    }

    /// Whether its outside address for somebody new can be told. What is unknown is tried.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        matches!(self.mapping, None | Some(Behaviour::EndpointIndependent)) || self.step != 0
    }

    /// Whether who is behind it can be reached by who is behind `from`.
    #[must_use]
    pub fn reached_by(&self, from: &Self) -> bool {
        let lets_in = self.filtering != Some(Behaviour::AddressAndPortDependent) || from.is_known();
        self.is_known() && lets_in
    }

    /// Whether two can connect: one of them can reach the other, and is answered.
    #[must_use]
    pub fn connects(&self, other: &Self) -> bool {
        self.reached_by(other) || other.reached_by(self)
    }

    /// The outside port of the `nth` mapping from now, counted from 1; nothing where a NAT is likely to begin anew.
    #[must_use]
    pub fn predicted(&self, nth: u16) -> Option<u16> {
        let port = i32::from(self.newest) + i32::from(self.step) * i32::from(nth);
        u16::try_from(port).ok().filter(|port| self.step != 0 && *port >= FIRST_PORT)
    }
}

/// Keeps [`Nat::newest`] true while packets go to new destinations, each of which takes one more port.
#[derive(Debug)]
pub struct Mappings {
    nat: Nat,
    known: VecDeque<SocketAddr>,
}

impl Mappings {
    /// `known` destinations have their mappings already.
    #[must_use]
    pub fn new(nat: Nat, known: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { nat, known: known.into_iter().collect() }
    }

    /// As it is now.
    #[must_use]
    pub const fn nat(&self) -> &Nat {
        &self.nat
    }

    /// Something is sent there.
    pub fn note_sent(&mut self, to: SocketAddr) {
        if self.nat.step == 0 || self.known.contains(&to) {
            return;
        }
        if self.known.len() >= DESTINATIONS {
            self.known.pop_front();
        }
        self.known.push_back(to);
        self.nat.newest = self.nat.newest.wrapping_add_signed(self.nat.step);
    }

    /// `from` sees us at `mapped`. If that is the newest destination, its port is the newest, whatever was reckoned:
    /// others behind the same NAT take ports, too.
    pub fn note_seen(&mut self, from: SocketAddr, mapped: SocketAddr) {
        if self.nat.step != 0 && self.known.back() == Some(&from) {
            self.nat.newest = mapped.port();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EI: Option<Behaviour> = Some(Behaviour::EndpointIndependent);
    const AD: Option<Behaviour> = Some(Behaviour::AddressDependent);
    const APD: Option<Behaviour> = Some(Behaviour::AddressAndPortDependent);

    fn nat(mapping: Option<Behaviour>, filtering: Option<Behaviour>, step: i16) -> Nat {
        Nat { mapping, filtering, step, newest: 50_000 }
    }

    #[test]
    fn who_can_connect_is_as_in_the_table_of_the_page() {
        let kinds = [nat(EI, EI, 0), nat(EI, AD, 0), nat(EI, APD, 0), nat(APD, APD, 1), nat(APD, APD, 0)];
        let table = [
            [true, true, true, true, true],
            [true, true, true, true, true],
            [true, true, true, true, false],
            [true, true, true, true, false],
            [true, true, false, false, false],
        ];
        for (one, row) in kinds.iter().zip(table) {
            for (other, connects) in kinds.iter().zip(row) {
                assert_eq!(one.connects(other), connects, "{one:?} {other:?}");
            }
        }
        let unknown = Nat::default();
        assert!(unknown.connects(&unknown) && unknown.connects(&nat(APD, APD, 0)), "it costs three seconds");
    }

    #[test]
    fn ports_below_1024_and_above_65535_are_left_out() {
        assert_eq!(nat(APD, APD, -3).predicted(2), Some(49_994));
        let predicted = |newest, step, nth| Nat { newest, ..nat(APD, APD, step) }.predicted(nth);
        assert_eq!((predicted(65_534, 1, 1), predicted(65_534, 1, 2)), (Some(65_535), None));
        assert_eq!((predicted(1_026, -2, 1), predicted(1_026, -2, 2)), (Some(1_024), None));
        assert_eq!(predicted(50_000, 0, 1), None);
    }

    #[test]
    fn each_new_destination_takes_a_port_and_what_is_seen_corrects_the_reckoning() {
        let [server, one, other] = [1, 2, 3].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let mut mappings = Mappings::new(nat(APD, APD, 2), [server]);
        for to in [server, one, one, other] {
            mappings.note_sent(to);
        }
        assert_eq!(mappings.nat().newest, 50_004);
        mappings.note_seen(one, one);
        assert_eq!(mappings.nat().newest, 50_004, "an older mapping says nothing");
        mappings.note_seen(other, SocketAddr::from(([192, 0, 2, 9], 50_010)));
        assert_eq!(mappings.nat().newest, 50_010);
    }
}
