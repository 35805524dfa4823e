//! The tracker: HTTP and WebSocket around `shoal_swarm`'s swarms.
//!
//! | Module | Holds |
//! |---|---|
//! | [`config`](Tracking) | the `[tracker]` section |
//! | `http` | announces and scrapes by HTTP, the classic ones and JSON |
//! | `socket` | the WebTorrent protocol |
//! | `connections` | which WebSockets there are, and what waits for them |
//! | `metrics` | what is counted |
//! | `replica` | what several instances tell each other, over Redis |
//! | `names` | numbers for regions, providers and nodes |
//!
//! Swarms are in memory, in shards with a lock each. A channel is in one shard, so that its limits and its viewers are
//! exact; only the open channel, which may have very many swarms, is spread by info hash. A lock is held for an announce's
//! microseconds and never across an await.

mod config;
mod connections;
mod http;
pub(crate) mod metrics;
mod names;
mod replica;
mod socket;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::ws::Utf8Bytes;
use axum::http::StatusCode;
use prometheus::Registry;
use shoal_swarm::swarms::{Announce, Answer, Count, Done, Key, PeerInfo, Place, Refusal, SwarmInfo, Swarms};
use shoal_swarm::{Behaviour, InfoHash, Nat, PeerId};
use tokio::sync::watch;

pub use config::Tracking;
pub(crate) use http::add;
pub use metrics::TABLE as METRICS;

use crate::app::App;
use crate::pass::{Pass, PassError, PassKeys};
use crate::rest::problem::Problem;
use connections::Connections;
use metrics::{Counters, Dropped, Outcome};
use names::Names;
use replica::Replica;

/// Shards; each has a lock.
const SHARDS: usize = 16;
/// Channel of those without a pass.
pub(crate) const OPEN_CHANNEL: &str = "open";
/// Pause between looks for peers that have expired.
const SWEEP: Duration = Duration::from_secs(1);
/// Expired peers that are removed at a time, with the shard's lock held.
const SWEEP_PEERS: usize = 512;
/// Sweeps between two sums of memory.
const MEMORY_SWEEPS: u32 = 15;

/// Who announces, as its pass says.
#[derive(Debug, Clone)]
pub(crate) struct Viewer {
    pub(crate) tenant: Arc<str>,
    pub(crate) channel: Arc<str>,
    /// None: nobody knows; each peer is a viewer of its own.
    session: Option<u64>,
    relay_only: bool,
    /// None where no pass is asked for.
    pass: Option<Pass>,
}

impl Viewer {
    /// Renews the pass that a connection was opened with, as the JSON door's heartbeat does. False: it has expired, for what it was
    /// for is no longer there.
    fn go_on(&mut self, app: &App, now: u64) -> bool {
        let Some(pass) = &self.pass else { return true };
        if let Some(pass) = app.conf.renewed_in_time(&app.config.conf, pass, now) {
            self.relay_only = pass.relay_only;
            self.pass = Some(pass);
            return true;
        }
        pass.expires > now
    }
}

/// Why somebody may not announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// The pass is not good.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// There is none, and one is needed.
    #[error("this tracker wants a pass: announce at the URL that conf gives")]
    Closed,
}

impl Denied {
    fn outcome(self) -> Outcome {
        match self {
            Self::Pass(error) => Outcome::Pass(error),
            Self::Closed => Outcome::Closed,
        }
    }

    fn problem(self) -> Problem {
        let status = if self == Self::Closed { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN };
        Problem::new(status, self.to_string())
    }
}

/// Why there is no tracker.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// Not a URL of Redis.
    #[error("tracker.redis: {0}; write redis://HOST:PORT or redis://:PASSWORD@HOST:PORT, or leave it empty")]
    Redis(redis::RedisError),
    /// The metrics' table is wrong.
    #[error("metrics: {0}; this is a defect of this release")]
    Metrics(#[from] prometheus::Error),
}

/// Checks what is configured without connecting.
pub(crate) fn check(config: &Tracking) -> Result<(), TrackerError> {
    match config.redis.as_str() {
        "" => Ok(()),
        url => redis::Client::open(url).map(drop).map_err(TrackerError::Redis),
    }
}

