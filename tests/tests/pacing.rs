//! What a channel's limits do to its viewers, and not to others.

use std::thread;
use std::time::{Duration, Instant};

use rustls::version::TLS13;
use serde_json::{Value, json};
use shoal_tests::client::{self, Conn, Request};
use shoal_tests::lab::{self, Lab, Settings};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::tls::{Authority, NOW, put_on};
use shoal_tests::verdict::{Asked, Outcome, judge};
use shoal_tests::{net, with_one_and_four_shards};

with_one_and_four_shards!(
    a_response_goes_out_evenly,
    a_burst_goes_out_at_once,
    responses_of_a_channel_share_its_rate,
    a_crowd_is_told_to_come_again,
    requests_beyond_the_rate_are_refused,
    tls_is_paced_too,
    children_are_not_limited
);

const MIB: u64 = 1 << 20;

/// A lab with the channels `limited` and `free` of the same origin.
fn lab(shards: u32, origin: &Origin, limits: &Value) -> Lab {
    let lab = Lab::start(shards);
    let mut channel = lab::channel("limited", &[origin]);
    channel["limits"] = limits.clone();
    lab.put_channel(&channel);
    lab.channel("free", &[origin]);
    lab
}

fn object(origin: &Origin, path: &str, size: u64) -> Object {
    let object = Object::new(path, size).header("Cache-Control", "max-age=600");
    origin.put(object.clone());
    object
}

/// The time that a right answer took.
fn timed(conn: &mut Conn, channel: &str, object: &Object) -> Duration {
    let started = Instant::now();
    conn.send(&Request::get(&format!("/{channel}{}", object.path)).bytes());
    let answer = conn.expect_response();
    assert_eq!(judge(object, 0, &Asked::Whole, &answer), Ok(Outcome::Right), "{channel}: {:?}", answer.head);
    started.elapsed()
}

fn a_response_goes_out_evenly(shards: u32) {
    let origin = Origin::start();
    let object = object(&origin, "/a.ts", 4 * MIB);
    let lab = lab(shards, &origin, &json!({"response_bytes_per_second": 2 * MIB}));
    let mut conn = client::connect(lab.http());
    let first = timed(&mut conn, "limited", &object);
    // Ten segments of 64 KiB go out at once on loopback.
    assert!((Duration::from_millis(1500)..Duration::from_millis(3500)).contains(&first), "{first:?}");
    let again = timed(&mut conn, "limited", &object);
    assert!((Duration::from_millis(1600)..Duration::from_millis(3500)).contains(&again), "{again:?}");
    // The same connection is as quick as any for a channel without limits.
    timed(&mut conn, "free", &object);
    let free = timed(&mut conn, "free", &object);
    assert!(free < Duration::from_millis(500), "{free:?}");
    assert_eq!(lab.metrics().sum("shoal_http_paced_responses_total", &[]), 2.0);
}

fn a_burst_goes_out_at_once(shards: u32) {
    let origin = Origin::start();
    let small = object(&origin, "/small.ts", 2 * MIB);
    let large = object(&origin, "/large.ts", 4 * MIB);
    let lab = lab(shards, &origin, &json!({"response_bytes_per_second": MIB, "response_burst_bytes": 2 * MIB}));
    let mut conn = client::connect(lab.http());
    for _ in 0..3 {
        let within_burst = timed(&mut conn, "limited", &small);
        assert!(within_burst < Duration::from_millis(700), "{within_burst:?}");
    }
    let beyond = timed(&mut conn, "limited", &large);
    assert!((Duration::from_millis(1300)..Duration::from_secs(4)).contains(&beyond), "{beyond:?}");
}

fn responses_of_a_channel_share_its_rate(shards: u32) {
    let origin = Origin::start();
    let object = object(&origin, "/a.ts", MIB);
    let lab = lab(shards, &origin, &json!({"bytes_per_second": 2 * MIB}));
    let started = Instant::now();
    let times: Vec<Duration> = thread::scope(|scope| {
        let viewer = || timed(&mut client::connect(lab.http()), "limited", &object);
        let viewers: Vec<_> = (0..6).map(|_| scope.spawn(viewer)).collect();
        viewers.into_iter().map(|viewer| viewer.join().expect("a viewer")).collect()
    });
    // 6 MiB, of which 2 MiB at once and the rest at 2 MiB in a second.
    let all = started.elapsed();
    assert!((Duration::from_millis(1800)..Duration::from_millis(4000)).contains(&all), "{all:?}: {times:?}");
    // Two may have had all of that; the others take turns, or the next one would be done after half a second.
    let mut sorted = times.clone();
    sorted.sort();
    assert!(sorted[2] > Duration::from_millis(900), "{times:?}");
    assert!(lab.metrics().sum("shoal_http_limit_wait_seconds_total", &[]) > 1.0);
    assert!(timed(&mut client::connect(lab.http()), "free", &object) < Duration::from_millis(700));
}

