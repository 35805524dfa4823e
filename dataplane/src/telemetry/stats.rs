//! One shard's numbers: written by that shard alone, read by whoever scrapes.
//!
//! A plain load and store is enough with a single writer, and costs no bus lock. Values of one scrape may be a few
//! operations apart from each other; none is ever lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::histogram::Histogram;
use super::metrics::{Counter, Gauge};

/// Distinct reasons kept apart in one table; the program has fewer.
pub const MAX_REASONS: usize = 128;
/// Origins kept apart on a shard; more share one series named `other`.
pub const MAX_ORIGINS: usize = 4_096;

/// Adds to a cell that only the calling thread writes.
pub(crate) fn bump(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
}

macro_rules! labels {
    ($(#[$doc:meta])* $enum:ident { $($id:ident = $label:literal $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $enum {
            $(#[doc = $help] $id,)*
        }

        impl $enum {
            /// All of them.
            pub const ALL: &[$enum] = &[$($enum::$id),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its label value.
            pub fn label(self) -> &'static str {
                match self {
                    $($enum::$id => $label,)*
                }
            }
        }
    };
}

labels! {
    /// Where an answer's body came from.
    CacheResult {
        Hit = "hit" "All of it was in RAM and fresh.";
        Disk = "disk" "It was fresh, and its first block came from disk.";
        Miss = "miss" "At least one block had to be fetched by this request.";
        Stale = "stale" "Served stale while its origins fail.";
        Revalidated = "revalidated" "The origin said that what RAM held is still right.";
        Coalesced = "coalesced" "From a fetch that another request had started.";
        Bypass = "bypass" "Fetched, and not kept.";
        None = "none" "No object was involved: refusals, preflights.";
    }
}

labels! {
    /// What went wrong with an origin.
    UpstreamError {
        Connect = "connect" "No connection.";
        Tls = "tls" "No TLS session: a certificate that does not verify, most often.";
        Timeout = "timeout" "Nothing came in time.";
        Status = "status" "A status that cannot be used.";
        Truncated = "truncated" "The body ended early.";
        Validator = "validator" "The object changed under way, or differs between origins.";
        BadHead = "bad_head" "The response head breaks HTTP, or contradicts the request.";
        Io = "io" "A file or socket failed otherwise.";
    }
}

/// Statuses with a series of their own.
const STATUSES: [u16; 31] = [
    100, 200, 204, 206, 301, 302, 304, 307, 308, 400, 403, 404, 405, 408, 410, 412, 413, 414, 416, 417, 421, 429, 431,
    451, 500, 501, 502, 503, 504, 505, 508,
];
/// The others: one series per class.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const STATUS_ROWS: usize = STATUSES.len() + CLASSES.len();
/// Latency is kept apart for these.
pub(crate) const LATENCY_LABELS: [&str; 3] = ["hit", "miss", "none"];

/// Numbers of origins by channel id and origin id.
type Origins = HashMap<(Arc<str>, Arc<str>), Arc<OriginStats>>;

/// All numbers of one shard. Aligned so that no two shards write to one cache line (or to the pair that is prefetched).
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardStats {
    counters: [AtomicU64; Counter::COUNT],
    gauges: [AtomicU64; Gauge::COUNT],
    requests: [[AtomicU64; CacheResult::COUNT]; STATUS_ROWS],
    refusals: Reasons,
    udp_drops: Reasons,
    turn_errors: Reasons,
    turn_refusals: Reasons,
    punch_refusals: Reasons,
    pub(crate) request_time: [Histogram; LATENCY_LABELS.len()],
    pub(crate) first_byte_time: [Histogram; LATENCY_LABELS.len()],
    ticks: AtomicU64,
    origins: Mutex<Origins>,
}

/// Counts by reason: labels in `snake_case`, each one of a fixed set.
#[derive(Debug)]
struct Reasons {
    counts: [Reason; MAX_REASONS],
    unnamed: AtomicU64,
}

#[derive(Debug)]
struct Reason {
    reason: OnceLock<&'static str>,
    count: AtomicU64,
}

impl Default for Reasons {
    fn default() -> Self {
        Self {
            counts: [const { Reason { reason: OnceLock::new(), count: AtomicU64::new(0) } }; MAX_REASONS],
            unnamed: AtomicU64::new(0),
        }
    }
}

impl Reasons {
    fn add(&self, reason: &'static str, n: u64) {
        bump(self.of(reason), n);
    }

    /// Sets a count to a total that is kept elsewhere.
    fn set_total(&self, reason: &'static str, total: u64) {
        if total > 0 {
            self.of(reason).store(total, Relaxed);
        }
    }

    fn of(&self, reason: &'static str) -> &AtomicU64 {
        let start = (reason.as_ptr() as usize >> 3).wrapping_add(reason.len());
        for probe in 0..MAX_REASONS {
            let Some(slot) = self.counts.get(start.wrapping_add(probe) % MAX_REASONS) else { continue };
            if *slot.reason.get_or_init(|| reason) == reason {
                return &slot.count;
            }
        }
        &self.unnamed
    }

    /// Each reason seen so far. The same text may come twice, when the linker kept two copies of it.
    fn each(&self, mut each: impl FnMut(&'static str, u64)) {
        for slot in &self.counts {
            if let Some(reason) = slot.reason.get() {
                each(reason, slot.count.load(Relaxed));
            }
        }
        match self.unnamed.load(Relaxed) {
            0 => {}
            count => each("other", count),
        }
    }
}

impl Default for ShardStats {
    fn default() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; Counter::COUNT],
            gauges: [const { AtomicU64::new(0) }; Gauge::COUNT],
            requests: [const { [const { AtomicU64::new(0) }; CacheResult::COUNT] }; STATUS_ROWS],
            refusals: Reasons::default(),
            udp_drops: Reasons::default(),
            turn_errors: Reasons::default(),
            turn_refusals: Reasons::default(),
            punch_refusals: Reasons::default(),
            request_time: Default::default(),
            first_byte_time: Default::default(),
            ticks: AtomicU64::new(0),
            origins: Mutex::default(),
        }
    }
}

