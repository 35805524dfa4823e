//! Several instances behind a load balancer: each has all swarms in its own memory, and tells the others of its own peers over
//! Redis (or Valkey).
//!
//! - Stream `shoal:tracker:changes`: batches of changes (`shoal_swarm::replica`) of all instances, some ten a second, kept for a
//!   minute. Each instance takes in those of the others. One that starts begins with what the last [`REBUILD_MS`] brought,
//!   which is every peer that is there, for each announces within two intervals.
//! - Stream `shoal:tracker:mail:INSTANCE`: offers and answers for connections of that instance.
//! - Keys `shoal:once:…`: what counts once at all instances together, such as the nonces of signed questions to conf.
//!
//! Without Redis each instance goes on with its own peers, and those of others expire. When it is back, each tells of all its peers
//! again. Connections are numbered with their instance in front, so a number says where the connection is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamReadReply};
use redis::{AsyncConnectionConfig, Client, RedisError};
use shoal_swarm::PeerId;
use shoal_swarm::replica::{self, Change};
use shoal_swarm::swarms::{Key, Swarms};
use tokio::sync::watch;

use super::metrics::Dropped;
use super::{ANSWER, SHARDS, Tracker, place};
use crate::app::App;

/// Bits of a connection's number below its instance's.
pub(super) const CONNECTION_BITS: u32 = 40;
/// Bits of an instance's number, drawn by lot at the start.
const INSTANCE_BITS: u32 = 23;

const CHANGES: &str = "shoal:tracker:changes";
const MAIL: &str = "shoal:tracker:mail:";
const ONCE: &str = "shoal:once:";

/// Pause between two batches.
const BATCH_EVERY: Duration = Duration::from_millis(100);
/// Bytes of changes that wait at most; beyond, changes are lost until the peers' next announces tell the same.
const MAX_BATCH: usize = 8 << 20;
/// Messages for other instances that wait at most; beyond, the newest are dropped.
const MAX_MAIL: usize = 16_384;
/// Bytes of a batch of peers that are told of again.
const AGAIN_BYTES: usize = 256 << 10;
/// Numbers looked at with a shard's lock held.
const AGAIN_PEERS: u32 = 512;
/// How far back an instance begins that starts, or that was cut off.
const REBUILD_MS: u64 = 41_000;
/// How long changes are kept.
const KEEP_MS: u64 = 60_000;
/// Messages kept for an instance at most.
const KEEP_MAIL: usize = 65_536;
/// Entries taken from a stream at a time.
const READ_ENTRIES: usize = 64;
/// Longest wait of one read for something to come.
const READ_WAIT_MS: u64 = 500;
/// Longest wait for Redis to connect or to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for whether something is there for the first time: somebody waits for it.
const ONCE_WAIT: Duration = Duration::from_millis(500);
/// By how much the clocks of two instances may differ.
const SKEW_S: u64 = 60;
/// Pause before Redis is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is to be told to other instances.
pub(super) struct Replica {
    /// This instance's number; never 0.
    pub(super) instance: u64,
    client: Client,
    /// Whether anybody listens; without, nothing is kept.
    connected: AtomicBool,
    /// What is asked between batches, while connected.
    asks: Mutex<Option<MultiplexedConnection>>,
    out: Mutex<Out>,
}

#[derive(Default)]
struct Out {
    changes: Vec<u8>,
    mail: Vec<(u64, Utf8Bytes)>,
}

impl Replica {
    /// `lot` decides the instance's number.
    pub(super) fn new(url: &str, lot: u64) -> Result<Self, RedisError> {
        let instance = (lot >> (64 - INSTANCE_BITS)).max(1);
        let client = Client::open(url)?;
        Ok(Self { instance, client, connected: AtomicBool::new(false), asks: Mutex::default(), out: Mutex::default() })
    }

