//! Nodes behind nodes: parents share the misses, one that is gone is replaced, and a request that goes in a circle ends.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{self, Lab, Settings, until};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::verdict::{Asked, Outcome, assert_one_line, judge};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    parents_share_the_misses,
    a_parent_that_does_not_know_its_child_is_passed_over,
    a_circle_ends
);

const OBJECTS: u32 = 24;
const SIZE: u64 = 300_000;

fn protected(origin: &Origin) -> Value {
    let mut channel = lab::channel("c", &[origin]);
    channel["access"] = json!({
        "ticket": {"keys": [{"id": "k1", "secret": "a secret of at least sixteen bytes"}]},
        "user_agent": {"allow": ["player"]},
    });
    channel
}

fn node(shards: u32, name: &str, channel: &Value, parents: &[&Lab]) -> Lab {
    let parents: Vec<String> = parents.iter().map(|parent| format!("{{ address = \"{}\" }}", parent.http())).collect();
    let settings = Settings::new(shards)
        .set("node.name", &format!("\"{name}\""))
        .set("http.children", "[\"127.0.0.0/8\"]")
        .set("upstream.parents", &format!("[{}]", parents.join(", ")));
    let node = settings.start();
    node.put_channel(channel);
    node
}

fn fetch(node: &Lab, object: &Object) {
    let path = format!("/c{}", object.path);
    let answer = client::expect(node.http(), &Request::get(&path).header("User-Agent", "player"));
    assert_eq!(judge(object, 0, &Asked::Whole, &answer), Ok(Outcome::Right), "{path}: {:?}", answer.head);
}

/// Children are let in by their address; these "viewers" come from the same network, so no ticket is asked of them either.
fn parents_share_the_misses(shards: u32) {
    let origin = Origin::start();
    let objects: Vec<Object> = (0..OBJECTS).map(|nth| Object::new(&format!("/{nth}.ts"), SIZE)).collect();
    for object in &objects {
        origin.put(object.clone());
    }
    let channel = protected(&origin);
    let mut parents = [node(shards, "p0", &channel, &[]), node(shards, "p1", &channel, &[])];
    let edges = [0, 1].map(|nth| node(shards, &format!("e{nth}"), &channel, &[&parents[0], &parents[1]]));

    let (early, late) = objects.split_at(objects.len() / 2);
    for object in early {
        edges.iter().for_each(|edge| fetch(edge, object));
    }
    for object in early {
        assert_eq!(origin.requests(&object.path), 1, "{}: both edges had it from one parent", object.path);
    }
    let whole: u64 = early.iter().map(|object| object.size).sum();
    let sent = |parent: &Lab| parent.admin().ledger("c", "child").body_bytes;
    until("the parents' ledgers have what the edges got", Duration::from_secs(10), || {
        parents.iter().map(sent).sum::<u64>() == 2 * whole
    });
    for parent in &parents {
        assert!(sent(parent) > 0, "each parent has its share");
        assert_eq!(parent.admin().ledger("c", "client").body_bytes, 0, "an edge is no viewer");
    }
    for seen in origin.seen() {
        let passed = seen.header("cdn-loop").unwrap_or_default();
        assert!(["shoal-e0, shoal-p0", "shoal-e0, shoal-p1"].contains(&passed), "{passed}");
    }

    parents[0].kill_edge();
    for object in late {
        edges.iter().for_each(|edge| fetch(edge, object));
    }
    edges[0].report_handovers("parents");
}

fn a_parent_that_does_not_know_its_child_is_passed_over(shards: u32) {
    let origin = Origin::start();
    let object = Object::new("/a.ts", SIZE);
    origin.put(object.clone());
    let strict = Settings::new(shards).set("node.name", "\"strict\"").start();
    strict.put_channel(&protected(&origin));
    let edge = node(shards, "e0", &protected(&origin), &[&strict]);
    fetch(&edge, &object);
    let refused = edge.metrics().sum("shoal_upstream_errors_total", &[("kind", "status")]);
    assert!(refused > 0.0, "the parent asks for a ticket, which is an error of the set-up");
    assert!(strict.metrics().sum("shoal_http_requests_total", &[("status", "403")]) > 0.0);
}

fn a_circle_ends(shards: u32) {
    let origin = Origin::start();
    let there = Settings::new(shards).set("node.name", "\"there\"").start();
    let here = Settings::new(shards).set("node.name", "\"here\"").start();
    let through = |other: &Lab| {
        let mut channel = lab::channel("c", &[&origin]);
        channel["origins"][0]["url"] = json!(other.url("/c/"));
        channel
    };
    here.put_channel(&through(&there));
    there.put_channel(&through(&here));
    let started = Instant::now();
    let answer = client::expect(here.http(), &Request::get("/c/a.ts"));
    assert_eq!(answer.status(), 502, "{:?}", answer.head);
    assert!(started.elapsed() < Duration::from_secs(4), "it ends by itself, not by a time limit");
    assert!(here.metrics().sum("shoal_http_requests_total", &[("status", "508")]) > 0.0);

    let asked = Request::get("/c/a.ts").header("CDN-Loop", "other; x=1, Shoal-Here");
    let answer = client::expect(here.http(), &asked);
    assert_eq!(answer.status(), 508);
    assert!(assert_one_line(&answer).contains("come round"));
}
