//! The reference client for NAT discovery, punching and relay, built from docs/punch.md, RFC 8489, RFC 5780 and RFC 8656.
//!
//! No I/O, no clock, no randomness but in [`shell`]: time and seeds are arguments, and what is to be sent is a value.
//!
//! - [`discover`]: the NAT's type, and the step of its ports; [`nat`]: what others are told of it, and who can connect.
//! - [`register`], [`introduce`]: what is asked of a node, and told by it; [`wire`]: in which bytes.
//! - [`check`]: which ways lead to an introduced peer. [`turn`]: the relay, for where there is none.
//! - [`transfer`]: bytes over the way that was found.
//! - [`session`]: all of it behind one socket.

#![forbid(unsafe_code)]

pub mod check;
pub mod discover;
pub mod introduce;
pub mod nat;
pub mod random;
pub mod register;
mod request;
pub mod session;
pub mod shell;
pub mod transfer;
pub mod turn;
pub mod wire;
