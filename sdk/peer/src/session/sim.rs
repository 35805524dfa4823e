//! A world to run sessions in: NATs, a node, a relay, and a clock that only moves when nothing is left to do.

mod nat;
mod node;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

pub(crate) use nat::{Kind, NatBox};
pub(crate) use node::{Node, TICKET, USER, password};
use shoal_stun::nat::Timing;

use super::{Event, Session, Settings, Task};
use crate::random::Random;
use crate::register::Identity;
use crate::turn::{Account, MAX_DATAGRAM};
use crate::wire::PeerId;

/// Milliseconds that a packet takes from one end to the other: to the outside of a NAT, and behind it, half of it each.
pub(crate) const DELAY_MS: u64 = 10;

/// Milliseconds after which a world is over, whatever goes on in there.
const END_MS: u64 = 120_000;

/// A peer and what is in front of it.
pub(crate) struct Host {
    pub(crate) session: Session,
    pub(crate) events: Vec<Event>,
    local: SocketAddr,
    pub(crate) nat: NatBox,
}

/// A packet on its way, as it was sent by its host: NATs come after.
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// Everything.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) node: Node,
    pub(crate) hosts: Vec<Host>,
    /// Of 1000 packets, how many are lost.
    pub(crate) lost: u64,
    /// How many packets hosts have sent.
    pub(crate) sent: u64,
    flying: BTreeMap<(u64, u64), Packet>,
    count: u64,
    random: Random,
}

/// What a peer of the world is like.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) channel: &'static str,
    pub(crate) ticket: Option<&'static str>,
    pub(crate) turn: bool,
    /// Instead of the right one.
    pub(crate) password: Option<&'static str>,
    pub(crate) relay_only: bool,
    pub(crate) discovers: bool,
}

impl From<Kind> for Plan {
    fn from(kind: Kind) -> Self {
        Self { kind, channel: "films", ticket: None, turn: true, password: None, relay_only: false, discovers: true }
    }
}

/// The id of the `nth` host.
pub(crate) fn id(nth: usize) -> PeerId {
    PeerId([nth as u8 + 1; 20])
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: 0,
            node: Node::new([1, 2].map(public)),
            hosts: Vec::new(),
            lost: 0,
            sent: 0,
            flying: BTreeMap::new(),
            count: 0,
            random: Random::new([seed, 77]),
        }
    }

    /// Adds a peer, which begins now.
    pub(crate) fn join(&mut self, plan: &Plan, task: Task) {
        let nth = self.hosts.len() as u8;
        let nat = NatBox::new(plan.kind, nth);
        let local = nat.local();
        let settings = Settings {
            identity: Identity {
                node: self.node.address(),
                peer: id(self.hosts.len()),
                channel: plan.channel.to_owned(),
                ticket: plan.ticket.map(str::to_owned),
            },
            local,
            turn: plan.turn.then(|| Account {
                server: self.node.address(),
                user: USER.to_owned(),
                password: plan.password.map_or_else(password, str::to_owned),
            }),
            relay_only: plan.relay_only,
            discovery: plan.discovers.then(Timing::default),
            task,
        };
        let seed = [self.random.word(), self.random.word()];
        let session = Session::new(settings, seed, self.now);
        self.hosts.push(Host { session, events: Vec::new(), local, nat });
    }

    /// Goes on until all sessions are over, or `enough` says so.
    pub(crate) fn run(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        while !enough(self) && self.now < END_MS {
            self.send();
            if self.hosts.iter().all(|host| host.session.is_over()) {
                return;
            }
            let packet = self.flying.first_key_value().map(|((at, _), _)| *at);
            let timers = self.hosts.iter().filter_map(|host| host.session.next_deadline());
            let next =
                timers.chain(packet).chain(self.node.next_deadline()).min().expect("somebody waits for something");
            self.now = next.max(self.now + u64::from(next <= self.now && packet.is_none_or(|at| at > self.now)));
            self.deliver();
        }
    }

    fn send(&mut self) {
        let mut out = vec![0; MAX_DATAGRAM];
        for nth in 0..self.hosts.len() {
            while let Some((to, length)) = self.hosts[nth].session.poll_transmit(self.now, &mut out) {
                self.sent += 1;
                let host = &mut self.hosts[nth];
                if let Some(from) = host.nat.outward(self.now, host.local, to) {
                    self.fly(from, to, out[..length].to_vec());
                }
            }
            while let Some(event) = self.hosts[nth].session.poll_event() {
                self.hosts[nth].events.push(event);
            }
        }
        for (from, to, bytes) in self.node.poll_transmit(self.now) {
            self.fly(from, to, bytes);
        }
    }

    fn fly(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if self.random.word() % 1_000 < self.lost {
            return;
        }
        self.count += 1;
        self.flying.insert((self.now + DELAY_MS, self.count), Packet { from, to, bytes });
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.flying.first_entry()
            && entry.key().0 <= self.now
        {
            let Packet { from, to, bytes } = entry.remove();
            if self.node.has(to.ip()) {
                for (from, to, bytes) in self.node.handle(self.now, from, to, &bytes) {
                    self.fly(from, to, bytes);
                }
            } else if let Some(host) = self.hosts.iter_mut().find(|host| host.nat.outside() == to.ip())
                && host.nat.lets_in(from, to)
            {
                host.session.handle(self.now, from, &bytes);
            }
        }
    }
}

/// The address of the world's net with this last byte: a public one, as relays want it.
fn public(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(20, 0, 0, last)
}
