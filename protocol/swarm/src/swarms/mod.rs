//! Who is in which swarm, and whom a peer is told of.
//!
//! [`Swarms`] is one shard: it owns its swarms alone, and time is an argument, in milliseconds from any start. What it keeps
//! of a peer is some 150 bytes and its places in tables ([`peer`]); what an announce costs does not depend on how many peers
//! or swarms there are ([`choose`]): no swarm is ever walked through, but for small ones.
//!
//! A swarm is named by tenant, channel and info hash, and nobody learns of peers of another one. A peer is gone when it
//! says so, when its connection ends, or [`Config::life_ms`] after its last announce.

mod announce;
mod choose;
mod inspect;
mod peer;
pub(crate) mod random;
mod replica;
mod rings;
mod slab;
#[cfg(test)]
mod tests;

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::HashTable;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use inspect::{Breakdown, PeerInfo, SwarmInfo};
pub use peer::MAX_REPORTED;
pub use replica::Record;

use crate::ids::{InfoHash, PeerId};
use crate::nat::Nat;
use crate::query::Event;
use crate::transport::{Mask, Transports};
use peer::{Peer, Places, RINGS};
use random::Random;
use rings::{Circle, Entry};
use slab::{NONE, Slab};

/// A swarm with at most so many peers is looked through as a whole; above, there are rings of near peers.
pub const SMALL: usize = 32;
/// Most peers that one viewer may have in a channel: one for each of its swarms, and some that are about to expire.
pub const MAX_PER_SESSION: usize = 64;
/// Expired peers that an announce clears away on its way.
const EXPIRE_ON_THE_WAY: usize = 4;

/// How a shard behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Time from announce to announce.
    pub interval_ms: u32,
    /// A peer that was silent for so long is gone: two intervals and some grace.
    pub life_ms: u64,
    /// Peers at most in an answer.
    pub told: usize,
    /// Peers at most in the shard: then nobody may join.
    pub peers: usize,
    /// Peers at most in a swarm: then nobody may join that.
    pub peers_per_swarm: usize,
    /// Swarms at most in the shard: then no other swarm may begin.
    pub swarms: usize,
    /// Swarms at most in a channel: then no other swarm may begin there.
    pub swarms_per_channel: usize,
    /// So many that join in one second are a herd, and are told different intervals, from a half one on.
    pub herd: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval_ms: 16_000,
            life_ms: 40_000,
            told: 50,
            peers: 4_000_000,
            peers_per_swarm: 2_000_000,
            swarms: 1_000_000,
            swarms_per_channel: 200_000,
            herd: 256,
        }
    }
}

/// Where a peer is; 0 is unknown. Numbers stand for names that the caller keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Autonomous system.
    pub asn: u32,
    /// Provider.
    pub isp: u16,
    /// Region.
    pub region: u16,
}

/// What a peer has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Supply {
    /// Upload capacity in kbit/s; 0: not known.
    pub upload_kbps: u32,
    /// Media sequence number of the newest segment that it has.
    pub newest: u64,
    /// Segments in a row up to that one; 0: it does not say.
    pub count: u16,
}

/// Names a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// Tenant id.
    pub tenant: &'a str,
    /// Channel id.
    pub channel: &'a str,
    /// Which of the channel's swarms.
    pub info_hash: InfoHash,
}

/// What a peer says of itself.
#[derive(Clone)]
pub struct Announce<'a> {
    /// Which swarm.
    pub key: Key<'a>,
    /// Who.
    pub peer_id: PeerId,
    /// Whose: only the same viewer may change what is known of a peer id.
    pub session: u64,
    /// Where it is, from its connection.
    pub address: IpAddr,
    /// Where it listens; 0: nowhere.
    pub port: u16,
    /// Over what it can be reached. [`Transport::Webrtc`](crate::Transport::Webrtc) only over a connection.
    pub transports: Transports,
    /// Over which offers reach it; 0: none, and what is known of another door stays.
    pub connection: u64,
    /// The NAT in front of it; none: what is known stays.
    pub nat: Option<Nat>,
    /// The node that introduces it, as a number; 0: none.
    pub node: u16,
    /// What it has to give; none: what is known stays.
    pub supply: Option<Supply>,
    /// Whether it has all there is; none: what is known stays. Who had it all has it until it goes.
    pub complete: Option<bool>,
    /// What happens.
    pub event: Event,
    /// Peers that it could not reach.
    pub failed: &'a [PeerId],
    /// How many peers it wants to be told of.
    pub want: usize,
    /// No address of it is told to anybody.
    pub relay_only: bool,
    /// It is known from another instance.
    pub remote: bool,
    /// Tells where an address is; asked when a peer joins or its address changes.
    pub place: &'a dyn Fn(IpAddr) -> Place,
}

/// What became of an announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It is new.
    Joined,
    /// It was there.
    Updated,
    /// It is gone.
    Left,
    /// It was not there, and left.
    Absent,
}

