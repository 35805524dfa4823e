//! The node with frames for user space (AF_XDP, copy mode), over veth with real NATs: nothing is different for clients, and what they
//! send and get has gone past the host's sockets.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use shoal_perf::frame::Frame;
use shoal_probes::Probes;
use shoal_probes::maps::Verdict;
use shoal_stun::message::MAGIC_COOKIE;
use shoal_tests::metrics::Metrics;
use shoal_tests::natlab::{
    Echo, Family, Kind, NatLab, Peer, Plan, Server, Side, Stack, Transport, Uclient, Way, exchange, nat_type,
};
use shoal_tests::tool;
use shoal_tests::xdp::{assert_types, lab_with};
use socket2::{Domain, Protocol, Socket};

/// For an answer; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The node looks at the program's counters twice in a second.
const LAG: Duration = Duration::from_secs(2);

/// Queues of each side's interface, so that each of the node's two shards has one: which one is the sending CPU's.
const QUEUES: u32 = 2;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// A lab whose sides' frames arrive by [`QUEUES`], with what keeps its programs; `None`: it was noted that `test` was skipped. The first
/// side leaves its checksums to nobody, as on one host; those of the others are as on a wire.
fn lab<P: Copy + Into<Plan>>(test: &str, plans: &[P]) -> Option<(NatLab, Probes)> {
    lab_with(test, plans, |lab, nth, side| {
        if nth > 0 {
            side.write_checksums().expect("the client's interface can be told so");
        }
        side.set_queues(lab.hub(), QUEUES).expect("a veth has a queue for each CPU");
    })
}

/// The node's metrics, when they have caught up.
fn metrics(lab: &NatLab) -> Metrics {
    thread::sleep(LAG);
    let url = format!("http://{}/metrics", Server::ADMIN);
    let output = tool::run(lab.hub().command("curl").args(["--silent", "--show-error", &url]));
    Metrics::parse(&tool::stdout(&output))
}

/// What has gone by frames.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Frames {
    received: f64,
    sent: f64,
    /// Received by a shard that did not have the client.
    handed_over: f64,
    /// What the program has passed on, by frames or to sockets.
    passed: f64,
}

impl Frames {
    /// Nothing must have been lost, or taken for wrong.
    fn read(lab: &NatLab) -> Self {
        let metrics = metrics(lab);
        let frames = |direction| metrics.sum("shoal_xdp_frames_total", &[("direction", direction)]);
        for verdict in Verdict::ALL.into_iter().filter(|verdict| verdict.is_drop()) {
            assert_eq!(metrics.sum("shoal_xdp_packets_total", &[("verdict", verdict.name())]), 0.0, "{verdict:?}");
        }
        assert_eq!(metrics.sum("shoal_xdp_frames_lost_total", &[]), 0.0);
        for reason in ["frame_malformed", "frame_checksum", "frame_source", "handover_full", "send_buffer_full"] {
            assert_eq!(metrics.sum("shoal_udp_drops_total", &[("reason", reason)]), 0.0, "{reason}");
        }
        let found = Self {
            received: frames("in"),
            sent: frames("out"),
            handed_over: metrics.sum("shoal_mesh_handovers_total", &[("kind", "frame")]),
            passed: metrics.sum("shoal_xdp_packets_total", &[("verdict", Verdict::Passed.name())]),
        };
        println!("{found:?}");
        found
    }
}

#[test]
fn types_are_right_by_frames() {
    let kinds =
        [Kind::Open, Kind::FullCone, Kind::AddressRestricted, Kind::PortRestricted, Kind::Symmetric, Kind::Blocked];
    let Some((lab, _probes)) = lab("types_are_right_by_frames", &kinds) else { return };
    let server = Server::shoal_by_frames(&lab, "copy", &[]);
    assert_types(&lab, server.told());
    let frames = Frames::read(&lab);
    let queues = f64::from(kinds.len() as u32 * QUEUES);
    assert_eq!(metrics(&lab).sum("shoal_xdp_sockets", &[("mode", "copy")]), queues, "each queue has a socket");
    // All that shoal-peer asks has attributes, and no request of it is without an answer but those from another address.
    assert!(frames.received >= 20.0 && frames.received == frames.passed, "{frames:?}");
    assert!(frames.sent >= 20.0, "{frames:?}");
}

