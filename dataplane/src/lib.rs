//! The data plane: Range slices from RAM or from the source, one shard per core.

#![forbid(unsafe_code)]

pub mod admin;
pub mod clock;
pub mod config;
mod counts;
pub mod disk;
pub mod housekeeping;
pub mod http;
pub mod ledger;
pub mod link;
pub mod listen;
pub mod playback;
pub mod routes;
pub mod settings;
pub mod shard;
pub mod slices;
pub mod steer;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
mod udp;
pub mod upstream;
pub mod xdp;
