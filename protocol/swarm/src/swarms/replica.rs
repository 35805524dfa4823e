//! Peers of other instances: they are told of like others, and are gone when their instance says so or no longer speaks of them.

use std::net::IpAddr;

use super::peer::Peer;
use super::slab::NONE;
use super::{Announce, Answer, Done, Key, Place, Refusal, Supply, Swarms};
use crate::ids::PeerId;
use crate::nat::Nat;
use crate::query::Event;
use crate::transport::Transports;

/// All that instances tell each other of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Which swarm.
    pub key: Key<'a>,
    /// Who.
    pub peer_id: PeerId,
    /// Whose.
    pub session: u64,
    /// Where it is.
    pub address: IpAddr,
    /// Where it listens; 0: nowhere.
    pub port: u16,
    /// Over what it can be reached.
    pub transports: Transports,
    /// Over which offers reach it; 0: none.
    pub connection: u64,
    /// The NAT in front of it.
    pub nat: Nat,
    /// The node that introduces it, as this instance's number; 0: none.
    pub node: u16,
    /// What it has to give.
    pub supply: Supply,
    /// Whether it has all there is.
    pub complete: bool,
    /// No address of it is told to anybody.
    pub relay_only: bool,
}

impl Swarms {
    /// What is known of a peer that announces here; none if it does not, or announces elsewhere.
    #[must_use]
    pub fn record<'a>(&'a self, key: Key<'_>, peer_id: PeerId) -> Option<Record<'a>> {
        let at = self.find_peer(self.find_swarm(key)?, peer_id)?;
        self.own(at)
    }

    /// Peers that announce here, from a number on: up to `most` numbers are looked at. The number to go on with.
    pub fn each_record(&self, from: u32, most: u32, mut tell: impl FnMut(Record<'_>)) -> Option<u32> {
        let end = from.saturating_add(most).min(self.peers.used());
        for record in (from..end).filter_map(|at| self.own(at)) {
            tell(record);
        }
        (end < self.peers.used()).then_some(end)
    }

    /// Takes in what another instance tells of a peer. One that has just announced here is what it is here.
    ///
    /// # Errors
    /// As for announces; nothing has changed then.
    pub fn handle_remote(
        &mut self,
        now_ms: u64,
        record: &Record<'_>,
        failed: &[PeerId],
        place: &dyn Fn(IpAddr) -> Place,
        answer: &mut Answer,
    ) -> Result<Done, Refusal> {
        let announce = Announce {
            key: record.key,
            peer_id: record.peer_id,
            session: record.session,
            address: record.address,
            port: record.port,
            transports: record.transports,
            connection: record.connection,
            nat: Some(record.nat),
            node: record.node,
            supply: Some(record.supply),
            complete: Some(record.complete),
            event: Event::Update,
            failed,
            want: 0,
            relay_only: record.relay_only,
            remote: true,
            place,
        };
        self.handle_announce(now_ms, &announce, answer)
    }

    /// Another instance tells that a peer is gone, by its own word or because `connection` ended. What has announced here
    /// since stays.
    pub fn remote_left(&mut self, key: Key<'_>, peer_id: PeerId, connection: u64) -> bool {
        let found = self.find_swarm(key).and_then(|swarm| self.find_peer(swarm, peer_id));
        let Some(at) = found else { return false };
        if connection != 0 {
            return self.disconnect(key, peer_id, connection);
        }
        if self.peers[at].is_remote() {
            self.remove(at);
            return true;
        }
        false
    }

    fn own(&self, at: u32) -> Option<Record<'_>> {
        let peer: &Peer = &self.peers[at];
        if peer.swarm == NONE || peer.is_remote() {
            return None;
        }
        let swarm = &self.swarms[peer.swarm];
        let channel = &self.channels[swarm.channel];
        Some(Record {
            key: Key { tenant: &channel.tenant, channel: &channel.id, info_hash: swarm.info_hash },
            peer_id: peer.id,
            session: peer.session,
            address: peer.address(),
            port: peer.port(),
            transports: peer.mask.transports(),
            connection: peer.connection,
            nat: peer.nat(),
            node: peer.node,
            supply: peer.supply(),
            complete: peer.is_complete(),
            relay_only: peer.is_relay_only(),
        })
    }
}
