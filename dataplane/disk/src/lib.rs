//! The disk tier of one shard on one device: a log of cached blocks in one pre-allocated file.
//!
//! ```text
//! page 0       segment 0                 segment 1                 …
//! superblock │ entry entry … table foot │ entry entry …           │
//! ```
//!
//! Entries are appended to the open segment. A full one is sealed with a table of its entries, and the oldest one is
//! overwritten next: first in, first out. A **position** is a page's place in the endless log (a segment's serial number
//! times its pages, plus the page); what a page of the file holds follows from it, and of two entries of the same block the
//! one with the higher position counts.
//!
//! An entry's first page has what is known about the block: checksums, key, metadata. The block follows on pages of its own, so
//! that it is read to where it will be sent from; only a short one shares the first page.
//!
//! What must stay true:
//!
//! - **A wrong byte is never given out.** An entry is found by a 64-bit hash, and believed only when its checksums, volume,
//!   position and full key are right. So neither index nor tables need to be right: what they say wrongly is a miss.
//! - **What was buried stays dead.** A [`Tombstone`] kills what lies before a position. Tombstones are kept outside of the
//!   log, in a journal that must be on disk before anybody relies on them; a volume and its journal carry the same random
//!   number, and a volume without its journal is not read.
//! - **What is found at a position is what was placed there last.** A start goes on behind all that log and journal know of, and
//!   marks its entries with an epoch of its own, higher than those before: what a crash has left further on is told by it.
//!
//! All I/O goes through a [`Medium`], so that everything here runs in tests on a disk that forgets, tears and flips.

#![forbid(unsafe_code)]

mod format;
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod log;
mod tombstones;
mod volume;

pub use format::{Entry, Geometry, PAGE, Superblock};
pub use tombstones::{Tombstone, Tombstones};
pub use volume::{Found, Medium, Miss, Payload, Volume};

#[cfg(test)]
mod simulation;
