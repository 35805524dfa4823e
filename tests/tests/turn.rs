//! TURN clients of others through a relay, each behind a NAT that leaves them no other way. Today the relay is coturn.

use std::thread;
use std::time::Instant;

use shoal_tests::natlab::{self, Echo, Kind, NatLab, Plan, Server, Stack, Told, Uclient, exchange};
use shoal_tests::tool;

/// Two clients that cannot reach each other: neither port can be told.
fn lab() -> NatLab {
    NatLab::start(&[Plan { ipv6: true, ..Kind::Symmetric.into() }; 2])
}

#[test]
fn what_uclient_sends_comes_back() {
    const NAME: &str = "turnutils_uclient with coturn";
    if !natlab::possible(NAME) {
        return;
    }
    let Some(turnserver) = tool::need(NAME, "turnserver") else { return };
    let Some(uclient) = tool::need(NAME, "turnutils_uclient") else { return };
    let Some(peer) = tool::need(NAME, "turnutils_peer") else { return };
    let lab = lab();
    let server = Server::coturn(&lab, &turnserver);
    let (told, echo, side) = (server.told(), Echo::start(&lab, &peer), &lab.sides()[0]);
    let failures = thread::scope(|scope| {
        let (lab, uclient, echo) = (&lab, &uclient, &echo);
        let run = |way: &'static Uclient| (way, scope.spawn(move || way.run(lab, side, uclient, told, echo)));
        let runs: Vec<_> = Uclient::UDP.iter().chain(Uclient::TCP).map(run).collect();
        let mut failures = Vec::new();
        for (way, run) in runs {
            match run.join().expect("uclient ended") {
                Ok(counts) => println!("{way:35} {counts:?}"),
                Err(text) => failures.push(format!("{way}:\n{text}")),
            }
        }
        failures
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    let wrong = Told { password: "not a secret".to_owned(), ..told.clone() };
    let refused = Uclient::UDP[1].run(&lab, side, &uclient, &wrong, &echo);
    assert!(refused.is_err_and(|text| text.contains("Cannot complete Allocation")), "a wrong password is refused");
}

#[test]
fn webrtc_stacks_exchange_messages_through_the_relay() {
    const NAME: &str = "WebRTC with coturn";
    if !natlab::possible(NAME) {
        return;
    }
    let Some(turnserver) = tool::need(NAME, "turnserver") else { return };
    let (Some(chromium), Some(aiortc)) = (Stack::chromium(NAME), Stack::aiortc(NAME)) else { return };
    let lab = lab();
    let server = Server::coturn(&lab, &turnserver);
    let [one, other] = lab.sides() else { panic!("a lab of two") };
    for [offers, answers] in [[&aiortc, &aiortc], [&chromium, &chromium], [&chromium, &aiortc], [&aiortc, &chromium]] {
        let started = Instant::now();
        let exchanged = exchange(&lab, [(one, offers), (other, answers)], server.told());
        assert!(exchanged.is_ok(), "{offers} with {answers}: {}", exchanged.unwrap_err());
        println!("{offers:10} with {answers:10} {:?}", started.elapsed());
    }
    let wrong = Told { password: "not a secret".to_owned(), ..server.told().clone() };
    for stack in [&aiortc, &chromium] {
        let refused = exchange(&lab, [(one, stack), (other, stack)], &wrong);
        let why = refused.expect_err("with a wrong password there is no other way");
        assert!(why.contains("no candidates"), "{stack}: {why}");
    }
}
