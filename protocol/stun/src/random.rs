//! Numbers that nobody guesses, from a seed of the caller's: SHA-256 of the seed and a counter.

use sha2::{Digest, Sha256};

#[derive(Debug)]
pub(crate) struct Random {
    seed: [u8; 32],
    counter: u64,
}

impl Random {
    pub(crate) const fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.counter += 1;
        let hash = Sha256::new().chain_update(self.seed).chain_update(self.counter.to_be_bytes()).finalize();
        hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    /// The next 128 bits.
    pub(crate) fn key(&mut self) -> [u8; 16] {
        (u128::from(self.bits()) << 64 | u128::from(self.bits())).to_be_bytes()
    }

    /// A number below `bound`, which is above 0 and far below 2^32: the bias is not worth a second try.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(bound)) >> 32) as u32
    }
}
