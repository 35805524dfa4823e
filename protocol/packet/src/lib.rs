//! What eBPF and user space share: the owner hash.
//!
//! Both sides must find the same owner for the same bytes, so this is the only place the hash lives. It keeps to what a
//! BPF program can do: no allocation, no 128-bit arithmetic, no division, loops with a known bound.

#![no_std]
#![forbid(unsafe_code)]

use core::net::SocketAddr;

/// Shard that owns a hash, below `shards`; 0 when there are none. Takes the upper half of the hash.
#[must_use]
pub const fn owner(hash: u64, shards: u32) -> u32 {
    (((hash >> 32) * shards as u64) >> 32) as u32
}

/// Seeded 64-bit hash of some bytes. Not a MAC: an adversary who knows the seed can make collisions.
#[must_use]
pub fn hash_key(seed: u64, bytes: &[u8]) -> u64 {
    let _ = (seed, bytes);
    todo!()
}

/// Hash of a flow: both ends in the order source, destination, and the IP protocol number.
#[must_use]
pub fn hash_five_tuple(seed: u64, source: SocketAddr, destination: SocketAddr, protocol: u8) -> u64 {
    let _ = (seed, source, destination, protocol);
    todo!()
}
