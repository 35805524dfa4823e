//! Two control planes on one PostgreSQL behave as one.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_link::message::{Command as Order, Reply};
use shoal_link::node::Health;
use shoal_link::{ControlMessage, DataMessage};

use crate::support::{Control, Dir, Node, batch, channel, until};
use crate::testing;

fn start(dir: &Dir, url: &str) -> Control {
    start_with(dir, &format!("[store]\nurl = \"{url}\""))
}

pub(crate) fn start_with(dir: &Dir, settings: &str) -> Control {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-control"));
    command.arg("--config").arg(dir.config(settings));
    Control::start_as(dir, &mut command)
}

fn database(test: &str) -> Option<String> {
    testing::server(test).map(testing::Server::database)
}

/// A node that says how it is, and carries out every command.
fn serve(socket: &Path, name: &str, connections: u64) -> thread::JoinHandle<Vec<Order>> {
    let mut node = Node::join(socket, name, 5, None);
    thread::spawn(move || {
        let mut orders = Vec::new();
        let health = Health { connections, cache_bytes: 1, busy_permille: 2, ..Health::default() };
        node.send(&DataMessage::Health(Box::new(health)));
        while let Ok(Some(message)) = node.next_within(Duration::from_secs(60)) {
            let answered = match message {
                ControlMessage::Snapshot(snapshot) => {
                    node.try_send(&DataMessage::Applied { version: snapshot.version })
                }
                ControlMessage::Command { id, command } => {
                    orders.push(command);
                    node.try_send(&DataMessage::Done { id, result: Ok(Reply::Count(connections)) })
                }
                _ => true,
            };
            if !answered {
                break;
            }
        }
        orders
    })
}

#[test]
fn changes_nodes_and_commands_reach_across() {
    let Some(url) = database("instances::changes_nodes_and_commands") else { return };
    let dirs = [Dir::new(), Dir::new()];
    let [a, b] = [start(&dirs[0], &url), start(&dirs[1], &url)];
    let near = serve(&dirs[0].socket(), "near", 11);
    let far = serve(&dirs[1].socket(), "far", 22);

    // A change by one is on the other's nodes within seconds, and each knows what the other's nodes serve.
    a.put("one");
    let start = Instant::now();
    let version = until("the other instance publishes it", || {
        let snapshot = b.get("/api/v1/snapshot");
        (snapshot["channels"].as_array()?.len() == 1).then(|| snapshot["version"].as_u64().unwrap())
    });
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let status = until("the far node is known to serve it", || {
        let node = a.node("far")?;
        (node["snapshot"].as_u64() == Some(version)).then_some(node)
    });
    assert_eq!(status["health"]["connections"], 22, "{status}");
    assert_ne!(status["instance"], a.node("near").unwrap()["instance"]);
    b.put("two");
    until("it comes the other way, too", || {
        (a.get("/api/v1/snapshot")["channels"].as_array()?.len() == 2).then_some(())
    });

    // If-Match holds across.
    let (status, _) = a.call("PATCH", "/api/v1/channels/two", &json!({"enabled": false}));
    assert_eq!(status, 200);
    assert_eq!(b.get("/api/v1/channels/two")["enabled"], false);
    let (status, _) = b.call("POST", "/api/v1/channels", &channel("one"));
    assert_eq!(status, 409);

    // A command for all reaches all, by either.
    for control in [&a, &b] {
        let (status, report) = control.call("POST", "/api/v1/purge", &json!({"scope": "all"}));
        assert_eq!((status, &report["ok"]), (200, &json!(true)), "{report}");
        let results = json!([{"node": "far", "count": 22}, {"node": "near", "count": 11}]);
        assert_eq!(report["results"], results);
    }
    let (_, report) = a.call("POST", "/api/v1/nodes/far/drain", &Value::Null);
    assert_eq!(report["results"][0]["count"], 22, "{report}");

    // The far instance dies, and with it its node's connection: a command says so in time, and the node is gone in time.
    b.kill();
    assert_eq!(far.join().unwrap().len(), 3);
    let (status, report) = a.call("POST", "/api/v1/purge?wait_ms=700", &json!({"scope": "all"}));
    assert_eq!((status, &report["ok"]), (200, &json!(false)), "{report}");
    assert!(report["results"][0]["error"].as_str().unwrap().contains("700 ms"), "{report}");
    until("the node is not there any more", || a.node("far").is_none().then_some(()));
    assert_eq!(a.get("/api/v1/nodes")["items"].as_array().unwrap().len(), 2);
    a.kill();
    assert_eq!(near.join().unwrap().len(), 3);
}

