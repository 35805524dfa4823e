use std::net::SocketAddr;

use super::*;
use crate::message::{Family, Software, TransactionId, Value, XorPeerAddress};

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn endpoints(other: Other) -> Endpoints {
    Endpoints { own: "192.0.2.1".parse().unwrap(), other, ports: [3478, 3479] }
}

fn here() -> Endpoints {
    endpoints(Other::Here("192.0.2.2".parse().unwrap()))
}

fn partner(fresh: bool) -> Endpoints {
    endpoints(Other::Partner { address: "203.0.113.2".parse().unwrap(), fresh })
}

const LOCAL: &str = "192.0.2.1:3478";
const CLIENT: &str = "198.51.100.7:4000";

fn id(classic: bool) -> TransactionId {
    if classic { TransactionId::classic([0x99; 16]) } else { TransactionId::new([0x99; 12]) }
}

fn request(classic: bool, add: &dyn Fn(&mut Builder<'_>)) -> Vec<u8> {
    let mut out = vec![0; 2_000];
    let mut message = Builder::new(&mut out, Method::BINDING, Class::Request, id(classic));
    add(&mut message);
    let length = message.finish().unwrap();
    out.truncate(length);
    out
}

/// Checks what holds for every answer.
fn ask(request: &[u8], local: &str, at: &Endpoints) -> (Answer, Vec<u8>) {
    let mut out = vec![0; 2_000];
    let answer = answer(request, socket(local), socket(CLIENT), at, &mut out);
    match answer {
        Answer::Send { to, length, .. } | Answer::Ask { to, length, .. } => {
            assert_eq!(to.ip(), socket(CLIENT).ip());
            assert!(length <= request.len() + MAX_GROWTH, "{length} for {}", request.len());
            out.truncate(length);
        }
        Answer::Silence(_) => out.clear(),
    }
    (answer, out)
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

fn code(bytes: &[u8]) -> u16 {
    let response = Message::parse(bytes).unwrap();
    assert_eq!(response.class(), Class::Error);
    response.read::<ErrorCode<'_>>().unwrap().unwrap().code
}

fn change(address: bool, port: bool) -> impl Fn(&mut Builder<'_>) {
    move |message| {
        message.add(&ChangeRequest { address, port });
    }
}

#[test]
fn each_dialect_is_answered_in_kind() {
    let (answer, bytes) = ask(&request(false, &|_| ()), LOCAL, &here());
    assert_eq!(answer, Answer::Send { from: socket(LOCAL), to: socket(CLIENT), length: bytes.len(), cost: 1 });
    let response = Message::parse(&bytes).unwrap();
    assert_eq!((response.class(), *response.transaction_id()), (Class::Success, id(false)));
    assert_eq!(response.read(), Ok(Some(XorMappedAddress(socket(CLIENT)))));
    assert_eq!(response.read(), Ok(Some(MappedAddress(socket(CLIENT)))));
    assert_eq!(response.read(), Ok(Some(ResponseOrigin(socket(LOCAL)))));
    assert_eq!(response.read(), Ok(Some(OtherAddress(socket("192.0.2.2:3479")))));

    let (_, bytes) = ask(&request(true, &change(false, false)), LOCAL, &here());
    let response = Message::parse(&bytes).unwrap();
    assert_eq!((response.class(), *response.transaction_id()), (Class::Success, id(true)));
    let kinds: Vec<_> = response.attributes().map(|attribute| attribute.kind.0).collect();
    assert_eq!(kinds, [1, 4, 5]);
    assert_eq!(response.read(), Ok(Some(MappedAddress(socket(CLIENT)))));
    assert_eq!(response.read(), Ok(Some(SourceAddress(socket(LOCAL)))));
    assert_eq!(response.read(), Ok(Some(ChangedAddress(socket("192.0.2.2:3479")))));
}

#[test]
fn all_four_sockets_stand_in_for_one_another() {
    for (local, other) in [
        ("192.0.2.1:3478", "192.0.2.2:3479"),
        ("192.0.2.1:3479", "192.0.2.2:3478"),
        ("192.0.2.2:3478", "192.0.2.1:3479"),
        ("192.0.2.2:3479", "192.0.2.1:3478"),
    ] {
        let (local, other) = (socket(local), socket(other));
        for classic in [false, true] {
            for (address, port) in [(false, false), (false, true), (true, false), (true, true)] {
                let (answer, _) = ask(&request(classic, &change(address, port)), &local.to_string(), &here());
                let Answer::Send { from, .. } = answer else { panic!("{answer:?}") };
                assert_eq!(from.ip(), if address { other.ip() } else { local.ip() });
                assert_eq!(from.port(), if port { other.port() } else { local.port() });
            }
        }
    }
}

#[test]
fn a_fresh_partner_is_asked_and_a_silent_one_is_not_named() {
    for classic in [false, true] {
        let (answer, bytes) = ask(&request(classic, &change(true, true)), LOCAL, &partner(true));
        let expected =
            Answer::Ask { from: socket("203.0.113.2:3479"), to: socket(CLIENT), length: bytes.len(), cost: 2 };
        assert_eq!(answer, expected);
        assert!(bytes.len() <= MAX_ASKED);
        // The port alone changes here.
        let (answer, _) = ask(&request(classic, &change(false, true)), LOCAL, &partner(true));
        assert!(matches!(answer, Answer::Send { from, .. } if from == socket("192.0.2.1:3479")));

        for at in [partner(false), endpoints(Other::Nowhere)] {
            for (address, port) in [(true, true), (true, false), (false, true)] {
                let (answer, bytes) = ask(&request(classic, &change(address, port)), LOCAL, &at);
                assert!(matches!(answer, Answer::Send { from, .. } if from == socket(LOCAL)));
                assert_eq!(code(&bytes), 420);
                let response = Message::parse(&bytes).unwrap();
                let types: Vec<_> = response.read::<UnknownAttributes<'_>>().unwrap().unwrap().types().collect();
                assert!(types.iter().all(|kind| *kind == AttributeType::CHANGE_REQUEST));
                assert_eq!(types.len(), if classic { 2 } else { 1 });
            }
            let (_, bytes) = ask(&request(classic, &change(false, false)), LOCAL, &at);
            let response = Message::parse(&bytes).unwrap();
            assert_eq!(response.class(), Class::Success);
            assert!(!response.has(AttributeType::OTHER_ADDRESS) && !response.has(AttributeType::CHANGED_ADDRESS));
        }
    }
    // A third port of this node has no counterpart.
    let (_, bytes) = ask(&request(false, &change(true, true)), "192.0.2.1:443", &here());
    assert_eq!(code(&bytes), 420);
}

#[test]
fn response_port_and_padding_serve_nobody_else() {
    let port = |port| {
        move |message: &mut Builder<'_>| {
            message.add(&ResponsePort(port));
        }
    };
    let (answer, bytes) = ask(&request(false, &port(5000)), LOCAL, &here());
    assert!(matches!(answer, Answer::Send { to, cost: 4, .. } if to == socket("198.51.100.7:5000")));
    assert!(bytes.len() <= request(false, &port(5000)).len() + 4);
    for low in [0, 53, 1023] {
        assert_eq!(code(&ask(&request(false, &port(low)), LOCAL, &here()).1), 400);
    }
    for length in [0, 1, 100, 1400] {
        let padded = request(false, &|message| {
            message.add(&Padding(&vec![0; length]));
        });
        let (answer, bytes) = ask(&padded, LOCAL, &here());
        assert!(matches!(answer, Answer::Send { cost: 4, .. }));
        assert_eq!(Message::parse(&bytes).unwrap().read::<Padding<'_>>().unwrap().unwrap().0.len(), length);
    }
    let both = |message: &mut Builder<'_>| {
        message.add(&ResponsePort(5000)).add(&Padding(&[0; 900]));
    };
    assert_eq!(code(&ask(&request(false, &both), LOCAL, &here()).1), 400);
    let both = |message: &mut Builder<'_>| {
        message.add(&ResponsePort(5000)).add(&ChangeRequest { address: true, port: true });
    };
    let (answer, _) = ask(&request(false, &both), LOCAL, &here());
    let Answer::Send { from, to, .. } = answer else { panic!("{answer:?}") };
    assert_eq!((from, to), (here().other_of(socket(LOCAL)).unwrap().0, socket("198.51.100.7:5000")));
    let padded_by_partner = |message: &mut Builder<'_>| {
        message.add(&Padding(&[0; 9])).add(&ChangeRequest { address: true, port: false });
    };
    let partner = Endpoints { other: Other::Partner { address: "192.0.2.77".parse().unwrap(), fresh: true }, ..here() };
    assert_eq!(code(&ask(&request(false, &padded_by_partner), LOCAL, &partner).1), 400);
    // The classic dialect has none of this, and no RESPONSE-ADDRESS either.
    let reflect = |message: &mut Builder<'_>| {
        message.add(&ResponsePort(5000));
    };
    assert_eq!(code(&ask(&request(true, &reflect), LOCAL, &here()).1), 420);
    let mut reflect = request(true, &change(false, false));
    reflect[21] = 2;
    assert_eq!(code(&ask(&reflect, LOCAL, &here()).1), 420);
}

