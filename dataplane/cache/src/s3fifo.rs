//! S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), sized in bytes.
//!
//! New values enter a small queue, about a tenth of all bytes. One that is not used again there leaves by it, so a scan
//! pushes out only other newcomers; one that is goes on to the main queue, whose oldest stays for as many more rounds
//! as it was used. The keys that left the small queue are remembered for a while: who comes back so soon enters the main
//! queue at once.

use crate::ghost::Ghost;
use crate::list::{Queue, Slab};

pub use crate::list::Slot;

/// One in this many bytes is the small queue's share.
const SMALL_SHARE: usize = 10;

/// Uses in the small queue that earn a place in the main one.
const PROMOTE_USES: u8 = 2;

/// More uses than this are not told apart.
const MAX_USES: u8 = 3;

/// The ghost may remember this many keys however few values there are.
const GHOST_MIN_ENTRIES: usize = 64;

/// What [`S3Fifo::evict`] learns about a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It may go; it was used so many times since the last look.
    Uses(u8),
    /// It must stay for now.
    Busy,
}

/// The values of a cache in the order in which they may have to leave it.
///
/// Every operation takes constant time, amortised; `evict` also a step for each busy value that it meets.
#[derive(Debug)]
pub struct S3Fifo<T> {
    slab: Slab<Entry<T>>,
    small: Queue,
    main: Queue,
    ghost: Ghost,
    small_bytes: usize,
    main_bytes: usize,
    small_len: usize,
    main_len: usize,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    key: u64,
    bytes: usize,
    uses: u8,
    in_main: bool,
}

impl<T> Default for S3Fifo<T> {
    fn default() -> Self {
        Self {
            slab: Slab::new(),
            small: Queue::new(),
            main: Queue::new(),
            ghost: Ghost::default(),
            small_bytes: 0,
            main_bytes: 0,
            small_len: 0,
            main_len: 0,
        }
    }
}

impl<T> S3Fifo<T> {
    /// An empty cache. It has no size of its own: whoever finds no room evicts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value of `bytes` bytes. `key` is a hash of its name, by which it is known again when it comes back after
    /// it was evicted.
    pub fn insert(&mut self, value: T, key: u64, bytes: usize) -> Slot {
        let in_main = self.ghost.take(key);
        let slot = self.slab.insert(Entry { value, key, bytes, uses: 0, in_main });
        self.link(slot, in_main, bytes);
        slot
    }

