mod abuse;
mod rules;

use std::cell::RefCell;

use super::allocation::Allocation;
use super::table::Table;
use super::*;
use crate::credentials::{
    Key, MAX_USERNAME, NonceKey, Nonces, PasswordAlgorithm, PeerRules, Secret, Tenant, time_limited_password,
};
use crate::message::{
    AdditionalAddressFamily, AddressErrorCode, AttributeType, Builder, ChannelNumber, Data, DontFragment, ErrorCode,
    EvenPort, Icmp, Integrity, Lifetime, MappedAddress, Nonce, PasswordAlgorithmValue, PasswordAlgorithms, Realm,
    RequestedAddressFamily, RequestedTransport, ReservationToken, Software, TransactionId, UnknownAttributes, Username,
    Value, XorMappedAddress, XorPeerAddress, XorRelayedAddress,
};

const NAME: &str = "1800001000:ann";
const PEER: &str = "8.8.8.8:1000";

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Sockets of which some ports are taken by others.
#[derive(Default)]
struct Sockets {
    open: BTreeMap<RelayId, SocketAddr>,
    taken: Vec<u16>,
    broken: bool,
    asked: usize,
}

impl Relays for Sockets {
    fn open(&mut self, relay: RelayId, address: SocketAddr) -> Result<(), OpenError> {
        self.asked += 1;
        if self.broken {
            return Err(OpenError::Failed);
        }
        if self.taken.contains(&address.port()) {
            return Err(OpenError::InUse);
        }
        self.open.insert(relay, address);
        Ok(())
    }

    fn close(&mut self, relay: RelayId) {
        self.open.remove(&relay).unwrap();
    }
}

struct Lab {
    server: Server<LocalQuota>,
    sockets: Sockets,
    now: Now,
    nonces: Nonces,
    flow: FiveTuple,
    name: &'static str,
    algorithm: Option<PasswordAlgorithm>,
    /// What protects requests, if it is not what goes with the algorithm.
    integrity: Option<Integrity>,
    transaction: u64,
    out: RefCell<Vec<u8>>,
}

