//! Which of the shard's ports are taken, in one family.

use std::ops::RangeInclusive;

use crate::random::Random;

#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    count: u32,
    /// A bit for each port, set while it is taken; bits past the end are set for ever.
    taken: Vec<u64>,
}

/// Which port is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Any,
    Even,
    /// An even one, and the next one with it.
    Pair,
}

impl Ports {
    pub(super) fn new(range: &RangeInclusive<u16>) -> Self {
        let count = (u32::from(*range.end()) + 1).saturating_sub(u32::from(*range.start()));
        let mut taken = vec![0; count.div_ceil(64) as usize];
        if let Some(last) = taken.last_mut()
            && !count.is_multiple_of(64)
        {
            *last = u64::MAX << (count % 64);
        }
        Self { first: *range.start(), count, taken }
    }

    /// Takes a free port: the first that fits from a random one on.
    pub(super) fn take(&mut self, want: Want, random: &mut Random) -> Option<u16> {
        if self.count == 0 {
            return None;
        }
        let start = random.below(self.count);
        let mut offset = 0;
        while offset < self.count {
            let index = (start + offset) % self.count;
            let word = self.taken.get((index / 64) as usize)?;
            if *word == u64::MAX {
                // To the next word, or round to the first port.
                offset += (64 - index % 64).min(self.count - index);
                continue;
            }
            if self.fits(index, want) {
                self.set(index, true);
                if want == Want::Pair {
                    self.set(index + 1, true);
                }
                return Some(self.first + index as u16);
            }
            offset += 1;
        }
        None
    }

    /// Gives a port back.
    pub(super) fn free(&mut self, port: u16) {
        if let Some(index) = port.checked_sub(self.first).map(u32::from).filter(|index| *index < self.count) {
            self.set(index, false);
        }
    }

    fn fits(&self, index: u32, want: Want) -> bool {
        let even = (u32::from(self.first) + index).is_multiple_of(2);
        self.is_free(index)
            && match want {
                Want::Any => true,
                Want::Even => even,
                Want::Pair => even && self.is_free(index + 1),
            }
    }

    fn is_free(&self, index: u32) -> bool {
        self.taken.get((index / 64) as usize).is_some_and(|word| word & 1 << (index % 64) == 0)
    }

    fn set(&mut self, index: u32, taken: bool) {
        if let Some(word) = self.taken.get_mut((index / 64) as usize) {
            let bit = 1 << (index % 64);
            *word = if taken { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_port_is_taken_once_and_none_beside() {
        for range in [1000..=1000, 1001..=1200, 65_472..=65_535, 2..=131] {
            let (mut ports, mut random) = (Ports::new(&range), Random::new([1; 32]));
            let got: BTreeSet<u16> = std::iter::from_fn(|| ports.take(Want::Any, &mut random)).collect();
            assert_eq!(got, range.clone().collect());
            ports.free(*range.end());
            ports.free(range.start().wrapping_sub(1));
            assert_eq!(ports.take(Want::Any, &mut random), Some(*range.end()));
            assert_eq!(ports.take(Want::Any, &mut random), None);
        }
        let none = RangeInclusive::new(5, 4);
        assert_eq!(Ports::new(&none).take(Want::Any, &mut Random::new([1; 32])), None);
    }

    #[test]
    fn pairs_are_even_and_whole() {
        let (mut ports, mut random) = (Ports::new(&(1001..=1008)), Random::new([2; 32]));
        let mut got: Vec<u16> = std::iter::from_fn(|| ports.take(Want::Pair, &mut random)).collect();
        got.sort_unstable();
        assert_eq!(got, [1002, 1004, 1006], "1008 has no next one");
        assert_eq!(ports.take(Want::Even, &mut random), Some(1008));
        assert_eq!(ports.take(Want::Even, &mut random), None);
        assert_eq!(ports.take(Want::Any, &mut random), Some(1001));
        assert_eq!(ports.take(Want::Any, &mut random), None);
    }

    #[test]
    fn ports_are_spread() {
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            seen.insert(Ports::new(&(10_000..=59_999)).take(Want::Any, &mut Random::new([seed; 32])).unwrap() / 1000);
        }
        assert!(seen.len() > 35, "{seen:?}");
    }
}
