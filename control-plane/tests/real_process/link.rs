//! The control link: snapshots, commands, health, and what becomes of nodes that do not behave.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_link::message::{Command, PurgeScope, Reply};
use shoal_link::node::{Health, XdpHealth, XdpMode};
use shoal_link::prefetch::{PrefetchItem, PrefetchOrder};
use shoal_link::{ControlMessage, DataMessage, PROTOCOL};

use crate::support::{Control, Dir, Node, batch, hello, until};

#[test]
fn a_snapshot_comes_after_hello_and_at_each_change() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let mut node = Node::join(&dir.socket(), "edge", 1, None);
    assert_eq!(node.snapshot(), shoal_link::Snapshot::default());
    control.put("a");
    let first = node.snapshot();
    assert_eq!((first.version > 0, first.channels.len(), &*first.channels[0].id), (true, 1, "a"));
    control.put("b");
    let second = node.snapshot();
    assert!(second.version > first.version && second.channels.len() == 2);
    assert_eq!(control.get("/api/v1/snapshot")["version"], second.version);
    assert_eq!(control.metric("shoal_control_snapshot_version"), Some(second.version as f64));

    // One that has it is not sent it again; what it has is known.
    drop(node);
    let mut node = Node::join(&dir.socket(), "edge", 1, Some(second.version));
    assert!(node.next_within(Duration::from_millis(300)).is_err());
    assert_eq!(until("the node is there", || control.node("edge"))["snapshot"], second.version);
    let (status, _) = control.call("DELETE", "/api/v1/channels/b", &Value::Null);
    assert_eq!(status, 204);
    let third = node.snapshot();
    assert!(third.version > second.version && third.channels.len() == 1);

    // Applied and refused are shown; health too.
    node.send(&DataMessage::Refused { version: third.version, reason: "origins[0].url: no".to_owned() });
    let refused = until("the refusal is shown", || control.node("edge").filter(|node| !node["refused"].is_null()));
    assert_eq!(
        (&refused["refused"]["reason"], &refused["snapshot"]),
        (&json!("origins[0].url: no"), &json!(second.version))
    );
    node.send(&DataMessage::Applied { version: third.version });
    let health = Health {
        connections: 5,
        draining: true,
        bytes_sent: 1 << 40,
        ram_hits: 3,
        refusals: [("ticket_expired".to_owned(), 2)].into(),
        xdp: XdpHealth { mode: XdpMode::Native, dropped: 9 },
        ..Health::default()
    };
    node.send(&DataMessage::Health(Box::new(health)));
    let shown = until("health is shown", || control.node("edge").filter(|node| !node["health"].is_null()));
    assert_eq!((&shown["snapshot"], &shown["refused"]), (&json!(third.version), &Value::Null));
    assert_eq!((&shown["health"]["connections"], &shown["health"]["draining"]), (&json!(5), &json!(true)));
    assert_eq!((&shown["health"]["bytes_sent"], &shown["health"]["ram_hits"]), (&json!(1_u64 << 40), &json!(3)));
    assert_eq!(shown["health"]["refusals"], json!({"ticket_expired": 2}));
    assert_eq!(shown["health"]["xdp"], json!({"mode": "native", "dropped": 9}));
    // So is where viewers reach it.
    let turn = json!({"realm": "shoal", "tcp_ports": [443], "tls_name": null});
    let endpoints = json!({"https": null, "udp": ["192.0.2.1:3478"], "turn": turn});
    assert_eq!((&shown["region"], &shown["endpoints"]), (&json!("DE-BE"), &endpoints));
    assert_eq!(control.metric("shoal_control_connected_nodes"), Some(1.0));

    // Gone, it is remembered, with what it served.
    drop(node);
    until("the node is away", || control.node("edge").is_none().then_some(()));
    let list = control.get("/api/v1/nodes");
    until("its last snapshot is noted", || {
        (control.get("/api/v1/nodes")["items"][0]["snapshot"] == json!(third.version)).then_some(())
    });
    assert_eq!((&list["items"][0]["node"], &list["items"][0]["connected"]), (&json!("edge"), &json!(false)));
}