impl ShardStats {
    /// Counts an answered request. `first_byte` and `total` run from the end of its head.
    pub fn request(&self, status: u16, cache: CacheResult, first_byte: Duration, total: Duration) {
        let row = self.requests.get(status_row(status)).and_then(|row| row.get(cache as usize));
        if let Some(cell) = row {
            bump(cell, 1);
        }
        let latency = match cache {
            CacheResult::Hit | CacheResult::Disk | CacheResult::Stale => 0,
            CacheResult::Miss | CacheResult::Revalidated | CacheResult::Coalesced | CacheResult::Bypass => 1,
            CacheResult::None => 2,
        };
        self.request_time[latency].record(total);
        self.first_byte_time[latency].record(first_byte);
    }

    /// Counts a refusal. `reason` is a label: `snake_case`, one of a fixed set.
    pub fn refusal(&self, reason: &'static str) {
        self.refusals.add(reason, 1);
    }

    /// Counts datagrams that were dropped, by a label as for refusals.
    pub fn udp_drop(&self, reason: &'static str, datagrams: u64) {
        self.udp_drops.add(reason, datagrams);
    }

    /// Error responses to TURN requests in all, by their code.
    pub fn turn_errors(&self, code: &'static str, total: u64) {
        self.turn_errors.set_total(code, total);
    }

    /// TURN requests without good credentials in all, by a label as for refusals.
    pub fn turn_refusals(&self, reason: &'static str, total: u64) {
        self.turn_refusals.set_total(reason, total);
    }

    /// Refusals of punching in all, by a label as for refusals.
    pub fn punch_refusals(&self, reason: &'static str, total: u64) {
        self.punch_refusals.set_total(reason, total);
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Counter, n: u64) {
        bump(&self.counters[counter as usize], n);
    }

    /// Sets a counter to a total that is kept elsewhere (a ring's own counts, the thread's CPU time).
    pub fn set_total(&self, counter: Counter, total: u64) {
        self.counters[counter as usize].store(total, Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Gauge, value: u64) {
        self.gauges[gauge as usize].store(value, Relaxed);
    }

    /// Says that the shard's loop is alive; at least once a second.
    pub fn tick(&self) {
        bump(&self.ticks, 1);
    }

    /// The numbers of an origin. Takes a lock: keep the handle as long as the origin is in use.
    pub fn origin(&self, channel: &str, origin: &str) -> Arc<OriginStats> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (Arc::from(channel), Arc::from(origin));
        if let Some(stats) = origins.get(&key) {
            return stats.clone();
        }
        if origins.len() >= MAX_ORIGINS {
            // Those that only this table still knows belong to channels that are gone.
            origins.retain(|_, stats| Arc::strong_count(stats) > 1);
        }
        if origins.len() >= MAX_ORIGINS {
            key = (Arc::from("other"), Arc::from("other"));
        }
        origins.entry(key).or_default().clone()
    }

