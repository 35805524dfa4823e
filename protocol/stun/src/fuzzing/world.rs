//! A server and the model of it, side by side: what is delivered goes to both, and must come to the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::model::{
    ALLOCATIONS, Chosen, Expected, Model, Operation, QUOTA_ADDRESS, QUOTA_TENANT, QUOTA_USER, RESERVATIONS,
};
use crate::credentials::{
    Authenticator, Key, NonceKey, Nonces, PasswordAlgorithm, PeerRules, Secret, Tenant, TenantId, Tenants,
    time_limited_password,
};
use crate::message::{
    AdditionalAddressFamily, Builder, ChannelNumber, Class, Data, ErrorCode, EvenPort, Family, Integrity, Lifetime,
    Message, Method, Nonce, Realm, RequestedAddressFamily, RequestedTransport, ReservationToken, TransactionId,
    Username, XorMappedAddress, XorPeerAddress, XorRelayedAddress, channel_data_header,
};
use crate::turn::{
    BoundChannel, Config, FiveTuple, FromClient, Limits, LocalQuota, MAX_REPLY, MAX_UNAUTHENTICATED_REPLY, Now,
    OpenError, QuotaLimits, RelayAddress, RelayId, Relays, Server, Transport,
};

/// Clients, and what they talk over.
pub const FLOWS: [(&str, Transport); 6] = [
    ("198.51.100.1:4000", Transport::Udp),
    ("198.51.100.1:4001", Transport::Udp),
    ("198.51.100.1:4000", Transport::Tcp),
    ("198.51.100.2:4000", Transport::Udp),
    ("[2001:db8:1::1]:4000", Transport::Udp),
    ("198.51.100.3:4000", Transport::Udp),
];
/// Names, and their tenants.
pub const USERS: [(&str, &str); 4] =
    [("9999999999:ann", ""), ("9999999999:bob", ""), ("9999999999:acme:cat", "acme"), ("9999999999:acme:dan", "acme")];
/// Peers, good and bad.
pub const PEERS: [&str; 10] = [
    "8.8.8.8:1000",
    "8.8.8.8:1001",
    "9.9.9.9:1000",
    "[2600::8]:1000",
    "10.1.1.1:1000",
    "127.0.0.1:1000",
    "5.5.5.5:50000",
    "5.5.5.5:3478",
    "[::ffff:8.8.8.8]:1000",
    "8.8.8.8:0",
];
/// Where the server is.
pub const SERVER: &str = "5.5.5.5:3478";
/// What it relays from.
pub const RELAY_V4: &str = "5.5.5.5";
/// What it relays from.
pub const RELAY_V6: &str = "2600::5";
/// Relay ports of the shard: few, so that they run out.
pub const PORTS: RangeInclusive<u16> = 50_001..=50_006;
/// Relay ports of the node.
pub const NODE_PORTS: RangeInclusive<u16> = 50_000..=50_010;
/// Permissions of an allocation.
pub const PERMISSION_LIMIT: usize = 3;
/// Channels of an allocation.
pub const CHANNEL_LIMIT: usize = 2;

const REALM: &str = "example.org";
const UNIX: u64 = 1_800_000_000;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

/// Relay sockets that only remember that they are open, and somebody who forwards without asking, who only remembers what is bound.
#[derive(Debug, Default)]
struct Sockets {
    open: BTreeMap<RelayId, SocketAddr>,
    /// By relay and number: client, where the relay is, peer, and until when.
    bound: BTreeMap<(RelayId, u16), (SocketAddr, SocketAddr, SocketAddr, u64)>,
}

impl Relays for Sockets {
    fn open(&mut self, relay: RelayId, address: SocketAddr) -> Result<(), OpenError> {
        assert_eq!(address.is_ipv6(), relay.family() == Family::Ipv6);
        assert!(self.open.values().all(|open| *open != address), "{address} is open");
        assert!(self.open.keys().all(|open| open.index() != relay.index()), "{relay:?} has another's index");
        assert!(self.open.insert(relay, address).is_none(), "{relay:?} is open");
        Ok(())
    }