impl Lab {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let nonces = Nonces::new(vec![NonceKey { epoch: 1, secret: [7; 32] }], 86_400, true);
        let mut config = Config {
            shard: 0x0102,
            ipv4: Some(RelayAddress { bind: Ipv4Addr::new(10, 0, 0, 5), public: Ipv4Addr::new(5, 5, 5, 5) }),
            ipv6: Some(RelayAddress { bind: "2600::5".parse().unwrap(), public: "2600::5".parse().unwrap() }),
            ports: 50_000..=50_099,
            node_ports: 50_000..=50_199,
            own_addresses: vec!["5.5.5.5".parse().unwrap(), "6.6.6.6".parse().unwrap()],
            limits: Limits { allocations: 100, ..Limits::default() },
            seed: [9; 32],
        };
        change(&mut config);
        let quota = LocalQuota::new(QuotaLimits { tenant: 1000, user: 1000, address: 1000 });
        let authenticator = Authenticator::new("example.org", nonces.clone(), true);
        Self {
            server: Server::new(config, authenticator, Arc::new(tenants()), quota),
            sockets: Sockets::default(),
            now: Now { ms: 5, unix: 1_800_000_000 },
            nonces,
            flow: FiveTuple {
                client: socket("198.51.100.1:4000"),
                server: socket("5.5.5.5:3478"),
                transport: Transport::Udp,
            },
            name: NAME,
            algorithm: None,
            integrity: None,
            transaction: 0,
            out: RefCell::new(vec![0; MAX_REPLY]),
        }
    }

    fn key(&self) -> Key {
        let password = time_limited_password(b"secret", self.name);
        let password = std::str::from_utf8(&password).unwrap();
        Key::long_term(self.algorithm.unwrap_or(PasswordAlgorithm::Md5), self.name, "example.org", password)
    }

    fn bytes(&self, method: Method, add: &dyn Fn(&mut Builder<'_>)) -> Vec<u8> {
        let mut out = vec![0; 2000];
        let [a, b, c, d, e, f, g, h] = self.transaction.to_be_bytes();
        let id = TransactionId::new([0, 0, 0, 0, a, b, c, d, e, f, g, h]);
        let mut message = Builder::new(&mut out, method, Class::Request, id);
        add(&mut message);
        let nonce = self.nonces.issue(self.flow.client, self.now.unix);
        message.add(&Username(self.name)).add(&Realm("example.org")).add(&Nonce(std::str::from_utf8(&nonce).unwrap()));
        if let Some(algorithm) = self.algorithm {
            message.add(&PasswordAlgorithms(&[0, 2, 0, 0, 0, 1, 0, 0]));
            message.add(&PasswordAlgorithmValue { number: algorithm.number(), parameters: &[] });
        }
        let integrity = self.integrity.unwrap_or(self.expected_integrity());
        let length = message.integrity(integrity, self.key().as_bytes()).fingerprint().finish().unwrap();
        out.truncate(length);
        out
    }

    /// What protects replies.
    fn expected_integrity(&self) -> Integrity {
        if self.algorithm.is_some() { Integrity::Sha256 } else { Integrity::Sha1 }
    }

    /// Sends a request; gives its reply, which must be signed.
    fn ask(&mut self, method: Method, add: &dyn Fn(&mut Builder<'_>)) -> Message<'_> {
        self.transaction += 1;
        let bytes = self.bytes(method, add);
        self.deliver(&bytes)
    }

    fn deliver(&mut self, bytes: &[u8]) -> Message<'_> {
        let out = self.out.get_mut();
        let got = self.server.handle_client(self.now, &self.flow, bytes, &mut self.sockets, out);
        let FromClient::Reply { length, authenticated: true } = got else { panic!("{got:?}") };
        let (key, integrity) = (self.key(), self.expected_integrity());
        let reply = Message::parse(&self.out.get_mut()[..length]).unwrap();
        assert_eq!(reply.integrity(), Some(integrity));
        assert!(reply.verify(integrity, key.as_bytes()));
        assert_eq!(reply.fingerprint(), Fingerprint::Right);
        reply
    }

    fn code(&mut self, method: Method, add: &dyn Fn(&mut Builder<'_>)) -> u16 {
        code(&self.ask(method, add))
    }

    fn allocate(&mut self) -> RelayId {
        assert_eq!(self.code(Method::ALLOCATE, &udp), 0);
        *self.sockets.open.keys().next_back().unwrap()
    }

    fn permit(&mut self, peer: &str) -> u16 {
        let peer = socket(peer);
        self.code(Method::CREATE_PERMISSION, &|m| {
            m.add(&XorPeerAddress(peer));
        })
    }

    fn bind(&mut self, number: u16, peer: &str) -> u16 {
        let peer = socket(peer);
        self.code(Method::CHANNEL_BIND, &|m| {
            m.add(&ChannelNumber(number)).add(&XorPeerAddress(peer));
        })
    }

    fn send<'d>(&mut self, bytes: &'d [u8]) -> FromClient<'d> {
        self.server.handle_client(self.now, &self.flow, bytes, &mut self.sockets, self.out.get_mut())
    }

    fn count(&self, reason: Dropped) -> u64 {
        self.server.counters().dropped().find(|(one, _)| *one == reason).unwrap().1
    }
}

fn tenants() -> Tenants {
    let secrets = vec![Secret::new(*b"secret")];
    Tenants::new(vec![Tenant { name: String::new(), id: TenantId(1), secrets, peers: PeerRules::default() }]).unwrap()
}

fn udp(message: &mut Builder<'_>) {
    message.add(&RequestedTransport(17));
}

/// An attribute whose value is whatever a test wants.
struct Raw<'a, const KIND: u16>(&'a [u8]);

impl<'a, const KIND: u16> Value<'a> for Raw<'a, KIND> {
    const TYPE: AttributeType = AttributeType(KIND);

    fn read(bytes: &'a [u8], _: &TransactionId) -> Option<Self> {
        Some(Self(bytes))
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn write(&self, out: &mut [u8], _: &TransactionId) {
        out.copy_from_slice(self.0);
    }
}

/// 0: success.
fn code(reply: &Message<'_>) -> u16 {
    assert_eq!(reply.class() == Class::Error, reply.has(AttributeType::ERROR_CODE));
    reply.read::<ErrorCode<'_>>().unwrap().map_or(0, |error| error.code)
}

