//! Datagrams, to everything that reads them.

use std::net::SocketAddr;

use crate::discovery::{Answer, Endpoints, MAX_GROWTH, Other, PartnerKey, PartnerLink, answer};
use crate::message::{
    AttributeType, Builder, ChannelData, Class, Data, ErrorCode, Fingerprint, Frame, HEADER, Icmp, Integrity, Message,
    Nonce, PasswordAlgorithmValue, UnknownAttributes, Username, XorMappedAddress, XorPeerAddress, next_frame,
};
use crate::nat::{Detector, Dialect, Timing};

/// Any bytes as a datagram and as the front of a stream.
pub fn datagram(bytes: &[u8]) {
    stream(bytes);
    if let Some(message) = ChannelData::parse(bytes) {
        assert!(message.data.len() + 4 <= bytes.len() && bytes.len() - message.data.len() < 8);
    }
    binding(bytes);
    let key = PartnerKey { id: 1, secret: [1; 32] };
    let mut link = PartnerLink::new(vec![key], 5, &[], [3478, 3479]);
    assert!(link.handle(bytes).is_err(), "nobody knows the key");
    for dialect in [Dialect::Classic, Dialect::Modern] {
        let server: SocketAddr = SocketAddr::from(([192, 0, 2, 1], 3478));
        let mut detector = Detector::new(dialect, server, server, 1, Timing::default());
        detector.handle(0, server, bytes);
    }
    let Ok(message) = Message::parse(bytes) else { return };
    assert_eq!(message.as_bytes(), bytes);
    let mut total = 0;
    for attribute in message.attributes() {
        total += 4 + attribute.value.len().next_multiple_of(4);
        let at = message.range_of(attribute.value).expect("a value is part of its message");
        assert_eq!(&bytes[at], attribute.value);
    }
    assert!(HEADER + total <= bytes.len());
    let _ = (message.read::<XorMappedAddress>(), message.read::<Username<'_>>(), message.read::<Nonce<'_>>());
    let _ = (message.read::<ErrorCode<'_>>(), message.read::<PasswordAlgorithmValue<'_>>(), message.read::<Icmp>());
    let _ = message.read::<UnknownAttributes<'_>>().map(|list| list.map(|list| list.types().count()));
    for integrity in [Integrity::Sha1, Integrity::Sha256] {
        assert!(!message.verify(integrity, b"a key that nobody has"));
    }
    again(&message);
}

/// What is written from what was read is read alike.
fn again(message: &Message<'_>) {
    let mut out = vec![0; message.as_bytes().len() + 64];
    let mut builder = Builder::new(&mut out, message.method(), message.class(), *message.transaction_id());
    let peers: Vec<XorPeerAddress> = message.read_all().flatten().collect();
    for peer in &peers {
        builder.add(peer);
    }
    if let Ok(Some(data)) = message.read::<Data<'_>>() {
        builder.add(&data);
    }
    let length = builder.integrity(Integrity::Sha1, b"key").fingerprint().finish().expect("no longer than before");
    let copy = Message::parse(&out[..length]).expect("what is written can be read");
    assert_eq!((copy.method(), copy.class()), (message.method(), message.class()));
    assert_eq!(copy.read_all().flatten().collect::<Vec<XorPeerAddress>>(), peers);
    assert_eq!(copy.read::<Data<'_>>().ok().flatten(), message.read::<Data<'_>>().ok().flatten());
    assert!(copy.verify(Integrity::Sha1, b"key"));
    assert_eq!(copy.fingerprint(), Fingerprint::Right);
    assert!(!copy.has(AttributeType::MESSAGE_INTEGRITY));
}

/// The front of a stream is whole, not yet, or nonsense, and stays what it is as more comes.
fn stream(bytes: &[u8]) {
    match next_frame(bytes) {
        Ok(Frame::Whole(length)) => {
            assert!((4..=bytes.len()).contains(&length));
            assert_eq!(next_frame(&bytes[..length]), Ok(Frame::Whole(length)));
        }
        Ok(Frame::Partial(length)) => assert!(length > bytes.len() && length <= 65_555),
        Err(error) => assert_eq!(next_frame(&[bytes, b"more"].concat()), Err(error)),
    }
}

/// The server for Binding is no amplifier and answers nobody else.
fn binding(bytes: &[u8]) {
    let source = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], 4000));
    let local = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 3478));
    let other = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2], 3478)).ip();
    for other in [Other::Nowhere, Other::Here(other), Other::Partner { address: other, fresh: true }] {
        let endpoints = Endpoints { own: local.ip(), other, ports: [3478, 3479] };
        let mut out = vec![0; bytes.len() + MAX_GROWTH];
        match answer(bytes, local, source, &endpoints, &mut out) {
            Answer::Send { from, to, length, .. } | Answer::Ask { from, to, length, .. } => {
                assert!(length <= bytes.len() + MAX_GROWTH);
                assert_eq!(to.ip(), source.ip());
                assert!(from.port() == 3478 || other != Other::Nowhere);
                let (request, response) = (Message::parse(bytes), Message::parse(&out[..length]));
                let (request, response) = (request.expect("STUN"), response.expect("STUN"));
                assert_eq!(request.transaction_id(), response.transaction_id());
                assert!(matches!(response.class(), Class::Success | Class::Error));
                // A classic client knows no padding.
                let aligned = response.attributes().all(|attribute| attribute.value.len().is_multiple_of(4));
                assert!(aligned || !response.transaction_id().is_classic());
            }
            Answer::Silence(silence) => assert_ne!(silence.reason(), "no_room"),
        }
    }
}
