//! Objects, their versions and their blocks: who owns them, how they are found, fetched and given up.

pub mod client;
pub mod fetch;
pub mod flight;
pub mod key;
pub mod notify;
pub mod store;
pub mod table;
pub mod version;

pub use client::Slices;
pub use fetch::is_playlist;
