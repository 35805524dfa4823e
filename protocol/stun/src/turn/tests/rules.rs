//! Rules of RFC 8656 that are easily got wrong, by section.

use super::*;
use crate::message::Padding;

const TWO: &str = "[2600::8]:1000";

fn refresh(lifetime: u32, family: Family) -> impl Fn(&mut Builder<'_>) {
    move |message| {
        message.add(&Lifetime(lifetime)).add(&RequestedAddressFamily(family));
    }
}

fn both(message: &mut Builder<'_>) {
    message.add(&RequestedTransport(17)).add(&AdditionalAddressFamily(Family::Ipv6));
}

/// Section 6: a relayed transport address has a time to expiry of its own.
#[test]
fn a_family_that_is_not_refreshed_ends_by_itself() {
    let mut lab = Lab::new();
    assert_eq!(lab.code(Method::ALLOCATE, &both), 0);
    let relays: Vec<RelayId> = lab.sockets.open.keys().copied().collect();
    let [v4, v6] = relays[..] else { panic!("{relays:?}") };
    assert_eq!((v4.family(), v6.family()), (Family::Ipv4, Family::Ipv6));
    lab.now.ms += 300_000;
    assert_eq!((lab.bind(0x4000, PEER), lab.bind(0x4001, TWO)), (0, 0));
    assert_eq!(lab.code(Method::REFRESH, &refresh(900, Family::Ipv4)), 0);
    assert_eq!(lab.server.next_deadline(), Some(600_005));
    lab.now.ms = 600_004;
    assert!(matches!(lab.send(b"\x40\x01\0\x01x"), FromClient::Forward(_)));
    // Without effect before it is swept, and the other family's peers are untouched by either.
    lab.now.ms = 600_005;
    for swept in [false, true] {
        assert!(matches!(lab.send(b"\x40\0\0\x01x"), FromClient::Forward(_)));
        assert!(matches!(lab.send(b"\x40\x01\0\x01x"), FromClient::Dropped(_)));
        assert!(matches!(lab.send(&indication(TWO, b"x", false)), FromClient::Dropped(_)));
        assert!(lab.server.handle_peer(lab.now.ms, v4, socket(PEER), 1, 1).is_ok());
        assert_eq!(lab.server.handle_peer(lab.now.ms, v6, socket(TWO), 1, 1), Err(Dropped::NoRelay));
        assert_eq!(lab.sockets.open.contains_key(&v6), !swept);
        lab.server.advance(lab.now.ms, &mut lab.sockets);
    }
    assert_eq!(lab.server.next_deadline(), Some(1_200_005));
    assert_eq!(lab.code(Method::REFRESH, &refresh(900, Family::Ipv6)), 443);
    assert_eq!(lab.bind(0x4002, "[2600::9]:1"), 443);
    // Its port is free again, and the allocation ends with its last family.
    assert_eq!(lab.code(Method::REFRESH, &refresh(0, Family::Ipv4)), 0);
    assert_eq!((lab.server.allocations(), lab.sockets.open.len(), lab.server.next_deadline()), (0, 0, None));
}

/// Section 8.1: without REQUESTED-ADDRESS-FAMILY a Refresh is about all there is.
#[test]
fn a_refresh_without_a_family_is_for_both() {
    let mut lab = Lab::new();
    assert_eq!(lab.code(Method::ALLOCATE, &both), 0);
    lab.now.ms += 1_000;
    assert_eq!(lab.code(Method::REFRESH, &|_| ()), 0);
    assert_eq!(lab.server.next_deadline(), Some(601_005));
    assert_eq!(lab.code(Method::REFRESH, &refresh(900, Family::Ipv6)), 0);
    assert_eq!(lab.server.next_deadline(), Some(601_005), "the earlier of the two");
    lab.now.ms = 601_005;
    lab.server.advance(lab.now.ms, &mut lab.sockets);
    assert_eq!(lab.sockets.open.len(), 1);
}

/// Section 8.2: what is no family at all does not match either.
#[test]
fn a_refresh_for_an_unknown_family_is_a_mismatch() {
    let mut lab = Lab::new();
    lab.allocate();
    assert_eq!(
        lab.code(Method::REFRESH, &|message| {
            message.add(&Raw::<0x0017>(&[3, 0, 0, 0]));
        }),
        443
    );
}

