//! The client against a control plane made of a socket and a script.

use std::path::PathBuf;

use shoal_link::ledger::{Entry, Kind};
use shoal_link::message::{PurgeScope, Reply};
use shoal_link::node::Health;
use tokio::net::UnixListener;

use super::*;
use crate::link::spool::Limits;
use crate::testing::{Folder, folder};

const PATIENCE: Duration = Duration::from_secs(10);

/// Serves any snapshot but version 13, and purges as many objects as the channel's name has letters.
#[derive(Debug, Default)]
struct FakePlane {
    version: Mutex<Option<u64>>,
    /// Messages of what was seen that are left to tell since the last connection.
    observed: Mutex<u32>,
}

impl Plane for FakePlane {
    fn hello(&self) -> DataMessage {
        DataMessage::Hello {
            protocol: PROTOCOL,
            node: "n1".into(),
            boot: 5,
            software: "test".into(),
            snapshot: *self.version.lock().unwrap(),
            public_url: None,
            region: None,
            endpoints: Box::default(),
        }
    }

    fn health(&self) -> DataMessage {
        DataMessage::Health(Box::new(Health { connections: 1, cache_bytes: 2, ..Health::default() }))
    }

    fn connected(&self) {
        *self.observed.lock().unwrap() = 2;
    }

    fn observed(&self) -> Option<DataMessage> {
        let mut left = self.observed.lock().unwrap();
        *left = left.checked_sub(1)?;
        Some(DataMessage::Observed(Vec::new()))
    }

    async fn apply(self: Arc<Self>, snapshot: Snapshot) -> Result<(), String> {
        if snapshot.version == 13 {
            return Err("channel `x`: prefix `y`: needs slashes".into());
        }
        *self.version.lock().unwrap() = Some(snapshot.version);
        Ok(())
    }

    async fn command(self: Arc<Self>, command: Command) -> Result<Reply, String> {
        match command {
            Command::Purge { scope: PurgeScope::Channel { channel } } => Ok(Reply::Count(channel.len() as u64)),
            Command::Drain => std::future::pending().await,
            other => Err(format!("{other:?}")),
        }
    }
}

struct Lab {
    folder: Folder,
    stats: Arc<NodeStats>,
    spool: Arc<SharedSpool>,
    plane: Arc<FakePlane>,
}

impl Lab {
    fn new() -> Self {
        let folder = folder();
        let spool = Spool::open(folder.path(), 5, Limits::default()).unwrap();
        Self { folder, stats: Arc::default(), spool: Arc::new(SharedSpool::new(spool)), plane: Arc::default() }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, sockets: &[&str]) -> tokio::task::JoinHandle<()> {
        let control = sockets.iter().map(|name| Endpoint::Unix(self.socket(name))).collect();
        let settings = LinkSettings { control, retry: Duration::from_millis(10) };
        let client = Client::new(settings, self.plane.clone(), self.spool.clone(), self.stats.clone());
        tokio::spawn(client.run())
    }

    fn deliver(&self, body: u64) {
        let entry = Entry {
            tenant: "t".into(),
            channel: "c".into(),
            session: Box::default(),
            kind: Kind::Client,
            origin: "".into(),
            requests: 1,
            body_bytes: body,
            wire_bytes: body,
        };
        self.spool.with(|spool| {
            spool.add([entry], 1, 2);
            spool.commit().unwrap();
        });
        self.spool.notify();
    }
}

/// A control plane's end of one connection.
struct Peer {
    stream: UnixStream,
    input: Vec<u8>,
}

