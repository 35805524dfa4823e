//! Signed URLs: shoal's own ticket and third-party profiles (anti-leech). docs/ticket.md is its manual.
//!
//! A [`Verifier`] is made from a channel's [`TicketPolicy`] and checks what a request [`Presented`]. Time, client and
//! session ids are arguments: nothing here has a clock or randomness.

#![forbid(unsafe_code)]

mod error;
mod explain;
mod expression;
mod form;
#[doc(hidden)]
pub mod fuzzing;
mod path;
mod policy;
mod query;
mod short;
mod sign;
#[cfg(test)]
mod tests;
mod ticket;
mod time;
mod verifier;

pub use error::{PolicyError, Refusal, SignError};
pub use explain::Tried;
pub use path::{PathShape, PathSignature, path_signature};
pub use policy::{FieldOrder, Key, Profile, TicketPolicy, TimeFormat, TimeMeaning};
pub use short::{KeyId, Session, ShortText};
pub use sign::{SignRequest, sign_url};
pub use ticket::{Claims, MAX_CHANNEL, MAX_KEY_ID, MAX_PREFIX, MAX_SESSION, MAX_TICKET, mint, session_of};
pub use verifier::{
    MAX_KEYS, MAX_PROFILES, MAX_SKEW_S, MIN_SECRET, MIN_SECRET_THIRD_PARTY, Memory, PARAMETER, Pass, Presented,
    Verifier,
};
