//! The node with XDP in front, over veth with real NATs: nothing is different for clients, but that plain Binding requests are
//! answered before they reach a socket.

use std::thread;
use std::time::Duration;

use shoal_probes::maps::Verdict;
use shoal_stun::message::{MAGIC_COOKIE, MappedAddress, Message, XorMappedAddress};
use shoal_tests::metrics::Metrics;
use shoal_tests::natlab::{
    Echo, Family, Kind, NatLab, Peer, Plan, Server, Side, Stack, Transport, Uclient, exchange, nat_type,
};
use shoal_tests::tool;
use shoal_tests::xdp::{assert_types, lab};

/// For an answer; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The node looks at the program's counters twice in a second.
const LAG: Duration = Duration::from_secs(2);

/// The node's metrics.
fn metrics(lab: &NatLab) -> Metrics {
    let url = format!("http://{}/metrics", Server::ADMIN);
    let output = tool::run(lab.hub().command("curl").args(["--silent", "--show-error", &url]));
    Metrics::parse(&tool::stdout(&output))
}

fn packets(metrics: &Metrics, verdict: Verdict) -> f64 {
    metrics.sum("shoal_xdp_packets_total", &[("verdict", verdict.name())])
}

#[test]
fn types_are_right_and_the_driver_answers() {
    let kinds =
        [Kind::Open, Kind::FullCone, Kind::AddressRestricted, Kind::PortRestricted, Kind::Symmetric, Kind::Blocked];
    let Some((lab, _probes)) = lab("types_are_right_and_the_driver_answers", &kinds) else { return };
    let server = Server::shoal_with_xdp(&lab);
    assert_types(&lab, server.told());
    // shoal-peer's requests have attributes, and go to user space. These have none.
    thread::sleep(LAG);
    let before = packets(&metrics(&lab), Verdict::Answered);
    let mut asked = 0;
    for side in lab.sides().iter().filter(|side| side.kind() != Kind::Blocked) {
        let client = side.socket(Family::V4);
        client.set_read_timeout(Some(PATIENCE)).expect("the time is not zero");
        for cookie in [MAGIC_COOKIE, 0x1234_5678] {
            for nth in 0..10 {
                let request = [&[0, 1, 0, 0][..], &cookie.to_be_bytes(), &[nth; 12]].concat();
                client.send_to(&request, server.told().v4).expect("there is a route");
                let (mut answer, to) = ([0; 512], server.told().v4);
                let (length, from) = client.recv_from(&mut answer).expect("the driver answers");
                assert_eq!((from, &answer[4..20]), (to, &request[4..]));
                let answer = Message::parse(&answer[..length]).expect("an answer");
                let mapped = match cookie {
                    MAGIC_COOKIE => answer.read::<XorMappedAddress>().map(|mapped| mapped.map(|mapped| mapped.0)),
                    _ => answer.read::<MappedAddress>().map(|mapped| mapped.map(|mapped| mapped.0)),
                };
                assert_eq!(mapped.ok().flatten().map(|mapped| mapped.ip()), Some(side.public().into()), "{answer:?}");
                asked += 1;
            }
        }
    }
    thread::sleep(LAG);
    let metrics = metrics(&lab);
    assert_eq!(packets(&metrics, Verdict::Answered) - before, f64::from(asked));
    assert_eq!(metrics.sum("shoal_xdp_interfaces", &[("mode", "native")]), kinds.len() as f64);
    assert!(packets(&metrics, Verdict::Passed) >= 10.0, "what has attributes is user space's");
    for verdict in Verdict::ALL.into_iter().filter(|verdict| verdict.is_drop()) {
        assert_eq!(packets(&metrics, verdict), 0.0, "{}", verdict.name());
    }
}

#[test]
fn the_relay_works_behind_it() {
    let test = "the_relay_works_behind_it";
    let (Some(uclient), Some(peer)) = (tool::need(test, "turnutils_uclient"), tool::need(test, "turnutils_peer"))
    else {
        return;
    };
    let Some((lab, _probes)) =
        lab(test, &[Plan { ipv6: true, ..Kind::Open.into() }, Kind::Symmetric.into(), Kind::PortRestricted.into()])
    else {
        return;
    };
    let server = Server::shoal_with_xdp(&lab);
    let echo = Echo::start(&lab, &peer);
    thread::scope(|scope| {
        let (lab, uclient, echo, told) = (&lab, &uclient, &echo, server.told());
        for way in Uclient::UDP {
            for side in lab.sides().iter().filter(|side| side.plan().ipv6 || way.client == Family::V4) {
                scope.spawn(move || {
                    let counts = way.run(lab, side, uclient, told, echo);
                    let counts = counts.unwrap_or_else(|said| panic!("{way} behind {}:\n{said}", side.kind()));
                    println!("{way} behind {}: {counts:?}", side.kind());
                });
            }
        }
    });
    // Two that can only meet at the relay.
    let (serves, connects) = (&lab.sides()[1], &lab.sides()[2]);
    let serving = Peer::default().serve(&lab, serves, server.told());
    let met = Peer::with_relay().connect(&lab, connects, server.told(), serving.id(), 50_000);
    assert_eq!(met["path"], "relay", "{met}");
    serving.received();
    thread::sleep(LAG);
    let metrics = metrics(&lab);
    println!("{} passed", packets(&metrics, Verdict::Passed));
    assert!(packets(&metrics, Verdict::Passed) > 1_000.0);
    for verdict in Verdict::ALL.into_iter().filter(|verdict| verdict.is_drop()) {
        assert_eq!(packets(&metrics, verdict), 0.0, "{}", verdict.name());
    }
}

