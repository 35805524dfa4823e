//! The reference client behind NATs of every kind: which type it finds, whom it reaches, which way, and how soon.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use shoal_tests::natlab::{
    self, Dependence, Kind, NatLab, Peer, Server, Serving, Side, TICKETED, Told, Type, Way, nat_type, ticket,
};

/// Bytes that each connection carries.
const BYTES: u64 = 50_000;

/// Connections that are made at the same time: more would show how busy the machine is, and not how long it takes.
const AT_ONCE: usize = 16;

/// Those that have one mapping for all destinations, or none that can be told.
const KINDS: [Kind; 6] =
    [Kind::Open, Kind::Firewall, Kind::FullCone, Kind::AddressRestricted, Kind::PortRestricted, Kind::Symmetric];

const STEP: Kind = Kind::Sequential { step: 1 };

/// Does `work` for all `items`, so many of them at once; what came of it is in their order.
fn at_once<T: Sync, R: Send>(count: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..count.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(nth) else { return };
                    let result = work(item);
                    *results[nth].lock().expect("no worker panics with it") = Some(result);
                }
            });
        }
    });
    results.into_iter().map(|result| result.into_inner().ok().flatten().expect("all are done")).collect()
}

/// What `shoal-peer` has to say of a NAT's type.
fn expected_type(kind: Kind) -> Value {
    let name = |dependence| match dependence {
        Dependence::Independent => "endpoint-independent",
        Dependence::Address => "address-dependent",
        Dependence::AddressAndPort => "address-and-port-dependent",
    };
    let behaviour = kind.behaviour();
    let step = if let Kind::Sequential { step } = kind { step } else { 0 };
    json!({
        "type": format!("{:?}", Type::from(kind)),
        "mapping": behaviour.map(|behaviour| name(behaviour.mapping)),
        "filtering": behaviour.map(|behaviour| name(behaviour.filtering)),
        "step": step,
    })
}

#[test]
fn types_are_found_in_both_dialects() {
    if !natlab::possible("NAT types by shoal-peer") {
        return;
    }
    let steps = [2, -3].map(|step| Kind::Sequential { step });
    let kinds: Vec<Kind> = Kind::ALL.into_iter().chain(steps).collect();
    let lab = NatLab::start(&kinds);
    let server = Server::shoal(&lab);
    let runs: Vec<(&Side, &str)> =
        lab.sides().iter().flat_map(|side| ["modern", "classic"].map(|dialect| (side, dialect))).collect();
    // All at once: what takes time is waiting for what does not come. Two of one side would take one another's ports.
    let found: Vec<Vec<Value>> = thread::scope(|scope| {
        let run = |side| {
            let (lab, told) = (&lab, server.told());
            scope.spawn(move || ["modern", "classic"].map(|dialect| nat_type(lab, side, told, dialect)).to_vec())
        };
        let runs: Vec<_> = lab.sides().iter().map(run).collect();
        runs.into_iter().map(|run| run.join().expect("it found a type")).collect()
    });
    for ((side, dialect), mut found) in runs.into_iter().zip(found.into_iter().flatten()) {
        println!("{:21} {dialect:8} {found}", side.kind());
        let line = found.as_object_mut().expect("it is an object");
        line.retain(|key, _| ["type", "mapping", "filtering", "step"].contains(&key.as_str()));
        assert_eq!(found, expected_type(side.kind()), "{}, {dialect}", side.kind());
    }
}

