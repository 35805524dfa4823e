//! What all connections of a shard share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ipnet::IpNet;
use shoal_http::date;
use shoal_http::headers::Limits;
use shoal_sys::ring::{Ring, SendMsg};

use super::addresses::AddressCounts;
use super::deadlines::Deadlines;
use super::popular::Popular;
use crate::clock::Clock;
use crate::ledger::Recorder;
use crate::playback;
use crate::routes::{Published, Routes};
use crate::settings::HttpSettings;
use crate::slices::Slices;
use crate::telemetry::access_log::AccessLogSink;
use crate::telemetry::stats::ShardStats;

/// Messages kept for reuse.
const SPARE_MESSAGES: usize = 64;

/// Bytes of head capacity worth keeping in a spare message.
const SPARE_HEAD_BYTES: usize = 8 << 10;

/// A shard's side of HTTP.
pub struct Context {
    /// Index of the shard.
    pub shard: usize,
    /// What this node is called in CDN-Loop and Via.
    pub node: Arc<str>,
    /// The shard's ring.
    pub ring: Ring,
    /// The way to objects.
    pub slices: Slices,
    /// The clock.
    pub clock: Clock,
    /// The shard's figures.
    pub stats: Arc<ShardStats>,
    /// The shard's usage.
    pub ledger: Rc<RefCell<Recorder>>,
    /// What players say of their playback.
    pub playback: RefCell<playback::Table>,
    /// Where requests are logged, if anywhere.
    pub access_log: Option<AccessLogSink>,
    /// Configuration.
    pub settings: HttpSettings,
    /// Limits on request heads.
    pub head_limits: Limits,
    /// Seed of object keys; the same on every shard.
    pub key_seed: u64,
    /// Connections per client.
    pub addresses: Arc<AddressCounts>,
    /// What viewers ask for.
    pub popular: Popular,
    /// Time limits.
    pub deadlines: Deadlines,
    /// The origin of bytes that come from none: empty.
    pub no_origin: Arc<str>,
    /// No new requests.
    pub draining: Cell<bool>,
    /// Open connections.
    pub connections: Cell<usize>,
    /// Open connections of all shards.
    pub all_connections: Arc<AtomicUsize>,
    published: Arc<Published>,
    routes: RefCell<(u64, Arc<Routes>)>,
    #[expect(clippy::vec_box, reason = "the ring owns a message by its box while it is sent")]
    spare: RefCell<Vec<Box<SendMsg>>>,
    date: Cell<(u64, [u8; 29])>,
}

/// The parts a context is made of.
pub struct ContextParts {
    /// See [`Context::shard`].
    pub shard: usize,
    /// See [`Context::node`].
    pub node: Arc<str>,
    /// See [`Context::ring`].
    pub ring: Ring,
    /// See [`Context::slices`].
    pub slices: Slices,
    /// See [`Context::clock`].
    pub clock: Clock,
    /// See [`Context::stats`].
    pub stats: Arc<ShardStats>,
    /// See [`Context::ledger`].
    pub ledger: Rc<RefCell<Recorder>>,
    /// See [`Context::access_log`].
    pub access_log: Option<AccessLogSink>,
    /// See [`Context::settings`].
    pub settings: HttpSettings,
    /// See [`Context::key_seed`].
    pub key_seed: u64,
    /// See [`Context::addresses`].
    pub addresses: Arc<AddressCounts>,
    /// See [`Context::all_connections`].
    pub all_connections: Arc<AtomicUsize>,
    /// Where snapshots appear.
    pub published: Arc<Published>,
}

impl Context {
    /// Puts the parts together.
    pub fn new(parts: ContextParts) -> Context {
        let limits = super::deadlines::TimeLimits {
            head: parts.settings.head_timeout,
            idle: parts.settings.idle_timeout,
            min_send_bytes_per_s: parts.settings.min_send_bytes_per_s,
            slow_bytes_per_s: parts.slices.store().slow_bytes_per_s(),
        };
        let deadlines = Deadlines::new(limits, parts.clock.now_ms());
        let popular = Popular::new(parts.clock.now_ms());
        let head_limits = Limits {
            head_bytes: parts.settings.head_bytes,
            headers: parts.settings.headers,
            request_line_bytes: parts.settings.request_line_bytes,
        };
        let routes = (parts.published.version(), parts.published.current());
        Context {
            shard: parts.shard,
            node: parts.node,
            ring: parts.ring,
            slices: parts.slices,
            clock: parts.clock,
            stats: parts.stats,
            ledger: parts.ledger,
            playback: RefCell::default(),
            access_log: parts.access_log,
            settings: parts.settings,
            head_limits,
            key_seed: parts.key_seed,
            addresses: parts.addresses,
            popular,
            deadlines,
            no_origin: Arc::from(""),
            draining: Cell::new(false),
            connections: Cell::new(0),
            all_connections: parts.all_connections,
            routes: RefCell::new(routes),
            published: parts.published,
            spare: RefCell::default(),
            date: Cell::new((0, date::format(0))),
        }
    }

    /// The snapshot to serve by: one load when it has not changed.
    pub fn routes(&self) -> Arc<Routes> {
        let mut routes = self.routes.borrow_mut();
        let published = self.published.version();
        if routes.0 != published {
            *routes = (published, self.published.current());
        }
        Arc::clone(&routes.1)
    }

    /// Whether X-Forwarded-For from this address is believed.
    pub fn trusts(&self, address: std::net::IpAddr) -> bool {
        let address = address.to_canonical();
        self.settings.trusted_proxies.iter().any(|network: &IpNet| network.contains(&address))
    }

    /// Whether this is the address of a node that has this one as a parent.
    pub fn is_child(&self, address: std::net::IpAddr) -> bool {
        self.settings.children.iter().any(|network: &IpNet| network.contains(&address))
    }

    /// An empty message to send.
    pub fn message(&self) -> Box<SendMsg> {
        self.spare.borrow_mut().pop().unwrap_or_else(SendMsg::new)
    }

    /// Takes a message back.
    pub fn recycle(&self, mut message: Box<SendMsg>) {
        message.clear();
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MESSAGES && message.head.capacity() <= SPARE_HEAD_BYTES {
            spare.push(message);
        }
    }

    /// The value of a Date header.
    pub fn date(&self) -> [u8; 29] {
        let now = self.clock.unix_s();
        let (at, text) = self.date.get();
        if at == now {
            return text;
        }
        let text = date::format(now);
        self.date.set((now, text));
        text
    }
}