/// Sections 11.5 and 18.13.
#[test]
fn icmp_data_is_an_mtu_or_nothing() {
    let mut lab = Lab::new();
    assert_eq!(lab.code(Method::ALLOCATE, &both), 0);
    assert_eq!((lab.permit(PEER), lab.permit(TWO)), (0, 0));
    let relays: Vec<RelayId> = lab.sockets.open.keys().copied().collect();
    let mut out = [0; MAX_REPLY];
    for (relay, kind, code, passed, told) in [
        (0, 3, 4, true, true),
        (0, 3, 3, true, false),
        (0, 11, 0, true, false),
        (0, 12, 0, false, false),
        (1, 1, 4, true, false),
        (1, 2, 0, true, true),
        (1, 3, 0, true, false),
        (1, 4, 0, false, false),
        (1, 128, 0, false, false),
    ] {
        let (relay, peer) = (relays[relay], socket([PEER, TWO][relay]));
        let icmp = Icmp { kind, code, data: [0, 0, 5, 0xdc] };
        let got = lab.server.handle_icmp(lab.now.ms, relay, peer, icmp, &mut out);
        assert_eq!(got.is_ok(), passed, "{icmp:?}");
        let Ok((_, length)) = got else { continue };
        let expected = Icmp { data: if told { icmp.data } else { [0; 4] }, ..icmp };
        assert_eq!(Message::parse(&out[..length]).unwrap().read(), Ok(Some(expected)));
    }
}

/// Section 13: between families, and from IPv6, DONT-FRAGMENT is ignored; not so if it came by TCP (section 15).
#[test]
fn dont_fragment_is_for_ipv4_alone_unless_it_came_by_tcp() {
    for (client, transport, expected) in [
        ("198.51.100.1:4000", Transport::Udp, [true, false]),
        ("[2600::7]:4000", Transport::Udp, [false, false]),
        ("[::ffff:198.51.100.1]:4000", Transport::Udp, [true, false]),
        ("198.51.100.1:4000", Transport::Tcp, [true, true]),
        ("[2600::7]:4000", Transport::Tcp, [true, true]),
    ] {
        let mut lab = Lab::new();
        lab.flow.client = socket(client);
        lab.flow.transport = transport;
        assert_eq!(lab.code(Method::ALLOCATE, &both), 0);
        assert_eq!((lab.permit(PEER), lab.permit(TWO)), (0, 0));
        for (peer, expected) in [PEER, TWO].into_iter().zip(expected) {
            let bytes = indication(peer, b"x", true);
            let FromClient::Forward(to) = lab.send(&bytes) else { panic!("{client} {peer}") };
            assert_eq!(to.dont_fragment, expected, "{client} {transport:?} {peer}");
        }
    }
}

/// Section 3.7: the DF bit of what arrives is not seen here, so a client that wants its like from IPv4 to IPv6 is told so.
#[test]
fn dont_fragment_from_ipv4_to_ipv6_is_not_allocated() {
    let ask = |message: &mut Builder<'_>| {
        message.add(&RequestedTransport(17)).add(&RequestedAddressFamily(Family::Ipv6)).add(&DontFragment);
    };
    let mut lab = Lab::new();
    let reply = lab.ask(Method::ALLOCATE, &ask);
    assert_eq!((code(&reply), reply.read()), (420, Ok(Some(UnknownAttributes(&[0, 0x1a])))));
    let ask_both = |message: &mut Builder<'_>| {
        both(message);
        message.add(&DontFragment);
    };
    assert_eq!(lab.code(Method::ALLOCATE, &ask_both), 420);
    lab.flow.client = socket("[2600::7]:4000");
    assert_eq!(lab.code(Method::ALLOCATE, &ask), 0);
    let mut lab = Lab::new();
    lab.flow.transport = Transport::Tcp;
    assert_eq!(lab.code(Method::ALLOCATE, &ask_both), 0);
}

/// Section 12.2: what is wrong with the channel is said first.
#[test]
fn conflicts_of_channels_come_before_what_is_wrong_with_the_peer() {
    let mut lab = Lab::new();
    lab.allocate();
    assert_eq!(lab.bind(0x4000, PEER), 0);
    assert_eq!(lab.bind(0x4000, TWO), 400, "and not 443");
    assert_eq!(lab.bind(0x4000, "127.0.0.1:1"), 400, "and not 403");
    assert_eq!(lab.bind(0x4001, TWO), 443);
    assert_eq!(lab.bind(0x4001, "127.0.0.1:1"), 403);
    for number in 1..16 {
        assert_eq!(lab.bind(0x4000 + number, &format!("8.8.8.8:{}", 2000 + number)), 0);
    }
    assert_eq!(lab.bind(0x4010, TWO), 443, "and not 508");
    assert_eq!(lab.bind(0x4010, "9.9.9.9:1"), 508);
}

