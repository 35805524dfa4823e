//! Things counted by key over all shards, without a lock and without a table that grows.

use std::sync::atomic::{AtomicU32, Ordering};

/// Counters in each row; two rows make 512 KiB.
const ROW: usize = 1 << 16;

/// A count-min sketch with two rows. It never counts too few; it counts too many for a key that shares both of its
/// counters with others, which with 10,000 things counted happens to one key in 50 by a few of them.
pub(crate) struct Counts {
    seed: u64,
    rows: [Box<[AtomicU32]>; 2],
}

impl Counts {
    /// Nothing is counted.
    pub(crate) fn new(seed: u64) -> Counts {
        let row = || (0..ROW).map(|_| AtomicU32::new(0)).collect();
        Counts { seed, rows: [row(), row()] }
    }

    /// Counts one more of `key`, unless there are `most` already.
    pub(crate) fn enter(&self, key: &[u8], most: u32) -> bool {
        let mut counts = [0; 2];
        for ((row, place), count) in self.rows.iter().zip(self.places(key)).zip(&mut counts) {
            *count = row[place].fetch_add(1, Ordering::Relaxed);
        }
        let admitted = counts.into_iter().min().is_some_and(|before| before < most);
        if !admitted {
            self.leave(key);
        }
        admitted
    }

    /// One less.
    pub(crate) fn leave(&self, key: &[u8]) {
        for (row, place) in self.rows.iter().zip(self.places(key)) {
            row[place].fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn places(&self, key: &[u8]) -> [usize; 2] {
        let hash = shoal_packet::hash_key(self.seed, key);
        [hash as usize % ROW, (hash >> 32) as usize % ROW]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_held_to_its_limit_and_gets_places_back() {
        let counts = Counts::new(3);
        assert!((0..10).all(|_| counts.enter(b"one", 10)));
        assert!(!counts.enter(b"one", 10));
        assert!(counts.enter(b"two", 10));
        counts.leave(b"one");
        assert!(counts.enter(b"one", 10));
        assert!(!counts.enter(b"one", 10));
    }

    #[test]
    fn collisions_refuse_next_to_nobody() {
        let counts = Counts::new(9);
        let refused = (0..10_000u32).filter(|n| !counts.enter(&n.to_be_bytes(), 2)).count();
        assert!(refused < 20, "{refused}");
    }
}
