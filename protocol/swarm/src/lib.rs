//! The tracker: announces, scrapes and swarms, as bytes and as a state machine. No I/O, no clock.
//!
//! | Module | Holds |
//! |---|---|
//! | [`swarms`] | who is in which swarm, and whom a peer is told of |
//! | [`query`], [`bencode`] | the classic HTTP announce and scrape (BEP 3, 7, 23, 48) |
//! | [`form`] | shoal's own announce, in JSON |
//! | [`web`] | the WebTorrent protocol over a WebSocket |
//! | [`replica`] | what several instances tell each other |
//! | [`sdp`] | offers and answers without the addresses of whoever wants none told |
//! | [`ids`], [`nat`], [`transport`] | what they all speak of |
//!
//! An announce's way: bytes → `query`, `form` or `web` → [`swarms::Announce`] → [`swarms::Swarms::handle_announce`] →
//! [`swarms::Answer`] → `bencode`, `form` or `web` → bytes. One [`swarms::Swarms`] has one owner; several of them are shards.

#![forbid(unsafe_code)]

pub mod bencode;
pub mod form;
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
pub mod nat;
pub mod query;
pub mod replica;
pub mod sdp;
pub mod swarms;
pub mod transport;
pub mod web;

pub use ids::{InfoHash, PeerId};
pub use nat::{Behaviour, Nat};
pub use transport::{Transport, Transports};
