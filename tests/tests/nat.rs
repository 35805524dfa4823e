//! The NAT lab against itself: each kind by bare datagrams, then by other people's clients and server.

use std::env;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use shoal_stun::message::{Builder, ChangeRequest, Class, Message, Method, OtherAddress, TransactionId};
use shoal_tests::lab::until;
use shoal_tests::natlab::{
    self, Detector, FIRST_PORT, Family, Found, Kind, NatLab, Plan, Server, arrive, knock, of_process, punch, seen_by,
    sweep,
};
use shoal_tests::process::Process;
use shoal_tests::tool;

#[test]
fn each_kind_does_what_it_says() {
    if !natlab::possible("kinds of NAT") {
        return;
    }
    let lab = NatLab::start(&with_ipv6());
    thread::scope(|scope| {
        for side in lab.sides() {
            let lab = &lab;
            scope.spawn(move || {
                let kind = side.kind();
                assert_eq!(side.probe(lab, Family::V4), kind.behaviour(), "{kind}, IPv4");
                assert_eq!(side.probe(lab, Family::V6), kind.behaviour_v6(), "{kind}, IPv6");
            });
        }
    });
}

fn with_ipv6() -> [Plan; Kind::ALL.len()] {
    Kind::ALL.map(|kind| Plan { ipv6: true, ..kind.into() })
}

#[test]
fn those_can_punch_who_should() {
    if !natlab::possible("pairs of NATs") {
        return;
    }
    let kinds: Vec<Kind> = Kind::ALL.into_iter().chain(Kind::ALL).collect();
    let lab = NatLab::start(&kinds);
    let (left, right) = lab.sides().split_at(Kind::ALL.len());
    let rows: Vec<Vec<bool>> = thread::scope(|scope| {
        let pair = |one, other| {
            let server = lab.hub().udp((lab.addresses()[0], 0).into());
            scope.spawn(move || punch(one, other, &server))
        };
        let rows: Vec<Vec<_>> = left.iter().map(|one| right.iter().map(|other| pair(one, other)).collect()).collect();
        let ended = |row: Vec<ScopedJoinHandle<'_, bool>>| {
            row.into_iter().map(|pair| pair.join().expect("no probe panics")).collect()
        };
        rows.into_iter().map(ended).collect()
    });
    for (one, row) in left.iter().zip(&rows) {
        let cells: Vec<&str> = row.iter().map(|connected| if *connected { "yes" } else { " no" }).collect();
        println!("{:22} {}", one.kind(), cells.join(" "));
    }
    for (one, row) in left.iter().zip(rows) {
        for (other, connected) in right.iter().zip(row) {
            assert_eq!(connected, one.kind().punches(other.kind()), "{} and {}", one.kind(), other.kind());
        }
    }
}

#[test]
fn ports_of_a_sequential_nat_can_be_predicted() {
    if !natlab::possible("port prediction") {
        return;
    }
    let steps = [1, 2, -3];
    let mut kinds = vec![Kind::PortRestricted];
    kinds.extend(steps.map(|step| Kind::Sequential { step }));
    let lab = NatLab::start(&kinds);
    let [server, other, third] = [0, 0, 1].map(|nth| lab.hub().udp((lab.addresses()[nth], 0).into()));
    let (peer, predicted) = lab.sides().split_first().expect("there are several");
    for (side, step) in predicted.iter().zip(steps) {
        let expected = |nth| SocketAddr::from((side.public(), FIRST_PORT.wrapping_add_signed(step * nth)));
        let sockets = [side.socket(Family::V4), peer.socket(Family::V4)];
        for (nth, server) in [&server, &other, &third, &server].into_iter().enumerate() {
            let seen = seen_by(&sockets[0], server);
            assert_eq!(seen, Some(expected(nth as i16 % 3)), "step {step}");
        }
        let mapped = seen_by(&sockets[1], &server).expect("the server hears the peer");
        assert!(!knock(&sockets, [mapped, expected(2)]), "step {step}: the last port is not the next one");

        // The peer's address and port in vain have taken a port as well, so a new socket of the peer.
        let sockets = [side.socket(Family::V4), peer.socket(Family::V4)];
        let mapped = seen_by(&sockets[1], &server).expect("the server hears the peer");
        assert_eq!(seen_by(&sockets[0], &server), Some(expected(4)), "step {step}");
        assert!(knock(&sockets, [mapped, expected(5)]), "step {step}: the next port is known");
    }
}

#[test]
fn packets_are_lost_and_slowed_as_planned() {
    if !natlab::possible("loss and rate") {
        return;
    }
    let lossy = Plan { lost: 100, ..Kind::PortRestricted.into() };
    let lossy_too = Plan { kind: Kind::Sequential { step: 1 }, ..lossy };
    let slow = Plan { rate: Some(1000), ..Kind::PortRestricted.into() };
    let lab = NatLab::start(&[lossy, lossy_too, slow]);
    let server = lab.hub().udp((lab.addresses()[0], 0).into());
    let to = server.local_addr().unwrap();
    for side in lab.sides() {
        let client = side.socket(Family::V4);
        let mapped = seen_by(&client, &server).expect("not everything is lost");
        for (way, from, to, peer) in [("up", &client, &server, to), ("down", &server, &client, mapped)] {
            let plan = side.plan();
            // With headers 1242 bytes, so 2 Mbit/s if the machine has time.
            let (arrived, took) = arrive(from, to, peer, (200, 1200), Duration::from_millis(5));
            println!("{} {way}: {arrived} of 200", side.kind());
            let range = match plan.rate {
                // What passes in the time, a full bucket, and a queue that holds as much and 50 ms more.
                Some(rate) => 50..=(took.as_millis() as u32 * rate / (1242 * 8) + 35),
                // 20 are lost; chances are one in a million that it is less than 2 or more than 42.
                None => 158..=198,
            };
            assert!(range.contains(&arrived), "{arrived} of 200, not {range:?}, went {way} in {took:?}: {plan:?}");
        }
    }
}