fn indication(peer: &str, data: &[u8], fragile: bool) -> Vec<u8> {
    let mut out = vec![0; 2000];
    let mut message = Builder::new(&mut out, Method::SEND, Class::Indication, TransactionId::new([1; 12]));
    message.add(&XorPeerAddress(socket(peer))).add(&Data(data));
    if fragile {
        message.add(&DontFragment);
    }
    let length = message.finish().unwrap();
    out.truncate(length);
    out
}

#[test]
fn an_allocation_says_what_it_is_and_a_repetition_the_same() {
    let mut lab = Lab::new();
    let reply = lab.ask(Method::ALLOCATE, &|m| {
        m.add(&RequestedTransport(17)).add(&Lifetime(1000));
    });
    assert_eq!(reply.read(), Ok(Some(Lifetime(1000))));
    assert_eq!(reply.read(), Ok(Some(XorMappedAddress(socket("198.51.100.1:4000")))));
    let relayed = reply.read::<XorRelayedAddress>().unwrap().unwrap().0;
    assert_eq!(relayed.ip().to_string(), "5.5.5.5", "what peers see");
    let first = reply.as_bytes().to_vec();
    assert_eq!(
        *lab.sockets.open.values().next().unwrap(),
        SocketAddr::new("10.0.0.5".parse().unwrap(), relayed.port())
    );
    let again = lab.bytes(Method::ALLOCATE, &|m| {
        m.add(&RequestedTransport(17)).add(&Lifetime(1000));
    });
    lab.now.ms += 3000;
    assert_eq!(lab.deliver(&again).as_bytes(), first);
    assert_eq!(lab.sockets.asked, 1);
    assert_eq!(lab.code(Method::ALLOCATE, &udp), 437, "another request");
    assert_eq!(lab.server.next_deadline(), Some(1_000_005));
}

#[test]
fn both_families_in_one_allocation() {
    let both = |m: &mut Builder<'_>| {
        m.add(&RequestedTransport(17)).add(&AdditionalAddressFamily(Family::Ipv6));
    };
    let mut lab = Lab::new();
    let reply = lab.ask(Method::ALLOCATE, &both);
    let relayed: Vec<_> = reply.read_all::<XorRelayedAddress>().map(|relay| relay.unwrap().0.is_ipv6()).collect();
    assert_eq!(relayed, [false, true]);
    assert_eq!(lab.permit("[2600::8]:1"), 0);
    assert_eq!(lab.permit(PEER), 0);
    let mapped = indication("[::ffff:8.8.8.8]:1000", b"x", false);
    assert_eq!(lab.send(&mapped), FromClient::Dropped(Dropped::PeerFamily), "a permission is for one family");
    // One family may end before the other.
    let v6 = |m: &mut Builder<'_>| {
        m.add(&Lifetime(0)).add(&RequestedAddressFamily(Family::Ipv6));
    };
    assert_eq!(lab.code(Method::REFRESH, &v6), 0);
    assert_eq!(lab.sockets.open.len(), 1);
    assert_eq!(lab.code(Method::REFRESH, &v6), 443);
    assert_eq!(lab.permit("[2600::8]:1"), 443);
    assert_eq!(lab.send(&indication("[2600::8]:1", b"x", false)), FromClient::Dropped(Dropped::NoPermission));

    // What cannot be had is said.
    let mut lab = Lab::with(|config| config.ipv6 = None);
    let reply = lab.ask(Method::ALLOCATE, &both);
    let error = AddressErrorCode { family: Family::Ipv6, error: ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED };
    assert_eq!((code(&reply), reply.read()), (0, Ok(Some(error))));
    assert_eq!(
        lab.code(Method::REFRESH, &|m| {
            m.add(&Lifetime(0));
        }),
        0
    );
    let v6 = |m: &mut Builder<'_>| {
        m.add(&RequestedTransport(17)).add(&RequestedAddressFamily(Family::Ipv6));
    };
    assert_eq!(lab.code(Method::ALLOCATE, &v6), 440);
    let mut lab = Lab::with(|config| (config.ipv4, config.ipv6) = (None, None));
    assert_eq!(lab.code(Method::ALLOCATE, &both), 440);
}

