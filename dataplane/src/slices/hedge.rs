//! When a second origin is asked because the first is slower than usual, and how often that may be.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use shoal_link::channel::ForwardPolicy;

/// Answers of one origin that are remembered.
const SAMPLES: usize = 64;

/// Answers of one origin before it is known what is usual for it.
const SAMPLES_MIN: usize = 16;

/// Hedges that may be saved up.
const SAVED_MAX: u32 = 10;

/// What one hedge costs; a question earns as many hundredths of it as the budget has percent.
const PRICE: u32 = 100;

/// Channels remembered; with more it starts anew.
const CHANNELS_MAX: usize = 1024;

/// What is usual for origins, and what the channels may still spend. One per shard.
#[derive(Debug, Default)]
pub(super) struct Hedging {
    channels: HashMap<Arc<str>, Spending>,
}

#[derive(Debug, Default)]
struct Spending {
    saved: u32,
    origins: Vec<(Arc<str>, Latencies)>,
}

/// Times to the head of an origin's last answers, the oldest overwritten first.
#[derive(Debug, Default)]
struct Latencies {
    times: Vec<Duration>,
    oldest: usize,
}

impl Hedging {
    /// A question begins at `origin`: how long to wait for it before another one may be asked as well. `None`: for as long as
    /// it takes.
    pub(super) fn begin(&mut self, policy: &ForwardPolicy, channel: &Arc<str>, origin: &Arc<str>) -> Option<Duration> {
        if policy.hedge_percentile == 0 {
            return None;
        }
        let spending = self.spending(channel);
        spending.saved = (spending.saved + u32::from(policy.hedge_budget_percent)).min(SAVED_MAX * PRICE);
        let (_, latencies) = spending.origins.iter().find(|(known, _)| known == origin)?;
        latencies.percentile(policy.hedge_percentile)
    }

    /// Whether the channel can afford one more. It is paid for then.
    pub(super) fn spend(&mut self, channel: &Arc<str>) -> bool {
        let spending = self.spending(channel);
        let left = spending.saved.checked_sub(PRICE);
        spending.saved = left.unwrap_or(spending.saved);
        left.is_some()
    }

    /// The head of an answer came, or did not come, within `time`.
    pub(super) fn took(&mut self, policy: &ForwardPolicy, channel: &Arc<str>, origin: &Arc<str>, time: Duration) {
        if policy.hedge_percentile == 0 {
            return;
        }
        let origins = &mut self.spending(channel).origins;
        let at = origins.iter().position(|(known, _)| known == origin).unwrap_or_else(|| {
            origins.push((Arc::clone(origin), Latencies::default()));
            origins.len() - 1
        });
        if let Some((_, latencies)) = origins.get_mut(at) {
            latencies.add(time);
        }
    }

    fn spending(&mut self, channel: &Arc<str>) -> &mut Spending {
        if self.channels.len() >= CHANNELS_MAX && !self.channels.contains_key(channel) {
            self.channels.clear();
        }
        self.channels.entry(Arc::clone(channel)).or_default()
    }
}

impl Latencies {
    fn add(&mut self, time: Duration) {
        match self.times.get_mut(self.oldest) {
            Some(place) => *place = time,
            None => self.times.push(time),
        }
        self.oldest = (self.oldest + 1) % SAMPLES;
    }

    fn percentile(&self, percent: u8) -> Option<Duration> {
        if self.times.len() < SAMPLES_MIN {
            return None;
        }
        let mut times = self.times.clone();
        times.sort_unstable();
        let rank = (times.len() * usize::from(percent)).div_ceil(100).max(1) - 1;
        times.get(rank).copied()
    }
}

/// Which of two futures was over first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    First,
    Second,
}

/// The result of whichever is over first; the other one goes on when it is polled again.
pub(super) async fn first_of<T>(
    mut first: Pin<&mut impl Future<Output = T>>,
    mut second: Pin<&mut impl Future<Output = T>>,
) -> (Side, T) {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = first.as_mut().poll(cx) {
            return Poll::Ready((Side::First, output));
        }
        second.as_mut().poll(cx).map(|output| (Side::Second, output))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(hedge_percentile: u8, hedge_budget_percent: u8) -> ForwardPolicy {
        ForwardPolicy { hedge_percentile, hedge_budget_percent, ..ForwardPolicy::default() }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_usual_is_learnt_and_forgotten() {
        let (channel, origin, other): (Arc<str>, Arc<str>, Arc<str>) = ("c".into(), "o".into(), "p".into());
        let (mut hedging, policy) = (Hedging::default(), policy(95, 5));
        for time in 1..=100 {
            let known = hedging.begin(&policy, &channel, &origin);
            assert_eq!(known.is_some(), time > SAMPLES_MIN as u64, "{time}");
            hedging.took(&policy, &channel, &origin, ms(time));
        }
        // The last 64 are those of 37 to 100 ms.
        assert_eq!(hedging.begin(&policy, &channel, &origin), Some(ms(97)));
        assert_eq!(hedging.begin(&policy, &channel, &other), None);
        assert_eq!(hedging.begin(&self::policy(0, 5), &channel, &origin), None);
        assert_eq!(hedging.begin(&self::policy(1, 5), &channel, &origin), Some(ms(37)));
        assert_eq!(hedging.begin(&self::policy(100, 5), &channel, &origin), Some(ms(100)));
    }

    #[test]
    fn the_budget_bounds_hedges_over_time() {
        let (channel, origin): (Arc<str>, Arc<str>) = ("c".into(), "o".into());
        let mut hedging = Hedging::default();
        let policy = policy(50, 5);
        let mut hedged = 0;
        for _ in 0..1000 {
            hedging.begin(&policy, &channel, &origin);
            hedged += u32::from(hedging.spend(&channel));
        }
        assert_eq!(hedged, 50);
        for _ in 0..100_000 {
            hedging.begin(&policy, &channel, &origin);
        }
        let saved = (0..1000).filter(|_| hedging.spend(&channel)).count();
        assert_eq!(saved as u32, SAVED_MAX);
    }

    #[test]
    fn memory_is_bounded() {
        let mut hedging = Hedging::default();
        for nth in 0..3 * CHANNELS_MAX {
            hedging.took(&policy(50, 5), &format!("c{nth}").into(), &"o".into(), ms(1));
            assert!(hedging.channels.len() <= CHANNELS_MAX);
        }
    }
}
