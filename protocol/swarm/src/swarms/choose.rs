//! Whom a peer is told of.
//!
//! Only peers of the same swarm that share a transport with it, that can connect (unless one of them is reached through
//! relays alone), and of which neither has reported the other as failed. Of those the near ones first, then those that
//! have more to give; but whoever was told of often since its own last announce has to wait, and a quarter comes from
//! anywhere, so that a swarm does not fall apart into neighbourhoods.

use super::peer::{Peer, RINGS};
use super::rings::Circle;
use super::slab::Slab;
use super::{Answer, Chosen, SMALL, Swarms};
use crate::nat::can_connect;
use crate::transport::Mask;

/// Candidates that are looked at for each that is wanted: most of them may be unfit.
const LOOKED_AT: usize = 4;
/// Candidates that are looked at in any case.
const LOOKED_AT_LEAST: usize = 8;
/// How much one step of nearness is worth: as much as so many steps of supply.
const NEARNESS_WORTH: i32 = 4;
/// Times of being told of that outweigh one step of supply.
const TOLD_WORTH: i32 = 2;

/// A peer that could be told of, and how good it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    worth: i32,
    /// Decides between equals.
    lot: u32,
    at: u32,
}

/// Who asks, and what for.
struct Asking {
    at: u32,
    swarm: u32,
    mask: Mask,
    hash: u32,
    now_ms: u64,
    life_ms: u64,
    offers: bool,
}

impl Swarms {
    pub(super) fn choose(&mut self, now_ms: u64, at: u32, want: usize, offers: bool, answer: &mut Answer) {
        let me = &self.peers[at];
        // Offers are for WebRTC alone.
        let mask = if offers { Mask(me.mask.0 & 1) } else { me.mask };
        let mine = me.mask;
        let asking = Asking {
            at,
            swarm: me.swarm,
            mask,
            hash: self.failed_hash(&me.id),
            now_ms,
            life_ms: self.config.life_ms,
            offers,
        };
        self.picked.clear();
        if !self.swarms[asking.swarm].ringed {
            self.choose_from_all(&asking, want);
        } else {
            let near = want - want / 4;
            for ring in 0..RINGS {
                if self.picked.len() < near {
                    self.choose_from_rings(&asking, ring, near - self.picked.len());
                }
            }
            self.choose_anywhere(&asking, want - self.picked.len());
        }
        let me = at;
        for at in &self.picked {
            let nearness = self.peers[me].nearness(&self.peers[*at]);
            let peer = &mut self.peers[*at];
            peer.handed = peer.handed.saturating_add(1);
            answer.peers.push(Chosen {
                id: peer.id,
                address: (!peer.is_relay_only() && peer.port() != 0).then(|| peer.socket()),
                transports: Mask(peer.mask.0 & mine.0).transports(),
                nat: peer.nat(),
                node: peer.node,
                supply: peer.supply(),
                connection: peer.connection,
                nearness,
            });
        }
    }

    /// The best of a small swarm.
    fn choose_from_all(&mut self, asking: &Asking, want: usize) {
        let Self { swarms, peers, candidates, random, seed: _, .. } = self;
        candidates.clear();
        let me = &peers[asking.at];
        for list in swarms[asking.swarm].lists.iter().filter(|list| list.mask.shares(asking.mask)) {
            for at in list.members.iter().take(2 * SMALL) {
                let peer = &peers[*at];
                if fits(asking, me, *at, peer) {
                    let worth = i32::from(me.nearness(peer)) * NEARNESS_WORTH + worth(peer);
                    candidates.push(Candidate { worth, lot: random.bits() as u32, at: *at });
                }
            }
        }
        self.drop_reported(asking);
        self.pick(want);
    }

    /// The next ones of a ring around the asking peer, one for each set of transports.
    fn choose_from_rings(&mut self, asking: &Asking, ring: usize, want: usize) {
        let Some(near) = self.peers[asking.at].near(ring) else { return };
        self.candidates.clear();
        for list in 0..self.swarms[asking.swarm].lists.len() {
            let mask = self.swarms[asking.swarm].lists[list].mask;
            if !mask.shares(asking.mask) {
                continue;
            }
            let Some(entry) = self.entry(ring, asking.swarm, mask, near) else { continue };
            let mut walked = std::mem::take(&mut self.walked);
            walked.clear();
            walked.extend(entry.peer());
            if let Some(circle) = entry.circle() {
                let Circle { members, next } = &self.circles[circle];
                let (told, waiting) = members.split_at(*next as usize);
                walked.extend(waiting.iter().chain(told).take(LOOKED_AT * want + LOOKED_AT_LEAST));
            }
            let looked_at = self.consider(asking, &walked, want);
            if let Some(circle) = entry.circle() {
                let Circle { members, next } = &mut self.circles[circle];
                *next = ((*next as usize + looked_at) % members.len()) as u32;
            }
            self.walked = walked;
        }
        self.drop_reported(asking);
        self.pick(want);
    }