#[test]
fn versions_grow_over_kills() {
    let dir = Dir::new();
    let mut last = 0;
    for round in 0..4 {
        let control = Control::start(&dir);
        let mut node = Node::join(&dir.socket(), "edge", round, None);
        assert_eq!(node.snapshot().version, last);
        control.put(&format!("c{round}"));
        let version = node.snapshot().version;
        assert!(version > last);
        last = version;
        control.kill();
    }
}

#[test]
fn a_node_that_does_not_read_gets_the_newest_and_holds_nobody_back() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    // Snapshots of half a megabyte fill the socket of a node that does not read.
    for id in 0..40 {
        let mut channel = crate::support::channel(&format!("large{id}"));
        let pattern = "x".repeat(2000);
        channel["access"] = json!({"user_agent": {"deny": vec![pattern; 7]}});
        assert_eq!(control.call("POST", "/api/v1/channels", &channel).0, 201);
    }
    let mut slow = Node::join(&dir.socket(), "slow", 1, None);
    let mut quick = Node::join(&dir.socket(), "quick", 1, None);
    quick.snapshot();
    let start = Instant::now();
    let rounds = 50;
    for round in 0..rounds {
        let (status, _) =
            control.call("PATCH", "/api/v1/channels/large0", &json!({"cache": {"default_ttl_ms": round}}));
        assert_eq!(status, 200);
        let wanted = |snapshot: &shoal_link::Snapshot| {
            snapshot.channels.iter().any(|channel| channel.id == "large0" && channel.cache.default_ttl_ms == round)
        };
        while !wanted(&quick.snapshot()) {}
    }
    assert!(start.elapsed() < crate::support::WAIT, "{:?}", start.elapsed());
    let newest = control.get("/api/v1/snapshot")["version"].as_u64().unwrap();
    // Now it reads: a few that were on their way, then the newest; not all that there were.
    let mut seen = 1;
    while slow.snapshot().version < newest {
        seen += 1;
    }
    assert!(seen < rounds / 2, "{seen} of {rounds} snapshots were sent to the slow node");
}

#[test]
fn commands_reach_nodes_and_their_answers_come_back() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    control.put("a");
    let serve = |name: &'static str, answer: fn(&Command) -> Option<Result<Reply, String>>| {
        let mut node = Node::join(&dir.socket(), name, 1, None);
        thread::spawn(move || {
            let mut commands = Vec::new();
            while let Ok(Some(message)) = node.next_within(Duration::from_secs(3)) {
                if let ControlMessage::Command { id, command } = message {
                    if let Some(result) = answer(&command) {
                        node.send(&DataMessage::Done { id, result });
                    }
                    commands.push(command);
                }
            }
            commands
        })
    };
    let good = serve("good", |_| Some(Ok(Reply::Count(3))));
    let bad = serve("bad", |_| Some(Err("origin main: connection refused".to_owned())));
    let mute = serve("mute", |_| None);
    until("all are there", || (control.metric("shoal_control_connected_nodes") == Some(3.0)).then_some(()));

    let start = Instant::now();
    let purge = json!({"scope": "url", "url": "http://edge.test/a/x.ts?ticket=1"});
    let (status, report) = control.call("POST", "/api/v1/purge?wait_ms=500", &purge);
    assert_eq!((status, &report["ok"]), (200, &json!(false)));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let results = report["results"].as_array().unwrap();
    assert_eq!(results[0], json!({"node": "bad", "error": "origin main: connection refused"}));
    assert_eq!(results[1], json!({"node": "good", "count": 3}));
    assert!(results[2]["error"].as_str().unwrap().contains("500 ms"), "{report}");

    // One that answers a question with a count is of another release.
    let prefetch = json!({"channel": "a", "paths": ["x", "/a/y?z=1"], "items": [{"path": "w", "first": 7}], "nodes": ["good", "good"]});
    let (_, report) = control.call("POST", "/api/v1/prefetch?wait_ms=500", &prefetch);
    assert_eq!((&report["ok"], &report["results"][0]["node"]), (&json!(false), &json!("good")));
    assert!(report["results"][0]["error"].as_str().unwrap().contains("same release"), "{report}");
    let (_, report) = control.call("POST", "/api/v1/nodes/good/drain", &Value::Null);
    assert_eq!(report["ok"], true);

    let scope = PurgeScope::Object { channel: "a".to_owned(), path: "x.ts".to_owned() };
    let item = |path: &str, first| PrefetchItem { path: path.to_owned(), first, last: None };
    let order = PrefetchOrder {
        channel: "a".to_owned(),
        items: vec![item("x", 0), item("y", 0), item("w", 7)],
        bytes_per_second: 25_000_000,
        bytes_max: u64::MAX,
        wait_ms: 500,
    };
    assert_eq!(
        good.join().unwrap(),
        [Command::Purge { scope: scope.clone() }, Command::Prefetch { order }, Command::Drain]
    );
    assert_eq!(bad.join().unwrap(), [Command::Purge { scope: scope.clone() }]);
    assert_eq!(mute.join().unwrap(), [Command::Purge { scope }]);
}

