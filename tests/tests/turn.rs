//! TURN clients of others through a relay, each behind a NAT that leaves them no other way: ours, and coturn's beside it, which
//! shows that what fails is not the lab.

use std::thread;
use std::time::Instant;

use shoal_tests::natlab::{self, Echo, Kind, NatLab, Plan, Server, Stack, Told, Transport, Uclient, exchange};
use shoal_tests::tool;

/// Two clients that cannot reach each other: neither port can be told.
fn lab() -> NatLab {
    NatLab::start(&[Plan { ipv6: true, ..Kind::Symmetric.into() }; 2])
}

#[test]
fn what_uclient_sends_comes_back_through_ours() {
    let ways = [Uclient::UDP, Uclient::TCP, Uclient::TLS].concat();
    uclient("turnutils_uclient", &ways, Server::shoal);
}

#[test]
fn what_uclient_sends_comes_back_through_coturn() {
    const NAME: &str = "turnutils_uclient with coturn";
    let Some(turnserver) = tool::need(NAME, "turnserver") else { return };
    let ways = [Uclient::UDP, Uclient::TCP, Uclient::COTURN].concat();
    uclient(NAME, &ways, |lab| Server::coturn(lab, &turnserver));
}

fn uclient(name: &str, ways: &[Uclient], server: impl FnOnce(&NatLab) -> Server) {
    if !natlab::possible(name) {
        return;
    }
    let Some(uclient) = tool::need(name, "turnutils_uclient") else { return };
    let Some(peer) = tool::need(name, "turnutils_peer") else { return };
    let lab = lab();
    let server = server(&lab);
    let (told, echo, side) = (server.told(), Echo::start(&lab, &peer), &lab.sides()[0]);
    let failures = thread::scope(|scope| {
        let (lab, uclient, echo) = (&lab, &uclient, &echo);
        let runs: Vec<_> =
            ways.iter().map(|way| (way, scope.spawn(move || way.run(lab, side, uclient, told, echo)))).collect();
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
fn webrtc_stacks_exchange_messages_through_ours() {
    webrtc("WebRTC", Server::shoal);
}

#[test]
fn webrtc_stacks_exchange_messages_through_coturn() {
    const NAME: &str = "WebRTC with coturn";
    let Some(turnserver) = tool::need(NAME, "turnserver") else { return };
    webrtc(NAME, |lab| Server::coturn(lab, &turnserver));
}

fn webrtc(name: &str, server: impl FnOnce(&NatLab) -> Server) {
    if !natlab::possible(name) {
        return;
    }
    let (Some(chromium), Some(aiortc)) = (Stack::chromium(name), Stack::aiortc(name)) else { return };
    let lab = lab();
    let server = server(&lab);
    let [one, other] = lab.sides() else { panic!("a lab of two") };
    for [offers, answers] in [[&aiortc, &aiortc], [&chromium, &chromium], [&chromium, &aiortc], [&aiortc, &chromium]] {
        let started = Instant::now();
        let pair = [(one, offers, Transport::Udp), (other, answers, Transport::Udp)];
        if let Err(why) = exchange(&lab, pair, server.told()) {
            panic!("{offers} with {answers}: {why}");
        }
        println!("{offers:10} with {answers:10} {:?}", started.elapsed());
    }
    let wrong = Told { password: "not a secret".to_owned(), ..server.told().clone() };
    for stack in [&aiortc, &chromium] {
        let refused = exchange(&lab, [(one, stack, Transport::Udp), (other, stack, Transport::Udp)], &wrong);
        let why = refused.expect_err("with a wrong password there is no other way");
        assert!(why.contains("no candidates"), "{stack}: {why}");
    }
}

/// One client whose network lets no UDP through, another one behind the same, and one behind an ordinary NAT.
#[test]
fn without_udp_clients_come_by_tcp_and_tls() {
    use Transport::{Tcp, Tls, Udp};
    const NAME: &str = "the relay by TCP and TLS";
    if !natlab::possible(NAME) {
        return;
    }
    let (Some(chromium), Some(aiortc)) = (Stack::chromium(NAME), Stack::aiortc(NAME)) else { return };
    let lab = NatLab::start(&[Kind::Blocked, Kind::Blocked, Kind::PortRestricted]);
    let server = Server::shoal(&lab);
    let [one, other, third] = lab.sides() else { panic!("a lab of three") };
    for [offers, answers] in [
        [(one, &chromium, Tcp), (other, &chromium, Tcp)],
        [(one, &chromium, Tcp), (other, &aiortc, Tls)],
        [(one, &aiortc, Tls), (third, &chromium, Udp)],
        [(one, &chromium, Tls), (other, &chromium, Tls)],
        [(one, &aiortc, Tcp), (other, &aiortc, Tls)],
    ] {
        let started = Instant::now();
        let what = format!("{} by {:?} with {} by {:?}", offers.1, offers.2, answers.1, answers.2);
        if let Err(why) = exchange(&lab, [offers, answers], server.told()) {
            panic!("{what}: {why}");
        }
        println!("{what:40} {:?}", started.elapsed());
    }
    let refused = exchange(&lab, [(one, &aiortc, Udp), (third, &aiortc, Udp)], server.told());
    let why = refused.expect_err("no UDP comes through");
    assert!(why.contains("no candidates"), "{why}");
}
