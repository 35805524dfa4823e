//! Entries become sums, in memory: what one transaction adds to the store.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::entry::{Entry, Source};
use super::measures::Sums;
use super::window::{STEPS, Seen, Window};

/// Milliseconds of a minute, an hour and a day. UTC has no summer time, and Unix time no leap seconds.
pub(crate) const STEP_MS: [u64; STEPS] = [60_000, 3_600_000, 86_400_000];
/// The hour's place in it.
pub(crate) const HOUR: usize = 1;
/// Most runs and CMCD sessions of one session.
pub(crate) const MAX_STREAMS: u32 = 64;
/// What is beyond the limit of a channel is counted as this region, provider, platform and SDK.
pub(crate) const OTHER: &str = "other";
/// Most rows that are remembered as being in the store.
const MAX_KNOWN: usize = 1 << 20;

/// Digest of a session and a stream in it.
pub(crate) type SessionId = [u8; 16];

/// What is remembered of a session's stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Session {
    pub(crate) window: Window,
    /// Streams of the session; kept with the one that has no name.
    pub(crate) streams: u32,
    pub(crate) seen_ms: u64,
}

/// Region, provider, platform and SDK.
pub(crate) type Dimensions = [Arc<str>; 4];

/// What a row of a step is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) bucket: u64,
    pub(crate) tenant: Arc<str>,
    pub(crate) channel: Arc<str>,
    pub(crate) dimensions: Dimensions,
}

/// What a row by the hour is of: tenant, channel, and session or provider.
pub(crate) type HourKey = (u64, Arc<str>, Arc<str>, Arc<str>);

/// What became of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RolledUp {
    /// Counted now.
    pub counted: u64,
    /// Counted before.
    pub duplicate: u64,
    /// Too old to tell: dropped.
    pub late: u64,
    /// Of more runs of one session than are told apart: dropped.
    pub runs: u64,
    /// Rows that went to `other`.
    pub folded: u64,
}

/// Sums of a batch of entries.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) sessions: HashMap<SessionId, Session>,
    pub(crate) steps: [HashMap<Key, Sums>; STEPS],
    /// Edge, direct and peers' bytes.
    pub(crate) usage: HashMap<HourKey, [u64; 3]>,
    pub(crate) providers: HashMap<HourKey, u64>,
    pub(crate) rolled: RolledUp,
    pub(crate) newest_ms: u64,
}

/// The sessions that entries are of: what must be known before they are added.
pub(crate) fn sessions(entries: &[Entry]) -> HashSet<SessionId> {
    let of_players = entries.iter().filter(|entry| entry.source != Source::Observed);
    of_players.flat_map(|entry| [viewer(entry), stream(entry)]).collect()
}

impl Tally {
    /// With what the store knows of the sessions.
    pub(crate) fn new(sessions: HashMap<SessionId, Session>) -> Self {
        Self { sessions, ..Self::default() }
    }

    /// Adds an entry's reports, those that were not counted before.
    pub(crate) fn add(&mut self, entry: &Entry) {
        let ms = entry.received_ms;
        self.newest_ms = self.newest_ms.max(ms);
        let observed = entry.source == Source::Observed;
        if !observed && !self.begin(entry) {
            self.rolled.runs += entry.reports.len() as u64;
            return;
        }
        let (viewer, stream) = if observed { ([0; 16], [0; 16]) } else { (viewer(entry), stream(entry)) };
        let mut names = Names::default();
        for report in &entry.reports {
            if !observed && report.seq > 0 {
                match self.sessions.entry(stream).or_default().window.take(report.seq) {
                    Seen::New => {}
                    Seen::Duplicate => {
                        self.rolled.duplicate += 1;
                        continue;
                    }
                    Seen::Late => {
                        self.rolled.late += 1;
                        continue;
                    }
                }
            }
            self.rolled.counted += 1;
            let mut sums = Sums::of(report);
            let dimensions = [
                Arc::clone(&entry.region),
                Arc::clone(&entry.isp),
                names.platform.of(Entry::own(&report.platform, &entry.platform)),
                names.sdk.of(Entry::own(&report.sdk, &entry.sdk)),
            ];
            for (step, length) in STEP_MS.into_iter().enumerate() {
                let bucket = ms / length;
                let counts = !observed && self.sessions.entry(viewer).or_default().window.mark(step, bucket);
                sums.viewers = counts.into();
                let key = Key {
                    bucket,
                    tenant: Arc::clone(&entry.tenant),
                    channel: Arc::clone(&entry.channel),
                    dimensions: dimensions.clone(),
                };
                self.steps[step].entry(key).or_default().add(&sums);
            }
            let hour = ms / STEP_MS[HOUR];
            let key = |last: Arc<str>| (hour, Arc::clone(&entry.tenant), Arc::clone(&entry.channel), last);
            let usage = [report.edge_bytes, report.direct_bytes, report.p2p_in_bytes];
            if usage != [0; 3] {
                let sum = self.usage.entry(key(Arc::clone(&entry.session))).or_default();
                sum.iter_mut().zip(usage).for_each(|(sum, bytes)| *sum = sum.saturating_add(bytes));
            }
            // What no provider is told of belongs to none.
            let mut rest = report.direct_bytes;
            for provider in &report.direct {
                rest = rest.saturating_sub(provider.bytes);
                let sum = self.providers.entry(key(provider.name.as_str().into())).or_default();
                *sum = sum.saturating_add(provider.bytes);
            }
            if rest > 0 {
                let sum = self.providers.entry(key("".into())).or_default();
                *sum = sum.saturating_add(rest);
            }
        }
    }

