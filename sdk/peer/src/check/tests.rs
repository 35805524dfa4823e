use std::sync::atomic::{AtomicU64, Ordering};

use shoal_stun::nat::Behaviour;

use super::*;
use crate::wire::{MAX_MESSAGE, PunchKey};

const APD: Option<Behaviour> = Some(Behaviour::AddressAndPortDependent);
const START: u64 = 100;

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn them() -> SocketAddr {
    socket("198.51.100.2:2000")
}

fn relayed() -> SocketAddr {
    socket("192.0.2.1:50000")
}

fn own(peer: u8) -> Own {
    Own { peer: PeerId([peer; 20]), nat: Nat::default(), relay: false, only_relay: false, in_vain: false }
}

fn introduction(peer: u8, role: Role) -> Introduction {
    Introduction {
        peer: PeerId([peer; 20]),
        address: Some(them()),
        relayed: None,
        nat: Nat::default(),
        key: PunchKey([3; 16]),
        start: START,
        role,
    }
}

fn controlling() -> Checker {
    Checker::new(&own(1), introduction(2, Role::Controlling))
}

fn controlled() -> Checker {
    Checker::new(&own(2), introduction(1, Role::Controlled))
}

/// What is sent now.
fn sent(checker: &mut Checker, now: u64) -> Vec<(Path, Vec<u8>)> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut random = Random::new([CALLS.fetch_add(1, Ordering::Relaxed), 9]);
    let mut out = vec![0; MAX_MESSAGE];
    std::iter::from_fn(|| {
        let (path, length) = checker.poll_transmit(now, &mut random, &mut out)?;
        Some((path, out[..length].to_vec()))
    })
    .collect()
}

/// Hands a message over; gives the reply.
fn handle(checker: &mut Checker, now: u64, from: Path, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; MAX_MESSAGE];
    match checker.handle(now, from, &Message::parse(bytes).unwrap(), &mut out) {
        Handled::Reply(length) => Some(out[..length].to_vec()),
        Handled::Answer(_) | Handled::No => None,
    }
}

fn nominates(check: &[u8]) -> bool {
    Message::parse(check).unwrap().has(UseCandidate::TYPE)
}

/// All events so far.
fn events(checker: &mut Checker) -> Vec<Event> {
    std::iter::from_fn(|| checker.poll_event()).collect()
}

#[test]
fn checks_come_at_the_times_of_the_page_and_end() {
    let mut checker = controlling();
    let (mut now, mut times) = (0, Vec::new());
    while let Some(deadline) = checker.next_deadline() {
        assert!(deadline >= now, "{deadline} is over");
        now = deadline;
        let checks = sent(&mut checker, now);
        assert!(checks.iter().all(|(path, _)| *path == Path::direct(them())));
        times.extend(checks.iter().map(|_| now - START));
    }
    let early = (0..200).step_by(20);
    let expected: Vec<u64> = early.chain((200..1_000).step_by(50)).chain((1_000..3_000).step_by(200)).collect();
    assert_eq!(times, expected);
    assert_eq!((now, events(&mut checker)), (START + CHECKING_MS, vec![Event::Failed]));
}