/// Why an announce is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another viewer has the id.
    #[error("another viewer has this peer id in this swarm; choose another")]
    Taken,
    /// No room for peers.
    #[error("the tracker has no room for more peers; announce again in a minute")]
    Peers,
    /// No room in the swarm.
    #[error("this swarm has no room for more peers; play without peers, and announce again in a minute")]
    SwarmPeers,
    /// No room for swarms.
    #[error("the tracker has no room for more swarms; announce again in a minute")]
    Swarms,
    /// No room for swarms of the channel.
    #[error("this channel has no room for more swarms; announce again in a minute")]
    ChannelSwarms,
    /// Too many peers of one viewer.
    #[error("one viewer may have {MAX_PER_SESSION} peers in a channel; leave with those that are no longer used")]
    Session,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Taken, Self::Peers, Self::SwarmPeers, Self::Swarms, Self::ChannelSwarms, Self::Session];

    /// The reason label of counters.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Peers => "peers",
            Self::SwarmPeers => "swarm_peers",
            Self::Swarms => "swarms",
            Self::ChannelSwarms => "channel_swarms",
            Self::Session => "session",
        }
    }

    /// Whether the same announce may be accepted later.
    #[must_use]
    pub fn passes(self) -> bool {
        !matches!(self, Self::Taken | Self::Session)
    }
}

/// How many are in a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Peers that have all there is.
    pub complete: u32,
    /// The others.
    pub incomplete: u32,
    /// How often a peer said that it had completed.
    pub downloaded: u32,
}

/// What a peer is told; may be used again for the next one.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Announce again after so many milliseconds.
    pub interval_ms: u32,
    /// The same in whole seconds, for protocols that know no others.
    pub interval_s: u32,
    /// Peers that have all there is.
    pub complete: u32,
    /// The others.
    pub incomplete: u32,
    /// How often a peer said that it had completed.
    pub downloaded: u32,
    /// Over what this peer is known to be reached now.
    pub registered: Transports,
    /// Peers to connect to, or to give offers to; the best first.
    pub peers: Vec<Chosen>,
}

/// A peer that another one is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Who.
    pub id: PeerId,
    /// Where it listens; none if it listens nowhere or wants no address told.
    pub address: Option<SocketAddr>,
    /// What both have.
    pub transports: Transports,
    /// The NAT in front of it.
    pub nat: Nat,
    /// The node that introduces it.
    pub node: u16,
    /// What it has to give.
    pub supply: Supply,
    /// Over which offers reach it; 0: none.
    pub connection: u64,
    /// How near it is: 4 same prefix, 3 same system, 2 same provider, 1 same region, 0 anywhere.
    pub nearness: u8,
}

impl Chosen {
    /// One of whom nothing is known.
    #[must_use]
    pub fn of(id: PeerId) -> Self {
        Self {
            id,
            address: None,
            transports: Transports::NONE,
            nat: Nat::default(),
            node: 0,
            supply: Supply::default(),
            connection: 0,
            nearness: 0,
        }
    }
}

#[derive(Debug)]
struct Channel {
    tenant: Arc<str>,
    id: Arc<str>,
    swarms: u32,
    viewers: u32,
}

/// Peers of a swarm with the same transports.
#[derive(Debug)]
struct List {
    mask: Mask,
    members: Vec<u32>,
}

#[derive(Debug)]
struct Swarm {
    channel: u32,
    info_hash: InfoHash,
    lists: Vec<List>,
    peers: u32,
    complete: u32,
    downloaded: u32,
    /// Whether its peers are in rings.
    ringed: bool,
    /// Whether it is there at all.
    live: bool,
}

/// The swarms of a shard.
pub struct Swarms {
    config: Config,
    seed: u64,
    random: Random,
    channels: Slab<Channel>,
    swarms: Slab<Swarm>,
    peers: Slab<Peer>,
    /// Under the same numbers.
    places: Slab<Places>,
    by_channel: HashTable<u32>,
    by_swarm: HashTable<u32>,
    by_peer: HashTable<u32>,
    /// The first peer of each session of a channel.
    by_session: HashTable<u32>,
    rings: [HashTable<Entry>; RINGS],
    circles: Slab<Circle>,
    /// The ends of the order of announces.
    oldest: u32,
    newest: u32,
    expired: u64,
    /// The second of the last joins, and how many those were.
    joins: (u64, u32),
    candidates: Vec<choose::Candidate>,
    picked: Vec<u32>,
    walked: Vec<u32>,
}

