//! The type of a NAT (docs/punch.md, by RFC 5780), and the step of its ports.
//!
//! [`Detector`] does the first. The step takes three mappings made one right after the other: those of the detector's last
//! two tests, and a third to the one address and port of the server that it has not asked.

use std::net::SocketAddr;

use shoal_stun::message::{
    Builder, ChangedAddress, Class, MappedAddress, Message, Method, OtherAddress, XorMappedAddress,
};
use shoal_stun::nat::{Behaviour, Detector, Dialect, MAX_REQUEST, Report, Timing};

use crate::nat::Nat;
use crate::random::Random;
use crate::request::{Exchange, Next};

/// Finds out about the NAT between a socket and a server; then about its step, if it may have one.
#[derive(Debug)]
pub struct Discovery {
    detector: Detector,
    server: SocketAddr,
    other: Option<SocketAddr>,
    random: Random,
    /// Where the last request went.
    asked: SocketAddr,
    /// Where each destination sees us, in the order of the mappings.
    seen: Vec<(SocketAddr, SocketAddr)>,
    last: Option<(SocketAddr, Exchange)>,
    found: Option<Found>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// As far as RFC 5780 goes.
    pub report: Report,
    /// What other peers are told.
    pub nat: Nat,
    /// Where packets were sent to, in this order.
    pub destinations: Vec<SocketAddr>,
}

impl Discovery {
    /// As [`Detector::new`].
    #[must_use]
    pub fn new(dialect: Dialect, server: SocketAddr, local: SocketAddr, timing: Timing, mut random: Random) -> Self {
        Self {
            detector: Detector::new(dialect, server, local, random.word(), timing),
            server,
            other: None,
            random,
            asked: server,
            seen: Vec::new(),
            last: None,
            found: None,
        }
    }

    /// What was found, once it is over.
    #[must_use]
    pub const fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    /// When to call [`poll_transmit`](Self::poll_transmit) next; `None` when it is over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        match (&self.found, &self.last) {
            (Some(_), _) => None,
            (None, Some((_, exchange))) => Some(exchange.due()),
            // Over, but what comes of it is not known yet: at once.
            (None, None) => Some(self.detector.next_deadline().unwrap_or(0)),
        }
    }

    /// Writes a request to `out`, of [`MAX_REQUEST`] bytes, if one is due: gives where to send it, and its length. Call it
    /// until it gives nothing.
    pub fn poll_transmit(&mut self, now: u64, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        if self.found.is_some() {
            return None;
        }
        if self.last.is_none() {
            if let Some((to, length)) = self.detector.poll_transmit(now, out) {
                self.asked = to;
                return Some((to, length));
            }
            let report = *self.detector.report()?;
            match self.other {
                Some(other) if report.mapping == Some(Behaviour::AddressAndPortDependent) => {
                    let to = SocketAddr::new(self.server.ip(), other.port());
                    self.last = Some((to, Exchange::new(self.random.transaction(), now)));
                }
                _ => self.finish(report),
            }
        }
        let (to, exchange) = self.last.as_mut()?;
        match exchange.poll(now) {
            Next::Wait => None,
            Next::Send => {
                let length = Builder::new(out, Method::BINDING, Class::Request, *exchange.id()).finish().ok()?;
                Some((*to, length))
            }
            Next::GiveUp => {
                let report = *self.detector.report()?;
                self.finish(report);
                None
            }
        }
    }

    /// Takes a datagram; true when it was an answer to this discovery.
    pub fn handle(&mut self, now: u64, from: SocketAddr, datagram: &[u8]) -> bool {
        let Ok(message) = Message::parse(datagram) else { return false };
        let xored = message.read::<XorMappedAddress>().ok().flatten().map(|address| address.0);
        let plain = || message.read::<MappedAddress>().ok().flatten().map(|address| address.0);
        let mapped = xored.or_else(plain);
        if let Some((to, exchange)) = &self.last {
            let ours = self.found.is_none() && message.transaction_id() == exchange.id();
            if !ours || message.class() != Class::Success || from != *to {
                return false;
            }
            self.seen.extend(mapped.map(|mapped| (*to, mapped)));
            if let Some(report) = self.detector.report().copied() {
                self.finish(report);
            }
            return true;
        }
        if !self.detector.handle(now, from, datagram) {
            return false;
        }
        let modern = message.read::<OtherAddress>().ok().flatten().map(|other| other.0);
        let classic = message.read::<ChangedAddress>().ok().flatten().map(|other| other.0);
        self.other = self.other.or(modern).or(classic);
        if let Some(mapped) = mapped
            && self.seen.iter().all(|(destination, _)| *destination != self.asked)
        {
            self.seen.push((self.asked, mapped));
        }
        true
    }

    fn finish(&mut self, report: Report) {
        let mut nat = Nat::of(&report);
        if let [.., (_, first), (_, second), (_, third)] = self.seen.as_slice()
            && self.last.is_some()
        {
            let step = second.port().wrapping_sub(first.port()) as i16;
            if step != 0 && third.port().wrapping_sub(second.port()) as i16 == step {
                nat = Nat { step, newest: third.port(), ..nat };
            }
        }
        let destinations = self.seen.iter().map(|(destination, _)| *destination).collect();
        self.found = Some(Found { report, nat, destinations });
    }
}

