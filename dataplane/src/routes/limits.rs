//! What viewers may take of one channel: requests and bytes per second on this node, and how evenly a response goes out.
//!
//! A meter is one word that all shards share, the generic cell rate algorithm: the time at which all that was admitted would
//! have passed at the agreed rate. It needs no refill and no lock, and only channels that have limits touch one.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use shoal_link::channel::LimitPolicy;

/// So much of a rate may come at once after a rest.
const BURST: Duration = Duration::from_secs(1);

/// New requests are refused when the channel's bytes are this far behind.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// Bytes are reserved for this part of a second at a time, so that responses take turns, but at least [`PIECE_MIN`].
const TURNS_PER_SECOND: u64 = 50;
const PIECE_MIN: u64 = 16 << 10;

/// A channel's limits and what was used of them.
#[derive(Debug)]
pub struct Limits {
    policy: LimitPolicy,
    requests: Option<Meter>,
    bytes: Option<Meter>,
}

/// Which limit a request has run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Requests per second.
    Requests,
    /// Bytes per second.
    Bytes,
}

impl Limits {
    /// `None` when nothing is limited. What was used under the same policy before still counts.
    pub fn compile(policy: &LimitPolicy, before: Option<&std::sync::Arc<Self>>) -> Option<std::sync::Arc<Self>> {
        if *policy == LimitPolicy::default() {
            return None;
        }
        if let Some(before) = before.filter(|before| before.policy == *policy) {
            return Some(before.clone());
        }
        let now = Instant::now();
        let requests = Meter::new(policy.requests_per_second.into(), now);
        Some(Self { policy: policy.clone(), requests, bytes: Meter::new(policy.bytes_per_second, now) }.into())
    }

    /// The policy.
    pub fn policy(&self) -> &LimitPolicy {
        &self.policy
    }

    /// Admits a request, or says what is used up and when to come again.
    ///
    /// # Errors
    /// The limit, and the time after which there is room again.
    pub fn admit(&self, now: Instant) -> Result<(), (Limited, Duration)> {
        let behind = self.bytes_behind(now);
        if behind > BEHIND_MAX {
            return Err((Limited::Bytes, behind));
        }
        match &self.requests {
            Some(requests) => requests.take(1, now).map_err(|wait| (Limited::Requests, wait)),
            None => Ok(()),
        }
    }

    /// Counts `bytes` that are about to be sent; returns for how long to wait with that.
    pub fn reserve(&self, bytes: u64, now: Instant) -> Duration {
        self.bytes.as_ref().map_or(Duration::ZERO, |meter| meter.reserve(bytes, now))
    }

    /// How many bytes to reserve at a time.
    pub fn piece(&self) -> u64 {
        match &self.bytes {
            Some(meter) => (meter.per_second / TURNS_PER_SECOND).max(PIECE_MIN),
            None => u64::MAX,
        }
    }

    /// Whether the next request would be refused, as [`Limits::admit`] would say it; nothing is counted.
    pub fn outlook(&self, now: Instant) -> Option<Limited> {
        if self.bytes_behind(now) > BEHIND_MAX {
            return Some(Limited::Bytes);
        }
        self.requests.as_ref().is_some_and(|requests| requests.lead(1, now) > BURST).then_some(Limited::Requests)
    }

    /// How long the bytes that were admitted need beyond what may come at once.
    fn bytes_behind(&self, now: Instant) -> Duration {
        self.bytes.as_ref().map_or(Duration::ZERO, |meter| meter.lead(0, now).saturating_sub(BURST))
    }
}

/// A rate and how far it is used.
#[derive(Debug)]
struct Meter {
    per_second: u64,
    epoch: Instant,
    /// When all that was admitted has passed at the rate, in nanoseconds since `epoch`.
    passed_ns: AtomicU64,
}

impl Meter {
    /// `None` for a rate of 0, which stands for no limit.
    fn new(per_second: u64, epoch: Instant) -> Option<Meter> {
        (per_second > 0).then(|| Meter { per_second, epoch, passed_ns: AtomicU64::new(0) })
    }

