//! Peers that nodes tell of: which of them are registered for punching, at which node, and behind what kind of NAT.
//!
//! In memory only: nodes tell again what they have after each hello. A peer may be registered at several nodes, for it
//! registers where the peers are that it wants. A registration is gone when its node says so, when the connection that
//! brought it ended [`GRACE`] ago and no later one of its node told of it again, or when [`MAX_REGISTRATIONS`] newer ones
//! are there.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_link::observation::{Behaviour, Observation};

use crate::metrics::Metrics;
use crate::store::now_ms;
use crate::validate::check_id;

/// Most registrations kept; each takes some 400 bytes, so 100 MB in all.
pub const MAX_REGISTRATIONS: usize = 1 << 18;
/// How long registrations outlive their node's connection: a node that reconnects tells of them again.
pub const GRACE: Duration = Duration::from_secs(10);

/// Bytes of a peer id.
const PEER_ID: usize = 20;

/// What a peer is called by itself, by trackers and by nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; PEER_ID]);

/// What was given is no peer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the 40 hexadecimal digits of a peer id")]
pub struct NoPeerId;

impl FromStr for PeerId {
    type Err = NoPeerId;

    fn from_str(text: &str) -> Result<Self, NoPeerId> {
        let mut id = [0; PEER_ID];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != PEER_ID || !rest.is_empty() {
            return Err(NoPeerId);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(NoPeerId);
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
        }
        Ok(Self(id))
    }
}

impl From<[u8; PEER_ID]> for PeerId {
    fn from(id: [u8; PEER_ID]) -> Self {
        Self(id)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A peer that is registered somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: PeerId,
    /// Where; the longest-standing first, never empty.
    pub registrations: Vec<Registration>,
}

/// A peer's registration at one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The node.
    pub node: Arc<str>,
    /// The peer's address, as the node sees it.
    pub address: SocketAddr,
    /// How the NAT between them maps.
    pub mapping: Behaviour,
    /// How it filters.
    pub filtering: Behaviour,
    /// Whether ports of new mappings can be told beforehand.
    pub predictable: bool,
    /// Unix milliseconds at which it was first told of.
    pub since_ms: u64,
    /// Unix milliseconds at which it was last told of.
    pub told_ms: u64,
}

/// What became of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The registration is known as it is now.
    Registered,
    /// The registration ended.
    Ended,
    /// It came over an older connection than what is known.
    Late,
    /// Its names are none.
    Refused,
}

impl Told {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Registered, Self::Ended, Self::Late, Self::Refused];

    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Ended => "ended",
            Self::Late => "late",
            Self::Refused => "refused",
        }
    }
}

/// The table.
pub struct Peers {
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
}

impl Peers {
    /// Nobody is registered.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { table: Mutex::new(Table::new(MAX_REGISTRATIONS)), metrics }
    }

    /// Takes in what `node` tells over a connection; later connections have higher numbers.
    pub fn observe(&self, now: Instant, node: &str, connection: u64, observations: &[Observation]) {
        let node = Arc::from(node);
        let time_ms = now_ms();
        let mut table = self.lock(now);
        for observation in observations {
            self.metrics.peer_told(table.observe(&node, connection, time_ms, observation));
            self.metrics.peers_dropped(table.shrink());
        }
    }

    /// A connection ended.
    pub fn disconnected(&self, now: Instant, connection: u64) {
        self.lock(now).ended.push((connection, now));
    }

    /// One peer of a channel.
    pub fn find(&self, now: Instant, tenant: &str, channel: &str, id: PeerId) -> Option<Peer> {
        self.lock(now).peers(tenant, channel, id).next().filter(|peer| peer.id == id)
    }

    /// Up to `limit` peers of a channel in the order of their ids, from the one behind `after`.
    pub fn list(&self, now: Instant, tenant: &str, channel: &str, after: Option<PeerId>, limit: usize) -> Vec<Peer> {
        let first = after.unwrap_or(PeerId([0; PEER_ID]));
        self.lock(now).peers(tenant, channel, first).filter(|peer| Some(peer.id) != after).take(limit).collect()
    }

    /// Registrations at all nodes.
    pub fn registrations(&self, now: Instant) -> usize {
        self.lock(now).entries.len()
    }

    fn lock(&self, now: Instant) -> MutexGuard<'_, Table> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.sweep(now);
        table
    }
}

