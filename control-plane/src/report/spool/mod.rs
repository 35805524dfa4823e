//! The append-only spool: what was acknowledged is in it, on the disk, until it is rolled up and exported.
//!
//! Segments `NUMBER.seg` follow each other; only the newest is written. A segment is
//!
//! ```text
//! "SHOALSP1"   number u64   created u64 (Unix ms)             then records, each
//! length u32   crc32 u32 (of length and payload)   payload    all little-endian
//! ```
//!
//! One thread writes: it takes all that waits, writes it, syncs once, and acknowledges all of it. A record that is cut at the
//! end of the newest segment was never acknowledged; opening the spool cuts it off. Segments are never written again after the
//! process ended, or after an error: what the kernel holds of a file whose sync failed is unknown.

mod disk;
mod read;
mod segment;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use self::disk::Files;
use self::writer::Writer;
use super::metrics::Metrics;
use crate::store::now_ms;

pub(super) use disk::{create_dir, sync_dir};
pub use read::Chunk;
pub use segment::{MAX_RECORD, Position};

/// Most records that wait for the writer; bytes have a limit of their own.
const QUEUE: usize = 16_384;
/// Most bytes that are written before a sync.
const COMMIT_BYTES: usize = 16 << 20;
/// How often the writer looks whether a segment that nobody writes to is old.
const IDLE: Duration = Duration::from_millis(500);
/// Bytes of an instance's id, in hex digits.
const ID_DIGITS: usize = 32;

/// Limits of a spool.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A segment is finished at this many bytes,
    pub segment_bytes: u64,
    /// or at this age in milliseconds; and at the hour.
    pub segment_ms: u64,
    /// Most bytes that wait for the writer.
    pub queue_bytes: u64,
    /// Most bytes of all segments.
    pub spool_bytes: u64,
}

/// A spool that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("reports: {}: {source}; the spool's folder must be writable, and the file be one of a spool", path.display())]
pub struct SpoolError {
    /// File or folder.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

/// Why a record is not in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much waits for the writer.
    #[error("more reports wait to be written than are allowed; send them again a little later")]
    Busy,
    /// No room.
    #[error("the spool of reports is full; send them again later")]
    Full,
    /// The disk failed.
    #[error("reports cannot be written to the disk now; send them again later")]
    Failed,
}

/// What is known of a segment on the disk.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Bytes that are whole and synced.
    len: u64,
    /// Nothing more is written to it.
    finished: bool,
    /// Unix milliseconds.
    created_ms: u64,
    /// A record in the middle of it was not good.
    damaged: bool,
}

type Segments = Arc<Mutex<BTreeMap<u64, Known>>>;

/// The spool of one instance.
pub struct Spool {
    dir: PathBuf,
    id: String,
    queue: Option<SyncSender<Job>>,
    queued: Arc<AtomicU64>,
    segments: Segments,
    limits: Limits,
    writer: Option<JoinHandle<()>>,
    /// Held as long as the spool is open.
    _lock: fs::File,
}

struct Job {
    payload: Vec<u8>,
    done: oneshot::Sender<Result<(), AppendError>>,
}

/// The id of the instance whose spool is in `dir`; made with the folder when missing.
pub fn identify(dir: &Path) -> Result<String, SpoolError> {
    let failed = |source| SpoolError { path: dir.to_owned(), source };
    disk::create_dir(dir).map_err(failed)?;
    let path = dir.join("id");
    match fs::read_to_string(&path) {
        Ok(id) if id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => return Ok(id),
        Ok(_) => return Err(SpoolError { path, source: io::Error::other("holds no instance's id") }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(SpoolError { path, source }),
    }
    let mut bytes = [0; ID_DIGITS / 2];
    fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).map_err(failed)?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    disk::replace(&path, id.as_bytes()).map_err(|source| SpoolError { path, source })?;
    Ok(id)
}