    fn close(&mut self, relay: RelayId) {
        assert!(self.open.remove(&relay).is_some(), "{relay:?} is not open");
    }

    fn bind(&mut self, channel: &BoundChannel<'_>) {
        let BoundChannel { relay, number, client, relayed, peer, expires, .. } = *channel;
        assert_eq!(self.open.get(&relay), Some(&relayed), "{channel:?}");
        self.bound.insert((relay, number), (client, relayed, peer, expires));
    }

    fn unbind(&mut self, relay: RelayId, number: u16) {
        self.bound.remove(&(relay, number));
    }
}

/// What a client has sent: the bytes, and what they mean.
#[derive(Debug, Clone)]
pub struct Sent {
    /// From whom.
    pub flow: usize,
    /// In whose name.
    pub user: usize,
    /// What it means.
    pub operation: Operation,
    /// As it travels.
    pub bytes: Vec<u8>,
}

/// Both.
#[derive(Debug)]
pub struct World {
    server: Server<LocalQuota>,
    sockets: Sockets,
    /// Relays that have been open at some time, also those that no longer are.
    pub relays: Vec<(RelayId, SocketAddr)>,
    /// The model.
    pub model: Model,
    /// Milliseconds.
    pub now: u64,
    nonces: Nonces,
    forwarded: u64,
    starts: u8,
    sent: u64,
}

impl World {
    /// Nothing has happened.
    #[must_use]
    pub fn new() -> Self {
        let nonces = Nonces::new(vec![NonceKey { epoch: 1, secret: [7; 32] }], 86_400, true);
        Self {
            server: server(0, &nonces),
            sockets: Sockets::default(),
            relays: Vec::new(),
            model: Model::default(),
            now: 1,
            nonces,
            forwarded: 0,
            starts: 0,
            sent: 0,
        }
    }

    /// The server is killed and started again. What it had is gone; its nonces are still good.
    pub fn restart(&mut self) {
        self.check_usage();
        self.starts = self.starts.wrapping_add(1);
        self.server = server(self.starts, &self.nonces);
        self.sockets = Sockets::default();
        // Nothing comes to sockets of a process that is gone, and its ids are given again.
        self.relays.clear();
        self.model = Model::default();
    }

    /// Time passes; with `sweep` the server is told.
    pub fn pass(&mut self, ms: u64, sweep: bool) {
        self.now += ms;
        if sweep {
            self.server.advance(self.now, &mut self.sockets);
            self.model.expire(self.now);
            assert_eq!(self.server.allocations(), self.model.allocations.len());
            assert!(self.server.next_deadline().is_none_or(|at| at > self.now));
            self.check_sockets();
        }
    }

    /// What a client sends for an operation; equal operations of a time are equal bytes.
    #[must_use]
    pub fn send(&mut self, flow: usize, user: usize, operation: Operation) -> Sent {
        let (flow, user) = (flow % FLOWS.len(), user % USERS.len());
        self.sent += 1;
        let bytes = self.bytes(flow, user, &operation);
        Sent { flow, user, operation, bytes }
    }

    fn five_tuple(flow: usize) -> FiveTuple {
        FiveTuple { client: socket(FLOWS[flow].0), server: socket(SERVER), transport: FLOWS[flow].1 }
    }