/// Two sides of a lab, and what each of them knows.
struct Pair<'l> {
    connects: (&'l Side, Peer),
    serves: (&'l Side, Peer),
}

/// What came of a pair.
struct Met {
    way: Way,
    /// Milliseconds from asking for the other to a way that works.
    took: u64,
    /// What the node has refused on the way.
    refused: Vec<u64>,
}

impl Pair<'_> {
    /// Of two kinds that know their types; who asks knows the relay.
    fn of<'l>(connects: &'l Side, serves: &'l Side) -> Pair<'l> {
        Pair { connects: (connects, Peer::with_relay()), serves: (serves, Peer::default()) }
    }

    fn serve(&self, lab: &NatLab, told: &Told) -> Serving {
        let (side, peer) = &self.serves;
        peer.serve(lab, side, told)
    }

    /// Lets them meet, and checks what both say: that everything has arrived, which way, and which NAT is whose.
    fn meet(&self, lab: &NatLab, told: &Told, serving: Serving) -> Met {
        let ((one, peer), (other, _)) = (&self.connects, &self.serves);
        let what = format!("{} to {}", one.kind(), other.kind());
        let said = peer.connect(lab, one, told, serving.id(), BYTES);
        assert_eq!(said["event"], "finished", "{what}: {said}");
        let heard = serving.received();
        for line in [&said, &heard] {
            assert_eq!((&line["right"], &line["bytes"]), (&json!(true), &json!(BYTES)), "{what}: {line}");
        }
        let way = match said["path"].as_str() {
            Some("direct") => Way::Direct,
            Some("relay") => Way::Relay,
            _ => panic!("{what}: {said}"),
        };
        assert_eq!(heard["path"], said["path"], "{what}: {heard}");
        let of = |line: &Value, key: &str| {
            let address = line[key].as_str().unwrap_or_default();
            address.parse().map(|address: std::net::SocketAddr| address.ip()).ok()
        };
        // Outside of its NAT, and nowhere else.
        let (seen, relay) = (Some(one.public().into()), Some(told.v4.ip()));
        match way {
            Way::Direct => assert_eq!(of(&heard, "to"), seen, "{what}: {heard}"),
            Way::Relay => {
                let relays = [of(&said, "relayed"), of(&heard, "relayed")];
                assert!(relays.contains(&relay), "{what}: {said} {heard}");
            }
        }
        let refused = said["refused"].as_array().into_iter().flatten().filter_map(|it| it["code"].as_u64()).collect();
        Met { way, took: said["since_asked_ms"].as_u64().expect("it says how long it took"), refused }
    }
}

