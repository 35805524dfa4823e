//! Who is connected, what they serve, and the way to tell them something.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_link::frame::{self, FrameError};
use shoal_link::message::{Command, Reply};
use shoal_link::node::{Endpoints, Health};
use shoal_link::{ControlMessage, Snapshot};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::store::now_ms;

/// Messages that wait for a slow node; a command that finds no room is answered at once as failed.
pub(super) const QUEUE: usize = 64;

/// What came of a command, or why it was not done.
pub(super) type Outcome = Result<Reply, String>;

/// A snapshot, encoded once for all connections.
#[derive(Debug)]
pub struct Published {
    /// What it says.
    pub snapshot: Snapshot,
    /// The frame on the wire.
    pub frame: Bytes,
}

impl Published {
    /// Encodes it.
    pub fn new(snapshot: Snapshot) -> Result<Self, FrameError> {
        let message = ControlMessage::Snapshot(snapshot);
        let mut frame = Vec::new();
        frame::encode(&message, &mut frame)?;
        let ControlMessage::Snapshot(snapshot) = message else { unreachable!("made above") };
        Ok(Self { snapshot, frame: frame.into() })
    }
}

/// A connected node. Other instances read it as JSON, and may be of another release.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Live {
    /// This run of its process.
    pub boot: u64,
    /// Release of its program.
    pub software: String,
    /// Where viewers reach it.
    pub public_url: Option<String>,
    /// Where it stands, as it says.
    pub region: Option<String>,
    /// Where viewers reach it otherwise.
    pub endpoints: Endpoints,
    /// Unix milliseconds of the connection's start.
    pub connected_ms: u64,
    /// Version that it serves.
    pub snapshot: Option<u64>,
    /// The last snapshot that it refused, until it applies one.
    pub refused: Option<Refused>,
    /// Its last word on how it is.
    pub health: Option<Seen>,
    /// The connection's number in the store, once it is written down there.
    #[serde(skip)]
    pub joined: Option<u64>,
}

/// A snapshot that a node would not apply.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// Its version.
    pub version: u64,
    /// The node's own words.
    pub reason: String,
}

/// How a node was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// Unix milliseconds of its arrival.
    pub at_ms: u64,
    /// Its own words.
    pub health: Health,
}

/// What a node answered to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The node.
    pub node: String,
    /// What came of it, or why nothing did.
    pub result: Result<Reply, String>,
}

/// The nodes connected and the newest snapshot.
pub struct Hub {
    nodes: Mutex<BTreeMap<String, Member>>,
    newest: watch::Sender<Arc<Published>>,
    change: Notify,
    next_id: AtomicU64,
    metrics: Arc<Metrics>,
}

struct Member {
    /// Tells two connections of one node apart.
    connection: u64,
    live: Live,
    queue: mpsc::Sender<ControlMessage>,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    /// Dropped with the member: ends the connection.
    _superseded: oneshot::Sender<()>,
}

/// A connection's end of its membership.
pub(super) struct Joined {
    pub(super) connection: u64,
    pub(super) queue: mpsc::Receiver<ControlMessage>,
    pub(super) superseded: oneshot::Receiver<()>,
}