    fn bytes(&self, flow: usize, user: usize, operation: &Operation) -> Vec<u8> {
        let mut out = vec![0; 4096];
        let number = match operation {
            Operation::Allocate { transaction, .. } => *transaction,
            _ => self.sent,
        };
        let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
        let id = TransactionId::new([
            0,
            0,
            0,
            u8::from(matches!(operation, Operation::Allocate { .. })),
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
        ]);
        let (method, class) = match operation {
            Operation::Allocate { .. } => (Method::ALLOCATE, Class::Request),
            Operation::Refresh { .. } => (Method::REFRESH, Class::Request),
            Operation::Permit(_) => (Method::CREATE_PERMISSION, Class::Request),
            Operation::Bind(..) => (Method::CHANNEL_BIND, Class::Request),
            Operation::Send(..) => (Method::SEND, Class::Indication),
            Operation::ChannelData(number, length) => {
                let mut bytes = channel_data_header(*number, *length as u16).to_vec();
                bytes.resize(4 + length, 0x77);
                return bytes;
            }
        };
        let family = |v6| if v6 { Family::Ipv6 } else { Family::Ipv4 };
        let mut message = Builder::new(&mut out, method, class, id);
        match operation {
            Operation::Allocate { lifetime, family: v6, additional, even, token, transport, .. } => {
                if let Some(protocol) = transport {
                    message.add(&RequestedTransport(*protocol));
                }
                if let Some(seconds) = lifetime {
                    message.add(&Lifetime(*seconds));
                }
                if let Some(v6) = v6 {
                    message.add(&RequestedAddressFamily(family(*v6)));
                }
                if let Some(v6) = additional {
                    message.add(&AdditionalAddressFamily(family(*v6)));
                }
                if let Some(next) = even {
                    message.add(&EvenPort { reserve_next: *next });
                }
                if let Some(token) = token {
                    message.add(&ReservationToken(*token));
                }
            }
            Operation::Refresh { lifetime, family: v6 } => {
                if let Some(seconds) = lifetime {
                    message.add(&Lifetime(*seconds));
                }
                if let Some(v6) = v6 {
                    message.add(&RequestedAddressFamily(family(*v6)));
                }
            }
            Operation::Permit(peers) => {
                for peer in peers {
                    message.add(&XorPeerAddress(*peer));
                }
            }
            Operation::Bind(number, peer) => {
                message.add(&ChannelNumber(*number)).add(&XorPeerAddress(*peer));
            }
            Operation::Send(peer, length) => {
                message.add(&XorPeerAddress(*peer)).add(&Data(&vec![0x77; *length]));
            }
            Operation::ChannelData(..) => {}
        }
        if class == Class::Request {
            self.sign(&mut message, flow, user, "secret");
        }
        let length = message.finish().expect("there is room");
        out.truncate(length);
        out
    }

    fn sign(&self, message: &mut Builder<'_>, flow: usize, user: usize, secret: &str) {
        let name = USERS[user].0;
        let nonce = self.nonces.issue(socket(FLOWS[flow].0), self.unix());
        let text = std::str::from_utf8(&nonce).expect("ASCII");
        message.add(&Username(name)).add(&Realm(REALM)).add(&Nonce(text));
        message.integrity(Integrity::Sha1, key(name, secret).as_bytes());
    }

    fn unix(&self) -> u64 {
        UNIX + self.now / 1000
    }

    /// It arrives. Panics unless the server does what the model says.
    pub fn deliver(&mut self, sent: &Sent) {
        let Sent { flow, user, operation, bytes } = sent;
        let now = Now { ms: self.now, unix: self.unix() };
        let expected = self.model.apply(self.now, *flow, *user, operation);
        let mut out = [0; MAX_REPLY];
        let five_tuple = Self::five_tuple(*flow);
        if let Operation::ChannelData(_, length) = operation {
            self.deliver_train(&five_tuple, bytes, &expected, *length);
        }
        let got = self.server.handle_client(now, &five_tuple, bytes, &mut self.sockets, &mut out);
        match got {
            FromClient::Forward(to) => {
                let relay = self.sockets.open.get(&to.relay).expect("an open relay");
                assert_eq!(expected, Expected::Forward(to.peer, relay.is_ipv6()), "{operation:?}");
                assert!(to.data.iter().all(|byte| *byte == 0x77));
                self.forwarded += to.data.len() as u64;
            }
            FromClient::Reply { length, authenticated } => {
                let reply = Message::parse(&out[..length]).expect("a reply is STUN");
                let request = Message::parse(bytes).expect("what was answered is STUN");
                assert!(authenticated, "{reply:?}");
                assert_eq!((reply.method(), reply.transaction_id()), (request.method(), request.transaction_id()));
                assert!(reply.verify(Integrity::Sha1, key(USERS[*user].0, "secret").as_bytes()));
                self.check_reply(&reply, &expected, sent);
            }
            FromClient::Dropped(_) => assert_eq!(expected, Expected::Nothing, "{operation:?} {got:?}"),
            FromClient::Binding => panic!("{operation:?} is no Binding"),
        }
        self.check_sockets();
    }

