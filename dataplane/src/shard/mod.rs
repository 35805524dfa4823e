//! Shards: one thread each, with everything of its own. This file is the seam between them and the rest of the process.

mod checks;
mod commands;
mod driver;
pub mod inspect;
mod listener;
pub mod mesh;
mod run;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam::queue::SegQueue;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};
use shoal_link::message::PurgeScope;
use shoal_link::prefetch::PrefetchItem;
use shoal_packet::flow::Owners;
use shoal_probes::FrameEndpoints;
use shoal_sys::doorbell::Doorbell;
use shoal_sys::xsk::{Interface, XskReceiver, XskSender};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::counts::Counts;
use crate::http::addresses::AddressCounts;
use crate::ledger::LedgerSink;
use crate::link::Observed;
use crate::link::prefetch::Meter;
use crate::playback::Playbacks;
use crate::routes::{Parents, Published};
use crate::settings::Settings;
use crate::telemetry::access_log::AccessLogSink;
use crate::telemetry::stats::ShardStats;
use crate::tls::Tls;
use crate::udp::{PostOffice, StreamNode, TurnNode, UdpNode};
use crate::xdp::KnownSources;
use shoal_probes::Relay;

/// Threads of a shard for what would block it: names to resolve, files of local origins.
const BLOCKING_THREADS: usize = 4;

/// glommio's preemption timer stays off, in effect. When it expires before the first task of a round has run (a thread that
/// lost its CPU for that long is enough), glommio 0.9 takes the round for an idle one and goes to sleep on top of its ready
/// tasks, with nothing armed that would wake it (`LocalExecutor::run_task_queues`). Our driver steps aside by the clock.
const NO_PREEMPTION: Duration = Duration::from_secs(24 * 3600);

/// What every shard is given: immutable, or made to be shared.
#[derive(Debug)]
pub struct Shared {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Certificates and trust.
    pub tls: Tls,
    /// The snapshot in force.
    pub published: Arc<Published>,
    /// One for each shard, by its index.
    pub stats: Vec<Arc<ShardStats>>,
    /// Where usage goes.
    pub ledger: LedgerSink,
    /// Where access log records go, if anybody wants them.
    pub access_log: Option<AccessLogSink>,
    /// What is seen of peers, for the control plane.
    pub observed: Observed,
    /// What players say of their playback, for the control plane.
    pub playbacks: Playbacks,
    /// Clients that are no forgery, for XDP.
    pub known: Arc<KnownSources>,
    /// True from SIGTERM or a drain command on.
    pub drain: AtomicBool,
}

/// The sockets of one shard: bound, listening, and in blocking mode, as the ring wants them.
#[derive(Debug, Default)]
pub struct ShardListeners {
    /// One for each address that is served by TCP.
    pub sockets: Vec<Listener>,
    /// One for each address and port that is served by UDP.
    pub udp: Vec<UdpListener>,
    /// One for each address and port at which the relay is served by TCP.
    pub turn: Vec<TurnListener>,
    /// What is served by frames beside, if anything is.
    pub frames: Option<FrameListeners>,
}

/// One of them.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// A UDP socket that is bound.
#[derive(Debug)]
pub struct UdpListener {
    /// Where.
    pub address: SocketAddr,
    /// The socket.
    pub socket: OwnedFd,
    /// Whose flows are, if the kernel was told to give them to their owners.
    pub owners: Option<Owners>,
}

/// The AF_XDP sockets of a shard, and what those of all shards serve.
#[derive(Debug)]
pub struct FrameListeners {
    /// One for each queue that is this shard's.
    pub sockets: Vec<FrameListener>,
    /// To be told of each relay.
    pub endpoints: FrameEndpoints,
}

/// One of them.
#[derive(Debug)]
pub struct FrameListener {
    /// By which frames come and go.
    pub interface: Interface,
    /// Takes them.
    pub receiver: XskReceiver,
    /// Sends them.
    pub sender: XskSender,
}

/// A listener of the relay.
#[derive(Debug)]
pub struct TurnListener {
    /// Where.
    pub address: SocketAddr,
    /// The socket.
    pub socket: OwnedFd,
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
        /// Which object, or which part of it.
        item: PrefetchItem,
        /// Counts, paces and stops it.
        meter: Arc<Meter>,
        /// Why it was not fetched, if it was not.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Say something about its part of the cache.
    Inspect(inspect::ShardQuestion),
    /// Tell of all registered peers once more.
    ObserveAgain,
    /// Stop accepting, finish what runs, flush the ledger, end.
    Drain,
}

/// Why a shard ended before it was told to, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Its executor would not start, or its thread panicked (then the panic hook has said where).
    #[error("shard {shard} on CPU {cpu}: {error}")]
    Executor {
        /// Index of the shard.
        shard: usize,
        /// Where it is pinned.
        cpu: usize,
        /// What glommio said.
        error: String,
    },
    /// The kernel refused something it cannot go on without.
    #[error("shard {shard}: {what}: {source}")]
    Kernel {
        /// Index of the shard.
        shard: usize,
        /// What was asked of the kernel.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// The way to one shard, from any thread.
#[derive(Clone)]
pub struct ShardHandle {
    inbox: Arc<Inbox>,
}

/// Commands on their way to a shard.
#[derive(Default)]
struct Inbox {
    commands: SegQueue<ShardCommand>,
    bell: OnceLock<Doorbell>,
    ended: AtomicBool,
}

/// Marks the shard as ended when dropped: also when its executor could not start and never ran it.
struct Ending(Arc<Inbox>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended.store(true, Release);
    }
}