impl Swarms {
    /// No swarm. `seed` decides who is told of whom, and keeps strangers from choosing names that collide.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            config,
            seed: random.bits(),
            random,
            channels: Slab::new(),
            swarms: Slab::new(),
            peers: Slab::new(),
            places: Slab::new(),
            circles: Slab::new(),
            by_channel: HashTable::new(),
            by_swarm: HashTable::new(),
            by_peer: HashTable::new(),
            by_session: HashTable::new(),
            rings: std::array::from_fn(|_| HashTable::new()),
            oldest: NONE,
            newest: NONE,
            expired: 0,
            joins: (0, 0),
            candidates: Vec::new(),
            picked: Vec::new(),
            walked: Vec::new(),
        }
    }

    /// Sets how many peers and swarms there may be from now on; those that are there stay.
    pub fn set_limits(&mut self, peers: usize, swarms: usize) {
        (self.config.peers, self.config.swarms) = (peers, swarms);
    }

    /// Peers in all swarms.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Swarms with a peer.
    #[must_use]
    pub fn swarms(&self) -> usize {
        self.swarms.len()
    }

    /// Peers that were silent for too long, so far.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Viewers of a channel: those of several swarms count once.
    #[must_use]
    pub fn viewers(&self, tenant: &str, channel: &str) -> u64 {
        self.find_channel(tenant, channel).map_or(0, |at| u64::from(self.channels[at].viewers))
    }

    /// How many are in a swarm.
    #[must_use]
    pub fn scrape(&self, key: Key<'_>) -> Count {
        self.find_swarm(key).map_or(Count::default(), |at| self.count(at))
    }

    /// The connection of a peer, for an answer that is for it; none if it has none, or is not there.
    #[must_use]
    pub fn connection(&self, now_ms: u64, key: Key<'_>, peer_id: PeerId) -> Option<u64> {
        let peer = &self.peers[self.find_peer(self.find_swarm(key)?, peer_id)?];
        (peer.connection != 0 && !peer.is_over(now_ms, self.config.life_ms)).then_some(peer.connection)
    }

    /// A connection has ended: its peer leaves, or stays with the transports that it has by other doors.
    pub fn disconnect(&mut self, key: Key<'_>, peer_id: PeerId, connection: u64) -> bool {
        let found = self.find_swarm(key).and_then(|swarm| self.find_peer(swarm, peer_id));
        let Some(at) = found.filter(|at| self.peers[*at].connection == connection) else { return false };
        let peer = &self.peers[at];
        let rest = peer.mask.transports().without(crate::Transport::Webrtc);
        if rest.is_empty() {
            self.remove(at);
        } else {
            let mask = Mask::new(rest, peer.address());
            self.unlink(at);
            let peer = &mut self.peers[at];
            (peer.mask, peer.connection) = (mask, 0);
            self.link(at);
        }
        true
    }

    /// Removes up to `most` peers that were silent for too long; whether there may be more.
    pub fn expire(&mut self, now_ms: u64, most: usize) -> bool {
        for _ in 0..most {
            let at = self.oldest;
            if at == NONE || !self.peers[at].is_over(now_ms, self.config.life_ms) {
                return false;
            }
            self.remove(at);
            self.expired += 1;
        }
        true
    }

    fn count(&self, at: u32) -> Count {
        let swarm = &self.swarms[at];
        let incomplete = swarm.peers - swarm.complete;
        Count { complete: swarm.complete, incomplete, downloaded: swarm.downloaded }
    }

    fn hasher(&self) -> std::hash::DefaultHasher {
        // Keyed by what is hashed first: SipHash with a secret prefix.
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher
    }

    fn channel_hash(&self, tenant: &str, channel: &str) -> u64 {
        let mut hasher = self.hasher();
        hasher.write(tenant.as_bytes());
        hasher.write_u8(0xff);
        hasher.write(channel.as_bytes());
        hasher.finish()
    }

    fn swarm_hash(&self, channel: u32, info_hash: &InfoHash) -> u64 {
        let mut hasher = self.hasher();
        hasher.write_u32(channel);
        hasher.write(&info_hash.0);
        hasher.finish()
    }

    fn peer_hash(&self, swarm: u32, id: &PeerId) -> u64 {
        let mut hasher = self.hasher();
        hasher.write_u32(swarm);
        hasher.write(&id.0);
        hasher.finish()
    }

    fn session_hash(&self, channel: u32, session: u64) -> u64 {
        let mut hasher = self.hasher();
        hasher.write_u32(channel);
        hasher.write_u64(session);
        hasher.finish()
    }

    /// What stands for a peer in the lists of those that could not reach it; never 0.
    fn failed_hash(&self, id: &PeerId) -> u32 {
        ((self.peer_hash(NONE, id) >> 32) as u32).max(1)
    }

    fn find_channel(&self, tenant: &str, id: &str) -> Option<u32> {
        let hash = self.channel_hash(tenant, id);
        let is = |at: &u32| {
            let channel = &self.channels[*at];
            *channel.tenant == *tenant && *channel.id == *id
        };
        self.by_channel.find(hash, is).copied()
    }

    fn find_swarm(&self, key: Key<'_>) -> Option<u32> {
        let channel = self.find_channel(key.tenant, key.channel)?;
        self.find_swarm_of(channel, &key.info_hash)
    }

    fn find_swarm_of(&self, channel: u32, info_hash: &InfoHash) -> Option<u32> {
        let hash = self.swarm_hash(channel, info_hash);
        let is = |at: &u32| self.swarms[*at].channel == channel && self.swarms[*at].info_hash == *info_hash;
        self.by_swarm.find(hash, is).copied()
    }

    fn find_peer(&self, swarm: u32, id: PeerId) -> Option<u32> {
        let is = |at: &u32| self.peers[*at].swarm == swarm && self.peers[*at].id == id;
        self.by_peer.find(self.peer_hash(swarm, &id), is).copied()
    }
}