    /// A train goes where its datagrams would.
    fn deliver_train(&mut self, five_tuple: &FiveTuple, bytes: &[u8], expected: &Expected, length: usize) {
        let train = [bytes, bytes, bytes].concat();
        let got = self.server.handle_client_train(self.now, five_tuple, &train, bytes.len());
        match got {
            None => assert_eq!(*expected, Expected::Nothing),
            Some(to) => {
                let relay = self.sockets.open.get(&to.relay).expect("an open relay");
                assert_eq!(*expected, Expected::Forward(to.peer, relay.is_ipv6()));
                let segments = if length == 0 { 1 } else { 3 };
                assert_eq!((to.segments, to.payload, to.payloads().count()), (segments, length, segments));
                self.forwarded += (length * segments) as u64;
            }
        }
    }

    fn check_reply(&mut self, reply: &Message<'_>, expected: &Expected, sent: &Sent) {
        let operation = &sent.operation;
        let code = reply.read::<ErrorCode<'_>>().expect("well-formed").map(|error| error.code);
        let lifetime = reply.read::<Lifetime>().expect("well-formed").map(|lifetime| lifetime.0);
        match expected {
            Expected::Error(expected) => assert_eq!(code, Some(*expected), "{operation:?}"),
            Expected::Done => assert_eq!(reply.class(), Class::Success, "{operation:?} {code:?}"),
            Expected::Refreshed(seconds) => assert_eq!(lifetime, Some(*seconds), "{operation:?} {code:?}"),
            Expected::Allocated { families, lifetime: expected, again } => {
                assert_eq!(lifetime, Some(*expected), "{operation:?} {code:?}");
                let mapped = reply.read::<XorMappedAddress>().expect("well-formed").map(|mapped| mapped.0);
                assert_eq!(mapped, Some(socket(FLOWS[sent.flow].0)));
                let mut ports = [None; 2];
                for relay in reply.read_all::<XorRelayedAddress>() {
                    let relay = relay.expect("well-formed").0;
                    let public: IpAddr = if relay.is_ipv6() { RELAY_V6 } else { RELAY_V4 }.parse().expect("an address");
                    assert_eq!(relay.ip(), public);
                    ports[usize::from(relay.is_ipv6())] = Some(relay.port());
                }
                assert_eq!(ports.map(|port| port.is_some()), *families, "{operation:?}");
                let token = reply.read::<ReservationToken>().expect("well-formed").map(|token| token.0);
                if *again {
                    let there = &self.model.allocations[&sent.flow];
                    assert_eq!((there.ports, there.token), (ports, token), "answered alike");
                } else {
                    let chosen = Chosen { ports, token, lifetime: *expected };
                    self.model.allocated(self.now, sent.flow, sent.user, operation, &chosen);
                }
            }
            _ => panic!("{operation:?}: {reply:?} for {expected:?}"),
        }
    }

    /// Relays are open for what the model has, and for nothing else.
    fn check_sockets(&mut self) {
        // What has expired may still be open until the server is told; the model has forgotten it.
        let open: Vec<SocketAddr> = self.sockets.open.values().copied().collect();
        for (v6, ip) in [(false, RELAY_V4), (true, RELAY_V6)] {
            for port in self.model.allocations.values().filter_map(|allocation| allocation.ports[usize::from(v6)]) {
                assert!(open.contains(&SocketAddr::new(ip.parse().expect("an address"), port)));
            }
        }
        if self.server.next_deadline().is_none_or(|at| at > self.now) {
            let expected = self.model.allocations.values().flat_map(|allocation| allocation.ports).flatten().count();
            assert_eq!(open.len(), expected);
        }
        self.check_bound();
        for (relay, address) in &self.sockets.open {
            if !self.relays.iter().any(|(known, _)| known == relay) {
                self.relays.push((*relay, *address));
            }
        }
        // An old one is kept now and then, to be heard from late.
        if self.relays.len() > 64 {
            self.relays.remove(1);
        }
    }