#[test]
fn requests_are_refused_with_the_code_that_the_rfc_has() {
    let mut lab = Lab::new();
    let v4 = RequestedAddressFamily(Family::Ipv4);
    let token = ReservationToken([1; 8]);
    assert_eq!(lab.code(Method::REFRESH, &|_| ()), 437);
    assert_eq!(lab.permit(PEER), 437);
    assert_eq!(lab.bind(0x4000, PEER), 437);
    assert_eq!(lab.code(Method::ALLOCATE, &|_| ()), 400);
    assert_eq!(
        lab.code(Method::ALLOCATE, &|m| {
            m.add(&RequestedTransport(6));
        }),
        442
    );
    assert_eq!(
        lab.code(Method::ALLOCATE, &|m| {
            udp(m);
            m.add(&token);
        }),
        508,
        "no such token"
    );
    assert_eq!(
        lab.code(Method::ALLOCATE, &|m| {
            udp(m);
            m.add(&token).add(&v4);
        }),
        400
    );
    assert_eq!(
        lab.code(Method::ALLOCATE, &|m| {
            udp(m);
            m.add(&token).add(&EvenPort { reserve_next: false });
        }),
        400
    );
    let v6 = AdditionalAddressFamily(Family::Ipv6);
    assert_eq!(
        lab.code(Method::ALLOCATE, &|m| {
            udp(m);
            m.add(&v6).add(&v4);
        }),
        400
    );
    assert_eq!(
        lab.code(Method::ALLOCATE, &|m| {
            udp(m);
            m.add(&v6).add(&EvenPort { reserve_next: true });
        }),
        400
    );
    assert_eq!(
        lab.code(Method::ALLOCATE, &|m| {
            udp(m);
            m.add(&AdditionalAddressFamily(Family::Ipv4));
        }),
        400
    );
    let reply = lab.ask(Method::ALLOCATE, &|m| {
        udp(m);
        m.add(&Raw::<0x24>(&[0; 4]));
    });
    assert_eq!(code(&reply), 420);
    assert_eq!(reply.read(), Ok(Some(UnknownAttributes(&[0, 0x24]))));
    assert_eq!(
        lab.code(Method::ALLOCATE, &|m| {
            udp(m);
            m.add(&Software("passed over")).add(&DontFragment);
        }),
        0
    );

    assert_eq!(lab.code(Method::CREATE_PERMISSION, &|_| ()), 400);
    assert_eq!(lab.permit("[2600::8]:1"), 443);
    assert_eq!(lab.permit("127.0.0.1:1"), 403);
    assert_eq!(lab.permit("6.6.6.6:1"), 403, "the node's own");
    assert_eq!(lab.permit("10.0.0.5:1"), 403, "what it is bound to");
    assert_eq!(lab.bind(0x3fff, PEER), 400);
    assert_eq!(lab.bind(0x7fff, PEER), 400);
    assert_eq!(lab.bind(0x4000, "8.8.8.8:0"), 400);
    assert_eq!(
        lab.code(Method::CHANNEL_BIND, &|m| {
            m.add(&ChannelNumber(0x4000));
        }),
        400
    );
    assert_eq!(lab.bind(0x4000, "[2600::8]:1"), 443);
    assert_eq!(lab.bind(0x4000, "192.168.0.1:1"), 403);
    assert_eq!(lab.bind(0x4000, "5.5.5.5:3478"), 403, "no relay port");
    assert_eq!(lab.bind(0x4000, "5.5.5.5:50150"), 0, "another shard's relay");
    assert_eq!(lab.bind(0x4001, PEER), 0);
    assert_eq!(lab.bind(0x4001, PEER), 0, "refreshed");
    assert_eq!(lab.bind(0x4001, "8.8.8.8:1001"), 400);
    assert_eq!(lab.bind(0x4002, PEER), 400);
    lab.name = "1800001000:bob";
    assert_eq!(lab.permit(PEER), 441);
    assert_eq!(lab.bind(0x4001, PEER), 441);
    assert_eq!(
        lab.code(Method::REFRESH, &|m| {
            m.add(&Lifetime(0));
        }),
        441
    );
    let errors: BTreeMap<u16, u64> = lab.server.counters().errors().map(|(error, count)| (error.code, count)).collect();
    assert_eq!((errors[&437], errors[&441], errors[&442], errors[&420]), (3, 3, 1, 1));
}

