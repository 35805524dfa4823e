//! The data plane: Range slices from RAM or from the source, one shard per core.

#![forbid(unsafe_code)]

pub mod config;
pub mod ledger;
pub mod link;
pub mod routes;
pub mod settings;
pub mod shard;
pub mod telemetry;
#[cfg(test)]
mod testing;
