//! NATs by RFC 4787's words.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::public;

/// What stands in front of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Firewall,
    FullCone,
    AddressRestricted,
    PortRestricted,
    Symmetric,
    Sequential(i16),
    Blocked,
}

/// One at work.
pub(crate) struct NatBox {
    kind: Kind,
    nth: u8,
    /// Outside ports; by destination, where that matters.
    mappings: HashMap<Option<SocketAddr>, u16>,
    next: u16,
    /// Outside port and whom it has sent to.
    sent: HashSet<(u16, SocketAddr)>,
}

impl NatBox {
    pub(crate) fn new(kind: Kind, nth: u8) -> Self {
        Self { kind, nth, mappings: HashMap::new(), next: 30_000, sent: HashSet::new() }
    }

    /// The address of the peer's socket.
    pub(crate) fn local(&self) -> SocketAddr {
        match self.kind {
            Kind::Open | Kind::Firewall => SocketAddr::new(self.outside(), 4_000),
            _ => SocketAddr::from((Ipv4Addr::new(10, 0, self.nth, 2), 4_000)),
        }
    }

    pub(crate) fn outside(&self) -> IpAddr {
        public(100 + self.nth).into()
    }

    /// Somebody else behind it makes so many mappings.
    pub(crate) fn take_ports(&mut self, count: u16) {
        for _ in 0..count {
            self.next_port(0);
        }
    }

    /// Where a packet seems to come from outside; nothing if it does not get out.
    pub(crate) fn outward(&mut self, now: u64, local: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let port = match self.kind {
            Kind::Blocked => return None,
            Kind::Open | Kind::Firewall => local.port(),
            Kind::FullCone | Kind::AddressRestricted | Kind::PortRestricted => 50_000,
            Kind::Symmetric | Kind::Sequential(_) => match self.mappings.get(&Some(to)) {
                Some(port) => *port,
                None => {
                    let port = self.next_port(now);
                    self.mappings.insert(Some(to), port);
                    port
                }
            },
        };
        self.sent.insert((port, to));
        Some(SocketAddr::new(self.outside(), port))
    }

    /// All destinations.
    pub(crate) fn sent_to(&self) -> impl Iterator<Item = SocketAddr> {
        self.sent.iter().map(|(_, to)| *to)
    }

    fn next_port(&mut self, now: u64) -> u16 {
        let port = self.next;
        self.next = match self.kind {
            Kind::Sequential(step) => self.next.wrapping_add_signed(step),
            // Nothing that anybody would guess.
            _ => 1_024 + (shoal_packet::hash_words(now, &[port.into()]) % 60_000) as u16,
        };
        port
    }

    /// Whether a packet that has come to the outside gets in.
    pub(crate) fn lets_in(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let mut sent = self.sent.iter().filter(|(port, _)| *port == to.port()).map(|(_, sent)| *sent);
        match self.kind {
            Kind::Blocked => false,
            Kind::Open => to.port() == self.local().port(),
            Kind::FullCone => sent.next().is_some(),
            Kind::AddressRestricted => sent.any(|sent| sent.ip() == from.ip()),
            Kind::Firewall | Kind::PortRestricted | Kind::Symmetric | Kind::Sequential(_) => {
                sent.any(|sent| sent == from)
            }
        }
    }
}