/// Lets all pairs meet; each must go the way that the page says. Prints a table.
fn check_pairs(lab: &NatLab, told: &Told, pairs: &[Pair<'_>]) {
    // Those only wait: first for answers that do not come, and then for the others.
    let serving = at_once(pairs.len(), pairs, |pair| Mutex::new(Some(pair.serve(lab, told))));
    let pairs: Vec<_> = pairs.iter().zip(serving).collect();
    let met = at_once(AT_ONCE, &pairs, |(pair, serving)| {
        let serving = serving.lock().expect("no worker panics with it").take().expect("each is met once");
        pair.meet(lab, told, serving)
    });
    for ((pair, _), met) in pairs.iter().zip(&met) {
        let (one, other) = (pair.connects.0.kind(), pair.serves.0.kind());
        let Met { way, took, refused } = met;
        println!("{one:21} to {other:21} {way:6} {took:5} ms {refused:?}");
    }
    for ((pair, _), met) in pairs.iter().zip(&met) {
        let (one, other) = (pair.connects.0.kind(), pair.serves.0.kind());
        let way = Way::of(one, other);
        assert_eq!(met.way, way, "{one} to {other}");
        // The relay is used at once, and for no other reason.
        assert_eq!(met.refused.contains(&409), way == Way::Relay, "{one} to {other}: {:?}", met.refused);
    }
}

#[test]
fn each_pair_connects_as_the_page_says() {
    if !natlab::possible("pairs of NATs by shoal-peer") {
        return;
    }
    // Others behind a NAT with a step would take its ports, so each of those is there for one peer.
    let steps = [STEP; 2 * KINDS.len() + 2];
    let kinds: Vec<Kind> = KINDS.into_iter().chain(KINDS).chain(steps).collect();
    let lab = NatLab::start(&kinds);
    let server = Server::shoal(&lab);
    let (plain, steps) = lab.sides().split_at(2 * KINDS.len());
    let (left, right) = plain.split_at(KINDS.len());
    let (connect, serve) = steps.split_at(steps.len() / 2);
    let mut pairs: Vec<Pair<'_>> =
        left.iter().flat_map(|one| right.iter().map(move |other| Pair::of(one, other))).collect();
    pairs.extend(connect.iter().zip(right).map(|(one, other)| Pair::of(one, other)));
    pairs.extend(left.iter().zip(serve).map(|(one, other)| Pair::of(one, other)));
    pairs.extend(connect.last().zip(serve.last()).map(|(one, other)| Pair::of(one, other)));
    check_pairs(&lab, server.told(), &pairs);
}

#[test]
fn ports_are_predicted_with_any_step() {
    if !natlab::possible("port prediction by shoal-peer") {
        return;
    }
    let steps = [1, 2, -3].map(|step| Kind::Sequential { step });
    let kinds: Vec<Kind> = steps.into_iter().chain(steps).chain([Kind::PortRestricted; 2]).collect();
    let lab = NatLab::start(&kinds);
    let server = Server::shoal(&lab);
    let [a, b, c, d, e, f, one, other] = lab.sides() else { panic!("a lab of eight") };
    // Without a relay, so that nothing else can help.
    let pair = |connects, serves| Pair { connects: (connects, Peer::default()), serves: (serves, Peer::default()) };
    let pairs = [pair(a, one), pair(one, b), pair(c, other), pair(other, d), pair(e, f)];
    check_pairs(&lab, server.told(), &pairs);
}

#[test]
fn what_is_unknown_is_tried_before_the_relay() {
    if !natlab::possible("unknown NATs by shoal-peer") {
        return;
    }
    let lab = NatLab::start(&[Kind::Symmetric, Kind::Symmetric, Kind::PortRestricted]);
    let server = Server::shoal(&lab);
    let [one, other, third] = lab.sides() else { panic!("a lab of three") };
    let unknown = |turn| Peer { discovers: false, turn, ..Peer::default() };
    let (told, lab) = (server.told(), &lab);
    let met = |pair: &Pair<'_>| pair.meet(lab, told, pair.serve(lab, told));

    let in_vain = met(&Pair { connects: (one, unknown(true)), serves: (other, unknown(false)) });
    assert_eq!((in_vain.way, in_vain.refused.len()), (Way::Relay, 0));
    assert!((3_000..6_000).contains(&in_vain.took), "{} ms", in_vain.took);

    // Who cannot be reached has a relay ready, if it knows one: then nobody is refused, and the other needs none.
    let ready = met(&Pair { connects: (third, Peer::default()), serves: (other, Peer::with_relay()) });
    assert_eq!((ready.way, ready.refused.len()), (Way::Relay, 0));
}

#[test]
fn refusals_say_why() {
    if !natlab::possible("refusals of shoal-peer") {
        return;
    }
    let lab = NatLab::start(&[Kind::Open, Kind::Open, Kind::Symmetric, Kind::Symmetric, Kind::Blocked]);
    let server = Server::shoal(&lab);
    let [one, other, hidden, concealed, blocked] = lab.sides() else { panic!("a lab of five") };
    let told = server.told();
    let member = |session| Peer { channel: TICKETED, ticket: Some(ticket(&told.secret, session)), ..Peer::default() };
    let serves = [(other, member("one")), (other, Peer::default()), (concealed, Peer::default())];
    let serving = at_once(serves.len(), &serves, |(side, peer)| peer.serve(&lab, side, told));
    let [club, film, unreachable] = serving.try_into().expect("as many as were asked to");

    let nobody = "00".repeat(20);
    let forged = Peer { ticket: Some(ticket("another secret of the same length", "two")), ..member("two") };
    let without = Peer { ticket: None, ..member("two") };
    let wrong_relay = Told { password: "not a password".to_owned(), ..told.clone() };
    let cases = [
        ("a wrong ticket", one, &forged, club.id(), told, 403),
        ("no ticket", one, &without, club.id(), told, 403),
        ("a target that is not there", one, &Peer::default(), nobody.as_str(), told, 404),
        ("a target in another channel", one, &Peer::default(), club.id(), told, 404),
        ("the same the other way round", one, &member("two"), film.id(), told, 404),
        ("no way and no relay", hidden, &Peer::default(), unreachable.id(), told, 409),
        ("no way and a wrong password", hidden, &Peer::with_relay(), unreachable.id(), &wrong_relay, 401),
    ];
    let said = at_once(cases.len(), &cases, |(_, side, peer, to, told, _)| peer.connect(&lab, side, told, to, BYTES));
    for ((what, .., code), said) in cases.into_iter().zip(said) {
        println!("{what:30} {} {}", said["code"], said["reason"]);
        assert_eq!((&said["event"], &said["code"]), (&json!("failed"), &json!(code)), "{what}: {said}");
    }
    let said = Peer::with_relay().connect(&lab, blocked, told, film.id(), BYTES);
    assert_eq!((&said["event"], &said["type"]), (&json!("failed"), &json!("UdpBlocked")), "{said}");

    let said = member("two").connect(&lab, one, told, club.id(), BYTES);
    assert_eq!((&said["event"], &said["right"]), (&json!("finished"), &json!(true)), "{said}");
    assert_eq!(club.received()["right"], json!(true));
}
