//! Whether the clock is to be believed when things are forgotten for their age.

use std::time::Duration;

/// A wall clock this far from what the monotonic one says has been set.
const STEP_MS: u64 = 5 * 60_000;
/// How long nothing is forgotten after that: time for somebody to see it.
const HOLD: Duration = Duration::from_secs(3600);
/// A start this long behind the newest data may be a start with a wrong clock.
const GAP_MS: u64 = 24 * 3_600_000;

/// Compares the wall clock with the monotonic one.
#[derive(Debug)]
pub(crate) struct Guard {
    wall_ms: u64,
    at: Duration,
    hold_until: Duration,
}

impl Guard {
    /// Starts to compare. `newest_ms` is the newest data there is, `at` the monotonic clock.
    pub(crate) fn new(wall_ms: u64, newest_ms: Option<u64>, at: Duration) -> Self {
        let odd = newest_ms.is_some_and(|newest| wall_ms.saturating_sub(newest) > GAP_MS || newest > wall_ms + STEP_MS);
        Self { wall_ms, at, hold_until: if odd { at + HOLD } else { at } }
    }

    /// The time that age is counted from, in Unix milliseconds: now, but no later than the newest data. None: the clock was
    /// set lately, and nothing is to be forgotten.
    pub(crate) fn horizon(&mut self, wall_ms: u64, newest_ms: u64, at: Duration) -> Option<u64> {
        let expected = self.wall_ms + at.saturating_sub(self.at).as_millis() as u64;
        if wall_ms.abs_diff(expected) > STEP_MS {
            self.hold_until = at + HOLD;
        }
        (self.wall_ms, self.at) = (wall_ms, at);
        (at >= self.hold_until).then(|| wall_ms.min(newest_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const YEAR: u64 = 365 * 24 * 3_600_000;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_step_stops_forgetting_for_an_hour_and_data_from_the_future_does_not_start_it() {
        let mut guard = Guard::new(NOW, Some(NOW - 60_000), at(0));
        assert_eq!(guard.horizon(NOW + 60_000, NOW, at(60)), Some(NOW));
        assert_eq!(guard.horizon(NOW + 120_000, NOW + YEAR, at(120)), Some(NOW + 120_000));
        // Forward by a year, and back ten minutes later.
        assert_eq!(guard.horizon(NOW + YEAR, NOW + YEAR, at(180)), None);
        assert_eq!(guard.horizon(NOW + YEAR + 600_000, NOW + YEAR, at(780)), None);
        assert_eq!(guard.horizon(NOW + 840_000, NOW + YEAR, at(840)), None);
        assert_eq!(guard.horizon(NOW + 4_380_000, NOW + YEAR, at(4380)), None);
        assert_eq!(guard.horizon(NOW + 4_500_000, NOW + YEAR, at(4500)), Some(NOW + 4_500_000));
    }

    #[test]
    fn a_start_with_a_clock_far_from_the_data_waits_too() {
        let mut guard = Guard::new(NOW + YEAR, Some(NOW), at(5));
        assert_eq!(guard.horizon(NOW + YEAR, NOW, at(5)), None);
        assert_eq!(guard.horizon(NOW + YEAR + 3_601_000, NOW + YEAR, at(3606)), Some(NOW + YEAR));
        let mut guard = Guard::new(NOW - YEAR, Some(NOW), at(5));
        assert_eq!(guard.horizon(NOW - YEAR, NOW, at(5)), None);
        assert!(Guard::new(NOW, None, at(5)).horizon(NOW, NOW, at(5)).is_some());
    }
}
