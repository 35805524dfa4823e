//! What an operator can find out about a cache: top, stat, explain, by the API and by shoalctl.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{self, Lab, Settings};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    the_most_wanted_and_the_largest_are_listed,
    an_object_is_described,
    a_request_is_explained_as_it_will_happen,
    disk_is_described_after_a_restart
);

/// The one node's answer.
fn answer(lab: &Lab, path: &str) -> Value {
    let report = lab.admin().call("GET", &format!("/api/v1/cache/{path}"), None);
    only(&report)
}

fn only(report: &Value) -> Value {
    assert_eq!((&report["ok"], report["results"].as_array().map(Vec::len)), (&json!(true), Some(1)), "{report}");
    assert_eq!(report["results"][0]["node"], "lab");
    report["results"][0]["answer"].clone()
}

fn explain(lab: &Lab, probe: &Value) -> Value {
    only(&lab.admin().call("POST", "/api/v1/cache/explain", Some(probe)))
}

/// The verdict, and what is said of one step.
fn verdict(explanation: &Value, step: &str) -> (String, String) {
    let steps = explanation["steps"].as_array().expect("steps");
    let says = steps.iter().find(|found| found["what"] == step).map(|found| found["says"].as_str().unwrap_or_default());
    (explanation["verdict"].as_str().unwrap_or_default().to_owned(), says.unwrap_or_default().to_owned())
}

fn get(lab: &Lab, path: &str) -> client::Response {
    client::expect(lab.http(), &Request::get(path))
}

fn the_most_wanted_and_the_largest_are_listed(shards: u32) {
    let origin = Origin::start();
    for (path, size) in [("/large", 500_000), ("/wanted", 10_000), ("/third", 30_000)] {
        origin.put(Object::new(path, size));
    }
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    lab.channel("other", &[&origin]);
    for (path, times) in [("/vod/wanted", 12), ("/vod/third", 3), ("/vod/large", 2), ("/other/large", 1)] {
        (0..times).for_each(|_| assert_eq!(get(&lab, path).status(), 200));
    }
    let listed = |query: &str| -> Vec<(String, u64, u64)> {
        let report = answer(&lab, &format!("top?{query}"));
        let objects = report["objects"].as_array().expect("a list").iter();
        let number = |value: &Value| value.as_u64().expect("a number");
        let name = |object: &Value| format!("{}/{}", object["channel"], object["path"]).replace('"', "");
        objects.map(|object| (name(object), number(&object["requests"]), number(&object["bytes"]))).collect()
    };
    let wanted = |list: &[(String, u64, u64)]| list.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>();
    let top = listed("by=requests&limit=3");
    assert_eq!(top[0], ("vod/wanted".to_owned(), 12, 120_000));
    assert_eq!(wanted(&top), ["vod/wanted", "vod/third", "vod/large"]);
    assert_eq!(listed("by=bytes&limit=1"), [("vod/large".to_owned(), 2, 1_000_000)]);
    assert_eq!(wanted(&listed("by=ram&channel=vod")), ["vod/large", "vod/third", "vod/wanted"]);
    assert_eq!(listed("by=ram").len(), 4);
    let report = answer(&lab, "top?by=requests&limit=1");
    assert!(report["objects"][0]["ram_bytes"].as_u64().is_some_and(|bytes| bytes >= 10_000), "{report}");

    let stat = answer(&lab, "stat");
    let counted = |cache: &str| {
        let all = stat["requests"].as_array().expect("a list").iter();
        all.filter(|sum| sum["cache"] == cache).map(|sum| sum["requests"].as_u64().unwrap_or(0)).sum::<u64>()
    };
    assert_eq!((counted("miss"), counted("hit")), (4, 14), "{stat}");
    assert_eq!((&stat["hit_permille"], &stat["viewer_bytes"]), (&json!(777), &json!(1_710_000)));
    assert!(stat["origin_bytes"].as_u64().is_some_and(|bytes| (1_040_000..1_050_000).contains(&bytes)), "{stat}");
    assert_eq!(stat["shards"].as_array().map(Vec::len), Some(shards as usize));
}