    fn cost_ns(&self, n: u64) -> u64 {
        let ns = u128::from(n) * 1_000_000_000 / u128::from(self.per_second);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// How far ahead of the clock the meter would be with `n` more.
    fn lead(&self, n: u64, now: Instant) -> Duration {
        let now = self.since_epoch(now);
        let after = self.passed_ns.load(Relaxed).max(now).saturating_add(self.cost_ns(n));
        Duration::from_nanos(after - now)
    }

    /// Counts `n` if that is within the burst; else says when it will be.
    fn take(&self, n: u64, now: Instant) -> Result<(), Duration> {
        let (now, cost, burst) = (self.since_epoch(now), self.cost_ns(n), BURST.as_nanos() as u64);
        let admit = |passed: u64| {
            let after = passed.max(now).saturating_add(cost);
            (after - now <= burst).then_some(after)
        };
        match self.passed_ns.fetch_update(Relaxed, Relaxed, admit) {
            Ok(_) => Ok(()),
            Err(passed) => Err(Duration::from_nanos(passed.max(now).saturating_add(cost) - now - burst)),
        }
    }

    /// Counts `n` in any case; returns for how long that is beyond the burst.
    fn reserve(&self, n: u64, now: Instant) -> Duration {
        let (now, cost) = (self.since_epoch(now), self.cost_ns(n));
        let add = |passed: u64| Some(passed.max(now).saturating_add(cost));
        let before = self.passed_ns.fetch_update(Relaxed, Relaxed, add).unwrap_or(now);
        // What waits is what came before it: a piece larger than the burst does not wait for itself.
        Duration::from_nanos(before.max(now) - now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn limits(requests_per_second: u32, bytes_per_second: u64) -> (Arc<Limits>, Instant) {
        let policy = LimitPolicy { requests_per_second, bytes_per_second, ..LimitPolicy::default() };
        let limits = Limits::compile(&policy, None).unwrap();
        let epoch = limits.requests.as_ref().or(limits.bytes.as_ref()).map(|meter| meter.epoch).unwrap();
        (limits, epoch)
    }

    #[test]
    fn requests_beyond_the_rate_are_told_when_to_come_again() {
        let (limits, start) = limits(10, 0);
        let at = |ms| start + Duration::from_millis(ms);
        assert!((0..10).all(|_| limits.admit(at(0)).is_ok()), "a second's worth at once");
        assert_eq!(limits.admit(at(0)), Err((Limited::Requests, Duration::from_millis(100))));
        assert_eq!(limits.outlook(at(99)), Some(Limited::Requests));
        assert_eq!(limits.outlook(at(100)), None);
        assert_eq!(limits.admit(at(100)), Ok(()));
        // One client that asks a hundred times in each of ten seconds, the first of which is over.
        let admitted = (0..1000).filter(|n| limits.admit(at(1_000 + n * 10)).is_ok()).count();
        assert!((99..=109).contains(&admitted), "{admitted}");
    }

    #[test]
    fn bytes_wait_for_those_before_them_and_crowds_are_refused() {
        let (limits, start) = limits(0, 1_000_000);
        assert_eq!(limits.piece(), 20_000);
        assert_eq!(limits.reserve(1_500_000, start), Duration::ZERO);
        assert_eq!(limits.reserve(500_000, start), Duration::from_millis(500));
        assert_eq!(limits.admit(start), Ok(()));
        assert_eq!(limits.reserve(100_000, start), Duration::from_secs(1));
        let (limited, wait) = limits.admit(start).unwrap_err();
        assert_eq!((limited, wait), (Limited::Bytes, Duration::from_millis(1_100)));
        assert_eq!(limits.admit(start + Duration::from_millis(100)), Ok(()));
        assert_eq!(limits.reserve(10, start + Duration::from_secs(10)), Duration::ZERO);
    }

    #[test]
    fn shards_share_one_rate() {
        let (limits, _) = limits(1_000, 0);
        let now = Instant::now();
        let admitted: usize = std::thread::scope(|scope| {
            let shard = || (0..10_000).filter(|_| limits.admit(now).is_ok()).count();
            let shards: Vec<_> = (0..4).map(|_| scope.spawn(shard)).collect();
            shards.into_iter().map(|shard| shard.join().unwrap()).sum()
        });
        assert!((1_000..=1_001).contains(&admitted), "{admitted}");
    }

    #[test]
    fn a_snapshot_with_the_same_limits_gives_nobody_a_fresh_start() {
        let (limits, start) = limits(1, 0);
        limits.admit(start).unwrap();
        let same = Limits::compile(limits.policy(), Some(&limits)).unwrap();
        assert!(same.admit(start).is_err());
        let other = LimitPolicy { requests_per_second: 2, ..LimitPolicy::default() };
        assert!(Limits::compile(&other, Some(&limits)).unwrap().admit(start).is_ok());
        assert!(Limits::compile(&LimitPolicy::default(), Some(&limits)).is_none());
    }

    #[test]
    fn no_number_is_too_large() {
        let (limits, start) = limits(u32::MAX, u64::MAX);
        assert_eq!(limits.reserve(u64::MAX, start), Duration::ZERO);
        let slow = Meter::new(1, start).unwrap();
        assert_eq!(slow.reserve(u64::MAX, start), Duration::ZERO);
        assert!(slow.reserve(u64::MAX, start) > Duration::from_secs(1 << 30));
        assert!(slow.take(1, start).is_err());
    }
}
