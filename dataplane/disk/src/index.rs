//! What is on the volume, in memory: 16 bytes an entry, and what a hash table leaves free.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The table is cut into this many, so that none takes long to grow or to sweep.
const PARTS: usize = 1024;

/// Bits of a packed place that count pages.
const PAGES_BITS: u32 = 16;

/// Where an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub position: u64,
    pub pages: u32,
}

impl Place {
    fn pack(self) -> u64 {
        self.position << PAGES_BITS | u64::from(self.pages)
    }

    fn unpack(packed: u64) -> Place {
        Place { position: packed >> PAGES_BITS, pages: (packed & ((1 << PAGES_BITS) - 1)) as u32 }
    }
}

/// Places by hash.
#[derive(Debug)]
pub(crate) struct Index {
    parts: Vec<HashMap<u64, u64, BuildHasherDefault<Hashed>>>,
    len: usize,
    swept: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| HashMap::default()).collect(), len: 0, swept: 0 }
    }
}

impl Index {
    /// Entries, dead ones that were not swept yet included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, hash: u64) -> Option<Place> {
        self.parts[hash as usize % PARTS].get(&hash).map(|&packed| Place::unpack(packed))
    }

    /// Adds an entry; the one with the higher position stays.
    pub(crate) fn insert(&mut self, hash: u64, place: Place) {
        let known = self.parts[hash as usize % PARTS].entry(hash).or_insert_with(|| {
            self.len += 1;
            0
        });
        *known = (*known).max(place.pack());
    }

    /// Takes an entry out, if it is still the one at `position`.
    pub(crate) fn remove(&mut self, hash: u64, position: u64) {
        let part = &mut self.parts[hash as usize % PARTS];
        if part.get(&hash).is_some_and(|&packed| Place::unpack(packed).position == position) {
            part.remove(&hash);
            self.len -= 1;
        }
    }

    /// Takes out what is not `live` any more, in the next of all parts.
    pub(crate) fn sweep(&mut self, live: impl Fn(u64) -> bool) {
        let part = &mut self.parts[self.swept % PARTS];
        let before = part.len();
        part.retain(|_, packed| live(Place::unpack(*packed).position));
        self.len -= before - part.len();
        self.swept += 1;
    }

    /// Parts that there are.
    pub(crate) const fn parts() -> u64 {
        PARTS as u64
    }
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        // The low bits have chosen the part.
        self.0.rotate_right(PARTS.trailing_zeros())
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_place_stays_and_the_dead_are_swept() {
        let mut index = Index::default();
        for hash in 0..10_000 {
            index.insert(hash, Place { position: hash, pages: 1 });
        }
        index.insert(7, Place { position: 3, pages: 9 });
        assert_eq!(index.get(7), Some(Place { position: 7, pages: 1 }));
        index.insert(7, Place { position: 1 << 40, pages: 600 });
        assert_eq!(index.get(7), Some(Place { position: 1 << 40, pages: 600 }));
        index.remove(7, 7);
        assert_eq!(index.len(), 10_000);
        index.remove(7, 1 << 40);
        assert_eq!((index.len(), index.get(7)), (9_999, None));
        for _ in 0..Index::parts() {
            index.sweep(|position| position >= 5_000);
        }
        assert_eq!((index.len(), index.get(4_999)), (5_000, None));
        assert!(index.get(5_000).is_some());
    }

    #[test]
    fn no_part_grows_much_larger_than_the_others() {
        let mut index = Index::default();
        let mut hash = 1_u64;
        for position in 0..1_000_000 {
            hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ position;
            index.insert(hash, Place { position, pages: 1 });
        }
        let longest = index.parts.iter().map(HashMap::len).max().unwrap();
        assert!(longest < 2 * index.len() / PARTS, "{longest} of {}", index.len());
        let bytes: usize = index.parts.iter().map(|part| part.capacity() * 17).sum();
        assert!(bytes < 32 * index.len(), "{bytes} bytes for {} entries", index.len());
    }
}