fn a_crowd_is_told_to_come_again(shards: u32) {
    let origin = Origin::start();
    object(&origin, "/a.ts", 60_000);
    let lab = lab(shards, &origin, &json!({"bytes_per_second": 65_536}));
    thread::scope(|scope| {
        let crowd: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| client::expect(lab.http(), &Request::get("/limited/a.ts")).status()))
            .collect();
        let mut refused = None;
        lab::until("somebody is refused", Duration::from_secs(10), || {
            let answer = client::expect(lab.http(), &Request::range("/limited/a.ts", "bytes=0-9"));
            refused = Some(answer).filter(|answer| answer.status() == 503);
            refused.is_some()
        });
        let refused = refused.expect("as was waited for");
        assert!(refused.field("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0), "{:?}", refused.head);
        let explained = lab.admin().call("POST", "/api/v1/cache/explain", Some(&json!({"url": "/limited/a.ts"})));
        assert!(explained.to_string().contains("65536 bytes per second; "), "{explained}");
        assert_eq!(client::expect(lab.http(), &Request::get("/free/a.ts")).status(), 200);
        for viewer in crowd {
            let status = viewer.join().expect("a viewer");
            assert!([200, 503].contains(&status), "{status}");
        }
    });
    assert!(lab.metrics().sum("shoal_http_refusals_total", &[("reason", "channel_bytes")]) > 0.0);
}

fn requests_beyond_the_rate_are_refused(shards: u32) {
    let origin = Origin::start();
    let object = object(&origin, "/a.ts", 100);
    let lab = lab(shards, &origin, &json!({"requests_per_second": 10}));
    let started = Instant::now();
    let answers: Vec<_> = (0..60).map(|_| client::expect(lab.http(), &Request::get("/limited/a.ts"))).collect();
    let admitted = answers.iter().filter(|answer| answer.status() == 200).count();
    let most = 11 + 10 * started.elapsed().as_millis() as usize / 1000;
    assert!((10..=most).contains(&admitted), "{admitted} of at most {most}");
    for refused in answers.iter().filter(|answer| answer.status() != 200) {
        assert_eq!((refused.status(), refused.field("retry-after")), (429, "1"));
    }
    assert_eq!(
        lab.metrics().sum("shoal_http_refusals_total", &[("reason", "channel_requests")]),
        (answers.len() - admitted) as f64
    );
    let mut conn = client::connect(lab.http());
    for _ in 0..60 {
        timed(&mut conn, "free", &object);
    }
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(client::expect(lab.http(), &Request::get("/limited/a.ts")).status(), 200, "there is room again");
}

fn tls_is_paced_too(shards: u32) {
    let authority = Authority::new();
    let at = net::free_port(net::own_address());
    let pair = authority.issue("a", &["edge.test"], NOW);
    let lab = Settings::new(shards)
        .set("tls.listen", &format!("[\"{at}\"]"))
        .set("tls.certificates", &format!("[{}]", pair.toml()))
        .start();
    let origin = Origin::start();
    let object = object(&origin, "/a.ts", 4 * MIB);
    let mut channel = lab::channel("limited", &[&origin]);
    channel["limits"] = json!({"response_bytes_per_second": 2 * MIB});
    lab.put_channel(&channel);
    let at = put_on(at, &authority.client(&[&TLS13]), "edge.test");
    let took = timed(&mut client::connect(at), "limited", &object);
    assert!((Duration::from_millis(1500)..Duration::from_millis(3500)).contains(&took), "{took:?}");
}

fn children_are_not_limited(shards: u32) {
    let origin = Origin::start();
    let object = object(&origin, "/a.ts", 4 * MIB);
    let lab = Settings::new(shards).set("http.children", "[\"127.0.0.0/8\"]").start();
    let mut channel = lab::channel("limited", &[&origin]);
    channel["limits"] = json!({"requests_per_second": 1, "response_bytes_per_second": MIB});
    lab.put_channel(&channel);
    let mut conn = client::connect(lab.http());
    for _ in 0..5 {
        let took = timed(&mut conn, "limited", &object);
        assert!(took < Duration::from_millis(900), "{took:?}");
    }
}
