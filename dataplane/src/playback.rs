//! What players say of their playback (CMCD), summed by viewer on its way to the control plane.
//!
//! Each shard owns a [`Table`]; every ten seconds it goes to the link by a queue with a bound. It is for statistics, so whatever finds no
//! room is dropped, newest first, and counted: nothing that is counted for money is here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use shoal_link::playback::{CMCD_ID_MAX, Playback};

use crate::routes::Channel;

/// How often a shard hands its table over.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(10);
/// Viewers that a shard keeps apart meanwhile.
pub const MAX_SESSIONS: usize = 16_384;
/// Viewers told of by one message.
const TOLD_AT_ONCE: usize = 1_024;
/// Messages that wait for the control plane.
const QUEUE: usize = 64;

/// What one request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Said<'a> {
    /// Session (`sid`).
    pub sid: Option<&'a str>,
    /// Content (`cid`).
    pub cid: Option<&'a str>,
    /// Streaming format (`sf`).
    pub sf: Option<&'a str>,
    /// Stream type (`st`).
    pub st: Option<&'a str>,
    /// Encoded bitrate (`br`), kbit/s.
    pub bitrate_kbps: Option<u64>,
    /// Length of the buffer (`bl`), milliseconds.
    pub buffer_ms: Option<u64>,
    /// Measured throughput (`mtp`), kbit/s.
    pub throughput_kbps: Option<u64>,
    /// The buffer ran empty (`bs`).
    pub starved: bool,
    /// It is urgent (`su`).
    pub startup: bool,
}

/// One shard's sums since its last flush.
#[derive(Debug)]
pub struct Table {
    /// By the channel's address, then by both names of the session.
    sums: HashMap<usize, HashMap<Box<str>, Playback>>,
    sessions: usize,
    max_sessions: usize,
    /// Where names are put together.
    name: String,
    dropped: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self { sums: HashMap::new(), sessions: 0, max_sessions: MAX_SESSIONS, name: String::new(), dropped: 0 }
    }
}

impl Table {
    /// Adds what a request said. `session` is that of its ticket, empty without one; `bytes` those of the body that it was sent.
    pub fn add(&mut self, channel: &Channel, session: &str, said: &Said<'_>, bytes: u64, now_ms: u64) {
        let sid = shortened(said.sid.unwrap_or_default());
        // A ticket's session has no control characters, so the two cannot run together.
        self.name.clear();
        self.name.extend([session, "\0", sid]);
        // The sums hold the channel's id: no other string can have its address meanwhile.
        let sums = self.sums.entry(Arc::as_ptr(&channel.id).cast::<u8>() as usize).or_default();
        if let Some(sum) = sums.get_mut(&*self.name) {
            add(sum, said, bytes, now_ms);
        } else if self.sessions >= self.max_sessions {
            self.dropped += 1;
        } else {
            let mut sum = empty(channel, session, sid, now_ms);
            add(&mut sum, said, bytes, now_ms);
            sums.insert(self.name.as_str().into(), sum);
            self.sessions += 1;
        }
    }

    /// Hands everything over; says how much found no room.
    pub fn flush(&mut self, queue: &Playbacks) -> u64 {
        self.sessions = 0;
        let mut left = std::mem::take(&mut self.sums).into_values().flat_map(HashMap::into_values);
        let mut lost = 0;
        loop {
            let some: Vec<Playback> = left.by_ref().take(TOLD_AT_ONCE).collect();
            if some.is_empty() {
                return lost;
            }
            lost += queue.push(some);
        }
    }

    /// Requests since the start whose viewer found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn empty(channel: &Channel, session: &str, sid: &str, now_ms: u64) -> Playback {
    Playback {
        tenant: Arc::clone(&channel.tenant),
        channel: Arc::clone(&channel.id),
        session: session.into(),
        sid: sid.into(),
        cid: None,
        sf: None,
        st: None,
        start_ms: now_ms,
        end_ms: now_ms,
        requests: 0,
        bytes: 0,
        starved: 0,
        startup: 0,
        buffer_min_ms: None,
        bitrate_sum_kbps: 0,
        bitrate_count: 0,
        bitrate_max_kbps: 0,
        throughput_kbps: None,
    }
}

fn add(sum: &mut Playback, said: &Said<'_>, bytes: u64, now_ms: u64) {
    sum.start_ms = sum.start_ms.min(now_ms);
    sum.end_ms = sum.end_ms.max(now_ms);
    sum.requests += 1;
    sum.bytes = sum.bytes.saturating_add(bytes);
    sum.starved += u64::from(said.starved);
    sum.startup += u64::from(said.startup);
    if let Some(buffer) = said.buffer_ms {
        sum.buffer_min_ms = Some(sum.buffer_min_ms.map_or(buffer, |least| least.min(buffer)));
    }
    if let Some(bitrate) = said.bitrate_kbps {
        sum.bitrate_sum_kbps = sum.bitrate_sum_kbps.saturating_add(bitrate);
        sum.bitrate_count += 1;
        sum.bitrate_max_kbps = sum.bitrate_max_kbps.max(bitrate);
    }
    sum.throughput_kbps = said.throughput_kbps.or(sum.throughput_kbps);
    for (place, text) in [(&mut sum.cid, said.cid), (&mut sum.sf, said.sf), (&mut sum.st, said.st)] {
        // Mostly it is what it was.
        if let Some(text) = text.map(shortened).filter(|text| place.as_deref() != Some(*text)) {
            *place = Some(text.into());
        }
    }
}

