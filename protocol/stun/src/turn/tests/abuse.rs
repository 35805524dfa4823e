//! Hostile clients and peers: whatever they send is counted by its reason, leaves no more behind than the limits say, is
//! answered in no more than the stated bytes, and harms nobody's service.

use super::*;
use crate::credentials::Refusal;

const METHODS: [Method; 4] = [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND];

/// What the server keeps: all that could grow.
#[derive(Debug, PartialEq, Eq)]
struct Sizes {
    table: [usize; 3],
    deadlines: [usize; 2],
    quota: [usize; 3],
    reservations: usize,
    ended: usize,
    sockets: usize,
    allocations: usize,
}

impl Lab {
    fn sizes(&self) -> Sizes {
        let Server { table, deadlines, quota, reservations, ended, .. } = &self.server;
        Sizes {
            table: table.room(),
            deadlines: deadlines.room(),
            quota: quota.entries(),
            reservations: reservations.len(),
            ended: ended.len(),
            sockets: self.sockets.open.len(),
            allocations: self.server.allocations(),
        }
    }

    /// Sends what nobody has signed, or wrongly: at most a short refusal comes back.
    fn attack(&mut self, bytes: &[u8]) -> Option<u16> {
        match self.send(bytes) {
            FromClient::Reply { length, authenticated: false } => {
                assert!(length <= MAX_UNAUTHENTICATED_REPLY, "{length}");
                let reply = Message::parse(&self.out.get_mut()[..length]).unwrap();
                assert_eq!((reply.class(), reply.integrity()), (Class::Error, None));
                Some(code(&reply))
            }
            FromClient::Dropped(_) => None,
            got => panic!("{got:?}"),
        }
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        self.server.counters().refused().find(|(one, _)| *one == refusal).unwrap().1
    }

    /// Everything that led to nothing, whatever the reason.
    fn counted(&self) -> u64 {
        let counters = self.server.counters();
        counters.dropped().map(|(_, count)| count).sum::<u64>()
            + counters.refused().map(|(_, count)| count).sum::<u64>()
    }

    /// Another client's five-tuple.
    fn move_to(&mut self, number: u32) {
        let [a, b, c, d] = number.to_be_bytes();
        self.flow.client = SocketAddr::from(([20, b, c, d], 1024 + u16::from(a)));
    }
}

/// Sets up a well-behaved client, whom `abuse` must not harm.
fn beside_a_well_behaved_client(lab: &mut Lab, abuse: impl FnOnce(&mut Lab)) {
    let flow = lab.flow;
    let relay = lab.allocate();
    assert_eq!(lab.bind(0x4000, PEER), 0);
    abuse(lab);
    (lab.flow, lab.name) = (flow, NAME);
    assert!(matches!(lab.send(b"\x40\0\0\x01x"), FromClient::Forward(to) if to.peer == socket(PEER)));
    assert!(lab.server.handle_peer(lab.now.ms, relay, socket(PEER), 1, 1).unwrap().is_channel());
    assert_eq!(lab.permit("9.9.9.9:1"), 0);
}

#[test]
fn guessed_passwords_change_nothing() {
    let mut lab = Lab::new();
    beside_a_well_behaved_client(&mut lab, |lab| {
        let before = lab.sizes();
        for number in 0..1_000 {
            // From the client's own address, where its key is known, and from elsewhere.
            if number % 2 == 1 {
                lab.move_to(number);
            }
            let mut bytes = lab.bytes(METHODS[number as usize / 2 % 4], &udp);
            let at = bytes.len() - 9;
            bytes[at] ^= 1;
            // Else FINGERPRINT would tell.
            bytes.truncate(at + 1);
            let length = (bytes.len() - 20) as u16;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            assert_eq!(lab.attack(&bytes), Some(401));
        }
        assert_eq!((lab.refused(Refusal::Integrity), lab.counted()), (1_000, 1_000));
        assert_eq!((lab.sizes(), lab.sockets.asked), (before, 1));
    });
}