#[test]
fn webrtc_stacks_exchange_messages_behind_it() {
    let test = "webrtc_stacks_exchange_messages_behind_it";
    let (Some(chromium), Some(aiortc)) = (Stack::chromium(test), Stack::aiortc(test)) else { return };
    let Some((lab, _probes)) = lab(test, &[Kind::PortRestricted, Kind::Symmetric]) else { return };
    lab.make_router().expect("the hub is ours");
    let server = Server::shoal_with_xdp(&lab);
    let [one, other] = lab.sides() else { panic!("a lab of two") };
    for [offers, answers] in [[&chromium, &chromium], [&chromium, &aiortc], [&aiortc, &chromium]] {
        let pair = [(one, offers, Transport::Udp), (other, answers, Transport::Udp)];
        if let Err(why) = exchange(&lab, pair, server.told()) {
            panic!("{offers} with {answers}: {why}");
        }
    }
    thread::sleep(LAG);
    let metrics = metrics(&lab);
    // Both ends of each channel are at this node: that is user space's.
    assert!(metrics.sum("shoal_turn_relayed_datagrams_total", &[("by", "sockets")]) > 100.0);
    assert!(packets(&metrics, Verdict::NoNextHop) > 100.0);
    for verdict in Verdict::ALL.into_iter().filter(|verdict| verdict.is_drop()) {
        assert_eq!(packets(&metrics, verdict), 0.0, "{}", verdict.name());
    }
}

#[test]
fn channels_are_relayed_in_the_driver() {
    let test = "channels_are_relayed_in_the_driver";
    let (Some(uclient), Some(peer)) = (tool::need(test, "turnutils_uclient"), tool::need(test, "turnutils_peer"))
    else {
        return;
    };
    let open = Plan { ipv6: true, ..Kind::Open.into() };
    let Some((lab, _probes)) = lab(test, &[open, open, Kind::Symmetric.into()]) else { return };
    lab.make_router().expect("the hub is ours");
    let server = Server::shoal_with_xdp(&lab);
    let echo = Echo::behind(&lab, &lab.sides()[1], &peer);
    let run = &|way: &Uclient, side: &Side| {
        let counts = way.run(&lab, side, &uclient, server.told(), &echo);
        let counts = counts.unwrap_or_else(|said| panic!("{way} behind {}:\n{said}", side.kind()));
        println!("{way} behind {}: {counts:?}", side.kind());
        counts.sent
    };
    let sides = [&lab.sides()[0], &lab.sides()[2]];
    let messages: u32 = thread::scope(|scope| {
        let mut runs = Vec::new();
        for way in Uclient::UDP {
            let sides = sides.into_iter().filter(|side| side.plan().ipv6 || way.client == Family::V4);
            runs.extend(sides.map(|side| scope.spawn(move || run(way, side))));
        }
        runs.into_iter().map(|run| run.join().expect("all came back")).sum()
    });
    thread::sleep(LAG);
    let metrics = metrics(&lab);
    let relayed = |by: &str| metrics.sum("shoal_turn_relayed_datagrams_total", &[("by", by)]);
    let [in_driver, redirected] = [Verdict::Relayed, Verdict::Redirected].map(|verdict| packets(&metrics, verdict));
    println!(
        "{messages} messages; {} by XDP, {} by sockets; {redirected} redirected",
        relayed("xdp"),
        relayed("sockets")
    );
    for verdict in Verdict::ALL.into_iter().filter(|verdict| packets(&metrics, *verdict) > 0.0) {
        println!("{}: {}", verdict.name(), packets(&metrics, verdict));
    }
    // Each message goes there and back.
    assert!(relayed("xdp") + relayed("sockets") >= f64::from(2 * messages));
    assert_eq!(relayed("xdp"), in_driver + redirected, "what the driver has counted is in the books");
    assert!(redirected > f64::from(messages) / 2.0, "client and peer are at different interfaces");
    for verdict in Verdict::ALL.into_iter().filter(|verdict| verdict.is_drop()) {
        assert_eq!(packets(&metrics, verdict), 0.0, "{}", verdict.name());
    }
}

#[test]
fn without_privileges_or_an_interface_user_space_serves_alone() {
    let test = "without_privileges_or_an_interface_user_space_serves_alone";
    let (Some(_), Some((lab, _probes))) = (tool::need(test, "setpriv"), lab(test, &[Kind::Open])) else { return };
    let port = lab.sides()[0].port();
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
    for (interface, wrapper, says) in [
        (port, &bare[..], "the kernel lets this process load no eBPF"),
        ("nowhere0", &[][..], "cannot attach XDP to nowhere0"),
    ] {
        // It answers before it is handed over.
        let mut server = Server::shoal_at(&lab, &[interface], wrapper);
        let found = nat_type(&lab, &lab.sides()[0], server.told(), "modern");
        assert_eq!(found["type"], "OpenInternet", "{found}");
        assert_eq!(metrics(&lab).sum("shoal_xdp_interfaces", &[]), 0.0);
        let said = server.process().output();
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("WARN") && line.contains(says)).collect();
        assert_eq!(lines.len(), 1, "{said}");
        println!("{}", lines[0]);
    }
}
