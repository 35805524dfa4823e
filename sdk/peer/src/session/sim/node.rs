//! The node's side, as docs/punch.md describes it and no more: registrations and introductions; with the real NAT discovery
//! and the real TURN server beside it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use shoal_stun::credentials::{
    Authenticator, NonceKey, Nonces, PeerRules, Secret, Tenant, TenantId, Tenants, time_limited_password,
};
use shoal_stun::discovery::{Answer, Endpoints, Other, answer};
use shoal_stun::message::{
    Builder, Class, ErrorCode, Fingerprint, Lifetime, Message, Method, Nonce, TransactionId, Value, XorMappedAddress,
    XorPeerAddress, XorRelayedAddress,
};
use shoal_stun::turn::{
    Config, FiveTuple, FromClient, Limits, LocalQuota, MAX_REPLY, Now, OpenError, QuotaLimits, RelayAddress, RelayId,
    Relays, Server, Transport,
};

use crate::nat::Nat;
use crate::wire::{
    Channel, INTRODUCE, INTRODUCED, MIN_REQUEST, PeerId, Punch, PunchKey, REGISTER, Registration, Role, Target, Ticket,
};

/// The ticket that the channel `club` asks for.
pub(crate) const TICKET: &str = "a-good-ticket";
/// Of the relay; good for three thousand years.
pub(crate) const USER: &str = "99999999999:viewer";
const SECRET: &[u8] = b"secret";

/// Milliseconds from an introduction to its start.
const START_MS: u64 = 60;
/// Milliseconds that an introduction lasts.
const INTRODUCTION_MS: u64 = 4_000;
const LIFETIME_S: u32 = 30;
const PORT: u16 = 3_478;

/// Source, destination, payload.
type Datagram = (SocketAddr, SocketAddr, Vec<u8>);

#[derive(Clone)]
struct Registered {
    address: SocketAddr,
    channel: String,
    nat: Nat,
    relayed: Option<SocketAddr>,
    proof: Registration,
    ends: u64,
}

/// An introduction that lasts.
struct Made {
    controlling: PeerId,
    controlled: PeerId,
    key: PunchKey,
    start: u64,
    /// What relayed addresses it was made with.
    relayed: [Option<SocketAddr>; 2],
}

/// An Introduced request that is not answered yet.
struct Open {
    to: SocketAddr,
    id: TransactionId,
    /// When it is sent, and what: the start comes nearer.
    repeated: VecDeque<(u64, Vec<u8>)>,
}

#[derive(Default)]
struct Sockets(BTreeMap<RelayId, SocketAddr>);

impl Relays for Sockets {
    fn open(&mut self, relay: RelayId, address: SocketAddr) -> Result<(), OpenError> {
        self.0.insert(relay, address);
        Ok(())
    }

    fn close(&mut self, relay: RelayId) {
        self.0.remove(&relay);
    }
}

pub(crate) struct Node {
    addresses: [Ipv4Addr; 2],
    peers: BTreeMap<PeerId, Registered>,
    open: Vec<Open>,
    made: Vec<Made>,
    server: Server<LocalQuota>,
    sockets: Sockets,
    count: u8,
    /// Introductions that are refused with 429 from now on.
    pub(crate) too_many: u32,
    /// How often each of these was refused: 401, 403, 404, 409, 429.
    pub(crate) refused: BTreeMap<u16, u32>,
    /// Registers that were granted.
    pub(crate) granted: u32,
    /// Whether it is dead.
    pub(crate) dead: bool,
    /// Payloads that were relayed.
    pub(crate) relayed: u32,
    /// Introductions that were made.
    pub(crate) introduced: u32,
}

