//! The time as the data plane sees it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the Unix epoch that never go backwards: the wall clock at the start, and the monotonic one since.
/// Clones agree with each other, on every shard. Calendar time for tickets comes from the wall clock itself.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Duration,
    start_ms: u64,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub fn start() -> Clock {
        Clock { start: coarse(ClockId::MonotonicCoarse), start_ms: wall_ms() }
    }

    /// Monotonic milliseconds, near Unix time: for lifetimes and ages.
    pub fn now_ms(&self) -> u64 {
        self.start_ms + coarse(ClockId::MonotonicCoarse).saturating_sub(self.start).as_millis() as u64
    }

    /// When [`now_ms`](Self::now_ms) is that, in nanoseconds of the kernel's monotonic clock.
    pub fn monotonic_ns(&self, at_ms: u64) -> u64 {
        let since = Duration::from_millis(at_ms.saturating_sub(self.start_ms));
        u64::try_from((self.start + since).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The wall clock in Unix seconds: for dates and expiries of others.
    pub fn unix_s(&self) -> u64 {
        wall_ms() / 1000
    }
}

fn wall_ms() -> u64 {
    coarse(ClockId::RealtimeCoarse).as_millis() as u64
}

/// As of the kernel's last tick: some milliseconds old, for a quarter of the price.
fn coarse(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
