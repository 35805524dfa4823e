//! STUN, NAT discovery and TURN: what the bytes mean, and who does what when. No I/O, no clock, no randomness of its own:
//! time and seeds are arguments, bytes are borrowed, side effects are values.
//!
//! - [`message`]: STUN (RFC 8489), its classic form (RFC 3489) and ChannelData; read in place, written into the caller's
//!   buffer.
//! - [`credentials`]: long-term credentials with time-limited names and nonces that need no memory.
//! - [`discovery`]: the server for Binding in both dialects, with NAT behaviour discovery (RFC 5780), also by two nodes with
//!   one address each.
//! - [`nat`]: the client that finds out its NAT's type.

#![forbid(unsafe_code)]

pub mod credentials;
pub mod discovery;
pub mod message;
pub mod nat;
