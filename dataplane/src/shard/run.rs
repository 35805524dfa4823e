//! One shard's life, inside its executor.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use glommio::timer::sleep;
use rustix::time::{ClockId, clock_gettime};
use shoal_sys::arena::Arena;
use shoal_sys::doorbell::{Doorbell, DoorbellWaiter};
use shoal_sys::ring::{Ring, RingConfig};

use super::driver::{self, Sources};
use super::mesh::{Fabric, Mesh};
use super::{Inbox, Listener, ShardCommand, ShardError, ShardListeners, Shared, checks, commands, listener};
use crate::clock::Clock;
use crate::disk::{Disk, DiskParts};
use crate::http::addresses::AddressCounts;
use crate::http::context::{Context, ContextParts};
use crate::ledger::{FLUSH_INTERVAL, Recorder};
use crate::playback;
use crate::routes::Parents;
use crate::slices::Slices;
use crate::slices::client::{Answer, Question};
use crate::slices::store::{Store, StoreParts};
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::ShardStats;
use crate::udp::{Udp, UdpNode, UdpParts};
use crate::upstream::{UpstreamLimits, Upstreams};
use shoal_probes::Relay;

/// Time between two looks at deadlines, memory and figures.
const TICK: Duration = Duration::from_millis(100);

/// What all shards of the process share.
pub(super) struct Node {
    /// Lanes.
    pub fabric: Arc<Fabric<Question, Answer>>,
    /// Connections per client.
    pub addresses: Arc<AddressCounts>,
    /// Nodes to ask before the origins.
    pub parents: Arc<Parents>,
    /// Open connections of all shards.
    pub connections: Arc<AtomicUsize>,
    /// What is shared for UDP.
    pub udp: UdpNode,
    /// How many shards there are.
    pub shards: usize,
    /// For hashes that viewers must not be able to steer.
    pub seed: u64,
    /// The clock.
    pub clock: Clock,
    /// What the process gave.
    pub shared: Arc<Shared>,
}

/// A number that nobody outside can know.
pub(super) fn random_seed() -> u64 {
    // The standard library seeds its hash maps from the kernel's generator.
    RandomState::new().hash_one(std::process::id())
}

/// Bytes that nobody outside can know.
pub(super) fn random_bytes() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    for part in bytes.as_chunks_mut().0 {
        *part = crate::link::random_u64()?.to_ne_bytes();
    }
    Ok(bytes)
}

