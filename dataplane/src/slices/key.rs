//! What names an object.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Keys as long as this are put together without the heap, but for the key itself.
const SHORT: usize = 256;

/// Channel and path (with the query parameters the channel allows): never a signature, never CMCD.
#[derive(Debug, Clone)]
pub struct SliceKey {
    hash: u64,
    bytes: Arc<[u8]>,
}

impl SliceKey {
    /// The key of `path` (normalised, below the channel's prefix) and `query` (filtered; empty for none).
    pub fn new(seed: u64, channel: &str, path: &str, query: &str) -> SliceKey {
        // Neither a channel id nor a normalised path has a control character, so the parts cannot run together.
        let mark: &[u8] = if query.is_empty() { b"" } else { b"?" };
        let parts = [channel.as_bytes(), &[0], path.as_bytes(), mark, query.as_bytes()];
        let mut short = [0; SHORT];
        let mut room = &mut short[..];
        let fits = parts.iter().all(|part| match std::mem::take(&mut room).split_at_mut_checked(part.len()) {
            Some((place, after)) => {
                place.copy_from_slice(part);
                room = after;
                true
            }
            None => false,
        });
        let left = room.len();
        let bytes: Arc<[u8]> = match fits {
            true => Arc::from(&short[..SHORT - left]),
            false => parts.concat().into(),
        };
        SliceKey { hash: shoal_packet::hash_key(seed, &bytes), bytes }
    }

    /// The shard that owns the object.
    pub fn owner(&self, shards: usize) -> usize {
        shoal_packet::owner(self.hash, shards as u32) as usize
    }

    /// The channel's id.
    pub fn channel(&self) -> &[u8] {
        self.split().0
    }

    /// The path, with the query if it has one.
    pub fn path(&self) -> &[u8] {
        self.split().1
    }

    /// Bytes of it.
    #[expect(clippy::len_without_is_empty, reason = "a key names a channel at least")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A hash that is the same on every node.
    pub fn placement(&self) -> u64 {
        shoal_packet::hash_key(0, &self.bytes)
    }

    /// All of it: the channel's id, a NUL, the path.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A hash for the object.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// A hash for one block of the object.
    pub fn hash_of_block(&self, index: u32) -> u64 {
        shoal_packet::hash_key(self.hash, &index.to_ne_bytes())
    }

    fn split(&self) -> (&[u8], &[u8]) {
        match self.bytes.iter().position(|&byte| byte == 0) {
            Some(end) => (&self.bytes[..end], &self.bytes[end + 1..]),
            None => (&self.bytes, &[]),
        }
    }
}

impl PartialEq for SliceKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.bytes == other.bytes
    }
}

impl Eq for SliceKey {}

impl Hash for SliceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Takes the hash that a [`SliceKey`] brings along.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Builds [`KeyHasher`]s.
pub type KeyState = std::hash::BuildHasherDefault<KeyHasher>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        let key = |channel, path, query| SliceKey::new(7, channel, path, query);
        assert_ne!(key("a", "bc", ""), key("ab", "c", ""));
        assert_ne!(key("a", "b", "c=1"), key("a", "b", "c=2"));
        assert_eq!(key("a", "b", "c=1"), key("a", "b", "c=1"));
        assert_eq!(key("a", "b/c", "d").channel(), b"a");
        assert_eq!(key("a", "b/c", "d").path(), b"b/c?d");
        for length in SHORT - 4..SHORT + 2 {
            let path = "p".repeat(length);
            assert_eq!(SliceKey::new(7, "c", &path, "").bytes(), format!("c\0{path}").as_bytes());
            assert_eq!(SliceKey::new(7, "c", &path, "q").bytes(), format!("c\0{path}?q").as_bytes());
        }
    }

    #[test]
    fn owners_are_spread_evenly() {
        let mut counts = [0u32; 4];
        for n in 0..40_000 {
            counts[SliceKey::new(1, "channel", &format!("seg{n}.ts"), "").owner(4)] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }
}