/// The tracker's parts.
pub struct Tracker {
    config: Tracking,
    shards: Vec<Mutex<Swarms>>,
    /// In all shards, as of the last change of each.
    peers: AtomicUsize,
    swarms: AtomicUsize,
    start: Instant,
    hasher: RandomState,
    connections: Connections,
    regions: Names,
    providers: Names,
    nodes: Names,
    pub(crate) counters: Counters,
    stop: watch::Sender<bool>,
    open: Option<Viewer>,
    replica: Option<Replica>,
}

thread_local! {
    /// An answer is made and written without an await between; its list is used again.
    static ANSWER: RefCell<Answer> = RefCell::new(Answer::default());
}

impl Tracker {
    /// Nobody is in a swarm.
    pub(crate) fn new(config: &Tracking, registry: &Registry) -> Result<Self, TrackerError> {
        let hasher = RandomState::new();
        let shard = |number: usize| Mutex::new(Swarms::new(config.shard(), hasher.hash_one(number)));
        let open = Viewer {
            tenant: config.open.as_str().into(),
            channel: OPEN_CHANNEL.into(),
            session: None,
            relay_only: false,
            pass: None,
        };
        let replica = match config.redis.as_str() {
            "" => None,
            url => Some(Replica::new(url, hasher.hash_one("instance")).map_err(TrackerError::Redis)?),
        };
        let first = replica.as_ref().map_or(0, |replica| replica.instance << replica::CONNECTION_BITS);
        Ok(Self {
            shards: (0..SHARDS).map(shard).collect(),
            peers: AtomicUsize::new(0),
            swarms: AtomicUsize::new(0),
            start: Instant::now(),
            connections: Connections::new(config.connections as usize, config.queue as usize, first + 1),
            regions: Names::default(),
            providers: Names::default(),
            nodes: Names::default(),
            counters: Counters::new(registry)?,
            stop: watch::Sender::new(false),
            open: (!config.open.is_empty()).then_some(open),
            hasher,
            replica,
            config: config.clone(),
        })
    }

    /// Viewers of a channel: those of several swarms count once.
    pub fn viewers(&self, tenant: &str, channel: &str) -> u64 {
        if self.is_open(tenant, channel) {
            return (0..SHARDS).map(|at| self.lock(at).viewers(tenant, channel)).sum();
        }
        self.lock(self.shard_of(tenant, channel, None)).viewers(tenant, channel)
    }

    /// The next swarm from a place on, and the place to go on with; of one tenant and channel where they are named.
    pub(crate) fn swarm_from(
        &self,
        place: (usize, u32),
        tenant: Option<&str>,
        channel: Option<&str>,
    ) -> (Option<SwarmInfo>, Option<(usize, u32)>) {
        /// Places looked at with the lock held.
        const AT_A_TIME: u32 = 1_000;
        let (mut shard, mut at) = place;
        while shard < SHARDS {
            let (found, next) = self.lock(shard).swarm_from(at, tenant, channel, AT_A_TIME);
            let next_place = next.map_or((shard + 1, 0), |next| (shard, next));
            if found.is_some() {
                return (found, (next_place.0 < SHARDS).then_some(next_place));
            }
            (shard, at) = next_place;
        }
        (None, None)
    }

    /// One swarm.
    pub(crate) fn swarm(&self, key: Key<'_>) -> Option<SwarmInfo> {
        self.lock(self.shard_of_key(key)).swarm(key)
    }

    /// Peers of a swarm from a place on.
    pub(crate) fn peers_of(&self, key: Key<'_>, from: usize, most: usize) -> Option<Vec<PeerInfo>> {
        self.lock(self.shard_of_key(key)).peers_of(key, from, most)
    }

    /// Milliseconds of the shards' clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// A region's name; empty where it is not known.
    pub(crate) fn region(&self, number: u16) -> Arc<str> {
        self.regions.name(number)
    }

    /// A provider's name; empty where it is not known.
    pub(crate) fn provider(&self, number: u16) -> Arc<str> {
        self.providers.name(number)
    }

