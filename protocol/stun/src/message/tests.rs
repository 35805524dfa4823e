use std::net::SocketAddr;

use super::*;
use crate::credentials::{Key, PasswordAlgorithm};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const ID: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
const MATRIX: &str = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";

#[test]
fn rfc5769_2_1_request() {
    let bytes = hex("00010058 2112a442 b7e7a701bc34d686fa87dfae 80220010 5354554e207465737420636c69656e74
        00240004 6e0001ff 80290008 932ff9b151263b36 00060009 6576746a3a68367659202020
        00080014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2 80280004 e57a3bcf");
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.method(), message.class()), (Method::BINDING, Class::Request));
    assert_eq!(*message.transaction_id(), TransactionId::new(ID));
    assert_eq!(message.read(), Ok(Some(Software("STUN test client"))));
    assert_eq!(message.read(), Ok(Some(Username("evtj:h6vY"))));
    assert_eq!(message.integrity(), Some(Integrity::Sha1));
    assert!(message.verify(Integrity::Sha1, PASSWORD));
    assert!(!message.verify(Integrity::Sha1, b"another"));
    assert!(!message.verify(Integrity::Sha256, PASSWORD), "it has none");
    assert_eq!(message.fingerprint(), Fingerprint::Right);
    // PRIORITY (0x0024) must be understood, ICE-CONTROLLED (0x8029) need not be.
    let unknown: Vec<_> = message.unknown_required(&[AttributeType::USERNAME]).collect();
    assert_eq!(unknown, [AttributeType(0x24)]);
    let mut damaged = bytes.clone();
    damaged[30] ^= 1;
    let message = Message::parse(&damaged).unwrap();
    assert!(!message.verify(Integrity::Sha1, PASSWORD));
    assert_eq!(message.fingerprint(), Fingerprint::Wrong);
}

#[test]
fn rfc5769_2_2_and_2_3_responses_are_read_and_written() {
    for (text, address) in [
        (
            "0101003c 2112a442 b7e7a701bc34d686fa87dfae 8022000b 7465737420766563746f7220 00200008 0001a147e112a643
            00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004 c07d4c96",
            "192.0.2.1:32853",
        ),
        (
            "01010048 2112a442 b7e7a701bc34d686fa87dfae 8022000b 7465737420766563746f7220
            00200014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
            00080014 a382954e4be67bf11784c97c8292c275bfe3ed41 80280004 c8fb0b4c",
            "[2001:db8:1234:5678:11:2233:4455:6677]:32853",
        ),
    ] {
        let bytes = hex(text);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.method(), message.class()), (Method::BINDING, Class::Success));
        assert_eq!(message.read(), Ok(Some(XorMappedAddress(socket(address)))));
        assert!(message.verify(Integrity::Sha1, PASSWORD));
        assert_eq!(message.fingerprint(), Fingerprint::Right);

        // The vector pads with a space, we with zeros; all else is the same up to the integrity.
        let mut out = [0xee; 200];
        let length = Builder::new(&mut out, Method::BINDING, Class::Success, TransactionId::new(ID))
            .add(&Software("test vector"))
            .add(&XorMappedAddress(socket(address)))
            .integrity(Integrity::Sha1, PASSWORD)
            .fingerprint()
            .finish()
            .unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!(out[..35], bytes[..35]);
        assert_eq!(out[36..length - 32], bytes[36..length - 32]);
        let ours = Message::parse(&out[..length]).unwrap();
        assert!(ours.verify(Integrity::Sha1, PASSWORD));
        assert_eq!(ours.fingerprint(), Fingerprint::Right);
    }
}

#[test]
fn rfc5769_2_4_long_term() {
    let bytes = hex("00010060 2112a442 78ad3433c6ad72c029da412e 00060012 e3839ee38388e383aae38383e382afe382b90000
        0015001c 662f2f3439396b39353464364f4c33346f4c39465354767936347341
        0014000b 6578616d706c652e6f726700 00080014 f67024656dd64a3e02b8e0712e85c9a28ca89666");
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.read(), Ok(Some(Username(MATRIX))));
    assert_eq!(message.read(), Ok(Some(Nonce("f//499k954d6OL34oL9FSTvy64sA"))));
    assert_eq!(message.read(), Ok(Some(Realm("example.org"))));
    let key = Key::long_term(PasswordAlgorithm::Md5, MATRIX, "example.org", "TheMatrIX");
    assert!(message.verify(Integrity::Sha1, key.as_bytes()));
}

