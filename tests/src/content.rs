//! The true bytes of every object.

use crate::rng::mix;

/// One version of one object: its bytes can be computed at any offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content(u64);

impl Content {
    /// The bytes of `path` in its `version`.
    pub fn new(path: &str, version: u32) -> Self {
        let name = path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(mix(name ^ mix(u64::from(version).wrapping_add(1))))
    }

    fn word(self, index: u64) -> [u8; 8] {
        mix(self.0 ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()
    }

    /// Writes the bytes from `offset` on into `out`.
    pub fn fill(self, offset: u64, out: &mut [u8]) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let word = self.word(at / 8);
            let skip = (at % 8) as usize;
            let n = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&word[skip..skip + n]);
            rest = later;
            at += n as u64;
        }
    }

    /// The bytes from `offset` on, `len` of them.
    pub fn bytes(self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.fill(offset, &mut out);
        out
    }

    /// Where `bytes`, said to start at `offset`, first differs from the truth.
    pub fn first_difference(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut truth = [0; 4096];
        let mut at = offset;
        for chunk in bytes.chunks(truth.len()) {
            let truth = &mut truth[..chunk.len()];
            self.fill(at, truth);
            if truth != chunk {
                let differs = truth.iter().zip(chunk).position(|(a, b)| a != b).unwrap_or(0);
                return Some(at + differs as u64);
            }
            at += chunk.len() as u64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_sees_the_same_bytes() {
        let content = Content::new("/a", 1);
        let whole = content.bytes(0, 5000);
        for offset in [0, 1, 7, 8, 9, 4095, 4096, 4999] {
            assert_eq!(content.bytes(offset as u64, 5000 - offset), whole[offset..]);
            assert_eq!(content.first_difference(offset as u64, &whole[offset..]), None);
        }
    }

    #[test]
    fn one_wrong_byte_is_found_where_it_is() {
        let content = Content::new("/a", 1);
        let mut bytes = content.bytes(10, 9000);
        bytes[4321] ^= 1;
        assert_eq!(content.first_difference(10, &bytes), Some(4331));
    }

    #[test]
    fn paths_and_versions_differ() {
        let bytes = |path, version| Content::new(path, version).bytes(0, 16);
        assert_ne!(bytes("/a", 1), bytes("/a", 2));
        assert_ne!(bytes("/a", 1), bytes("/b", 1));
    }
}
