//! Blocks that a shard lately sent without owning them.

use std::collections::HashMap;
use std::hash::Hash;

/// What a [`FrontIndex`] asks of its values.
pub trait Held {
    /// Whether its owner gave it up: then it must not be found any more.
    fn is_retired(&self) -> bool;
    /// Memory that holding it keeps from being used otherwise, in bytes.
    fn bytes(&self) -> usize;
}

/// A bounded index of shared blocks. When it is full the one goes that was not used since the hand last passed (CLOCK).
/// Every operation takes constant time, amortised; [`FrontIndex::sweep`] as many steps as it is told.
#[derive(Debug)]
pub struct FrontIndex<K, V> {
    places: HashMap<K, usize>,
    /// Without gaps, so that the hands never walk over empty places.
    entries: Vec<Entry<K, V>>,
    bytes: usize,
    max_bytes: usize,
    max_entries: usize,
    /// Where eviction looks next.
    hand: usize,
    /// Where the sweep looks next.
    broom: usize,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    /// As counted into the sum: the value's own may change.
    bytes: usize,
    used: bool,
}

impl<K: Clone + Eq + Hash, V: Held> FrontIndex<K, V> {
    /// An index that holds at most so much. With either limit 0 it stays empty.
    pub fn new(max_bytes: usize, max_entries: usize) -> Self {
        Self { places: HashMap::new(), entries: Vec::new(), bytes: 0, max_bytes, max_entries, hand: 0, broom: 0 }
    }

