//! What the control plane's messages do to this node.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_link::message::{Command, PurgeScope, Reply};
use shoal_link::prefetch::{PrefetchOrder, PrefetchStat};
use shoal_link::{DataMessage, PROTOCOL, Snapshot};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::client::Plane;
use super::node;
use super::prefetch::Prefetcher;
use super::store::SnapshotStore;
use crate::routes::{Published, Routes};
use crate::settings::Settings;
use crate::shard::{ShardCommand, Shared};
use crate::telemetry::metrics::Node;
use crate::telemetry::node::NodeStats;
use crate::telemetry::stats::ShardStats;

/// For all shards to purge, or to answer a question; they need milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The way to one shard; false when it has ended.
pub type ToShard = Arc<dyn Fn(ShardCommand) -> bool + Send + Sync>;

/// This node, to its control plane.
pub struct NodePlane {
    shared: Arc<Shared>,
    shards: Vec<ToShard>,
    stats: Arc<NodeStats>,
    store: SnapshotStore,
    boot: u64,
    started: Instant,
    drain: watch::Sender<bool>,
    prefetcher: Prefetcher,
    state: Mutex<State>,
    /// Held while a snapshot is put in force: one after the other, also across connections.
    applying: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Version in force.
    version: Option<u64>,
    /// Why there is none, for people.
    absent: String,
    /// In force, and not on disk, because the disk would not take it.
    unsaved: Option<Snapshot>,
}

