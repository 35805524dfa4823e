//! Purges of many objects: done in a second on all shards, complete, and unnoticed by viewers of the rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(a_purge_takes_a_second_at_most, what_only_disk_has_is_counted_by_name);

const OBJECTS: usize = 3_000;

/// Far above what a shard may stand still, for the machine is shared with other tests.
const LATE: Duration = Duration::from_millis(250);

fn path(nth: usize) -> String {
    format!("/{}/{nth}.ts", ["live", "vod"][nth % 2])
}

fn fetch_all(lab: &Lab) {
    let mut conn = client::connect(lab.http());
    for nth in 0..OBJECTS {
        conn.send(&Request::get(&format!("/c{}", path(nth))).bytes());
        assert_eq!(conn.expect_response().status(), 200, "{nth}");
    }
}

/// Purges while somebody watches; returns the objects.
fn purge(lab: &Lab, scope: &Value) -> u64 {
    let over = AtomicBool::new(false);
    thread::scope(|threads| {
        let viewer = threads.spawn(|| {
            let (mut conn, mut slowest) = (client::connect(lab.http()), Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                let asked = Instant::now();
                conn.send(&Request::get("/other/kept.ts").bytes());
                assert_eq!(conn.expect_response().status(), 200);
                slowest = slowest.max(asked.elapsed());
            }
            slowest
        });
        let begun = Instant::now();
        let report = lab.admin().purge(scope);
        let took = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        let slowest = viewer.join().expect("a viewer");
        println!("{scope}: {took:?}, the slowest answer {slowest:?}");
        assert_eq!(report["ok"], true, "{report}");
        assert!(took < Duration::from_secs(1), "{scope}: {took:?}");
        assert!(slowest < LATE, "{scope}: {slowest:?}");
        report["results"][0]["count"].as_u64().expect("a count")
    })
}

fn a_purge_takes_a_second_at_most(shards: u32) {
    let origin = Origin::start();
    for nth in 0..OBJECTS {
        let object = Object::literal(&path(nth), "fine").header("Cache-Control", "max-age=600");
        origin.put(object.header("Surrogate-Key", &format!("third-{} all", nth % 3)));
    }
    origin.put(Object::literal("/kept.ts", "kept").header("Cache-Control", "max-age=600"));
    let lab = Lab::start(shards);
    lab.channel("c", &[&origin]);
    lab.channel("other", &[&origin]);
    let mut asked = vec![1_u64; OBJECTS];
    fetch_all(&lab);
    type Named = fn(usize) -> bool;
    let scopes: [(Value, Named); 5] = [
        (json!({"scope": "tag", "channel": "c", "tag": "third-1"}), |nth| nth % 3 == 1),
        (json!({"scope": "prefix", "channel": "c", "path": "vod/"}), |nth| nth % 2 == 1),
        (json!({"scope": "url", "url": "/c/live/10.ts"}), |nth| nth == 10),
        (json!({"scope": "tag", "channel": "c", "tag": "third"}), |_| false),
        (json!({"scope": "channel", "channel": "c"}), |_| true),
    ];
    for (scope, named) in scopes {
        let purged = purge(&lab, &scope);
        assert_eq!(purged as usize, (0..OBJECTS).filter(|&nth| named(nth)).count(), "{scope}");
        fetch_all(&lab);
        for (nth, asked) in asked.iter_mut().enumerate() {
            *asked += u64::from(named(nth));
            assert_eq!(origin.requests(&path(nth)), *asked, "{scope}: {nth}");
        }
    }
    assert_eq!(origin.requests("/kept.ts"), 1, "another channel's");
}

fn what_only_disk_has_is_counted_by_name(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a.ts", 200_000).header("Cache-Control", "max-age=600"));
    origin.put(Object::literal("/kept.ts", "kept").header("Cache-Control", "no-store"));
    let mut lab = Settings::new(shards).with_disks(&[256 << 20]).start();
    lab.channel("c", &[&origin]);
    lab.channel("other", &[&origin]);
    let get = |lab: &Lab| client::expect(lab.http(), &Request::get("/c/a.ts"));
    (0..4).for_each(|_| assert_eq!(get(&lab).status(), 200));
    until("it is on disk", Duration::from_secs(20), || lab.metrics().sum("shoal_disk_entries", &[]) == 4.0);
    lab.kill_edge();
    lab.start_edge();
    until("the node is connected", Duration::from_secs(10), || {
        lab.admin().call("GET", "/api/v1/cache/stat", None)["results"][0]["answer"].is_object()
    });
    let by_name = json!({"scope": "object", "channel": "c", "path": "a.ts"});
    assert_eq!(purge(&lab, &by_name), 1);
    assert_eq!(purge(&lab, &by_name), 0);
    assert_eq!(get(&lab).status(), 200);
    assert_eq!(origin.requests("/a.ts"), 2);
}
