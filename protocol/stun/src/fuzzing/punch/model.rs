//! What the node's side of punching is, said as simply as possible: maps, and the rules of docs/punch.md one after the other. It
//! knows nothing of shards' tables, secrets or speed.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::world::{LIMITS, Rules, SHARDS, is_relay, shard};
use crate::message::{
    AttributeType, ChannelId, Class, Fingerprint, Lifetime, Message, Method, Nat, Nonce, PeerId, Registration, Role,
    Target, Ticket, TransactionId, XorRelayedAddress,
};
use crate::punch::{INTRODUCTION_MS, LIFETIME_MS, MIN_REQUEST, Now, Rate, Standing, can_connect};
use crate::turn::address_key;

/// A channel's id and a peer's.
pub type Name = (String, [u8; 20]);

/// What a datagram means.
#[derive(Debug, Clone)]
struct Request {
    length: usize,
    introduces: bool,
    unknown: usize,
    attributes: Option<Attributes>,
}

#[derive(Debug, Clone)]
struct Attributes {
    peer: [u8; 20],
    target: Option<[u8; 20]>,
    channel: Option<String>,
    ticket: Option<String>,
    nat: Option<Nat>,
    relayed: Option<SocketAddr>,
    registration: Option<[u8; 16]>,
    ends: bool,
    nonce: Option<String>,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// A success response to Register.
    Registered {
        /// LIFETIME.
        lifetime_s: u32,
        /// REGISTRATION, where it is not made now.
        registration: Option<[u8; 16]>,
        /// Whose.
        name: Name,
    },
    /// The same with LIFETIME 0.
    Ended,
    /// A success response to Introduce.
    Introduced {
        /// XOR-PEER-ADDRESS.
        peer: Option<SocketAddr>,
        /// XOR-RELAYED-ADDRESS.
        relayed: Option<SocketAddr>,
        /// NAT.
        nat: Nat,
        /// Of PUNCH.
        start_ms: u64,
        /// Of PUNCH.
        role: Role,
        /// Of PUNCH, where it is not made now.
        key: Option<[u8; 16]>,
    },
    /// An error response.
    Error(u16),
    /// An answer that was waited for.
    Done,
    /// Nothing.
    Nothing,
}

/// How full a bucket is that leaks at a rate: in microseconds of it.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    level_us: u64,
    at_ms: u64,
}

impl Bucket {
    fn has_room(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.level_us = self.level_us.saturating_sub((now_ms - self.at_ms) * 1_000);
        self.at_ms = now_ms;
        let drop_us = 1_000_000 / u64::from(rate.per_second);
        self.level_us + drop_us <= drop_us * u64::from(rate.burst)
    }

    fn add(&mut self, rate: Rate) {
        self.level_us += 1_000_000 / u64::from(rate.per_second);
    }
}

/// A registration.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it is.
    pub client: SocketAddr,
    /// Where it sent to last.
    pub server: SocketAddr,
    /// What it is behind.
    pub nat: Nat,
    /// On a relay.
    pub relayed: Option<SocketAddr>,
    /// What it was given.
    pub registration: [u8; 16],
    /// When it is over.
    pub expires: u64,
    session: Option<String>,
    ticket_ends: u64,
    asked: Bucket,
    introduced: Bucket,
    /// No two are alike, also of one name.
    serial: u64,
}

/// Two on the way to each other.
#[derive(Debug, Clone)]
struct Introduction {
    asker: (Name, u64),
    target: (Name, u64),
    /// Relayed addresses of the two, and whether they are told no others.
    terms: (Option<SocketAddr>, Option<SocketAddr>, bool),
    key: [u8; 16],
    starts: u64,
    ends: u64,
    due: Option<u64>,
    sent: usize,
    answered: bool,
    transaction: Option<TransactionId>,
}