#[test]
fn both_hmacs_sign_replies() {
    for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
        let mut lab = Lab::new();
        lab.algorithm = Some(algorithm);
        lab.allocate();
        assert_eq!(lab.permit(PEER), 0);
    }
}

#[test]
fn ports_that_others_hold_are_passed_over() {
    let mut lab = Lab::with(|config| config.ports = 50_000..=50_003);
    lab.sockets.taken = vec![50_000, 50_001, 50_003];
    lab.allocate();
    assert_eq!(lab.sockets.open.values().next().unwrap().port(), 50_002);
    lab.flow.client.set_port(4001);
    assert_eq!(lab.code(Method::ALLOCATE, &udp), 508);
    // They are tried again when they may have become free.
    lab.sockets.taken.clear();
    assert_eq!(lab.code(Method::ALLOCATE, &udp), 0);
    lab.flow.client.set_port(4002);
    lab.sockets.broken = true;
    let asked = lab.sockets.asked;
    assert_eq!(lab.code(Method::ALLOCATE, &udp), 508);
    assert_eq!(lab.sockets.asked, asked + 1, "what is broken is tried once");
}

#[test]
fn reserved_ports_are_kept_for_half_a_minute() {
    let mut lab = Lab::with(|config| config.ports = 50_000..=50_001);
    let reply = lab.ask(Method::ALLOCATE, &|m| {
        udp(m);
        m.add(&EvenPort { reserve_next: true });
    });
    let token = reply.read::<ReservationToken>().unwrap().unwrap();
    lab.flow.client.set_port(4001);
    assert_eq!(lab.code(Method::ALLOCATE, &udp), 508);
    let with_token = |m: &mut Builder<'_>| {
        udp(m);
        m.add(&token);
    };
    assert_eq!(reservation_shard(&lab.bytes(Method::ALLOCATE, &with_token)), Some(0x0102));
    assert_eq!(reservation_shard(&lab.bytes(Method::ALLOCATE, &udp)), None);
    assert_eq!(lab.code(Method::ALLOCATE, &with_token), 0);
    assert!(lab.sockets.open.values().any(|address| address.port() == 50_001));
    lab.flow.client.set_port(4002);
    assert_eq!(lab.code(Method::ALLOCATE, &with_token), 508, "it is good once");

    let mut lab = Lab::with(|config| config.ports = 50_000..=50_001);
    lab.ask(Method::ALLOCATE, &|m| {
        udp(m);
        m.add(&EvenPort { reserve_next: true });
    });
    assert_eq!(lab.server.next_deadline(), Some(30_005));
    lab.now.ms = 30_005;
    lab.server.advance(lab.now.ms, &mut lab.sockets);
    lab.flow.client.set_port(4001);
    assert_eq!(lab.code(Method::ALLOCATE, &udp), 0);
}