#[test]
fn rfc8489_b_1_sha256_and_userhash() {
    // As corrected by erratum 6268.
    let bytes = hex("00010090 2112a442 78ad3433c6ad72c029da412e
        001e0020 4a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704
        00150029 6f624d61744a6f7332414141 43662f2f3439396b39353464364f4c33346f4c39465354767936347341 000000
        0014000b 6578616d706c652e6f726700 001d0004 00020000
        001c0020 b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65");
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.read(), Ok(Some(UserHash(&crate::credentials::user_hash(MATRIX, "example.org")))));
    assert_eq!(message.read(), Ok(Some(Nonce("obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA"))));
    assert_eq!(message.read(), Ok(Some(PasswordAlgorithmValue { number: 2, parameters: &[] })));
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    let key = Key::long_term(PasswordAlgorithm::Sha256, MATRIX, "example.org", "TheMatrIX");
    assert!(message.verify(Integrity::Sha256, key.as_bytes()));
}

#[test]
fn sha256_is_not_truncated() {
    for (kept, right) in [(32, true), (28, false), (16, false), (12, false), (30, false), (0, false)] {
        let mut out = [0; 100];
        let length = Builder::new(&mut out, Method::BINDING, Class::Request, TransactionId::new(ID)).finish().unwrap();
        // The length that the HMAC covers is that of the truncated message.
        let full = integrity::hmac_sha256(&out[..length], PASSWORD, kept);
        let mut bytes = out[..length].to_vec();
        bytes.extend([0, 0x1c, 0, kept as u8]);
        bytes.extend(&full[..kept]);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let [l0, l1] = ((bytes.len() - HEADER) as u16).to_be_bytes();
        (bytes[2], bytes[3]) = (l0, l1);
        assert_eq!(Message::parse(&bytes).unwrap().verify(Integrity::Sha256, PASSWORD), right, "{kept}");
    }
}

#[test]
fn types_interleave_method_and_class() {
    for (number, method, class) in [
        (0x0001, Method::BINDING, Class::Request),
        (0x0101, Method::BINDING, Class::Success),
        (0x0111, Method::BINDING, Class::Error),
        (0x0016, Method::SEND, Class::Indication),
        (0x0017, Method::DATA, Class::Indication),
        (0x0109, Method::CHANNEL_BIND, Class::Success),
        (0x3fff, Method::new(0xfff), Class::Error),
    ] {
        assert_eq!(type_bits(method, class), number);
        assert_eq!(from_type_bits(number), (method, class));
    }
    for number in 0..0x4000 {
        let (method, class) = from_type_bits(number);
        assert_eq!(type_bits(method, class), number);
    }
}

#[test]
fn every_value_comes_back() {
    fn back<'a, V: Value<'a> + PartialEq + std::fmt::Debug>(value: V, buffer: &'a mut [u8]) {
        let id = TransactionId::new(ID);
        let length = Builder::new(buffer, Method::ALLOCATE, Class::Request, id).add(&value).finish().unwrap();
        let message = Message::parse(&buffer[..length]).unwrap();
        assert_eq!(message.read::<V>(), Ok(Some(value)));
        let attribute = message.attributes().next().unwrap();
        assert_eq!(attribute.kind, V::TYPE);
        assert_eq!(message.as_bytes()[message.range_of(attribute.value).unwrap()], *attribute.value);
        // No value may be shorter by a byte, unless any length is good.
        if let Some(short) = attribute.value.get(..attribute.value.len().saturating_sub(1)) {
            let _ = V::read(short, &id);
        }
    }
    let (v4, v6) = (socket("203.0.113.9:1"), socket("[2001:db8::9]:65535"));
    for address in [v4, v6] {
        back(MappedAddress(address), &mut [0; 64]);
        back(XorMappedAddress(address), &mut [0; 64]);
        back(XorPeerAddress(address), &mut [0; 64]);
        back(XorRelayedAddress(address), &mut [0; 64]);
        back(ResponseOrigin(address), &mut [0; 64]);
        back(OtherAddress(address), &mut [0; 64]);
        back(SourceAddress(address), &mut [0; 64]);
        back(ChangedAddress(address), &mut [0; 64]);
        back(ReflectedFrom(address), &mut [0; 64]);
        back(AlternateServer(address), &mut [0; 64]);
    }
    for family in [Family::Ipv4, Family::Ipv6] {
        back(RequestedAddressFamily(family), &mut [0; 64]);
        back(AdditionalAddressFamily(family), &mut [0; 64]);
        back(AddressErrorCode { family, error: ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED }, &mut [0; 64]);
    }
    for flag in [false, true] {
        back(ChangeRequest { address: flag, port: !flag }, &mut [0; 64]);
        back(EvenPort { reserve_next: flag }, &mut [0; 64]);
    }
    back(Username("a"), &mut [0; 64]);
    back(Realm("example.org"), &mut [0; 64]);
    back(Nonce(""), &mut [0; 64]);
    back(Software("shoal"), &mut [0; 64]);
    back(Data(b"12345"), &mut [0; 64]);
    back(Padding(&[0; 7]), &mut [0; 64]);
    back(MobilityTicket(b"x"), &mut [0; 64]);
    back(UserHash(&[7; 32]), &mut [0; 64]);
    back(ChannelNumber(0x4fff), &mut [0; 64]);
    back(Lifetime(u32::MAX), &mut [0; 64]);
    back(ResponsePort(3478), &mut [0; 64]);
    back(RequestedTransport(17), &mut [0; 64]);
    back(DontFragment, &mut [0; 64]);
    back(ReservationToken(*b"12345678"), &mut [0; 64]);
    back(Icmp { kind: 3, code: 4, data: [0, 0, 5, 220] }, &mut [0; 64]);
    back(ErrorCode::STALE_NONCE, &mut [0; 64]);
    back(UnknownAttributes(&[0, 2, 0x7f, 0xff]), &mut [0; 64]);
    back(PasswordAlgorithmValue { number: 2, parameters: &[] }, &mut [0; 64]);
    back(PasswordAlgorithms(&[0, 2, 0, 0, 0, 1, 0, 0]), &mut [0; 64]);
}