    /// The value of `key`, unless it is retired: then it is dropped.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        let &at = self.places.get(key)?;
        if self.entries.get(at)?.value.is_retired() {
            self.remove_at(at);
            return None;
        }
        let entry = self.entries.get_mut(at)?;
        entry.used = true;
        Some(&entry.value)
    }

    /// Adds a value, or replaces the one of that key. What is retired or too large by itself is not taken in.
    pub fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        let bytes = value.bytes();
        if bytes > self.max_bytes || self.max_entries == 0 || value.is_retired() {
            return;
        }
        while self.bytes + bytes > self.max_bytes || self.entries.len() >= self.max_entries {
            self.evict();
        }
        self.bytes += bytes;
        self.places.insert(key.clone(), self.entries.len());
        self.entries.push(Entry { key, value, bytes, used: false });
    }

    /// Drops the value of `key`.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let &at = self.places.get(key)?;
        Some(self.remove_at(at))
    }

    /// Looks at the next `steps` values and drops those that are retired, so that their memory is free also when nobody
    /// asks for them again. Returns how many that were.
    pub fn sweep(&mut self, steps: usize) -> usize {
        let before = self.entries.len();
        for _ in 0..steps.min(before) {
            if self.broom >= self.entries.len() {
                self.broom = 0;
            }
            match self.entries.get(self.broom) {
                // The last one has moved here and is looked at next.
                Some(entry) if entry.value.is_retired() => drop(self.remove_at(self.broom)),
                _ => self.broom += 1,
            }
        }
        before - self.entries.len()
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.places.clear();
        self.entries.clear();
        self.bytes = 0;
    }

    /// Sum of the sizes, as they were when the values came.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn evict(&mut self) {
        loop {
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let Some(entry) = self.entries.get_mut(self.hand) else { return };
            if entry.used && !entry.value.is_retired() {
                entry.used = false;
                self.hand += 1;
            } else {
                self.remove_at(self.hand);
                return;
            }
        }
    }

    fn remove_at(&mut self, at: usize) -> V {
        let entry = self.entries.swap_remove(at);
        self.places.remove(&entry.key);
        if let Some(moved) = self.entries.get(at)
            && let Some(place) = self.places.get_mut(&moved.key)
        {
            *place = at;
        }
        self.bytes -= entry.bytes;
        entry.value
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::simulation::Random;

    #[derive(Debug, Clone, PartialEq)]
    struct Block {
        name: u64,
        bytes: usize,
        retired: Rc<Cell<bool>>,
    }

    thread_local! {
        /// How often a block or a key was looked at on this thread.
        static LOOKS: Cell<u64> = const { Cell::new(0) };
    }

    impl Held for Block {
        fn is_retired(&self) -> bool {
            LOOKS.set(LOOKS.get() + 1);
            self.retired.get()
        }

        fn bytes(&self) -> usize {
            self.bytes
        }
    }

    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Key(u64);

    impl Hash for Key {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            LOOKS.set(LOOKS.get() + 1);
            self.0.hash(state);
        }
    }

    fn block(name: u64, bytes: usize) -> Block {
        Block { name, bytes, retired: Rc::default() }
    }

    #[test]
    fn it_stays_within_its_bounds_and_keeps_what_is_used() {
        let mut front = FrontIndex::new(100, 1000);
        for name in 0..1000 {
            front.insert(name, block(name, 10));
            assert!(front.get(&0).is_some(), "after {name}");
            assert!(front.bytes() <= 100);
        }
        assert_eq!((front.len(), front.bytes()), (10, 100));
        front.insert(5000, block(5000, 101));
        assert!(front.get(&5000).is_none() && front.len() == 10);
        let mut few = FrontIndex::new(usize::MAX, 3);
        (0..10).for_each(|name| few.insert(name, block(name, 1)));
        assert_eq!(few.len(), 3);
        let mut none = FrontIndex::new(0, 0);
        none.insert(1, block(1, 0));
        assert!(none.is_empty());
    }

    #[test]
    fn the_retired_are_gone_at_look_up_and_by_sweeping() {
        let mut front = FrontIndex::new(1000, 100);
        let blocks: Vec<_> = (0..100).map(|name| block(name, 10)).collect();
        blocks.iter().for_each(|block| front.insert(block.name, block.clone()));
        blocks[17].retired.set(true);
        assert_eq!(front.get(&17), None);
        assert_eq!((front.len(), Rc::strong_count(&blocks[17].retired)), (99, 1));
        blocks[20..60].iter().for_each(|block| block.retired.set(true));
        let swept: usize = (0..10).map(|_| front.sweep(10)).sum();
        assert_eq!((swept, front.len(), front.bytes()), (40, 59, 590));
        front.insert(200, blocks[20].clone());
        assert!(front.get(&200).is_none());
        front.clear();
        assert_eq!((front.len(), front.bytes(), front.sweep(10)), (0, 0, 0));
    }

    #[test]
    fn random_use_agrees_with_a_plain_model() {
        let mut random = Random(3);
        let mut front = FrontIndex::new(20_000, 100);
        let mut model: HashMap<u64, Block> = HashMap::new();
        for _ in 0..50_000 {
            let name = random.below(300);
            match random.below(8) {
                0..4 => {
                    let block = block(name, random.below(500) as usize);
                    front.insert(name, block.clone());
                    model.insert(name, block);
                }
                4 => drop((front.remove(&name), model.remove(&name))),
                5 => {
                    if let Some(block) = model.remove(&name) {
                        block.retired.set(true);
                    }
                }
                6 => drop(front.sweep(random.below(20) as usize)),
                _ => {
                    if let Some(found) = front.get(&name) {
                        assert_eq!(Some(found), model.get(&name), "the latest value, or none");
                    }
                }
            }
            assert!(front.bytes() <= 20_000 && front.len() <= 100);
            assert_eq!(front.places.len(), front.len());
        }
        assert_eq!(front.bytes(), front.entries.iter().map(|entry| entry.value.bytes).sum());
        assert!(front.entries.iter().enumerate().all(|(at, entry)| front.places[&entry.key] == at));
    }

    #[test]
    fn the_cost_does_not_grow_with_the_number_of_entries() {
        let cost = |entries: u64| {
            let mut front = FrontIndex::new(usize::MAX, entries as usize);
            (0..entries).for_each(|name| front.insert(Key(name), block(name, 1)));
            let mut random = Random(entries);
            LOOKS.set(0);
            for name in 0..20_000 {
                front.get(&Key(random.below(entries)));
                front.insert(Key(entries + name), block(name, 1));
                front.sweep(2);
            }
            LOOKS.get() as f64 / 20_000.0
        };
        let costs = [1_000, 10_000, 100_000, 1_000_000].map(cost);
        assert!(costs.iter().all(|&cost| cost < 20.0), "looks per round: {costs:?}");
    }
}
