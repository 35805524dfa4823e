//! The plane over shards that are closures.

use serde_json::json;
use shoal_link::prefetch::{PrefetchItem, PrefetchState};

use super::*;
use crate::telemetry::metrics::Gauge;
use crate::testing::{Folder, folder, shared};

struct Lab {
    folder: Folder,
    shared: Arc<Shared>,
    stats: Arc<NodeStats>,
    drain: watch::Receiver<bool>,
    plane: Arc<NodePlane>,
}

fn lab(shards: Vec<ToShard>) -> Lab {
    let folder = folder();
    let shared = shared(&folder, shards.len().max(1));
    let stats = Arc::new(NodeStats::default());
    let store = SnapshotStore::new(folder.path());
    let restored = restore(&shared, &stats, &store);
    let (drain, receiver) = watch::channel(false);
    let plane = NodePlane::new(shared.clone(), shards, stats.clone(), store, 5, drain, restored);
    Lab { folder, shared, stats, drain: receiver, plane: Arc::new(plane) }
}

fn snapshot(version: u64, prefix: &str) -> Snapshot {
    let origin = json!({"id": "main", "url": "http://127.0.0.1:9/"});
    let channel = json!({"id": "demo", "prefix": prefix, "origins": [origin]});
    serde_json::from_value(json!({"version": version, "channels": [channel]})).unwrap()
}

