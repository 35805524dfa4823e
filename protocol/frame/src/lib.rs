//! UDP in Ethernet frames, for whoever receives and sends them without the kernel's network stack.
//!
//! Only what is plain: no VLAN tags, no IP options or extension headers, no fragments. An XDP program leaves everything else to the
//! kernel. Where frames go to is learned from those that come ([`NextHops`]): nothing here asks for addresses or routes.

#![forbid(unsafe_code)]

mod build;
#[doc(hidden)]
pub mod fuzzing;
mod hops;
mod parse;

pub use build::{Outgoing, build, length};
pub use hops::{Hop, LIFE_MS, NextHops};
pub use parse::{FrameError, parse};

use std::net::SocketAddr;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

/// Bytes of the longest IP packet that every path takes (RFC 8200 section 5). What the path to somebody takes beyond it only the kernel
/// knows, which hears of it by ICMP.
pub const PATH_MTU: usize = 1280;

/// The Ethernet addresses of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Ours.
    pub own: [u8; 6],
    /// The one of who sends to us, and is sent to: a host, or a router.
    pub other: [u8; 6],
}

/// A datagram that came in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'f> {
    /// By whom.
    pub link: Link,
    /// From whom.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// What.
    pub payload: &'f [u8],
}