const _: () = assert!(MAX_REQUEST <= crate::wire::MAX_MESSAGE, "one buffer is enough for everything");

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use shoal_stun::discovery::{Answer, Endpoints, Other, answer};

    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// What is found behind a symmetric NAT whose `nth` mapping has the port `port(nth)`, if `lost` requests are lost first.
    fn found(dialect: Dialect, port: impl Fn(u16) -> u16, mut lost: u32) -> Found {
        let [server, second] = [socket("192.0.2.1:3478"), socket("192.0.2.2:3479")];
        let endpoints = Endpoints { own: server.ip(), other: Other::Here(second.ip()), ports: [3478, 3479] };
        let mut discovery =
            Discovery::new(dialect, server, socket("10.0.0.5:4000"), Timing::default(), Random::new([1, 2]));
        let (mut mappings, mut now) = (HashMap::new(), 0);
        let (mut request, mut response) = ([0; MAX_REQUEST], [0; 512]);
        loop {
            while let Some((to, length)) = discovery.poll_transmit(now, &mut request) {
                let nth = mappings.len() as u16;
                let outside =
                    SocketAddr::new("198.51.100.7".parse().unwrap(), *mappings.entry(to).or_insert(port(nth)));
                let answered = answer(&request[..length], to, outside, &endpoints, &mut response);
                let Answer::Send { from, length, .. } = answered else { panic!("{answered:?}") };
                // Only whoever was asked gets in.
                if from == to && lost == 0 {
                    assert!(discovery.handle(now, from, &response[..length]));
                }
                lost = lost.saturating_sub(1);
            }
            match discovery.next_deadline() {
                Some(deadline) => now = deadline.max(now),
                None => return discovery.found().unwrap().clone(),
            }
        }
    }

    #[test]
    fn a_step_is_found_in_both_dialects_and_in_spite_of_losses() {
        for dialect in [Dialect::Modern, Dialect::Classic] {
            for (lost, step) in [(0, 1), (1, 2), (2, -3)] {
                let found = found(dialect, |nth| 30_000_u16.wrapping_add_signed(step * nth as i16), lost);
                let newest = 30_000_u16.wrapping_add_signed(3 * step);
                assert_eq!((found.nat.step, found.nat.newest), (step, newest), "{dialect:?}");
                assert_eq!(found.destinations.len(), 4);
            }
        }
    }

    #[test]
    fn ports_without_a_rule_have_no_step() {
        for ports in [[1, 5, 6, 8], [1, 9, 8, 9], [1, 2, 3, 3]] {
            let found = found(Dialect::Modern, |nth| 30_000 + ports[usize::from(nth)], 0);
            assert_eq!((found.nat.step, found.nat.newest), (0, 0), "{ports:?}");
            assert_eq!(found.nat.mapping, Some(Behaviour::AddressAndPortDependent));
        }
    }
}
