//! Origins come and go; the viewer's bytes stay complete and right, or the answer stops: two versions never mix.

use std::time::{Duration, Instant};

use serde_json::json;
use shoal_tests::client::{self, End, Request};
use shoal_tests::lab::{self, Lab, Settings, until};
use shoal_tests::origin::{Fault, Framing, Object, Origin, When};
use shoal_tests::verdict::{Asked, Outcome, Spec, judge};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    an_origin_killed_mid_body_is_replaced,
    versions_never_mix,
    a_dead_origin_is_left_alone,
    order_and_weight_are_respected,
);

const BLOCK: u64 = 64 << 10;
const SIZE: u64 = 6 * BLOCK + 321;

fn an_origin_killed_mid_body_is_replaced(shards: u32) {
    // What the first origin does, and whether the second one knows ranges.
    let cases = [
        ("ranges", Framing::Length, true, true),
        ("whole, then ranges", Framing::Length, false, true),
        ("ranges, then whole", Framing::Length, true, false),
        ("chunked, then whole", Framing::Chunked, false, false),
        ("chunked, then ranges", Framing::Chunked, false, true),
    ];
    let lab = Lab::start(shards);
    for (nth, (what, framing, ranges, second_ranges)) in cases.into_iter().enumerate() {
        let (first, second) = (Origin::start(), Origin::start());
        let object = Object { framing, ranges, ..Object::new("/a.mp4", SIZE) };
        let cut = if ranges { BLOCK / 2 } else { 2 * BLOCK + 77 };
        // Slow enough that the viewer has bytes of the first origin when it dies.
        first.put(object.clone().paced(8 << 10, Duration::from_millis(5)).fault(When::Always, Fault::Die(cut)));
        second.put(Object { ranges: second_ranges, ..Object::new("/a.mp4", SIZE) });
        let id = format!("c{nth}");
        lab.channel(&id, &[&first, &second]);
        let answer = client::expect(lab.http(), &Request::get(&format!("/{id}/a.mp4")));
        assert_eq!(judge(&object, 0, &Asked::Whole, &answer), Ok(Outcome::Right), "{what}");
        assert!(!first.is_alive(), "{what}: the first origin was asked, and died");
        assert!(second.requests("/a.mp4") > 0, "{what}");
        if ranges && second_ranges {
            let fetched = first.body_bytes() + second.body_bytes();
            assert!(fetched < SIZE + BLOCK, "{what}: goes on where the first one broke off, but fetched {fetched}");
        }
        // A part of it, now from the cache, is right as well.
        let asked = Asked::Ranges(vec![Spec::Closed(cut - 10, cut + 10)]);
        let part = client::expect(lab.http(), &asked.request(&format!("/{id}/a.mp4")));
        assert_eq!(judge(&object, 0, &asked, &part), Ok(Outcome::Right), "{what}");
    }
    let metrics = lab.metrics();
    assert!(metrics.sum("shoal_upstream_errors_total", &[("origin", "o0")]) >= 5.0);
    assert_eq!(metrics.sum("shoal_upstream_errors_total", &[("origin", "o1")]), 0.0);
    lab.report_handovers("fail-over");
}

