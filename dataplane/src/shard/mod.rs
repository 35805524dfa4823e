//! Shards: one thread each, with everything of its own. This file is the seam between them and the rest of the process.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use shoal_link::message::PurgeScope;
use tokio::sync::oneshot;

use crate::ledger::LedgerSink;
use crate::routes::Published;
use crate::settings::Settings;
use crate::telemetry::access_log::AccessLogSink;
use crate::telemetry::stats::ShardStats;

/// What every shard is given: immutable, or made to be shared.
#[derive(Debug)]
pub struct Shared {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// The snapshot in force.
    pub published: Arc<Published>,
    /// One for each shard, by its index.
    pub stats: Vec<Arc<ShardStats>>,
    /// Where usage goes.
    pub ledger: LedgerSink,
    /// Where access log records go, if anybody wants them.
    pub access_log: Option<AccessLogSink>,
    /// True from SIGTERM or a drain command on.
    pub drain: AtomicBool,
}

/// The sockets of one shard: bound, listening, and in blocking mode, as the ring wants them.
#[derive(Debug)]
pub struct ShardListeners {
    /// One for each address that is served.
    pub sockets: Vec<TcpListener>,
}

/// What the rest of the process asks of a shard. A shard that cannot answer drops `done`.
#[derive(Debug)]
pub enum ShardCommand {
    /// Forget objects; answers how many.
    Purge {
        /// Which ones.
        scope: PurgeScope,
        /// Objects purged on this shard.
        done: oneshot::Sender<u64>,
    },
    /// Fetch one object into the cache.
    Prefetch {
        /// Channel id.
        channel: String,
        /// Path below the channel's prefix.
        path: String,
        /// Bytes fetched, or why not.
        done: oneshot::Sender<Result<u64, String>>,
    },
    /// Stop accepting, finish what runs, flush the ledger, end.
    Drain,
}

/// Why a shard ended before it was told to, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The system would not start another thread.
    #[error("shard {shard}: cannot start its thread: {source}; is the limit of processes (ulimit -u) reached?")]
    Thread {
        /// Index of the shard.
        shard: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its thread panicked; the panic hook has said where.
    #[error("shard {shard} panicked")]
    Panicked {
        /// Index of the shard.
        shard: usize,
    },
}

/// The way to one shard, from any thread.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    commands: Sender<ShardCommand>,
}

impl ShardHandle {
    /// Hands a command over; false when the shard has ended.
    pub fn send(&self, command: ShardCommand) -> bool {
        self.commands.send(command).is_ok()
    }
}

/// All shards of the process.
#[derive(Debug)]
pub struct Shards {
    handles: Vec<ShardHandle>,
    threads: Vec<JoinHandle<Result<(), ShardError>>>,
}

impl Shards {
    /// One for each shard, by its index.
    pub fn handles(&self) -> Vec<ShardHandle> {
        self.handles.clone()
    }

    /// Whether any shard's thread has ended: after a drain, or because it failed.
    pub fn any_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Whether all have ended.
    pub fn all_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for all shards to end.
    ///
    /// # Errors
    /// The first failure.
    pub fn join(self) -> Result<(), ShardError> {
        let ends = self.threads.into_iter().enumerate();
        let ends = ends.map(|(shard, thread)| thread.join().unwrap_or(Err(ShardError::Panicked { shard })));
        ends.fold(Ok(()), Result::and)
    }
}

/// Starts a thread for each of `listeners`.
///
/// # Errors
/// What keeps a shard from starting.
pub fn start(shared: Arc<Shared>, listeners: Vec<ShardListeners>) -> Result<Shards, ShardError> {
    let mut shards = Shards { handles: Vec::new(), threads: Vec::new() };
    for (shard, listeners) in listeners.into_iter().enumerate() {
        let (commands, receiver) = unbounded();
        let shared = shared.clone();
        let thread = std::thread::Builder::new().name(format!("shard-{shard}"));
        let thread = thread.spawn(move || {
            run(shard, &shared, listeners, &receiver);
            Ok(())
        });
        shards.threads.push(thread.map_err(|source| ShardError::Thread { shard, source })?);
        shards.handles.push(ShardHandle { commands });
    }
    Ok(shards)
}

/// A shard that holds its sockets and nothing in its cache.
fn run(shard: usize, shared: &Shared, listeners: ShardListeners, commands: &Receiver<ShardCommand>) {
    let _open = listeners;
    let tick = std::time::Duration::from_millis(500);
    loop {
        if let Some(stats) = shared.stats.get(shard) {
            stats.tick();
        }
        // An answer that nobody waits for any more needs no receiver.
        match commands.recv_timeout(tick) {
            Ok(ShardCommand::Purge { done, .. }) => drop(done.send(0)),
            Ok(ShardCommand::Prefetch { done, .. }) => drop(done.send(Err("this shard has no cache".to_owned()))),
            Ok(ShardCommand::Drain) => return,
            Err(error) if error.is_disconnected() => return,
            Err(_) => {}
        }
    }
}