#[test]
fn unknown_attributes_are_refused_or_passed_over() {
    let many = request(false, &|message| {
        for number in 0..20 {
            message.add(&XorPeerAddress(SocketAddr::new(socket(CLIENT).ip(), number)));
        }
    });
    let (_, bytes) = ask(&many, LOCAL, &here());
    assert_eq!(code(&bytes), 420);
    let optional = request(false, &|message| {
        message.add(&Software("a client"));
    });
    assert_eq!(Message::parse(&ask(&optional, LOCAL, &here()).1).unwrap().class(), Class::Success);
}

/// RFC 3489 has no padding: each attribute ends where its length says (sections 11.2.9 and 11.2.10).
#[test]
fn classic_errors_are_aligned_without_padding() {
    let strange = |message: &mut Builder<'_>| {
        message.add(&Padding(b"1234"));
    };
    let broken = |message: &mut Builder<'_>| {
        message.add(&Raw::<3>(&[0; 8]));
    };
    for (add, reason) in [(&strange as &dyn Fn(&mut Builder<'_>), "Unknown Attribute"), (&broken, "Bad Request")] {
        let (_, bytes) = ask(&request(true, add), LOCAL, &here());
        let mut rest = &bytes[20..];
        while let [_, _, l0, l1, after @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            assert!(length.is_multiple_of(4), "{bytes:02x?}");
            rest = &after[length..];
        }
        let error = Message::parse(&bytes).unwrap().read::<ErrorCode<'_>>().unwrap().unwrap();
        assert_eq!(error.reason.trim_end(), reason);
    }
}

/// RFC 3489 section 11.2, RFC 8489 section 6.3.
#[test]
fn known_but_unexpected_attributes_are_ignored() {
    let odd = |message: &mut Builder<'_>| {
        message
            .add(&MappedAddress(socket(CLIENT)))
            .add(&ErrorCode::UNAUTHORIZED)
            .add(&UnknownAttributes(&[0, 1, 0, 1]));
    };
    for classic in [false, true] {
        let (_, bytes) = ask(&request(classic, &odd), LOCAL, &here());
        assert_eq!(Message::parse(&bytes).unwrap().class(), Class::Success);
    }
    let classic_only = |message: &mut Builder<'_>| {
        message.add(&SourceAddress(socket(CLIENT))).add(&ChangedAddress(socket(CLIENT))).add(&Raw::<7>(b"pass"));
    };
    let (_, bytes) = ask(&request(true, &classic_only), LOCAL, &here());
    assert_eq!(Message::parse(&bytes).unwrap().class(), Class::Success);
}

