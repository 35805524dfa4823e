//! The XDP program by itself: frames in, verdict and frames out (BPF_PROG_TEST_RUN), against what user space would do.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use shoal_perf::frame::Frame;
use shoal_probes::Limits;
use shoal_probes::maps::{Drop, Verdict};
use shoal_stun::discovery::{Answer, Endpoints, MAX_GROWTH, Other, answer};
use shoal_stun::message::Message;

use shoal_tests::rng::{Rng, seed};
use shoal_tests::xdp::Xdp;

const CLIENT: &str = "198.51.100.7:40000";
const CLIENT6: &str = "[2001:db8:7::7]:40000";
const NODE: &str = "192.0.2.1:3478";
const NODE6: &str = "[2001:db8::1]:3478";
const RELAY: u16 = 50_000;

/// A plain request, with the cookie.
const REQUEST: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// A node with both families, whose clients ask for their address; without privileges a note that `test` was skipped.
fn node(test: &str) -> Option<Xdp> {
    let mut xdp = Xdp::new(test)?;
    for node in [NODE, NODE6] {
        xdp.probes.add_endpoint(at(node), true, None).expect("the kernel agrees");
        xdp.probes.add_address(at(node).ip()).expect("the kernel agrees");
    }
    xdp.probes.add_relay_ports(RELAY..=RELAY + 99).expect("the kernel agrees");
    Some(xdp)
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

/// A datagram of a client to the node.
fn from_client(payload: &[u8]) -> Frame {
    Frame::new(at(CLIENT), at(NODE), payload)
}

fn from_client6(payload: &[u8]) -> Frame {
    Frame::new(at(CLIENT6), at(NODE6), payload)
}

fn random<const N: usize>(rng: &mut Rng) -> [u8; N] {
    [0; N].map(|_| rng.below(256) as u8)
}

/// All kinds of packets that are told apart, with what should come of them.
fn kinds() -> Vec<(&'static str, Vec<u8>, Verdict)> {
    use Verdict::{
        Answered, Checksum, Fragment, HeaderChecksum, Headers, Length, NotAnswered, Passed, Shape, Untouched,
    };
    let channel = [0x40, 0, 0, 5, b'h', b'e', b'l', b'l', b'o'];
    let allocate = [&[0, 3, 0, 0][..], &REQUEST[4..]].concat();
    let v4 = from_client(&REQUEST).bytes();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = v4.clone();
        change(&mut frame);
        frame
    };
    let mut kinds = vec![
        ("a request", v4.clone(), Answered),
        ("a request over IPv6", from_client6(&REQUEST).bytes(), Answered),
        ("a request in a VLAN", from_client(&REQUEST).tagged(&[5]).bytes(), Answered),
        ("a request in a VLAN in a VLAN", from_client6(&REQUEST).tagged(&[5, 6]).bytes(), Answered),
        ("a request three VLANs deep", from_client(&REQUEST).tagged(&[5, 6, 7]).bytes(), Untouched),
        ("a request without a checksum", changed(&|f| f[40..42].fill(0)), Answered),
        ("a request with a wrong checksum", changed(&|f| f[41] ^= 1), Checksum),
        ("a classic request", from_client(&[&[0, 1, 0, 0][..], &[9; 16]].concat()).bytes(), Answered),
        ("a request to many", changed(&|f| f[0] |= 1), NotAnswered),
        ("a request from port 0", Frame::new(at("198.51.100.7:0"), at(NODE), &REQUEST).bytes(), NotAnswered),
        ("a request from loopback", Frame::new(at("127.0.0.1:9"), at(NODE), &REQUEST).bytes(), NotAnswered),
        ("a request from many", Frame::new(at("224.0.0.1:9"), at(NODE), &REQUEST).bytes(), NotAnswered),
        ("a request from many of IPv6", Frame::new(at("[ff02::1]:9"), at(NODE6), &REQUEST).bytes(), NotAnswered),
        ("a request from IPv6's loopback", Frame::new(at("[::1]:9"), at(NODE6), &REQUEST).bytes(), NotAnswered),
        ("an Allocate request", from_client(&allocate).bytes(), Passed),
        ("ChannelData", from_client(&channel).bytes(), Passed),
        ("ChannelData over IPv6", from_client6(&channel).bytes(), Passed),
        (
            "a request to a relay",
            Frame::new(at(CLIENT), SocketAddr::new(at(NODE).ip(), RELAY), &REQUEST).bytes(),
            Passed,
        ),
        ("anything to a relay", Frame::new(at(CLIENT), SocketAddr::new(at(NODE).ip(), RELAY), &[0xff]).bytes(), Passed),
        ("nothing to a relay", Frame::new(at(CLIENT), SocketAddr::new(at(NODE).ip(), RELAY), &[]).bytes(), Passed),
        ("RTP", from_client(&[0x80; 40]).bytes(), Shape),
        ("nothing", from_client(&[]).bytes(), Shape),
        ("a request that is too long", from_client(&[&REQUEST[..], &[0; 4]].concat()).bytes(), Shape),
        ("ChannelData that is too short", from_client(&channel[..8]).bytes(), Shape),
        ("another port", Frame::new(at(CLIENT), SocketAddr::new(at(NODE).ip(), 53), &REQUEST).bytes(), Untouched),
        ("another address", Frame::new(at(CLIENT), at("192.0.2.2:3478"), &REQUEST).bytes(), Untouched),
        ("another address' relay port", Frame::new(at(CLIENT), at("192.0.2.2:50000"), &REQUEST).bytes(), Untouched),
        ("a wrong IPv4 checksum", changed(&|f| f[24] ^= 1), HeaderChecksum),
        ("UDP shorter than its header", changed(&|f| f[39] = 7), Length),
        ("UDP longer than its packet", changed(&|f| f[39] = 29), Length),
        ("another protocol", changed(&|f| f[23] = 6), Untouched),
        ("ARP", changed(&|f| f[12..14].copy_from_slice(&[8, 6])), Untouched),
    ];
    // Lengths in the IPv4 header, with its checksum made right again.
    let repaired = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = changed(change);
        repair(&mut frame);
        frame
    };
    kinds.extend([
        ("a packet longer than its frame", repaired(&|f| f[17] += 1), Length),
        ("a packet shorter than its header", repaired(&|f| f[17] = 19), Length),
        ("a packet shorter than its datagram", repaired(&|f| f[17] -= 1), Length),
        ("a first fragment", repaired(&|f| f[20] = 0x20), Fragment),
        ("a later fragment", repaired(&|f| f[21] = 3), Untouched),
    ]);
    // Four bytes of options.
    let mut options = v4.clone();
    options.splice(34..34, [1, 1, 1, 0]);
    (options[14], options[17]) = (0x46, options[17] + 4);
    kinds.push(("IPv4 with options", options, NotAnswered));
    let extended = |headers: &[[u8; 8]]| {
        let mut frame = from_client6(&REQUEST).bytes();
        for header in headers.iter().rev() {
            frame.splice(54..54, *header);
            frame[20] = header[0];
        }
        // The first header's kind goes into the fixed one, and so on.
        let mut kind = headers.first().map_or(17, |_| 60);
        for (nth, header) in headers.iter().enumerate() {
            if header[0] == 44 {
                kind = 44;
            }
            let place = if nth == 0 { 20 } else { 54 + (nth - 1) * 8 };
            frame[place] = kind;
            kind = 60;
        }
        if let Some(last) = headers.len().checked_sub(1) {
            frame[54 + last * 8] = 17;
        }
        frame[19] += 8 * headers.len() as u8;
        frame
    };
    let options = [60, 0, 1, 4, 0, 0, 0, 0];
    kinds.extend([
        ("IPv6 with options", extended(&[options]), NotAnswered),
        ("IPv6 with four headers", extended(&[options; 4]), NotAnswered),
        ("IPv6 with five headers", extended(&[options; 5]), Headers),
        ("an IPv6 first fragment", extended(&[[44, 0, 0, 1, 0, 0, 0, 1]]), Fragment),
        ("an IPv6 later fragment", extended(&[[44, 0, 0, 8, 0, 0, 0, 1]]), Untouched),
        ("an IPv6 atomic fragment", extended(&[[44, 0, 0, 0, 0, 0, 0, 1]]), NotAnswered),
    ]);
    kinds
}