/// An Introduced request that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Telling {
    /// From where.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// The receiver's REGISTRATION.
    pub registration: [u8; 16],
    /// TARGET.
    pub target: [u8; 20],
    /// XOR-PEER-ADDRESS.
    pub peer: Option<SocketAddr>,
    /// XOR-RELAYED-ADDRESS.
    pub relayed: Option<SocketAddr>,
    /// NAT.
    pub nat: Nat,
    /// Of PUNCH.
    pub key: [u8; 16],
    /// Of PUNCH.
    pub start_ms: u64,
}

/// Everything there is.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// By channel and peer id.
    pub peers: BTreeMap<Name, Peer>,
    introductions: Vec<Introduction>,
    serial: u64,
}

impl Request {
    fn read(message: &Message<'_>) -> Self {
        const KNOWN: [AttributeType; 10] = [
            AttributeType(0x000d),
            AttributeType(0x0015),
            AttributeType(0x0016),
            AttributeType(0x0026),
            AttributeType(0x7a01),
            AttributeType(0x7a02),
            AttributeType(0x7a03),
            AttributeType(0x7a04),
            AttributeType(0x7a05),
            AttributeType(0x7a06),
        ];
        Self {
            length: message.as_bytes().len(),
            introduces: message.method() == Method::INTRODUCE,
            unknown: message.unknown_required(&KNOWN).count(),
            attributes: Attributes::read(message),
        }
    }
}

impl Attributes {
    fn read(message: &Message<'_>) -> Option<Self> {
        Some(Self {
            peer: message.read::<PeerId>().ok()??.0,
            target: message.read::<Target>().ok()?.map(|target| target.0),
            channel: message.read::<ChannelId<'_>>().ok()?.map(|channel| channel.0.into()),
            ticket: message.read::<Ticket<'_>>().ok()?.map(|ticket| ticket.0.into()),
            nat: message.read().ok()?,
            relayed: message
                .read::<XorRelayedAddress>()
                .ok()?
                .map(|XorRelayedAddress(relayed)| SocketAddr::new(relayed.ip().to_canonical(), relayed.port())),
            registration: message.read::<Registration>().ok()?.map(|registration| registration.0),
            ends: message.read::<Lifetime>().ok()?.is_some_and(|lifetime| lifetime.0 == 0),
            nonce: message.read::<Nonce<'_>>().ok()?.map(|nonce| nonce.0.into()),
        })
    }
}

impl Model {
    /// Time passes.
    pub fn expire(&mut self, now_ms: u64) {
        self.peers.retain(|_, peer| peer.expires > now_ms);
    }

    /// What a datagram must come to. `nonce_is_good` says so of one for its sender.
    pub fn apply(
        &mut self,
        now: Now,
        client: SocketAddr,
        server: SocketAddr,
        bytes: &[u8],
        rules: &Rules,
        nonce_is_good: impl Fn(&str) -> bool,
    ) -> Expected {
        let Ok(message) = Message::parse(bytes) else { return Expected::Nothing };
        if message.transaction_id().is_classic() || message.fingerprint() != Fingerprint::Right {
            return Expected::Nothing;
        }
        self.expire(now.ms);
        match (message.method(), message.class()) {
            (Method::REGISTER | Method::INTRODUCE, Class::Request) => {}
            (Method::INTRODUCED, Class::Success | Class::Error) => {
                return self.answer(client, message.transaction_id());
            }
            _ => return Expected::Nothing,
        }
        let request = Request::read(&message);
        let expected = self.request(now, client, server, &request, rules, nonce_is_good);
        // An answer that would be longer than the request is none.
        let least = match expected {
            Expected::Error(401 | 438) => MIN_REQUEST,
            Expected::Error(420) => 40 + (2 * request.unknown.min(16)).next_multiple_of(4),
            Expected::Error(_) => 36,
            _ => 0,
        };
        if least > request.length { Expected::Nothing } else { expected }
    }

