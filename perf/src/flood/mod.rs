//! What well-behaved clients notice of a flood, with XDP and without.
//!
//! - [`node`]: the data plane itself, with one shard
//! - [`viewers`]: the well-behaved: Binding requests and channels, on schedule
//! - [`attack`]: the flood
//!
//! What comes in by a queue of a network card is one CPU's business, and so it is here: all that is sent from CPU 0 goes by the veth's queue 0
//! and is received on CPU 0, in the sender's time or in that of `ksoftirqd/0`; so the flood is both made and taken there. Viewers and the
//! node's shard are on CPU 1, with its queue. A card with RSS spreads a flood of many sources over all its queues: there each CPU takes a
//! share of it, and here one takes all.
//!
//! The sender cannot offer more than its CPU can also take. So without XDP, where a frame costs far more, it offers less: the rates are told.

pub mod attack;
pub mod node;
pub mod viewers;

/// What the node's tenant and its users share.
pub const SECRET: &str = "a secret of sixteen or more";

/// Whom the node blocks.
pub const BLOCKED: &str = "198.19.0.0/16";

/// Where viewers and their peer are.
pub const NETWORK: &str = "192.0.2.0/24";