/// Makes the checksum of an IPv4 header without options right.
fn repair(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[test]
fn each_kind_of_packet_has_its_verdict() {
    let Some(mut xdp) = node("each_kind_of_packet_has_its_verdict") else { return };
    for (kind, frame, expected) in kinds() {
        assert_eq!(xdp.verdict(&frame), expected, "{kind}: {frame:02x?}");
    }
}

#[test]
fn packets_cut_off_anywhere_are_never_served() {
    let Some(mut xdp) = node("packets_cut_off_anywhere_are_never_served") else { return };
    for (kind, frame, _) in kinds() {
        // The kernel runs no test on less than an Ethernet header.
        for length in 14..frame.len() {
            let verdict = xdp.verdict(&frame[..length]);
            assert!(!matches!(verdict, Verdict::Answered | Verdict::Passed), "{kind}, {length} bytes: {verdict:?}");
        }
    }
}

#[test]
fn fragments_can_be_refused() {
    let Some(mut xdp) = node("fragments_can_be_refused") else { return };
    xdp.limit(Limits { drop_fragments: true, ..Limits::default() });
    for (kind, frame, verdict) in kinds() {
        if verdict == Verdict::Fragment {
            assert_eq!(xdp.verdict(&frame), Verdict::FragmentDropped, "{kind}");
        }
    }
}

#[test]
fn answers_are_those_of_user_space() {
    let Some(mut xdp) = node("answers_are_those_of_user_space") else { return };
    let mut rng = Rng::new(seed());
    let (second, second6) = (at("192.0.2.9:3479"), at("[2001:db8::9]:3479"));
    for others in [false, true] {
        for (node, other) in [(at(NODE), second), (at(NODE6), second6)] {
            xdp.probes.add_endpoint(node, true, others.then_some(other)).expect("the kernel agrees");
        }
        for round in 0..400 {
            let six = rng.one_in(2);
            let (node, second) = if six { (at(NODE6), second6) } else { (at(NODE), second) };
            // Of addresses that hosts have.
            let (mut v4, mut v6) = (random::<4>(&mut rng), random::<16>(&mut rng));
            (v4[0], v6[0]) = (*rng.pick(&[1, 10, 126, 128, 223]), *rng.pick(&[0x20, 0xfc, 0xfe]));
            let ip: IpAddr = if six { v6.into() } else { v4.into() };
            let client = SocketAddr::new(ip, rng.between(1, 65_535) as u16);
            let mut request = REQUEST;
            request[8..].copy_from_slice(&random::<12>(&mut rng));
            let classic = rng.one_in(2);
            if classic {
                request[4..8].copy_from_slice(&random::<4>(&mut rng));
            }
            let mut frame = Frame::new(client, node, &request);
            frame.vlans = [&[][..], &[1], &[2, 3]][round % 3].to_vec();
            let (verdict, run) = xdp.run(&frame.bytes());
            assert_eq!(verdict, Verdict::Answered, "{frame:?}");
            let answered = Frame::parse(&run.frame).expect("a right frame");
            assert_eq!((answered.source, answered.destination), (node, client));
            assert_eq!(answered.vlans, frame.vlans);
            let other = if others { Other::Here(second.ip()) } else { Other::Nowhere };
            let endpoints = Endpoints { own: node.ip(), other, ports: [node.port(), second.port()] };
            let mut out = [0; 20 + MAX_GROWTH];
            let Answer::Send { from, to, length, .. } = answer(&request, node, client, &endpoints, &mut out) else {
                panic!("user space does not answer {request:02x?}");
            };
            assert_eq!((from, to), (node, client));
            assert_eq!(answered.payload, out[..length], "{frame:?}");
        }
    }
}

#[test]
fn what_is_dropped_for_its_shape_is_nothing_to_user_space() {
    let Some(mut xdp) = node("what_is_dropped_for_its_shape_is_nothing_to_user_space") else { return };
    let mut rng = Rng::new(seed());
    let mut counts = BTreeMap::<&str, u64>::new();
    for _ in 0..20_000 {
        let mut datagram = vec![0; rng.below(64) as usize];
        datagram.fill_with(|| rng.below(256) as u8);
        let length = datagram.len() as u64;
        if let [first, second, high, low, ..] = &mut datagram[..] {
            (*first, *second) = (*rng.pick(&[0, 1, 0x40, 0x7f, 0x80]), rng.below(4) as u8);
            // Most with a length that is about right.
            if !rng.one_in(4) {
                let behind = *rng.pick(&[4, 5, 7, 8, 20]);
                (*high, *low) = (0, length.saturating_sub(behind) as u8);
            }
        }
        let verdict = xdp.verdict(&from_client(&datagram).bytes());
        *counts.entry(verdict.name()).or_default() += 1;
        let stun = Message::parse(&datagram).is_ok();
        let channel = match datagram[..] {
            [0x40..=0x7f, _, high, low, ref data @ ..] => {
                let said = usize::from(u16::from_be_bytes([high, low]));
                (said..=said + 3).contains(&data.len())
            }
            _ => false,
        };
        assert!(verdict != Verdict::Shape || !stun && !channel, "{datagram:02x?}");
    }
    println!("{counts:?}");
    assert!(counts["shape"] > 1000 && counts["passed"] > 1000, "{counts:?}");
}

#[test]
fn blocked_networks_are_dropped_until_they_are_not() {
    let Some(mut xdp) = node("blocked_networks_are_dropped_until_they_are_not") else { return };
    let (v4, v6) = (from_client(&REQUEST).bytes(), from_client6(&REQUEST).bytes());
    let near = Frame::new(at("198.51.100.8:40000"), at(NODE), &REQUEST).bytes();
    let net = |text: &str| text.parse().expect("a network");
    xdp.probes.block(net("198.51.100.7/32")).expect("the kernel agrees");
    assert_eq!((xdp.verdict(&v4), xdp.verdict(&near)), (Verdict::Blocked, Verdict::Answered));
    assert_eq!(xdp.verdict(&v6), Verdict::Answered);
    xdp.probes.block(net("198.51.0.0/16")).expect("the kernel agrees");
    xdp.probes.block(net("2001:db8:7::/48")).expect("the kernel agrees");
    assert_eq!((xdp.verdict(&near), xdp.verdict(&v6)), (Verdict::Blocked, Verdict::Blocked));
    // Nor does anything else of it come through, but only to our ports.
    let relay = Frame::new(at(CLIENT), SocketAddr::new(at(NODE).ip(), RELAY), &[1]).bytes();
    let elsewhere = Frame::new(at(CLIENT), SocketAddr::new(at(NODE).ip(), 53), &[1]).bytes();
    assert_eq!((xdp.verdict(&relay), xdp.verdict(&elsewhere)), (Verdict::Blocked, Verdict::Untouched));
    xdp.probes.unblock(net("198.51.0.0/16")).expect("the kernel agrees");
    assert_eq!((xdp.verdict(&v4), xdp.verdict(&near)), (Verdict::Blocked, Verdict::Answered));
    xdp.probes.unblock(net("198.51.100.7/32")).expect("the kernel agrees");
    xdp.probes.unblock(net("2001:db8:7::/48")).expect("the kernel agrees");
    assert_eq!((xdp.verdict(&v4), xdp.verdict(&v6)), (Verdict::Answered, Verdict::Answered));
    // Shorter than what the gate has a bit for.
    xdp.probes.block(net("2000::/3")).expect("the kernel agrees");
    xdp.probes.block(net("198.0.0.0/7")).expect("the kernel agrees");
    assert_eq!((xdp.verdict(&v4), xdp.verdict(&v6)), (Verdict::Blocked, Verdict::Blocked));
    xdp.probes.unblock(net("2000::/3")).expect("the kernel agrees");
    xdp.probes.unblock(net("198.0.0.0/7")).expect("the kernel agrees");
    assert_eq!((xdp.verdict(&v4), xdp.verdict(&v6)), (Verdict::Answered, Verdict::Answered));
    assert!(xdp.probes.unblock(net("203.0.113.0/24")).is_err(), "it was never blocked");
}

/// Packets that pass at most of a rate since `start`, when all of a second's came at once, with one for the moment between.
fn most(per_second: u32, start: Instant) -> u64 {
    (f64::from(per_second) * (1.0 + start.elapsed().as_secs_f64())).ceil() as u64 + 1
}

#[test]
fn a_source_has_its_rate_and_others_have_theirs() {
    const RATE: u32 = 100;
    let Some(mut xdp) = node("a_source_has_its_rate_and_others_have_theirs") else { return };
    xdp.limit(Limits { source: RATE, ..Limits::default() });
    let relay = |source: &str| {
        let node = if source.starts_with('[') { NODE6 } else { NODE };
        Frame::new(at(source), SocketAddr::new(at(node).ip(), RELAY), &[1]).bytes()
    };
    let cases = [
        // Another port is no other source, nor is another address of the same /64.
        ("198.51.100.1:1", "198.51.100.1:2", "198.51.100.2:1"),
        ("[2001:db8:1::1]:1", "[2001:db8:1::2]:1", "[2001:db8:1:1::1]:1"),
    ];
    for (source, same, other) in cases {
        let start = Instant::now();
        let counts = xdp.repeat(&relay(source), 3_000);
        assert_eq!(counts["passed"] + counts["source_rate"], 3_000, "{counts:?}");
        let more = xdp.repeat(&relay(same), 3_000);
        let passed = counts["passed"] + more.get("passed").unwrap_or(&0);
        assert!((RATE.into()..=most(RATE, start)).contains(&passed), "{counts:?}, {more:?}");
        let counts = xdp.repeat(&relay(other), 50);
        assert_eq!(counts, BTreeMap::from([("passed", 50)]));
    }
    thread::sleep(Duration::from_millis(20));
    assert_eq!(xdp.verdict(&relay(cases[0].0)), Verdict::Passed, "time passes");
}

#[test]
fn a_network_has_its_rate() {
    const RATE: u32 = 200;
    let Some(mut xdp) = node("a_network_has_its_rate") else { return };
    xdp.limit(Limits { source: 20, network: RATE, ..Limits::default() });
    let (start, mut counts) = (Instant::now(), BTreeMap::<&str, u64>::new());
    for host in 0..20 {
        let frame =
            Frame::new(SocketAddr::from(([198, 51, 100, host], 9)), SocketAddr::new(at(NODE).ip(), RELAY), &[1]);
        for (verdict, count) in xdp.repeat(&frame.bytes(), 20) {
            *counts.entry(verdict).or_default() += count;
        }
    }
    let passed = counts["passed"];
    assert!((RATE.into()..=most(RATE, start)).contains(&passed) && counts["network_rate"] > 0, "{counts:?}");
    let other = Frame::new(at("198.51.101.1:9"), SocketAddr::new(at(NODE).ip(), RELAY), &[1]);
    assert_eq!(xdp.verdict(&other.bytes()), Verdict::Passed);
}

#[test]
fn under_attack_unknown_sources_are_kept_short_and_known_ones_are_not() {
    let Some(mut xdp) = node("under_attack_unknown_sources_are_kept_short_and_known_ones_are_not") else { return };
    xdp.limit(Limits { new_source: 10, attack: 10_000, ..Limits::default() });
    let node = SocketAddr::new(at(NODE).ip(), RELAY);
    let known = at("203.0.113.5:9");
    xdp.probes.know(known.ip(), u64::MAX).expect("the kernel agrees");
    let (known, stranger) =
        (Frame::new(known, node, &[1]).bytes(), Frame::new(at("203.0.113.6:9"), node, &[1]).bytes());
    // 10,000 in a second are 1,000 in a tenth.
    assert_eq!(xdp.repeat(&stranger, 900), BTreeMap::from([("passed", 900)]));
    let flood = Frame::new(at("198.51.100.9:9"), node, &[1]).bytes();
    let counts = xdp.repeat(&flood, 5_000);
    assert!(counts["new_source_rate"] > 3_000, "{counts:?}");
    assert_eq!(xdp.repeat(&known, 1_000), BTreeMap::from([("passed", 1_000)]));
    let counts = xdp.repeat(&stranger, 100);
    assert!(counts["passed"] <= 15 && counts["new_source_rate"] >= 85, "{counts:?}");
    // A second after the last of it all is well.
    thread::sleep(Duration::from_millis(1_300));
    assert_eq!(xdp.repeat(&stranger, 900), BTreeMap::from([("passed", 900)]));
}

#[test]
fn binding_requests_have_a_rate_of_their_own() {
    let Some(mut xdp) = node("binding_requests_have_a_rate_of_their_own") else { return };
    xdp.limit(Limits { bindings: 100, ..Limits::default() });
    let frame = from_client(&REQUEST).bytes();
    let mut counts = BTreeMap::<&str, u64>::new();
    let start = Instant::now();
    for _ in 0..300 {
        *counts.entry(xdp.verdict(&frame).name()).or_default() += 1;
    }
    assert!((100..=most(100, start)).contains(&counts["answered"]), "{counts:?}");
    assert_eq!(counts["answered"] + counts["binding_rate"], 300, "{counts:?}");
    assert_eq!(xdp.verdict(&from_client(&[0x40, 0, 0, 0]).bytes()), Verdict::Passed, "others are not concerned");
}

#[test]
fn drops_are_sampled() {
    let Some(mut xdp) = node("drops_are_sampled") else { return };
    let frame = from_client(&[0x80; 40]).bytes();
    assert_eq!(xdp.verdict(&frame), Verdict::Shape);
    assert_eq!(xdp.probes.next_drop(), None, "nobody asked for samples");
    xdp.limit(Limits { sample_every: 1, ..Limits::default() });
    assert_eq!(xdp.verdict(&frame), Verdict::Shape);
    let drop = xdp.probes.next_drop().expect("a sample");
    let Drop { source, destination, source_port, destination_port, verdict, length, sampled, sample, at_ns } = drop;
    assert_eq!((shoal_probes::ip(source), source_port), (at(CLIENT).ip(), at(CLIENT).port()));
    assert_eq!((shoal_probes::ip(destination), destination_port), (at(NODE).ip(), at(NODE).port()));
    assert_eq!((verdict, length as usize, sampled), (Verdict::Shape as u32, frame.len(), 16));
    assert!(sample == [0x80; 16] && at_ns > 0);
    xdp.limit(Limits { sample_every: 100, ..Limits::default() });
    xdp.repeat(&frame, 10_000);
    assert_eq!(std::iter::from_fn(|| xdp.probes.next_drop()).count(), 100);
}