impl Node {
    /// With two addresses; whoever is on the loopback net is good enough to be relayed to.
    pub(crate) fn new(addresses: [Ipv4Addr; 2]) -> Self {
        let [own, other] = addresses;
        let nonces = Nonces::new(vec![NonceKey { epoch: 1, secret: [7; 32] }], 600, true);
        let tenant = Tenant {
            name: String::new(),
            id: TenantId(0),
            secrets: vec![Secret::new(SECRET)],
            peers: PeerRules { allow: vec!["127.0.0.0/8".parse().unwrap()], deny: Vec::new() },
        };
        let config = Config {
            shard: 0,
            ipv4: Some(RelayAddress { bind: own, public: own }),
            ipv6: None,
            ports: 50_000..=50_999,
            node_ports: 50_000..=50_999,
            own_addresses: vec![own.into(), other.into()],
            limits: Limits { allocations: 100, ..Limits::default() },
            seed: [9; 32],
        };
        let tenants = Tenants::new(vec![tenant]).unwrap();
        let quota = LocalQuota::new(QuotaLimits { tenant: 100, user: 100, address: 100 });
        Self {
            addresses,
            peers: BTreeMap::new(),
            open: Vec::new(),
            made: Vec::new(),
            server: Server::new(config, Authenticator::new("shoal", nonces, true), Arc::new(tenants), quota),
            sockets: Sockets::default(),
            count: 0,
            too_many: 0,
            refused: BTreeMap::new(),
            granted: 0,
            dead: false,
            relayed: 0,
            introduced: 0,
        }
    }

    /// Where clients find it.
    pub(crate) fn address(&self) -> SocketAddr {
        (self.addresses[0], PORT).into()
    }

    /// Where it listens: for clients, and for peers of the relay.
    pub(crate) fn sockets(&self) -> Vec<SocketAddr> {
        let ports = [PORT, PORT + 1];
        let own = self.addresses.iter().flat_map(|ip| ports.map(|port| (*ip, port).into()));
        own.chain(self.sockets.0.values().copied()).collect()
    }

