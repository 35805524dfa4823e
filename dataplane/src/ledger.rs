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
                tenant: tenant.to_string(),
                channel: channel.to_string(),
                session: session.into(),
                kind,
                origin: origin.to_string(),
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
        let table = std::mem::take(&mut self.table);
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
