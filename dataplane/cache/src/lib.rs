//! What the RAM tier keeps. [`S3Fifo`] decides at the owner shard which block goes when room is needed; a
//! [`FrontIndex`] finds blocks at a shard that lately sent them without owning them. Neither knows what a block is.

#![forbid(unsafe_code)]

mod front;
mod ghost;
mod list;
mod s3fifo;
#[cfg(test)]
mod simulation;

pub use front::{FrontIndex, Held};
pub use s3fifo::{Look, S3Fifo, Slot};
