//! Introductions under way: which two peers, by what key, from when on; and what the target is to be told next.

use std::net::SocketAddr;

use hashbrown::HashTable;

use super::slots::{Id, Slots};
use super::{INTRODUCTION_MS, REPEATS_MS, START_MS};
use crate::deadlines::Deadlines;
use crate::message::{Punch, Role, TransactionId};
use crate::random::Random;

/// What the two are told beside the key. When it is another, the introduction is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Of the asker and of the target, or the other way round: that of the one whose [`Id`] is less comes first.
    relayed: [Option<SocketAddr>; 2],
    /// Whether they are told no other address.
    pub(super) relayed_only: bool,
}

impl Terms {
    pub(super) fn new(a: (Id, Option<SocketAddr>), b: (Id, Option<SocketAddr>), relayed_only: bool) -> Self {
        let (first, second) = if a.0 <= b.0 { (a, b) } else { (b, a) };
        Self { relayed: [first.1, second.1], relayed_only }
    }
}

/// Two registrations on the way to each other.
#[derive(Debug)]
pub(super) struct Introduction {
    pub(super) asker: Id,
    pub(super) target: Id,
    /// What it was made with.
    pub(super) terms: Terms,
    key: [u8; 16],
    /// Of the Introduced requests: the unguessable part of their transaction id.
    nonce: [u8; 6],
    starts: u64,
    ends: u64,
    /// Introduced requests so far.
    sent: usize,
    answered: bool,
}

impl Introduction {
    /// What one of the two is told.
    pub(super) fn punch(&self, now_ms: u64, id: Id) -> Punch {
        Punch {
            key: self.key,
            start_ms: self.starts.saturating_sub(now_ms) as u16,
            role: if id == self.asker { Role::Controlling } else { Role::Controlled },
        }
    }
}

/// What is due of an introduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Its target is told (again).
    Tell(Id),
    /// It is over, and this is whether its target had answered.
    Over {
        /// It had.
        answered: bool,
    },
}

#[derive(Debug)]
pub(super) struct Introductions {
    shard: u16,
    seed: u64,
    slots: Slots<Introduction>,
    /// Slots by the hash of the two, in whichever order.
    pairs: HashTable<u32>,
    deadlines: Deadlines,
}

impl Introductions {
    pub(super) fn new(limit: usize, shard: u16, seed: u64) -> Self {
        let (pairs, deadlines) = (HashTable::new(), Deadlines::default());
        Self { shard, seed, slots: Slots::new(limit), pairs, deadlines }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    pub(super) fn get(&self, id: Id) -> Option<&Introduction> {
        self.slots.get(id)
    }

    /// The introduction of two registrations, whoever asked. One that is over is none, and is gone with that.
    pub(super) fn find(&mut self, now_ms: u64, a: Id, b: Id) -> Option<Id> {
        let same = |slot: &u32| {
            let known = self.slots.at(*slot).map(|(_, known)| (known.asker, known.target));
            known == Some((a, b)) || known == Some((b, a))
        };
        let slot = *self.pairs.find(hash(self.seed, a, b), same)?;
        let (id, known) = self.slots.at(slot)?;
        if known.ends <= now_ms {
            self.remove(id);
            return None;
        }
        Some(id)
    }

    /// Begins one, unless there are too many. The target is due to be told at once.
    pub(super) fn insert(
        &mut self,
        now_ms: u64,
        asker: Id,
        target: Id,
        terms: Terms,
        random: &mut Random,
    ) -> Option<Id> {
        let [_, _, nonce @ ..] = random.bits().to_be_bytes();
        let id = self.slots.insert(Introduction {
            asker,
            target,
            terms,
            key: random.key(),
            nonce,
            starts: now_ms + START_MS,
            ends: now_ms + INTRODUCTION_MS,
            sent: 0,
            answered: false,
        })?;
        let Self { seed, slots, pairs, .. } = self;
        pairs.insert_unique(hash(*seed, asker, target), id.slot, |slot| {
            slots.at(*slot).map_or(0, |(_, known)| hash(*seed, known.asker, known.target))
        });
        self.deadlines.set(id.slot, now_ms);
        Some(id)
    }

    /// The transaction id of an introduction's Introduced requests: the shard, the slot, and what nobody guesses.
    pub(super) fn transaction(&self, id: Id) -> Option<TransactionId> {
        let [a, b, c, d, e, f] = self.slots.get(id)?.nonce;
        let ([s0, s1], [i0, i1, i2, i3]) = (self.shard.to_be_bytes(), id.slot.to_be_bytes());
        Some(TransactionId::new([s0, s1, i0, i1, i2, i3, a, b, c, d, e, f]))
    }

    /// The introduction whose Introduced requests have this transaction id.
    pub(super) fn find_transaction(&self, transaction: &TransactionId) -> Option<Id> {
        let [_, _, _, _, _, _, i0, i1, i2, i3, ..] = *transaction.as_bytes();
        let (id, _) = self.slots.at(u32::from_be_bytes([i0, i1, i2, i3]))?;
        (self.transaction(id).as_ref() == Some(transaction)).then_some(id)
    }

    /// The target has answered, and need not be told again. Whether it is the first time.
    pub(super) fn answered(&mut self, id: Id) -> bool {
        let Some(introduction) = self.slots.get_mut(id) else { return false };
        let first = !std::mem::replace(&mut introduction.answered, true);
        let ends = introduction.ends;
        self.deadlines.set(id.slot, ends);
        first
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| at)
    }

    /// What is due, if anything is: what is over is gone with that, for the other the next time is set.
    pub(super) fn poll(&mut self, now_ms: u64) -> Option<Due> {
        let (_, slot) = self.deadlines.first().filter(|(at, _)| *at <= now_ms)?;
        let (id, introduction) = self.slots.at(slot)?;
        let (ends, answered) = (introduction.ends, introduction.answered);
        if ends <= now_ms {
            self.remove(id);
            return Some(Due::Over { answered });
        }
        let introduction = self.slots.get_mut(id)?;
        introduction.sent += 1;
        let next = REPEATS_MS.get(introduction.sent - 1).map_or(ends, |gap| now_ms + gap);
        self.deadlines.set(slot, next);
        Some(Due::Tell(id))
    }

    /// Ends one.
    pub(super) fn remove(&mut self, id: Id) {
        self.deadlines.remove(id.slot);
        let Some(introduction) = self.slots.remove(id) else { return };
        let key = hash(self.seed, introduction.asker, introduction.target);
        if let Ok(entry) = self.pairs.find_entry(key, |slot| *slot == id.slot) {
            entry.remove();
        }
    }
}

fn hash(seed: u64, a: Id, b: Id) -> u64 {
    shoal_packet::hash_words(seed, &[a.min(b).bits(), a.max(b).bits()])
}