#[test]
fn no_bit_of_a_request_can_be_changed() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut lab = Lab::new();
        lab.flow.transport = transport;
        beside_a_well_behaved_client(&mut lab, |lab| {
            let before = lab.sizes();
            let bytes = lab.bytes(Method::CHANNEL_BIND, &|message| {
                message.add(&ChannelNumber(0x4001)).add(&XorPeerAddress(socket(PEER)));
            });
            // Without FINGERPRINT, which would tell of most.
            let bare = bytes[..bytes.len() - 8].to_vec();
            let mut count = 0;
            for bit in 0..8 * bare.len() {
                let mut changed = bare.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                // A Binding of any kind and ChannelData are no requests of TURN.
                if changed[0] & 0xc0 != 0 || Message::parse(&changed).is_ok_and(|m| m.method() == Method::BINDING) {
                    continue;
                }
                lab.attack(&changed);
                count += 1;
            }
            assert_eq!(lab.counted(), count);
            assert_eq!(lab.sizes(), before);
        });
    }
}

#[test]
fn what_was_recorded_is_of_no_use_elsewhere_or_later() {
    let mut lab = Lab::new();
    lab.transaction += 1;
    let recorded = lab.bytes(Method::ALLOCATE, &udp);
    let own = lab.flow;
    for number in 0..500 {
        lab.move_to(number);
        assert_eq!(lab.attack(&recorded), Some(438));
    }
    assert_eq!((lab.refused(Refusal::StaleNonce), lab.server.allocations()), (500, 0));
    // Where it came from it is a repetition, and makes nothing twice.
    lab.flow = own;
    for _ in 0..500 {
        assert_eq!(code(&lab.deliver(&recorded)), 0);
    }
    assert_eq!((lab.server.allocations(), lab.sockets.asked), (1, 1));
    lab.now.unix += 86_401;
    assert_eq!(lab.attack(&recorded), Some(438));
    assert_eq!(lab.counted(), 501);
}

#[test]
fn allocations_end_at_the_quotas_and_the_table_stays_as_it_is() {
    let mut lab = Lab::new();
    lab.server.quota = LocalQuota::new(QuotaLimits { tenant: 60, user: 10, address: 20 });
    let room = (lab.sizes().table, 60);
    // One user from everywhere, many users from one address, many from everywhere.
    let names: Vec<&'static str> =
        (0..100).map(|number| &*Box::leak(format!("1800001000:u{number}").into_boxed_str())).collect();
    let mut number = 0;
    for (users, addresses, expected) in [(1, 100, 10), (99, 1, 30), (100, 100, 60)] {
        for attempt in 0..200 {
            number += 1;
            lab.name = names[attempt % users];
            let address = [20, 0, users as u8, (attempt % addresses) as u8];
            lab.flow.client = SocketAddr::from((address, 2_000 + number));
            assert!([0, 486].contains(&lab.code(Method::ALLOCATE, &udp)));
        }
        assert_eq!(lab.server.allocations(), expected, "{users} users, {addresses} addresses");
    }
    let errors: BTreeMap<u16, u64> = lab.server.counters().errors().map(|(error, count)| (error.code, count)).collect();
    assert_eq!((errors[&486], lab.server.counters().allocations), (540, 60));
    let full = lab.sizes();
    assert_eq!((full.table, full.sockets), room);
    assert!(full.deadlines[0] == 60 && full.quota.iter().all(|entries| *entries <= 60), "{full:?}");

    // Made and ended again and again, by names that do not come back.
    lab.now.ms += 600_000;
    lab.server.advance(lab.now.ms, &mut lab.sockets);
    for round in 0..2_000 {
        lab.name = names[round % names.len()];
        lab.flow.client = SocketAddr::from(([20, 1, 0, (round % 250) as u8], 4_000));
        lab.allocate();
        let end = |message: &mut Builder<'_>| {
            message.add(&Lifetime(0));
        };
        assert_eq!(lab.code(Method::REFRESH, &end), 0);
    }
    let Sizes { table, deadlines: [deadlines, _], quota, sockets, .. } = lab.sizes();
    assert_eq!((table, deadlines, quota, sockets), (room.0, 0, [0; 3], 0));
}