    /// Who forwards without asking forwards what the model would, and nothing else.
    fn check_bound(&self) {
        let now = self.now;
        let live = self.sockets.bound.iter().filter(|(_, (.., expires))| *expires > now);
        let mut bound: Vec<_> =
            live.map(|((_, number), (client, relayed, peer, _))| (*client, *relayed, *number, *peer)).collect();
        let mut expected = Vec::new();
        for (flow, allocation) in &self.model.allocations {
            if FLOWS[*flow].1 == Transport::Tcp {
                continue;
            }
            for (number, (peer, expires)) in &allocation.channels {
                let v6 = usize::from(peer.is_ipv6());
                let ip: IpAddr = [RELAY_V4, RELAY_V6][v6].parse().expect("an address");
                if let Some(port) = allocation.ports[v6].filter(|_| (*expires).min(allocation.expires[v6]) > now) {
                    expected.push((socket(FLOWS[*flow].0), SocketAddr::new(ip, port), *number, *peer));
                }
            }
        }
        bound.sort_unstable();
        expected.sort_unstable();
        assert_eq!(bound, expected);
    }

    /// A peer's datagrams reach a relay that is, or was, open.
    pub fn from_peer(&mut self, relay: usize, peer: usize, segments: usize, length: usize) {
        let peer = socket(PEERS[peer % PEERS.len()]);
        // A socket for both families would say IPv4-mapped for IPv4; the server takes either.
        let (heard, peer) = (peer, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        let Some((relay, address)) = self.relays.get(relay % self.relays.len().max(1)).copied() else { return };
        self.model.expire(self.now);
        let v6 = relay.family() == Family::Ipv6;
        let open = self.sockets.open.contains_key(&relay);
        let mut holders = self.model.allocations.iter();
        let holder = holders.find(|(_, allocation)| allocation.ports[usize::from(v6)] == Some(address.port()));
        let expected = holder.filter(|(_, allocation)| open && allocation.lets_in(peer) && peer.is_ipv6() == v6);
        let got = self.server.handle_peer(self.now, relay, heard, segments, segments * length);
        match (got, expected) {
            (Err(_), None) => {}
            (Ok(mut to), Some((flow, allocation))) => {
                assert_eq!(to.flow, Self::five_tuple(*flow));
                assert_eq!(to.is_channel(), allocation.channel_of(peer).is_some());
                self.forwarded += (segments * length) as u64;
                let head = to.head(length as u16);
                let whole = [head.as_bytes(), &vec![0x55; length], head.padding()].concat();
                if let Some(number) = allocation.channel_of(peer) {
                    assert_eq!(head.as_bytes(), channel_data_header(number, length as u16));
                } else {
                    let message = Message::parse(&whole).expect("a Data indication");
                    assert_eq!((message.method(), message.class()), (Method::DATA, Class::Indication));
                    assert_eq!(message.read(), Ok(Some(XorPeerAddress(peer))));
                    assert_eq!(message.read(), Ok(Some(Data(&vec![0x55; length]))));
                }
            }
            (got, expected) => panic!("{got:?} for {expected:?} from {peer} at {relay:?}"),
        }
    }

    /// A client's stream is closed; datagrams are nothing that could be.
    pub fn close(&mut self, flow: usize) {
        let flow = flow % FLOWS.len();
        if FLOWS[flow].1 != Transport::Tcp {
            return;
        }
        let five_tuple = Self::five_tuple(flow);
        self.model.expire(self.now);
        assert_eq!(self.server.has_allocation(self.now, &five_tuple), self.model.allocations.contains_key(&flow));
        self.server.handle_closed(&five_tuple, &mut self.sockets);
        self.model.closed(self.now, flow);
        assert!(!self.server.has_allocation(self.now, &five_tuple));
        self.check_sockets();
    }

    /// Whoever cannot prove who they are gets a short answer and changes nothing.
    pub fn strangers(&mut self, flow: usize, method: usize, secret: Option<&str>) {
        let flow = flow % FLOWS.len();
        let method = [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND][method % 4];
        let mut request = [0; 400];
        let mut message = Builder::new(&mut request, method, Class::Request, TransactionId::new([9; 12]));
        message.add(&RequestedTransport(17));
        if let Some(secret) = secret {
            self.sign(&mut message, flow, 0, secret);
        }
        let length = message.fingerprint().finish().expect("there is room");
        let mut out = [0; MAX_REPLY];
        let now = Now { ms: self.now, unix: self.unix() };
        let five_tuple = Self::five_tuple(flow);
        let got = self.server.handle_client(now, &five_tuple, &request[..length], &mut self.sockets, &mut out);
        self.model.expire(self.now);
        let FromClient::Reply { length, authenticated: false } = got else { panic!("{got:?}") };
        assert!(length <= MAX_UNAUTHENTICATED_REPLY);
        let reply = Message::parse(&out[..length]).expect("a reply is STUN");
        assert_eq!(reply.read::<ErrorCode<'_>>().expect("well-formed").map(|error| error.code), Some(401));
        assert_eq!(reply.integrity(), None);
        self.check_sockets();
    }

    /// Any bytes: nothing panics, and nothing is forwarded that the model would not let through.
    pub fn noise(&mut self, flow: usize, bytes: &[u8]) {
        let flow = flow % FLOWS.len();
        let mut out = [0; MAX_REPLY];
        let now = Now { ms: self.now, unix: self.unix() };
        self.model.expire(self.now);
        match self.server.handle_client(now, &Self::five_tuple(flow), bytes, &mut self.sockets, &mut out) {
            FromClient::Forward(to) => {
                let allocation = self.model.allocations.get(&flow).expect("an allocation");
                assert!(allocation.lets_in(to.peer));
                self.forwarded += to.data.len() as u64;
            }
            FromClient::Reply { length, authenticated } => {
                assert!(!authenticated && length <= MAX_UNAUTHENTICATED_REPLY);
            }
            FromClient::Binding | FromClient::Dropped(_) => {}
        }
    }

    /// What was forwarded is what is told.
    pub fn check_usage(&mut self) {
        let mut told = 0;
        self.server.take_usage(|tenant, user, usage| {
            assert_eq!(tenant == TenantId(2), user == "cat" || user == "dan", "{tenant:?} {user}");
            told += usage.sent_bytes + usage.received_bytes;
        });
        assert_eq!(told, std::mem::take(&mut self.forwarded));
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

fn key(name: &str, secret: &str) -> Key {
    let password = time_limited_password(secret.as_bytes(), name);
    Key::long_term(PasswordAlgorithm::Md5, name, REALM, std::str::from_utf8(&password).expect("ASCII"))
}

fn server(starts: u8, nonces: &Nonces) -> Server<LocalQuota> {
    let tenant = |name: &str, id, allow: &[&str]| Tenant {
        name: name.into(),
        id: TenantId(id),
        secrets: vec![Secret::new(*b"older"), Secret::new(*b"secret")],
        peers: PeerRules {
            allow: allow.iter().map(|network| network.parse().expect("a network")).collect(),
            deny: Vec::new(),
        },
    };
    let tenants = Tenants::new(vec![tenant("", 1, &[]), tenant("acme", 2, &["10.0.0.0/8"])]).expect("good tenants");
    let v4 = RELAY_V4.parse().expect("an address");
    let v6 = RELAY_V6.parse().expect("an address");
    let config = Config {
        shard: 3,
        ipv4: Some(RelayAddress { bind: v4, public: v4 }),
        ipv6: Some(RelayAddress { bind: v6, public: v6 }),
        ports: PORTS,
        node_ports: NODE_PORTS,
        own_addresses: vec![socket(SERVER).ip()],
        limits: Limits {
            allocations: ALLOCATIONS,
            permissions: PERMISSION_LIMIT,
            channels: CHANNEL_LIMIT,
            reservations: RESERVATIONS,
            ..Limits::default()
        },
        seed: [starts; 32],
    };
    let quota = LocalQuota::new(QuotaLimits {
        tenant: QUOTA_TENANT as u32,
        user: QUOTA_USER as u32,
        address: QUOTA_ADDRESS as u32,
    });
    Server::new(config, Authenticator::new(REALM, nonces.clone(), true), Arc::new(tenants), quota)
}
