//! What an operator may see.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Count, Key, Place, Supply, Swarms};
use crate::ids::{InfoHash, PeerId};
use crate::nat::Nat;
use crate::transport::{Transport, Transports};

/// Peers at most that are counted by kind, for each swarm: those beyond are like them.
pub(super) const BROKEN_DOWN: usize = 1_000;

/// A swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwarmInfo {
    /// Tenant id.
    pub tenant: Arc<str>,
    /// Channel id.
    pub channel: Arc<str>,
    /// Which of the channel's.
    pub info_hash: InfoHash,
    /// How many are in it.
    pub count: Count,
    /// Of what kinds they are.
    pub breakdown: Breakdown,
}

/// Of what kinds peers are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Breakdown {
    /// How many were looked at.
    pub counted: u32,
    /// By transport, in the order of [`Transport::ALL`]; a peer may have several.
    pub transports: [u32; Transport::ALL.len()],
    /// By [`Nat::kind`].
    pub nats: Vec<(&'static str, u32)>,
    /// By region's number; 0 is unknown.
    pub regions: Vec<(u16, u32)>,
    /// Known from other instances.
    pub remote: u32,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who.
    pub id: PeerId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Over what it can be reached.
    pub transports: Transports,
    /// The NAT in front of it.
    pub nat: Nat,
    /// Where it is.
    pub place: Place,
    /// What it has to give.
    pub supply: Supply,
    /// Whether it has all there is.
    pub complete: bool,
    /// No address of it is told to anybody.
    pub relay_only: bool,
    /// Known from another instance.
    pub remote: bool,
    /// The time of its last announce, in the shard's milliseconds.
    pub seen_ms: u64,
    /// How often others were told of it since.
    pub told: u16,
    /// Peers that it has reported.
    pub reported: usize,
}

impl Swarms {
    /// The next swarm at or behind a number, and the number to go on with; of one tenant and channel where they are named.
    /// At most `most` numbers are looked at: without a swarm but with a number, ask again.
    #[must_use]
    pub fn swarm_from(
        &self,
        mut at: u32,
        tenant: Option<&str>,
        channel: Option<&str>,
        most: u32,
    ) -> (Option<SwarmInfo>, Option<u32>) {
        let used = self.swarms.used();
        for _ in 0..most {
            if at >= used {
                return (None, None);
            }
            let swarm = &self.swarms[at];
            at += 1;
            if !swarm.live {
                continue;
            }
            let named = &self.channels[swarm.channel];
            if tenant.is_none_or(|tenant| *named.tenant == *tenant)
                && channel.is_none_or(|channel| *named.id == *channel)
            {
                let info = SwarmInfo {
                    tenant: Arc::clone(&named.tenant),
                    channel: Arc::clone(&named.id),
                    info_hash: swarm.info_hash,
                    count: self.count(at - 1),
                    breakdown: self.breakdown(at - 1),
                };
                return (Some(info), (at < used).then_some(at));
            }
        }
        (None, Some(at))
    }

    /// One swarm.
    #[must_use]
    pub fn swarm(&self, key: Key<'_>) -> Option<SwarmInfo> {
        let at = self.find_swarm(key)?;
        self.swarm_from(at, Some(key.tenant), Some(key.channel), 1).0
    }

    /// Peers of a swarm from a place on; places change when peers come and go. None: there is no such swarm.
    #[must_use]
    pub fn peers_of(&self, key: Key<'_>, from: usize, most: usize) -> Option<Vec<PeerInfo>> {
        let swarm = &self.swarms[self.find_swarm(key)?];
        let mut skip = from;
        let mut found = Vec::new();
        for list in &swarm.lists {
            let behind = list.members.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(list.members.len());
            found.extend(behind.iter().take(most - found.len()).map(|at| self.info(*at)));
        }
        Some(found)
    }

    /// Info hashes of a channel's swarms, up to `most`.
    #[must_use]
    pub fn hashes_of(&self, tenant: &str, channel: &str, most: usize) -> Vec<InfoHash> {
        let Some(channel) = self.find_channel(tenant, channel) else { return Vec::new() };
        let live = (0..self.swarms.used()).map(|at| &self.swarms[at]);
        live.filter(|swarm| swarm.live && swarm.channel == channel).map(|swarm| swarm.info_hash).take(most).collect()
    }

    /// Bytes that the shard takes, from the sizes of its tables.
    #[must_use]
    pub fn memory(&self) -> usize {
        let lists = |swarm: &super::Swarm| {
            let members = |list: &super::List| list.members.capacity() * size_of::<u32>();
            swarm.lists.capacity() * size_of::<super::List>() + swarm.lists.iter().map(members).sum::<usize>()
        };
        let swarms: usize = (0..self.swarms.used()).map(|at| lists(&self.swarms[at])).sum();
        let named = |at: u32| self.channels[at].tenant.len() + self.channels[at].id.len() + 4 * size_of::<usize>();
        let channels: usize = (0..self.channels.used()).map(named).sum();
        let circle = |at: u32| self.circles[at].members.capacity() * size_of::<u32>();
        let circles: usize = (0..self.circles.used()).map(circle).sum();
        let rings: usize = self.rings.iter().map(|table| table.allocation_size()).sum();
        let tables = [&self.by_channel, &self.by_swarm, &self.by_peer, &self.by_session];
        let tables: usize = tables.map(|table| table.allocation_size()).iter().sum();
        self.peers.memory()
            + self.places.memory()
            + self.circles.memory()
            + circles
            + rings
            + self.swarms.memory()
            + self.channels.memory()
            + swarms
            + channels
            + tables
    }

    fn info(&self, at: u32) -> PeerInfo {
        let peer = &self.peers[at];
        PeerInfo {
            id: peer.id,
            address: peer.socket(),
            transports: peer.mask.transports(),
            nat: peer.nat(),
            place: peer.place(),
            supply: peer.supply(),
            complete: peer.is_complete(),
            relay_only: peer.is_relay_only(),
            remote: peer.is_remote(),
            seen_ms: peer.seen_ms(),
            told: peer.handed,
            reported: peer.reported(),
        }
    }

    fn breakdown(&self, swarm: u32) -> Breakdown {
        let mut found = Breakdown::default();
        for at in self.swarms[swarm].lists.iter().flat_map(|list| &list.members).take(BROKEN_DOWN) {
            let peer = &self.peers[*at];
            found.counted += 1;
            found.remote += u32::from(peer.is_remote());
            let transports = peer.mask.transports();
            for (count, transport) in found.transports.iter_mut().zip(Transport::ALL) {
                *count += u32::from(transports.has(transport));
            }
            add(&mut found.nats, peer.nat().kind());
            add(&mut found.regions, peer.place().region);
        }
        found
    }
}

fn add<T: PartialEq>(counts: &mut Vec<(T, u32)>, kind: T) {
    match counts.iter_mut().find(|(known, _)| *known == kind) {
        Some((_, count)) => *count += 1,
        None => counts.push((kind, 1)),
    }
}