#[test]
fn a_node_that_goes_away_ends_the_wait_for_it() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let mut node = Node::join(&dir.socket(), "edge", 1, None);
    let leaver = thread::spawn(move || while !matches!(node.next(), Some(ControlMessage::Command { .. })) {});
    until("it is there", || control.node("edge"));
    let start = Instant::now();
    let (_, report) = control.call("POST", "/api/v1/purge?wait_ms=15000", &json!({"scope": "all"}));
    assert!(report["results"][0]["error"].as_str().unwrap().contains("connection ended"), "{report}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    leaver.join().unwrap();
}

#[test]
fn what_is_no_data_plane_is_turned_away() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let refused = |reason: &str| control.metric(&format!("shoal_control_link_refused_total{{reason=\"{reason}\"}}"));

    // Another protocol: it is told ours before the end.
    let mut other = Node::dial(&dir.socket());
    let mut message = hello("edge", 1, None);
    if let DataMessage::Hello { protocol, .. } = &mut message {
        *protocol = PROTOCOL + 1;
    }
    other.send(&message);
    assert_eq!(other.next(), Some(ControlMessage::Hello { protocol: PROTOCOL }));
    assert_eq!(other.next(), None);
    until("it is counted", || refused("protocol").filter(|count| *count == 1.0));

    let mut early = Node::dial(&dir.socket());
    early.send(&DataMessage::Applied { version: 1 });
    assert_eq!(early.next(), None);
    let mut unnamed = Node::dial(&dir.socket());
    unnamed.send(&hello("No Name", 1, None));
    while unnamed.next().is_some() {}
    let mut twice = Node::join(&dir.socket(), "edge", 1, None);
    twice.send(&hello("edge", 1, None));
    while twice.next().is_some() {}
    until("they are counted", || refused("hello").filter(|count| *count == 3.0));

    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0\x02{]", b"\0\0\0\x0f{\"type\":\"none\"}"] {
        let mut foreign = Node::dial(&dir.socket());
        foreign.send_raw(bytes);
        assert_eq!(foreign.next(), None, "{bytes:?}");
    }
    until("they are counted", || refused("frame").filter(|count| *count == 3.0));

    // Sums that no interval holds stay out, and are not acknowledged.
    let mut wild = Node::join(&dir.socket(), "wild", 1, None);
    wild.send(&DataMessage::Ledger(batch(1, 1, u64::MAX / 4)));
    while let Some(message) = wild.next() {
        assert!(!matches!(message, ControlMessage::LedgerAck { .. }), "{message:?}");
    }
    assert_eq!(control.get("/api/v1/ledger")["items"], json!([]));
    // It serves on.
    Node::join(&dir.socket(), "good", 1, None).snapshot();
}

#[test]
fn a_second_connection_of_a_node_ends_the_first() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let mut first = Node::join(&dir.socket(), "edge", 1, None);
    first.snapshot();
    let mut second = Node::join(&dir.socket(), "edge", 2, None);
    second.snapshot();
    assert_eq!(first.next(), None);
    assert_eq!(control.node("edge").unwrap()["boot"], "0000000000000002");
    assert_eq!(control.metric("shoal_control_connected_nodes"), Some(1.0));
    control.put("a");
    assert_eq!(second.snapshot().channels.len(), 1);
}