    /// Notes that the session is here. False: it has too many streams for another.
    fn begin(&mut self, entry: &Entry) -> bool {
        let (viewer, stream) = (viewer(entry), stream(entry));
        if viewer != stream && !self.sessions.contains_key(&stream) {
            let session = self.sessions.entry(viewer).or_default();
            if session.streams >= MAX_STREAMS {
                return false;
            }
            session.streams += 1;
        }
        for id in [viewer, stream] {
            let session = self.sessions.entry(id).or_default();
            session.seen_ms = session.seen_ms.max(entry.received_ms);
        }
        true
    }
}

/// The same text again and again is one text in memory.
#[derive(Default)]
struct Names {
    platform: Name,
    sdk: Name,
}

#[derive(Default)]
struct Name(Option<Arc<str>>);

impl Name {
    fn of(&mut self, text: &str) -> Arc<str> {
        match &self.0 {
            Some(last) if **last == *text => Arc::clone(last),
            _ => Arc::clone(self.0.insert(text.into())),
        }
    }
}

/// The session's row without a stream: what says when it was counted as a viewer.
fn viewer(entry: &Entry) -> SessionId {
    digest(entry, "", "")
}

/// The row that sequence numbers count in.
fn stream(entry: &Entry) -> SessionId {
    match entry.source {
        Source::Sdk if entry.stream.is_empty() => viewer(entry),
        Source::Sdk => digest(entry, "run", &entry.stream),
        Source::Cmcd | Source::Observed => digest(entry, "sid", &entry.stream),
    }
}

fn digest(entry: &Entry, kind: &str, stream: &str) -> SessionId {
    let mut hash = Sha256::new();
    for part in [&*entry.tenant, &*entry.channel, &*entry.session, kind, stream] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let whole: [u8; 32] = hash.finalize().into();
    let mut id = SessionId::default();
    id.copy_from_slice(&whole[..16]);
    id
}

/// Step, bucket, tenant and channel.
type ChannelBucket = (usize, u64, Arc<str>, Arc<str>);

/// Rows that a bucket of a channel has, so that there are not too many. Those of other instances since are not in it: each has
/// the limit of its own.
#[derive(Default)]
pub(crate) struct Known {
    /// Digests of dimensions.
    buckets: HashMap<ChannelBucket, HashSet<u64>>,
    rows: usize,
}

impl Known {
    /// Folds what is beyond `limit` rows of each bucket and channel into [`OTHER`]; how many rows were folded. `load` gives the
    /// rows that the store has of a bucket.
    pub(crate) fn fold<E>(
        &mut self,
        step: usize,
        rows: HashMap<Key, Sums>,
        limit: usize,
        mut load: impl FnMut(&Key) -> Result<Vec<Dimensions>, E>,
    ) -> Result<(HashMap<Key, Sums>, u64), E> {
        if self.rows > MAX_KNOWN {
            *self = Self::default();
        }
        let mut result: HashMap<Key, Sums> = HashMap::with_capacity(rows.len());
        let mut folded = 0;
        let other: Arc<str> = OTHER.into();
        for (mut key, sums) in rows {
            let bucket = (step, key.bucket, Arc::clone(&key.tenant), Arc::clone(&key.channel));
            let known = match self.buckets.entry(bucket) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(place) => {
                    let loaded: HashSet<u64> = load(&key)?.iter().map(hash).collect();
                    self.rows += loaded.len() + 1;
                    place.insert(loaded)
                }
            };
            let hashed = hash(&key.dimensions);
            if known.len() < limit {
                self.rows += usize::from(known.insert(hashed));
            } else if !known.contains(&hashed) {
                key.dimensions = std::array::from_fn(|_| Arc::clone(&other));
                folded += 1;
            }
            result.entry(key).or_default().add(&sums);
        }
        Ok((result, folded))
    }
}