#[test]
fn values_that_break_their_format() {
    let id = TransactionId::new(ID);
    assert_eq!(MappedAddress::read(&[0, 1, 0, 80, 1, 2, 3], &id), None, "short");
    assert_eq!(MappedAddress::read(&[0, 1, 0, 80, 1, 2, 3, 4, 5], &id), None, "long");
    assert_eq!(MappedAddress::read(&[0, 2, 0, 80, 1, 2, 3, 4], &id), None, "IPv4 that says IPv6");
    assert_eq!(MappedAddress::read(&[0, 3, 0, 80, 1, 2, 3, 4], &id), None, "no family");
    assert_eq!(ErrorCode::read(&[0, 0, 2, 0], &id), None);
    assert_eq!(ErrorCode::read(&[0, 0, 7, 0], &id), None);
    assert_eq!(ErrorCode::read(&[0, 0, 4, 100], &id), None);
    assert_eq!(ErrorCode::read(&[0xff, 0xff, 0xfc, 1], &id), Some(ErrorCode { code: 401, reason: "" }));
    assert_eq!(Username::read(&[b'a'; 764], &id), None);
    assert_eq!(Username::read(&[0xff], &id), None, "not UTF-8");
    assert_eq!(EvenPort::read(&[0x7f], &id), Some(EvenPort { reserve_next: false }));
    // 16 bits reserved, 7 of type, 9 of code (RFC 8656 section 18.13).
    let icmp = Icmp { kind: 3, code: 4, data: [0, 0, 5, 0xdc] };
    assert_eq!(Icmp::read(&[0xff, 0xff, 0x06, 0x04, 0, 0, 5, 0xdc], &id), Some(icmp));
    assert_eq!(Icmp::read(&[0, 0, 0x07, 0x04, 0, 0, 5, 0xdc], &id), None, "a code that ICMP does not have");
    let mut out = [0xee; 8];
    icmp.write(&mut out, &id);
    assert_eq!(out, [0, 0, 0x06, 0x04, 0, 0, 5, 0xdc]);
    assert_eq!(Username::read(&[b'a'; 763], &id).map(|name| name.0.len()), Some(763));
    assert_eq!(ResponsePort::read(&[1, 2], &id), Some(ResponsePort(0x102)));
    assert_eq!(UnknownAttributes::read(&[0], &id), None);
    assert_eq!(PasswordAlgorithmValue::read(&[0, 1, 0, 9], &id), None, "parameters run past the end");
}

#[test]
fn framing_is_checked_whole() {
    let good = hex("00010008 2112a442 000102030405060708090a0b 80220001 41ffffff");
    let message = Message::parse(&good).unwrap();
    assert_eq!(message.read(), Ok(Some(Software("A"))), "whatever the padding holds");
    for cut in 0..good.len() {
        assert!(Message::parse(&good[..cut]).is_err(), "{cut}");
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(Message::parse(&longer).err(), Some(ParseError::Length));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Message::parse(&bytes).err()
    };
    assert_eq!(with(0, 0x40), Some(ParseError::NotStun));
    assert_eq!(with(3, 6), Some(ParseError::Length));
    assert_eq!(with(23, 5), Some(ParseError::Attribute), "five bytes in the last four");
    assert_eq!(with(22, 0xff), Some(ParseError::Attribute));
    assert_eq!(Message::parse(&[]).err(), Some(ParseError::TooShort));
}