fn an_object_is_described(shards: u32) {
    let origin = Origin::start();
    let object = Object::new("/a.ts", 200_000).header("Cache-Control", "max-age=60, stale-while-revalidate=5");
    origin.put(object.header("Surrogate-Key", "match-7 live"));
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let nothing = answer(&lab, "object?url=/vod/a.ts");
    assert_eq!((&nothing["variants"], &nothing["path"]), (&json!([]), &json!("a.ts")));
    assert_eq!(get(&lab, "/vod/a.ts").status(), 200);
    for query in
        ["object?url=/vod/a.ts", "object?url=http%3A%2F%2Fedge%2Fvod%2Fa.ts%3Fx%3D1", "object?channel=vod&path=a.ts"]
    {
        let stat = answer(&lab, query);
        let variant = &stat["variants"][0];
        assert_eq!((&variant["status"], &variant["total_bytes"]), (&json!(200), &json!(200_000)), "{query}: {stat}");
        assert_eq!((&variant["ram_blocks"], &variant["tags"]), (&json!(4), &json!(["match-7", "live"])));
        assert_eq!(variant["fresh_by"], "Cache-Control: max-age=60");
        assert_eq!(variant["stale_while_revalidate_ms"], 5_000);
        assert!(variant["fresh_ms"].as_i64().is_some_and(|ms| (50_000..=60_000).contains(&ms)), "{stat}");
    }
    for (query, status) in
        [("object", 400), ("object?channel=vod", 400), ("object?channel=none&path=a", 404), ("top?limit=0", 400)]
    {
        assert_eq!(lab.admin().send("GET", &format!("/api/v1/cache/{query}"), None).status(), status, "{query}");
    }
}