/// RFC 8489 section 6.3: what is known but has no business in a request is passed over.
#[test]
fn known_but_unexpected_attributes_are_ignored() {
    let mut lab = Lab::new();
    let odd = |message: &mut Builder<'_>| {
        udp(message);
        message.add(&MappedAddress(socket(PEER))).add(&XorMappedAddress(socket(PEER))).add(&Data(b"x"));
        message.add(&XorRelayedAddress(socket(PEER))).add(&ErrorCode::BAD_REQUEST).add(&UnknownAttributes(&[0, 1]));
    };
    assert_eq!(lab.code(Method::ALLOCATE, &odd), 0);
    // What belongs to another usage is not known to this one.
    let reply = lab.ask(Method::CREATE_PERMISSION, &|message| {
        message.add(&XorPeerAddress(socket(PEER))).add(&Padding(b"x"));
    });
    assert_eq!((code(&reply), reply.read()), (420, Ok(Some(UnknownAttributes(&[0, 0x26])))));
}

/// Section 21.4: packets that a tunnel's end sends back to the server could go round between them.
#[test]
fn tunnels_are_neither_clients_nor_peers() {
    for client in ["[2002:808:808::1]:4000", "[2001:0:808:808::1]:4000"] {
        let mut lab = Lab::new();
        lab.flow.client = socket(client);
        assert_eq!(lab.code(Method::ALLOCATE, &udp), 403, "{client}");
        assert_eq!((lab.server.allocations(), lab.sockets.asked), (0, 0));
    }
    let mut lab = Lab::new();
    let open = PeerRules { allow: vec!["::/0".parse().unwrap()], deny: Vec::new() };
    let secrets = vec![Secret::new(*b"secret")];
    let all = Tenants::new(vec![Tenant { name: String::new(), id: TenantId(1), secrets, peers: open }]);
    lab.server.set_tenants(Arc::new(all.unwrap()));
    assert_eq!(lab.code(Method::ALLOCATE, &both), 0);
    for peer in ["[2002:808:808::1]:1", "[2001:0:808:808::1]:1"] {
        assert_eq!((lab.permit(peer), lab.bind(0x4000, peer)), (403, 403), "{peer}");
    }
    assert_eq!(lab.permit("[fd00::1]:1"), 0, "what a tenant may open is open");
}

/// RFC 8489 section 9.2.4: which of the two protects a reply depends on PASSWORD-ALGORITHM, not on what protects the request.
#[test]
fn replies_are_protected_as_the_password_algorithm_says() {
    for (algorithm, integrity, expected) in [
        (None, Integrity::Sha1, Integrity::Sha1),
        (None, Integrity::Sha256, Integrity::Sha1),
        (Some(PasswordAlgorithm::Md5), Integrity::Sha1, Integrity::Sha256),
        (Some(PasswordAlgorithm::Sha256), Integrity::Sha1, Integrity::Sha256),
        (Some(PasswordAlgorithm::Sha256), Integrity::Sha256, Integrity::Sha256),
    ] {
        let mut lab = Lab::new();
        lab.algorithm = algorithm;
        lab.integrity = Some(integrity);
        // The lab looks at the reply's integrity.
        assert_eq!(lab.expected_integrity(), expected);
        lab.allocate();
    }
}

#[test]
fn a_closed_stream_ends_its_allocation_at_once() {
    let mut lab = Lab::new();
    let by_datagrams = lab.flow;
    lab.allocate();
    lab.flow.transport = Transport::Tcp;
    lab.ask(Method::ALLOCATE, &|m| both(m));
    assert_eq!(lab.sockets.open.len(), 3);
    assert_eq!(lab.bind(0x4000, PEER), 0);
    let data = [0x40, 0, 0, 4, 1, 2, 3, 4];
    assert!(matches!(lab.send(&data), FromClient::Forward(_)));

    let by_stream = lab.flow;
    lab.server.handle_closed(&by_stream, &mut lab.sockets);
    assert_eq!((lab.server.allocations(), lab.sockets.open.len()), (1, 1), "the other transport's is another one");
    let has = |lab: &Lab, flow| lab.server.has_allocation(lab.now.ms, flow);
    assert!(has(&lab, &by_datagrams) && !has(&lab, &by_stream));
    assert_eq!(lab.send(&data), FromClient::Dropped(Dropped::NoAllocation));
    let mut sent = 0;
    lab.server.take_usage(|_, _, usage| sent += usage.sent_bytes);
    assert_eq!(sent, 4, "what it had sent is told");
    lab.server.handle_closed(&by_stream, &mut lab.sockets);
    // Ports and the place in the quota are free again.
    lab.ask(Method::ALLOCATE, &|m| both(m));
    assert!(has(&lab, &by_stream));
    lab.now.ms += 600_000;
    assert!(!has(&lab, &by_stream), "expired, and not swept yet");
}
