//! Whether an origin is to be asked.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

/// So many failures in a row take an origin out.
pub const FAILURES_DOWN: u8 = 3;
/// How long it stays out the first time, in milliseconds; twice as long each time it fails again at once.
pub const BACKOFF_MIN_MS: u64 = 1_000;
/// The longest it stays out.
pub const BACKOFF_MAX_MS: u64 = 60_000;

/// More doublings than this change nothing.
const LEVEL_MAX: u8 = (BACKOFF_MAX_MS / BACKOFF_MIN_MS).ilog2() as u8 + 1;

/// What was learnt about an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthEvent {
    /// It answered a viewer's request well.
    Success,
    /// It is to blame for a request that failed.
    Failure,
    /// A health check passed.
    CheckPassed,
    /// A health check failed.
    CheckFailed,
    /// There are no health checks any more.
    Unchecked,
}

/// What is known about an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HealthState {
    /// Failures in a row, up to [`FAILURES_DOWN`].
    pub failures: u8,
    /// How often it went down in a row.
    pub level: u8,
    /// The last health check failed.
    pub check_failed: bool,
    /// It is not to be asked before then, in milliseconds of the data plane's clock.
    pub down_until_ms: u64,
}

impl HealthState {
    /// The state after an event. While an origin is down more failures change nothing: they are of requests that were
    /// under way, and of those that had nobody else to ask. When its time is over one failure is enough to take it out
    /// again, for twice as long. A failed health check takes it out until one passes.
    #[must_use]
    pub fn after(self, event: HealthEvent, now_ms: u64) -> Self {
        match event {
            HealthEvent::Success => Self { check_failed: self.check_failed, ..Self::default() },
            HealthEvent::CheckPassed => Self::default(),
            HealthEvent::CheckFailed => Self { check_failed: true, ..self },
            HealthEvent::Unchecked => Self { check_failed: false, ..self },
            HealthEvent::Failure if now_ms < self.down_until_ms => self,
            HealthEvent::Failure if self.failures + 1 < FAILURES_DOWN => Self { failures: self.failures + 1, ..self },
            HealthEvent::Failure => {
                let backoff = (BACKOFF_MIN_MS << self.level.min(LEVEL_MAX)).min(BACKOFF_MAX_MS);
                Self {
                    failures: FAILURES_DOWN - 1,
                    level: (self.level + 1).min(LEVEL_MAX),
                    down_until_ms: now_ms + backoff,
                    ..self
                }
            }
        }
    }

    /// Whether it is to be asked before those that are not up.
    #[must_use]
    pub fn is_up(self, now_ms: u64) -> bool {
        !self.check_failed && now_ms >= self.down_until_ms
    }

    /// 48 bits of time last until the year 10889.
    fn pack(self) -> u64 {
        self.down_until_ms << 16
            | u64::from(self.check_failed) << 15
            | u64::from(self.level & 0x7f) << 8
            | u64::from(self.failures)
    }

    fn unpack(word: u64) -> Self {
        Self {
            failures: word as u8,
            level: (word >> 8) as u8 & 0x7f,
            check_failed: word >> 15 & 1 == 1,
            down_until_ms: word >> 16,
        }
    }
}

/// The health of one origin: one for all shards, in one word, so that no event is half seen.
#[derive(Debug, Default)]
pub struct Health(AtomicU64);

impl Health {
    pub(super) fn new(state: HealthState) -> Self {
        Self(AtomicU64::new(state.pack()))
    }

    /// Takes an event in. Returns whether the origin is up, if that has changed by it.
    pub fn handle(&self, event: HealthEvent, now_ms: u64) -> Option<bool> {
        let mut before = self.0.load(Acquire);
        loop {
            let old = HealthState::unpack(before);
            let new = old.after(event, now_ms);
            // Nearly every event is one more success of an origin that is well: no write, no shared cache line.
            if new == old {
                return None;
            }
            match self.0.compare_exchange_weak(before, new.pack(), Release, Acquire) {
                Ok(_) => return (old.is_up(now_ms) != new.is_up(now_ms)).then(|| new.is_up(now_ms)),
                Err(now) => before = now,
            }
        }
    }