    /// After a change here: what is known of the peer now, or that it is gone.
    pub(super) fn tell(
        &self,
        tracker: &Tracker,
        swarms: &Swarms,
        key: Key<'_>,
        peer_id: PeerId,
        connection: u64,
        failed: &[PeerId],
    ) {
        if !self.connected.load(Ordering::Relaxed) {
            return;
        }
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.changes.len() >= MAX_BATCH {
            return;
        }
        if out.changes.is_empty() {
            replica::begin(&mut out.changes);
        }
        match swarms.record(key, peer_id) {
            Some(record) => replica::is(&record, &tracker.nodes.name(record.node), failed, &mut out.changes),
            None => replica::left(key, peer_id, connection, &mut out.changes),
        }
    }

    /// A message for a connection of another instance.
    pub(super) fn send(&self, connection: u64, message: Utf8Bytes) -> Result<(), Dropped> {
        if !self.connected.load(Ordering::Relaxed) {
            return Err(Dropped::Gone);
        }
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out.mail.len() >= MAX_MAIL {
            return Err(Dropped::Queue);
        }
        out.mail.push((connection, message));
        Ok(())
    }

    /// Whether nobody, at any instance, has asked for `name` for the last `seconds`. Without Redis: as far as is known.
    pub(super) async fn is_first(&self, name: &str, seconds: u64) -> bool {
        let asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(mut asks) = asks else { return true };
        let mut set = redis::cmd("SET");
        set.arg(format!("{ONCE}{name}")).arg(1).arg("NX").arg("EX").arg(seconds + SKEW_S);
        match tokio::time::timeout(ONCE_WAIT, set.query_async::<Option<String>>(&mut asks)).await {
            Ok(Ok(done)) => done.is_some(),
            // That Redis is away is noted where it is followed; viewers do not wait for it to come back.
            Ok(Err(_)) | Err(_) => true,
        }
    }

    fn take(&self) -> Out {
        std::mem::take(&mut *self.out.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn connect(&self, wait: Duration) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_WAIT))
            .set_response_timeout(Some(ANSWER_WAIT + wait));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}

/// Keeps up with the other instances until `stop`.
pub(super) async fn run(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let Some(replica) = &app.tracker.replica else { return };
    let mut told = false;
    loop {
        let result = tokio::select! {
            result = follow(&app, replica) => result,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        replica.connected.store(false, Ordering::Relaxed);
        *replica.asks.lock().unwrap_or_else(PoisonError::into_inner) = None;
        drop(replica.take());
        if let Err(error) = result
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!(%error, "tracker.redis: other instances' peers are not known until it is back");
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN_AFTER) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    // The others need not wait for peers of this instance to expire: those announce to them within one interval.
}

/// Connects, tells all, and then writes and reads until something fails.
async fn follow(app: &Arc<App>, replica: &Replica) -> Result<(), RedisError> {
    let mut writer = replica.connect(Duration::ZERO).await?;
    let reader = replica.connect(Duration::from_millis(READ_WAIT_MS)).await?;
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut writer).await?;
    let now_ms = seconds * 1000 + micros / 1000;
    replica.connected.store(true, Ordering::Relaxed);
    *replica.asks.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer.clone());
    tracing::info!(instance = replica.instance, "the tracker keeps up with the other instances");
    let writing = async {
        tell_all(app, replica, &mut writer).await?;
        loop {
            tokio::time::sleep(BATCH_EVERY).await;
            let Out { changes, mail } = replica.take();
            if !changes.is_empty() {
                write(replica, &mut writer, &changes).await?;
            }
            post(&mut writer, mail).await?;
        }
    };
    tokio::select! {
        result = writing => result,
        result = read(app, replica, reader, now_ms.saturating_sub(REBUILD_MS), now_ms) => result,
    }
}

/// Tells of every peer that announces here.
async fn tell_all(app: &App, replica: &Replica, writer: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let tracker = &app.tracker;
    let mut batch = Vec::new();
    replica::begin(&mut batch);
    for shard in 0..SHARDS {
        let mut next = Some(0);
        while let Some(from) = next {
            next = tracker.lock(shard).each_record(from, AGAIN_PEERS, |record| {
                replica::is(&record, &tracker.nodes.name(record.node), &[], &mut batch);
            });
            if batch.len() >= AGAIN_BYTES {
                write(replica, writer, &batch).await?;
                replica::begin(&mut batch);
            }
        }
    }
    write(replica, writer, &batch).await
}