#[test]
fn trains_are_resolved_run_by_run() {
    let mut lab = Lab::new();
    let relay = lab.allocate();
    assert_eq!((lab.bind(0x4000, PEER), lab.bind(0x4001, "9.9.9.9:9")), (0, 0));
    let piece = |number: u16, length: usize, stride: usize| {
        let mut bytes = crate::message::channel_data_header(number, length as u16).to_vec();
        bytes.resize((4 + length).min(stride), number as u8);
        bytes
    };
    let train =
        [piece(0x4000, 100, 104), piece(0x4000, 100, 104), piece(0x4001, 100, 104), piece(0x4000, 60, 104)].concat();
    let first = lab.server.handle_client_train(lab.now.ms, &lab.flow, &train, 104).unwrap();
    assert_eq!((first.relay, first.peer, first.segments, first.payload), (relay, socket(PEER), 2, 100));
    assert_eq!(first.payloads().collect::<Vec<_>>(), [&[0u8; 100][..], &[0; 100]]);
    let rest = &train[first.datagrams.len()..];
    let second = lab.server.handle_client_train(lab.now.ms, &lab.flow, rest, 104).unwrap();
    assert_eq!((second.peer, second.segments), (socket("9.9.9.9:9"), 1));
    let rest = &rest[second.datagrams.len()..];
    let third = lab.server.handle_client_train(lab.now.ms, &lab.flow, rest, 104).unwrap();
    assert_eq!((third.segments, third.payload, third.datagrams.len()), (1, 60, 64));
    // A shorter one ends the run and belongs to it.
    let train = [piece(0x4000, 100, 104), piece(0x4000, 30, 104)].concat();
    let run = lab.server.handle_client_train(lab.now.ms, &lab.flow, &train, 104).unwrap();
    assert_eq!(run.payloads().map(<[u8]>::len).collect::<Vec<_>>(), [100, 30]);
    for other in [piece(0x4002, 8, 12), b"\0\x01\0\0".to_vec(), Vec::new()] {
        assert_eq!(lab.server.handle_client_train(lab.now.ms, &lab.flow, &other, 12), None);
    }
    let mut told = Vec::new();
    lab.server.take_usage(|tenant, user, usage| told.push((tenant, user.to_owned(), *usage)));
    assert_eq!(
        told,
        [(TenantId(1), "ann".into(), Usage { sent: 6, sent_bytes: 490, framing_bytes: 24, ..Usage::default() })]
    );
    lab.server.take_usage(|_, _, _| panic!("it was taken"));
}

#[test]
fn heads_for_the_client() {
    let mut lab = Lab::new();
    let relay = lab.allocate();
    lab.permit(PEER);
    let mut to = lab.server.handle_peer(lab.now.ms, relay, socket(PEER), 2, 20).unwrap();
    assert!(!to.is_channel());
    let (a, b) = (to.head(10), to.head(10));
    assert_ne!(a.as_bytes(), b.as_bytes(), "each has its transaction id");
    assert_eq!((a.as_bytes().len(), a.padding()), (20 + 12 + 4, &[0, 0][..]));
    let next = lab.server.handle_peer(lab.now.ms, relay, socket(PEER), 1, 10).unwrap().head(10);
    assert_ne!(b.as_bytes(), next.as_bytes());
    lab.bind(0x4000, PEER);
    let mut to = lab.server.handle_peer(lab.now.ms, relay, socket(PEER), 1, 5).unwrap();
    assert_eq!((to.head(5).as_bytes(), to.head(5).padding()), (&[0x40, 0, 0, 5][..], &[][..]));
    assert_eq!(lab.server.handle_peer(lab.now.ms, relay, socket(PEER), 1, 65_500), Err(Dropped::TooLong));
    assert_eq!(lab.server.handle_peer(lab.now.ms, relay, socket("9.9.9.9:1"), 1, 5), Err(Dropped::NoPermission));

    // Over a stream ChannelData is padded.
    let mut lab = Lab::new();
    lab.flow.transport = Transport::Tcp;
    let relay = lab.allocate();
    lab.bind(0x4000, PEER);
    let mut to = lab.server.handle_peer(lab.now.ms, relay, socket(PEER), 1, 5).unwrap();
    assert_eq!(to.head(5).padding(), [0; 3]);
    assert_eq!(to.head(8).padding(), []);
}

#[test]
fn icmp_errors_of_permitted_peers_are_passed_on() {
    let mut lab = Lab::new();
    let relay = lab.allocate();
    let too_big = Icmp { kind: 3, code: 4, data: [0, 0, 5, 0xdc] };
    let mut out = [0; MAX_REPLY];
    let mut icmp = |lab: &mut Lab, icmp| {
        let got = lab.server.handle_icmp(lab.now.ms, relay, socket(PEER), icmp, &mut out)?;
        let message = Message::parse(&out[..got.1]).unwrap();
        assert_eq!((message.method(), message.class()), (Method::DATA, Class::Indication));
        assert_eq!(message.read(), Ok(Some(XorPeerAddress(socket(PEER)))));
        assert_eq!(message.read(), Ok(Some(icmp)));
        assert!(!message.has(AttributeType::DATA));
        Ok(got.0)
    };
    assert_eq!(icmp(&mut lab, too_big), Err(Dropped::NoPermission));
    lab.permit(PEER);
    assert_eq!(icmp(&mut lab, too_big), Ok(lab.flow));
    assert_eq!(icmp(&mut lab, Icmp { kind: 8, ..too_big }), Err(Dropped::Icmp), "an echo is no error");
    assert_eq!(lab.count(Dropped::Icmp), 1);
}