/// Sets the shard up, and serves until it has drained.
pub(super) async fn run(
    shard: usize,
    node: &Node,
    listeners: ShardListeners,
    relay: Option<Relay>,
    inbox: &Arc<Inbox>,
) -> Result<(), ShardError> {
    let kernel = |what: &'static str| move |source: std::io::Error| ShardError::Kernel { shard, what, source };
    let settings = &node.shared.settings;
    let stats = match node.shared.stats.get(shard) {
        Some(stats) => Arc::clone(stats),
        None => Arc::new(ShardStats::default()),
    };
    let ring =
        Ring::new(RingConfig::default()).map_err(kernel("cannot set up its io_uring (Linux 6.1 or later needed)"))?;
    let bell = Doorbell::new(&ring).map_err(kernel("cannot share its eventfd"))?;
    let waiter = DoorbellWaiter::new(&ring).map_err(kernel("cannot share its eventfd"))?;
    let ram_bytes = usize::try_from(settings.cache.ram_bytes / node.shards as u64).unwrap_or(usize::MAX);
    let huge_max = settings.http.sendfile_min_bytes - 1;
    let arena = Arena::with_huge_max(ram_bytes, huge_max)
        .map_err(kernel("cannot map its part of the RAM tier (cache.ram_bytes)"))?;
    // Resumed sessions are for the shard that had them; the health checks' are few.
    let client_tls = node.shared.tls.client();
    let limits = UpstreamLimits {
        connect_timeout: settings.upstream.connect_timeout,
        response_timeout: settings.upstream.response_timeout,
        connections_per_origin: settings.upstream.connections_per_origin,
        retries: settings.upstream.retries as usize,
        readahead_blocks: u32::try_from(settings.upstream.readahead_blocks).unwrap_or(u32::MAX),
    };
    let name: Arc<str> = format!("shoal-{}", settings.node.name).into();
    let disk = match settings.disk.paths.is_empty() {
        true => None,
        false => Some(
            Disk::start(DiskParts {
                settings: &settings.disk,
                state_dir: &settings.node.state_dir,
                shard,
                shards: node.shards,
                block_bytes: settings.cache.block_bytes as usize,
                ram_bytes,
                seed: node.seed,
                ring: &ring,
                stats: Arc::clone(&stats),
            })
            .await,
        ),
    };
    let ledger = Rc::new(RefCell::new(Recorder::new(node.shared.ledger.clone())));
    let store = Rc::new(Store::new(StoreParts {
        arena,
        upstreams: Upstreams::new(ring.clone(), node.clock.clone(), limits, Arc::clone(&client_tls), Arc::clone(&name)),
        limits,
        clock: node.clock.clone(),
        stats: Arc::clone(&stats),
        ledger: Rc::clone(&ledger),
        block_bytes: settings.cache.block_bytes as usize,
        published: Arc::clone(&node.shared.published),
        parents: Arc::clone(&node.parents),
        disk: disk.clone(),
        admit_uses: settings.disk.admit_uses,
        seed: random_seed(),
    }));
    let mesh = Rc::new(Mesh::new(Arc::clone(&node.fabric), shard, bell.clone()));
    let front_bytes = ram_bytes / 100 * usize::from(settings.cache.front_percent);
    let slices = Slices::new(shard, node.shards, store, Rc::clone(&mesh), front_bytes, Arc::clone(&stats));
    let ctx = Rc::new(Context::new(ContextParts {
        shard,
        node: name,
        ring: ring.clone(),
        slices,
        clock: node.clock.clone(),
        stats: Arc::clone(&stats),
        ledger: Rc::clone(&ledger),
        access_log: node.shared.access_log.clone(),
        settings: settings.http.clone(),
        key_seed: node.seed,
        addresses: Arc::clone(&node.addresses),
        all_connections: Arc::clone(&node.connections),
        published: Arc::clone(&node.shared.published),
    }));
    // A second bell for one shard cannot be: each inbox is given to one.
    let _ = inbox.bell.set(bell.clone());
    let udp = match listeners.udp.is_empty() {
        true => None,
        false => {
            node.udp.post.open(shard, bell.clone());
            let parts = UdpParts {
                shard,
                settings,
                node: &node.udp,
                listeners: listeners.udp,
                frames: listeners.frames,
                ring: &ring,
                clock: node.clock.clone(),
                stats: Arc::clone(&stats),
                published: Arc::clone(&node.shared.published),
                relay,
                seed: random_bytes().map_err(kernel("it gives no random numbers"))?,
            };
            let udp =
                Udp::start(parts).map_err(kernel("cannot set up UDP (udp.receive_buffers, udp.partner_listen)"))?;
            if shard == 0 {
                udp.record_left(&mut ledger.borrow_mut());
            }
            glommio::spawn_local(Rc::clone(&udp).serve()).detach();
            Some(udp)
        }
    };
    let work = Work { ctx: Rc::clone(&ctx), mesh, inbox: Arc::clone(inbox), udp: udp.clone() };
    let driver =
        glommio::spawn_local(driver::drive(ring.clone(), bell, waiter, work, settings.shards.reactor_interval));
    let mut accepting = Vec::new();
    for Listener { socket, tls } in listeners.sockets {
        // Entries on the ring wait on a blocking socket; on a non-blocking one they fail.
        socket.set_nonblocking(false).map_err(kernel("cannot prepare its listener"))?;
        let tls = node.shared.tls.server.clone().filter(|_| tls);
        accepting.push(glommio::spawn_local(listener::accept(Rc::clone(&ctx), OwnedFd::from(socket), tls)));
    }
    for at in listeners.turn {
        accepting.extend(udp.clone().map(|udp| glommio::spawn_local(listener::accept_turn(Rc::clone(&ctx), udp, at))));
    }
    if shard == 0 {
        glommio::spawn_local(checks::check_origins(
            Rc::clone(&ctx),
            ring.clone(),
            node.clock.clone(),
            limits,
            client_tls,
        ))
        .detach();
    }
    let driver = driver.detach();
    let served = housekeep(&ctx, &ring, &stats, udp.as_deref(), &node.shared, accepting);
    // The driver ends only when its ring fails, and nothing works without it.
    let failed = std::pin::pin!(driver);
    match first_of(served, failed).await {
        First::Served => {
            if let Some(disk) = disk {
                disk.close().await;
            }
            Ok(())
        }
        First::Failed(Some(error)) => Err(kernel("its io_uring failed")(error)),
        First::Failed(None) => Err(kernel("its driver ended")(std::io::ErrorKind::Other.into())),
    }
}

/// What comes from outside the ring.
struct Work {
    ctx: Rc<Context>,
    mesh: Rc<Mesh<Question, Answer>>,
    inbox: Arc<Inbox>,
    udp: Option<Rc<Udp>>,
}

impl Sources for Work {
    fn receive(&self) -> usize {
        let mut taken = self.mesh.receive(|from, id, question| self.ctx.slices.handle(from, id, question));
        taken += self.udp.as_ref().map_or(0, |udp| udp.receive());
        while let Some(command) = self.inbox.commands.pop() {
            match command {
                ShardCommand::ObserveAgain => self.udp.iter().for_each(|udp| udp.observe_again()),
                command => commands::carry_out(&self.ctx, command),
            }
            taken += 1;
        }
        taken
    }

    fn is_idle(&self) -> bool {
        let udp = self.udp.as_ref().is_none_or(|udp| udp.is_idle());
        udp && self.mesh.is_idle() && self.inbox.commands.is_empty()
    }
}

