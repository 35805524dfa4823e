//! Which sequence numbers of a session were counted, and for which minute, hour and day it was counted as a viewer.

/// Numbers below the highest that are told apart.
pub(crate) const WINDOW: u64 = 256;
/// Minute, hour, day.
pub(crate) const STEPS: usize = 3;

const WORDS: usize = WINDOW as usize / 64;
/// Buckets of each step that are remembered, the newest that were counted, so that a clock that goes there and back does not
/// count a viewer again.
const MARKS: usize = 4;
const BYTES: usize = 8 + WORDS * 8 + STEPS * MARKS * 8;

/// What becomes of a report by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not counted before.
    New,
    /// Counted before.
    Duplicate,
    /// Too old to tell.
    Late,
}

/// What is remembered of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Window {
    highest: u64,
    /// Bit i is number `highest - i`.
    bits: [u64; WORDS],
    /// Buckets counted, plus 1; 0 is none.
    marks: [[u64; MARKS]; STEPS],
}

impl Window {
    /// Takes a number, from 1 up.
    pub(crate) fn take(&mut self, number: u64) -> Seen {
        if number > self.highest {
            self.shift(number - self.highest);
            self.highest = number;
            self.bits[0] |= 1;
            return Seen::New;
        }
        let back = self.highest - number;
        if back >= WINDOW {
            return Seen::Late;
        }
        let (word, bit) = ((back / 64) as usize, 1 << (back % 64));
        let Some(word) = self.bits.get_mut(word) else { return Seen::Late };
        let seen = if *word & bit == 0 { Seen::New } else { Seen::Duplicate };
        *word |= bit;
        seen
    }

    /// Whether a viewer is to be counted for this bucket of a step; then it is.
    pub(crate) fn mark(&mut self, step: usize, bucket: u64) -> bool {
        let Some(marks) = self.marks.get_mut(step) else { return false };
        if marks.contains(&(bucket + 1)) {
            return false;
        }
        marks.rotate_right(1);
        marks[0] = bucket + 1;
        true
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let words = std::iter::once(&self.highest).chain(&self.bits).chain(self.marks.as_flattened());
        words.flat_map(|word| word.to_le_bytes()).collect()
    }

    /// None where the bytes are not of [`Window::to_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BYTES {
            return None;
        }
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut window = Self { highest: words.next()?, ..Self::default() };
        window.bits.iter_mut().chain(window.marks.as_flattened_mut()).zip(words).for_each(|(to, from)| *to = from);
        Some(window)
    }

    fn shift(&mut self, by: u64) {
        if by >= WINDOW {
            self.bits = [0; WORDS];
            return;
        }
        let (words, bits) = ((by / 64) as usize, by % 64);
        for at in (0..WORDS).rev() {
            let low = at.checked_sub(words).and_then(|at| self.bits.get(at)).copied().unwrap_or(0);
            let carry = at.checked_sub(words + 1).and_then(|at| self.bits.get(at)).copied().unwrap_or(0);
            self.bits[at] = if bits == 0 { low } else { low << bits | carry >> (64 - bits) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::report::spool::tests::Random;

    #[test]
    fn it_tells_what_a_set_of_all_numbers_would() {
        for seed in 0..200 {
            let mut random = Random(seed);
            let (mut window, mut all, mut highest) = (Window::default(), HashSet::new(), 0_u64);
            for _ in 0..600 {
                let jump = if random.below(50) == 0 { 400 } else { 5 };
                let number = match random.below(3) {
                    0 => highest + 1 + random.below(jump),
                    _ => highest.saturating_sub(random.below(300)).max(1),
                };
                let expected = match (highest.saturating_sub(number) >= WINDOW, all.insert(number)) {
                    (true, _) => Seen::Late,
                    (false, true) => Seen::New,
                    (false, false) => Seen::Duplicate,
                };
                assert_eq!(window.take(number), expected, "seed {seed}, {number} below {highest}");
                highest = highest.max(number);
                if random.below(10) == 0 {
                    window = Window::from_bytes(&window.to_bytes()).unwrap();
                }
            }
        }
        let mut window = Window::default();
        assert_eq!(
            (window.take(u64::MAX), window.take(u64::MAX), window.take(1)),
            (Seen::New, Seen::Duplicate, Seen::Late)
        );
        assert_eq!(Window::from_bytes(&[0; BYTES - 1]), None);
    }

    #[test]
    fn a_viewer_counts_once_in_each_bucket_also_when_the_clock_goes_there_and_back() {
        let mut window = Window::default();
        assert!(window.mark(0, 100) && !window.mark(0, 100));
        // Forward by mistake, and back.
        assert!(window.mark(0, 9_000_000) && !window.mark(0, 100));
        assert!(window.mark(0, 101) && !window.mark(0, 9_000_000) && !window.mark(0, 101));
        // Steps are apart, and bucket 0 is a bucket.
        assert!(window.mark(1, 0) && !window.mark(1, 0) && window.mark(2, 0));
    }
}
