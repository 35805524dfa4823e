//! One fetch per block however many wait, and nobody waits for anybody else.

use std::thread;
use std::time::Duration;

use shoal_tests::client::{self, Conn, End, Reading, Request};
use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::origin::{Framing, Object, Origin};
use shoal_tests::verdict::{Asked, Outcome, Spec, judge};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    a_hundred_clients_cost_one_fetch,
    bytes_stream_while_the_fetch_is_under_way,
    a_slow_waiter_holds_nobody_back,
    a_client_that_leaves_takes_nobody_along,
);

const BLOCK: u64 = 64 << 10;

/// 16 KiB each 20 ms: some 800 KB a second.
const PACE: (usize, Duration) = (16 << 10, Duration::from_millis(20));

fn a_hundred_clients_cost_one_fetch(shards: u32) {
    let origin = Origin::start();
    let size = 5 * BLOCK + 1000;
    for (path, framing, ranges) in
        [("/ranges", Framing::Length, true), ("/whole", Framing::Length, false), ("/chunked", Framing::Chunked, false)]
    {
        origin.put(Object { framing, ranges, ..Object::new(path, size) }.paced(PACE.0, PACE.1));
    }
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    for path in ["/ranges", "/whole", "/chunked"] {
        let object = Object::new(path, size);
        let before = origin.body_bytes();
        thread::scope(|scope| {
            for nth in 0..100 {
                let (lab, object) = (&lab, &object);
                scope.spawn(move || {
                    let asked = match nth % 4 {
                        0 => Asked::Ranges(vec![Spec::Closed(BLOCK * (nth / 20), BLOCK * (nth / 20) + 99)]),
                        _ => Asked::Whole,
                    };
                    let answer = client::expect(lab.http(), &asked.request(&format!("/vod{path}")));
                    assert_eq!(judge(object, 0, &asked, &answer), Ok(Outcome::Right), "{asked} of {path}");
                });
            }
        });
        // The origin counts what it has handed to the kernel, so maybe after it has arrived here.
        until("the origin has counted it all", Duration::from_secs(5), || origin.body_bytes() - before >= size);
        let fetched = origin.body_bytes() - before;
        let requests = origin.requests(path);
        println!("{path}: {fetched} of {size} bytes fetched in {requests} requests");
        assert_eq!(fetched, size, "each byte of {path} is fetched once, in {requests} requests");
    }
    lab.report_handovers("coalescing");
    assert!(lab.metrics().sum("shoal_flight_coalesced_waiters_total", &[]) > 0.0);
}

fn bytes_stream_while_the_fetch_is_under_way(shards: u32) {
    let origin = Origin::start();
    let size = 16 * BLOCK;
    for (path, framing, ranges) in [
        ("/ranges", Framing::Length, true),
        ("/whole", Framing::Length, false),
        ("/chunked", Framing::Chunked, false),
        ("/close", Framing::Close, false),
    ] {
        origin.put(Object { framing, ranges, ..Object::new(path, size) }.paced(PACE.0, PACE.1));
    }
    let lab = Settings::new(shards).set("upstream.readahead_blocks", "1").start();
    lab.channel("vod", &[&origin]);
    for path in ["/ranges", "/whole", "/chunked", "/close"] {
        let answer = client::expect(lab.http(), &Request::get(&format!("/vod{path}")));
        assert_eq!(judge(&Object::new(path, size), 0, &Asked::Whole, &answer), Ok(Outcome::Right), "{path}");
        let first = answer.first_byte_after.expect("the body is not empty");
        println!("{path}: first byte after {first:?}, last after {:?}", answer.done_after);
        // The origin takes more than a second for it all, so this cannot come from a complete object.
        assert!(first < answer.done_after / 3, "{path}: first byte after {first:?} of {:?}", answer.done_after);
    }
    // The object of unknown length had no Content-Length while it came, and has one now.
    let again = client::expect(lab.http(), &Request::new("HEAD", "/vod/chunked"));
    assert_eq!(again.header("content-length"), Some(&*size.to_string()));
}

fn a_slow_waiter_holds_nobody_back(shards: u32) {
    let origin = Origin::start();
    let size = 48 * BLOCK;
    origin.put(Object::new("/a", size));
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let object = Object::new("/a", size);
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let mut conn = Conn::open_from(lab.http(), None, Some(4 << 10)).expect("the edge listens");
            let reading = Reading { chunk: 16 << 10, pause: Duration::from_millis(20), stop_after: None };
            conn.ask_reading(&Request::get("/vod/a"), reading).expect("an answer")
        });
        until("the slow one is first", Duration::from_secs(5), || origin.requests("/a") > 0);
        let fast: Vec<_> =
            (0..20).map(|_| scope.spawn(|| client::expect(lab.http(), &Request::get("/vod/a")))).collect();
        let fast: Vec<_> = fast.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
        let slow = slow.join().expect("the slow client does not panic");
        for answer in fast.iter().chain([&slow]) {
            assert_eq!(judge(&object, 0, &Asked::Whole, answer), Ok(Outcome::Right));
        }
        let slowest = fast.iter().map(|answer| answer.done_after).max().expect("there are some");
        println!("slow {:?}, slowest of the fast {slowest:?}", slow.done_after);
        assert!(slowest < slow.done_after / 2, "fast clients took {slowest:?}, the slow one {:?}", slow.done_after);
    });
}

fn a_client_that_leaves_takes_nobody_along(shards: u32) {
    let origin = Origin::start();
    let size = 10 * BLOCK;
    for framing in [Framing::Length, Framing::Chunked] {
        origin.put(
            Object { framing, ranges: framing == Framing::Length, ..Object::new("/a", size) }.paced(PACE.0, PACE.1),
        );
        let lab = Lab::start(shards);
        lab.channel("vod", &[&origin]);
        let mut first = client::connect(lab.http());
        first.send(&Request::get("/vod/a").bytes());
        until("the fetch is under way", Duration::from_secs(5), || origin.requests("/a") > 0);
        let others: Vec<_> = thread::scope(|scope| {
            let others: Vec<_> =
                (0..10).map(|_| scope.spawn(|| client::expect(lab.http(), &Request::get("/vod/a")))).collect();
            thread::sleep(Duration::from_millis(100));
            drop(first);
            others.into_iter().map(|client| client.join().expect("a client does not panic")).collect()
        });
        assert!(others.iter().all(|answer| answer.end == End::Complete));
        assert!(others.iter().all(|answer| Object::new("/a", size).is_right(0, 0, &answer.body)));
    }
}
