use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use shoal_sys::arena::{Arena, PAGE};
use shoal_sys::ring::{Ring, RingConfig};

use super::*;
use crate::testing::version;

const LIMITS: TimeLimits = TimeLimits {
    head: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    min_send_bytes_per_s: 1000,
    slow_bytes_per_s: 100,
};

/// When the tests start.
const T0: u64 = 1_790_000_000_000;

struct Lab {
    ring: Ring,
    deadlines: Deadlines,
}

impl Lab {
    fn new(limits: TimeLimits) -> Lab {
        let ring = Ring::new(RingConfig { entries: 8, buffers: 4, buffer_bytes: 1024 }).unwrap();
        Lab { ring, deadlines: Deadlines::new(limits, T0) }
    }

    /// A connection in `phase` since [`T0`], and the client's end of it.
    fn connect(&self, phase: Phase) -> (Rc<Watched>, UnixStream, usize) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let watched = Rc::new(Watched::new(self.ring.stream(OwnedFd::from(ours)), T0));
        watched.enter(phase, T0);
        let place = self.deadlines.watch(Rc::clone(&watched));
        (watched, theirs, place)
    }
}

/// Whether the next wait for the client's bytes ends at once.
fn is_interrupted(watched: &Watched) -> bool {
    let mut receive = pin!(watched.stream.recv());
    let poll = receive.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    matches!(poll, Poll::Ready(Err(error)) if error.kind() == ErrorKind::TimedOut)
}

/// Whether the connection was cut off under the client.
fn is_cut(mut client: &UnixStream) -> bool {
    matches!(client.read(&mut [0]), Ok(0))
}

#[test]
fn a_connection_starts_with_the_time_for_a_head() {
    let lab = Lab::new(LIMITS);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert_eq!(Watched::new(lab.ring.stream(OwnedFd::from(ours)), T0).phase(), Phase::Head);
}

#[test]
fn each_phase_has_its_own_limit_and_work_has_none() {
    let cases = [
        (Phase::Idle, Some((60_000, Expired::Idle))),
        (Phase::Head, Some((10_000, Expired::Head))),
        (Phase::Working, None),
    ];
    for (phase, limit) in cases {
        let lab = Lab::new(LIMITS);
        let (watched, client, _) = lab.connect(phase);
        let Some((ms, expired)) = limit else {
            lab.deadlines.sweep(T0 + 1_000_000_000);
            assert_eq!(watched.expired(), None);
            continue;
        };
        lab.deadlines.sweep(T0 + ms);
        assert_eq!((watched.expired(), is_interrupted(&watched)), (None, false), "{phase:?}");
        // Entered again, its time starts again.
        watched.enter(phase, T0 + ms);
        lab.deadlines.sweep(T0 + ms + 1);
        assert_eq!(watched.expired(), None, "{phase:?}");
        lab.deadlines.sweep(T0 + 2 * ms + 1);
        assert_eq!((watched.expired(), is_interrupted(&watched)), (Some(expired), true), "{phase:?}");
        assert!(!is_cut(&client), "it may still be told why");
    }
}

#[test]
fn a_reader_must_keep_up_on_average_over_a_window() {
    // Bytes taken in the window's first second, in each between, and in its last; whether it is enough for 1000 a second.
    let cases = [
        ((1000, 1000, 1000), true),
        ((0, 0, 10_000), true),
        ((10_000, 0, 0), true),
        ((1000, 1000, 999), false),
        ((0, 0, 0), false),
        ((9_999, 0, 0), false),
    ];
    let last = RATE_WINDOW_MS / 1000;
    for (bytes, enough) in cases {
        let lab = Lab::new(LIMITS);
        let (watched, client, _) = lab.connect(Phase::Sending);
        for second in 1..=last {
            assert_eq!(watched.expired(), None);
            watched.took(match second {
                1 => bytes.0,
                second if second < last => bytes.1,
                _ => bytes.2,
            });
            lab.deadlines.sweep(T0 + second * 1000);
        }
        assert_eq!(watched.expired(), (!enough).then_some(Expired::Slow), "{bytes:?}");
        assert_eq!(is_cut(&client), !enough);
    }
}