#[test]
fn reservations_have_a_limit() {
    let mut lab = Lab::with(|config| config.limits.reservations = 5);
    for number in 0..20 {
        lab.move_to(number);
        let expected = if number < 5 { 0 } else { 508 };
        assert_eq!(
            lab.code(Method::ALLOCATE, &|message| {
                udp(message);
                message.add(&EvenPort { reserve_next: true });
            }),
            expected
        );
    }
    assert_eq!(lab.sizes().reservations, 5);
    // Tokens cannot be tried out for the ports of others.
    for guess in 0..500_u64 {
        lab.move_to(100);
        let token = ReservationToken((0x0102_0000_0000_0000 | guess).to_be_bytes());
        assert_eq!(
            lab.code(Method::ALLOCATE, &|message| {
                udp(message);
                message.add(&token);
            }),
            508
        );
    }
    assert_eq!((lab.sizes().reservations, lab.server.allocations()), (5, 5));
}

#[test]
fn permissions_and_channels_have_a_limit_however_they_are_asked_for() {
    let mut lab = Lab::new();
    beside_a_well_behaved_client(&mut lab, |lab| {
        lab.move_to(1);
        lab.allocate();
        let slot = lab.server.table.find(&lab.flow).unwrap();
        for round in 0..20_u8 {
            // By hundreds in one request: all or none.
            let before = lab.server.table.get(slot).unwrap().peers();
            let many = |message: &mut Builder<'_>| {
                for host in 0..100 {
                    message.add(&XorPeerAddress(SocketAddr::from(([9, 9, round, host], 1))));
                }
            };
            assert_eq!(lab.code(Method::CREATE_PERMISSION, &many), 508);
            assert_eq!(lab.server.table.get(slot).unwrap().peers(), before);
            // One by one.
            let mut granted = [0; 2];
            for host in 0..60_u16 {
                granted[0] += usize::from(lab.permit(&format!("9.9.{round}.{host}:1")) == 0);
                granted[1] += usize::from(lab.bind(0x4000 + host, &format!("9.9.{round}.{host}:{}", 1 + host)) == 0);
            }
            assert_eq!(granted, [32, 16]);
            assert_eq!(lab.server.table.get(slot).unwrap().peers(), [32, 16]);
            assert!(lab.server.table.get(slot).unwrap().heap_bytes() <= 2048);
            // It begins anew with others when all of these are over; the allocations go on.
            for _ in 0..2 {
                lab.now.ms += CHANNEL_MS / 2;
                assert_eq!(lab.code(Method::REFRESH, &|_| ()), 0);
                let other = std::mem::replace(&mut lab.flow.client, socket("198.51.100.1:4000"));
                assert_eq!((lab.code(Method::REFRESH, &|_| ()), lab.bind(0x4000, PEER)), (0, 0));
                lab.flow.client = other;
            }
        }
        let errors: BTreeMap<u16, u64> =
            lab.server.counters().errors().map(|(error, count)| (error.code, count)).collect();
        assert_eq!(errors[&508], 20 * (1 + 28 + 44));
    });
}