#[test]
fn indications_are_forwarded_or_dropped_and_counted() {
    let mut lab = Lab::new();
    assert_eq!(lab.send(&indication(PEER, b"x", false)), FromClient::Dropped(Dropped::NoAllocation));
    let relay = lab.allocate();
    assert_eq!(lab.send(&indication(PEER, b"x", false)), FromClient::Dropped(Dropped::NoPermission));
    lab.permit("8.8.8.8:1");
    let bytes = indication("8.8.8.8:77", b"hello", true);
    let to = ToPeer { relay, peer: socket("8.8.8.8:77"), data: b"hello", dont_fragment: true };
    assert_eq!(lab.send(&bytes), FromClient::Forward(to), "the permission is for any port");
    lab.permit("5.5.5.5:1");
    assert_eq!(lab.send(&indication("5.5.5.5:3478", b"x", false)), FromClient::Dropped(Dropped::OwnAddress));
    assert!(matches!(lab.send(&indication("5.5.5.5:50001", b"x", false)), FromClient::Forward(_)));
    assert_eq!(lab.server.handle_peer(5, relay, socket("5.5.5.5:3478"), 1, 1), Err(Dropped::OwnAddress));
    assert_eq!(lab.send(b"\x80 RTP"), FromClient::Dropped(Dropped::NotTurn));
    assert_eq!(lab.send(b"\0\x01"), FromClient::Dropped(Dropped::Malformed));
    assert_eq!(lab.send(b"\x40\0\0\x09"), FromClient::Dropped(Dropped::Malformed));
    assert_eq!(lab.send(b"\x40\0\0\0"), FromClient::Dropped(Dropped::NoChannel));
    let mut out = [0; 100];
    for (method, class, expected) in [
        (Method::BINDING, Class::Request, FromClient::Binding),
        (Method::DATA, Class::Indication, FromClient::Dropped(Dropped::Unexpected)),
        (Method::ALLOCATE, Class::Success, FromClient::Dropped(Dropped::Unexpected)),
        (Method::SEND, Class::Request, FromClient::Dropped(Dropped::Unexpected)),
        (Method::SEND, Class::Indication, FromClient::Dropped(Dropped::Malformed)),
    ] {
        let length = Builder::new(&mut out, method, class, TransactionId::new([1; 12])).finish().unwrap();
        assert_eq!(lab.send(&out[..length]), expected);
    }
    assert_eq!((lab.count(Dropped::Unexpected), lab.count(Dropped::Malformed)), (3, 3));
    let mut unknown = indication(PEER, b"x", false);
    unknown[21] = 0x24;
    assert_eq!(lab.send(&unknown), FromClient::Dropped(Dropped::UnknownAttribute));
}

#[test]
fn what_expired_is_without_effect_before_it_is_swept() {
    let mut lab = Lab::new();
    let relay = lab.allocate();
    assert_eq!((lab.permit("9.9.9.9:1"), lab.bind(0x4000, PEER)), (0, 0));
    let frame = b"\x40\0\0\x01x";
    lab.now.ms = 5 + PERMISSION_MS - 1;
    assert!(matches!(lab.send(&indication("9.9.9.9:1", b"x", false)), FromClient::Forward(_)));
    lab.now.ms += 1;
    assert_eq!(lab.send(&indication("9.9.9.9:1", b"x", false)), FromClient::Dropped(Dropped::NoPermission));
    assert_eq!(lab.server.handle_peer(lab.now.ms, relay, socket("8.8.8.8:2"), 1, 1), Err(Dropped::NoPermission));
    // The channel lasts on for its own peer, in both directions.
    assert!(matches!(lab.send(frame), FromClient::Forward(_)));
    assert!(lab.server.handle_peer(lab.now.ms, relay, socket(PEER), 1, 1).unwrap().is_channel());
    lab.now.ms = 5 + 600_000;
    assert_eq!(lab.send(frame), FromClient::Dropped(Dropped::NoAllocation));
    assert_eq!(lab.server.handle_peer(lab.now.ms, relay, socket(PEER), 1, 1), Err(Dropped::NoRelay));
    assert_eq!((lab.server.allocations(), lab.sockets.open.len()), (1, 1));
    lab.server.advance(lab.now.ms, &mut lab.sockets);
    assert_eq!((lab.server.allocations(), lab.sockets.open.len(), lab.server.next_deadline()), (0, 0, None));
    // A new allocation in the same slot has another relay.
    assert_ne!(lab.allocate(), relay);
    assert_eq!(lab.server.handle_peer(lab.now.ms, relay, socket(PEER), 1, 1), Err(Dropped::NoRelay));
}