#[test]
fn what_is_still_in_the_socket_was_not_taken_yet() {
    for reads in [false, true] {
        let lab = Lab::new(LIMITS);
        let (mut ours, mut client) = UnixStream::pair().unwrap();
        let watched = Rc::new(Watched::new(lab.ring.stream(OwnedFd::from(ours.try_clone().unwrap())), T0));
        watched.enter(Phase::Sending, T0);
        lab.deadlines.watch(Rc::clone(&watched));
        ours.write_all(&[7; 30_000]).unwrap();
        watched.took(30_000);
        if reads {
            client.read_exact(&mut [0; 30_000]).unwrap();
        }
        lab.deadlines.sweep(T0 + RATE_WINDOW_MS);
        assert_eq!(watched.expired(), (!reads).then_some(Expired::Slow));
    }
    // What was queued at the start of a window and is taken in it counts there.
    let lab = Lab::new(LIMITS);
    let (mut ours, mut client) = UnixStream::pair().unwrap();
    let watched = Rc::new(Watched::new(lab.ring.stream(OwnedFd::from(ours.try_clone().unwrap())), T0));
    watched.enter(Phase::Sending, T0);
    lab.deadlines.watch(Rc::clone(&watched));
    ours.write_all(&[7; 30_000]).unwrap();
    watched.took(500_000);
    lab.deadlines.sweep(T0 + RATE_WINDOW_MS);
    client.read_exact(&mut [0; 30_000]).unwrap();
    lab.deadlines.sweep(T0 + 2 * RATE_WINDOW_MS);
    assert_eq!(watched.expired(), None);
    lab.deadlines.sweep(T0 + 3 * RATE_WINDOW_MS);
    assert_eq!(watched.expired(), Some(Expired::Slow));
}

#[test]
fn windows_do_not_borrow_from_each_other_and_waits_of_ours_do_not_count() {
    let lab = Lab::new(LIMITS);
    let (watched, _client, _) = lab.connect(Phase::Sending);
    watched.took(1_000_000);
    lab.deadlines.sweep(T0 + RATE_WINDOW_MS);
    // An hour of waiting for an origin.
    watched.switch(Phase::Working);
    lab.deadlines.sweep(T0 + 3_600_000);
    watched.switch(Phase::Sending);
    lab.deadlines.sweep(T0 + 3_600_000 + RATE_WINDOW_MS - 1);
    assert_eq!(watched.expired(), None);
    lab.deadlines.sweep(T0 + 3_600_000 + RATE_WINDOW_MS);
    assert_eq!(watched.expired(), Some(Expired::Slow), "the first window was generous, this one was not");

    let lab = Lab::new(TimeLimits { min_send_bytes_per_s: 0, ..LIMITS });
    let (watched, _client, _) = lab.connect(Phase::Sending);
    lab.deadlines.sweep(T0 + 1_000_000_000);
    assert_eq!(watched.expired(), None, "any rate will do");
}

#[test]
fn places_are_used_again_and_the_forgotten_are_left_alone() {
    let lab = Lab::new(LIMITS);
    let (first, _first_client, first_place) = lab.connect(Phase::Head);
    let (second, _second_client, second_place) = lab.connect(Phase::Head);
    assert_ne!(first_place, second_place);
    for place in [first_place, first_place, 17] {
        lab.deadlines.forget(place);
    }
    let (third, _third_client, third_place) = lab.connect(Phase::Head);
    let (fourth, _fourth_client, fourth_place) = lab.connect(Phase::Head);
    assert_eq!(third_place, first_place);
    assert!(![first_place, second_place].contains(&fourth_place), "a place was given to two");
    lab.deadlines.sweep(T0 + 10_001);
    assert_eq!(first.expired(), None);
    for watched in [second, third, fourth] {
        assert_eq!(watched.expired(), Some(Expired::Head));
    }
}

#[test]
fn draining_ends_those_who_ask_nothing_first() {
    let lab = Lab::new(LIMITS);
    let all = [Phase::Idle, Phase::Head, Phase::Working, Phase::Sending].map(|phase| lab.connect(phase));
    lab.deadlines.end_idle();
    assert_eq!(all.each_ref().map(|(watched, ..)| is_interrupted(watched)), [true, false, false, false]);
    assert_eq!(all.each_ref().map(|(_, client, _)| is_cut(client)), [false; 4]);
    lab.deadlines.end_all();
    assert_eq!(all.each_ref().map(|(watched, ..)| is_interrupted(watched)), [true; 4]);
    assert_eq!(all.each_ref().map(|(_, client, _)| is_cut(client)), [true; 4]);
}

