//! What a shard delivered, summed until the next flush.
//!
//! Each shard owns a [`Recorder`]. Recording is a hash lookup and three additions; a flush hands the whole table to the
//! spool through a bounded queue. When that queue is full the table stays, grows on, and goes with the next flush: bytes
//! are never dropped. When there are too many sessions, new ones are counted under their channel alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use shoal_link::ledger::{Entry, Kind};

/// How often a shard flushes. With the spool's interval it bounds what a kill loses to one second.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(400);
/// Sessions one shard keeps apart between two flushes.
pub const MAX_SESSIONS: usize = 65_536;
/// Flushes of one shard that may wait for the spool.
const QUEUED_PER_SHARD: usize = 4;

/// What a flow of bytes belongs to, but for the session. The `Arc`s are compared by address, so they should live as
/// long as the snapshot they come from.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// Tenant id.
    pub tenant: &'a Arc<str>,
    /// Channel id.
    pub channel: &'a Arc<str>,
    /// What the bytes are for.
    pub kind: Kind,
    /// Origin id for [`Kind::Upstream`], else empty.
    pub origin: &'a Arc<str>,
}

/// What is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Requests answered or made.
    pub requests: u64,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// Bytes of bodies, heads and framing.
    pub wire_bytes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.body_bytes += other.body_bytes;
        self.wire_bytes += other.wire_bytes;
    }
}

/// Sums of one shard over one interval, on its way to the spool.
#[derive(Debug)]
pub struct Flush {
    /// Unix milliseconds of the first record.
    pub start_ms: u64,
    /// Unix milliseconds of the flush.
    pub end_ms: u64,
    table: Table,
}

impl Flush {
    /// The sums. A key may come twice, when a snapshot was replaced meanwhile.
    pub fn entries(self) -> impl Iterator<Item = Entry> {
        self.table.into_values().flat_map(|row| {
            let Row { tenant, channel, kind, origin, whole, sessions } = row;
            let whole = (whole != Usage::default()).then_some((Box::from(""), whole));
            whole.into_iter().chain(sessions).map(move |(session, usage)| Entry {
                tenant: tenant.clone(),
                channel: channel.clone(),
                session,
                kind,
                origin: origin.clone(),
                requests: usage.requests,
                body_bytes: usage.body_bytes,
                wire_bytes: usage.wire_bytes,
            })
        })
    }
}

type Table = HashMap<(usize, usize, usize, Kind), Row>;

#[derive(Debug)]
struct Row {
    // Held, so that no other string can take their address while the row lives.
    tenant: Arc<str>,
    channel: Arc<str>,
    origin: Arc<str>,
    kind: Kind,
    /// Without a session, or with its session shed.
    whole: Usage,
    sessions: HashMap<Box<str>, Usage>,
}

/// Where shards put their flushes.
#[derive(Debug, Clone)]
pub struct LedgerSink {
    sender: Sender<Flush>,
}

/// The queue between shards and spool.
pub fn queue(shards: usize) -> (LedgerSink, Receiver<Flush>) {
    let (sender, receiver) = bounded(shards.max(1) * QUEUED_PER_SHARD);
    (LedgerSink { sender }, receiver)
}

/// One shard's sums since its last flush.
#[derive(Debug)]
pub struct Recorder {
    sink: LedgerSink,
    table: Table,
    sessions: usize,
    max_sessions: usize,
    start_ms: u64,
    shed: u64,
}

impl Recorder {
    /// An empty one.
    pub fn new(sink: LedgerSink) -> Self {
        Self { sink, table: Table::new(), sessions: 0, max_sessions: MAX_SESSIONS, start_ms: 0, shed: 0 }
    }

    /// Adds usage. `session` is empty for a channel without tickets. May be called many times for one transfer.
    pub fn record(&mut self, flow: Flow<'_>, session: &str, usage: Usage) {
        if self.table.is_empty() {
            self.start_ms = unix_ms(SystemTime::now());
        }
        let address = |text: &Arc<str>| Arc::as_ptr(text).cast::<u8>() as usize;
        let key = (address(flow.tenant), address(flow.channel), address(flow.origin), flow.kind);
        let row = self.table.entry(key).or_insert_with(|| Row {
            tenant: flow.tenant.clone(),
            channel: flow.channel.clone(),
            origin: flow.origin.clone(),
            kind: flow.kind,
            whole: Usage::default(),
            sessions: HashMap::new(),
        });
        if session.is_empty() {
            row.whole += usage;
        } else if let Some(sum) = row.sessions.get_mut(session) {
            *sum += usage;
        } else if self.sessions < self.max_sessions {
            self.sessions += 1;
            row.sessions.insert(session.into(), usage);
        } else {
            self.shed += 1;
            row.whole += usage;
        }
    }

