//! A log-linear histogram of microseconds with one writer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::stats::bump;

/// Linear steps per power of two: a bucket's bounds are at most 25 % apart.
const STEPS_LOG2: u32 = 2;
/// First bound is 2^4 = 16 µs.
const FIRST_LOG2: u32 = 4;
/// Last bound is 2^26 µs = 67 s; what is longer counts in the sum and in +Inf only.
const LAST_LOG2: u32 = 26;
/// Bounded buckets.
pub const BUCKETS: usize = ((LAST_LOG2 - FIRST_LOG2) << STEPS_LOG2) as usize + 1;

/// Counts per bucket, and the exact sum.
#[derive(Debug)]
pub struct Histogram {
    /// The last is +Inf.
    counts: [AtomicU64; BUCKETS + 1],
    /// Microseconds.
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; BUCKETS + 1], sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one duration. Only for the thread that owns the histogram.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX >> 8);
        if let Some(count) = self.counts.get(bucket(micros)) {
            bump(count, 1);
        }
        bump(&self.sum, micros);
    }

    /// Adds this to `total`.
    pub fn fold(&self, total: &mut Folded) {
        for (sum, count) in total.counts.iter_mut().zip(&self.counts) {
            *sum += count.load(Relaxed);
        }
        total.sum_us = total.sum_us.wrapping_add(self.sum.load(Relaxed));
    }
}

/// The sum of several histograms.
#[derive(Debug, Clone)]
pub struct Folded {
    /// Counts per bucket, not cumulative; the last is +Inf.
    pub counts: [u64; BUCKETS + 1],
    /// Microseconds.
    pub sum_us: u64,
}

impl Default for Folded {
    fn default() -> Self {
        Self { counts: [0; BUCKETS + 1], sum_us: 0 }
    }
}

/// The bucket of a duration: the first whose bound is not below it.
fn bucket(micros: u64) -> usize {
    let above = micros.saturating_sub(1);
    if above < 1 << FIRST_LOG2 {
        return 0;
    }
    let log2 = above.ilog2();
    if log2 >= LAST_LOG2 {
        return BUCKETS;
    }
    let step = (above >> (log2 - STEPS_LOG2)) & ((1 << STEPS_LOG2) - 1);
    (((log2 - FIRST_LOG2) << STEPS_LOG2) as usize) + step as usize + 1
}

/// Upper bound of a bucket, inclusive, in microseconds.
pub fn bound_us(bucket: usize) -> u64 {
    let (log2, step) = ((bucket >> STEPS_LOG2) as u32 + FIRST_LOG2, (bucket & ((1 << STEPS_LOG2) - 1)) as u64);
    (1 << log2) + (step << (log2 - STEPS_LOG2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_within_its_bucket_bounds() {
        for micros in (0..200_000).chain((1..64).map(|shift| 1 << shift)).chain([67_108_864, 67_108_865]) {
            let index = bucket(micros);
            if index < BUCKETS {
                assert!(micros <= bound_us(index), "{micros} above bucket {index}");
            }
            if index > 0 {
                assert!(micros > bound_us(index - 1), "{micros} not above bucket {}", index - 1);
            }
        }
        assert_eq!(bound_us(0), 16);
        assert_eq!(bound_us(BUCKETS - 1), 1 << LAST_LOG2);
        assert_eq!(bucket(u64::MAX), BUCKETS);
    }

    #[test]
    fn folding_adds_counts_and_sums() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.record(Duration::from_micros(10));
        b.record(Duration::from_micros(10));
        b.record(Duration::from_secs(100));
        let mut total = Folded::default();
        a.fold(&mut total);
        b.fold(&mut total);
        assert_eq!((total.counts[0], total.counts[BUCKETS], total.sum_us), (2, 1, 100_000_020));
    }
}
