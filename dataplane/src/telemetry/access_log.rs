//! One JSON line per request, formatted and written away from the shards.
//!
//! Shards push records into a bounded queue and never wait; the writer runs on the housekeeping side. No query is ever
//! logged, because it may hold a ticket, and no ticket, cookie or signature is part of a record.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use crossbeam::queue::ArrayQueue;
use serde::Serialize;

use super::stats::CacheResult;
use crate::ledger::unix_ms;

/// Records that may wait for the writer, some 10 MB; more are dropped and counted.
pub const QUEUE: usize = 65_536;
/// Records formatted before they are written.
const WRITE_BATCH: usize = 256;

/// One answered request.
#[derive(Debug, Clone)]
pub struct Record {
    /// When its head was complete.
    pub time: SystemTime,
    /// Shard that served it.
    pub shard: u16,
    /// The client, after PROXY protocol and trusted X-Forwarded-For.
    pub client: IpAddr,
    /// Request method.
    pub method: &'static str,
    /// Host as sent; empty when there was none.
    pub host: Box<str>,
    /// Path below the channel's prefix, or all of it when no channel admitted the request. Never with a query, or with the
    /// signature that some profiles put in front of a path.
    pub path: Box<str>,
    /// Channel id; empty when no channel matched.
    pub channel: Arc<str>,
    /// Session id; empty without one.
    pub session: Box<str>,
    /// Status sent.
    pub status: u16,
    /// Where the body came from.
    pub cache: CacheResult,
    /// Reason label of a refusal.
    pub refusal: Option<&'static str>,
    /// Why the answer broke off, as connections closed are counted by; none when it went out whole.
    pub broken: Option<&'static str>,
    /// Body bytes handed to the kernel.
    pub body_bytes: u64,
    /// From the head to the first byte.
    pub first_byte: Duration,
    /// From the head to the last byte.
    pub total: Duration,
}

/// The line of a record.
#[derive(Serialize)]
struct Line<'a> {
    time_ms: u64,
    shard: u16,
    client: IpAddr,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    channel: &'a str,
    session: &'a str,
    status: u16,
    cache: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<&'a str>,
    body_bytes: u64,
    first_byte_us: u64,
    total_us: u64,
}

/// Where shards put their records.
#[derive(Debug, Clone)]
pub struct AccessLogSink {
    queue: Arc<ArrayQueue<Record>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLogSink {
    /// Queues a record, or drops and counts it when the writer is behind.
    pub fn push(&self, record: Record) {
        if self.queue.push(record).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// The writing end.
#[derive(Debug)]
pub struct AccessLog {
    path: PathBuf,
    file: File,
    queue: Arc<ArrayQueue<Record>>,
    dropped: Arc<AtomicU64>,
    text: Vec<u8>,
}

impl AccessLog {
    /// Opens the file for appending, making it when missing.
    ///
    /// # Errors
    /// What keeps it from being opened.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let file = open(&path)?;
        let queue = Arc::new(ArrayQueue::new(QUEUE));
        Ok(Self { path, file, queue, dropped: Arc::default(), text: Vec::new() })
    }

    /// The end for shards.
    pub fn sink(&self) -> AccessLogSink {
        AccessLogSink { queue: self.queue.clone(), dropped: self.dropped.clone() }
    }

    /// Opens the file anew, after a rotation has renamed it. The old one stays in use when that fails.
    ///
    /// # Errors
    /// What keeps it from being opened.
    pub fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }

    /// Writes what is queued now.
    ///
    /// # Errors
    /// What the file said; the records of the failed write are dropped and counted.
    pub fn write_queued(&mut self) -> io::Result<()> {
        // What is pushed meanwhile is left for the next call, which bounds this one.
        let mut left = self.queue.len();
        while left > 0 {
            self.text.clear();
            let batch = left.min(WRITE_BATCH);
            let mut taken = 0;
            while taken < batch {
                let Some(record) = self.queue.pop() else { break };
                taken += 1;
                format(&record, &mut self.text);
            }
            if let Err(error) = self.file.write_all(&self.text) {
                self.dropped.fetch_add(taken as u64, Relaxed);
                return Err(error);
            }
            if taken < batch {
                break;
            }
            left -= taken;
        }
        Ok(())
    }

    /// Records dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

fn open(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn format(record: &Record, text: &mut Vec<u8>) {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let line = Line {
        time_ms: unix_ms(record.time),
        shard: record.shard,
        client: record.client,
        method: record.method,
        host: &record.host,
        // Defence in depth: whoever fills the record, no query gets out.
        path: record.path.split('?').next().unwrap_or_default(),
        channel: &record.channel,
        session: &record.session,
        status: record.status,
        cache: record.cache.label(),
        refusal: record.refusal,
        broken: record.broken,
        body_bytes: record.body_bytes,
        first_byte_us: micros(record.first_byte),
        total_us: micros(record.total),
    };
    let start = text.len();
    match serde_json::to_writer(&mut *text, &line) {
        Ok(()) => text.push(b'\n'),
        // Strings and numbers always have a JSON form; half a line would still spoil the file.
        Err(_) => text.truncate(start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &str) -> Record {
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
            shard: 1,
            client: IpAddr::from([127, 0, 0, 1]),
            method: "GET",
            host: "edge".into(),
            path: path.into(),
            channel: "demo".into(),
            session: "s1".into(),
            status: 206,
            cache: CacheResult::Hit,
            refusal: None,
            broken: Some("memory"),
            body_bytes: 7,
            first_byte: Duration::from_micros(3),
            total: Duration::from_micros(9),
        }
    }

    #[test]
    fn lines_are_json_and_survive_a_rotation() {
        let folder = crate::testing::folder();
        let path = folder.path().join("access.log");
        let mut log = AccessLog::open(path.clone()).unwrap();
        let sink = log.sink();
        sink.push(record("/demo/a \"quoted\"\n.ts?sign=secret"));
        log.write_queued().unwrap();
        let rotated = folder.path().join("access.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        log.reopen().unwrap();
        sink.push(record("/demo/b.ts"));
        log.write_queued().unwrap();

        let first = std::fs::read_to_string(rotated).unwrap();
        assert!(!first.contains("secret"), "{first}");
        let line: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert_eq!(line["path"], "/demo/a \"quoted\"\n.ts");
        assert_eq!((&line["status"], &line["broken"]), (&206.into(), &"memory".into()));
        assert_eq!(line["time_ms"], 5_000);
        let second = std::fs::read_to_string(path).unwrap();
        assert_eq!(second.lines().count(), 1);
        assert!(second.contains("/demo/b.ts"));
    }

    #[test]
    fn a_full_queue_and_a_full_disk_drop_and_count() {
        let mut log = AccessLog::open("/dev/full".into()).unwrap();
        let sink = log.sink();
        for _ in 0..QUEUE + 3 {
            sink.push(record("/x"));
        }
        assert_eq!(log.dropped(), 3);
        assert!(log.write_queued().is_err());
        assert_eq!(log.dropped(), 3 + WRITE_BATCH as u64);
    }
}