/// Puts the last snapshot on disk in force. Without one, or with one that cannot be used, says why; the node then
/// starts empty.
///
/// # Errors
/// The reason, for the log and for /readyz.
pub fn restore(shared: &Shared, stats: &NodeStats, store: &SnapshotStore) -> Result<u64, String> {
    let snapshot = match store.load() {
        Ok(Some(snapshot)) => snapshot,
        Ok(None) => return Err("no snapshot has come from a control plane yet".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let routes = compile(shared, &snapshot).map_err(|reason| format!("the last snapshot is not used: {reason}"))?;
    publish(shared, stats, routes);
    Ok(snapshot.version)
}

fn compile(shared: &Shared, snapshot: &Snapshot) -> Result<Routes, String> {
    Routes::compile(snapshot, Some(&shared.published.current())).map_err(|error| error.to_string())
}

fn publish(shared: &Shared, stats: &NodeStats, routes: Routes) {
    let version = routes.version();
    shared.published.publish(routes);
    // Who reads this may rely on it.
    stats.set(Node::SnapshotVersion, version);
}

impl NodePlane {
    /// Where the snapshot in force is.
    pub fn published(&self) -> &Published {
        &self.shared.published
    }

    /// `restored` is what [`restore`] said; `drain` is set to true when the node is told to go.
    pub fn new(
        shared: Arc<Shared>,
        shards: Vec<ToShard>,
        stats: Arc<NodeStats>,
        store: SnapshotStore,
        boot: u64,
        drain: watch::Sender<bool>,
        restored: Result<u64, String>,
    ) -> Self {
        let state = match restored {
            Ok(version) => State { version: Some(version), ..State::default() },
            Err(absent) => State { absent, ..State::default() },
        };
        let (state, applying) = (Mutex::new(state), Mutex::new(()));
        let (started, prefetcher) = (Instant::now(), Prefetcher::default());
        Self { shared, shards, stats, store, boot, started, drain, prefetcher, state, applying }
    }

    /// Version of the snapshot in force, or why there is none.
    pub fn snapshot(&self) -> Result<u64, String> {
        self.state(|state| state.version.ok_or_else(|| state.absent.clone()))
    }

    /// Starts the drain, as SIGTERM does.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Saves what could not be saved before. Blocks for as long as a disk takes.
    pub fn retry_save(&self) {
        let _one = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = self.state(|state| state.unsaved.take()) {
            self.save(snapshot);
        }
    }

    fn save(&self, snapshot: Snapshot) {
        if let Err(error) = self.store.save(&snapshot) {
            tracing::error!(version = snapshot.version, %error, "a snapshot goes in force without being on disk");
            self.state(|state| state.unsaved = Some(snapshot));
        }
    }

    fn state<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks every shard, and gives their answers in their order.
    pub(super) async fn ask_all<T>(
        &self,
        question: impl Fn(oneshot::Sender<T>) -> ShardCommand,
    ) -> Result<Vec<T>, String> {
        let mut answers = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (done, answer) = oneshot::channel();
            if !shard(question(done)) {
                return Err("a shard has ended; the node is going down".to_owned());
            }
            answers.push(answer);
        }
        let all = async {
            let mut given = Vec::with_capacity(answers.len());
            for answer in answers {
                given.push(answer.await.map_err(|_| "a shard ended before it had answered".to_owned())?);
            }
            Ok(given)
        };
        let late = |_| Err(format!("a shard has not answered within {} s", ANSWER_TIMEOUT.as_secs()));
        timeout(ANSWER_TIMEOUT, all).await.unwrap_or_else(late)
    }

    pub(super) fn routes(&self) -> Arc<Routes> {
        self.shared.published.current()
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(super) fn stats_of_shards(&self) -> &[Arc<ShardStats>] {
        &self.shared.stats
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    async fn purge(&self, scope: PurgeScope) -> Result<u64, String> {
        let purged = self.ask_all(|done| ShardCommand::Purge { scope: scope.clone(), done }).await?;
        Ok(purged.into_iter().sum())
    }

    async fn prefetch(&self, order: PrefetchOrder) -> Result<PrefetchStat, String> {
        if self.routes().channel(&order.channel).is_none() {
            return Err(format!("channel `{}` is not in the snapshot that this node serves", order.channel));
        }
        self.prefetcher.order(&self.shards, order).await
    }
}

impl Plane for NodePlane {
    fn hello(&self) -> DataMessage {
        let node = &self.shared.settings.node;
        DataMessage::Hello {
            protocol: PROTOCOL,
            node: node.name.clone(),
            boot: self.boot,
            software: concat!("shoal-dataplane ", env!("CARGO_PKG_VERSION")).to_owned(),
            snapshot: self.snapshot().ok(),
            public_url: node.public_url.clone(),
            region: node.region.clone(),
            endpoints: Box::new(node::endpoints(&self.shared.settings, &self.shared.tls.names)),
        }
    }

    fn health(&self) -> DataMessage {
        let draining = self.shared.drain.load(Relaxed);
        DataMessage::Health(Box::new(node::health(&self.shared.settings, &self.shared.stats, &self.stats, draining)))
    }

    fn connected(&self) {
        self.shared.observed.clear();
        for shard in &self.shards {
            // One that has ended has no peers.
            shard(ShardCommand::ObserveAgain);
        }
    }

    fn observed(&self) -> Option<DataMessage> {
        let seen = self.shared.observed.take();
        match seen.is_empty() {
            false => Some(DataMessage::Observed(seen)),
            true => self.shared.playbacks.take().map(DataMessage::Playback),
        }
    }

    async fn apply(self: Arc<Self>, snapshot: Snapshot) -> Result<(), String> {
        let (version, channels) = (snapshot.version, snapshot.channels.len());
        let plane = self.clone();
        // Both take their time: thousands of channels, and a disk.
        let work = move || {
            let _one = plane.applying.lock().unwrap_or_else(PoisonError::into_inner);
            let routes = compile(&plane.shared, &snapshot)?;
            plane.state(|state| state.unsaved = None);
            plane.save(snapshot);
            publish(&plane.shared, &plane.stats, routes);
            plane.state(|state| state.version = Some(version));
            Ok(())
        };
        let applied = tokio::task::spawn_blocking(work).await;
        applied.unwrap_or_else(|error| Err(error.to_string()))?;
        tracing::info!(version, channels, "snapshot in force");
        Ok(())
    }

    async fn command(self: Arc<Self>, command: Command) -> Result<Reply, String> {
        match command {
            Command::Purge { scope } => self.purge(scope).await.map(Reply::Count),
            Command::Prefetch { order } => Ok(Reply::Prefetch(Box::new(self.prefetch(order).await?))),
            Command::Prefetches { cancel } => self.prefetcher.list(cancel).map(Reply::Prefetches),
            Command::Inspect { question } => self.inspect(question).await,
            Command::Drain => {
                self.drain();
                Ok(Reply::Count(0))
            }
        }
    }
}

#[cfg(test)]
mod tests;
