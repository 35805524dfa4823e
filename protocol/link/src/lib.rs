//! What control plane and data plane tell each other, versioned.
//!
//! The link carries frames (see [`frame`]) of JSON messages over a byte stream. The data plane dials; the first frame
//! of each side is a [`DataMessage::Hello`] or [`ControlMessage::Hello`] with the [`PROTOCOL`] it speaks.

#![forbid(unsafe_code)]

pub mod access;
pub mod block;
pub mod channel;
pub mod frame;
pub mod inspect;
pub mod ledger;
pub mod message;
pub mod node;
pub mod observation;
pub mod playback;
pub mod prefetch;
pub mod tenant;
pub mod xdp;

/// Version of this protocol. A peer with another major number is refused with a clear message.
pub const PROTOCOL: u32 = 6;

pub use block::Block;
pub use channel::{Channel, Snapshot};
pub use message::{ControlMessage, DataMessage};
pub use tenant::Tenant;
