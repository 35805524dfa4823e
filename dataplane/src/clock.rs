//! The time as the data plane sees it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch that never go backwards: the wall clock at the start, and the monotonic one since.
/// Clones agree with each other, on every shard. Calendar time for tickets comes from the wall clock itself.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub fn start() -> Clock {
        Clock { start: Instant::now(), start_ms: wall_ms() }
    }

    /// Monotonic milliseconds, near Unix time: for lifetimes and ages.
    pub fn now_ms(&self) -> u64 {
        self.start_ms + self.start.elapsed().as_millis() as u64
    }

    /// The wall clock in Unix seconds: for dates and expiries of others.
    pub fn unix_s(&self) -> u64 {
        wall_ms() / 1000
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}