#[test]
fn the_relay_works_by_frames() {
    let test = "the_relay_works_by_frames";
    let (Some(uclient), Some(peer)) = (tool::need(test, "turnutils_uclient"), tool::need(test, "turnutils_peer"))
    else {
        return;
    };
    let open = Plan { ipv6: true, ..Kind::Open.into() };
    let nated = [Kind::Symmetric, Kind::PortRestricted].map(|kind| Plan { ipv6: true, ..kind.into() });
    let Some((lab, _probes)) = lab(test, &[open, nated[0], nated[1]]) else { return };
    let server = Server::shoal_by_frames(&lab, "copy", &[]);
    let echo = Echo::start(&lab, &peer);
    thread::scope(|scope| {
        let (lab, uclient, echo, told) = (&lab, &uclient, &echo, server.told());
        for way in Uclient::UDP {
            for side in lab.sides() {
                scope.spawn(move || {
                    let counts = way.run(lab, side, uclient, told, echo);
                    let counts = counts.unwrap_or_else(|said| panic!("{way} behind {}:\n{said}", side.kind()));
                    println!("{way} behind {}: {counts:?}", side.kind());
                });
            }
        }
    });
    let frames = Frames::read(&lab);
    // Each message goes to the peer, which the host reaches by itself, and comes back to the client. What is left to sockets are peers'
    // datagrams for a relay that has just ended.
    assert!(frames.received > 2_000.0 && frames.received >= frames.passed * 0.99, "{frames:?}");
    assert!(frames.sent >= frames.received * 0.9, "{frames:?}");
    assert!(frames.handed_over > 0.0, "a client's queue and its owner are not one: {frames:?}");
}

#[test]
fn what_xdp_does_not_relay_comes_by_frames() {
    let test = "what_xdp_does_not_relay_comes_by_frames";
    let (Some(uclient), Some(peer)) = (tool::need(test, "turnutils_uclient"), tool::need(test, "turnutils_peer"))
    else {
        return;
    };
    let open = Plan { ipv6: true, ..Kind::Open.into() };
    let Some((lab, _probes)) = lab(test, &[open, open, open]) else { return };
    lab.make_router().expect("the hub is ours");
    let server = Server::shoal_by_frames_and_relaying(&lab);
    let echo = Echo::behind(&lab, &lab.sides()[1], &peer);
    thread::scope(|scope| {
        let (lab, uclient, echo, told) = (&lab, &uclient, &echo, server.told());
        for way in Uclient::UDP {
            for side in [&lab.sides()[0], &lab.sides()[2]] {
                scope.spawn(move || {
                    let counts = way.run(lab, side, uclient, told, echo);
                    let counts = counts.unwrap_or_else(|said| panic!("{way} behind {}:\n{said}", side.port()));
                    println!("{way} behind {}: {counts:?}", side.port());
                });
            }
        }
    });
    let frames = Frames::read(&lab);
    let metrics = metrics(&lab);
    let count = |verdict: Verdict| metrics.sum("shoal_xdp_packets_total", &[("verdict", verdict.name())]);
    let [redirected, not_relayed] = [Verdict::Redirected, Verdict::NotRelayed].map(count);
    let left =
        not_relayed + [Verdict::NoNextHop, Verdict::NoForwarding, Verdict::TooLong].map(count).iter().sum::<f64>();
    println!("{redirected} redirected, {not_relayed} not relayed, {left} with those that had no way");
    assert!(redirected > 200.0, "the program relays");
    // The first side's checksums are not complete.
    assert!(not_relayed > 100.0, "and leaves something");
    // What is left to sockets are peers' datagrams for a relay that has just ended.
    assert!(frames.received >= (frames.passed + left) * 0.99 && frames.received <= frames.passed + left, "{frames:?}");
}

