//! The way to the control plane, and what the node keeps on disk to live without it.
//!
//! - [`client`]: dials, applies snapshots, carries out commands, delivers usage
//! - [`plane`]: what its messages do to this node
//! - `node`: where viewers reach this node, and how it is
//! - `observed`: what was seen of peers, for the tracker
//! - [`store`]: the last good snapshot
//! - [`spool`]: usage that the control plane has not acknowledged

use std::time::Duration;

pub mod client;
mod durable;
mod inspect;
mod node;
mod observed;
pub mod plane;
pub mod prefetch;
pub mod spool;
pub mod store;

/// How often flushes of the shards are synced to disk. Together with [`crate::ledger::FLUSH_INTERVAL`], and the time
/// that a sync takes, it bounds what a kill loses.
pub const SPOOL_INTERVAL: Duration = Duration::from_millis(400);

const _: () = assert!(SPOOL_INTERVAL.as_millis() + crate::ledger::FLUSH_INTERVAL.as_millis() <= 800);

pub use durable::random_u64;
pub use observed::Observed;