fn hash(dimensions: &Dimensions) -> u64 {
    let mut hasher = DefaultHasher::new();
    dimensions.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use shoal_report::{Provider, Report};

    use super::*;

    fn entry(session: &str, seqs: &[u64]) -> Entry {
        let report = |seq: &u64| Report { seq: *seq, edge_bytes: 10, ..Report::default() };
        Entry {
            received_ms: 1_700_000_000_000,
            tenant: "acme".into(),
            channel: "room".into(),
            session: session.into(),
            sdk: "js/1".into(),
            reports: seqs.iter().map(report).collect(),
            ..Entry::default()
        }
    }

    #[test]
    fn duplicates_and_viewers_count_once_whatever_the_stream() {
        let mut tally = Tally::default();
        tally.add(&entry("a", &[1, 2, 2, 3]));
        tally.add(&entry("a", &[3, 4]));
        tally.add(&Entry { stream: "again".into(), ..entry("a", &[1]) });
        tally.add(&Entry { source: Source::Cmcd, stream: "sid".into(), ..entry("a", &[1, 0, 0]) });
        tally.add(&Entry { source: Source::Observed, ..entry("a", &[1, 1]) });
        tally.add(&Entry { tenant: "other".into(), ..entry("a", &[1]) });
        assert_eq!(tally.rolled, RolledUp { counted: 11, duplicate: 2, ..RolledUp::default() });
        for step in &tally.steps {
            let of = |tenant: &str| step.iter().find(|(key, _)| &*key.tenant == tenant).unwrap().1;
            assert_eq!((of("acme").viewers, of("acme").reports, of("acme").edge_bytes), (1, 10, 100));
            assert_eq!((of("other").viewers, of("other").reports), (1, 1));
        }
        assert_eq!(tally.usage.values().map(|[edge, ..]| edge).sum::<u64>(), 110);
        let known = sessions(&[entry("a", &[1]), Entry { stream: "again".into(), ..entry("a", &[1]) }]);
        assert_eq!(known.len(), 2);
        assert!(known.iter().all(|id| tally.sessions.contains_key(id)));
    }

    #[test]
    fn direct_bytes_go_to_their_providers() {
        let mut entry = entry("a", &[1]);
        entry.reports[0].direct_bytes = 10;
        entry.reports[0].direct = vec![Provider { name: "cdn".into(), bytes: 7 }];
        let mut tally = Tally::default();
        tally.add(&entry);
        let of = |provider: &str| tally.providers.iter().find(|(key, _)| &*key.3 == provider).map(|(_, bytes)| *bytes);
        assert_eq!((of("cdn"), of("")), (Some(7), Some(3)));
    }

    #[test]
    fn a_session_cannot_have_streams_without_end() {
        let mut tally = Tally::default();
        for stream in 0..100 {
            tally.add(&Entry { stream: format!("run {stream}"), ..entry("a", &[1]) });
        }
        assert_eq!(tally.rolled, RolledUp { counted: 64, runs: 36, ..RolledUp::default() });
        assert_eq!(tally.sessions.len(), 65);
    }

    #[test]
    fn rows_beyond_the_limit_are_folded_and_nothing_is_lost() {
        let mut known = Known::default();
        let mut all = Sums::default();
        let mut seen = HashSet::new();
        for round in 0..5 {
            let mut tally = Tally::default();
            for number in 0..40 {
                let sdk = format!("sdk {}", number + round * 20);
                tally.add(&Entry { sdk, ..entry(&format!("s{round}-{number}"), &[1]) });
            }
            let [minutes, ..] = tally.steps;
            let loads = std::cell::Cell::new(0);
            let (rows, folded) = known
                .fold(0, minutes, 50, |_| {
                    loads.set(loads.get() + 1);
                    Ok::<_, ()>(Vec::new())
                })
                .unwrap();
            assert_eq!(loads.get(), u32::from(round == 0), "once for each bucket");
            assert_eq!(folded > 0, round >= 1);
            rows.values().for_each(|sums| all.add(sums));
            seen.extend(rows.into_keys());
        }
        assert_eq!((all.reports, all.viewers, all.edge_bytes), (200, 200, 2000));
        assert_eq!(seen.len(), 51);
        assert!(seen.iter().any(|key| key.dimensions.iter().all(|name| &**name == OTHER)));
    }
}
