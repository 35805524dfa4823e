//! Objects, their versions and their blocks: who owns them, how they are found, fetched and given up.

pub mod client;
mod fetch;
pub mod flight;
pub mod key;
pub mod notify;
pub mod store;
mod table;
pub mod version;

pub use client::Slices;
pub use fetch::is_playlist;
