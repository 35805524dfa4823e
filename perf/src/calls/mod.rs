//! Calls to the control plane's public API and to trackers of others: announces by HTTP and WebSocket, reports.
//!
//! As `shoal-load`, one spinning epoll loop in a closed loop; but each request is another one, and each answer is read and looked at.

mod announce;
mod engine;
mod frame;
mod reports;
mod socket;

use std::net::SocketAddr;
use std::time::Duration;

pub use announce::{Announces, info_hash};
pub use engine::run;
pub use reports::Reports;
pub use socket::Sockets;

/// What is called, by how many, for how long.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The server.
    pub server: SocketAddr,
    /// Connections, each with one call under way.
    pub connections: usize,
    /// Time before measuring.
    pub warmup: Duration,
    /// Time to measure.
    pub duration: Duration,
    /// End after so many answers, if sooner.
    pub calls: Option<u64>,
    /// A connection for each call, for servers that keep none.
    pub reconnect: bool,
    /// Core of the server, to tell whether it or the generator was the bottleneck.
    pub server_cpu: Option<usize>,
}

/// What to call, and what to make of answers.
pub trait Script {
    /// What a connection sends before anything else, if it has to, for one answer.
    fn greeting(&mut self, connection: usize, out: &mut Vec<u8>);

    /// The next call of a connection; false when there is none left.
    fn call(&mut self, connection: usize, out: &mut Vec<u8>) -> bool;

    /// Looks at what came, from the start of `bytes`.
    ///
    /// # Errors
    /// It is not what a working server answers.
    fn came(&mut self, connection: usize, bytes: &[u8], out: &mut Vec<u8>) -> Result<Came, String>;
}

/// What came on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// Nothing whole yet.
    Part,
    /// So many bytes that are no answer to a call: of a greeting, or relayed from others.
    Other(usize),
    /// The answer to the call under way, so long.
    Answer(usize),
}

/// SplitMix64 (Steele, Lea, Flood 2014), as a function: the same ids for the same numbers at every run.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Id of 20 bytes for a number.
fn id(kind: u64, number: u64) -> [u8; 20] {
    let mut id = [0; 20];
    for (at, chunk) in id.chunks_mut(8).enumerate() {
        let word = mixed(mixed(kind ^ number) ^ at as u64).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    id
}