#[test]
fn strangers_leave_nothing_behind() {
    let mut lab = Lab::new();
    beside_a_well_behaved_client(&mut lab, |lab| {
        let (before, relay) = (lab.sizes(), *lab.sockets.open.keys().next().unwrap());
        let mut ask = [0; 64];
        for number in 0..4_000 {
            lab.move_to(number);
            let id = TransactionId::new([number as u8; 12]);
            let length = Builder::new(&mut ask, METHODS[number as usize % 4], Class::Request, id)
                .add(&RequestedTransport(17))
                .fingerprint()
                .finish()
                .unwrap();
            assert_eq!(lab.attack(&ask[..length]), Some(401));
            for bytes in [&b"\x40\0\0\x01x"[..], &indication(PEER, b"x", false), b"\x80 RTP", b"GET / HTTP/1.1"] {
                assert_eq!(lab.attack(bytes), None);
            }
            // Peers that nobody let in, and a relay that is not there.
            let peer = SocketAddr::new(lab.flow.client.ip(), 1);
            assert_eq!(lab.server.handle_peer(lab.now.ms, relay, peer, 1, 1), Err(Dropped::NoPermission));
            let other = RelayId::from_bits(relay.to_bits() + (u64::from(number) << 8) + 2);
            assert_eq!(lab.server.handle_peer(lab.now.ms, other, socket(PEER), 1, 1), Err(Dropped::NoRelay));
        }
        assert_eq!(lab.sizes(), before);
        assert_eq!(lab.refused(Refusal::NoCredentials), 4_000);
        for (reason, count) in [
            // ChannelData and indications without an allocation; "GET " is a channel's number, and its length too long.
            (Dropped::NoAllocation, 8_000),
            (Dropped::NotTurn, 4_000),
            (Dropped::Malformed, 4_000),
            (Dropped::NoPermission, 4_000),
            (Dropped::NoRelay, 4_000),
        ] {
            assert_eq!(lab.count(reason), count, "{reason:?}");
        }
        assert_eq!(lab.counted(), 28_000);
    });
}

#[test]
fn the_bound_of_refusals_is_what_the_longest_has() {
    let mut lab = Lab::new();
    let realm = "r".repeat(crate::credentials::MAX_REALM);
    lab.server.set_authenticator(Authenticator::new(&realm, lab.nonces.clone(), true));
    let mut out = [0; 64];
    let id = TransactionId::new([1; 12]);
    let length = Builder::new(&mut out, Method::ALLOCATE, Class::Request, id).fingerprint().finish().unwrap();
    let FromClient::Reply { length, authenticated: false } = lab.send(&out[..length]) else { panic!() };
    assert_eq!(length, MAX_UNAUTHENTICATED_REPLY);
}