#[test]
fn fingerprints_are_answered_with_fingerprints_and_must_be_right() {
    let mut marked = request(false, &|message| {
        message.fingerprint();
    });
    let (_, bytes) = ask(&marked, LOCAL, &here());
    assert_eq!(Message::parse(&bytes).unwrap().fingerprint(), Fingerprint::Right);
    let last = marked.len() - 1;
    marked[last] ^= 1;
    assert_eq!(ask(&marked, LOCAL, &here()).0, Answer::Silence(Silence::NotStun));
}

#[test]
fn what_is_no_binding_request_is_not_answered() {
    let mut out = [0; 64];
    for (method, class) in [
        (Method::BINDING, Class::Indication),
        (Method::BINDING, Class::Success),
        (Method::BINDING, Class::Error),
        (Method::new(2), Class::Request),
    ] {
        let length = Builder::new(&mut out, method, class, id(false)).finish().unwrap();
        assert_eq!(ask(&out[..length], LOCAL, &here()).0, Answer::Silence(Silence::NotBinding));
    }
    assert_eq!(ask(b"GET /", LOCAL, &here()).0, Answer::Silence(Silence::NotStun));
    let plain = request(false, &|_| ());
    let silence = answer(&plain, socket(LOCAL), socket(CLIENT), &here(), &mut [0; 40]);
    assert_eq!(silence, Answer::Silence(Silence::NoRoom));
}

fn link(boot: u64, own: &str) -> PartnerLink {
    let key = |id| PartnerKey { id, secret: [id; 32] };
    PartnerLink::new(vec![key(1), key(2)], boot, &[own.parse().unwrap(), "2001:db8::1".parse().unwrap()], [3478, 3479])
}

fn beat(from: &mut PartnerLink, now: u64) -> Vec<u8> {
    let mut out = [0; MAX_LINK_MESSAGE];
    let length = from.poll_heartbeat(now, &mut out).expect("it is time");
    out[..length].to_vec()
}