    fn answer(&mut self, client: SocketAddr, transaction: &TransactionId) -> Expected {
        let found = self.introductions.iter_mut().find(|known| known.transaction.as_ref() == Some(transaction));
        let Some(introduction) = found else { return Expected::Nothing };
        let (name, serial) = &introduction.target;
        if self.peers.get(name).is_none_or(|peer| peer.serial != *serial || peer.client != client) {
            return Expected::Nothing;
        }
        introduction.answered = true;
        introduction.due = None;
        Expected::Done
    }

    fn request(
        &mut self,
        now: Now,
        client: SocketAddr,
        server: SocketAddr,
        request: &Request,
        rules: &Rules,
        nonce_is_good: impl Fn(&str) -> bool,
    ) -> Expected {
        if request.length < if request.introduces { 112 } else { 80 } {
            return Expected::Error(400);
        }
        if request.unknown > 0 {
            return Expected::Error(420);
        }
        let Some(asked) = &request.attributes else { return Expected::Error(400) };
        if request.introduces && asked.target.is_none_or(|target| target == asked.peer) {
            return Expected::Error(400);
        }
        let own = self.peers.iter().find(|((channel, id), peer)| {
            asked.registration == Some(peer.registration)
                && *id == asked.peer
                && peer.client == client
                && asked.channel.as_ref().is_none_or(|asked| asked == channel)
        });
        let own = own.map(|(name, _)| name.clone());
        if request.introduces {
            return match (own, asked.target) {
                (Some(name), Some(target)) => self.introduce(now, &name, target, rules),
                _ => Expected::Error(401),
            };
        }
        let Some(name) = own else { return self.register(now, client, server, asked, rules, nonce_is_good) };
        if asked.ends {
            self.peers.remove(&name);
            return Expected::Ended;
        }
        if !asked.relayed.is_none_or(is_relay) {
            return Expected::Error(403);
        }
        let admission = match &asked.ticket {
            None => None,
            Some(ticket) => match rules.admit(&name.0, Some(ticket), now.unix) {
                Err(_) => return Expected::Error(403),
                Ok(admission) => Some(admission),
            },
        };
        if rules.standing(&name.0) == Standing::Gone {
            self.peers.remove(&name);
            return Expected::Error(403);
        }
        self.renew(now, name, server, asked, admission)
    }

    fn register(
        &mut self,
        now: Now,
        client: SocketAddr,
        server: SocketAddr,
        asked: &Attributes,
        rules: &Rules,
        nonce_is_good: impl Fn(&str) -> bool,
    ) -> Expected {
        match &asked.nonce {
            None => return Expected::Error(401),
            Some(nonce) if !nonce_is_good(nonce) => return Expected::Error(438),
            Some(_) => {}
        }
        if asked.ends {
            return Expected::Error(401);
        }
        let Some(channel) = &asked.channel else {
            return Expected::Error(if asked.registration.is_some() { 401 } else { 400 });
        };
        if !asked.relayed.is_none_or(is_relay) {
            return Expected::Error(403);
        }
        let Ok(admission) = rules.admit(channel, asked.ticket.as_deref(), now.unix) else {
            return Expected::Error(403);
        };
        let name = (channel.clone(), asked.peer);
        let mut others = self.peers.clone();
        if let Some(known) = others.remove(&name) {
            if known.client == client {
                return self.renew(now, name, server, asked, Some(admission));
            }
            let same_session = admission.0.is_some() && admission.0 == known.session;
            if !same_session && asked.registration != Some(known.registration) {
                return Expected::Error(403);
            }
        }
        let beside = others.iter().filter(|((other, _), _)| shard(other) == shard(channel));
        let near = beside.clone().filter(|(_, peer)| address_key(peer.client.ip()) == address_key(client.ip()));
        if beside.count() >= LIMITS.registrations || near.count() >= LIMITS.registrations_per_address as usize {
            return Expected::Error(508);
        }
        let (session, ticket_ends) = (admission.0, ends(now, admission.1));
        let expires = ticket_ends.min(now.ms + LIFETIME_MS);
        self.serial += 1;
        let peer = Peer {
            client,
            server,
            nat: asked.nat.unwrap_or_default(),
            relayed: asked.relayed,
            registration: [0; 16],
            expires,
            session,
            ticket_ends,
            asked: Bucket::default(),
            introduced: Bucket::default(),
            serial: self.serial,
        };
        self.peers.insert(name.clone(), peer);
        Expected::Registered { lifetime_s: seconds(expires - now.ms), registration: None, name }
    }

