//! What is kept, for how long, and how it is thrown away.

use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::json;
use shoal_tests::client::{self, Request, Response};
use shoal_tests::lab::{self, Lab, until};
use shoal_tests::origin::{Object, Origin, http_date};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    the_origin_decides_how_long,
    the_channel_decides_when_the_origin_does_not,
    failures_are_kept_briefly_and_bridged,
    purge_takes_what_it_is_told,
    prefetch_fills_the_cache,
    only_listed_parameters_make_an_object,
);

const SIZE: u64 = 100_000;

/// Longer than the one or two seconds for which things are fresh here.
const STALE: Duration = Duration::from_millis(2200);

fn get(lab: &Lab, path: &str) -> Response {
    client::expect(lab.http(), &Request::get(path))
}

fn version(answer: &Response) -> &str {
    assert_eq!(answer.status(), 200, "{:?} {}", answer.head, answer.text());
    answer.field("etag")
}

fn the_origin_decides_how_long(shards: u32) {
    let origin = Origin::start();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let bare = |path| Object::new(path, SIZE).without("Cache-Control");
    origin
        .put(bare("/max-age").header("Cache-Control", "max-age=2"))
        .put(bare("/s-maxage").header("Cache-Control", "max-age=1, s-maxage=100"))
        .put(bare("/long").header("Cache-Control", "public, max-age=100"))
        .put(bare("/expires").header("Expires", &http_date(now + 2)))
        .put(bare("/expired").header("Expires", "0"))
        .put(bare("/no-store").header("Cache-Control", "no-store"))
        .put(bare("/private").header("Cache-Control", "private, max-age=100"))
        .put(bare("/no-cache").header("Cache-Control", "no-cache"))
        .put(bare("/aged").header("Cache-Control", "max-age=100").header("Age", "99"));
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let all = ["/max-age", "/s-maxage", "/long", "/expires", "/expired", "/no-store", "/private", "/no-cache", "/aged"];
    for path in all {
        assert_eq!(version(&get(&lab, &format!("/vod{path}"))), "\"v0\"", "{path}");
        origin.bump(path);
    }
    for (path, wanted) in [
        ("/max-age", "\"v0\""),
        ("/s-maxage", "\"v0\""),
        ("/long", "\"v0\""),
        ("/expired", "\"v1\""),
        ("/no-store", "\"v1\""),
        ("/private", "\"v1\""),
        ("/no-cache", "\"v1\""),
    ] {
        let answer = get(&lab, &format!("/vod{path}"));
        assert_eq!(version(&answer), wanted, "{path} at once: {:?}", answer.head);
    }
    thread::sleep(STALE);
    for (path, wanted) in [
        ("/max-age", "\"v1\""),
        ("/s-maxage", "\"v0\""),
        ("/long", "\"v0\""),
        ("/expires", "\"v1\""),
        ("/aged", "\"v1\""),
    ] {
        let answer = get(&lab, &format!("/vod{path}"));
        assert_eq!(version(&answer), wanted, "{path} after {STALE:?}: {:?}", answer.head);
        let truth = Object::new(path, SIZE);
        assert!(truth.is_right(if wanted == "\"v1\"" { 1 } else { 0 }, 0, &answer.body), "{path}");
    }

    // What has not changed is only validated: no body is fetched again.
    thread::sleep(STALE);
    let before = origin.body_bytes();
    assert_eq!(version(&get(&lab, "/vod/max-age")), "\"v1\"");
    assert_eq!(origin.body_bytes(), before, "an unchanged object is validated, not fetched");
    let asked_with_tag =
        |path: &str| origin.seen().iter().any(|seen| seen.target == path && seen.header("if-none-match").is_some());
    assert!(asked_with_tag("/max-age"));
    lab.report_handovers("freshness");
}