impl ShardHandle {
    /// Hands a command over; false when the shard has ended.
    pub fn send(&self, command: ShardCommand) -> bool {
        if self.has_ended() {
            return false;
        }
        self.inbox.commands.push(command);
        if let Some(bell) = self.inbox.bell.get() {
            bell.ring();
        }
        true
    }
}

/// All shards of the process.
pub struct Shards {
    handles: Vec<ShardHandle>,
    threads: Vec<(usize, ExecutorJoinHandle<Result<(), ShardError>>)>,
}

impl Shards {
    /// One for each shard, by its index.
    pub fn handles(&self) -> Vec<ShardHandle> {
        self.handles.clone()
    }

    /// Whether any shard's thread has ended: after a drain, or because it failed.
    pub fn any_ended(&self) -> bool {
        self.handles.iter().any(ShardHandle::has_ended)
    }

    /// Whether all have ended.
    pub fn all_ended(&self) -> bool {
        self.handles.iter().all(ShardHandle::has_ended)
    }

    /// Waits for all shards to end.
    ///
    /// # Errors
    /// The first failure.
    pub fn join(self) -> Result<(), ShardError> {
        let ends = self.threads.into_iter().enumerate().map(|(shard, (cpu, thread))| match thread.join() {
            Ok(end) => end,
            Err(error) => Err(ShardError::Executor { shard, cpu, error: error.to_string() }),
        });
        ends.fold(Ok(()), Result::and)
    }

    /// Why a shard has ended, when one has failed; those that live are not waited for.
    pub fn failure(self) -> Option<ShardError> {
        let threads = self.threads.into_iter().enumerate().zip(&self.handles);
        let mut ended = threads.filter(|(_, handle)| handle.has_ended());
        ended.find_map(|((shard, (cpu, thread)), _)| match thread.join() {
            Ok(end) => end.err(),
            Err(error) => Some(ShardError::Executor { shard, cpu, error: error.to_string() }),
        })
    }
}

impl ShardHandle {
    fn has_ended(&self) -> bool {
        self.inbox.ended.load(Acquire)
    }
}

/// Starts a thread for each of `listeners`, and gives it one of `hands`, if there are any.
///
/// # Errors
/// What keeps a shard from starting.
pub fn start(shared: Arc<Shared>, listeners: Vec<ShardListeners>, hands: Vec<Relay>) -> Result<Shards, ShardError> {
    let clock = Clock::start();
    let disk = &shared.settings.disk;
    let seed = match disk.paths.is_empty() {
        true => run::random_seed(),
        false => crate::disk::seed(&shared.settings.node.state_dir).unwrap_or_else(|error| {
            tracing::error!(%error, "node.state_dir: cannot keep the disk tier's seed; it starts empty");
            run::random_seed()
        }),
    };
    let turn = &shared.settings.turn;
    let relays = turn.iter().flat_map(|turn| {
        let v4 = turn.ipv4.map(|ip| [ip.bind.into(), ip.public.into()]);
        let v6 = turn.ipv6.map(|ip| [ip.bind.into(), ip.public.into()]);
        v4.into_iter().chain(v6).flatten()
    });
    let nonce_secret = run::random_bytes().map_err(|source| ShardError::Kernel {
        shard: 0,
        what: "it gives no random numbers",
        source,
    })?;
    let udp = UdpNode {
        seed,
        known: (!shared.settings.xdp.interfaces.is_empty()).then(|| shared.known.clone()),
        post: Arc::new(PostOffice::new(listeners.len())),
        turn: TurnNode {
            counts: Arc::new(Counts::new(seed)),
            nonce_secret,
            own_addresses: shared.settings.udp.addresses.iter().copied().chain(relays).collect(),
            streams: Arc::new(StreamNode { tls: shared.tls.turn.clone(), addresses: AddressCounts::new(seed) }),
        },
    };
    let node = Arc::new(run::Node {
        udp,
        fabric: Arc::new(mesh::Fabric::new(listeners.len())),
        addresses: Arc::new(AddressCounts::new(seed)),
        parents: Arc::new(Parents::new(&shared.settings.upstream.parents)),
        connections: Arc::default(),
        shards: listeners.len(),
        seed,
        clock,
        shared,
    });
    let mut shards = Shards { handles: Vec::new(), threads: Vec::new() };
    let mut hands = hands.into_iter();
    for (shard, listeners) in listeners.into_iter().enumerate() {
        let relay = hands.next();
        let cpu = node.shared.settings.shards.cpus.get(shard).copied().unwrap_or(shard);
        let inbox = Arc::new(Inbox::default());
        let handle = ShardHandle { inbox: Arc::clone(&inbox) };
        let node = Arc::clone(&node);
        let thread = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("shard-{shard}"))
            .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
            .preempt_timer(NO_PREEMPTION)
            .spawn({
                let ending = Ending(Arc::clone(&inbox));
                move || async move {
                    let _ending = ending;
                    run::run(shard, &node, listeners, relay, &inbox).await
                }
            })
            .map_err(|error| ShardError::Executor { shard, cpu, error: error.to_string() })?;
        shards.threads.push((cpu, thread));
        shards.handles.push(handle);
    }
    Ok(shards)
}