#[test]
fn peers_meet_by_frames() {
    let kinds = [Kind::FullCone, Kind::Symmetric, Kind::PortRestricted, Kind::AddressRestricted];
    let Some((lab, _probes)) = lab("peers_meet_by_frames", &kinds) else { return };
    let server = Server::shoal_by_frames(&lab, "copy", &[]);
    let meet = |one: usize, other: usize| {
        let before = Frames::read(&lab);
        let (serves, connects) = (&lab.sides()[one], &lab.sides()[other]);
        let serving = Peer::default().serve(&lab, serves, server.told());
        let met = Peer::with_relay().connect(&lab, connects, server.told(), serving.id(), 50_000);
        assert_eq!(met["path"], Way::of(serves.kind(), connects.kind()).to_string(), "{met}");
        serving.received();
        let after = Frames::read(&lab);
        (after.received - before.received, after.sent - before.sent)
    };
    let (received, sent) = meet(0, 3);
    assert!(received >= 4.0 && sent >= 4.0, "registered and introduced: {received}, {sent}");
    // Both ways through the relay, 50,000 bytes and what acknowledges them.
    let (received, sent) = meet(1, 2);
    assert!(received >= 80.0 && sent >= 80.0, "relayed: {received}, {sent}");
}

#[test]
fn data_channels_by_frames() {
    let test = "data_channels_by_frames";
    let (Some(chromium), Some(aiortc)) = (Stack::chromium(test), Stack::aiortc(test)) else { return };
    let Some((lab, _probes)) = lab(test, &[Kind::PortRestricted, Kind::Symmetric]) else { return };
    let server = Server::shoal_by_frames(&lab, "copy", &[]);
    let [one, other] = lab.sides() else { panic!("a lab of two") };
    for [offers, answers] in [[&aiortc, &aiortc], [&chromium, &chromium], [&chromium, &aiortc], [&aiortc, &chromium]] {
        let pair = [(one, offers, Transport::Udp), (other, answers, Transport::Udp)];
        if let Err(why) = exchange(&lab, pair, server.told()) {
            panic!("{offers} with {answers}: {why}");
        }
    }
    let frames = Frames::read(&lab);
    assert!(frames.received > 50.0 && frames.sent > 50.0, "{frames:?}");
}

/// A Binding request with an attribute that may be ignored, so that it is user space's.
fn request(nth: u8, attribute: usize) -> Vec<u8> {
    let length = (4 + attribute) as u16;
    let head = [&[0, 1][..], &length.to_be_bytes(), &MAGIC_COOKIE.to_be_bytes(), &[nth; 12]].concat();
    [&head, &[0xc0, 1][..], &(attribute as u16).to_be_bytes(), &vec![nth; attribute]].concat()
}

fn answered(socket: &UdpSocket, request: &[u8]) -> bool {
    let mut answer = [0; 4096];
    socket.recv(&mut answer).is_ok_and(|length| length > 20 && answer[4..20] == request[4..20])
}

#[test]
fn datagrams_in_fragments_and_whole_ones_of_one_client_are_one_flow() {
    let test = "datagrams_in_fragments_and_whole_ones_of_one_client_are_one_flow";
    let Some((lab, _probes)) = lab(test, &[Plan { ipv6: true, ..Kind::Open.into() }]) else { return };
    let server = Server::shoal_by_frames(&lab, "copy", &[]);
    let clients = 8;
    for family in [Family::V4, Family::V6] {
        let to = if family == Family::V4 { server.told().v4 } else { server.told().v6 };
        for nth in 0..clients {
            let client = lab.sides()[0].socket(family);
            client.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
            for attribute in [8, 1_800, 8] {
                let request = request(nth, attribute);
                client.send_to(&request, to).expect("there is a route");
                assert!(answered(&client, &request), "{attribute} bytes, by {to}");
            }
        }
    }
    let frames = Frames::read(&lab);
    let first = metrics(&lab).sum("shoal_xdp_packets_total", &[("verdict", Verdict::Fragment.name())]);
    // Those in fragments came by sockets, and are answered the way that the others came.
    let clients = f64::from(clients) * 2.0;
    assert_eq!((frames.received, frames.sent, first), (clients * 2.0, clients * 3.0, clients));
}