fn the_channel_decides_when_the_origin_does_not(shards: u32) {
    let origin = Origin::start();
    let bare = |path: &str| Object::new(path, 1000).without("Cache-Control");
    origin.put(bare("/a.ts")).put(bare("/a.m3u8")).put(bare("/a.mpd"));
    let lab = Lab::start(shards);
    let mut channel = lab::channel("live", &[&origin]);
    channel["cache"] = json!({"default_ttl_ms": 60_000, "playlist_ttl_ms": 1000});
    lab.put_channel(&channel);
    // Fifty players ask for the playlist again and again for some two seconds.
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut conn = client::connect(lab.http());
                for _ in 0..20 {
                    assert_eq!(conn.expect(&Request::get("/live/a.m3u8")).status(), 200);
                    thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    let requests = origin.requests("/a.m3u8");
    println!("1000 playlist requests in 2 s cost {requests} at the origin");
    assert!((2..=5).contains(&requests), "a playlist of one second's life was fetched {requests} times in two");

    for path in ["/a.ts", "/a.m3u8", "/a.mpd"] {
        get(&lab, &format!("/live{path}"));
        origin.bump(path);
    }
    thread::sleep(STALE);
    assert_eq!(version(&get(&lab, "/live/a.ts")), "\"v0\"");
    assert_eq!(version(&get(&lab, "/live/a.m3u8")), "\"v1\"");
    assert_eq!(version(&get(&lab, "/live/a.mpd")), "\"v1\"");
}

fn failures_are_kept_briefly_and_bridged(shards: u32) {
    let mut origin = Origin::start();
    origin.put(Object::new("/a", SIZE).header("Cache-Control", "max-age=1"));
    let lab = Lab::start(shards);
    let mut channel = lab::channel("vod", &[&origin]);
    channel["cache"] = json!({"negative_ttl_ms": 1000, "stale_if_error_ms": 60_000});
    lab.put_channel(&channel);
    channel["id"] = json!("strict");
    channel["prefix"] = json!("/strict/");
    channel["cache"] = json!({"stale_if_error_ms": 0});
    lab.put_channel(&channel);

    let missing = || origin.seen().iter().filter(|seen| seen.target == "/later").count();
    for _ in 0..10 {
        assert_eq!(get(&lab, "/vod/later").status(), 404);
    }
    assert_eq!(missing(), 1, "a 404 is kept for a second");
    origin.put(Object::new("/later", 10));
    thread::sleep(STALE);
    assert_eq!(get(&lab, "/vod/later").status(), 200, "and not longer");

    for channel in ["vod", "strict"] {
        assert_eq!(get(&lab, &format!("/{channel}/a")).status(), 200);
    }
    origin.kill();
    thread::sleep(STALE);
    let stale = get(&lab, "/vod/a");
    assert_eq!(version(&stale), "\"v0\"");
    assert!(Object::new("/a", SIZE).is_right(0, 0, &stale.body) && stale.body.len() as u64 == SIZE);
    let age: u64 = stale.field("age").parse().expect("Age is a number");
    assert!(age >= 2, "a stale answer says how old it is: {age}");
    let refused = get(&lab, "/strict/a");
    assert!((500..=599).contains(&refused.status()), "stale_if_error_ms = 0, yet {:?}", refused.head);
    origin.restart();
    origin.bump("/a");
    until("the origin is asked again", Duration::from_secs(15), || version(&get(&lab, "/vod/a")) == "\"v1\"");
}

fn purge_takes_what_it_is_told(shards: u32) {
    let origin = Origin::start();
    let paths = ["/x/1", "/x/2", "/y/1"];
    for path in paths {
        origin.put(Object::new(path, SIZE));
    }
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    lab.channel("other", &[&origin]);
    let mut newest = 0;
    let mut expect = |scope: &serde_json::Value, purged: &[&str]| {
        newest += 1;
        paths.iter().for_each(|path| origin.bump(path));
        let report = lab.admin().purge(scope);
        println!("{scope} -> {report}");
        for channel in ["/vod", "/other"] {
            for path in paths {
                let at = format!("{channel}{path}");
                let answer = get(&lab, &at);
                let tag = version(&answer).to_owned();
                let new = tag == format!("\"v{newest}\"");
                assert_eq!(new, purged.contains(&&*at), "{at} after {scope}: {tag}");
                let of: u32 = tag.trim_matches(['"', 'v']).parse().expect("our own tag");
                assert!(Object::new(path, SIZE).is_right(of, 0, &answer.body), "{at}");
            }
        }
        // Every one is in the cache in its newest version for the next round.
        lab.admin().purge(&json!({"scope": "all"}));
        for channel in ["/vod", "/other"] {
            paths.iter().for_each(|path| drop(get(&lab, &format!("{channel}{path}"))));
        }
    };
    let everything = ["/vod/x/1", "/vod/x/2", "/vod/y/1", "/other/x/1", "/other/x/2", "/other/y/1"];
    expect(&json!({"scope": "all"}), &everything);
    expect(&json!({"scope": "object", "channel": "vod", "path": "x/1"}), &["/vod/x/1"]);
    expect(&json!({"scope": "prefix", "channel": "vod", "path": "x/"}), &["/vod/x/1", "/vod/x/2"]);
    expect(&json!({"scope": "channel", "channel": "other"}), &everything[3..]);
    expect(&json!({"scope": "object", "channel": "vod", "path": "no/such"}), &[]);
    lab.report_handovers("purge");
}

fn prefetch_fills_the_cache(shards: u32) {
    let origin = Origin::start();
    let paths: Vec<String> = (0..8).map(|nth| format!("seg/{nth}.ts")).collect();
    for path in &paths {
        origin.put(Object::new(&format!("/{path}"), 3 * SIZE));
    }
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let mut wanted: Vec<&str> = paths.iter().map(String::as_str).collect();
    wanted.push("seg/missing.ts");
    println!("{}", lab.admin().prefetch("vod", &wanted));
    until("all is fetched", Duration::from_secs(10), || origin.body_bytes() >= 8 * 3 * SIZE);
    let before = origin.seen().len();
    for path in &paths {
        let answer = get(&lab, &format!("/vod/{path}"));
        assert!(Object::new(&format!("/{path}"), 3 * SIZE).is_right(0, 0, &answer.body));
        assert!(answer.field("cache-status").contains("hit"), "{path}: {}", answer.field("cache-status"));
    }
    assert_eq!(origin.seen().len(), before, "what was prefetched is not fetched again");
}

fn only_listed_parameters_make_an_object(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", 100)).put(Object::new("/a?v=1", 100)).put(Object::new("/a?v=2", 100));
    let lab = Lab::start(shards);
    let mut channel = lab::channel("vod", &[&origin]);
    channel["cache"] = json!({"query_allow": ["v"]});
    lab.put_channel(&channel);
    for (query, object) in [
        ("", "/a"),
        ("?x=1", "/a"),
        ("?CMCD=bs%3D1", "/a"),
        ("?v=1", "/a?v=1"),
        ("?v=2", "/a?v=2"),
        ("?x=9&v=2&y=3", "/a?v=2"),
    ] {
        let answer = get(&lab, &format!("/vod/a{query}"));
        assert_eq!(answer.status(), 200);
        assert!(Object::new(object, 100).is_right(0, 0, &answer.body), "{query} is {object}");
    }
    let targets: Vec<String> = origin.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/a", "/a?v=1", "/a?v=2"], "each object is asked for once, without anything else");
}
