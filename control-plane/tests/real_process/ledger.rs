//! The usage ledger: each batch counts once, across kills of the control plane and reconnects of the node.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_link::{ControlMessage, DataMessage};

use crate::support::{Control, Dir, Node, batch, until};

/// Body bytes of batch `sequence`; each is another number, so that a wrong sum shows.
fn bytes(sequence: u64) -> u64 {
    sequence * 7919 % 100_003
}

#[test]
fn each_batch_counts_once_across_kills() {
    const ROUNDS: u64 = 12;
    const LAST: u64 = 3_000;
    const WINDOW: u64 = 400;
    let dir = Dir::new();
    let mut acknowledged = 0;
    let mut kills_with_open_batches = 0;
    for round in 0..=ROUNDS {
        let control = Control::start(&dir);
        let mut node = Node::join(&dir.socket(), "edge", 77, None);
        // As a data plane does: from the oldest that is not acknowledged, in order, some ahead.
        let mut sent = acknowledged;
        // The last round goes to the end; the others are killed at some point of the stream.
        let kill_at = if round == ROUNDS { LAST } else { (acknowledged + 60 + round * 13).min(LAST) };
        while acknowledged < kill_at {
            while sent < (acknowledged + WINDOW).min(LAST) {
                sent += 1;
                node.send(&DataMessage::Ledger(batch(77, sent, bytes(sent))));
            }
            match node.next() {
                Some(ControlMessage::LedgerAck { boot: 77, sequence }) => {
                    assert_eq!(sequence, acknowledged + 1, "in order, none left out");
                    acknowledged = sequence;
                }
                Some(ControlMessage::Snapshot(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        if round == ROUNDS {
            break;
        }
        kills_with_open_batches += u64::from(sent > acknowledged);
        control.kill();
    }
    assert_eq!(kills_with_open_batches, ROUNDS, "every kill was in the middle of the stream");

    let control = Control::start(&dir);
    let expected: u64 = (1..=LAST).map(|sequence| bytes(sequence) * 4).sum();
    let sums = control.get("/api/v1/ledger?group=");
    assert_eq!(sums["items"][0]["body_bytes"], expected);
    assert_eq!(sums["items"][0]["requests"], LAST * 2);
    assert_eq!(sums["items"][0]["wire_bytes"], expected + LAST * 400);
    let sessions = control.get("/api/v1/ledger?group=session&channel=a");
    assert_eq!(
        sessions["items"][0],
        json!({"session": "one", "requests": LAST, "body_bytes": expected / 4, "wire_bytes": expected / 4 + LAST * 200})
    );

    // All of it once more, to a control plane that has just started: acknowledged, not counted.
    let mut node = Node::join(&dir.socket(), "edge", 77, None);
    for sequence in 1..=50 {
        node.send(&DataMessage::Ledger(batch(77, sequence, bytes(sequence))));
    }
    let mut again = 0;
    while again < 50 {
        if let Some(ControlMessage::LedgerAck { sequence, .. }) = node.next() {
            again = sequence;
        }
    }
    assert_eq!(control.get("/api/v1/ledger?group=")["items"][0]["body_bytes"], expected);
    assert_eq!(control.metric("shoal_control_ledger_batches_total{result=\"repeated\"}"), Some(50.0));
    assert_eq!(control.metric("shoal_control_ledger_batches_total{result=\"counted\"}"), Some(0.0));
}

#[test]
fn two_nodes_and_two_boots_add_up() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let threads: Vec<_> = [("one", 1), ("two", 1), ("three", u64::MAX)]
        .into_iter()
        .map(|(name, boot)| {
            let socket = dir.socket();
            thread::spawn(move || {
                for boot in [boot, boot - 1] {
                    let mut node = Node::join(&socket, name, boot, None);
                    for sequence in 1..=100 {
                        node.send(&DataMessage::Ledger(batch(boot, sequence, 10)));
                    }
                    loop {
                        if let Some(ControlMessage::LedgerAck { sequence: 100, .. }) = node.next() {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(control.get("/api/v1/ledger?group=")["items"][0]["body_bytes"], 3 * 2 * 100 * 40);
    assert_eq!(control.metric("shoal_control_ledger_body_bytes_total{kind=\"client\"}"), Some(24_000.0));
    // From and to: the batches are a second apart, and hours count whole.
    let hour = 1_700_000_000 / 3600 * 3600;
    let all = control.get(&format!("/api/v1/ledger?from={hour}&to={}&group=hour", hour + 7200));
    assert_eq!(all["items"][0]["hour"], hour);
    assert_eq!(control.get(&format!("/api/v1/ledger?to={hour}"))["items"], json!([]));
}

#[test]
fn a_database_that_is_held_makes_the_ledger_wait_and_the_api_say_so() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let mut node = Node::join(&dir.socket(), "edge", 5, None);
    node.snapshot();
    let other = rusqlite::Connection::open(dir.path().join("state/control.sqlite3")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    node.send(&DataMessage::Ledger(batch(5, 1, 10)));
    let (status, problem) = control.call("PUT", "/api/v1/channels/a", &crate::support::channel("a"));
    assert_eq!(status, 503, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("control.sqlite3") && detail.contains("another process holds it"), "{detail}");
    // Reading goes on; the batch is neither acknowledged nor lost, and the link stays.
    assert_eq!(control.get("/api/v1/channels")["items"], json!([]));
    assert!(control.metric("shoal_control_db_errors_total{kind=\"busy\"}").unwrap() >= 1.0);
    assert!(node.next_within(Duration::from_millis(200)).is_err());
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(node.next(), Some(ControlMessage::LedgerAck { boot: 5, sequence: 1 }));
    until("a channel can be made", || {
        (control.call("PUT", "/api/v1/channels/a", &crate::support::channel("a")).0 == 201).then_some(())
    });
    assert_eq!(control.get("/api/v1/ledger?group=")["items"][0]["body_bytes"], 40);
    assert!(matches!(control.call("GET", "/readyz", &Value::Null), (200, _)));
}