impl Hub {
    /// Nobody connected, nothing published.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let nothing = Published { snapshot: Snapshot::default(), frame: Bytes::new() };
        Self {
            nodes: Mutex::default(),
            newest: watch::Sender::new(Arc::new(nothing)),
            change: Notify::new(),
            next_id: AtomicU64::new(1),
            metrics,
        }
    }

    /// Says that the store holds a newer snapshot.
    pub fn changed(&self) {
        self.change.notify_one();
    }

    /// Waits for [`Hub::changed`].
    pub async fn wait_changed(&self) {
        self.change.notified().await;
    }

    /// Makes `published` the newest, unless a newer one is.
    pub fn publish(&self, published: Published) {
        self.newest.send_if_modified(|newest| {
            let newer = published.snapshot.version > newest.snapshot.version || newest.frame.is_empty();
            if newer {
                self.metrics.snapshot(&published.snapshot);
                *newest = Arc::new(published);
            }
            newer
        });
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Arc<Published> {
        Arc::clone(&self.newest.borrow())
    }

    pub(super) fn follow(&self) -> watch::Receiver<Arc<Published>> {
        self.newest.subscribe()
    }

    /// Every connected node, by name.
    pub fn nodes(&self) -> BTreeMap<String, Live> {
        self.lock().iter().map(|(node, member)| (node.clone(), member.live.clone())).collect()
    }

    /// Sends `command` to the nodes named, or to all connected, and waits for their answers up to `wait`.
    pub async fn command(&self, nodes: Option<&[String]>, command: &Command, wait: Duration) -> Vec<Answer> {
        let deadline = Instant::now() + wait;
        let names: Vec<String> = match nodes {
            Some(names) => names.to_vec(),
            None => self.lock().keys().cloned().collect(),
        };
        let asked: Vec<_> = names.into_iter().map(|node| (self.ask(&node, command), node)).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for (asked, node) in asked {
            let result = match asked {
                Err(reason) => Err(reason.to_owned()),
                Ok((id, answer)) => match tokio::time::timeout_at(deadline, answer).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err("the node's connection ended before it answered".to_owned()),
                    Err(_) => {
                        self.forget(&node, id);
                        Err(format!("no answer within {} ms; it may still carry it out", wait.as_millis()))
                    }
                },
            };
            answers.push(Answer { node, result });
        }
        answers
    }

    fn ask(&self, node: &str, command: &Command) -> Result<(u64, oneshot::Receiver<Outcome>), &'static str> {
        let mut nodes = self.lock();
        let member = nodes.get_mut(node).ok_or("the node is not connected")?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let message = ControlMessage::Command { id, command: command.clone() };
        member.queue.try_send(message).map_err(|_| "the node is too slow: its queue is full")?;
        let (sender, receiver) = oneshot::channel();
        member.waiting.insert(id, sender);
        Ok((id, receiver))
    }

    fn forget(&self, node: &str, id: u64) {
        if let Some(member) = self.lock().get_mut(node) {
            member.waiting.remove(&id);
        }
    }

    /// Takes a node in. An older connection of the same name ends: its node restarted before that was noticed.
    pub(super) fn join(&self, node: &str, live: Live) -> (mpsc::Sender<ControlMessage>, Joined) {
        let connection = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, queue) = mpsc::channel(QUEUE);
        let (alive, superseded) = oneshot::channel();
        let boot = live.boot;
        let member = Member { connection, live, queue: sender.clone(), waiting: HashMap::new(), _superseded: alive };
        let mut nodes = self.lock();
        if let Some(old) = nodes.insert(node.to_owned(), member) {
            self.metrics.link_refused("superseded");
            if old.live.boot != boot {
                tracing::warn!(
                    node,
                    "connected a second time, with another boot: the first connection ends; if this repeats, two nodes have one name (node.name)"
                );
            }
        }
        self.metrics.nodes(nodes.len());
        (sender, Joined { connection, queue, superseded })
    }

    /// Lets a node go; true if `connection` was its newest.
    pub(super) fn leave(&self, node: &str, connection: u64) -> Option<Live> {
        let mut nodes = self.lock();
        if nodes.get(node)?.connection != connection {
            return None;
        }
        let member = nodes.remove(node)?;
        self.metrics.nodes(nodes.len());
        Some(member.live)
    }

    /// The store has a number for the connection that `live` tells of, if that is still there.
    pub(crate) fn joined(&self, node: &str, live: &Live, number: u64) {
        if let Some(member) = self.lock().get_mut(node)
            && (member.live.boot, member.live.connected_ms) == (live.boot, live.connected_ms)
        {
            member.live.joined = Some(number);
        }
    }

    pub(super) fn applied(&self, node: &str, connection: u64, version: u64) {
        self.update(node, connection, |member| {
            member.live.snapshot = Some(version);
            member.live.refused = None;
        });
    }

    pub(super) fn refused(&self, node: &str, connection: u64, version: u64, reason: String) {
        self.metrics.snapshot_refused();
        self.update(node, connection, |member| member.live.refused = Some(Refused { version, reason }));
    }

    pub(super) fn health(&self, node: &str, connection: u64, health: Health) {
        let seen = Seen { at_ms: now_ms(), health };
        self.update(node, connection, |member| member.live.health = Some(seen));
    }

    pub(super) fn done(&self, node: &str, connection: u64, id: u64, result: Outcome) {
        self.update(node, connection, |member| {
            if let Some(waiting) = member.waiting.remove(&id) {
                // The request that asked may be gone.
                let _ = waiting.send(result);
            }
        });
    }

    fn update(&self, node: &str, connection: u64, change: impl FnOnce(&mut Member)) {
        if let Some(member) = self.lock().get_mut(node)
            && member.connection == connection
        {
            change(member);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Member>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