/// A version of one block, all of it in memory, and a connection to which it is being sent; and the client's end of that.
fn reader(lab: &Lab, arena: &Arena, repeatable: bool) -> (Rc<Watched>, UnixStream, BlockRef, Arc<Version>) {
    let (watched, client, _) = lab.connect(Phase::Sending);
    let (block, version) = (arena.alloc(PAGE).unwrap().share(), version(repeatable));
    watched.hold(&version, 0, block.clone());
    (watched, client, block, version)
}

#[test]
fn the_slowest_readers_give_back_what_is_asked_for_and_no_more() {
    let lab = Lab::new(TimeLimits { min_send_bytes_per_s: 0, ..LIMITS });
    let arena = Arena::with_huge_max(1 << 20, 0).unwrap();
    let rates = [50, 0, 900, 1100, 20];
    let readers = rates.map(|_| reader(&lab, &arena, true));
    let expired = || readers.each_ref().map(|(watched, ..)| watched.expired().is_some());
    lab.deadlines.sweep(T0);
    let took =
        |ms: u64| readers.iter().zip(rates).for_each(|((watched, ..), rate)| watched.took((rate * ms / 1000) as usize));
    took(10_000);
    arena.ask_back(3 * PAGE, 1000);
    lab.deadlines.sweep(T0 + 10_000);
    assert_eq!(expired(), [false; 5], "they can still be evicted");
    readers.iter().for_each(|(_, _, block, _)| block.retire());
    arena.ask_back(2 * PAGE, 1000);
    lab.deadlines.sweep(T0 + 10_000);
    assert_eq!(expired(), [false, true, false, false, true], "the slowest two");
    assert_eq!(readers[1].0.expired(), Some(Expired::Memory));
    assert!(is_cut(&readers[1].1) && !is_cut(&readers[0].1));
    readers[1].0.release();
    readers[4].0.release();
    arena.ask_back(9 * PAGE, 1000);
    lab.deadlines.sweep(T0 + 10_100);
    assert_eq!(expired(), [true, true, true, false, true], "not who is as fast as that");
}

#[test]
fn nobody_is_cut_off_for_a_block_it_has_just_begun_or_faster_than_its_pace() {
    let lab = Lab::new(TimeLimits { min_send_bytes_per_s: 0, ..LIMITS });
    let arena = Arena::with_huge_max(1 << 20, 0).unwrap();
    let (begun, _client, block, version) = reader(&lab, &arena, true);
    let (paced, _other_client, other, _) = reader(&lab, &arena, true);
    paced.set_pace(Some(80));
    block.retire();
    other.retire();
    arena.ask_back(9 * PAGE, 1_000_000);
    for ms in (0..=10 * GRACE_MS).step_by(100) {
        // The next block, again and again.
        begun.hold(&version, 0, block.clone());
        paced.took(5);
        lab.deadlines.sweep(T0 + ms);
        assert_eq!((begun.expired(), paced.expired()), (None, None), "{ms}");
    }
    lab.deadlines.sweep(T0 + 11 * GRACE_MS);
    assert_eq!((begun.expired(), paced.expired()), (Some(Expired::Memory), None));
}

#[test]
fn who_does_not_read_on_keeps_nothing_from_being_evicted() {
    let lab = Lab::new(TimeLimits { min_send_bytes_per_s: 0, ..LIMITS });
    let arena = Arena::with_huge_max(1 << 20, 0).unwrap();
    let (slow, _client, _, version) = reader(&lab, &arena, false);
    let (fast, _other_client, block, other) = reader(&lab, &arena, false);
    lab.deadlines.sweep(T0);
    lab.deadlines.sweep(T0 + GRACE_MS - 1);
    assert_eq!((version.slow_holds(), other.slow_holds()), (0, 0));
    fast.took(100);
    lab.deadlines.sweep(T0 + 1000);
    assert_eq!((version.slow_holds(), other.slow_holds()), (HOLDS, 0));
    slow.took(200);
    lab.deadlines.sweep(T0 + 2000);
    assert_eq!(version.slow_holds(), 0, "it has caught up");
    lab.deadlines.sweep(T0 + 3000);
    assert_eq!((version.slow_holds(), other.slow_holds()), (HOLDS, HOLDS));
    slow.release();
    fast.hold(&other, 1, block);
    assert_eq!((version.slow_holds(), other.slow_holds()), (0, 0));
    assert_eq!((slow.expired(), fast.expired()), (None, None), "nobody needs the memory");
}