    /// Hands everything to the spool. False when its queue is full: nothing is lost, try again at the next flush (or
    /// soon, when this is the last).
    #[must_use]
    pub fn flush(&mut self, now: SystemTime) -> bool {
        if self.table.is_empty() {
            return true;
        }
        // As much is likely to come again, and a table that grows is written twice.
        let next = Table::with_capacity(self.table.len());
        let table = std::mem::replace(&mut self.table, next);
        // A clock that was set back must not turn the interval round.
        let end_ms = unix_ms(now).max(self.start_ms);
        match self.sink.sender.try_send(Flush { start_ms: self.start_ms, end_ms, table }) {
            Ok(()) => {
                self.sessions = 0;
                true
            }
            Err(TrySendError::Full(flush) | TrySendError::Disconnected(flush)) => {
                self.table = flush.table;
                false
            }
        }
    }

    /// Entries waiting for the next flush.
    pub fn pending(&self) -> usize {
        self.table.len() + self.sessions
    }

    /// Records since the start whose session was not kept apart.
    pub fn shed(&self) -> u64 {
        self.shed
    }
}

/// Milliseconds since 1970.
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(4_000_000_000);

    fn usage(body: u64) -> Usage {
        Usage { requests: 1, body_bytes: body, wire_bytes: body + 100 }
    }

    fn names() -> [Arc<str>; 3] {
        ["tenant".into(), "channel".into(), "".into()]
    }

    fn client<'a>([tenant, channel, origin]: &'a [Arc<str>; 3]) -> Flow<'a> {
        Flow { tenant, channel, kind: Kind::Client, origin }
    }

    fn drained(receiver: &Receiver<Flush>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = receiver.try_iter().flat_map(Flush::entries).collect();
        entries.sort_by(|a, b| (&a.session, a.body_bytes).cmp(&(&b.session, b.body_bytes)));
        entries
    }

    #[test]
    fn usage_is_summed_by_key_and_flushed_once() {
        let (sink, receiver) = queue(1);
        let mut recorder = Recorder::new(sink);
        let names = names();
        let main: Arc<str> = "main".into();
        recorder.record(client(&names), "s", usage(1));
        recorder.record(client(&names), "s", usage(2));
        recorder.record(client(&names), "", usage(4));
        recorder.record(Flow { kind: Kind::Upstream, origin: &main, ..client(&names) }, "", usage(8));
        assert_eq!(recorder.pending(), 3);
        assert!(recorder.flush(UNIX_EPOCH + NOW));
        assert_eq!(recorder.pending(), 0);
        assert!(recorder.flush(UNIX_EPOCH + NOW), "nothing to flush is fine");

        let flush = receiver.try_recv().unwrap();
        assert!(receiver.is_empty());
        assert!(flush.start_ms <= flush.end_ms && flush.end_ms == unix_ms(UNIX_EPOCH + NOW));
        let mut found: Vec<_> = flush
            .entries()
            .map(|e| (e.session.to_string(), e.kind, e.origin.to_string(), e.requests, e.body_bytes, e.wire_bytes))
            .collect();
        found.sort();
        let expected = [
            (String::new(), Kind::Client, String::new(), 1, 4, 104),
            (String::new(), Kind::Upstream, "main".to_owned(), 1, 8, 108),
            ("s".to_owned(), Kind::Client, String::new(), 2, 3, 203),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_full_queue_keeps_everything_for_the_next_flush() {
        let (sink, receiver) = queue(1);
        let mut recorder = Recorder::new(sink);
        let names = names();
        let mut refused = 0;
        for n in 0..QUEUED_PER_SHARD + 3 {
            recorder.record(client(&names), "s", usage(1 << n));
            refused += usize::from(!recorder.flush(UNIX_EPOCH + NOW));
        }
        assert_eq!(refused, 3);
        let before: u64 = drained(&receiver).iter().map(|entry| entry.body_bytes).sum();
        assert!(recorder.flush(UNIX_EPOCH + NOW));
        let after: u64 = drained(&receiver).iter().map(|entry| entry.body_bytes).sum();
        assert_eq!(before + after, (1 << (QUEUED_PER_SHARD + 3)) - 1);
    }

    #[test]
    fn too_many_sessions_are_counted_under_their_channel() {
        let (sink, receiver) = queue(1);
        let mut recorder = Recorder { max_sessions: 2, ..Recorder::new(sink) };
        let names = names();
        for session in ["a", "b", "c", "d", "a"] {
            recorder.record(client(&names), session, usage(1));
        }
        assert_eq!((recorder.shed(), recorder.pending()), (2, 3));
        assert!(recorder.flush(UNIX_EPOCH + NOW));
        let found: Vec<_> = drained(&receiver).into_iter().map(|entry| (entry.session, entry.body_bytes)).collect();
        assert_eq!(found, [("".into(), 2), ("a".into(), 2), ("b".into(), 1)]);
        recorder.record(client(&names), "c", usage(1));
        assert_eq!(recorder.shed(), 2, "a flush makes room");
    }

    #[test]
    fn a_clock_set_back_does_not_turn_the_interval_round() {
        let (sink, receiver) = queue(1);
        let mut recorder = Recorder::new(sink);
        recorder.record(client(&names()), "", usage(1));
        assert!(recorder.flush(UNIX_EPOCH));
        let flush = receiver.try_recv().unwrap();
        assert!(flush.start_ms <= flush.end_ms);
    }
}
