//! Where a peer stands: in its swarm's lists, in rings of near peers, in the order of announces, among its viewer's others.
//!
//! A ring has a place from which the next are told of. Who looks for peers takes some from there on and moves it behind them, so
//! all of a ring have their turn before one of them has it again. Its peers lie side by side: reading whom to look at next waits
//! for memory once, not once for each of them.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use super::peer::{Peer, RINGS};
use super::slab::{NONE, Slab};
use super::{List, SMALL, Swarms};
use crate::transport::Mask;

/// A swarm that shrinks below this has no rings any more; less than [`SMALL`], so that it does not go to and fro.
const SHRUNK: usize = SMALL / 2;

/// A ring as its table has it: a peer that is the only one, or the number of a [`Circle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u32);

/// In an [`Entry`]: it is a circle's number.
const CIRCLE: u32 = 1 << 31;

impl Entry {
    fn lone(at: u32) -> Self {
        Self(at)
    }

    fn of(circle: u32) -> Self {
        Self(circle | CIRCLE)
    }

    pub(super) fn circle(self) -> Option<u32> {
        (self.0 & CIRCLE != 0).then_some(self.0 & !CIRCLE)
    }

    /// The peer, where it is the only one.
    pub(super) fn peer(self) -> Option<u32> {
        (self.0 & CIRCLE == 0).then_some(self.0)
    }
}

/// Two peers or more, and which of them is told of next.
#[derive(Debug, Default)]
pub(super) struct Circle {
    pub(super) members: Vec<u32>,
    /// A place in `members`.
    pub(super) next: u32,
}

impl Circle {
    /// Adds a peer; its place.
    fn push(&mut self, at: u32) -> u32 {
        if self.members.len() == self.members.capacity() {
            // A quarter more, not twice as much: there are millions of them.
            self.members.reserve_exact(self.members.len() / 4 + 2);
        }
        self.members.push(at);
        self.members.len() as u32 - 1
    }

    /// Takes out who is at a place, and tells who moved where for it. Those who had their turn stay before `next`, the others behind.
    fn remove(&mut self, place: u32, mut moved: impl FnMut(u32, u32)) {
        let mut hole = place as usize;
        if place < self.next {
            self.next -= 1;
            let last_told = self.next as usize;
            if hole != last_told {
                self.members[hole] = self.members[last_told];
                moved(self.members[hole], hole as u32);
            }
            hole = last_told;
        }
        self.members.swap_remove(hole);
        if let Some(last) = self.members.get(hole) {
            moved(*last, hole as u32);
        }
        if self.next as usize == self.members.len() {
            self.next = 0;
        }
        if self.members.len() * 2 < self.members.capacity() && self.members.len() > SMALL {
            self.members.shrink_to(self.members.len() / 4 * 5);
        }
    }
}

/// A peer of a ring; what they have in common, all of them have.
fn first(circles: &Slab<Circle>, entry: Entry) -> u32 {
    match entry.circle() {
        Some(circle) => circles[circle].members[0],
        None => entry.0,
    }
}

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
            let Self { seed, peers, places, circles, rings, .. } = self;
            let is = |entry: &Entry| is_near(&peers[first(circles, *entry)], swarm, mask, ring, near);
            let rehash = |entry: &Entry| hash_of(*seed, &peers[first(circles, *entry)], ring);
            match rings[ring].entry(hash, is, rehash) {
                Slot::Vacant(slot) => {
                    slot.insert(Entry::lone(at));
                    places[at][ring] = 0;
                }
                Slot::Occupied(mut slot) => match slot.get().circle() {
                    Some(circle) => places[at][ring] = circles[circle].push(at),
                    None => {
                        let lone = slot.get().0;
                        let circle = circles.insert(Circle { members: vec![lone, at], next: 0 });
                        *slot.get_mut() = Entry::of(circle);
                        places[at][ring] = 1;
                    }
                },
            }
        }
    }

    fn unring(&mut self, at: u32) {
        for ring in 0..RINGS {
            let place = std::mem::replace(&mut self.places[at][ring], NONE);
            let Some(near) = self.peers[at].near(ring).filter(|_| place != NONE) else { continue };
            let (swarm, mask) = (self.peers[at].swarm, self.peers[at].mask);
            let hash = self.ring_hash(swarm, mask, near);
            let Self { peers, places, circles, rings, .. } = self;
            let is = |entry: &Entry| is_near(&peers[first(circles, *entry)], swarm, mask, ring, near);
            let Ok(mut slot) = rings[ring].find_entry(hash, is) else { continue };
            let Some(circle) = slot.get().circle() else {
                slot.remove();
                continue;
            };
            circles[circle].remove(place, |moved, to| places[moved][ring] = to);
            if let [lone] = circles[circle].members[..] {
                *slot.get_mut() = Entry::lone(lone);
                circles[circle] = Circle::default();
                circles.remove(circle);
            }
        }
    }

    /// The ring of a swarm's peers with these transports that have this in common.
    pub(super) fn entry(&self, ring: usize, swarm: u32, mask: Mask, near: u64) -> Option<Entry> {
        let hash = self.ring_hash(swarm, mask, near);
        let is = |entry: &Entry| is_near(&self.peers[first(&self.circles, *entry)], swarm, mask, ring, near);
        self.rings[ring].find(hash, is).copied()
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
            Slot::Vacant(entry) => {
                entry.insert(at);
                self.channels[channel].viewers += 1;
            }
            Slot::Occupied(mut entry) => {
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

fn is_near(peer: &Peer, swarm: u32, mask: Mask, ring: usize, near: u64) -> bool {
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