    /// What is known.
    pub fn state(&self) -> HealthState {
        HealthState::unpack(self.0.load(Acquire))
    }

    /// Whether the origin is to be asked before those that are not up.
    pub fn is_up(&self, now_ms: u64) -> bool {
        self.state().is_up(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    fn fail(mut state: HealthState, times: usize, now_ms: u64) -> HealthState {
        for _ in 0..times {
            state = state.after(HealthEvent::Failure, now_ms);
        }
        state
    }

    #[test]
    fn failures_in_a_row_take_it_out_for_a_while() {
        let two = fail(HealthState::default(), 2, NOW);
        assert!(two.is_up(NOW));
        assert!(fail(two.after(HealthEvent::Success, NOW), 2, NOW).is_up(NOW));
        let down = fail(two, 1, NOW);
        assert!(!down.is_up(NOW) && !down.is_up(NOW + BACKOFF_MIN_MS - 1) && down.is_up(NOW + BACKOFF_MIN_MS));
    }

    #[test]
    fn the_time_out_doubles_up_to_its_bound_and_success_ends_it() {
        let mut state = fail(HealthState::default(), 3, NOW);
        let mut now = NOW;
        let mut spans = Vec::new();
        for _ in 0..9 {
            spans.push(state.down_until_ms - now);
            now = state.down_until_ms;
            state = fail(state, 1, now);
            assert!(!state.is_up(now));
        }
        assert_eq!(spans, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        let well = state.after(HealthEvent::Success, now);
        assert_eq!(well, HealthState::default());
        assert_eq!(fail(well, 3, now).down_until_ms, now + BACKOFF_MIN_MS);
    }

    #[test]
    fn failures_while_it_is_out_do_not_count() {
        let down = fail(HealthState::default(), 3, NOW);
        assert_eq!(fail(down, 100, NOW + 1), down);
    }

    #[test]
    fn health_checks_have_the_last_word() {
        let out = HealthState::default().after(HealthEvent::CheckFailed, NOW);
        assert!(!out.is_up(NOW) && !out.is_up(u64::MAX));
        assert!(!out.after(HealthEvent::Success, NOW).is_up(NOW));
        assert!(out.after(HealthEvent::CheckPassed, NOW).is_up(NOW));
        assert!(out.after(HealthEvent::Unchecked, NOW).is_up(NOW));
        let down = fail(HealthState::default(), 3, NOW);
        assert!(!down.after(HealthEvent::Unchecked, NOW).is_up(NOW));
        assert!(down.after(HealthEvent::CheckPassed, NOW).is_up(NOW));
        assert!(!fail(down.after(HealthEvent::CheckPassed, NOW), 3, NOW).is_up(NOW));
    }

    #[test]
    fn a_state_survives_its_word() {
        for down_until_ms in [0, NOW, (1 << 48) - 1] {
            for (failures, level, check_failed) in [(0, 0, false), (2, LEVEL_MAX, true), (1, 3, false)] {
                let state = HealthState { failures, level, check_failed, down_until_ms };
                assert_eq!(HealthState::unpack(state.pack()), state);
            }
        }
    }

    #[test]
    fn shards_agree_and_each_change_is_told_once() {
        let health = Health::default();
        let changes = |event, now_ms| {
            let told: Vec<_> = std::thread::scope(|scope| {
                let shards: Vec<_> = (0..4).map(|_| scope.spawn(|| health.handle(event, now_ms))).collect();
                shards.into_iter().filter_map(|shard| shard.join().unwrap()).collect()
            });
            told
        };
        assert_eq!(changes(HealthEvent::Failure, NOW), [false]);
        assert!(!health.is_up(NOW));
        assert_eq!(health.state().level, 1);
        assert_eq!(changes(HealthEvent::Success, NOW), [true]);
        assert!(changes(HealthEvent::Success, NOW).is_empty() && health.is_up(NOW));
    }
}
