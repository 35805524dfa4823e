//! The viewer's side: connections, requests, answers.
//!
//! [`connection`] reads heads and keeps the time limits' phases; [`exchange`] answers one request: [`admission`] (route,
//! rules, ticket, key), [`crate::slices`] (the object), [`answer`] (what of it), [`body`] (its bytes). On listeners that
//! speak TLS, `secure` stands between a connection and its stream.

pub mod addresses;
pub mod admission;
pub mod answer;
pub mod body;
mod changed;
mod cmcd;
pub mod connection;
pub mod context;
pub mod deadlines;
pub mod exchange;
pub mod explain;
pub mod pacing;
pub mod playlist;
pub mod popular;
pub mod refusal;
mod secure;
