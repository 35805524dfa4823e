//! What the programs that steer are told.

use super::Address;

/// Sockets that flows are steered to: one of each shard, for each address and port that clients send to.
pub const SOCKETS: u32 = 1 << 14;

/// Shards.
pub const SHARDS: u32 = 256;

/// CPUs, by their numbers. The kernel may have been built for fewer: then who loads the map has it made smaller.
pub const CPUS: u32 = 1024;

/// Addresses and ports that flows are steered at.
pub const ENDPOINTS: u32 = 256;

/// One of them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// Own.
    pub address: Address,
    /// As a number.
    pub port: u64,
}

/// Whose flows are.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steer {
    /// Of the owner hash.
    pub seed: u64,
    /// How many shards there are.
    pub shards: u32,
    /// The first relay port of the first shard.
    pub relay_first: u32,
    /// Relay ports of each shard.
    pub relay_each: u32,
    /// Not 0: packets go to the CPU of their owner.
    pub cpus: u32,
}

/// What is counted, by number.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// The owner's socket was chosen.
    Owner = 0,
    /// The choice was left to the kernel.
    Kernel,
    /// A packet was sent to its owner's CPU.
    Cpu,
}

/// How many there are of them.
pub const COUNTS: u32 = Count::Cpu as u32 + 1;

#[cfg(feature = "user")]
mod user {
    use super::{EndpointKey, Steer};

    // SAFETY: plain numbers in C's layout; every bit pattern is valid, and no byte is padding.
    unsafe impl aya::Pod for Steer {}

    // SAFETY: as above.
    unsafe impl aya::Pod for EndpointKey {}

    const _: () = assert!(size_of::<Steer>() == 24 && size_of::<EndpointKey>() == 24);
}