#[test]
fn clients_of_others_find_the_type() {
    const NAME: &str = "NAT types with coturn";
    if !natlab::possible(NAME) {
        return;
    }
    let Some(turnserver) = tool::need(NAME, "turnserver") else { return };
    let Some(detectors) = Detector::all(NAME) else { return };
    let lab = NatLab::start(&with_ipv6());
    let server = Server::coturn(&lab, &turnserver);
    check_types(&lab, &server, &detectors);
}

#[test]
fn clients_of_others_find_the_type_by_shoal() {
    const NAME: &str = "NAT types with shoal";
    if !natlab::possible(NAME) {
        return;
    }
    let Some(detectors) = Detector::all(NAME) else { return };
    let lab = NatLab::start(&with_ipv6());
    check_types(&lab, &Server::shoal(&lab), &detectors);
}

#[test]
fn two_nodes_with_one_address_each_find_the_type_together() {
    const NAME: &str = "NAT types with two partners";
    if !natlab::possible(NAME) {
        return;
    }
    let Some(detectors) = Detector::all(NAME) else { return };
    let lab = NatLab::start(&with_ipv6());
    let [server, mut partner] = Server::shoal_partners(&lab);
    let own = lab.addresses()[3];
    let ask = |change| binding(&lab.hub().udp((own, 0).into()), server.told().v4, change);
    until("they have heard of each other", Duration::from_secs(10), || ask(false).is_some_and(|answer| answer.other));
    check_types(&lab, &server, &detectors);

    // Nobody may take a dead partner's silence for a NAT that lets nothing in.
    partner.process().kill();
    until("the partner is missed", Duration::from_secs(10), || ask(false).is_some_and(|answer| !answer.other));
    assert_eq!(ask(true), Some(Answer { refused: true, other: false }), "CHANGE-REQUEST is refused");
    assert_eq!(ask(false), Some(Answer { refused: false, other: false }), "and clients are still told their address");
}

/// What came back for a Binding request.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    refused: bool,
    /// Whether it names another address.
    other: bool,
}

/// Asks, with CHANGE-REQUEST for both address and port if `change`.
fn binding(socket: &UdpSocket, server: SocketAddr, change: bool) -> Option<Answer> {
    let mut request = [0; 64];
    let mut message = Builder::new(&mut request, Method::BINDING, Class::Request, TransactionId::new([7; 12]));
    if change {
        message.add(&ChangeRequest { address: true, port: true });
    }
    let length = message.finish().expect("there is room");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("the time is not zero");
    socket.send_to(&request[..length], server).expect("the hub reaches itself");
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).ok()?;
    let answer = Message::parse(&answer[..length]).expect("it is STUN");
    let other = answer.read::<OtherAddress>().expect("it is well formed").is_some();
    Some(Answer { refused: answer.class() == Class::Error, other })
}

/// Runs all `detectors` on all sides at once; prints what they found, and compares it.
fn check_types(lab: &NatLab, server: &Server, detectors: &[Detector]) {
    let found: Vec<Vec<Found>> = thread::scope(|scope| {
        let run = |side, detector: &Detector| {
            let detector = detector.clone();
            scope.spawn(move || detector.run(lab, side, server.told()))
        };
        let runs = |side| detectors.iter().map(|detector| run(side, detector)).collect();
        let rows: Vec<Vec<_>> = lab.sides().iter().map(runs).collect();
        let ended = |row: Vec<ScopedJoinHandle<'_, Found>>| {
            row.into_iter().map(|run| run.join().expect("it found a type")).collect()
        };
        rows.into_iter().map(ended).collect()
    });
    let row = |first: &str, cells: Vec<String>| println!("{first:21}| {}", cells.join(" | "));
    row("", detectors.iter().map(|detector| format!("{detector:34}")).collect());
    for (side, found) in lab.sides().iter().zip(&found) {
        row(&side.kind().to_string(), found.iter().map(|found| format!("{found:34}")).collect());
    }
    for (side, found) in lab.sides().iter().zip(found) {
        for (detector, found) in detectors.iter().zip(found) {
            assert_eq!(found, detector.expected(side.kind()), "{detector} behind {}", side.kind());
        }
    }
}

#[test]
fn what_a_killed_run_left_is_swept() {
    if !natlab::possible("leftovers of a killed run") {
        return;
    }
    let own = NatLab::start(&[Kind::PortRestricted]);
    let mut other = Command::new(env::current_exe().expect("a test knows its own path"));
    other.args(["--exact", "those_can_punch_who_should"]).env_remove("SHOAL_SKIP_FILE");
    let mut other = Process::start("another run", &mut other, &own.dir().join("other.log"));
    until("the other run has a lab", Duration::from_secs(30), || of_process(other.id()).len() > 5);
    other.kill();
    let left = of_process(other.id());
    let mut left_too = Command::new("nsenter");
    left_too.arg(format!("--net=/run/netns/{}", left[0])).args(["--", "sleep", "1000"]);
    let mut left_too = Process::start("sleep", &mut left_too, &own.dir().join("sleep.log"));
    thread::sleep(Duration::from_millis(100));
    assert_eq!(left_too.poll(), None, "{}", left_too.output());

    sweep();
    assert_eq!(of_process(other.id()), Vec::<String>::new());
    assert!(left_too.wait(Duration::from_secs(5)).is_some(), "a process was left in a namespace");
    assert_eq!(own.sides()[0].probe(&own, Family::V4), Kind::PortRestricted.behaviour(), "ours is untouched");
}
