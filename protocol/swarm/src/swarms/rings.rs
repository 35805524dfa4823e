//! Where a peer stands: in its swarm's lists, in rings of near peers, in the order of announces, among its viewer's others.
//!
//! A ring's head is the peer that is next to be told of. Who looks for peers takes some from the head on and moves the head
//! behind them, so all of a ring have their turn before one of them has it again.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::peer::{Peer, RINGS};
use super::slab::NONE;
use super::{List, SMALL, Swarms};
use crate::transport::Mask;

/// A swarm that shrinks below this has no rings any more; less than [`SMALL`], so that it does not go to and fro.
const SHRUNK: usize = SMALL / 2;

impl Swarms {
    /// Puts a peer where its transports and its place belong.
    pub(super) fn link(&mut self, at: u32) {
        let Self { swarms, peers, .. } = self;
        let swarm_at = peers[at].swarm;
        let swarm = &mut swarms[swarm_at];
        let mask = peers[at].mask;
        let list = match swarm.lists.iter().position(|list| list.mask == mask) {
            Some(list) => list,
            None => {
                swarm.lists.reserve_exact(1);
                swarm.lists.push(List { mask, members: Vec::new() });
                swarm.lists.len() - 1
            }
        };
        let members = &mut swarm.lists[list].members;
        peers[at].position = members.len() as u32;
        members.push(at);
        swarm.peers += 1;
        swarm.complete += u32::from(peers[at].is_complete());
        if swarm.ringed {
            self.ring(at);
        } else if swarm.peers as usize > SMALL {
            swarm.ringed = true;
            self.each_member(swarm_at, Self::ring);
        }
    }

    /// Takes a peer out of where its transports and its place had put it.
    pub(super) fn unlink(&mut self, at: u32) {
        let Self { swarms, peers, .. } = self;
        let swarm_at = peers[at].swarm;
        let swarm = &mut swarms[swarm_at];
        let (mask, position) = (peers[at].mask, peers[at].position as usize);
        if let Some(list) = swarm.lists.iter().position(|list| list.mask == mask) {
            let members = &mut swarm.lists[list].members;
            members.swap_remove(position);
            if let Some(moved) = members.get(position) {
                peers[*moved].position = position as u32;
            }
            if members.is_empty() {
                swarm.lists.swap_remove(list);
            } else if members.len() * 4 < members.capacity() && members.capacity() > SMALL {
                members.shrink_to(members.len() * 2);
            }
        }
        swarm.peers -= 1;
        swarm.complete -= u32::from(peers[at].is_complete());
        if swarm.ringed {
            let shrunk = (swarm.peers as usize) < SHRUNK;
            if shrunk {
                swarm.ringed = false;
            }
            self.unring(at);
            if shrunk {
                self.each_member(swarm_at, Self::unring);
            }
        }
    }

    fn each_member(&mut self, swarm: u32, act: fn(&mut Self, u32)) {
        // Small by now: SMALL peers or fewer, but for the one that made it more.
        let members: Vec<u32> = self.swarms[swarm].lists.iter().flat_map(|list| list.members.iter().copied()).collect();
        for at in members {
            act(self, at);
        }
    }

    fn ring(&mut self, at: u32) {
        for ring in 0..RINGS {
            let Some(near) = self.peers[at].near(ring) else { continue };
            let (swarm, mask) = (self.peers[at].swarm, self.peers[at].mask);
            let hash = self.ring_hash(swarm, mask, near);
            let (seed, peers, links) = (self.seed, &self.peers, &mut self.links);
            let rehash = |head: &u32| hash_of(seed, &peers[*head], ring);
            match self.rings[ring].entry(hash, |head| is_head(&peers[*head], swarm, mask, ring, near), rehash) {
                Entry::Occupied(entry) => {
                    // In front of the head: the last one to have its turn.
                    let head = *entry.get();
                    let last = links[head][ring].0;
                    links[at][ring] = (last, head);
                    links[last][ring].1 = at;
                    links[head][ring].0 = at;
                }
                Entry::Vacant(entry) => {
                    entry.insert(at);
                    links[at][ring] = (at, at);
                }
            }
        }
    }

    fn unring(&mut self, at: u32) {
        for ring in 0..RINGS {
            let (before, behind) = std::mem::replace(&mut self.links[at][ring], (NONE, NONE));
            let Some(near) = self.peers[at].near(ring).filter(|_| before != NONE) else { continue };
            let hash = self.ring_hash(self.peers[at].swarm, self.peers[at].mask, near);
            let entry = self.rings[ring].find_entry(hash, |head| *head == at);
            if before == at {
                if let Ok(entry) = entry {
                    entry.remove();
                }
                continue;
            }
            if let Ok(mut entry) = entry {
                *entry.get_mut() = behind;
            }
            self.links[before][ring].1 = behind;
            self.links[behind][ring].0 = before;
        }
    }

    /// The head of a ring.
    pub(super) fn head(&mut self, ring: usize, swarm: u32, mask: Mask, near: u64) -> Option<&mut u32> {
        let hash = self.ring_hash(swarm, mask, near);
        let peers = &self.peers;
        self.rings[ring].find_mut(hash, |head| is_head(&peers[*head], swarm, mask, ring, near))
    }

    fn ring_hash(&self, swarm: u32, mask: Mask, near: u64) -> u64 {
        ring_hash(self.seed, swarm, mask, near)
    }

    /// Puts a peer at the end of the order of announces.
    pub(super) fn touch(&mut self, at: u32, now_ms: u64) {
        self.untouch(at);
        self.peers[at].set_seen(now_ms);
        self.peers[at].older = self.newest;
        if self.newest == NONE {
            self.oldest = at;
        } else {
            self.peers[self.newest].newer = at;
        }
        self.newest = at;
    }