#[test]
fn two_connect_and_the_controlled_one_takes_what_the_other_took() {
    let (mut one, mut other) = (controlling(), controlled());
    let us = Path::direct(socket("198.51.100.1:1000"));
    let [(path, check)] = sent(&mut one, START).try_into().unwrap();
    assert!(!nominates(&check), "it does not know yet whether this works");
    let answer = handle(&mut other, START, us, &check).expect("it is the other's");
    let mapped = Message::parse(&answer).unwrap().read::<XorMappedAddress>().unwrap();
    assert_eq!(mapped, Some(XorMappedAddress(us.to)));
    assert_eq!(handle(&mut one, START + 5, path, &answer), None);
    assert_eq!(events(&mut one), [Event::Connected(path), Event::Selected(path)]);

    // The other goes on where the check came from, at once, and no more to where it was told.
    let checks = sent(&mut other, START);
    assert!(checks.iter().all(|(to, _)| *to == us), "{checks:?}");
    let [(path, check)] = sent(&mut one, START + 5).try_into().unwrap();
    assert!(nominates(&check));
    let confirmation = handle(&mut other, START + 10, us, &check).unwrap();
    assert_eq!(events(&mut other), [], "nothing of its own was answered yet");
    let (_, check) = checks.iter().find(|(to, _)| *to == us).unwrap();
    let answer = handle(&mut one, START + 10, path, check).unwrap();
    handle(&mut other, START + 15, us, &answer);
    assert_eq!(events(&mut other), [Event::Connected(us), Event::Selected(us)]);
    assert_eq!(other.next_deadline(), None, "there is nothing left to find out");

    assert_eq!(sent(&mut one, START + 20).len(), 1, "the nomination is repeated");
    handle(&mut one, START + 25, path, &confirmation);
    assert_eq!((sent(&mut one, START + 100).len(), one.next_deadline()), (0, None));
}

#[test]
fn what_does_not_verify_is_not_answered() {
    let (mut one, mut other) = (controlling(), controlled());
    let [(_, check)] = sent(&mut one, START).try_into().unwrap();
    let from = Path::direct(them());
    assert_eq!(handle(&mut one, START, from, &check), None, "one's own check, thrown back");
    let stranger = Introduction { key: PunchKey([4; 16]), ..introduction(1, Role::Controlled) };
    assert_eq!(handle(&mut Checker::new(&own(2), stranger), START, from, &check), None, "another key");
    let third = introduction(7, Role::Controlled);
    assert_eq!(handle(&mut Checker::new(&own(2), third), START, from, &check), None, "another peer");
    let mut damaged = check.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(handle(&mut other, START, from, &damaged), None);

    let answer = handle(&mut other, START, from, &check).unwrap();
    let mut bare = vec![0; MAX_MESSAGE];
    let id = *Message::parse(&answer).unwrap().transaction_id();
    let mut builder = Builder::new(&mut bare, Method::BINDING, Class::Success, id);
    let length = wire::finish(builder.add(&XorMappedAddress(them()))).unwrap();
    handle(&mut one, START, from, &bare[..length]);
    assert_eq!(events(&mut one), [], "anybody could have answered that");
    handle(&mut one, START, from, &answer);
    handle(&mut one, START, from, &answer);
    assert_eq!(events(&mut one).len(), 2, "and twice is once");
}

#[test]
fn next_ports_are_checked_one_more_with_each_round_and_the_old_one_is_not() {
    let nat = Nat { mapping: APD, filtering: APD, step: -2, newest: 40_000 };
    let told = Introduction { nat, ..introduction(2, Role::Controlling) };
    let mut checker = Checker::new(&own(1), told.clone());
    for round in 1..=10 {
        let checks = sent(&mut checker, START + 20 * (round - 1));
        let ports: Vec<u16> = checks.iter().map(|(path, _)| path.to.port()).collect();
        let expected: Vec<u16> = (1..=round.min(8) as u16).map(|nth| 40_000 - 2 * nth).collect();
        assert_eq!(ports, expected);
    }
    // What has come from the peer is better than any prediction.
    let mut checker = Checker::new(&own(1), told);
    let mut peer = controlled();
    let [(_, check)] = sent(&mut peer, START).try_into().unwrap();
    let from = Path::direct(socket("198.51.100.2:39996"));
    assert!(handle(&mut checker, START, from, &check).is_some());
    let paths: Vec<Path> = sent(&mut checker, START + 20).iter().map(|(path, _)| *path).collect();
    assert_eq!(paths, [from]);
}

