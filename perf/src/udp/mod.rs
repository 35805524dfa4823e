//! Load for STUN and TURN servers: allocations, packets through them, Binding requests.
//!
//! One thread spins over plain sockets. Nothing waits in the kernel, so the server's core is never charged for waking the
//! generator.
//!
//! - [`stamp`]: what is in a payload, and whether it is still the same when it has come out
//! - [`account`]: what was sent, what came, and what did not
//! - [`dance`]: a TURN client's requests, without I/O
//! - [`allocation`]: those of one client, over a socket
//! - [`ends`]: addresses of clients and of a peer, and the sockets behind them
//! - [`field`]: many clients, and the lanes between them
//! - [`lanes`], [`bindings`]: the two kinds of load
//! - [`engine`]: sends at a rate or within a window, and receives
//! - `frames`: one by one, but all clients' by one system call
//! - [`report`]: what a run measured, and whether it says anything of the server
//! - [`search`]: the highest rate at which nothing is lost
//! - [`server`]: what the server's process and core used

pub mod account;
pub mod allocation;
pub mod bindings;
pub mod dance;
pub mod ends;
pub mod engine;
pub mod field;
mod frames;
pub mod lanes;
pub mod report;
pub mod search;
pub mod server;
pub mod stamp;
