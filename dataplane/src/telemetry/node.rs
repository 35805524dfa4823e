//! Numbers of the whole process that no shard owns, and what the kernel knows of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::Resource;
use rustix::time::ClockId;

use shoal_probes::maps::{VERDICTS, Verdict};

use super::metrics::Node;

/// Written on the housekeeping side, from any of its threads.
#[derive(Debug)]
pub struct NodeStats {
    values: [AtomicU64; Node::COUNT],
    /// Packets that XDP has seen, by verdict.
    xdp: [AtomicU64; VERDICTS],
}

impl Default for NodeStats {
    fn default() -> Self {
        Self { values: [const { AtomicU64::new(0) }; Node::COUNT], xdp: [const { AtomicU64::new(0) }; VERDICTS] }
    }
}

impl NodeStats {
    /// Adds to a value.
    pub fn add(&self, value: Node, n: u64) {
        self.values[value as usize].fetch_add(n, Relaxed);
    }

    /// Sets a value.
    pub fn set(&self, value: Node, to: u64) {
        self.values[value as usize].store(to, Relaxed);
    }

    /// Sets how many packets XDP has seen, by verdict.
    pub fn set_xdp(&self, packets: &[u64; VERDICTS]) {
        for (place, packets) in self.xdp.iter().zip(packets) {
            place.store(*packets, Relaxed);
        }
    }

    /// Reads that, with the verdicts' names.
    pub fn each_xdp(&self, mut each: impl FnMut(&'static str, u64)) {
        for (verdict, packets) in Verdict::ALL.iter().zip(&self.xdp) {
            each(verdict.name(), packets.load(Relaxed));
        }
    }

    /// Packets that XDP has dropped, for whatever reason.
    pub fn xdp_dropped(&self) -> u64 {
        let drops = Verdict::ALL.iter().zip(&self.xdp).filter(|(verdict, _)| verdict.is_drop());
        drops.fold(0, |sum, (_, packets)| sum.saturating_add(packets.load(Relaxed)))
    }

    /// Reads a value.
    pub fn get(&self, value: Node) -> u64 {
        self.values[value as usize].load(Relaxed)
    }
}

/// What the kernel knows of this process; what it does not tell is absent.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu: Duration,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
    pub(super) resident_bytes: Option<u64>,
    /// Unix time.
    pub(super) start: Option<Duration>,
}

impl Process {
    pub(super) fn read() -> Self {
        let cpu = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(cpu.tv_sec.unsigned_abs(), u32::try_from(cpu.tv_nsec).unwrap_or(0));
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is a name in parentheses that may hold anything; what follows starts with field 3.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
        Self {
            cpu,
            // One of them is the folder that is being read.
            open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1)),
            max_fds: rustix::process::getrlimit(Resource::Nofile).current,
            resident_bytes: field(24).map(|pages| pages * rustix::param::page_size() as u64),
            start: field(22).zip(boot_time()).map(|(ticks, boot)| {
                boot + Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1))
            }),
        }
    }
}

/// When the machine started.
fn boot_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok().map(Duration::from_secs)
}