/// Tenant, channel, peer, node: what belongs together lies together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    tenant: Arc<str>,
    channel: Arc<str>,
    peer: PeerId,
    node: Arc<str>,
}

#[derive(Debug)]
struct Entry {
    registration: Registration,
    /// That told of it last.
    connection: u64,
    /// Its place in the order of being told of.
    turn: u64,
}

struct Table {
    entries: BTreeMap<Key, Entry>,
    /// The one that was told of the longest time ago comes first.
    turns: BTreeMap<u64, Key>,
    next_turn: u64,
    /// Connections that ended, and when, until what they brought is removed.
    ended: Vec<(u64, Instant)>,
    most: usize,
}

impl Table {
    fn new(most: usize) -> Self {
        Self { entries: BTreeMap::new(), turns: BTreeMap::new(), next_turn: 0, ended: Vec::new(), most }
    }

    fn observe(&mut self, node: &Arc<str>, connection: u64, time_ms: u64, observation: &Observation) -> Told {
        let Observation { tenant, channel, peer, address, mapping, filtering, predictable, registered } = observation;
        let (Ok(()), Ok(()), Ok(peer)) = (check_id(tenant), check_id(channel), peer.parse()) else {
            return Told::Refused;
        };
        let key = self.key(tenant, channel, peer, node);
        let old = self.entries.get(&key);
        if old.is_some_and(|old| old.connection > connection) {
            return Told::Late;
        }
        let since_ms = old.map_or(time_ms, |old| old.registration.since_ms);
        if let Some(old) = self.entries.remove(&key) {
            self.turns.remove(&old.turn);
        }
        if !registered {
            return Told::Ended;
        }
        let registration = Registration {
            node: Arc::clone(node),
            address: *address,
            mapping: *mapping,
            filtering: *filtering,
            predictable: *predictable,
            since_ms,
            told_ms: time_ms,
        };
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(turn, key.clone());
        self.entries.insert(key, Entry { registration, connection, turn });
        Told::Registered
    }

    /// A key that shares its names with its neighbour, if that is of the same channel.
    fn key(&self, tenant: &str, channel: &str, peer: PeerId, node: &Arc<str>) -> Key {
        let key = Key { tenant: tenant.into(), channel: channel.into(), peer, node: Arc::clone(node) };
        match self.entries.range(&key..).next() {
            Some((next, _)) if next.tenant == key.tenant && next.channel == key.channel => {
                Key { tenant: Arc::clone(&next.tenant), channel: Arc::clone(&next.channel), ..key }
            }
            _ => key,
        }
    }

    /// Drops the oldest beyond the limit; how many those were.
    fn shrink(&mut self) -> u64 {
        let mut dropped = 0;
        while self.entries.len() > self.most
            && let Some((_, key)) = self.turns.pop_first()
        {
            self.entries.remove(&key);
            dropped += 1;
        }
        dropped
    }

    /// Removes what connections brought that ended long enough ago.
    fn sweep(&mut self, now: Instant) {
        let over: Vec<u64> =
            self.ended.extract_if(.., |(_, end)| now >= *end + GRACE).map(|(connection, _)| connection).collect();
        if over.is_empty() {
            return;
        }
        let turns = &mut self.turns;
        self.entries.retain(|_, entry| {
            let stays = !over.contains(&entry.connection);
            if !stays {
                turns.remove(&entry.turn);
            }
            stays
        });
    }

    /// The peers of a channel, from this id on.
    fn peers(&self, tenant: &str, channel: &str, first: PeerId) -> impl Iterator<Item = Peer> {
        let start = Key { tenant: tenant.into(), channel: channel.into(), peer: first, node: "".into() };
        let mut entries = self
            .entries
            .range(&start..)
            .take_while(move |(key, _)| key.tenant == start.tenant && key.channel == start.channel)
            .peekable();
        std::iter::from_fn(move || {
            let (key, entry) = entries.next()?;
            let mut registrations = vec![entry.registration.clone()];
            while let Some((_, entry)) = entries.next_if(|(next, _)| next.peer == key.peer) {
                registrations.push(entry.registration.clone());
            }
            registrations.sort_by_key(|registration| registration.since_ms);
            Some(Peer { id: key.peer, registrations })
        })
    }
}
