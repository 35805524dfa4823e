//! The WebTorrent protocol: JSON text over a WebSocket (WIRE.md, "Browser swarms"; its reference is the bittorrent-tracker
//! package). Ids are strings whose characters are the bytes (latin-1); offers and answers pass through as they came.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{Action, Hashes, MAX_OFFER_ID, MAX_OFFERS, Message, MessageError, Offer, read};
pub use write::{announced, failure, relayed_answer, relayed_offer, scraped};
