//! What a node holds: descriptors, memory, entries of its rings, buffers. Counted before and after, to find what leaks.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::origin::Origin;

/// What a data plane holds at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// Open descriptors by what they are, without its connections to origins.
    pub descriptors: BTreeMap<String, usize>,
    /// Resident bytes.
    pub resident: u64,
    /// Connections of viewers.
    pub connections: u64,
    /// Entries that the kernel has not completed.
    pub in_flight: u64,
    /// Receive buffers that the kernel does not have.
    pub buffers: u64,
    /// Bytes of the arena in use.
    pub arena: u64,
    /// Fetches under way.
    pub flights: u64,
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, resident, connections, in_flight, buffers, arena, flights } = self;
        write!(
            f,
            "{} descriptors, {} KiB resident, {connections} connections, {in_flight} entries in flight, \
             {buffers} buffers taken, {} KiB of the arena, {flights} fetches",
            descriptors.values().sum::<usize>(),
            resident >> 10,
            arena >> 10,
        )
    }
}

impl Resources {
    /// What the node's data plane holds now; figures but descriptors and memory are a tenth of a second old.
    pub fn of(lab: &mut Lab, origins: &[&Origin]) -> Self {
        let pid = lab.edge().id();
        let metrics = lab.metrics();
        let figure = |name: &str| metrics.get(name, &[]).unwrap_or_else(|| panic!("no metric {name}")) as u64;
        Self {
            descriptors: descriptors(pid, origins),
            resident: resident(pid),
            connections: figure("shoal_http_connections"),
            in_flight: figure("shoal_ring_in_flight"),
            buffers: figure("shoal_ring_buffers_taken"),
            arena: figure("shoal_arena_used_bytes"),
            flights: figure("shoal_flights"),
        }
    }

    /// Waits until the node holds no more than `self` but memory, and at most `growth` bytes more of that.
    pub fn expect_again(&self, lab: &mut Lab, origins: &[&Origin], growth: u64, within: Duration) -> Self {
        let deadline = Instant::now() + within;
        loop {
            let now = Self::of(lab, origins);
            if now == (Self { resident: now.resident, ..self.clone() }) {
                let more = now.resident.saturating_sub(self.resident);
                assert!(more <= growth, "{} KiB more memory than before:\n{self}\n{now}", more >> 10);
                return now;
            }
            assert!(Instant::now() < deadline, "something leaked; before and {within:?} after:\n{self:#?}\n{now:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Resident bytes of a process.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.expect("VmRSS in /proc") << 10
}

fn descriptors(pid: u32, origins: &[&Origin]) -> BTreeMap<String, usize> {
    let peers = peers(pid);
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").flatten() {
        // Gone again.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        let kind = match inode.map(|inode| peers.get(inode)) {
            Some(Some((peer, _))) if origins.iter().any(|origin| origin.addr() == *peer) => continue,
            Some(Some((peer, state))) => format!("TCP socket of state {state} with {}", peer.ip()),
            Some(None) => "other socket".to_owned(),
            // One log follows another.
            None => target.trim_end_matches(".log").trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(),
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

/// The other ends of TCP connections, and their states, by the inodes of their sockets.
fn peers(pid: u32) -> HashMap<String, (SocketAddr, String)> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("the process runs");
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields.get(2)?.split_once(':')?;
        // As it lies in memory.
        let address = Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes());
        let peer = SocketAddr::from((address, u16::from_str_radix(port, 16).ok()?));
        Some(((*fields.get(9)?).to_owned(), (peer, (*fields.get(3)?).to_owned())))
    };
    table.lines().skip(1).filter_map(line).collect()
}