#[test]
fn what_finds_no_room_is_counted() {
    let test = "what_finds_no_room_is_counted";
    let Some((lab, _probes)) = lab(test, &[Kind::Open]) else { return };
    let mut server = Server::shoal_by_frames(&lab, "copy", &[]);
    let (client, to) = (lab.sides()[0].socket(Family::V4), server.told().v4);
    let node = Pid::from_raw(server.process().id() as i32).expect("it runs");
    kill_process(node, Signal::STOP).expect("it is ours");
    // More than a queue has places for.
    for nth in 0..10_000_u32 {
        client.send_to(&request(nth as u8, 8), to).expect("there is a route");
    }
    thread::sleep(Duration::from_millis(200));
    kill_process(node, Signal::CONT).expect("it is ours");
    let metrics = metrics(&lab);
    let received = metrics.sum("shoal_xdp_frames_total", &[("direction", "in")]);
    let lost = metrics.sum("shoal_xdp_frames_lost_total", &[]);
    let passed = metrics.sum("shoal_xdp_packets_total", &[("verdict", Verdict::Passed.name())]);
    println!("{passed} passed, {received} received, {lost} lost");
    assert_eq!(received + lost, passed);
    assert!(received >= 2_048.0 && lost > 0.0);
    // What was taken is free again. Answers that have waited would leave the last one no room.
    client.set_read_timeout(Some(Duration::from_millis(200))).expect("the time is not zero");
    while client.recv(&mut [0; 512]).is_ok() {}
    client.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
    let last = request(255, 12);
    client.send_to(&last, to).expect("there is a route");
    assert!(answered(&client, &last), "the node answers again");
}

/// Sends a packet from a side's client as it is, but for the IP header's checksum.
fn send_raw(side: &Side, packet: &[u8], to: SocketAddr) {
    // IPPROTO_RAW (raw(7)): with the header.
    let socket = side.client().within(|| Socket::new(Domain::IPV4, socket2::Type::RAW, Some(Protocol::from(255))));
    let socket = socket.expect("root may open one");
    socket.send_to(packet, &to.into()).expect("there is a route");
}

#[test]
fn a_wrong_checksum_is_dropped_and_none_is_right() {
    let test = "a_wrong_checksum_is_dropped_and_none_is_right";
    let Some((lab, _probes)) = lab(test, &[Kind::Open]) else { return };
    let server = Server::shoal_by_frames(&lab, "copy", &[]);
    let (side, to) = (&lab.sides()[0], server.told().v4);
    let client = side.socket(Family::V4);
    client.set_read_timeout(Some(Duration::from_millis(500))).expect("the time is not zero");
    let own = client.local_addr().expect("it is bound");
    let request = request(1, 8);
    let packet = Frame::new(own, to, &request).bytes()[ETHERNET..].to_vec();
    // Where the checksum is in a UDP header behind an IPv4 header.
    let field = 20 + 6;
    let mut wrong = packet.clone();
    wrong[field] ^= 0x55;
    let mut none = packet.clone();
    none[field..field + 2].fill(0);
    for (packet, is_answered) in [(&packet, true), (&wrong, false), (&none, true)] {
        send_raw(side, packet, SocketAddr::new(to.ip(), 0));
        assert_eq!(answered(&client, &request), is_answered);
    }
    let metrics = metrics(&lab);
    assert_eq!(metrics.sum("shoal_xdp_frames_total", &[("direction", "in")]), 3.0);
    assert_eq!(metrics.sum("shoal_xdp_frames_total", &[("direction", "out")]), 2.0);
    assert_eq!(metrics.sum("shoal_udp_drops_total", &[("reason", "frame_checksum")]), 1.0);
}

#[test]
fn where_frames_cannot_be_had_sockets_serve() {
    let test = "where_frames_cannot_be_had_sockets_serve";
    let (Some(_), Some((lab, _probes))) = (tool::need(test, "setpriv"), lab(test, &[Kind::Open])) else { return };
    let bare = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", "--"];
    for (mode, wrapper, says) in [
        ("copy", &bare[..], "the kernel lets this process open no AF_XDP socket"),
        // No veth can; where a device can, nobody has tried it.
        ("zero-copy", &[][..], "its driver cannot do zero-copy"),
    ] {
        let mut server = Server::shoal_by_frames(&lab, mode, wrapper);
        let found = nat_type(&lab, &lab.sides()[0], server.told(), "modern");
        assert_eq!(found["type"], "OpenInternet", "{found}");
        let metrics = metrics(&lab);
        assert_eq!(metrics.sum("shoal_xdp_interfaces", &[("mode", "native")]), 1.0);
        assert_eq!(metrics.sum("shoal_xdp_sockets", &[]) + metrics.sum("shoal_xdp_frames_total", &[]), 0.0);
        let said = server.process().output();
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("WARN") && line.contains(says)).collect();
        assert_eq!(lines.len(), 1, "{said}");
        println!("{}", lines[0]);
    }
}
