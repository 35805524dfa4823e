//! An announce comes in.

use super::peer::{Peer, RINGS};
use super::slab::NONE;
use super::{Announce, Answer, Channel, Done, EXPIRE_ON_THE_WAY, Key, Refusal, Swarm, Swarms};
use crate::ids::PeerId;
use crate::query::Event;
use crate::transport::{Mask, Transport};

impl Swarms {
    /// Takes in an announce and says in `answer` what the peer is told. A peer that leaves is told of nobody.
    ///
    /// # Errors
    /// The refusal; nothing has changed then, and `answer` holds nothing of use.
    pub fn handle_announce(
        &mut self,
        now_ms: u64,
        announce: &Announce<'_>,
        answer: &mut Answer,
    ) -> Result<Done, Refusal> {
        answer.peers.clear();
        self.expire(now_ms, EXPIRE_ON_THE_WAY);
        if announce.event == Event::Stopped {
            let left = self.leave(announce.key, announce.peer_id, announce.session)?;
            self.tell(now_ms, announce.key, answer);
            return Ok(left);
        }
        let found = self.find_swarm(announce.key).and_then(|swarm| self.find_peer(swarm, announce.peer_id));
        let (at, done) = match found {
            Some(at) if self.peers[at].session != announce.session => return Err(Refusal::Taken),
            Some(at) => {
                self.update(at, announce);
                (at, Done::Updated)
            }
            None => {
                self.count_join(now_ms);
                (self.join(announce)?, Done::Joined)
            }
        };
        self.touch(at, now_ms);
        self.peers[at].handed = 0;
        for id in announce.failed {
            let hash = self.failed_hash(id);
            self.peers[at].report(hash);
        }
        let swarm_at = self.peers[at].swarm;
        if announce.event == Event::Completed {
            let swarm = &mut self.swarms[swarm_at];
            swarm.downloaded = swarm.downloaded.saturating_add(1);
        }
        self.tell(now_ms, announce.key, answer);
        answer.registered = self.peers[at].mask.transports();
        let want = announce.want.min(self.config.told);
        if want > 0 {
            self.choose(now_ms, at, want, false, answer);
        }
        Ok(done)
    }

    /// Whom of a swarm a peer of it can give offers to, up to `want`, best first, into `answer.peers`.
    pub fn choose_for_offers(&mut self, now_ms: u64, key: Key<'_>, peer_id: PeerId, want: usize, answer: &mut Answer) {
        answer.peers.clear();
        let found = self.find_swarm(key).and_then(|swarm| self.find_peer(swarm, peer_id));
        if let Some(at) = found {
            let want = want.min(self.config.told);
            self.choose(now_ms, at, want, true, answer);
        }
    }

    /// A peer leaves by its own word.
    ///
    /// # Errors
    /// [`Refusal::Taken`]: the peer id is another viewer's.
    pub fn leave(&mut self, key: Key<'_>, peer_id: PeerId, session: u64) -> Result<Done, Refusal> {
        match self.find_swarm(key).and_then(|swarm| self.find_peer(swarm, peer_id)) {
            None => Ok(Done::Absent),
            Some(at) if self.peers[at].session != session => Err(Refusal::Taken),
            Some(at) => {
                self.remove(at);
                Ok(Done::Left)
            }
        }
    }

    fn join(&mut self, announce: &Announce<'_>) -> Result<u32, Refusal> {
        if self.peers.len() >= self.config.peers {
            return Err(Refusal::Peers);
        }
        let Key { tenant, channel, info_hash } = announce.key;
        let found = self.find_channel(tenant, channel);
        let swarm = match found.and_then(|channel| self.find_swarm_of(channel, &info_hash)) {
            Some(swarm) if self.swarms[swarm].peers as usize >= self.config.peers_per_swarm => {
                return Err(Refusal::SwarmPeers);
            }
            Some(swarm) => swarm,
            None if self.swarms.len() >= self.config.swarms => return Err(Refusal::Swarms),
            None if found.is_some_and(|at| self.channels[at].swarms as usize >= self.config.swarms_per_channel) => {
                return Err(Refusal::ChannelSwarms);
            }
            None => {
                let channel = found.unwrap_or_else(|| self.open_channel(tenant, channel));
                self.open_swarm(channel, announce)
            }
        };
        let at = self.peers.insert(Peer::new(announce.peer_id, announce.session, swarm));
        if at == self.places.used() {
            self.places.insert([NONE; RINGS]);
        }
        if !self.join_session(at) {
            // The viewer has peers, and so has the channel, but perhaps not this swarm.
            self.peers[at].swarm = NONE;
            self.peers.remove(at);
            self.close_if_empty(swarm);
            return Err(Refusal::Session);
        }
        let peer = &mut self.peers[at];
        peer.set_address(announce.address, announce.port);
        peer.set_place((announce.place)(announce.address));
        peer.set_complete(complete(announce, false));
        describe(peer, announce);
        let hash = self.peer_hash(swarm, &announce.peer_id);
        let hasher = self.hasher();
        let peers = &self.peers;
        self.by_peer.insert_unique(hash, at, |at| {
            use std::hash::Hasher;
            let mut hasher = hasher.clone();
            hasher.write_u32(peers[*at].swarm);
            hasher.write(&peers[*at].id.0);
            hasher.finish()
        });
        self.link(at);
        Ok(at)
    }