impl Spool {
    /// Opens the spool in `dir`, cuts off what was not written to its end, and starts the writer. New segments have numbers
    /// behind `after`, up to which everything is rolled up.
    pub fn open(dir: &Path, id: String, after: u64, limits: Limits, metrics: Arc<Metrics>) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError { path: dir.to_owned(), source };
        let lock = fs::File::options().create(true).append(true).open(dir.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => failed(io::Error::other("another instance uses it")),
            fs::TryLockError::Error(source) => failed(source),
        })?;
        let segments = segment::recover(dir).map_err(failed)?;
        let last = segments.keys().next_back().copied().unwrap_or(0).max(after);
        let segments: Segments = Arc::new(Mutex::new(segments));
        let queued = Arc::new(AtomicU64::new(0));
        let (queue, jobs) = sync_channel(QUEUE);
        let writer = Writer::new(Box::new(Files), dir.to_owned(), Arc::clone(&segments), last + 1, limits);
        let shell = Shell { jobs, writer, queued: Arc::clone(&queued), metrics };
        let writer = std::thread::Builder::new().name("spool".into()).spawn(move || shell.run()).map_err(failed)?;
        Ok(Self {
            dir: dir.to_owned(),
            id,
            queue: Some(queue),
            queued,
            segments,
            limits,
            writer: Some(writer),
            _lock: lock,
        })
    }

    /// The instance's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Appends a record. When this is done without an error, the record is on the disk.
    pub async fn append(&self, payload: Vec<u8>) -> Result<(), AppendError> {
        let waiting = self.submit(payload)?;
        waiting.await.unwrap_or(Err(AppendError::Failed))
    }

    /// Appends a record without waiting for the disk; lost when the queue is full or the disk fails.
    pub fn offer(&self, payload: Vec<u8>) -> Result<(), AppendError> {
        self.submit(payload).map(drop)
    }

    fn submit(&self, payload: Vec<u8>) -> Result<oneshot::Receiver<Result<(), AppendError>>, AppendError> {
        let bytes = payload.len() as u64;
        if self.bytes().saturating_add(bytes) > self.limits.spool_bytes {
            return Err(AppendError::Full);
        }
        if payload.len() > MAX_RECORD
            || self.queued.fetch_add(bytes, Ordering::Relaxed) + bytes > self.limits.queue_bytes
        {
            self.queued.fetch_sub(bytes, Ordering::Relaxed);
            return Err(AppendError::Busy);
        }
        let (done, waiting) = oneshot::channel();
        let sent = self.queue.as_ref().ok_or(AppendError::Failed)?.try_send(Job { payload, done });
        match sent {
            Ok(()) => Ok(waiting),
            Err(refused) => {
                self.queued.fetch_sub(bytes, Ordering::Relaxed);
                Err(if matches!(refused, TrySendError::Full(_)) { AppendError::Busy } else { AppendError::Failed })
            }
        }
    }

    /// Records behind `from` that are on the disk, as many as fit `most` bytes and at least one, from one segment.
    pub fn read(&self, from: Position, most: usize) -> io::Result<Chunk> {
        read::chunk(&self.dir, &self.segments, from, most)
    }

    /// Segments that nothing more is written to, with the time they were made at, oldest first.
    pub fn finished(&self) -> Vec<(u64, u64)> {
        let segments = lock(&self.segments);
        segments.iter().filter(|(_, known)| known.finished).map(|(number, known)| (*number, known.created_ms)).collect()
    }

    /// Deletes a finished segment; one with damage is set aside as `NUMBER.damaged`.
    pub fn remove(&self, number: u64) -> io::Result<()> {
        let Some(known) = lock(&self.segments).get(&number).copied().filter(|known| known.finished) else {
            return Ok(());
        };
        let path = segment::path(&self.dir, number);
        let gone =
            if known.damaged { fs::rename(&path, path.with_extension("damaged")) } else { fs::remove_file(&path) };
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => lock(&self.segments).remove(&number),
        };
        Ok(())
    }

    /// Bytes of a segment that are synced.
    pub fn length(&self, number: u64) -> Option<u64> {
        lock(&self.segments).get(&number).map(|known| known.len)
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        lock(&self.segments).values().map(|known| known.len).sum()
    }

    /// Bytes that wait for the writer.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }
}

impl Drop for Spool {
    /// Waits until what was taken is written.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has acknowledged nothing more; there is nothing to be done about it here.
            let _ = writer.join();
        }
    }
}

/// The thread around the writer.
struct Shell {
    jobs: Receiver<Job>,
    writer: Writer,
    queued: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

impl Shell {
    fn run(mut self) {
        let mut jobs: Vec<Job> = Vec::new();
        loop {
            match self.jobs.recv_timeout(IDLE) {
                Ok(job) => jobs.push(job),
                Err(RecvTimeoutError::Timeout) => {
                    self.writer.finish_old(now_ms());
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let mut bytes = jobs.iter().map(|job| job.payload.len()).sum::<usize>();
            while bytes < COMMIT_BYTES
                && let Ok(job) = self.jobs.try_recv()
            {
                bytes += job.payload.len();
                jobs.push(job);
            }
            let start = Instant::now();
            let result = self.writer.commit(jobs.iter().map(|job| job.payload.as_slice()), now_ms());
            self.metrics.synced(start.elapsed().as_secs_f64(), result.is_ok());
            self.queued.fetch_sub(bytes as u64, Ordering::Relaxed);
            let answer = match result {
                Ok(()) => Ok(()),
                Err(error) => {
                    tracing::error!(%error, "the spool of reports cannot be written; reports are refused until it can");
                    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
                    Err(if full { AppendError::Full } else { AppendError::Failed })
                }
            };
            for job in jobs.drain(..) {
                // Who no longer waits does not know it, and sends again.
                let _ = job.done.send(answer);
            }
        }
    }
}

fn lock(segments: &Segments) -> MutexGuard<'_, BTreeMap<u64, Known>> {
    segments.lock().unwrap_or_else(PoisonError::into_inner)
}
