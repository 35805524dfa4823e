//! Where the newest version of each name is.
//!
//! A name takes eight bytes here, and its text lies where its version does: so of a hundred thousand names all, and of ten million
//! a good part, stay in the processor's caches, and a look-up waits for memory once, for the version, not for the name before it.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Places by hash of the name. Whether a place is that of a name only the owner of the places can tell.
#[derive(Default)]
pub(super) struct Names(HashTable<Newest>);

#[derive(Debug, Clone, Copy)]
struct Newest {
    /// The lower half of the hash; the upper one has chosen the shard.
    tag: u32,
    place: u32,
}

impl Names {
    /// The place of the name with this hash that `is` says yes to.
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = hash as u32;
        let found = self.0.find(spread(tag), |newest| newest.tag == tag && is(newest.place));
        found.map(|newest| newest.place)
    }

    /// Puts a place in front of the one that `is` says yes to. Returns the latter.
    pub(super) fn put(&mut self, hash: u64, place: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = hash as u32;
        let same = |newest: &Newest| newest.tag == tag && is(newest.place);
        match self.0.entry(spread(tag), same, |newest| spread(newest.tag)) {
            Entry::Occupied(mut before) => Some(std::mem::replace(&mut before.get_mut().place, place)),
            Entry::Vacant(vacant) => {
                vacant.insert(Newest { tag, place });
                None
            }
        }
    }

    /// The name's newest version is not at `place` any more but at `next`; nowhere: the name is gone. False when another one is
    /// the newest.
    pub(super) fn replace(&mut self, hash: u64, place: u32, next: Option<u32>) -> bool {
        let tag = hash as u32;
        let Ok(mut newest) = self.0.find_entry(spread(tag), |newest| newest.place == place) else { return false };
        match next {
            Some(next) => newest.get_mut().place = next,
            None => drop(newest.remove()),
        }
        true
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The table takes its bucket from the lower bits and a mark from the upper ones.
fn spread(tag: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(tag)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::testing::Random;

    /// Random use against a plain map, where every fourth name has the tag of another.
    #[test]
    fn names_with_one_hash_are_told_apart() {
        let mut random = Random(3);
        let hash = |name: u32| u64::from(name / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (mut names, mut owner, mut model) = (Names::default(), Vec::new(), HashMap::new());
        for _ in 0..20_000 {
            let name = random.below(400) as u32;
            let is = |place: u32| owner.get(place as usize) == Some(&name);
            assert_eq!(names.find(hash(name), is), model.get(&name).copied());
            if random.below(3) > 0 {
                let place = owner.len() as u32;
                assert_eq!(names.put(hash(name), place, is), model.insert(name, place));
                owner.push(name);
            } else if let Some(place) = model.remove(&name) {
                assert!(!names.replace(hash(name), u32::MAX, None));
                let next = (random.below(2) == 0).then_some(owner.len() as u32);
                assert!(names.replace(hash(name), place, next));
                if let Some(next) = next {
                    model.insert(name, next);
                    owner.push(name);
                }
            }
            assert_eq!(names.len(), model.len());
        }
    }
}