    /// Takes a peer out of the order of announces.
    fn untouch(&mut self, at: u32) {
        let (older, newer) = (self.peers[at].older, self.peers[at].newer);
        if older == NONE && newer == NONE && self.oldest != at {
            return;
        }
        match older {
            NONE => self.oldest = newer,
            older => self.peers[older].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.peers[newer].older = older,
        }
        (self.peers[at].older, self.peers[at].newer) = (NONE, NONE);
    }

    /// Removes a peer, and its swarm when it was the last one.
    pub(super) fn remove(&mut self, at: u32) {
        self.unlink(at);
        self.untouch(at);
        self.leave_session(at);
        let (swarm_at, hash) = (self.peers[at].swarm, self.peer_hash(self.peers[at].swarm, &self.peers[at].id));
        erase(&mut self.by_peer, hash, at);
        // What it holds beside itself goes now, not when its number is used again.
        self.peers[at] = Peer::new(self.peers[at].id, 0, NONE);
        self.peers.remove(at);
        self.close_if_empty(swarm_at);
    }

    /// Removes a swarm without peers, and its channel when it was the last one.
    pub(super) fn close_if_empty(&mut self, swarm_at: u32) {
        if self.swarms[swarm_at].peers > 0 {
            return;
        }
        let swarm = &mut self.swarms[swarm_at];
        swarm.live = false;
        swarm.lists = Vec::new();
        let (channel_at, info_hash) = (swarm.channel, swarm.info_hash);
        let hash = self.swarm_hash(channel_at, &info_hash);
        erase(&mut self.by_swarm, hash, swarm_at);
        self.swarms.remove(swarm_at);
        let channel = &mut self.channels[channel_at];
        channel.swarms -= 1;
        if channel.swarms == 0 {
            let channel = &self.channels[channel_at];
            let hash = self.channel_hash(&channel.tenant, &channel.id);
            erase(&mut self.by_channel, hash, channel_at);
            self.channels.remove(channel_at);
        }
    }

    /// Counts a peer to its viewer. False: the viewer has as many as it may.
    pub(super) fn join_session(&mut self, at: u32) -> bool {
        let (session, channel) = (self.peers[at].session, self.swarms[self.peers[at].swarm].channel);
        let hash = self.session_hash(channel, session);
        let seed = self.session_rehash();
        let (peers, swarms) = (&mut self.peers, &self.swarms);
        let is = |first: &u32| peers[*first].session == session && swarms[peers[*first].swarm].channel == channel;
        let rehash = |first: &u32| seed(swarms[peers[*first].swarm].channel, peers[*first].session);
        match self.by_session.entry(hash, is, rehash) {
            Entry::Vacant(entry) => {
                entry.insert(at);
                self.channels[channel].viewers += 1;
            }
            Entry::Occupied(mut entry) => {
                let first = *entry.get();
                let mut next = first;
                for _ in 1..super::MAX_PER_SESSION {
                    next = peers[next].next_of_session;
                    if next == NONE {
                        *entry.get_mut() = at;
                        peers[at].next_of_session = first;
                        return true;
                    }
                }
                return false;
            }
        }
        true
    }

    fn leave_session(&mut self, at: u32) {
        let (session, channel) = (self.peers[at].session, self.swarms[self.peers[at].swarm].channel);
        let hash = self.session_hash(channel, session);
        let (peers, swarms) = (&mut self.peers, &self.swarms);
        let behind = std::mem::replace(&mut peers[at].next_of_session, NONE);
        let is = |first: &u32| peers[*first].session == session && swarms[peers[*first].swarm].channel == channel;
        let Ok(mut entry) = self.by_session.find_entry(hash, is) else { return };
        let first = *entry.get();
        if first != at {
            let mut before = first;
            for _ in 0..super::MAX_PER_SESSION {
                let next = peers[before].next_of_session;
                if next == at {
                    peers[before].next_of_session = behind;
                    return;
                }
                if next == NONE {
                    return;
                }
                before = next;
            }
        } else if behind == NONE {
            entry.remove();
            self.channels[channel].viewers -= 1;
        } else {
            *entry.get_mut() = behind;
        }
    }

    fn session_rehash(&self) -> impl Fn(u32, u64) -> u64 + use<> {
        let hasher = self.hasher();
        move |channel, session| {
            use std::hash::Hasher;
            let mut hasher = hasher.clone();
            hasher.write_u32(channel);
            hasher.write_u64(session);
            hasher.finish()
        }
    }
}

fn is_head(peer: &Peer, swarm: u32, mask: Mask, ring: usize, near: u64) -> bool {
    peer.swarm == swarm && peer.mask == mask && peer.near(ring) == Some(near)
}

fn hash_of(seed: u64, peer: &Peer, ring: usize) -> u64 {
    ring_hash(seed, peer.swarm, peer.mask, peer.near(ring).unwrap_or(0))
}

/// Keyed enough: places cannot be chosen freely, and swarms are numbered here.
fn ring_hash(seed: u64, swarm: u32, mask: Mask, near: u64) -> u64 {
    let mut random =
        super::random::Random::new(seed ^ near.rotate_left(24) ^ u64::from(swarm) << 8 ^ u64::from(mask.0));
    random.bits()
}

/// Takes a number out of a table.
fn erase(table: &mut HashTable<u32>, hash: u64, at: u32) {
    if let Ok(entry) = table.find_entry(hash, |found| *found == at) {
        entry.remove();
    }
}
