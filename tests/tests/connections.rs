//! One connection, many requests: keep-alive, pipelining, HTTP/1.0, bodies that nobody asked for.

use std::time::Duration;

use shoal_tests::client::{self, End, Reading, Request};
use shoal_tests::lab::Lab;
use shoal_tests::origin::{Fault, Object, Origin, When};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::verdict::{Asked, Outcome, Spec, judge};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    pipelines_are_answered_in_order,
    versions_and_closing,
    pieces_of_a_head,
    origins_get_clean_requests
);

const SIZE: u64 = 200_000;
const SOON: Duration = Duration::from_secs(5);

fn start(shards: u32) -> (Lab, Origin) {
    let origin = Origin::start();
    origin.put(Object::new("/a", SIZE)).put(Object::new("/b", 10));
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    (lab, origin)
}

fn pipelines_are_answered_in_order(shards: u32) {
    let (lab, origin) = start(shards);
    let mut rng = Rng::new(seed());
    // The slowest comes first.
    origin.put(Object::new("/late", 1000).fault(When::First(1), Fault::SlowHead(Duration::from_millis(500))));
    let late = Object::new("/late", 1000);
    let mut conn = client::connect(lab.http());
    let requests: Vec<(&str, Object, Asked, bool)> = (0..60)
        .map(|nth| match nth % 4 {
            0 => ("/vod/late", late.clone(), Asked::Whole, false),
            1 => ("/vod/b", Object::new("/b", 10), Asked::Whole, false),
            2 => ("/vod/a", Object::new("/a", SIZE), Asked::Whole, true),
            _ => {
                let spec = Spec::random(&mut rng, SIZE, 64 << 10);
                ("/vod/a", Object::new("/a", SIZE), Asked::Ranges(vec![spec]), false)
            }
        })
        .collect();
    let mut bytes = Vec::new();
    for (path, _, asked, head) in &requests {
        let mut request = asked.request(path);
        if *head {
            request.method = "HEAD".to_owned();
        }
        bytes.extend(request.bytes());
    }
    conn.send(&bytes);
    for (path, object, asked, head) in &requests {
        let answer =
            conn.read_response(*head, Reading::default()).unwrap_or_else(|why| panic!("{asked} {path}: {why}"));
        if *head {
            assert_eq!(answer.header("content-length"), Some(&*SIZE.to_string()));
        } else {
            assert_eq!(judge(object, 0, asked, &answer), Ok(Outcome::Right), "{asked} of {path}");
        }
    }
    conn.finish_sending().expect("the connection is open");
    assert_eq!(conn.wait_for_close(SOON), Ok(Vec::new()), "nothing comes behind the last answer");
    lab.report_handovers("pipelining");
}

fn versions_and_closing(shards: u32) {
    let (lab, _origin) = start(shards);
    let right = |answer: &client::Response| {
        assert!(answer.status() == 200 && answer.body == Object::new("/b", 10).bytes(0), "{:?}", answer.head);
    };
    // HTTP/1.1 keeps the connection unless asked not to.
    let mut conn = client::connect(lab.http());
    right(&conn.expect(&Request::get("/vod/b")));
    right(&conn.expect(&Request::get("/vod/b").header("Connection", "close")));
    assert_eq!(conn.wait_for_close(SOON), Ok(Vec::new()));
    // HTTP/1.0 closes unless asked not to.
    let mut conn = client::connect(lab.http());
    right(&conn.expect(&Request::get("/vod/b").http10()));
    assert_eq!(conn.wait_for_close(SOON), Ok(Vec::new()));
    let mut conn = client::connect(lab.http());
    let kept = conn.expect(&Request::get("/vod/b").http10().header("Connection", "keep-alive"));
    right(&kept);
    if kept.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive")) {
        right(&conn.expect(&Request::get("/vod/b").http10()));
    }
    // A client that has said all it wants still gets its answer.
    let mut conn = client::connect(lab.http());
    conn.send(&Request::get("/vod/a").bytes());
    conn.finish_sending().expect("the connection is open");
    let answer = conn.expect_response();
    assert_eq!((answer.end, answer.body.len() as u64), (End::Complete, SIZE));
    // A refusal that understood the request does not cost the connection.
    let mut conn = client::connect(lab.http());
    assert_eq!(conn.expect(&Request::get("/vod/none")).status(), 404);
    assert_eq!(conn.expect(&Request::range("/vod/b", "bytes=99-")).status(), 416);
    assert_eq!(conn.expect(&Request::get("/vod/b").header("If-Match", "\"x\"")).status(), 412);
    right(&conn.expect(&Request::get("/vod/b")));
}

fn pieces_of_a_head(shards: u32) {
    let (lab, _origin) = start(shards);
    let bytes = Request::range("/vod/a", "bytes=5-9").bytes();
    let truth = &Object::new("/a", 10).bytes(0)[5..10];
    for cut in 1..bytes.len() {
        let mut conn = client::connect(lab.http());
        conn.send(&bytes[..cut]);
        std::thread::sleep(Duration::from_millis(2));
        conn.send(&bytes[cut..]);
        let answer = conn.expect_response();
        assert!(answer.status() == 206 && answer.body == truth, "cut at {cut}");
    }
    let mut conn = client::connect(lab.http());
    for byte in &bytes {
        conn.send(&[*byte]);
    }
    assert_eq!(conn.expect_response().body, truth);
}

fn origins_get_clean_requests(shards: u32) {
    let (lab, origin) = start(shards);
    let request = Request::range("/vod/a?token=x&CMCD=bl%3D1", "bytes=70000-70009")
        .header("Cookie", "secret=1")
        .header("Authorization", "Basic eDp5")
        .header("X-Forwarded-For", "192.0.2.1")
        .header("Accept-Encoding", "gzip, br")
        .header("If-None-Match", "\"other\"")
        .header("Referer", "https://example.com/");
    let answer = client::expect(lab.http(), &request);
    assert_eq!((answer.status(), answer.body.len()), (206, 10));
    for seen in origin.seen() {
        assert_eq!(seen.target, "/a");
        assert_eq!(seen.header("host"), Some(&*origin.addr().to_string()));
        for name in ["cookie", "authorization", "x-forwarded-for", "referer", "if-none-match"] {
            assert_eq!(seen.header(name), None, "the origin sees {name} of a viewer");
        }
        let encoding = seen.header("accept-encoding").unwrap_or("identity");
        assert_eq!(encoding, "identity", "bytes must come as they are");
        if let Some(range) = seen.header("range") {
            assert!(range.starts_with("bytes=65536-"), "whole blocks are asked for: {range}");
        }
    }
}