fn versions_never_mix(shards: u32) {
    let lab = Lab::start(shards);
    for (nth, (framing, ranges)) in
        [(Framing::Length, true), (Framing::Length, false), (Framing::Chunked, false)].into_iter().enumerate()
    {
        let (first, second) = (Origin::start(), Origin::start());
        let object = Object { framing, ranges, ..Object::new("/a.mp4", SIZE) };
        let cut = if ranges { BLOCK / 2 } else { 2 * BLOCK + 77 };
        first.put(object.clone().paced(8 << 10, Duration::from_millis(5)).fault(When::Always, Fault::Die(cut)));
        second.put(Object { first_version: 1, ..object.clone() });
        let id = format!("c{nth}");
        lab.channel(&id, &[&first, &second]);
        let path = format!("/{id}/a.mp4");
        let answer = client::expect(lab.http(), &Request::get(&path));
        let outcome = judge(&object, 1, &Asked::Whole, &answer);
        println!("{framing:?}, ranges {ranges}: {outcome:?} after {} bytes", answer.body.len());
        assert!(outcome.is_ok(), "{outcome:?}");
        if answer.status() == 200 && answer.header("etag") == Some("\"v0\"") {
            assert!(matches!(answer.end, End::Short(_)), "nobody has the rest of version 0");
        }
        // The next viewer gets the version that can be had, whole.
        until("the new version is served", Duration::from_secs(5), || {
            let answer = client::expect(lab.http(), &Request::get(&path));
            let outcome = judge(&object, 1, &Asked::Whole, &answer);
            outcome.expect("never a mixture") == Outcome::Right && answer.header("etag") == Some("\"v1\"")
        });
    }
}

fn a_dead_origin_is_left_alone(shards: u32) {
    let (mut first, second) = (Origin::start(), Origin::start());
    for nth in 0..200 {
        first.put(Object::new(&format!("/{nth}"), 100));
        second.put(Object::new(&format!("/{nth}"), 100));
    }
    first.put(Object::literal("/health", "fine"));
    let lab = Settings::new(shards).set("upstream.connect_timeout_ms", "500").start();
    let mut channel = lab::channel("vod", &[&first, &second]);
    channel["origins"][0]["health_path"] = json!("health");
    channel["origins"][0]["health_interval_ms"] = json!(200);
    lab.put_channel(&channel);
    let fetch = |nth: u32| {
        let answer = client::expect(lab.http(), &Request::get(&format!("/vod/{nth}")));
        assert_eq!((answer.status(), answer.end), (200, End::Complete), "object {nth}");
    };
    (0..20).for_each(fetch);
    assert_eq!(second.seen().len(), 0, "the second origin is not asked while the first is well");

    first.kill();
    (20..120).for_each(fetch);
    let metrics = lab.metrics();
    let failed = metrics.sum("shoal_upstream_errors_total", &[("origin", "o0")]);
    println!("{failed} attempts at the dead origin for 100 requests");
    assert!(failed < 50.0, "a dead origin is still tried for every other request: {failed} errors");

    first.restart();
    first.forget();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut next = 120;
    while !first.seen().iter().any(|seen| seen.target != "/health") {
        assert!(Instant::now() < deadline && next < 200, "the first origin is well again but is not asked");
        fetch(next);
        next += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(first.seen().iter().any(|seen| seen.target == "/health"), "its health is checked");
}

fn order_and_weight_are_respected(shards: u32) {
    let origins: Vec<Origin> = (0..4).map(|_| Origin::start()).collect();
    for origin in &origins {
        for nth in 0..400 {
            origin.put(Object::new(&format!("/{nth}"), 10));
        }
    }
    let lab = Lab::start(shards);
    let mut channel = lab::channel("vod", &origins.iter().collect::<Vec<_>>());
    for (nth, (order, weight)) in [(0, 3), (0, 1), (0, 0), (1, 9)].into_iter().enumerate() {
        channel["origins"][nth]["order"] = json!(order);
        channel["origins"][nth]["weight"] = json!(weight);
    }
    lab.put_channel(&channel);
    let mut conn = client::connect(lab.http());
    for nth in 0..400 {
        assert_eq!(conn.expect(&Request::get(&format!("/vod/{nth}"))).status(), 200);
    }
    let asked: Vec<usize> = origins.iter().map(|origin| origin.seen().len()).collect();
    println!("asked: {asked:?}");
    // 3 to 1 of 400; far wider than any reasonable scheme strays.
    assert!((240..=360).contains(&asked[0]) && asked[0] + asked[1] == 400, "{asked:?}");
    assert_eq!(asked[2..], [0, 0], "weight 0 and a later order are not asked");
}