#[tokio::test]
async fn a_snapshot_is_in_force_and_on_disk() {
    let lab = lab(vec![]);
    assert!(lab.plane.snapshot().unwrap_err().contains("no snapshot"));
    lab.plane.clone().apply(snapshot(4, "/demo/")).await.unwrap();
    assert_eq!(lab.shared.published.current().version(), 4);
    assert_eq!((lab.plane.snapshot(), lab.stats.get(Node::SnapshotVersion)), (Ok(4), 4));

    let again = shared(&lab.folder, 1);
    assert_eq!(restore(&again, &lab.stats, &SnapshotStore::new(lab.folder.path())), Ok(4));
    assert!(again.published.current().channel("demo").is_some());
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_served_changes_nothing() {
    let lab = lab(vec![]);
    lab.plane.clone().apply(snapshot(4, "/demo/")).await.unwrap();
    let reason = lab.plane.clone().apply(snapshot(5, "no-slashes")).await.unwrap_err();
    assert!(reason.contains("demo") && reason.contains("prefix") && reason.contains("no-slashes"), "{reason}");
    assert_eq!(lab.shared.published.current().version(), 4);
    assert_eq!(lab.plane.snapshot(), Ok(4));
    assert_eq!(SnapshotStore::new(lab.folder.path()).load().unwrap(), Some(snapshot(4, "/demo/")));
}

#[tokio::test]
async fn a_disk_that_refuses_does_not_hold_a_snapshot_back() {
    let lab = lab(vec![]);
    let in_the_way = lab.folder.path().join("snapshot.tmp");
    std::fs::create_dir(&in_the_way).unwrap();
    lab.plane.clone().apply(snapshot(4, "/demo/")).await.unwrap();
    assert_eq!(lab.shared.published.current().version(), 4);
    lab.plane.retry_save();
    let store = SnapshotStore::new(lab.folder.path());
    assert_eq!(store.load().unwrap(), None);
    std::fs::remove_dir(&in_the_way).unwrap();
    lab.plane.retry_save();
    assert_eq!(store.load().unwrap().unwrap().version, 4);
}

#[test]
fn a_damaged_snapshot_starts_the_node_empty_and_says_so() {
    let folder = folder();
    let store = SnapshotStore::new(folder.path());
    store.save(&snapshot(4, "/demo/")).unwrap();
    let path = folder.path().join("snapshot");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.pop();
    std::fs::write(&path, bytes).unwrap();
    let shared = shared(&folder, 1);
    let reason = restore(&shared, &NodeStats::default(), &store).unwrap_err();
    assert!(reason.contains("damaged"), "{reason}");
    assert_eq!(shared.published.current().channels().len(), 0);
}

#[tokio::test]
async fn a_purge_asks_every_shard_and_adds_up() {
    let purges = |count: u64| -> ToShard {
        Arc::new(move |command| match command {
            ShardCommand::Purge { scope: PurgeScope::All, done } => done.send(count).is_ok(),
            other => panic!("not a purge: {other:?}"),
        })
    };
    let lab = lab(vec![purges(3), purges(4)]);
    assert_eq!(lab.plane.clone().command(Command::Purge { scope: PurgeScope::All }).await, Ok(Reply::Count(7)));
}

#[tokio::test]
async fn a_shard_that_has_ended_fails_the_command() {
    let purge = || Command::Purge { scope: PurgeScope::All };
    let gone = lab(vec![Arc::new(|_| false)]);
    assert!(gone.plane.clone().command(purge()).await.unwrap_err().contains("ended"));
    let dropped = lab(vec![Arc::new(|command| {
        drop(command);
        true
    })]);
    assert!(dropped.plane.clone().command(purge()).await.unwrap_err().contains("ended"));
}

/// An order of these paths.
fn order(paths: &[&str], wait_ms: u32) -> PrefetchOrder {
    let item = |path: &&str| PrefetchItem { path: (*path).to_owned(), first: 0, last: None };
    let items = paths.iter().map(item).collect();
    PrefetchOrder { channel: "demo".to_owned(), items, bytes_per_second: 0, bytes_max: 2_500, wait_ms }
}

async fn prefetch(lab: &Lab, order: PrefetchOrder) -> Result<PrefetchStat, String> {
    match lab.plane.clone().command(Command::Prefetch { order }).await? {
        Reply::Prefetch(stat) => Ok(*stat),
        other => panic!("not of a prefetch: {other:?}"),
    }
}

#[tokio::test]
async fn a_prefetch_counts_what_was_fetched_and_names_what_was_not() {
    let shard: ToShard = Arc::new(move |command| {
        let ShardCommand::Prefetch { channel, item, meter, done } = command else { panic!("not a prefetch") };
        assert_eq!(channel, "demo");
        let result = if item.path == "bad" { Err("404 from main".to_owned()) } else { Ok(()) };
        assert_eq!(meter.count(100), Duration::ZERO);
        done.send(result).is_ok()
    });
    let lab = lab(vec![shard.clone(), shard]);
    assert!(prefetch(&lab, order(&["a"], 5_000)).await.unwrap_err().contains("not in the snapshot"));
    lab.plane.clone().apply(snapshot(1, "/demo/")).await.unwrap();
    let stat = prefetch(&lab, order(&["a", "bad", "c", "d", "e", "f", "g"], 5_000)).await.unwrap();
    assert_eq!((stat.state, stat.items, stat.fetched, stat.failed), (PrefetchState::Done, 7, 6, 1));
    assert_eq!((stat.bytes, stat.errors), (700, vec!["bad: 404 from main".to_owned()]));
    // Its limit of bytes ends it.
    let stat = prefetch(&lab, order(&["a"; 50], 5_000)).await.unwrap();
    assert_eq!(stat.state, PrefetchState::Stopped);
    assert!((25..35).contains(&stat.fetched), "{stat:?}");
}

#[tokio::test]
async fn orders_wait_for_their_turn_and_can_be_cancelled() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let shard: ToShard = {
        let held = held.clone();
        Arc::new(move |command| {
            let ShardCommand::Prefetch { done, .. } = command else { panic!("not a prefetch") };
            held.lock().unwrap().push(done);
            true
        })
    };
    let lab = lab(vec![shard]);
    lab.plane.clone().apply(snapshot(1, "/demo/")).await.unwrap();
    let first = prefetch(&lab, order(&["a"; 100], 50)).await.unwrap();
    let second = prefetch(&lab, order(&["b"], 50)).await.unwrap();
    assert_eq!((first.state, second.state), (PrefetchState::Running, PrefetchState::Waiting));
    let under_way = held.lock().unwrap().len();
    assert!(under_way < 10, "{under_way} at a time");
    let list = |cancel| lab.plane.clone().command(Command::Prefetches { cancel });
    assert!(list(Some(99)).await.unwrap_err().contains("99"));
    list(Some(first.id)).await.unwrap();
    held.lock().unwrap().drain(..).for_each(|done| drop(done.send(Ok(()))));
    while held.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    held.lock().unwrap().drain(..).for_each(|done| drop(done.send(Ok(()))));
    let states = loop {
        let Reply::Prefetches(list) = list(None).await.unwrap() else { panic!("not a list") };
        let states: Vec<_> = list.iter().map(|stat| (stat.state, stat.fetched)).collect();
        if states[1].0 == PrefetchState::Done {
            break states;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(states, [(PrefetchState::Stopped, under_way as u64), (PrefetchState::Done, 1)]);
}

#[tokio::test]
async fn drain_and_health_reach_the_process() {
    let lab = lab(vec![]);
    lab.shared.stats[0].set(Gauge::Connections, 3);
    lab.shared.stats[0].set(Gauge::BusyPermille, 2_000);
    let health = shoal_link::node::Health { connections: 3, busy_permille: 1_000, ..Default::default() };
    assert_eq!(lab.plane.health(), DataMessage::Health(Box::new(health)));
    assert_eq!(lab.plane.clone().command(Command::Drain).await, Ok(Reply::Count(0)));
    assert!(*lab.drain.borrow());
}