    /// Whether an address is one of its own.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        self.addresses.map(IpAddr::from).contains(&ip)
    }

    /// Forgets all registrations, as by a restart.
    pub(crate) fn forget(&mut self) {
        self.peers.clear();
        self.open.clear();
        self.made.clear();
    }

    /// Who is registered.
    pub(crate) fn knows(&self, peer: PeerId) -> bool {
        self.peers.contains_key(&peer)
    }

    /// Allocations at present.
    pub(crate) fn allocations(&self) -> usize {
        self.server.allocations()
    }

    /// When [`poll_transmit`](Self::poll_transmit) has something.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.open.iter().filter_map(|open| open.repeated.front().map(|(at, _)| *at)).min()
    }

    /// Introduced requests that are due.
    pub(crate) fn poll_transmit(&mut self, now: u64) -> Vec<Datagram> {
        let (address, mut sent) = (self.address(), Vec::new());
        for open in &mut self.open {
            while let Some((_, bytes)) = open.repeated.pop_front_if(|(at, _)| *at <= now) {
                sent.push((address, open.to, bytes));
            }
        }
        self.open.retain(|open| !open.repeated.is_empty());
        sent
    }

    /// Takes a packet for one of its addresses; gives what it sends for it.
    pub(crate) fn handle(&mut self, now: u64, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Vec<Datagram> {
        if self.dead {
            return Vec::new();
        }
        if let Some(relay) = self.sockets.0.iter().find(|(_, address)| **address == to).map(|(relay, _)| *relay) {
            let Ok(mut client) = self.server.handle_peer(now, relay, from, 1, bytes.len()) else { return Vec::new() };
            self.relayed += 1;
            let head = client.head(bytes.len() as u16);
            let packet = [head.as_bytes(), bytes, head.padding()].concat();
            return vec![(client.flow.server, client.flow.client, packet)];
        }
        let mut out = vec![0; MAX_REPLY.max(1_500)];
        if let Ok(message) = Message::parse(bytes) {
            match message.method() {
                Method::BINDING => {
                    let [own, other] = self.addresses.map(IpAddr::from);
                    let endpoints = Endpoints { own, other: Other::Here(other), ports: [PORT, PORT + 1] };
                    let Answer::Send { from: local, to, length, .. } = answer(bytes, to, from, &endpoints, &mut out)
                    else {
                        return Vec::new();
                    };
                    out.truncate(length);
                    return vec![(local, to, out)];
                }
                REGISTER | INTRODUCE | INTRODUCED => {
                    assert_eq!(message.fingerprint(), Fingerprint::Right, "{message:?}");
                    let Some(reply) = self.handle_punch(now, from, &message) else { return Vec::new() };
                    assert!(bytes.len() >= reply.len().max(MIN_REQUEST), "{message:?} may be answered by more");
                    return vec![(to, from, reply)];
                }
                _ => {}
            }
        }
        let flow = FiveTuple { client: from, server: to, transport: Transport::Udp };
        let now = Now { ms: now, unix: 1_800_000_000 + now / 1_000 };
        match self.server.handle_client(now, &flow, bytes, &mut self.sockets, &mut out) {
            FromClient::Forward(to_peer) => {
                self.relayed += 1;
                let from = self.sockets.0[&to_peer.relay];
                vec![(from, to_peer.peer, to_peer.data.to_vec())]
            }
            FromClient::Reply { length, .. } => vec![(to, from, out[..length].to_vec())],
            FromClient::Binding | FromClient::Dropped(_) => Vec::new(),
        }
    }

    fn handle_punch(&mut self, now: u64, from: SocketAddr, message: &Message<'_>) -> Option<Vec<u8>> {
        if message.method() == INTRODUCED {
            self.open.retain(|open| open.id != *message.transaction_id());
            return None;
        }
        self.peers.retain(|_, peer| peer.ends > now);
        let result = match message.method() {
            REGISTER => self.register(now, from, message),
            _ => self.introduce(now, from, message),
        };
        Some(result.unwrap_or_else(|code| {
            *self.refused.entry(code).or_default() += 1;
            reply(message, Class::Error, |builder| {
                builder.add(&ErrorCode { code, reason: "" });
                if code == 401 {
                    builder.add(&Nonce(&nonce(from)));
                }
            })
        }))
    }

    fn register(&mut self, now: u64, from: SocketAddr, message: &Message<'_>) -> Result<Vec<u8>, u16> {
        let peer: PeerId = message.read().unwrap().expect("PEER-ID is always there");
        let relayed = message.read::<XorRelayedAddress>().unwrap().map(|address| address.0);
        if relayed.is_some_and(|address| !self.sockets.0.values().any(|known| *known == address)) {
            return Err(403);
        }
        let proof = message.read::<Registration>().unwrap();
        if let (Some(proof), false) = (proof, message.has(Channel::TYPE)) {
            let known = self.peers.get_mut(&peer).filter(|known| known.proof == proof && known.address == from);
            let known = known.ok_or(401_u16)?;
            known.relayed = relayed;
            known.nat = message.read().unwrap().unwrap_or(known.nat);
            known.ends = now + u64::from(LIFETIME_S) * 1_000;
            if message.read::<Lifetime>().unwrap() == Some(Lifetime(0)) {
                known.ends = now;
            }
        } else {
            if message.read::<Nonce<'_>>().unwrap() != Some(Nonce(&nonce(from))) {
                return Err(401);
            }
            let Channel(channel) = message.read().unwrap().ok_or(400_u16)?;
            if channel == "club" && message.read().unwrap() != Some(Ticket(TICKET)) {
                return Err(403);
            }
            let older = self.peers.get(&peer);
            if older.is_some_and(|older| older.address != from && Some(older.proof) != proof) {
                return Err(403);
            }
            self.count += 1;
            let registered = Registered {
                address: from,
                channel: channel.to_owned(),
                nat: message.read().unwrap().ok_or(400_u16)?,
                relayed,
                proof: Registration([self.count; 16]),
                ends: now + u64::from(LIFETIME_S) * 1_000,
            };
            self.peers.insert(peer, registered);
        }
        self.granted += 1;
        let proof = self.peers[&peer].proof;
        self.peers.retain(|_, peer| peer.ends > now);
        Ok(reply(message, Class::Success, |builder| {
            builder.add(&XorMappedAddress(from)).add(&Lifetime(LIFETIME_S)).add(&proof);
        }))
    }

    fn introduce(&mut self, now: u64, from: SocketAddr, message: &Message<'_>) -> Result<Vec<u8>, u16> {
        let own: PeerId = message.read().unwrap().unwrap();
        let proof: Option<Registration> = message.read().unwrap();
        let Target(target) = message.read().unwrap().unwrap();
        let asking = self.peers.get(&own).filter(|known| Some(known.proof) == proof && known.address == from);
        let asking = asking.cloned().ok_or(401_u16)?;
        if self.too_many > 0 {
            self.too_many -= 1;
            return Err(429);
        }
        let asked = self.peers.get(&target).filter(|asked| asked.channel == asking.channel);
        let asked = asked.cloned().ok_or(404_u16)?;
        let private = asking.channel == "private";
        let relays = [asking.relayed, asked.relayed].map(|relayed| relayed.is_some());
        let possible =
            if private { relays == [true, true] } else { asking.nat.connects(&asked.nat) || relays.contains(&true) };
        if !possible {
            return Err(409);
        }
        let tell = |builder: &mut Builder<'_>, peer: &Registered, key, start_ms, role| {
            if !private {
                builder.add(&XorPeerAddress(peer.address));
            }
            if let Some(relayed) = peer.relayed {
                builder.add(&XorRelayedAddress(relayed));
            }
            builder.add(&peer.nat).add(&Punch { key, start_ms, role });
        };
        self.made.retain(|made| made.start + INTRODUCTION_MS > now + START_MS);
        let made = self.made.iter().find(|made| {
            let forth = (made.controlling, made.controlled) == (own, target);
            let back = (made.controlling, made.controlled) == (target, own);
            forth && made.relayed == [asking.relayed, asked.relayed]
                || back && made.relayed == [asked.relayed, asking.relayed]
        });
        if let Some(made) = made {
            let role = if made.controlling == own { Role::Controlling } else { Role::Controlled };
            let left = made.start.saturating_sub(now) as u16;
            let key = made.key;
            return Ok(reply(message, Class::Success, |builder| tell(builder, &asked, key, left, role)));
        }
        self.count += 1;
        self.introduced += 1;
        let (key, start) = (PunchKey([self.count; 16]), now + START_MS);
        let relayed = [asking.relayed, asked.relayed];
        self.made.push(Made { controlling: own, controlled: target, key, start, relayed });
        let id = TransactionId::new([self.count; 12]);
        let repeated = [0, 100, 200, 400].map(|after| {
            let left = START_MS.saturating_sub(after) as u16;
            let bytes = build(INTRODUCED, Class::Request, id, |builder| {
                builder.add(&asked.proof).add(&Target(own));
                tell(builder, &asking, key, left, Role::Controlled);
            });
            (now + after, bytes)
        });
        self.open.push(Open { to: asked.address, id, repeated: repeated.into() });
        let start_ms = START_MS as u16;
        Ok(reply(message, Class::Success, |builder| tell(builder, &asked, key, start_ms, Role::Controlling)))
    }
}

/// Of [`USER`].
pub(crate) fn password() -> String {
    String::from_utf8(time_limited_password(SECRET, USER).to_vec()).unwrap()
}

fn nonce(client: SocketAddr) -> String {
    format!("nonce for {client}")
}

fn reply(message: &Message<'_>, class: Class, add: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    build(message.method(), class, *message.transaction_id(), add)
}

fn build(method: Method, class: Class, id: TransactionId, add: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    let mut out = vec![0; 1_500];
    let mut builder = Builder::new(&mut out, method, class, id);
    add(&mut builder);
    let length = builder.fingerprint().finish().unwrap();
    out.truncate(length);
    out
}
