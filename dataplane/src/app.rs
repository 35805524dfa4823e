//! The life of the process: put together, serve, drain, end.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sd_notify::NotifyState;
use shoal_dataplane::admin::{self, Admin};
use shoal_dataplane::housekeeping::{Housekeeping, Pulse};
use shoal_dataplane::link::client::{Client, SharedSpool};
use shoal_dataplane::link::plane::{self, NodePlane, ToShard};
use shoal_dataplane::link::spool::{Limits, Spool};
use shoal_dataplane::link::store::SnapshotStore;
use shoal_dataplane::playback::Playbacks;
use shoal_dataplane::routes::Published;
use shoal_dataplane::settings::Settings;
use shoal_dataplane::shard::{self, ShardCommand, Shards, Shared};
use shoal_dataplane::steer::SocketSteering;
use shoal_dataplane::telemetry::access_log::AccessLog;
use shoal_dataplane::telemetry::collect::Exporter;
use shoal_dataplane::telemetry::metrics::Node;
use shoal_dataplane::telemetry::node::NodeStats;
use shoal_dataplane::telemetry::stats::ShardStats;
use shoal_dataplane::tls::Loaded;
use shoal_dataplane::xdp::Filter;
use shoal_dataplane::xdp::watch::Watch;
use shoal_dataplane::{ledger, link, listen};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use crate::process;

/// For every shard to have mapped its memory and opened its ring.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is looked whether a shard has ended.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// What shards may take beyond `http.drain_ms` to close and flush.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// For a connected control plane to acknowledge the last usage; what it does not stays on disk.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Exit status when a second signal cuts the drain short.
const IMPATIENT: u8 = 1;