    /// Whose pass it is, at `now` in Unix seconds.
    fn viewer(&self, keys: &PassKeys, pass: &str, now: u64) -> Result<Viewer, Denied> {
        let pass = keys.verify(pass, now)?;
        Ok(Viewer {
            tenant: Arc::clone(&pass.tenant),
            channel: Arc::clone(&pass.channel),
            session: (!pass.session.is_empty()).then(|| stable_hash(&[pass.session.as_bytes()])),
            relay_only: pass.relay_only,
            pass: Some(pass),
        })
    }

    /// Who announces without a pass.
    fn anybody(&self) -> Result<Viewer, Denied> {
        self.open.clone().ok_or(Denied::Closed)
    }

    /// The viewer that a peer counts to. `salt` tells apart what has the same id.
    fn session(&self, viewer: &Viewer, peer_id: PeerId, salt: u64) -> u64 {
        viewer.session.unwrap_or_else(|| stable_hash(&[&peer_id.0, &salt.to_be_bytes()]))
    }

    /// Takes in an announce.
    fn announce(&self, announce: &Announce<'_>, answer: &mut Answer) -> Result<Done, Refusal> {
        self.change(announce.key, |swarms, now_ms| self.handle(swarms, now_ms, announce, answer))
    }

    /// The same with the shard's lock held. Other instances are told.
    fn handle(
        &self,
        swarms: &mut Swarms,
        now_ms: u64,
        announce: &Announce<'_>,
        answer: &mut Answer,
    ) -> Result<Done, Refusal> {
        let done = swarms.handle_announce(now_ms, announce, answer)?;
        if let Some(replica) = &self.replica {
            replica.tell(self, swarms, announce.key, announce.peer_id, 0, announce.failed);
        }
        Ok(done)
    }

    /// A connection has ended: its peer leaves, or stays with the transports that it has by other doors.
    fn disconnect(&self, key: Key<'_>, peer_id: PeerId, connection: u64) {
        self.change(key, |swarms, _| {
            if swarms.disconnect(key, peer_id, connection)
                && let Some(replica) = &self.replica
            {
                replica.tell(self, swarms, key, peer_id, connection, &[]);
            }
        });
    }

    /// Whether nobody has asked for `name` for the last `seconds`: at any instance, where they tell each other; else always true.
    pub(crate) async fn is_first(&self, name: &str, seconds: u64) -> bool {
        match &self.replica {
            Some(replica) => replica.is_first(name, seconds).await,
            None => true,
        }
    }

    /// Has a message wait for a connection, of this instance or another.
    fn send(&self, connection: u64, message: Utf8Bytes) -> Result<(), Dropped> {
        match &self.replica {
            Some(replica) if connection >> replica::CONNECTION_BITS != replica.instance => {
                replica.send(connection, message)
            }
            _ => self.connections.send(connection, message),
        }
    }

    fn scrape(&self, key: Key<'_>) -> Count {
        self.lock(self.shard_of_key(key)).scrape(key)
    }

    /// Info hashes of a channel, up to `most`.
    fn hashes_of(&self, tenant: &str, channel: &str, most: usize) -> Vec<InfoHash> {
        if self.is_open(tenant, channel) {
            let mut found = Vec::new();
            for at in 0..SHARDS {
                found.extend(self.lock(at).hashes_of(tenant, channel, most - found.len()));
            }
            return found;
        }
        self.lock(self.shard_of(tenant, channel, None)).hashes_of(tenant, channel, most)
    }

    /// Works on the shard of a swarm, within the limits that hold for all shards together.
    fn change<T>(&self, key: Key<'_>, work: impl FnOnce(&mut Swarms, u64) -> T) -> T {
        let now_ms = self.now_ms();
        let mut swarms = self.lock(self.shard_of_key(key));
        let room = |most: u32, all: &AtomicUsize| (most as usize).saturating_sub(all.load(Ordering::Relaxed));
        let (peers, open) = (swarms.peers(), swarms.swarms());
        swarms.set_limits(peers + room(self.config.peers, &self.peers), open + room(self.config.swarms, &self.swarms));
        let result = work(&mut swarms, now_ms);
        count(&self.peers, peers, swarms.peers());
        count(&self.swarms, open, swarms.swarms());
        result
    }