async fn write(replica: &Replica, writer: &mut MultiplexedConnection, batch: &[u8]) -> Result<(), RedisError> {
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(writer).await?;
    let oldest = (seconds * 1000).saturating_sub(KEEP_MS);
    let mut add = redis::cmd("XADD");
    add.arg(CHANGES).arg("MINID").arg("~").arg(oldest).arg("*").arg("from").arg(replica.instance);
    add.arg("changes").arg(batch).exec_async(writer).await
}

/// Brings messages to the streams of the instances whose connections they are for.
async fn post(writer: &mut MultiplexedConnection, mail: Vec<(u64, Utf8Bytes)>) -> Result<(), RedisError> {
    if mail.is_empty() {
        return Ok(());
    }
    let mut pipe = redis::pipe();
    let mut streams = HashMap::new();
    for (connection, message) in &mail {
        let stream: &mut String =
            streams.entry(connection >> CONNECTION_BITS).or_insert_with_key(|instance| format!("{MAIL}{instance}"));
        pipe.cmd("XADD").arg(&*stream).arg("MAXLEN").arg("~").arg(KEEP_MAIL).arg("*").arg("to").arg(*connection);
        pipe.arg("message").arg(message.as_str()).ignore();
    }
    for stream in streams.values() {
        pipe.cmd("PEXPIRE").arg(stream).arg(KEEP_MS).ignore();
    }
    pipe.exec_async(writer).await
}

/// Takes in what others tell: changes from `from_ms` on, messages from `now_ms` on.
async fn read(
    app: &App,
    replica: &Replica,
    mut reader: MultiplexedConnection,
    from_ms: u64,
    now_ms: u64,
) -> Result<(), RedisError> {
    let mail = format!("{MAIL}{}", replica.instance);
    let (mut last_change, mut last_mail) = (format!("{from_ms}-0"), format!("{now_ms}-0"));
    loop {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(READ_ENTRIES).arg("BLOCK").arg(READ_WAIT_MS);
        command.arg("STREAMS").arg(CHANGES).arg(&mail).arg(&last_change).arg(&last_mail);
        let reply: Option<StreamReadReply> = command.query_async(&mut reader).await?;
        for stream in reply.into_iter().flat_map(|reply| reply.keys) {
            for entry in stream.ids {
                if stream.key == CHANGES {
                    take_changes(app, replica, &entry);
                    last_change = entry.id;
                } else {
                    deliver(app, &entry);
                    last_mail = entry.id;
                }
            }
            // A long batch is long work; other tasks have their turn between two.
            tokio::task::yield_now().await;
        }
    }
}

fn take_changes(app: &App, replica: &Replica, entry: &StreamId) {
    if entry.get::<u64>("from") == Some(replica.instance) {
        return;
    }
    let batch: Vec<u8> = entry.get("changes").unwrap_or_default();
    let tracker = &app.tracker;
    for change in replica::read(&batch) {
        match change {
            Ok(Change::Is { mut record, node, failed }) => {
                record.node = tracker.nodes.number(&Arc::from(node));
                let place = |address| place(app, address);
                // What does not fit here is refused here, too; it is known where it announces.
                let _ = ANSWER.with_borrow_mut(|answer| {
                    tracker.change(record.key, |swarms, now_ms| {
                        swarms.handle_remote(now_ms, &record, &failed, &place, answer)
                    })
                });
            }
            Ok(Change::Left { key, peer_id, connection }) => {
                tracker.change(key, |swarms, _| swarms.remote_left(key, peer_id, connection));
            }
            Err(error) => return tracing::warn!(%error, from = ?entry.get::<u64>("from"), "tracker.redis"),
        }
    }
}

fn deliver(app: &App, entry: &StreamId) {
    let (Some(to), Some(message)) = (entry.get::<u64>("to"), entry.get::<String>("message")) else { return };
    if let Err(reason) = app.tracker.connections.send(to, message.into()) {
        app.tracker.counters.dropped(reason);
    }
}
