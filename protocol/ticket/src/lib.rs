//! Signed URLs: shoal's own ticket and third-party profiles (anti-leech).

#![forbid(unsafe_code)]

mod policy;

pub use policy::{Key, Profile, TicketPolicy};
