//! Load generators and scenarios against peers.
//!
//! `shoal-load` (this package's program) loads one HTTP/1.1 server from one core; `cargo xtask bench` runs it against
//! the data plane and its peers and writes [RESULTS.md](../RESULTS.md).

#![forbid(unsafe_code)]

pub mod busy;
pub mod calls;
pub mod expected;
pub mod flood;
pub mod flow;
pub mod frame;
pub mod namespace;
pub mod plan;
pub mod report;
pub mod response;
pub mod udp;
pub mod veth;
pub mod wire;
