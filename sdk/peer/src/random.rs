//! Transaction ids and channel contents from a seed: the crate has no randomness of its own.

use shoal_packet::hash_words;
use shoal_stun::message::TransactionId;

/// Numbers that nobody can tell who does not know the seed.
#[derive(Debug, Clone)]
pub struct Random {
    seed: [u64; 2],
    count: u64,
}

impl Random {
    /// `seed` must be random, and different for each session.
    #[must_use]
    pub const fn new(seed: [u64; 2]) -> Self {
        Self { seed, count: 0 }
    }

    /// The next number.
    pub const fn word(&mut self) -> u64 {
        self.count = self.count.wrapping_add(1);
        let [one, other] = self.seed;
        hash_words(one, &[other, self.count])
    }

    /// The id of a new request.
    pub fn transaction(&mut self) -> TransactionId {
        let mut id = [0; 12];
        let words = [self.word().to_be_bytes(), self.word().to_be_bytes()];
        id.iter_mut().zip(words.as_flattened()).for_each(|(place, byte)| *place = *byte);
        TransactionId::new(id)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ_within_a_session_and_between_two() {
        let (mut one, mut other) = (Random::new([1, 2]), Random::new([1, 3]));
        let ids: HashSet<_> = (0..1000).flat_map(|_| [one.transaction(), other.transaction()]).collect();
        assert_eq!(ids.len(), 2000);
    }
}