fn a_request_is_explained_as_it_will_happen(shards: u32) {
    let origins = [Origin::start(), Origin::start()];
    for origin in &origins {
        origin.put(Object::new("/a.ts", 200_000).header("Cache-Control", "max-age=1"));
        origin.put(Object::new("/long.ts", 200_000).header("Cache-Control", "s-maxage=600, max-age=1"));
    }
    let lab = Lab::start(shards);
    let mut channel = lab::channel("vod", &[&origins[0], &origins[1]]);
    channel["hosts"] = json!(["cdn.test"]);
    channel["access"] = json!({"referer": {"deny": ["leech.test"], "allow_missing": true}});
    lab.put_channel(&channel);
    let mut ticketed = lab::channel("paid", &[&origins[0]]);
    ticketed["access"] = json!({"ticket": {"keys": [{"id": "k1", "secret": "a secret of at least sixteen bytes"}]}});
    lab.put_channel(&ticketed);
    let probe = |path: &str| json!({"url": format!("http://cdn.test{path}")});
    let real = |path: &str| client::expect(lab.http(), &Request::get(path).header("Host", "cdn.test"));

    // Nothing is fetched by asking, and nothing counted.
    let cold = explain(&lab, &probe("/vod/a.ts"));
    assert_eq!(verdict(&cold, "cache").0, "miss", "{cold}");
    assert_eq!((&cold["sources"][0]["id"], &cold["sources"][1]["id"]), (&json!("o0"), &json!("o1")));
    assert_eq!(verdict(&cold, "route").1, "channel `vod` has prefix /vod/ at host cdn.test");
    assert_eq!(origins[0].requests("/a.ts"), 0);
    assert_eq!(real("/vod/a.ts").status(), 200);
    assert_eq!(real("/vod/long.ts").status(), 200);

    let (cache, why) = verdict(&explain(&lab, &probe("/vod/long.ts")), "cache");
    assert!(cache == "hit" && why.contains("by Cache-Control: s-maxage=600; block 0 is in RAM"), "{cache}: {why}");
    thread::sleep(Duration::from_millis(1100));
    let stale = explain(&lab, &probe("/vod/a.ts"));
    let (cache, why) = verdict(&stale, "cache");
    assert!(cache == "revalidated" && why.contains("max-age=1") && why.contains("stale for"), "{cache}: {why}");
    assert!(real("/vod/a.ts").field("cache-status").contains("fwd=stale"), "as it was said");

    // Who would be refused is told the same words.
    for (request, status, step, reason) in [
        (probe("/none/a"), 404, "route", "no_channel"),
        (json!({"url": "/vod/a.ts"}), 404, "route", "no_channel"),
        (json!({"url": "http://cdn.test/vod/a.ts", "method": "POST"}), 405, "request", "method"),
        (
            json!({"url": "http://cdn.test/vod/a.ts", "headers": [["Referer", "http://leech.test/"]]}),
            403,
            "access",
            "referer",
        ),
        (probe("/paid/a.ts"), 403, "access", "ticket"),
        (probe("/vod/%zz"), 400, "route", "bad_path"),
    ] {
        let refused = explain(&lab, &request);
        assert_eq!(
            (&refused["verdict"], &refused["status"]),
            (&json!("refused"), &json!(status)),
            "{request}: {refused}"
        );
        let (_, why) = verdict(&refused, step);
        assert!(why.contains(reason), "{request}: {refused}");
    }
    let ticket = lab.admin().ticket("paid", &json!({"path": "a.ts", "session": "viewer-7"}));
    let paid = explain(&lab, &probe(&format!("/paid/a.ts?ticket={ticket}")));
    assert!(verdict(&paid, "ticket").1.contains("viewer-7"), "{paid}");

    let bad = |body: Value| lab.admin().send("POST", "/api/v1/cache/explain", Some(&body)).status();
    assert_eq!(bad(json!({"url": "ftp://a/"})), 422);
    assert_eq!(bad(json!({"url": "/a", "headers": [["A B", "c"]]})), 422);
    assert_eq!(bad(json!({"url": "/a", "headers": [["A", "b\r\nC: d"]]})), 422);
    assert_eq!(bad(json!({"url": "/a", "method": "GET /b"})), 422);

    let ctl = |args: &[&str]| lab.shoalctl(args);
    let has = |(code, said): (Option<i32>, String), words: &[&str]| {
        assert_eq!(code, Some(0), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "no {word} in {said}"));
    };
    has(ctl(&["cache", "top"]), &["node lab", "REQUESTS", "long.ts"]);
    has(ctl(&["cache", "stat"]), &["hit ratio", "SHARD"]);
    has(ctl(&["cache", "stat", "http://cdn.test/vod/long.ts"]), &["s-maxage=600", "in RAM"]);
    has(
        ctl(&["cache", "explain", "http://cdn.test/vod/long.ts", "-H", "Range: bytes=0-9"]),
        &["node lab\nhit", "source"],
    );
    has(ctl(&["cache", "explain", "http://cdn.test/paid/a.ts"]), &["refused with 403"]);
    assert_eq!(ctl(&["cache", "explain", "/a", "-H", "nothing"]).0, Some(2));
    assert_eq!(ctl(&["cache", "top", "--node", "nobody"]).0, Some(1));
}

fn disk_is_described_after_a_restart(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a.ts", 200_000).header("Cache-Control", "max-age=600"));
    let mut lab = Settings::new(shards).with_disks(&[256 << 20]).start();
    lab.channel("vod", &[&origin]);
    (0..4).for_each(|_| assert_eq!(get(&lab, "/vod/a.ts").status(), 200));
    lab::until("it is on disk", Duration::from_secs(20), || {
        answer(&lab, "object?url=/vod/a.ts")["variants"][0]["disk_blocks"] == 4
    });
    lab.kill_edge();
    lab.start_edge();
    lab::until("the node is connected", Duration::from_secs(10), || {
        lab.admin().call("GET", "/api/v1/cache/stat", None)["results"][0]["answer"].is_object()
    });
    let stat = answer(&lab, "object?url=/vod/a.ts");
    assert_eq!((&stat["variants"], &stat["on_disk"]["disk_blocks"]), (&json!([]), &json!(4)), "{stat}");
    let explanation = explain(&lab, &json!({"url": "/vod/a.ts"}));
    let (cache, why) = verdict(&explanation, "cache");
    assert!(cache == "disk" && why.contains("by Cache-Control: max-age=600"), "{explanation}");
    assert_eq!(origin.requests("/a.ts"), 1);
}
