use sha2::Digest;

use super::*;

const KEY: PunchKey = PunchKey([7; 16]);

/// A way with a delay, that loses one of `lose` packets and holds back one of `hold` for a while; in 10,000 ms at most.
struct Way {
    delay: u64,
    lose: u64,
    hold: u64,
}

/// What the two say in the end, and when; and how many packets the sender has sent.
fn run(bytes: u64, way: &Way, spoil: impl Fn(&mut Vec<u8>)) -> (Option<Verdict>, Receiver, u64, u64) {
    let (mut sender, mut receiver) = (Sender::new(KEY, bytes, 5, 0), Receiver::new(KEY));
    let mut flying: Vec<(u64, bool, Vec<u8>)> = Vec::new();
    let (mut now, mut packets, mut sent) = (0, 0_u64, 0);
    let mut out = vec![0; MAX_PACKET];
    while now < 20_000 && sender.verdict().is_none() && !sender.is_stuck() {
        let mut send = |to_receiver: bool, bytes: &[u8]| {
            packets += 1;
            let lost = way.lose > 0 && packets.is_multiple_of(way.lose);
            let held = if way.hold > 0 && packets.is_multiple_of(way.hold) { 15 } else { 0 };
            if !lost {
                let mut bytes = bytes.to_vec();
                if to_receiver {
                    spoil(&mut bytes);
                }
                flying.push((now + way.delay + held, to_receiver, bytes));
            }
        };
        while let Some(length) = sender.poll_transmit(now, &mut out) {
            sent += 1;
            send(true, &out[..length]);
        }
        while let Some(length) = receiver.poll_transmit(&mut out) {
            send(false, &out[..length]);
        }
        now += 1;
        let arrived = flying.extract_if(.., |(at, ..)| *at <= now).collect::<Vec<_>>();
        for (_, to_receiver, bytes) in arrived {
            if to_receiver {
                receiver.handle(&bytes);
            } else {
                sender.handle(now, &bytes);
            }
        }
    }
    (sender.verdict(), receiver, now, sent)
}

#[test]
fn everything_arrives_once_and_right() {
    for bytes in [0, 1, CHUNK as u64, CHUNK as u64 + 1, 500_000] {
        let (verdict, receiver, took, sent) = run(bytes, &Way { delay: 10, lose: 0, hold: 0 }, |_| ());
        assert_eq!((verdict, receiver.verdict()), (Some(Verdict::Right), Some(Verdict::Right)));
        assert_eq!((receiver.received(), sent), (bytes, u64::from(chunks(bytes)) + 2), "nothing is sent twice");
        assert!(took < 1_000, "{bytes} bytes took {took} ms");
    }
}

#[test]
fn losses_and_disorder_are_made_good() {
    for (lose, hold) in [(10, 0), (3, 0), (0, 4), (7, 5)] {
        let (verdict, receiver, took, sent) = run(200_000, &Way { delay: 10, lose, hold }, |_| ());
        assert_eq!((verdict, receiver.received()), (Some(Verdict::Right), 200_000), "{lose} {hold} {took}");
        assert!(sent < 2 * u64::from(chunks(200_000)), "{sent} packets, losing every {lose}th");
    }
}

#[test]
fn what_is_not_the_peers_is_not_taken() {
    let spoil = |bytes: &mut Vec<u8>| bytes[8] ^= 1;
    let (verdict, receiver, took, _) = run(5_000, &Way { delay: 1, lose: 0, hold: 0 }, spoil);
    assert_eq!((verdict, receiver.received()), (None, 0));
    assert!(took >= 10_000, "the sender gives up, but not at once: {took}");
    let mut receiver = Receiver::new(KEY);
    for other in [&b""[..], &[0xd0; 15], &[0; 40]] {
        assert!(!receiver.handle(other) && !receiver.is_due());
    }
}

#[test]
fn a_wrong_checksum_or_length_is_told() {
    let packet = |number, body: &[u8]| {
        let mut out = vec![0; MAX_PACKET];
        let length = Packet { kind: DATA, number, body }.seal(&KEY, &mut out).unwrap();
        out.truncate(length);
        out
    };
    for packets in [
        vec![packet(0, &3_u64.to_be_bytes()), packet(1, b"abc"), packet(2, &[0; 32])],
        vec![packet(0, &4_u64.to_be_bytes()), packet(2, &Sha256::digest(b"abc")), packet(1, b"abc")],
        vec![packet(0, &u64::MAX.to_be_bytes())],
    ] {
        let mut receiver = Receiver::new(KEY);
        assert!(packets.iter().all(|packet| receiver.handle(packet)));
        assert_eq!(receiver.verdict(), Some(Verdict::Wrong));
        let mut out = vec![0; MAX_PACKET];
        let length = receiver.poll_transmit(&mut out).unwrap();
        let mut sender = Sender::new(KEY, 3, 0, 0);
        assert!(sender.handle(1, &out[..length]));
        assert_eq!(sender.verdict(), Some(Verdict::Wrong));
    }
}
