//! What eBPF and user space share: the owner hash, what datagrams are by their shape, and answers to plain Binding requests.
//!
//! A slice's owner shard is the hash of its key, a UDP client's the hash of its five-tuple. XDP and sk_reuseport programs
//! steer packets by the same hash, so it lives here and nowhere else. It keeps to what a BPF program can do: no
//! allocation, no 128-bit arithmetic, no division, loops with a known bound.

#![no_std]
#![forbid(unsafe_code)]

pub mod binding;
pub mod flow;
pub mod rate;
pub mod shape;
pub mod source;

use core::net::{IpAddr, SocketAddr};

/// Added at every step, so that a run of zero words does not stay at zero: 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Shard that owns a hash, below `shards`; 0 when there are none. Takes the upper half of the hash: multiply and shift
/// share it out evenly without a division.
#[must_use]
#[inline]
pub const fn owner(hash: u64, shards: u32) -> u32 {
    (((hash >> 32) * shards as u64) >> 32) as u32
}

/// Seeded 64-bit hash of some words; the number of words is part of it.
///
/// Every bit of the input changes every bit of the result with a probability of one half. It is not a MAC: whoever knows
/// the seed can make collisions.
#[must_use]
#[inline]
pub const fn hash_words<const N: usize>(seed: u64, words: &[u64; N]) -> u64 {
    let mut state = absorb(STEP, seed);
    let mut i = 0;
    while i < N {
        state = absorb(state, words[i]);
        i += 1;
    }
    absorb(state, N as u64)
}

/// Seeded 64-bit hash of some bytes, such as a slice key; [`hash_words`] for input without a fixed layout.
#[must_use]
pub fn hash_key(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = absorb(STEP, seed);
    for word in words {
        state = absorb(state, u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        state = absorb(state, word);
    }
    // The length tells a short last word from one that ends in zeros.
    absorb(state, bytes.len() as u64)
}

/// Hash of an IPv4 flow, in the direction source to destination. Addresses are in network order, ports are numbers,
/// `protocol` is the IP protocol number.
#[must_use]
#[inline]
pub const fn hash_ipv4(
    seed: u64,
    source: [u8; 4],
    destination: [u8; 4],
    source_port: u16,
    destination_port: u16,
    protocol: u8,
) -> u64 {
    let addresses = (u32::from_be_bytes(source) as u64) << 32 | u32::from_be_bytes(destination) as u64;
    hash_words(seed, &[addresses, ends(source_port, destination_port, protocol)])
}

/// [`hash_ipv4`] for an IPv6 flow.
#[must_use]
#[inline]
pub const fn hash_ipv6(
    seed: u64,
    source: [u8; 16],
    destination: [u8; 16],
    source_port: u16,
    destination_port: u16,
    protocol: u8,
) -> u64 {
    let (source, destination) = (u128::from_be_bytes(source), u128::from_be_bytes(destination));
    let words = [
        (source >> 64) as u64,
        source as u64,
        (destination >> 64) as u64,
        destination as u64,
        ends(source_port, destination_port, protocol),
    ];
    hash_words(seed, &words)
}

/// Hash of a flow as user space sees it. IPv4-mapped addresses count as IPv4, because that is what the packets are.
#[must_use]
pub fn hash_five_tuple(seed: u64, source: SocketAddr, destination: SocketAddr, protocol: u8) -> u64 {
    let (source_port, destination_port) = (source.port(), destination.port());
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            hash_ipv4(seed, source.octets(), destination.octets(), source_port, destination_port, protocol)
        }
        (source, destination) => {
            hash_ipv6(seed, ipv6_octets(source), ipv6_octets(destination), source_port, destination_port, protocol)
        }
    }
}

fn ipv6_octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Ports and protocol in one word; 8 bits stay zero.
const fn ends(source_port: u16, destination_port: u16, protocol: u8) -> u64 {
    (source_port as u64) << 48 | (destination_port as u64) << 32 | protocol as u64
}

/// Takes one word into the state. For a given state it is a bijection of the word, so two inputs that differ in one word
/// cannot collide; two rounds of multiply and xor-shift spread every bit over all.
#[inline]
const fn absorb(state: u64, word: u64) -> u64 {
    let mut x = (state ^ word).wrapping_add(STEP);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