    /// A counter's value.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Relaxed)
    }

    /// A gauge's value.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize].load(Relaxed)
    }

    /// Heartbeats so far.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Relaxed)
    }

    /// Requests answered, by where their bodies came from: in the order of [`CacheResult::ALL`].
    pub fn requests_by_cache(&self) -> [u64; CacheResult::COUNT] {
        let mut sums = [0_u64; CacheResult::COUNT];
        for row in &self.requests {
            for (sum, cell) in sums.iter_mut().zip(row) {
                *sum += cell.load(Relaxed);
            }
        }
        sums
    }

    /// Each (class, status, cache) that has counted anything.
    pub(crate) fn each_request(&self, mut each: impl FnMut([&str; 3], u64)) {
        for (index, row) in self.requests.iter().enumerate() {
            let status = STATUSES.get(index).map(u16::to_string);
            let class = match STATUSES.get(index) {
                Some(status) => CLASSES[usize::from(status / 100) - 1],
                None => CLASSES[index - STATUSES.len()],
            };
            for (cache, cell) in CacheResult::ALL.iter().zip(row) {
                match cell.load(Relaxed) {
                    0 => {}
                    count => each([class, status.as_deref().unwrap_or("other"), cache.label()], count),
                }
            }
        }
    }

    /// Each reason for a refusal seen so far.
    pub(crate) fn each_refusal(&self, each: impl FnMut(&'static str, u64)) {
        self.refusals.each(each);
    }

    /// Each reason for which datagrams were dropped so far.
    pub(crate) fn each_udp_drop(&self, each: impl FnMut(&'static str, u64)) {
        self.udp_drops.each(each);
    }

    /// Each error code of TURN responses so far.
    pub(crate) fn each_turn_error(&self, each: impl FnMut(&'static str, u64)) {
        self.turn_errors.each(each);
    }

    /// Each reason for which a TURN request was nobody's so far.
    pub(crate) fn each_turn_refusal(&self, each: impl FnMut(&'static str, u64)) {
        self.turn_refusals.each(each);
    }

    /// Each reason for which punching was refused so far.
    pub(crate) fn each_punch_refusal(&self, each: impl FnMut(&'static str, u64)) {
        self.punch_refusals.each(each);
    }

    /// Each (channel, origin) known.
    pub(crate) fn each_origin(&self, mut each: impl FnMut(&str, &str, &OriginStats)) {
        let origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        for ((channel, origin), stats) in origins.iter() {
            each(channel, origin, stats);
        }
    }
}

fn status_row(status: u16) -> usize {
    STATUSES.binary_search(&status).unwrap_or_else(|_| {
        let class = usize::from(status / 100).clamp(1, CLASSES.len());
        STATUSES.len() + class - 1
    })
}

/// One origin of one channel, as one shard sees it.
#[derive(Debug, Default)]
pub struct OriginStats {
    attempts: AtomicU64,
    errors: [AtomicU64; UpstreamError::COUNT],
    bytes: AtomicU64,
}

impl OriginStats {
    /// A request is sent, or tried to.
    pub fn attempt(&self) {
        bump(&self.attempts, 1);
    }

    /// An attempt failed.
    pub fn error(&self, kind: UpstreamError) {
        bump(&self.errors[kind as usize], 1);
    }

    /// Bytes came in, heads included.
    pub fn received(&self, bytes: u64) {
        bump(&self.bytes, bytes);
    }

    /// Requests sent, or tried to.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Relaxed)
    }

    /// Failed attempts of one kind.
    pub fn errors(&self, kind: UpstreamError) -> u64 {
        self.errors[kind as usize].load(Relaxed)
    }

    /// Bytes received.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_lands_in_its_class() {
        assert!(STATUSES.is_sorted(), "looked up by binary search");
        let stats = ShardStats::default();
        for status in [200, 418, 99, 999, 503] {
            stats.request(status, CacheResult::Miss, Duration::ZERO, Duration::ZERO);
        }
        let mut seen = Vec::new();
        stats.each_request(|[class, status, cache], count| seen.push(format!("{class} {status} {cache} {count}")));
        let expected = ["2xx 200 miss 1", "5xx 503 miss 1", "1xx other miss 1", "4xx other miss 1", "5xx other miss 1"];
        assert_eq!(seen, expected);
        stats.request(200, CacheResult::Disk, Duration::ZERO, Duration::ZERO);
        let by_cache = stats.requests_by_cache();
        assert_eq!((by_cache[CacheResult::Miss as usize], by_cache[CacheResult::Disk as usize]), (5, 1));
        assert_eq!(by_cache.iter().sum::<u64>(), 6);
    }

    #[test]
    fn reasons_are_interned_and_bounded() {
        let stats = ShardStats::default();
        let reasons: Vec<&'static str> =
            (0..MAX_REASONS + 2).map(|n| &*Box::leak(format!("reason_{n}").into_boxed_str())).collect();
        for reason in reasons.iter().chain(&reasons) {
            stats.refusal(reason);
        }
        let mut seen = HashMap::new();
        stats.each_refusal(|reason, count| *seen.entry(reason).or_insert(0) += count);
        assert_eq!(seen.len(), MAX_REASONS + 1);
        assert_eq!(seen["other"], 4);
        assert_eq!(seen["reason_0"], 2);
    }

    #[test]
    fn origins_that_are_gone_make_room() {
        let stats = ShardStats::default();
        let kept = stats.origin("kept", "a");
        kept.attempt();
        for n in 0..MAX_ORIGINS {
            stats.origin("gone", &n.to_string()).attempt();
        }
        stats.origin("kept", "a").attempt();
        assert_eq!(kept.attempts(), 2);
        let handles: Vec<_> = (0..MAX_ORIGINS + 5).map(|n| stats.origin("held", &n.to_string())).collect();
        let other = stats.origin("other", "other");
        assert!(Arc::ptr_eq(handles.last().unwrap(), &other));
        let mut known = 0;
        stats.each_origin(|_, _, _| known += 1);
        assert!(known <= MAX_ORIGINS + 1, "{known}");
    }
}