#[test]
fn what_follows_the_integrity_is_ignored() {
    let mut out = [0; 256];
    let length = Builder::new(&mut out, Method::BINDING, Class::Request, TransactionId::new(ID))
        .add(&Username("a"))
        .integrity(Integrity::Sha1, b"key")
        .add(&Realm("not covered"))
        .integrity(Integrity::Sha256, b"key")
        .add(&Nonce("nor this"))
        .fingerprint()
        .add(&Software("behind the end"))
        .finish()
        .unwrap();
    let message = Message::parse(&out[..length]).unwrap();
    assert_eq!(message.attributes().map(|a| a.kind).collect::<Vec<_>>(), [AttributeType::USERNAME]);
    assert_eq!(message.read::<Realm<'_>>(), Ok(None));
    assert!(!message.has(AttributeType::SOFTWARE));
    assert!(message.verify(Integrity::Sha1, b"key") && message.verify(Integrity::Sha256, b"key"));
    assert_eq!(message.fingerprint(), Fingerprint::Right);
}

#[test]
fn classic_messages() {
    let bytes = hex("00010008 00112233445566778899aabbccddeeff 00030004 00000006");
    let message = Message::parse(&bytes).unwrap();
    assert!(message.transaction_id().is_classic());
    assert_eq!(message.read(), Ok(Some(ChangeRequest { address: true, port: true })));
    assert!(!TransactionId::new(ID).is_classic());
}

#[test]
fn a_builder_notices_a_full_buffer_and_writes_within_it() {
    let mut whole = [0; 128];
    let id = TransactionId::new(ID);
    let build = |out: &mut [u8]| {
        Builder::new(out, Method::BINDING, Class::Success, id)
            .add(&XorMappedAddress(socket("192.0.2.1:1")))
            .integrity(Integrity::Sha256, b"key")
            .fingerprint()
            .finish()
    };
    let length = build(&mut whole).unwrap();
    for room in 0..length {
        assert_eq!(build(&mut vec![0; room]), Err(BufferFull), "{room}");
    }
    assert_eq!(build(&mut vec![0; length]), Ok(length));
    let mut large = vec![0; 70_000];
    assert_eq!(
        Builder::new(&mut large, Method::SEND, Class::Indication, id).add(&Data(&[0; 65_533])).finish(),
        Err(BufferFull),
        "the header's length has 16 bits"
    );
}

#[test]
fn channel_data() {
    let data = |bytes: &'static [u8]| ChannelData::parse(bytes);
    assert_eq!(data(b"\x40\x00\x00\x03abc"), Some(ChannelData { channel: 0x4000, data: b"abc" }));
    assert_eq!(
        data(b"\x4f\xff\x00\x01a\0\0\0"),
        Some(ChannelData { channel: 0x4fff, data: b"a" }),
        "padding may be there"
    );
    assert_eq!(data(b"\x40\x00\x00\x00"), Some(ChannelData { channel: 0x4000, data: b"" }));
    for bad in
        [&b"\x40\x00\x00\x04abc"[..], b"\x80\x00\x00\x00", b"\x7f\xff\x00\x00", b"\x3f\xff\x00\x00", b"\x40\x00\x00\x00abcd", b"\x40\0\0"]
    {
        assert_eq!(ChannelData::parse(bad), None, "{bad:?}");
    }
    assert_eq!(channel_data_header(0x4001, 0x203), [0x40, 1, 2, 3]);
}

#[test]
fn streams_are_framed() {
    let stun = hex("00010008 2112a442 000102030405060708090a0b 80220001 41ffffff");
    for cut in 0..stun.len() {
        let expected = if cut < 4 { 4 } else { stun.len() };
        assert_eq!(next_frame(&stun[..cut]), Ok(Frame::Partial(expected)), "{cut}");
    }
    assert_eq!(next_frame(&[&stun[..], b"more"].concat()), Ok(Frame::Whole(stun.len())));
    assert_eq!(next_frame(b"\x40\x00\x00\x05abcde"), Ok(Frame::Partial(12)), "padding is part of the frame");
    assert_eq!(next_frame(b"\x40\x00\x00\x05abcde\0\0\0\x40"), Ok(Frame::Whole(12)));
    assert_eq!(next_frame(b"\x40\x00\x00\x00"), Ok(Frame::Whole(4)));
    // A GET or POST begins like a channel; it ends as one that is not bound.
    for bad in
        [&b"\x80"[..], b"\x16\x03\x01\x00\x55", b"\x00\x01\x00\x03", b"\x00\x01\x00\x00\x21\x13"]
    {
        assert_eq!(next_frame(bad), Err(NotTurn), "{bad:?}");
    }
}

#[test]
fn kinds_of_datagrams() {
    assert_eq!(Kind::of(&[0, 1]), Kind::Stun);
    assert_eq!(Kind::of(&[0x40]), Kind::ChannelData);
    assert_eq!(Kind::of(&[0x7f]), Kind::ChannelData);
    assert_eq!(Kind::of(&[0x80]), Kind::Other);
    assert_eq!(Kind::of(&[]), Kind::Other);
}