/// Serves until a signal, a drain command or a failure, and says with what status to exit.
pub(crate) fn run(settings: Settings, loaded: Loaded) -> anyhow::Result<ExitCode> {
    shoal_dataplane::telemetry::log::init(&settings.log)?;
    process::die_on_panic();
    process::raise_file_limit();
    let _held = process::hold_state_dir(&settings.node.state_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("disk")
        .build()
        .context("cannot start the housekeeping runtime")?;
    let status = runtime.block_on(serve(Arc::new(settings), loaded));
    // A disk that hangs must not keep the process.
    runtime.shutdown_background();
    status
}

async fn serve(settings: Arc<Settings>, loaded: Loaded) -> anyhow::Result<ExitCode> {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let started = Instant::now();
    let boot = link::random_u64().context("the kernel gives no random numbers")?;
    let mut signals = Signals::new().context("cannot watch for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
    let shard_count = settings.shard_count();

    let (usage, flushes) = ledger::queue(shard_count);
    let spool = Spool::open(&settings.node.state_dir, boot, Limits::default())?;
    let spool = Arc::new(SharedSpool::new(spool));
    let access_log = settings.log.access_log.clone().map(|path| {
        let shown = path.display().to_string();
        AccessLog::open(path).with_context(|| format!("log.access_log = {shown:?}: cannot open it"))
    });
    let access_log = access_log.transpose()?;
    let stats = Arc::new(NodeStats::default());
    let shared = Arc::new(Shared {
        tls: loaded.tls,
        published: Arc::new(Published::default()),
        stats: (0..shard_count).map(|_| Arc::new(ShardStats::default())).collect(),
        ledger: usage,
        access_log: access_log.as_ref().map(AccessLog::sink),
        observed: link::Observed::default(),
        playbacks: Playbacks::default(),
        known: Arc::default(),
        drain: AtomicBool::new(false),
        settings: settings.clone(),
    });
    let store = SnapshotStore::new(&settings.node.state_dir);
    let restored = plane::restore(&shared, &stats, &store);
    match &restored {
        Ok(version) => tracing::info!(version, "serving the last snapshot"),
        Err(reason) => tracing::warn!(reason, "starting without a snapshot"),
    }

    let tls_ports: Vec<u16> = settings.tls.listen.iter().map(SocketAddr::port).collect();
    let mut listeners = match listen::inherited(&tls_ports, shard_count)? {
        Some(listeners) => listeners,
        None => listen::bind(&listen::wanted(&settings), shard_count)?,
    };
    let seed = link::random_u64().context("the kernel gives no random numbers")?;
    let mut steering = SocketSteering::load(&settings, seed);
    listen::bind_udp(&settings.udp, &mut listeners)?;
    steering.iter_mut().for_each(|steering| steering.attach(&mut listeners.shards));
    listen::bind_turn(&settings, &mut listeners)?;
    let (admin_socket, admin_address) = listen::bind_admin(settings.admin.listen)?;
    let addresses = listeners.addresses;
    let watch = Arc::<Watch>::default();
    let filter = Filter::start(&settings, (seed, steering.as_ref()), &stats, watch.clone(), &mut listeners.shards);
    let (filter, relays) = filter.unzip();
    let shards = shard::start(shared.clone(), listeners.shards, relays.unwrap_or_default())?;
    // The shards' threads are there; what is started from here on inherits it.
    process::give_way();

    let (drain, mut told_to_drain) = watch::channel(false);
    let to_shards: Vec<ToShard> = shards
        .handles()
        .into_iter()
        .map(|handle| -> ToShard { Arc::new(move |command| handle.send(command)) })
        .collect();
    let plane = NodePlane::new(shared.clone(), to_shards.clone(), stats.clone(), store, boot, drain, restored);
    let plane = Arc::new(plane);
    let pulse = Arc::new(Pulse::new(shared.stats.clone(), Instant::now()));

    let housekeeping =
        Housekeeping::new(flushes, spool.clone(), plane.clone(), access_log, pulse.clone(), stats.clone())
            .with_certificates(loaded.files)
            .with_filter(filter, shared.known.clone())
            .with_steering(steering);
    let (stop, stopped) = oneshot::channel();
    let reopen = Arc::new(Notify::new());
    let housekeeping = tokio::spawn(housekeeping.run(reopen.clone(), stopped));
    let registry = prometheus::Registry::new();
    Exporter::register(&registry, shared.stats.clone(), stats.clone()).context("the metrics table is wrong")?;
    let page = Admin {
        registry,
        shared: shared.clone(),
        stats: stats.clone(),
        plane: plane.clone(),
        pulse: pulse.clone(),
        xdp: watch,
        addresses: addresses.clone(),
        boot,
        started,
    };
    let admin_socket = tokio::net::TcpListener::from_std(admin_socket).context("cannot serve the admin socket")?;
    tokio::spawn(axum::serve(admin_socket, admin::router(Arc::new(page))).into_future());

    let usage = LastUsage { stop, housekeeping, spool: spool.clone(), stats: stats.clone() };
    if let Some(failure) = started_up(&shards, &pulse).await {
        return failed(shards, failure, usage).await;
    }
    tokio::spawn(Client::new(settings.link.clone(), plane, spool.clone(), stats.clone()).run());
    announce(&settings, &addresses, admin_address, started);

    // Serving.
    let why = loop {
        tokio::select! {
            name = signals.stop() => break name,
            _ = told_to_drain.wait_for(|drain| *drain) => break "a drain command",
            _ = hangup.recv() => reopen.notify_one(),
            () = ended(&shards) => return failed(shards, "a shard ended by itself", usage).await,
        }
    };

    tracing::info!(why, drain_ms = settings.http.drain.as_millis() as u64, "draining");
    notify(&[NotifyState::Stopping]);
    shared.drain.store(true, Relaxed);
    stats.set(Node::Draining, 1);
    to_shards.iter().for_each(|to_shard| {
        // One that has ended already is found by the wait below.
        to_shard(ShardCommand::Drain);
    });
    tokio::select! {
        () = all_ended(&shards) => {}
        () = tokio::time::sleep(settings.http.drain + DRAIN_GRACE) => {
            return failed(shards, "a shard did not end within the drain time", usage).await;
        }
        name = signals.stop() => {
            tracing::warn!(name, "a second signal: ending at once");
            return Ok(ExitCode::from(IMPATIENT));
        }
    }
    if let Err(error) = shards.join() {
        return end_with(&error.to_string(), usage).await;
    }
    usage.deliver(true).await?;
    tracing::info!("ended in order");
    Ok(ExitCode::SUCCESS)
}

/// What must be on disk before the process ends.
struct LastUsage {
    stop: oneshot::Sender<()>,
    housekeeping: JoinHandle<Housekeeping>,
    spool: Arc<SharedSpool>,
    stats: Arc<NodeStats>,
}

impl LastUsage {
    /// Writes what the shards have flushed, and gives a connected control plane a moment to take it. Who ends in order takes XDP along, too.
    async fn deliver(self, in_order: bool) -> anyhow::Result<()> {
        drop(self.stop);
        let mut housekeeping = self.housekeeping.await.context("housekeeping ended early")?;
        let committed = tokio::task::spawn_blocking(move || {
            housekeeping.round(false, true);
            let committed = housekeeping.commit_usage();
            if in_order {
                housekeeping.end();
            }
            committed
        });
        if !committed.await.context("the last usage was not written")? {
            bail!("the last usage could not be written and is lost; the log says why");
        }
        let begun = Instant::now();
        while self.stats.get(Node::LinkConnected) == 1 && self.spool.with(|spool| spool.batches()) > 0 {
            if begun.elapsed() > DELIVERY_TIMEOUT {
                tracing::info!("the last usage stays on disk until the next start");
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

/// Says which shard failed, and ends the process: those that live are not waited for.
async fn failed(shards: Shards, what: &str, usage: LastUsage) -> anyhow::Result<ExitCode> {
    let said = match shards.failure() {
        Some(error) => format!("{what}: {error}"),
        None => what.to_owned(),
    };
    end_with(&said, usage).await
}

async fn end_with(failure: &str, usage: LastUsage) -> anyhow::Result<ExitCode> {
    eprintln!("shoal-dataplane: {failure}");
    usage.deliver(false).await?;
    Ok(ExitCode::from(process::SOFTWARE_FAILURE))
}

/// Waits for every shard's first sign of life; says what went wrong instead.
async fn started_up(shards: &Shards, pulse: &Pulse) -> Option<&'static str> {
    let waiting = async {
        while !pulse.all_started() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = waiting => None,
        () = ended(shards) => Some("a shard could not start"),
        () = tokio::time::sleep(START_TIMEOUT) => Some("a shard did not start in time"),
    }
}

async fn ended(shards: &Shards) {
    while !shards.any_ended() {
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

async fn all_ended(shards: &Shards) {
    while !shards.all_ended() {
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn announce(settings: &Settings, addresses: &[SocketAddr], admin: SocketAddr, started: Instant) {
    for address in addresses {
        tracing::info!(%address, "serving viewers");
    }
    tracing::info!(address = %admin, "serving /metrics, /healthz, /readyz, /status, /xdp");
    let after_ms = started.elapsed().as_millis() as u64;
    tracing::info!(node = settings.node.name, shards = settings.shard_count(), after_ms, "ready");
    notify(&[NotifyState::Ready]);
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// The signals that mean: stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits to be told to stop; says by which signal.
    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
