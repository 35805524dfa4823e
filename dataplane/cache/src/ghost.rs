//! Keys that were lately evicted after little use.

use std::collections::{HashMap, VecDeque};

/// A first-in first-out memory of key hashes, bounded by the caller.
#[derive(Debug, Default)]
pub(crate) struct Ghost {
    /// Oldest first. An entry that `newest` does not confirm has been taken out, or added again later.
    queue: VecDeque<Entry>,
    /// By key hash, the sequence number of its valid entry.
    newest: HashMap<u64, u64>,
    sequence: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    key: u64,
    sequence: u64,
    bytes: usize,
}

impl Ghost {
    /// Remembers a key, then forgets the oldest until `bytes` and `entries` are kept to.
    pub(crate) fn insert(&mut self, key: u64, bytes: usize, limit_bytes: usize, limit_entries: usize) {
        self.sequence += 1;
        self.newest.insert(key, self.sequence);
        self.queue.push_back(Entry { key, sequence: self.sequence, bytes });
        self.bytes += bytes;
        while self.queue.len() > limit_entries || self.bytes > limit_bytes {
            let Some(oldest) = self.queue.pop_front() else { break };
            self.bytes -= oldest.bytes;
            if self.newest.get(&oldest.key) == Some(&oldest.sequence) {
                self.newest.remove(&oldest.key);
            }
        }
    }

    /// Forgets a key; whether it was there.
    pub(crate) fn take(&mut self, key: u64) -> bool {
        self.newest.remove(&key).is_some()
    }

    /// Entries that take memory, valid or not.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}
