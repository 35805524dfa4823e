//! The connections of a shard: who is there, how many may be, and for how long without being of use.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;
use shoal_stun::turn::{FiveTuple, RelayId, Server, ToClient, Way};
use shoal_sys::udp::Train;

use super::super::quota::NodeQuota;
use super::{Connection, End};
use crate::http::addresses::AddressCounts;
use crate::settings::TurnSettings;
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::ShardStats;

/// From accept to the first whole message, TLS handshake and all.
pub(super) const GREETING_MS: u64 = 10_000;
/// Without an allocation, and without a message.
pub(super) const IDLE_MS: u64 = 30_000;
/// Without an allocation, whatever comes.
pub(super) const NO_ALLOCATION_MS: u64 = 120_000;
const _: () = assert!(GREETING_MS < IDLE_MS && IDLE_MS < NO_ALLOCATION_MS);

/// Between two looks at all of them.
const SWEEP_MS: u64 = 1_000;

/// What all shards share.
pub(crate) struct StreamNode {
    /// With the node's certificates, if there are some.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Connections per client.
    pub(crate) addresses: AddressCounts,
}

/// Those of one shard.
pub(in super::super) struct Streams {
    node: Arc<StreamNode>,
    most: usize,
    per_address: u32,
    /// By client and server.
    open: RefCell<HashMap<(SocketAddr, SocketAddr), Rc<Connection>>>,
    swept_ms: Cell<u64>,
    stats: Arc<ShardStats>,
}

impl Streams {
    pub(in super::super) fn new(
        settings: Option<&TurnSettings>,
        node: &Arc<StreamNode>,
        stats: &Arc<ShardStats>,
    ) -> Self {
        Self {
            node: Arc::clone(node),
            most: settings.map_or(0, |turn| turn.connections),
            per_address: settings.map_or(0, |turn| turn.connections_per_address),
            open: RefCell::default(),
            swept_ms: Cell::new(0),
            stats: Arc::clone(stats),
        }
    }

    pub(super) fn tls(&self) -> Option<&Arc<ServerConfig>> {
        self.node.tls.as_ref()
    }

    /// Takes one in, unless there are too many. One that the same client had from the same port is told to end, and its flow is
    /// given.
    pub(super) fn open(&self, connection: &Rc<Connection>) -> Option<Option<FiveTuple>> {
        let FiveTuple { client, server, .. } = connection.flow;
        let mut open = self.open.borrow_mut();
        if open.len() >= self.most {
            self.stats.add(Counter::TurnClosedPerShard, 1);
            return None;
        }
        if !self.node.addresses.enter(client.ip(), self.per_address) {
            self.stats.add(Counter::TurnClosedPerAddress, 1);
            return None;
        }
        let before = open.insert((client, server), Rc::clone(connection));
        Some(before.map(|before| {
            before.tell(End::Replaced);
            before.flow
        }))
    }

    /// Forgets one. Whether what is known of its flow is its own, and not a newer one's.
    pub(super) fn close(&self, connection: &Rc<Connection>) -> bool {
        let FiveTuple { client, server, .. } = connection.flow;
        self.node.addresses.leave(client.ip());
        let mut open = self.open.borrow_mut();
        let own = open.get(&(client, server)).is_some_and(|known| Rc::ptr_eq(known, connection));
        if own {
            open.remove(&(client, server));
        }
        own
    }

    /// Queues the payloads of a train for the client of the relay that they came to.
    pub(in super::super) fn to_client(
        &self,
        server: &mut Server<NodeQuota>,
        relay: RelayId,
        mut to: ToClient,
        train: &Train<'_>,
    ) -> Result<(), &'static str> {
        let open = self.open.borrow();
        let connection = open.get(&(to.flow.client, to.flow.server));
        let (mut dropped, mut bytes, mut heads) = (0, 0, 0);
        for payload in train.datagrams() {
            let head = to.head(payload.len() as u16);
            if !connection.is_some_and(|connection| connection.output.relay([head.as_bytes(), payload, head.padding()]))
            {
                dropped += 1;
                bytes += payload.len() as u64;
                heads += head.as_bytes().len() as u64;
            }
        }
        if dropped > 0 {
            server.take_back(relay, Way::ToClient, dropped, bytes, heads);
            self.stats.udp_drop(if connection.is_some() { "stream_full" } else { "no_stream" }, dropped);
        }
        Ok(())
    }

    /// Ends those that have been of no use for too long, and notes how many there are.
    pub(in super::super) fn sweep(&self, now_ms: u64, server: &Server<NodeQuota>) {
        if now_ms < self.swept_ms.get() + SWEEP_MS {
            return;
        }
        self.swept_ms.set(now_ms);
        let mut tls = 0;
        let open = self.open.borrow();
        for connection in open.values() {
            tls += u64::from(connection.tls.get().is_some());
            if let Some(end) = connection.expired(now_ms, server) {
                connection.tell(end);
            }
        }
        self.stats.set(Gauge::TurnTcp, open.len() as u64 - tls);
        self.stats.set(Gauge::TurnTls, tls);
    }

    /// All there are.
    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<Rc<Connection>> {
        self.open.borrow().values().cloned().collect()
    }
}

impl Connection {
    /// The limit that it has run into.
    fn expired(&self, now_ms: u64, server: &Server<NodeQuota>) -> Option<End> {
        let since_ms = self.since_ms.get();
        let lasts_ms = |since_ms: u64| now_ms.saturating_sub(since_ms);
        let end = match self.heard_ms.get() {
            None if lasts_ms(since_ms) > GREETING_MS => return Some(End::Greeting),
            Some(_) if lasts_ms(since_ms) > NO_ALLOCATION_MS => End::NoAllocation,
            Some(heard_ms) if lasts_ms(heard_ms) > IDLE_MS => End::Idle,
            _ => return None,
        };
        if server.has_allocation(now_ms, &self.flow) {
            self.since_ms.set(now_ms);
            return None;
        }
        Some(end)
    }
}