    /// Adds those of `peers` that fit to the candidates, until there are enough; how many it has looked at.
    fn consider(&mut self, asking: &Asking, peers: &[u32], want: usize) -> usize {
        let mut rest = peers;
        while !rest.is_empty() && self.candidates.len() < spare(want) {
            let (some, behind) = rest.split_at((spare(want) - self.candidates.len()).min(rest.len()));
            rest = behind;
            touch(&self.peers, some);
            let me = &self.peers[asking.at];
            for at in some {
                let peer = &self.peers[*at];
                if fits(asking, me, *at, peer) && !self.picked.contains(at) {
                    let lot = self.random.bits() as u32;
                    self.candidates.push(Candidate { worth: worth(peer), lot, at: *at });
                }
            }
        }
        peers.len() - rest.len()
    }

    /// Some from anywhere in the swarm: those behind a place drawn by lot.
    fn choose_anywhere(&mut self, asking: &Asking, want: usize) {
        let swarm = &self.swarms[asking.swarm];
        let fitting = || swarm.lists.iter().filter(|list| list.mask.shares(asking.mask));
        let all: usize = fitting().map(|list| list.members.len()).sum();
        if want == 0 || all == 0 {
            return;
        }
        self.candidates.clear();
        let mut skip = self.random.below(all as u64) as usize;
        let mut walked = std::mem::take(&mut self.walked);
        walked.clear();
        // From the place to the end, and from the beginning on.
        let mut left = (LOOKED_AT * want + LOOKED_AT_LEAST).min(all);
        for list in fitting().chain(fitting()) {
            if skip >= list.members.len() {
                skip -= list.members.len();
                continue;
            }
            let behind = &list.members[std::mem::take(&mut skip)..];
            let some = &behind[..behind.len().min(left)];
            walked.extend_from_slice(some);
            left -= some.len();
        }
        self.consider(asking, &walked, want);
        self.walked = walked;
        self.drop_reported(asking);
        self.pick(want);
    }

    /// Leaves out those that the asking peer has reported.
    fn drop_reported(&mut self, asking: &Asking) {
        if self.peers[asking.at].reported() == 0 {
            return;
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.retain(|candidate| {
            let hash = self.failed_hash(&self.peers[candidate.at].id);
            !self.peers[asking.at].has_reported(hash)
        });
        self.candidates = candidates;
    }

    /// The best candidates, best first.
    fn pick(&mut self, want: usize) {
        let key = |candidate: &Candidate| (std::cmp::Reverse(candidate.worth), candidate.lot);
        if self.candidates.len() > want && want > 0 {
            self.candidates.select_nth_unstable_by_key(want - 1, key);
            self.candidates.truncate(want);
        }
        self.candidates.truncate(want);
        self.candidates.sort_unstable_by_key(key);
        self.picked.extend(self.candidates.iter().map(|candidate| candidate.at));
    }
}

/// Reads of each peer what the next loop needs, and nothing else: so the processor waits for all of them at once, and not for one
/// after the other. In a swarm of millions that is most of what an announce costs.
fn touch(peers: &Slab<Peer>, numbers: &[u32]) {
    let read = numbers.iter().map(|at| peers[*at].touch()).fold(0, u64::wrapping_add);
    std::hint::black_box(read);
}

/// Candidates among which the best are taken.
fn spare(want: usize) -> usize {
    want + want / 4 + 2
}

fn worth(peer: &Peer) -> i32 {
    i32::from(peer.supplies()) - i32::from(peer.handed) / TOLD_WORTH
}

fn fits(asking: &Asking, me: &Peer, at: u32, peer: &Peer) -> bool {
    at != asking.at
        && peer.mask.shares(asking.mask)
        && !peer.is_over(asking.now_ms, asking.life_ms)
        && (!asking.offers || peer.connection != 0 && peer.connection != me.connection)
        && (me.is_relay_only() || peer.is_relay_only() || can_connect(me.nat(), peer.nat()))
        && !peer.has_reported(asking.hash)
}