/// A controlling checker to which the relayed way was answered at `now`, and perhaps the straight one.
fn relayed_first(own: &Own, now: u64, straight: bool) -> (Checker, Path) {
    let told = Introduction { relayed: Some(relayed()), ..introduction(2, Role::Controlling) };
    let mut checker = Checker::new(own, told);
    let mut other = controlled();
    let checks = sent(&mut checker, now);
    assert_eq!(checks.len(), 2, "both are checked");
    for (path, check) in checks.into_iter().rev() {
        let answer = handle(&mut other, now, Path::direct(socket("198.51.100.1:1000")), &check).unwrap();
        if path.to == relayed() || straight {
            handle(&mut checker, now, path, &answer);
        }
    }
    (checker, Path::direct(relayed()))
}

#[test]
fn a_relay_is_taken_late_and_only_without_another_way() {
    let (mut checker, way) = relayed_first(&own(1), START, false);
    assert_eq!(events(&mut checker), [Event::Connected(way)]);
    assert!(!checker.wants_relay(START + RELAY_MS), "one is enough");
    sent(&mut checker, START + RELAY_MS - 1);
    assert_eq!(events(&mut checker), []);
    while checker.next_deadline().is_some_and(|deadline| deadline < START + RELAY_MS) {
        let at = checker.next_deadline().unwrap();
        sent(&mut checker, at);
    }
    sent(&mut checker, START + RELAY_MS);
    assert_eq!(events(&mut checker), [Event::Selected(way)]);
    assert!(checker.has_relay(way));

    let (mut checker, _) = relayed_first(&own(1), START, true);
    assert!(events(&mut checker).contains(&Event::Selected(Path::direct(them()))));

    // Nothing to wait for: tried in vain, or not to be tried.
    for own in
        [Own { in_vain: true, ..own(1) }, Own { nat: Nat { mapping: APD, filtering: APD, ..Nat::default() }, ..own(1) }]
    {
        let told = Introduction {
            relayed: Some(relayed()),
            nat: Nat { mapping: APD, filtering: APD, ..Nat::default() },
            ..introduction(2, Role::Controlling)
        };
        let mut checker = Checker::new(&own, told);
        let mut other = controlled();
        for (path, check) in sent(&mut checker, START).into_iter().filter(|(path, _)| path.to == relayed()) {
            let answer = handle(&mut other, START, Path::direct(them()), &check).unwrap();
            handle(&mut checker, START, path, &answer);
        }
        assert_eq!(events(&mut checker), [Event::Connected(way), Event::Selected(way)]);
    }
}

#[test]
fn what_comes_through_the_own_relay_goes_back_through_it() {
    let mut checker = Checker::new(&Own { relay: true, ..own(1) }, introduction(2, Role::Controlling));
    assert!(sent(&mut checker, START).iter().all(|(path, _)| !path.relayed));
    let mut other = controlled();
    let [(_, check)] = sent(&mut other, START).try_into().unwrap();
    let from = Path { to: socket("198.51.100.2:7777"), relayed: true };
    assert!(handle(&mut checker, START, from, &check).is_some());
    let checks = sent(&mut checker, START);
    let [(path, check)] = checks.as_slice() else { panic!("{checks:?}") };
    assert_eq!(*path, from);
    let answer = handle(&mut other, START, Path::direct(relayed()), check).unwrap();
    assert_eq!(handle(&mut checker, START, Path::direct(from.to), &answer), None);
    assert_eq!(events(&mut checker), [], "it did not come back the way that it went");
    handle(&mut checker, START, from, &answer);
    assert_eq!(events(&mut checker), [Event::Connected(from)]);

    let only = Own { relay: true, only_relay: true, ..own(1) };
    let told = Introduction { address: None, relayed: Some(relayed()), ..introduction(2, Role::Controlling) };
    let paths: Vec<Path> = sent(&mut Checker::new(&only, told), START).iter().map(|(path, _)| *path).collect();
    assert_eq!(paths, [Path { to: relayed(), relayed: true }]);
}
