//! Runs over loopback without a server: directly, and past a hand that does to packets what a bad one would.

use super::*;
use crate::udp::field::{Direction, Field, Server, Shape};
use crate::udp::lanes::Lanes;

fn pattern(train: usize, pace: Pace) -> Pattern {
    Pattern { train, burst: 2, pace, warmup: Duration::from_millis(20), duration: Duration::from_millis(150) }
}

fn field(clients: usize) -> Field {
    let server = Server { address: "127.0.0.1:9".parse().unwrap(), username: String::new(), password: String::new() };
    Field::new(server, clients, Sending::Sockets).unwrap()
}

fn direct(clients: usize, direction: Direction, pattern: Pattern) -> Outcome {
    let mut field = field(clients);
    let lanes = Lanes::new(field.lanes(Shape::Direct, direction).unwrap(), 160, 1);
    Engine::new(field.ends()).run(&lanes, pattern, Watched::default()).unwrap()
}

#[test]
fn what_is_sent_comes_in_every_direction_and_pattern() {
    for (clients, direction) in [(1, Direction::Up), (5, Direction::Down), (70, Direction::Both)] {
        let patterns =
            [(1, Pace::Window(64)), (16, Pace::Window(256)), (4, Pace::Rate(5000.0)), (1, Pace::Rate(5000.0))];
        for (train, pace) in patterns {
            let outcome = direct(clients, direction, pattern(train, pace));
            let wrong = outcome.wrong + outcome.not_sent + outcome.own_drops;
            assert_eq!(wrong, 0, "{clients} {direction:?} {train} {pace:?}: {outcome:?}");
            assert!(outcome.is_whole() && outcome.sent == outcome.received, "{outcome:?}");
            assert_eq!((outcome.duplicates, outcome.reordered, outcome.late, outcome.stale), (0, 0, 0, 0));
            assert!(outcome.received_measured > 0 && outcome.sent.is_multiple_of(train as u64), "{outcome:?}");
        }
    }
}

#[test]
fn a_rate_is_kept_and_latencies_are_known() {
    let kept = || {
        let outcome = direct(3, Direction::Both, pattern(1, Pace::Rate(2000.0)));
        let (p50, p99) = (outcome.latency_us(0.5), outcome.latency_us(0.99));
        assert!(p50 > 0.0 && p50 <= p99, "{p50} {p99}");
        // What is due is sent, and no more.
        assert!(outcome.sent as f64 <= 2000.0 * (0.02 + outcome.seconds) + 1.0, "{outcome:?}");
        outcome.invalid().is_none()
    };
    // Unless the machine has something else to do.
    assert!((0..20).any(|_| kept()));
}

#[test]
fn runs_of_one_engine_do_not_take_each_others_datagrams() {
    let mut field = field(1);
    let lanes = Lanes::new(field.lanes(Shape::Direct, Direction::Up).unwrap(), 160, 1);
    let mut engine = Engine::new(field.ends());
    // Of a run that never was: as one would be left over.
    let mut old = [0; 160];
    lanes.write(Stamp { run: 0, lane: 0, number: 0, at: 0 }, &mut old);
    engine.ends.send(0, lanes.to(0), &old).unwrap();
    for stale in [1, 0] {
        let outcome = engine.run(&lanes, pattern(1, Pace::Window(8)), Watched::default()).unwrap();
        assert_eq!((outcome.stale, outcome.lost, outcome.wrong), (stale, 0, 0), "{outcome:?}");
    }
}

#[test]
fn a_rest_grows_while_little_comes_and_ends_when_all_that_a_turn_takes_comes() {
    let mut rest = Rest::new(192, 1);
    assert_eq!(rest.after(64), Duration::ZERO);
    assert_eq!((rest.after(31), rest.after(0)), (REST_STEP, 2 * REST_STEP));
    // What lies between is neither too little nor too much.
    assert_eq!((rest.after(32), rest.after(63)), (2 * REST_STEP, 2 * REST_STEP));
    assert_eq!((rest.after(64), rest.after(200)), (REST_STEP, REST_STEP / 2));
    assert!((0..1000).map(|_| rest.after(0)).all(|time| time <= REST_MAX));
    assert_eq!(rest.after(0), REST_MAX);
    // Half of a small window is enough; of a large one what a turn sends; and on schedule there is no rest.
    assert_eq!((Rest::new(8, 1).enough, Rest::new(10_000, 2).enough, Rest::new(1, 64).enough), (4, 128, 1));
    assert_eq!(Rest::never().after(0), Duration::ZERO);
}

/// What a relay does to the n-th datagram: sends so many copies of it, changed or not.
type Hand = fn(u64, &mut [u8]) -> usize;

/// A lane through a thread that lets datagrams go as `hand` says.
fn relayed(hand: Hand) -> Outcome {
    let relay = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    relay.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut field = field(1);
    let mut lane = field.lanes(Shape::Direct, Direction::Up).unwrap().remove(0);
    let peer = std::mem::replace(&mut lane.to, relay.local_addr().unwrap());
    lane.source = lane.to;
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        let mut number = 0;
        while let Ok(len) = relay.recv(&mut buffer) {
            for _ in 0..hand(number, &mut buffer[..len]) {
                relay.send_to(&buffer[..len], peer).unwrap();
            }
            number += 1;
        }
    });
    let lanes = Lanes::new(vec![lane], 100, 1);
    let mut engine = Engine::new(field.ends());
    // No more than any socket's queue holds, however long the thread has to wait for its turn.
    let outcome = engine.run(&lanes, pattern(1, Pace::Rate(1000.0)), Watched::default()).unwrap();
    thread.join().unwrap();
    outcome
}

#[test]
fn an_honest_relay_loses_nothing() {
    let outcome = relayed(|_, _| 1);
    assert!(outcome.is_whole() && outcome.wrong == 0, "{outcome:?}");
}

#[test]
fn loss_is_counted_and_is_not_wrong() {
    let outcome = relayed(|number, _| usize::from(number % 10 != 3));
    assert!(!outcome.is_whole() && outcome.wrong == 0, "{outcome:?}");
    let share = outcome.lost as f64 / outcome.sent as f64;
    assert!((0.08..0.12).contains(&share), "{outcome:?}");
}

#[test]
fn duplicates_and_damage_are_wrong() {
    let twice = relayed(|number, _| if number == 7 { 2 } else { 1 });
    assert_eq!((twice.duplicates, twice.lost, twice.wrong), (1, 0, 1), "{twice:?}");
    let damaged = relayed(|number, bytes| {
        if number == 7 {
            bytes[90] ^= 1;
        }
        1
    });
    assert_eq!((damaged.duplicates, damaged.lost, damaged.wrong), (0, 1, 1), "{damaged:?}");
    assert!(damaged.invalid().is_some());
}

#[test]
fn in_a_window_loss_does_not_stop_the_run() {
    let mut field = field(1);
    let mut lane = field.lanes(Shape::Direct, Direction::Up).unwrap().remove(0);
    // Nobody is there.
    lane.to = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let lanes = Lanes::new(vec![lane], 100, 1);
    let mut engine = Engine::new(field.ends());
    let outcome = engine.run(&lanes, pattern(1, Pace::Window(8)), Watched::default()).unwrap();
    assert!(outcome.stalls >= 2 && outcome.lost == outcome.sent && outcome.sent >= 24, "{outcome:?}");
    assert_eq!(outcome.invalid().as_deref(), Some("nothing came"));
}
