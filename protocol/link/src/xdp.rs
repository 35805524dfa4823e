//! What a node's own admin pages say of XDP, `/xdp` and `/xdp/drops`. It does not travel over the link.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// How XDP is on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Status {
    /// Why there is none, where interfaces are configured.
    pub absent: Option<String>,
    /// Folder where program and maps are while the process is not; none: they end with it.
    pub pins: Option<String>,
    /// Layout of the maps.
    pub layout: u32,
    /// Whether they stay when the node is stopped in order.
    pub keep: bool,
    /// Whether the process has loaded the program itself, and not `shoal-xdp`.
    pub loaded_here: bool,
    /// Of the drops of a CPU every so-many-th is sampled; 0: none.
    pub sample_every: u32,
    /// Where it is attached.
    pub interfaces: Vec<Interface>,
    /// What it has seen.
    pub packets: Vec<Packets>,
}

/// An interface with the program on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub interface: String,
    /// `native`, `generic` or `offloaded`; `none` when the kernel does not run it there.
    pub mode: String,
    /// The kernel's id of the link, where that is pinned.
    pub link: Option<u32>,
    /// The kernel's id of the program.
    pub program: u32,
    /// Its tag, a sum of its instructions, if it is the one that was loaded last.
    pub tag: Option<String>,
    /// Since when, in Unix seconds; a new program on the same link begins no new time.
    pub since: Option<u64>,
}

/// Packets of one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// Its name, as in the metrics.
    pub verdict: String,
    /// How many since the maps were made.
    pub packets: u64,
}

/// A packet that was dropped; one of many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Sender.
    pub source: IpAddr,
    /// 0 where it is not known: a fragment's.
    pub source_port: u16,
    /// Receiver.
    pub destination: IpAddr,
    /// As for the source.
    pub destination_port: u16,
    /// Why.
    pub verdict: String,
    /// Bytes of the frame.
    pub length: u32,
    /// First bytes of the datagram, hexadecimal.
    pub first: String,
}
