//! The harness against itself: what the origin breaks, the client and the verdict must notice.

use std::thread;
use std::time::{Duration, Instant};

use shoal_tests::client::{self, Conn, End, Failure, Reading, Request};
use shoal_tests::origin::{Change, Etag, Fault, Framing, Object, Origin, When};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::verdict::{Asked, Outcome, Spec, judge};

const SIZE: u64 = 300_000;

#[test]
fn a_good_origin_is_always_right() {
    let origin = Origin::start();
    for (path, framing, etag) in [
        ("/length", Framing::Length, Etag::Strong),
        ("/chunked", Framing::Chunked, Etag::Weak),
        ("/close", Framing::Close, Etag::None),
    ] {
        origin.put(Object { framing, etag, ..Object::new(path, SIZE) });
    }
    let mut rng = Rng::new(seed());
    thread::scope(|scope| {
        for _ in 0..8 {
            let (mut rng, origin) = (rng.fork(), &origin);
            scope.spawn(move || {
                for _ in 0..50 {
                    let path = *rng.pick(&["/length", "/chunked", "/close"]);
                    let object = Object { etag: etag_of(path), ..Object::new(path, SIZE) };
                    let asked = match rng.below(10) {
                        0 => Asked::Whole,
                        _ => Asked::Ranges(vec![Spec::random(&mut rng, SIZE, 64 << 10)]),
                    };
                    let answer = client::expect(origin.addr(), &asked.request(path));
                    // The origin's own 416 has no text; everything else is held to the full standard.
                    if answer.status() != 416 {
                        assert_eq!(judge(&object, 0, &asked, &answer), Ok(Outcome::Right), "{asked} of {path}");
                    }
                }
            });
        }
    });
}

fn etag_of(path: &str) -> Etag {
    match path {
        "/length" => Etag::Strong,
        "/chunked" => Etag::Weak,
        _ => Etag::None,
    }
}

#[test]
fn broken_bodies_are_short_and_never_complete() {
    let origin = Origin::start();
    for (path, fault) in [
        ("/truncated", Fault::Truncate(70_000)),
        ("/reset", Fault::Reset(70_000)),
        ("/long", Fault::LongLength(5)),
        ("/at-once", Fault::Truncate(0)),
    ] {
        for framing in [Framing::Length, Framing::Chunked] {
            if fault == Fault::LongLength(5) && framing == Framing::Chunked {
                continue;
            }
            origin.put(Object { framing, ..Object::new(path, SIZE) }.fault(When::Always, fault));
            let answer = client::expect(origin.addr(), &Request::get(path));
            assert!(matches!(answer.end, End::Short(_)), "{path} with {framing:?}: {:?}", answer.end);
        }
    }
}

#[test]
fn lies_are_found_out() {
    let origin = Origin::start();
    let asked = Asked::Ranges(vec![Spec::Closed(1000, 1999)]);
    for (path, fault) in [("/short", Fault::ShortLength(1)), ("/elsewhere", Fault::WrongRange(1))] {
        let object = Object::new(path, SIZE).fault(When::Always, fault);
        origin.put(object.clone());
        let answer = client::expect(origin.addr(), &asked.request(path));
        assert!(judge(&object, 0, &asked, &answer).is_err(), "{path}");
    }
    origin.put(Object::new("/garbage", SIZE).fault(When::Always, Fault::Garbage));
    assert!(matches!(client::ask(origin.addr(), &Request::get("/garbage")), Err(Failure::Protocol(_))));
    origin.put(Object::new("/nothing", SIZE).fault(When::Always, Fault::NoAnswer));
    assert!(matches!(client::ask(origin.addr(), &Request::get("/nothing")), Err(Failure::Closed)));
}

#[test]
fn an_object_that_changes_shows_its_new_version() {
    let origin = Origin::start();
    let object = Object { change: Change::EveryRequests(2), growth: 10, ..Object::new("/live", 1000) };
    origin.put(object.clone());
    let tags: Vec<String> = (0..4)
        .map(|_| {
            let answer = client::expect(origin.addr(), &Request::get("/live"));
            assert_eq!(judge(&object, origin.version("/live"), &Asked::Whole, &answer), Ok(Outcome::Right));
            answer.header("etag").unwrap().to_owned()
        })
        .collect();
    assert_eq!(tags, ["\"v0\"", "\"v0\"", "\"v1\"", "\"v1\""]);
    let same = Request::get("/live").header("If-None-Match", "\"v2\"");
    assert_eq!(client::expect(origin.addr(), &same).status(), 304);
    let other = Request::range("/live", "bytes=0-9").header("If-Range", "\"v1\"");
    assert_eq!(client::expect(origin.addr(), &other).status(), 200);
}

#[test]
fn an_origin_dies_in_a_body_and_comes_back() {
    let mut origin = Origin::start();
    origin.put(Object::new("/a", SIZE).fault(When::First(1), Fault::Die(100_000)));
    let answer = client::expect(origin.addr(), &Request::get("/a"));
    assert!(matches!(answer.end, End::Short(_)));
    assert!(Conn::open(origin.addr()).is_err() || !origin.is_alive());
    origin.restart();
    assert_eq!(client::expect(origin.addr(), &Request::get("/a")).end, End::Complete);
    assert_eq!(origin.requests("/a"), 2);
}

#[test]
fn slow_things_are_slow_on_both_sides() {
    let origin = Origin::start();
    let wait = Duration::from_millis(200);
    origin.put(Object::new("/stalls", 1000).fault(When::Always, Fault::Stall(500, wait)));
    let answer = client::expect(origin.addr(), &Request::get("/stalls"));
    assert!(answer.first_byte_after.unwrap() < answer.done_after && answer.done_after >= wait);

    origin.put(Object::new("/a", 1 << 20));
    let mut conn = Conn::open_from(origin.addr(), None, Some(8192)).unwrap();
    let reading = Reading { chunk: 1000, pause: Duration::from_millis(1), stop_after: Some(20_000) };
    let started = Instant::now();
    let answer = conn.ask_reading(&Request::get("/a"), reading).unwrap();
    assert_eq!((answer.end, answer.body.len()), (End::Stopped, 20_000));
    assert!(started.elapsed() >= Duration::from_millis(20));
}