impl Peer {
    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.expect("no connection").unwrap();
        Self { stream, input: Vec::new() }
    }

    /// Accepts, and exchanges hellos; returns the version the node says it serves.
    async fn greet(listener: &UnixListener) -> (Self, Option<u64>) {
        let mut peer = Self::accept(listener).await;
        peer.send(&ControlMessage::Hello { protocol: PROTOCOL }).await;
        match peer.any().await {
            DataMessage::Hello { protocol: PROTOCOL, node, boot: 5, snapshot, .. } if node == "n1" => (peer, snapshot),
            other => panic!("not the hello: {other:?}"),
        }
    }

    async fn send(&mut self, message: &ControlMessage) {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn any(&mut self) -> DataMessage {
        loop {
            if let Some((message, used)) = frame::decode(&self.input).unwrap() {
                self.input.drain(..used);
                return message;
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await;
            assert_ne!(read.expect("no message").unwrap(), 0, "the node hung up");
        }
    }

    /// The next message that is neither a health report nor about peers.
    async fn next(&mut self) -> DataMessage {
        loop {
            match self.any().await {
                DataMessage::Health(health) => assert_eq!((health.connections, health.cache_bytes), (1, 2)),
                DataMessage::Observed(_) => {}
                other => return other,
            }
        }
    }

    async fn hung_up(mut self) {
        let all = self.stream.read_to_end(&mut self.input);
        // A reset is an end as well.
        let _ = tokio::time::timeout(PATIENCE, all).await.expect("the node keeps the connection");
    }
}

#[tokio::test]
async fn snapshots_are_applied_or_refused_and_remembered() {
    let lab = Lab::new();
    let listener = UnixListener::bind(lab.socket("a")).unwrap();
    lab.start(&["a"]);
    let (mut peer, version) = Peer::greet(&listener).await;
    assert_eq!(version, None);
    peer.send(&ControlMessage::Snapshot(Snapshot { version: 12, ..Snapshot::default() })).await;
    assert_eq!(peer.next().await, DataMessage::Applied { version: 12 });
    peer.send(&ControlMessage::Snapshot(Snapshot { version: 13, ..Snapshot::default() })).await;
    let DataMessage::Refused { version: 13, reason } = peer.next().await else { panic!("not refused") };
    assert!(reason.contains("prefix"));
    assert_eq!(lab.stats.get(Node::SnapshotsRefused), 1);
    assert_eq!(lab.stats.get(Node::LinkConnected), 1);
    drop(peer);
    let (_peer, version) = Peer::greet(&listener).await;
    assert_eq!(version, Some(12));
}

#[tokio::test]
async fn each_control_plane_is_told_of_all_peers_anew() {
    let lab = Lab::new();
    let listener = UnixListener::bind(lab.socket("a")).unwrap();
    lab.start(&["a"]);
    for _ in 0..2 {
        let (mut peer, _) = Peer::greet(&listener).await;
        let mut told = 0;
        while told < 2 {
            told += usize::from(matches!(peer.any().await, DataMessage::Observed(_)));
        }
    }
}

#[tokio::test]
async fn commands_are_answered_by_their_id_and_bounded() {
    let lab = Lab::new();
    let listener = UnixListener::bind(lab.socket("a")).unwrap();
    lab.start(&["a"]);
    let (mut peer, _) = Peer::greet(&listener).await;
    for id in 0..MAX_COMMANDS as u64 - 1 {
        peer.send(&ControlMessage::Command { id, command: Command::Drain }).await;
    }
    let purge = Command::Purge { scope: PurgeScope::Channel { channel: "demo".into() } };
    peer.send(&ControlMessage::Command { id: 90, command: purge }).await;
    assert_eq!(peer.next().await, DataMessage::Done { id: 90, result: Ok(Reply::Count(4)) });
    let purge = Command::Purge { scope: PurgeScope::All };
    peer.send(&ControlMessage::Command { id: 91, command: purge }).await;
    let DataMessage::Done { id: 91, result: Err(reason) } = peer.next().await else { panic!("not refused") };
    assert!(reason.contains("All"), "the plane's own answer: {reason}");
    peer.send(&ControlMessage::Command { id: 92, command: Command::Drain }).await;
    peer.send(&ControlMessage::Command { id: 93, command: Command::Drain }).await;
    let DataMessage::Done { id: 93, result: Err(reason) } = peer.next().await else { panic!("not refused") };
    assert!(reason.contains("under way"), "{reason}");
}

#[tokio::test]
async fn usage_is_sent_again_until_it_is_acknowledged() {
    let lab = Lab::new();
    let listener = UnixListener::bind(lab.socket("a")).unwrap();
    lab.deliver(1);
    lab.start(&["a"]);
    let (mut peer, _) = Peer::greet(&listener).await;
    let DataMessage::Ledger(first) = peer.next().await else { panic!("no usage") };
    lab.deliver(2);
    let DataMessage::Ledger(second) = peer.next().await else { panic!("no usage") };
    assert_eq!((first.sequence, second.sequence), (1, 2));
    peer.send(&ControlMessage::LedgerAck { boot: 5, sequence: 2 }).await;
    // The answer to a command says that the acknowledgement before it was seen.
    let purge = Command::Purge { scope: PurgeScope::Channel { channel: "x".into() } };
    peer.send(&ControlMessage::Command { id: 1, command: purge }).await;
    assert_eq!(peer.next().await, DataMessage::Done { id: 1, result: Ok(Reply::Count(1)) });
    drop(peer);

    let (mut peer, _) = Peer::greet(&listener).await;
    assert_eq!(peer.next().await, DataMessage::Ledger(first));
    peer.send(&ControlMessage::LedgerAck { boot: 5, sequence: 1 }).await;
    let started = Instant::now();
    while lab.spool.with(|spool| spool.batches()) > 0 {
        assert!(started.elapsed() < PATIENCE, "the acknowledgement is ignored");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn at_most_a_window_of_usage_is_under_way() {
    let lab = Lab::new();
    let listener = UnixListener::bind(lab.socket("a")).unwrap();
    for body in 0..WINDOW as u64 + 2 {
        lab.deliver(body);
    }
    lab.start(&["a"]);
    let (mut peer, _) = Peer::greet(&listener).await;
    for sequence in 1..=WINDOW as u64 {
        assert!(matches!(peer.next().await, DataMessage::Ledger(batch) if batch.sequence == sequence));
    }
    let purge = Command::Purge { scope: PurgeScope::Channel { channel: "x".into() } };
    peer.send(&ControlMessage::Command { id: 1, command: purge }).await;
    assert!(matches!(peer.next().await, DataMessage::Done { .. }), "the window is closed");
    peer.send(&ControlMessage::LedgerAck { boot: 5, sequence: 3 }).await;
    assert!(matches!(peer.next().await, DataMessage::Ledger(batch) if batch.sequence == WINDOW as u64 + 1));
}

#[tokio::test]
async fn the_next_control_plane_is_tried_when_one_is_wrong() {
    let lab = Lab::new();
    let (first, second) = (UnixListener::bind(lab.socket("a")).unwrap(), UnixListener::bind(lab.socket("b")).unwrap());
    lab.start(&["missing", "a", "b"]);
    let mut wrong = Peer::accept(&first).await;
    wrong.send(&ControlMessage::Hello { protocol: PROTOCOL + 1 }).await;
    wrong.hung_up().await;
    let (right, _) = Peer::greet(&second).await;
    drop(right);

    let mut rude = Peer::accept(&first).await;
    rude.send(&ControlMessage::LedgerAck { boot: 1, sequence: 1 }).await;
    rude.hung_up().await;
    let mut foreign = Peer::accept(&second).await;
    foreign.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    foreign.hung_up().await;
    assert!(lab.stats.get(Node::LinkFailed) >= 3);
    assert_eq!(lab.stats.get(Node::LinkSucceeded), 1);
}

#[tokio::test]
async fn without_a_control_plane_there_is_nothing_to_do() {
    let lab = Lab::new();
    tokio::time::timeout(PATIENCE, lab.start(&[])).await.expect("still dialling").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_never_acknowledges_is_dialled_anew() {
    let lab = Lab::new();
    let listener = UnixListener::bind(lab.socket("a")).unwrap();
    lab.deliver(1);
    lab.start(&["a"]);
    let (mut peer, _) = Peer::greet(&listener).await;
    assert!(matches!(peer.next().await, DataMessage::Ledger(_)));
    // The clock is virtual: it jumps to the next deadline whenever nothing else is to be done.
    let started = Instant::now();
    let mut rest = Vec::new();
    let _ = peer.stream.read_to_end(&mut rest).await;
    assert!(started.elapsed() >= ACK_TIMEOUT - Duration::from_secs(1), "hung up after {:?}", started.elapsed());
}

#[test]
fn the_back_off_grows_to_a_bound_and_is_spread() {
    let first = Duration::from_millis(100);
    assert_eq!(backoff(first, 0, 0), Duration::from_millis(50));
    assert_eq!(backoff(first, 0, u64::MAX), Duration::from_millis(100));
    assert_eq!(backoff(first, 2, u64::MAX), Duration::from_millis(400));
    assert_eq!(backoff(first, 99, u64::MAX), Duration::from_millis(1_600));
}