    fn update(&mut self, at: u32, announce: &Announce<'_>) {
        let peer = &self.peers[at];
        let moved = peer.address() != announce.address;
        let complete = complete(announce, peer.is_complete());
        let mask = mask(peer, announce);
        if moved || mask != peer.mask || complete != peer.is_complete() {
            self.unlink(at);
            let peer = &mut self.peers[at];
            if moved {
                peer.set_address(announce.address, announce.port);
                peer.set_place((announce.place)(announce.address));
            }
            peer.set_complete(complete);
            describe(peer, announce);
            self.link(at);
        } else {
            describe(&mut self.peers[at], announce);
        }
    }

    fn open_channel(&mut self, tenant: &str, id: &str) -> u32 {
        let at = self.channels.insert(Channel { tenant: tenant.into(), id: id.into(), swarms: 0, viewers: 0 });
        let hash = self.channel_hash(tenant, id);
        let (hasher, channels) = (self.hasher(), &self.channels);
        self.by_channel.insert_unique(hash, at, |at| {
            use std::hash::Hasher;
            let mut hasher = hasher.clone();
            hasher.write(channels[*at].tenant.as_bytes());
            hasher.write_u8(0xff);
            hasher.write(channels[*at].id.as_bytes());
            hasher.finish()
        });
        at
    }

    fn open_swarm(&mut self, channel: u32, announce: &Announce<'_>) -> u32 {
        let info_hash = announce.key.info_hash;
        let swarm = Swarm {
            channel,
            info_hash,
            lists: Vec::new(),
            peers: 0,
            complete: 0,
            downloaded: 0,
            ringed: false,
            live: true,
        };
        let at = self.swarms.insert(swarm);
        self.channels[channel].swarms += 1;
        let hash = self.swarm_hash(channel, &info_hash);
        let (hasher, swarms) = (self.hasher(), &self.swarms);
        self.by_swarm.insert_unique(hash, at, |at| {
            use std::hash::Hasher;
            let mut hasher = hasher.clone();
            hasher.write_u32(swarms[*at].channel);
            hasher.write(&swarms[*at].info_hash.0);
            hasher.finish()
        });
        at
    }

    fn tell(&mut self, now_ms: u64, key: Key<'_>, answer: &mut Answer) {
        let count = self.scrape(key);
        (answer.complete, answer.incomplete, answer.downloaded) = (count.complete, count.incomplete, count.downloaded);
        let interval = self.config.interval_ms;
        let herd = self.joins.0 == now_ms / 1000 && self.joins.1 > self.config.herd;
        answer.interval_ms = if herd {
            interval / 2 + self.random.below(u64::from(interval / 2) + 1) as u32
        } else {
            interval - self.random.below(u64::from(interval / 16) + 1) as u32
        };
        answer.interval_s = if herd { answer.interval_ms.div_ceil(1000) } else { interval.div_ceil(1000) };
    }

    fn count_join(&mut self, now_ms: u64) {
        let second = now_ms / 1000;
        self.joins = if self.joins.0 == second { (second, self.joins.1.saturating_add(1)) } else { (second, 1) };
    }
}

/// Whether a peer has all there is. Who had it all has it until it goes: clients that say once that they have completed go on
/// with a number of bytes left that they made up (bittorrent-tracker's does).
fn complete(announce: &Announce<'_>, before: bool) -> bool {
    before || announce.event == Event::Completed || announce.complete == Some(true)
}

/// What does not decide where a peer stands, or is known to be as it was.
fn describe(peer: &mut Peer, announce: &Announce<'_>) {
    let mask = mask(peer, announce);
    peer.mask = mask;
    // WebRTC alone says nothing of a port: what another door said of it stays. Another instance says all.
    if announce.connection == 0 || announce.remote {
        peer.set_address(announce.address, announce.port);
        peer.node = announce.node;
    }
    if announce.connection != 0 || announce.remote {
        peer.connection = announce.connection;
    }
    if let Some(nat) = announce.nat {
        peer.set_nat(nat);
    }
    if let Some(supply) = announce.supply {
        peer.set_supply(supply);
    }
    peer.set_relay_only(announce.relay_only);
    peer.set_remote(announce.remote);
}

/// Over what a peer can be reached after an announce. Each door tells its own transports and leaves the other's as they are:
/// WebRTC comes with a connection, the others without.
fn mask(peer: &Peer, announce: &Announce<'_>) -> Mask {
    let known = peer.mask.transports();
    let said = announce.transports;
    let transports = match announce.connection {
        _ if announce.remote => said,
        0 if peer.connection != 0 => said.with(Transport::Webrtc),
        0 => said.without(Transport::Webrtc),
        _ => known.with(Transport::Webrtc),
    };
    // Straight from address to address, somebody learns an address.
    let transports = if announce.relay_only { transports.without(Transport::Tcp) } else { transports };
    // Nobody can connect to a port that is none.
    let port = if announce.connection == 0 || announce.remote { announce.port } else { peer.port() };
    let transports = if port == 0 { transports.without(Transport::Tcp) } else { transports };
    Mask::new(transports, announce.address)
}