    fn sweep(&self, at: usize) {
        loop {
            let mut swarms = self.lock(at);
            let (peers, open, expired) = (swarms.peers(), swarms.swarms(), swarms.expired());
            let more = swarms.expire(self.now_ms(), SWEEP_PEERS);
            count(&self.peers, peers, swarms.peers());
            count(&self.swarms, open, swarms.swarms());
            self.counters.expired.inc_by(swarms.expired() - expired);
            if !more {
                break;
            }
        }
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Swarms> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self, tenant: &str, channel: &str) -> bool {
        self.open.as_ref().is_some_and(|open| *open.tenant == *tenant && *open.channel == *channel)
    }

    fn shard_of_key(&self, key: Key<'_>) -> usize {
        let hash = self.is_open(key.tenant, key.channel).then_some(key.info_hash);
        self.shard_of(key.tenant, key.channel, hash)
    }

    fn shard_of(&self, tenant: &str, channel: &str, info_hash: Option<InfoHash>) -> usize {
        let hash = match info_hash {
            Some(info_hash) => self.hasher.hash_one(info_hash),
            None => self.hasher.hash_one((tenant, channel)),
        };
        (hash % SHARDS as u64) as usize
    }
}

/// The same in every instance and release: FNV-1a, stirred. Passes are signed, so nobody chooses what is hashed.
fn stable_hash(parts: &[&[u8]]) -> u64 {
    let hash = parts
        .iter()
        .copied()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Takes over what a shard's change made of a sum.
fn count(sum: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        sum.fetch_add(after - before, Ordering::Relaxed);
    } else {
        sum.fetch_sub(before - after, Ordering::Relaxed);
    }
}

/// Removes peers that were silent for too long, and keeps up with other instances, until `stop`.
pub(crate) async fn run(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let others = tokio::spawn(replica::run(Arc::clone(&app), stop.clone()));
    let tracker = &app.tracker;
    let mut sweeps = 0_u32;
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        for at in 0..SHARDS {
            tracker.sweep(at);
        }
        let counters = &tracker.counters;
        counters.peers.set(tracker.peers.load(Ordering::Relaxed) as i64);
        counters.swarms.set(tracker.swarms.load(Ordering::Relaxed) as i64);
        counters.connections.set(tracker.connections.open() as i64);
        if sweeps.is_multiple_of(MEMORY_SWEEPS) {
            counters.bytes.set((0..SHARDS).map(|at| tracker.lock(at).memory() as i64).sum());
        }
        sweeps = sweeps.wrapping_add(1);
    }
    // Fails only when no connection listens.
    let _ = tracker.stop.send(true);
    // It ends by the same word.
    let _ = others.await;
}

/// Where an address is, in numbers.
fn place(app: &App, address: IpAddr) -> Place {
    let found = app.places.place(address);
    let tracker = &app.tracker;
    Place { asn: found.asn, isp: tracker.providers.number(&found.isp), region: tracker.regions.number(&found.region) }
}

/// What the punch service knows of a peer: its NAT, and the node that it is registered at the longest.
fn registered(app: &App, viewer: &Viewer, peer_id: PeerId) -> Option<(Nat, u16)> {
    use shoal_link::observation::Behaviour as Seen;
    let found = app.peers.find(Instant::now(), &viewer.tenant, &viewer.channel, peer_id.0.into())?;
    let registration = found.registrations.first()?;
    let behaviour = |seen: Seen| match seen {
        Seen::Unknown => Behaviour::Unknown,
        Seen::EndpointIndependent => Behaviour::EndpointIndependent,
        Seen::AddressDependent => Behaviour::AddressDependent,
        Seen::AddressAndPortDependent => Behaviour::AddressAndPortDependent,
    };
    let nat = Nat {
        mapping: behaviour(registration.mapping),
        filtering: behaviour(registration.filtering),
        predictable: registration.predictable,
    };
    Some((nat, app.tracker.nodes.number(&registration.node)))
}