    /// The value at `slot`, while it is there. This is not counted as a use.
    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.slab.get(slot).map(|entry| &entry.value)
    }

    /// As [`S3Fifo::get`], to change it.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.slab.get_mut(slot).map(|entry| &mut entry.value)
    }

    /// Whether the value at `slot` has left the small queue behind: it was used there, or came back soon after it was evicted.
    pub fn in_main(&self, slot: Slot) -> bool {
        self.slab.get(slot).is_some_and(|entry| entry.in_main)
    }

    /// Corrects the size of a value, for a block that took less than it was given.
    pub fn resize(&mut self, slot: Slot, bytes: usize) {
        if let Some(entry) = self.slab.get_mut(slot) {
            let sum = if entry.in_main { &mut self.main_bytes } else { &mut self.small_bytes };
            *sum = *sum - entry.bytes + bytes;
            entry.bytes = bytes;
        }
    }

    /// Takes a value out (purged, replaced or failed); its key is not remembered.
    pub fn remove(&mut self, slot: Slot) -> Option<T> {
        let (in_main, bytes) = self.slab.get(slot).map(|entry| (entry.in_main, entry.bytes))?;
        self.unlink(slot, in_main, bytes);
        self.slab.remove(slot).map(|entry| entry.value)
    }

    /// Takes out the value that will be missed least. `look` says of a value how often it was used since it was last
    /// looked at, or that it must stay. `None` when all must stay.
    pub fn evict(&mut self, mut look: impl FnMut(&T) -> Look) -> Option<T> {
        // Values may be used again while we look. Who has been round that often has had its chance.
        let patience = self.len() * (usize::from(MAX_USES) + 2);
        let (mut steps, mut busy_small, mut busy_main) = (0, 0, 0);
        loop {
            let (small_left, main_left) = (busy_small < self.small_len, busy_main < self.main_len);
            let from_small = match (small_left, main_left) {
                (false, false) => return None,
                (true, true) => self.small_bytes * SMALL_SHARE >= self.bytes(),
                (small_left, _) => small_left,
            };
            let slot = if from_small { &self.small } else { &self.main }.oldest(&self.slab)?;
            let entry = self.slab.get_mut(slot)?;
            let (key, bytes) = (entry.key, entry.bytes);
            steps += 1;
            let stays = match look(&entry.value) {
                Look::Busy => {
                    *(if from_small { &mut busy_small } else { &mut busy_main }) += 1;
                    self.unlink(slot, !from_small, bytes);
                    self.link(slot, !from_small, bytes);
                    continue;
                }
                Look::Uses(uses) => {
                    entry.uses = if steps > patience { 0 } else { entry.uses.saturating_add(uses).min(MAX_USES) };
                    if from_small { entry.uses >= PROMOTE_USES } else { entry.uses > 0 }
                }
            };
            if stays {
                entry.uses = if from_small { 0 } else { entry.uses - 1 };
                entry.in_main = true;
                busy_main = 0;
                self.unlink(slot, !from_small, bytes);
                self.link(slot, true, bytes);
                continue;
            }
            if from_small {
                self.ghost.insert(key, bytes, self.bytes(), self.len().max(GHOST_MIN_ENTRIES));
            }
            return self.remove(slot);
        }
    }

    /// Sum of the sizes.
    pub fn bytes(&self) -> usize {
        self.small_bytes + self.main_bytes
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.small_len + self.main_len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys of evicted values that are remembered.
    pub fn remembered(&self) -> usize {
        self.ghost.len()
    }

    fn link(&mut self, slot: Slot, in_main: bool, bytes: usize) {
        if in_main {
            self.main.push(&mut self.slab, slot);
            self.main_bytes += bytes;
            self.main_len += 1;
        } else {
            self.small.push(&mut self.slab, slot);
            self.small_bytes += bytes;
            self.small_len += 1;
        }
    }

    fn unlink(&mut self, slot: Slot, in_main: bool, bytes: usize) {
        if in_main {
            self.main.unlink(&mut self.slab, slot);
            self.main_bytes -= bytes;
            self.main_len -= 1;
        } else {
            self.small.unlink(&mut self.slab, slot);
            self.small_bytes -= bytes;
            self.small_len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::simulation::Random;

    fn uses(_: &u64) -> Look {
        Look::Uses(0)
    }

    #[test]
    fn the_unused_leave_in_order_of_arrival() {
        let mut cache = S3Fifo::new();
        for name in 0..10_u64 {
            cache.insert(name, name, 1);
        }
        assert_eq!(cache.evict(uses), Some(0));
        assert_eq!(cache.evict(|&name| Look::Uses(if name == 1 { 2 } else { 0 })), Some(2));
        assert_eq!((cache.len(), cache.bytes()), (8, 8));
    }

    #[test]
    fn who_comes_back_soon_enters_main_and_outlives_a_scan() {
        let mut cache = S3Fifo::new();
        for name in 0..100_u64 {
            cache.insert(name, name, 1);
        }
        assert_eq!(cache.evict(uses), Some(0));
        let back = cache.insert(0, 0, 1);
        assert!(cache.in_main(back));
        for name in 100..400 {
            cache.insert(name, name, 1);
            assert_ne!(cache.evict(uses), Some(0));
        }
    }

    #[test]
    fn main_keeps_a_value_as_many_rounds_as_it_was_used() {
        let mut cache = S3Fifo::new();
        for name in 0..20_u64 {
            cache.insert(name, name, 1);
        }
        // All are promoted with their first look; 7 is used three times more.
        let mut looks = HashMap::new();
        let mut gone = Vec::new();
        while let Some(name) = cache.evict(|&name| {
            let look = looks.entry(name).and_modify(|n| *n += 1).or_insert(1);
            Look::Uses(match (*look, name) {
                (1, _) => 3,
                (2, 7) => 3,
                _ => 0,
            })
        }) {
            gone.push(name);
        }
        assert_eq!((gone.len(), gone.last()), (20, Some(&7)));
        assert_eq!(looks[&7], 1 + 1 + 3);
    }

    #[test]
    fn the_busy_stay_and_the_rest_goes() {
        let mut cache = S3Fifo::new();
        for name in 0..100_u64 {
            cache.insert(name, name, 1 + name as usize % 7);
        }
        let mut gone = Vec::new();
        while let Some(name) = cache.evict(|&name| if name % 3 == 0 { Look::Busy } else { Look::Uses(name as u8 % 4) })
        {
            gone.push(name);
        }
        gone.sort_unstable();
        assert_eq!(gone, (0..100).filter(|name| name % 3 != 0).collect::<Vec<_>>());
        assert_eq!(cache.len(), 34);
    }

    #[test]
    fn a_value_used_all_the_time_cannot_stop_eviction() {
        let mut cache = S3Fifo::new();
        cache.insert(1_u64, 1, 10);
        assert_eq!(cache.evict(|_| Look::Uses(3)), Some(1));
        assert_eq!(cache.evict(|_| Look::Uses(3)), None);
    }

    #[test]
    fn an_old_slot_finds_nothing() {
        let mut cache = S3Fifo::new();
        let old = cache.insert(1_u64, 1, 10);
        assert_eq!((cache.remove(old), cache.remove(old)), (Some(1), None));
        let new = cache.insert(2, 2, 10);
        cache.resize(old, 99);
        assert_eq!((cache.get(old), cache.get(new), cache.bytes()), (None, Some(&2), 10));
    }

    /// Random use against a plain map: nothing is lost, invented or miscounted, and the same seed gives the same order.
    #[test]
    fn random_use_agrees_with_a_plain_model() {
        let run = |seed: u64| {
            let mut random = Random(seed);
            let mut cache = S3Fifo::new();
            let mut model: HashMap<u64, (Slot, usize)> = HashMap::new();
            let mut order = Vec::new();
            let mut peak = 0;
            for _ in 0..50_000 {
                let name = random.below(3000);
                match random.below(10) {
                    0..5 => {
                        if let std::collections::hash_map::Entry::Vacant(vacant) = model.entry(name) {
                            let bytes = random.below(1000) as usize;
                            vacant.insert((cache.insert(name, name, bytes), bytes));
                        }
                    }
                    5 => {
                        if let Some((slot, bytes)) = model.get_mut(&name) {
                            *bytes = random.below(500) as usize;
                            cache.resize(*slot, *bytes);
                        }
                    }
                    6 => {
                        let removed = model.remove(&name).and_then(|(slot, _)| cache.remove(slot));
                        assert!(removed.is_none_or(|removed| removed == name));
                    }
                    _ => {
                        let victim = cache.evict(|&name| match random.below(6) {
                            0 => Look::Busy,
                            n => Look::Uses((n + name % 2) as u8 % 4),
                        });
                        if let Some(victim) = victim {
                            assert!(model.remove(&victim).is_some());
                            order.push(victim);
                        }
                    }
                }
                assert_eq!(cache.len(), model.len());
                assert_eq!(cache.bytes(), model.values().map(|(_, bytes)| bytes).sum());
                peak = peak.max(cache.len());
                assert!(cache.remembered() <= peak.max(GHOST_MIN_ENTRIES));
            }
            assert!(model.iter().all(|(name, (slot, _))| cache.get(*slot) == Some(name)));
            order
        };
        let order = run(5);
        assert!(order.len() > 5_000, "{}", order.len());
        assert_eq!(order, run(5));
    }
}