#[test]
fn each_batch_counts_once_while_a_node_moves_between_instances() {
    const ROUNDS: u64 = 10;
    const LAST: u64 = 1_200;
    const WINDOW: u64 = 200;
    let Some(url) = database("instances::each_batch_counts_once") else { return };
    let dirs = [Dir::new(), Dir::new()];
    let mut controls = [Some(start(&dirs[0], &url)), Some(start(&dirs[1], &url))];
    let bytes = |sequence: u64| sequence * 7919 % 100_003;
    let mut acknowledged = 0;
    // Connections that the node has left, and the instance may not know yet: what was sent is still on its way there.
    let mut left = Vec::new();
    for round in 0..=ROUNDS {
        let at = (round % 2) as usize;
        let mut node = Node::join(&dirs[at].socket(), "edge", 77, None);
        let mut sent = acknowledged;
        let move_at = if round == ROUNDS { LAST } else { acknowledged + 100 };
        while acknowledged < move_at {
            while sent < (acknowledged + WINDOW).min(LAST) {
                sent += 1;
                node.send(&DataMessage::Ledger(batch(77, sent, bytes(sent))));
            }
            match node.next() {
                Some(ControlMessage::LedgerAck { boot: 77, sequence }) => acknowledged = sequence,
                Some(ControlMessage::Snapshot(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        left.push(node);
        if round % 3 == 2 {
            // And sometimes the instance that was left is killed.
            controls[at].take().unwrap().kill();
            controls[at] = Some(start(&dirs[at], &url));
        }
    }
    let expected: u64 = (1..=LAST).map(|sequence| bytes(sequence) * 4).sum();
    let sums = controls[0].as_ref().unwrap().get("/api/v1/ledger?group=");
    assert_eq!((&sums["items"][0]["body_bytes"], &sums["items"][0]["requests"]), (&json!(expected), &json!(LAST * 2)));
}

#[test]
fn a_database_that_went_away_is_said_and_found_again() {
    let Some(server) = testing::server("instances::a_database_that_went_away") else { return };
    let url = server.database();
    let name = url.rsplit('/').next().unwrap().to_owned();
    let dir = Dir::new();
    let control = start(&dir, &url);
    control.put("one");
    let mut node = Node::join(&dir.socket(), "edge", 9, None);
    until("it has the channel", || (node.snapshot().channels.len() == 1).then_some(()));
    let allow = |allowed: bool| {
        let sql = format!(
            "ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed};
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        server.admin().batch_execute(&sql).unwrap();
    };
    allow(false);
    let (status, body) = control.call("PUT", "/api/v1/channels/two", &channel("two"));
    assert_eq!(status, 503, "{body}");
    assert_eq!(control.call("GET", "/readyz", &Value::Null).0, 503);
    // Batches wait, unacknowledged.
    node.send(&DataMessage::Ledger(batch(9, 1, 100)));
    assert!(node.next_within(Duration::from_millis(500)).is_err());
    allow(true);
    until("it works again", || (control.call("PUT", "/api/v1/channels/two", &channel("two")).0 == 201).then_some(()));
    until("the batch is counted", || match node.next() {
        Some(ControlMessage::LedgerAck { sequence: 1, .. }) => Some(()),
        _ => None,
    });
}

#[test]
fn backup_and_restore_by_the_program() {
    let Some(url) = database("instances::backup_and_restore") else { return };
    let [first, second, other] = [Dir::new(), Dir::new(), Dir::new()];
    let file = first.path().join("backup");
    let run = |config: &Path, option: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_shoal-control"))
            .arg("--config")
            .arg(config)
            .arg(option)
            .arg(&file)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    // From SQLite, while it runs, into PostgreSQL.
    let control = Control::start(&first);
    control.put("one");
    assert_eq!(run(&first.config(""), "--backup"), (true, String::new()));
    let (done, said) = run(&first.config(""), "--restore");
    assert!(!done && said.contains("another shoal-control"), "{said}");
    control.kill();
    let store = format!("[store]\nurl = \"{url}\"");
    let config = second.config(&store);
    assert_eq!(run(&config, "--restore"), (true, String::new()));
    let control = start(&second, &url);
    assert_eq!(control.get("/api/v1/channels/one")["id"], "one");
    let (done, said) = run(&other.config(&store), "--restore");
    assert!(!done && said.contains("stop them first"), "{said}");
    control.kill();
    std::fs::write(&file, "something else\n").unwrap();
    let (done, said) = run(&config, "--restore");
    assert!(!done && said.contains("no backup"), "{said}");
}