/// Ticks until the shard has drained.
async fn housekeep(
    ctx: &Rc<Context>,
    ring: &Ring,
    stats: &ShardStats,
    udp: Option<&Udp>,
    shared: &Shared,
    accepting: Vec<glommio::Task<()>>,
) {
    let mut accepting = Some(accepting);
    let mut meter = CpuMeter::start();
    let (mut flushed, mut told, mut drained_at) = (Instant::now(), Instant::now(), None);
    // The node is ready once all shards' rings have gone round.
    ring.next_turn().await;
    loop {
        stats.tick();
        ctx.deadlines.sweep(ctx.clock.now_ms());
        ctx.slices.tick();
        ctx.popular.tick(ctx.clock.now_ms());
        meter.read(stats);
        figures(ctx, ring, stats);
        if let Some(udp) = udp {
            let lost = shared.observed.push(udp.tick());
            stats.add(Counter::ObservationsUnsent, lost);
            udp.figures();
        }
        if flushed.elapsed() >= FLUSH_INTERVAL {
            udp.inspect(|udp| udp.record(&mut ctx.ledger.borrow_mut()));
            // A full queue keeps it here, for the next time.
            let _queued = ctx.ledger.borrow_mut().flush(SystemTime::now());
            flushed = Instant::now();
        }
        if told.elapsed() >= playback::FLUSH_INTERVAL {
            tell_playback(ctx, shared, stats);
            told = Instant::now();
        }
        if ctx.draining.get() {
            // Dropping the tasks closes the listeners.
            drop(accepting.take());
            let since = *drained_at.get_or_insert_with(Instant::now);
            ctx.deadlines.end_idle();
            // Others may still send what this shard owns or fetches.
            if ctx.all_connections.load(Relaxed) == 0 {
                break;
            }
            if since.elapsed() > ctx.settings.drain {
                tracing::warn!(
                    shard = ctx.shard,
                    connections = ctx.connections.get(),
                    "drain time is over; cutting off"
                );
                ctx.deadlines.end_all();
                sleep(TICK).await;
                break;
            }
        }
        ring.sleep(TICK).await;
    }
    udp.inspect(|udp| {
        udp.end_offload();
        udp.record(&mut ctx.ledger.borrow_mut());
    });
    tell_playback(ctx, shared, stats);
    // What the last transfers used must reach the spool; it is read until all shards have ended.
    while !ctx.ledger.borrow_mut().flush(SystemTime::now()) {
        sleep(Duration::from_millis(10)).await;
    }
}

fn tell_playback(ctx: &Context, shared: &Shared, stats: &ShardStats) {
    let mut playback = ctx.playback.borrow_mut();
    let lost = playback.flush(&shared.playbacks);
    stats.add(Counter::PlaybackUnsent, lost);
    stats.set_total(Counter::PlaybackLost, playback.dropped());
}

fn figures(ctx: &Context, ring: &Ring, stats: &ShardStats) {
    let figures = ring.stats();
    stats.set_total(Counter::RingSubmitted, figures.submitted);
    stats.set_total(Counter::RingCompleted, figures.completed);
    stats.set_total(Counter::RingEnters, figures.enters);
    stats.set_total(Counter::RingNoBuffers, figures.no_buffers);
    stats.set(Gauge::RingInFlight, ring.in_flight() as u64);
    stats.set(Gauge::RingBuffersTaken, ring.buffers_taken() as u64);
    stats.set(Gauge::Connections, ctx.connections.get() as u64);
    let ledger = ctx.ledger.borrow();
    stats.set(Gauge::LedgerEntries, ledger.pending() as u64);
    stats.set_total(Counter::LedgerShed, ledger.shed());
}

/// How much of the time the shard's thread is on its CPU.
struct CpuMeter {
    wall: Instant,
    cpu: Duration,
}

impl CpuMeter {
    fn start() -> CpuMeter {
        CpuMeter { wall: Instant::now(), cpu: thread_cpu() }
    }

    /// Once a second.
    fn read(&mut self, stats: &ShardStats) {
        let wall = self.wall.elapsed();
        if wall < Duration::from_secs(1) {
            return;
        }
        let cpu = thread_cpu();
        let busy = cpu.saturating_sub(self.cpu);
        stats.set(Gauge::BusyPermille, (busy.as_micros() * 1000 / wall.as_micros()) as u64);
        stats.set_total(Counter::ShardCpu, cpu.as_micros() as u64);
        *self = CpuMeter { wall: Instant::now(), cpu };
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

enum First<T> {
    Served,
    Failed(T),
}

/// Whichever is over first.
async fn first_of<T>(served: impl Future<Output = ()>, failed: impl Future<Output = T>) -> First<T> {
    let (mut served, mut failed) = (std::pin::pin!(served), std::pin::pin!(failed));
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(error) = failed.as_mut().poll(cx) {
            return std::task::Poll::Ready(First::Failed(error));
        }
        served.as_mut().poll(cx).map(|()| First::Served)
    })
    .await
}
