//! The node's side, as docs/punch.md describes it and no more: registrations and introductions; with the real NAT discovery
//! and the real TURN server beside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use shoal_stun::credentials::{
    Authenticator, NonceKey, Nonces, PeerRules, Secret, Tenant, TenantId, Tenants, time_limited_password,
};
use shoal_stun::discovery::{Answer, Endpoints, Other, answer};
use shoal_stun::message::{
    Builder, Class, ErrorCode, Fingerprint, Lifetime, Message, Method, Nonce, TransactionId, XorMappedAddress,
    XorPeerAddress, XorRelayedAddress,
};
use shoal_stun::turn::{
    Config, FiveTuple, FromClient, Limits, LocalQuota, MAX_REPLY, Now, OpenError, QuotaLimits, RelayAddress, RelayId,
    Relays, Server, Transport,
};

use crate::nat::Nat;
use crate::wire::{
    Channel, INTRODUCE, INTRODUCED, PeerId, Punch, PunchKey, REGISTER, Registration, Role, Target, Ticket,
};

/// The ticket that the channel `club` asks for.
pub(crate) const TICKET: &str = "a-good-ticket";
/// Of the relay; good for three thousand years.
pub(crate) const USER: &str = "99999999999:viewer";
const SECRET: &[u8] = b"secret";

/// Milliseconds from an introduction to its start.
const START_MS: u16 = 60;
const LIFETIME_S: u32 = 30;
const PORT: u16 = 3_478;

/// Source, destination, payload.
type Datagram = (SocketAddr, SocketAddr, Vec<u8>);

struct Registered {
    address: SocketAddr,
    channel: String,
    nat: Nat,
    relayed: Option<SocketAddr>,
    proof: Registration,
    ends: u64,
}

/// An Introduced request that is not answered yet.
struct Open {
    to: SocketAddr,
    id: TransactionId,
    bytes: Vec<u8>,
    times: Vec<u64>,
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
        self.open.iter().filter_map(|open| open.times.first()).min().copied()
    }

    /// Introduced requests that are due.
    pub(crate) fn poll_transmit(&mut self, now: u64) -> Vec<Datagram> {
        let (address, mut sent) = (self.address(), Vec::new());
        for open in &mut self.open {
            while open.times.first().is_some_and(|at| *at <= now) {
                open.times.remove(0);
                sent.push((address, open.to, open.bytes.clone()));
            }
        }
        self.open.retain(|open| !open.times.is_empty());
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
                    return self.handle_punch(now, from, &message).map(|bytes| (to, from, bytes)).into_iter().collect();
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
                builder.add(&ErrorCode { code, reason: "by the page" });
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
        if let Some(proof) = message.read::<Registration>().unwrap() {
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
        let asking = asking.ok_or(401_u16)?;
        if self.too_many > 0 {
            self.too_many -= 1;
            return Err(429);
        }
        let asked = self.peers.get(&target).filter(|asked| asked.channel == asking.channel).ok_or(404_u16)?;
        let private = asking.channel == "private";
        let relays = [asking, asked].map(|peer| peer.relayed.is_some());
        let possible =
            if private { relays == [true, true] } else { asking.nat.connects(&asked.nat) || relays.contains(&true) };
        if !possible {
            return Err(409);
        }
        self.count += 1;
        self.introduced += 1;
        let punch = |role| Punch { key: PunchKey([self.count; 16]), start_ms: START_MS, role };
        let tell = |builder: &mut Builder<'_>, peer: &Registered, role| {
            if !private {
                builder.add(&XorPeerAddress(peer.address));
            }
            if let Some(relayed) = peer.relayed {
                builder.add(&XorRelayedAddress(relayed));
            }
            builder.add(&peer.nat).add(&punch(role));
        };
        let id = TransactionId::new([self.count; 12]);
        let bytes = build(INTRODUCED, Class::Request, id, |builder| {
            builder.add(&Target(own));
            tell(builder, asking, Role::Controlled);
        });
        let times = [0, 100, 300, 700].map(|after| now + after).to_vec();
        let told = reply(message, Class::Success, |builder| tell(builder, asked, Role::Controlling));
        self.open.push(Open { to: asked.address, id, bytes, times });
        Ok(told)
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