    fn renew(
        &mut self,
        now: Now,
        name: Name,
        server: SocketAddr,
        asked: &Attributes,
        admission: Option<(Option<String>, Option<u64>)>,
    ) -> Expected {
        let Some(peer) = self.peers.get_mut(&name) else { return Expected::Nothing };
        peer.server = server;
        peer.nat = asked.nat.unwrap_or(peer.nat);
        peer.relayed = asked.relayed;
        if let Some((session, last)) = admission {
            peer.session = session;
            peer.ticket_ends = ends(now, last);
        }
        peer.expires = peer.ticket_ends.min(now.ms + LIFETIME_MS);
        let (lifetime_s, registration) = (seconds(peer.expires - now.ms), Some(peer.registration));
        Expected::Registered { lifetime_s, registration, name }
    }

    fn introduce(&mut self, now: Now, name: &Name, target: [u8; 20], rules: &Rules) -> Expected {
        let standing = rules.standing(&name.0);
        if standing == Standing::Gone {
            self.peers.remove(name);
            return Expected::Error(403);
        }
        let only = standing == Standing::RelayOnly;
        let other = (name.0.clone(), target);
        let (Some(own), found) = (self.peers.get(name).cloned(), self.peers.get(&other).cloned()) else {
            return Expected::Nothing;
        };
        let asker = (name.clone(), own.serial);
        let mut old = None;
        if let Some(peer) = &found {
            let target = (other.clone(), peer.serial);
            let forth = (own.relayed, peer.relayed, only);
            let back = (peer.relayed, own.relayed, only);
            let same = |known: &Introduction| {
                known.asker == asker && known.target == target || known.asker == target && known.target == asker
            };
            self.introductions.retain(|known| !same(known) || known.ends > now.ms);
            old = self.introductions.iter().position(same);
            if let Some(known) = old.map(|at| &self.introductions[at])
                && known.terms == if known.asker == asker { forth } else { back }
            {
                return Expected::Introduced {
                    peer: Some(peer.client).filter(|_| !only),
                    relayed: peer.relayed,
                    nat: peer.nat,
                    start_ms: known.starts.saturating_sub(now.ms),
                    role: if known.asker == asker { Role::Controlling } else { Role::Controlled },
                    key: Some(known.key),
                };
            }
        }
        let Some(counted) = self.peers.get_mut(name) else { return Expected::Nothing };
        if !counted.asked.has_room(LIMITS.introductions_per_peer, now.ms) {
            return Expected::Error(429);
        }
        counted.asked.add(LIMITS.introductions_per_peer);
        let under_way = self.introductions.iter().filter(|known| shard(&known.asker.0.0) == shard(&name.0)).count();
        let Some(peer) = self.peers.get_mut(&other) else { return Expected::Error(404) };
        if !has_way(&own, peer, only) {
            return Expected::Error(409);
        }
        if !peer.introduced.has_room(LIMITS.introductions_per_target, now.ms) {
            return Expected::Error(429);
        }
        if old.is_none() && under_way >= LIMITS.introductions {
            return Expected::Error(508);
        }
        peer.introduced.add(LIMITS.introductions_per_target);
        if let Some(old) = old {
            self.introductions.remove(old);
        }
        self.introductions.push(Introduction {
            asker,
            target: (other, peer.serial),
            terms: (own.relayed, peer.relayed, only),
            key: [0; 16],
            starts: now.ms + 200,
            ends: now.ms + INTRODUCTION_MS,
            due: Some(now.ms),
            sent: 0,
            answered: false,
            transaction: None,
        });
        let (client, relayed, nat) = (peer.client, peer.relayed, peer.nat);
        let peer = Some(client).filter(|_| !only);
        Expected::Introduced { peer, relayed, nat, start_ms: 200, role: Role::Controlling, key: None }
    }