#[test]
fn truncated_messages_are_dropped() {
    let mut lab = Lab::new();
    beside_a_well_behaved_client(&mut lab, |lab| {
        let request = lab.bytes(Method::CREATE_PERMISSION, &|message| {
            message.add(&XorPeerAddress(socket(PEER)));
        });
        let send = indication(PEER, b"12345", true);
        let mut count = 0;
        for bytes in [&request, &send] {
            for cut in 0..bytes.len() {
                // As it is, and with a header that says so: the last attribute is cut, or what protects it is missing.
                let mut cut = bytes[..cut].to_vec();
                assert_eq!(lab.attack(&cut), None);
                count += 1;
                if let Some(length) = cut.len().checked_sub(20)
                    && bytes == &request
                {
                    cut[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                    // Nothing but FINGERPRINT cut off is whole.
                    if cut.len() != bytes.len() - 8 {
                        lab.attack(&cut);
                        count += 1;
                    }
                }
            }
        }
        assert_eq!(lab.counted(), count);
    });
}

#[test]
fn attributes_of_any_other_length_are_refused() {
    /// Adds a signed request with the attribute `KIND` in any length but the right ones.
    fn lengths<const KIND: u16>(method: Method, right: &[usize], expected: u16, rest: &dyn Fn(&mut Builder<'_>)) {
        let mut lab = Lab::new();
        if method != Method::ALLOCATE {
            lab.allocate();
        }
        for length in (0..40).chain([100, 763, 1_000]).filter(|length| !right.contains(length)) {
            let value = vec![1; length];
            let got = lab.code(method, &|message| {
                message.add(&Raw::<KIND>(&value));
                rest(message);
            });
            assert_eq!(got, expected, "{:?} of {length} bytes", AttributeType(KIND));
        }
        assert_eq!(lab.server.counters().granted, u64::from(method != Method::ALLOCATE));
    }
    let nothing = |_: &mut Builder<'_>| ();
    let peer = |message: &mut Builder<'_>| {
        message.add(&XorPeerAddress(socket(PEER)));
    };
    lengths::<0x000d>(Method::ALLOCATE, &[4], 400, &udp);
    lengths::<0x0017>(Method::ALLOCATE, &[4], 440, &udp);
    lengths::<0x0018>(Method::ALLOCATE, &[1], 400, &udp);
    lengths::<0x0019>(Method::ALLOCATE, &[4], 400, &nothing);
    lengths::<0x0022>(Method::ALLOCATE, &[8], 400, &udp);
    lengths::<0x8000>(Method::ALLOCATE, &[4], 400, &udp);
    lengths::<0x000d>(Method::REFRESH, &[4], 400, &nothing);
    lengths::<0x0017>(Method::REFRESH, &[4], 443, &nothing);
    lengths::<0x0012>(Method::CREATE_PERMISSION, &[8], 400, &nothing);
    lengths::<0x000c>(Method::CHANNEL_BIND, &[4], 400, &peer);
    lengths::<0x0012>(Method::CHANNEL_BIND, &[8], 400, &|message| {
        message.add(&ChannelNumber(0x4000));
    });
    // A second peer is looked at, too.
    lengths::<0x0012>(Method::CREATE_PERMISSION, &[8], 400, &peer);
}

#[test]
fn indications_with_attributes_of_any_other_length_are_dropped() {
    let mut lab = Lab::new();
    beside_a_well_behaved_client(&mut lab, |lab| {
        let mut out = [0; 2_000];
        let mut count = 0;
        for length in (0..40).chain([1_000]) {
            let value = vec![1; length];
            for fragile in [false, true] {
                if length == if fragile { 0 } else { 8 } {
                    continue;
                }
                let mut message = Builder::new(&mut out, Method::SEND, Class::Indication, TransactionId::new([1; 12]));
                if fragile {
                    message.add(&XorPeerAddress(socket(PEER))).add(&Raw::<0x001a>(&value));
                } else {
                    message.add(&Raw::<0x0012>(&value));
                }
                let length = message.add(&Data(b"x")).finish().unwrap();
                assert_eq!(lab.attack(&out[..length]), None);
                count += 1;
            }
        }
        assert_eq!(lab.count(Dropped::Malformed), count);
    });
}

#[test]
fn overlong_credentials_are_answered_in_short() {
    let mut lab = Lab::new();
    let mut out = vec![0; 9_000];
    let mut answers = BTreeMap::new();
    for length in [0, 1, 127, 128, 508, 509, 763, 764, 8_000] {
        let value = vec![b'1'; length];
        for which in 0..5 {
            let mut message = Builder::new(&mut out, Method::ALLOCATE, Class::Request, TransactionId::new([1; 12]));
            let nonce = lab.nonces.issue(lab.flow.client, lab.now.unix);
            let nonce = std::str::from_utf8(&nonce).unwrap();
            match which {
                0 => message.add(&Raw::<0x0006>(&value)),
                _ => message.add(&Username(NAME)),
            };
            match which {
                1 => message.add(&Raw::<0x0014>(&value)),
                _ => message.add(&Realm("example.org")),
            };
            match which {
                2 => message.add(&Raw::<0x0015>(&value)),
                _ => message.add(&Nonce(nonce)),
            };
            if which == 3 {
                message.add(&PasswordAlgorithms(&[0, 2, 0, 0, 0, 1, 0, 0])).add(&Raw::<0x001d>(&value));
            }
            if which == 4 {
                message.add(&Raw::<0x8002>(&value)).add(&PasswordAlgorithmValue { number: 2, parameters: &[] });
            }
            let length = message.integrity(Integrity::Sha1, b"guess").fingerprint().finish().unwrap();
            let code = lab.attack(&out[..length]).expect("it is a request");
            *answers.entry((which, code)).or_insert(0) += 1;
        }
    }
    // Name, realm, nonce, and the two of the password algorithm.
    let expected = [
        ((0, 400), 2),
        ((0, 401), 7),
        ((1, 400), 2),
        ((1, 401), 7),
        ((2, 400), 2),
        ((2, 438), 7),
        ((3, 400), 9),
        ((4, 400), 9),
    ];
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(lab.counted(), 45);
}