#[test]
fn partners_are_fresh_while_both_directions_work() {
    let (mut a, mut b) = (link(10, "192.0.2.1"), link(20, "203.0.113.2"));
    for now in [0, 500, 1_000] {
        assert_eq!(a.handle(&beat(&mut b, now)), Ok(Received::Heartbeat));
        assert_eq!(b.handle(&beat(&mut a, now)), Ok(Received::Heartbeat));
    }
    assert!(a.is_fresh(1_000) && b.is_fresh(1_000));
    assert_eq!(a.address(Family::Ipv4), Some("203.0.113.2".parse().unwrap()));
    assert_eq!(b.address(Family::Ipv6), Some("2001:db8::1".parse().unwrap()));
    // Only b still hears: a must not believe in it, and b hears no echo of what it sends.
    for now in [1_500, 2_000, 2_500, 3_000, 3_500, 4_000] {
        assert_eq!(b.handle(&beat(&mut a, now)), Ok(Received::Heartbeat));
        beat(&mut b, now);
    }
    assert!(!a.is_fresh(4_000) && !b.is_fresh(4_000));
    let mut out = [0; MAX_LINK_MESSAGE];
    assert_eq!(a.poll_heartbeat(4_100, &mut out), None, "not yet");
    assert_eq!(a.next_deadline(), 4_500);
}

#[test]
fn what_was_recorded_or_held_back_revives_no_partner() {
    let (mut a, mut b) = (link(10, "192.0.2.1"), link(20, "203.0.113.2"));
    let mut recorded = Vec::new();
    for now in [0, 500, 1_000] {
        b.handle(&beat(&mut a, now)).unwrap();
        let message = beat(&mut b, now);
        a.handle(&message).unwrap();
        recorded.push(message);
    }
    let held_back = beat(&mut b, 1_500);
    assert!(a.is_fresh(1_500));
    // Replayed at once and later, to the same session and to a's next life.
    assert_eq!(a.handle(&recorded[2]), Err(LinkRefusal::Replay));
    assert!(!a.is_fresh(9_000));
    assert_eq!(a.handle(&held_back), Ok(Received::Heartbeat), "it may count, but proves only what it echoes");
    assert!(!a.is_fresh(9_000));
    let mut reborn = link(11, "192.0.2.1");
    for message in &recorded {
        let _ = reborn.handle(message);
    }
    beat(&mut reborn, 0);
    assert!(!reborn.is_fresh(0));
    // b's next life takes over, and its old one does not come back.
    let mut c = link(21, "203.0.113.2");
    for now in [9_000, 9_500, 10_000] {
        let message = beat(&mut a, now);
        let _ = c.handle(&message);
        a.handle(&beat(&mut c, now)).unwrap();
    }
    assert!(a.is_fresh(10_000));
    assert_eq!(a.handle(&beat(&mut b, 10_000)), Err(LinkRefusal::Session));
    // What one sends does not count when it comes back.
    let own = beat(&mut a, 10_500);
    assert_eq!(a.handle(&own), Err(LinkRefusal::Session));
}

#[test]
fn a_partner_with_other_ports_is_not_fresh() {
    let mut a = link(10, "192.0.2.1");
    let mut b = PartnerLink::new(vec![PartnerKey { id: 1, secret: [1; 32] }], 20, &[], [3478, 5000]);
    for now in [0, 500, 1_000] {
        a.handle(&beat(&mut b, now)).unwrap();
        b.handle(&beat(&mut a, now)).unwrap();
    }
    assert!(!a.is_fresh(1_000));
}

#[test]
fn partners_send_binding_responses_and_nothing_else() {
    let (mut a, mut b) = (link(10, "192.0.2.1"), link(20, "203.0.113.2"));
    let mut out = [0; MAX_LINK_MESSAGE];
    let payload = ask(&request(false, &change(true, true)), LOCAL, &partner(true)).1;
    let to = socket("[2001:db8::7]:4000");
    let length = a.ask(3479, to, &payload, &mut out).unwrap();
    assert_eq!(b.handle(&out[..length]), Err(LinkRefusal::Session), "before they know one another");
    for now in [0, 500] {
        a.handle(&beat(&mut b, now)).unwrap();
        b.handle(&beat(&mut a, now)).unwrap();
    }
    let length = a.ask(3479, to, &payload, &mut out).unwrap();
    for at in 0..length {
        let mut damaged = out;
        damaged[at] ^= 4;
        assert!(b.handle(&damaged[..length]).is_err(), "byte {at}");
        assert!(b.handle(&out[..at]).is_err(), "cut at {at}");
    }
    assert_eq!(b.handle(&out[..length]), Ok(Received::Send { from: 3479, to, payload: &payload }));
    assert_eq!(b.handle(&out[..length]), Err(LinkRefusal::Replay));
    assert_eq!(a.ask(3479, to, &[0; MAX_ASKED + 1], &mut out), None);
    for (from, payload) in [(80, &payload[..]), (3478, b"anything"), (3478, &request(false, &|_| ()))] {
        let length = a.ask(from, to, payload, &mut out).unwrap();
        assert_eq!(b.handle(&out[..length]), Err(LinkRefusal::Malformed));
    }
}