/// As much of it as is told on.
fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(CMCD_ID_MAX)).unwrap_or_default()
}

/// What waits for the control plane.
#[derive(Debug)]
pub struct Playbacks {
    queue: ArrayQueue<Vec<Playback>>,
}

impl Default for Playbacks {
    fn default() -> Self {
        Self { queue: ArrayQueue::new(QUEUE) }
    }
}

impl Playbacks {
    /// Adds a message; says how many viewers of it found no room.
    fn push(&self, some: Vec<Playback>) -> u64 {
        self.queue.push(some).err().map_or(0, |lost| lost.len() as u64)
    }

    /// The next message.
    pub fn take(&self) -> Option<Vec<Playback>> {
        self.queue.pop()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::channel;

    fn told(table: &mut Table) -> Vec<Playback> {
        let queue = Playbacks::default();
        assert_eq!(table.flush(&queue), 0);
        let mut all: Vec<Playback> = std::iter::from_fn(|| queue.take()).flatten().collect();
        all.sort_by(|a, b| (&a.session, &a.sid).cmp(&(&b.session, &b.sid)));
        all
    }

    #[test]
    fn requests_are_summed_by_viewer() {
        let channel = channel(json!({"origins": [{"id": "main", "url": "http://127.0.0.1:9/"}]}));
        let mut table = Table::default();
        let first = Said {
            sid: Some("s"),
            cid: Some("film"),
            st: Some("l"),
            bitrate_kbps: Some(3000),
            buffer_ms: Some(2000),
            throughput_kbps: Some(9000),
            startup: true,
            ..Said::default()
        };
        let second =
            Said { sid: Some("s"), bitrate_kbps: Some(1000), buffer_ms: Some(100), starved: true, ..Said::default() };
        table.add(&channel, "viewer", &first, 100, 5_000);
        table.add(&channel, "viewer", &second, 20, 4_000);
        table.add(&channel, "", &Said { sid: Some("s"), ..Said::default() }, 1, 6_000);
        let told = told(&mut table);
        assert_eq!(told.iter().map(|one| (&*one.session, &*one.sid)).collect::<Vec<_>>(), [("", "s"), ("viewer", "s")]);
        let viewer = Playback {
            tenant: "default".into(),
            channel: "a".into(),
            session: "viewer".into(),
            sid: "s".into(),
            cid: Some("film".into()),
            sf: None,
            st: Some("l".into()),
            start_ms: 4_000,
            end_ms: 5_000,
            requests: 2,
            bytes: 120,
            starved: 1,
            startup: 1,
            buffer_min_ms: Some(100),
            bitrate_sum_kbps: 4_000,
            bitrate_count: 2,
            bitrate_max_kbps: 3_000,
            throughput_kbps: Some(9_000),
        };
        assert_eq!(told[1], viewer);
        assert!(told_nothing(&mut table), "a flush empties it");
    }

    fn told_nothing(table: &mut Table) -> bool {
        told(table).is_empty()
    }

    #[test]
    fn the_newest_find_no_room_and_are_counted() {
        let channel = channel(json!({"origins": [{"id": "main", "url": "http://127.0.0.1:9/"}]}));
        let mut table = Table { max_sessions: 2, ..Table::default() };
        for sid in ["a", "b", "c", "a"] {
            table.add(&channel, "", &Said { sid: Some(sid), ..Said::default() }, 1, 0);
        }
        assert_eq!(table.dropped(), 1);
        let told = told(&mut table);
        assert_eq!(told.iter().map(|one| (&*one.sid, one.requests)).collect::<Vec<_>>(), [("a", 2), ("b", 1)]);
    }

    #[test]
    fn a_control_plane_that_is_away_costs_a_bounded_queue() {
        let channel = channel(json!({"origins": [{"id": "main", "url": "http://127.0.0.1:9/"}]}));
        let (mut table, queue) = (Table::default(), Playbacks::default());
        for round in 0..QUEUE + 2 {
            table.add(&channel, "", &Said::default(), 1, round as u64);
            assert_eq!(table.flush(&queue), u64::from(round >= QUEUE));
        }
        assert_eq!(std::iter::from_fn(|| queue.take()).count(), QUEUE);
    }

    #[test]
    fn long_names_are_cut() {
        let channel = channel(json!({"origins": [{"id": "main", "url": "http://127.0.0.1:9/"}]}));
        let mut table = Table::default();
        let long = "é".repeat(CMCD_ID_MAX);
        let said = Said { sid: Some(&long), cid: Some(&long), ..Said::default() };
        table.add(&channel, "", &said, 1, 0);
        let told = told(&mut table);
        assert_eq!((told[0].sid.len(), told[0].cid.as_ref().unwrap().len()), (CMCD_ID_MAX, CMCD_ID_MAX));
    }
}