#[test]
fn limits_have_their_codes() {
    let mut lab = Lab::with(|config| config.limits.allocations = 3);
    for port in 1..=3 {
        lab.flow.client.set_port(port);
        lab.allocate();
    }
    lab.flow.client.set_port(4);
    assert_eq!(lab.code(Method::ALLOCATE, &udp), 508);
    lab.flow.client.set_port(3);
    for host in 0..32 {
        assert_eq!(lab.permit(&format!("8.8.8.{host}:1")), 0);
    }
    assert_eq!(lab.permit("8.8.9.1:1"), 508);
    assert_eq!(lab.permit("8.8.8.1:1"), 0, "what is there is refreshed");
    for number in 0..16 {
        assert_eq!(lab.bind(0x4000 + number, &format!("8.8.8.{number}:1")), 0);
    }
    assert_eq!(lab.bind(0x4010, "8.8.8.20:1"), 508);
    // What has expired makes room.
    lab.now.ms += PERMISSION_MS;
    assert_eq!(lab.permit("8.8.9.1:1"), 0);

    let mut lab = Lab::new();
    lab.server.quota = LocalQuota::new(QuotaLimits { tenant: 9, user: 1, address: 9 });
    lab.allocate();
    lab.flow.client.set_port(4001);
    assert_eq!(lab.code(Method::ALLOCATE, &udp), 486);
    lab.flow.client.set_port(4000);
    assert_eq!(
        lab.code(Method::REFRESH, &|m| {
            m.add(&Lifetime(0));
        }),
        0
    );
    lab.allocate();
}

#[test]
fn an_allocation_with_all_it_may_have_takes_less_than_2_kib() {
    let limits = Limits::default();
    let name = "n".repeat(MAX_USERNAME);
    let lab = Lab::new();
    let credential = crate::credentials::Credential { username: name.into(), key: lab.key() };
    let mut allocation = Allocation::new(lab.flow, credential, TenantId(1), TransactionId::new([1; 12]));
    let empty = Table::PLACE + allocation.heap_bytes();
    for host in 0..limits.permissions as u8 {
        assert!(allocation.permit(std::iter::once([8, 8, 8, host].into()), limits.permissions, 0));
    }
    for number in 0..limits.channels as u16 {
        allocation.bind(0x4000 + number, SocketAddr::from(([8, 8, 8, 8], number + 1)), 0);
    }
    // With the deadline, the user's and the address's quota, and the ports' bits.
    let beside = 16 + 4 + MAX_USERNAME + 64;
    let full = Table::PLACE + allocation.heap_bytes() + beside;
    assert!(full <= 2048, "{full}");
    assert!(empty <= 900, "{empty}");
}

#[test]
fn what_ended_is_told_and_shed_by_user_before_bytes() {
    let mut lab = Lab::with(|config| config.limits.allocations = 1);
    for name in ["1800001000:ann", "1800001000:bob", "1800001000:cat"] {
        lab.name = name;
        lab.allocate();
        lab.permit(PEER);
        assert!(matches!(lab.send(&indication(PEER, b"12345", false)), FromClient::Forward(_)));
        assert_eq!(
            lab.code(Method::REFRESH, &|m| {
                m.add(&Lifetime(0));
            }),
            0
        );
    }
    let mut told = Vec::new();
    lab.server.take_usage(|_, user, usage| told.push((user.to_owned(), usage.sent_bytes)));
    assert_eq!(told, [(String::new(), 10), ("ann".into(), 5)]);
}
