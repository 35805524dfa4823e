//! Objects, their versions and their blocks: who owns them, how they are found, fetched and given up.
//!
//! ```text
//!  client ──(own shard, front index, or mesh)──▶ store
//!                                                  │ open:  table ─ hit
//!                                                  │        └─ miss, stale ─▶ question ─▶ origins
//!                                                  │                             │ 304: fresh again
//!                                                  │                             │ 200, 206, 404 …: a new version
//!                                                  │                             ▼
//!                                                  └ block: table ─ miss ─▶ transfer ─▶ blocks, as they arrive
//!
//!  before the origins are asked, the disk tier is (crate::disk), if there is one
//! ```

pub mod client;
mod disk;
pub mod flight;
mod hedge;
pub mod inspect;
pub mod joint;
pub mod key;
pub mod notify;
mod purge;
pub mod question;
pub mod sources;
pub mod store;
pub mod table;
mod terms;
pub mod transfer;
pub mod version;

pub use client::Slices;
pub use terms::is_playlist;
