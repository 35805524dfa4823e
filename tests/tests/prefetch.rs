//! Orders to fetch ahead: complete, bounded, watched, and no burden to viewers.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    a_list_is_fetched_and_its_failures_named,
    an_order_is_paced_watched_and_stopped,
    ranges_bring_their_blocks_and_no_others,
    what_was_ordered_goes_to_disk
);

const BLOCK: u64 = 64 << 10;

fn order(lab: &Lab, wait_ms: u32, order: &Value) -> Value {
    let report = lab.admin().call("POST", &format!("/api/v1/prefetch?wait_ms={wait_ms}"), Some(order));
    report["results"][0]["answer"].clone()
}

fn listed(lab: &Lab) -> Vec<Value> {
    let report = lab.admin().call("GET", "/api/v1/prefetch", None);
    report["results"][0]["answer"].as_array().expect("a list").clone()
}

fn a_list_is_fetched_and_its_failures_named(shards: u32) {
    let origin = Origin::start();
    let paths: Vec<String> = (0..40).map(|nth| format!("seg/{nth}.ts")).collect();
    for path in &paths {
        origin.put(Object::new(&format!("/{path}"), 3 * BLOCK + 7).header("Cache-Control", "max-age=600"));
    }
    origin.put(Object::literal("/secret.ts", "x").header("Cache-Control", "private"));
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let list = lab.dir().join("list");
    let mut text = "# what is watched on Saturdays\n".to_owned() + &paths[1..].join("\n");
    text.push_str("\nseg/missing.ts\nsecret.ts\n");
    fs::write(&list, text).expect("our own folder");
    let file = list.to_str().expect("our own name");
    let url = lab.url("/vod/seg/0.ts");
    let (code, said) = lab.shoalctl(&["cache", "prefetch", "vod", &url, "--file", file, "--rate", "0"]);
    assert_eq!(code, Some(1), "two of them cannot be had: {said}");
    for words in ["done", "seg/missing.ts: the origin answered 404", "secret.ts: the origin does not allow"] {
        assert!(said.contains(words), "no {words} in {said}");
    }
    let stat = &listed(&lab)[0];
    assert_eq!((&stat["items"], &stat["fetched"], &stat["failed"]), (&json!(42), &json!(40), &json!(2)), "{stat}");
    assert_eq!(stat["bytes"], 40 * (3 * BLOCK + 7));
    for path in &paths {
        let answer = client::expect(lab.http(), &Request::get(&format!("/vod/{path}")));
        assert!(answer.field("cache-status").contains("hit"), "{path}: {}", answer.field("cache-status"));
        assert_eq!(origin.requests(&format!("/{path}")), 1, "{path}");
    }
    assert_eq!(lab.shoalctl(&["cache", "prefetch", "vod"]).0, Some(2), "nothing is ordered");
    assert_eq!(lab.shoalctl(&["prefetch", "none", "a"]).0, Some(1));
}

fn an_order_is_paced_watched_and_stopped(shards: u32) {
    let origin = Origin::start();
    let paths: Vec<String> = (0..50).map(|nth| format!("{nth}.ts")).collect();
    for path in &paths {
        origin.put(Object::new(&format!("/{path}"), 4 * BLOCK).header("Cache-Control", "max-age=600"));
    }
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    // 12.5 MiB at 2 MiB per second, of which a second's worth may come at once.
    let begun = Instant::now();
    let slow = json!({"channel": "vod", "paths": paths, "bytes_per_second": 2 << 20});
    let first = order(&lab, 100, &slow);
    assert_eq!((&first["state"], &first["items"]), (&json!("running"), &json!(50)), "{first}");
    let second = order(&lab, 100, &json!({"channel": "vod", "paths": ["0.ts"]}));
    assert_eq!(second["state"], "waiting", "one order after the other: {second}");
    until("half of it is there", Duration::from_secs(10), || listed(&lab)[0]["bytes"].as_u64() >= Some(6 << 20));
    let took = begun.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_secs(6)).contains(&took), "{took:?}");

    let (code, said) = lab.shoalctl(&["cache", "cancel", "lab", &first["id"].to_string()]);
    assert_eq!(code, Some(0), "{said}");
    until("the next one is done", Duration::from_secs(10), || listed(&lab)[1]["state"] == "done");
    let stopped = &listed(&lab)[0];
    assert_eq!(stopped["state"], "stopped", "{stopped}");
    assert!(stopped["fetched"].as_u64().is_some_and(|fetched| fetched < 50), "{stopped}");
    assert!(lab.shoalctl(&["cache", "prefetches"]).1.contains("stopped"));
    assert_eq!(lab.shoalctl(&["cache", "cancel", "lab", "77"]).0, Some(1));

    // A limit of bytes ends an order by itself.
    let bounded = json!({"channel": "vod", "paths": paths, "bytes_per_second": 0, "bytes_max": 10 * BLOCK});
    let bounded = order(&lab, 10_000, &bounded);
    assert_eq!(bounded["state"], "stopped", "{bounded}");
    assert!(bounded["bytes"].as_u64().is_some_and(|bytes| bytes < 30 * BLOCK), "{bounded}");
}

fn ranges_bring_their_blocks_and_no_others(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/film.mp4", 40 * BLOCK).header("Cache-Control", "max-age=600"));
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let items = json!([
        {"path": "film.mp4", "first": 0, "last": 2 * BLOCK - 1},
        {"path": "film.mp4", "first": 39 * BLOCK},
    ]);
    let stat = order(&lab, 10_000, &json!({"channel": "vod", "items": items}));
    assert_eq!((&stat["fetched"], &stat["bytes"]), (&json!(2), &json!(3 * BLOCK)), "{stat}");
    let kept = lab.admin().call("GET", "/api/v1/cache/object?url=/vod/film.mp4", None);
    let blocks = kept["results"][0]["answer"]["variants"][0]["ram_blocks"].as_u64();
    assert!(blocks.is_some_and(|blocks| (3..10).contains(&blocks)), "{kept}");
    let before = origin.seen().len();
    let answer = client::expect(lab.http(), &Request::range("/vod/film.mp4", &format!("bytes=0-{}", 2 * BLOCK - 1)));
    assert_eq!((answer.status(), origin.seen().len()), (206, before), "nothing more is asked for");
    let behind = order(&lab, 10_000, &json!({"channel": "vod", "items": [{"path": "film.mp4", "first": 41 * BLOCK}]}));
    assert!(behind["errors"][0].as_str().is_some_and(|error| error.contains("behind its end")), "{behind}");
}

fn what_was_ordered_goes_to_disk(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a.ts", 4 * BLOCK).header("Cache-Control", "max-age=600"));
    let mut lab = Settings::new(shards).with_disks(&[256 << 20]).start();
    lab.channel("vod", &[&origin]);
    assert_eq!(order(&lab, 10_000, &json!({"channel": "vod", "paths": ["a.ts"]}))["fetched"], 1);
    until("it is on disk", Duration::from_secs(20), || lab.metrics().sum("shoal_disk_entries", &[]) == 4.0);
    lab.kill_edge();
    lab.start_edge();
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/a.ts")).status(), 200);
    assert_eq!(origin.requests("/a.ts"), 1);
}