    /// The node has made a REGISTRATION.
    pub fn learn_registration(&mut self, name: &Name, registration: [u8; 16]) {
        assert!(self.peers.values().all(|peer| peer.registration != registration), "made before");
        self.peers.get_mut(name).expect("it was registered just now").registration = registration;
    }

    /// The node has made a key for the newest introduction.
    pub fn learn_key(&mut self, key: [u8; 16]) {
        assert!(self.introductions.iter().all(|known| known.key != key), "made before");
        self.introductions.last_mut().expect("it was made just now").key = key;
    }

    /// The node has told a target by a transaction of this id: the same as before.
    pub fn learn_transaction(&mut self, key: [u8; 16], transaction: TransactionId) {
        let known = self.introductions.iter_mut().find(|known| known.key == key).expect("an introduction");
        assert!(known.transaction.is_none_or(|before| before == transaction));
        known.transaction = Some(transaction);
    }

    /// The node is asked what is due of a shard.
    pub fn poll(&mut self, now_ms: u64, of: u16) -> Vec<Telling> {
        self.expire(now_ms);
        let mut all = Vec::new();
        self.introductions.retain(|known| shard(&known.asker.0.0) != of || known.ends > now_ms);
        for known in self.introductions.iter_mut().filter(|known| shard(&known.asker.0.0) == of) {
            if known.due.is_none_or(|due| due > now_ms) {
                continue;
            }
            known.due = [100, 100, 200].get(known.sent).map(|gap| now_ms + gap);
            known.sent += 1;
            let live = |(name, serial): &(Name, u64)| self.peers.get(name).filter(|peer| peer.serial == *serial);
            let (Some(asker), Some(target)) = (live(&known.asker), live(&known.target)) else { continue };
            let (_, _, only) = known.terms;
            if known.terms != (asker.relayed, target.relayed, only) {
                continue;
            }
            all.push(Telling {
                from: target.server,
                to: target.client,
                registration: target.registration,
                target: known.asker.0.1,
                peer: Some(asker.client).filter(|_| !only),
                relayed: asker.relayed,
                nat: asker.nat,
                key: known.key,
                start_ms: known.starts.saturating_sub(now_ms),
            });
        }
        all
    }

    /// Registrations and introductions of each shard.
    #[must_use]
    pub fn counts(&self) -> Vec<(usize, usize)> {
        let registrations = |of| self.peers.keys().filter(|name| shard(&name.0) == of).count();
        let introductions = |of| self.introductions.iter().filter(|known| shard(&known.asker.0.0) == of).count();
        (0..SHARDS).map(|of| (registrations(of), introductions(of))).collect()
    }

    /// When the next thing happens by itself.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let due = self.introductions.iter().map(|known| known.due.unwrap_or(known.ends));
        self.peers.values().map(|peer| peer.expires).chain(due).min()
    }
}

/// Through two relays, one, or none.
fn has_way(a: &Peer, b: &Peer, only: bool) -> bool {
    let ends = |peer: &Peer| {
        let own = Some(peer.client).filter(|_| !only);
        own.into_iter().chain(peer.relayed).map(|end| (end, Some(end) == peer.relayed)).collect::<Vec<_>>()
    };
    ends(a).iter().any(|(one, relayed)| {
        ends(b)
            .iter()
            .any(|(other, also)| one.is_ipv4() == other.is_ipv4() && (*relayed || *also || can_connect(&a.nat, &b.nat)))
    })
}

fn ends(now: Now, last: Option<u64>) -> u64 {
    last.map_or(u64::MAX, |last| now.ms + (last + 1 - now.unix) * 1_000)
}

fn seconds(ms: u64) -> u32 {
    ms.div_ceil(1_000) as u32
}
