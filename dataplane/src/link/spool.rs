//! Usage on its way to the control plane: on disk before it is sent, and until it is acknowledged.
//!
//! A batch is one line with a checksum in a segment file; `(boot, sequence)` names it for ever, and the control plane
//! counts each name once. So a batch may be sent again at any time, but once it may have been sent its content is fixed.
//!
//! What a kill can do: a batch is on disk whole, or its line is torn and ignored. Each start writes to new segments, so
//! nothing follows a torn line. What a failed write leaves behind has the same name as the batch that is written
//! instead, and the later one wins.
//!
//! When the spool is full, detail goes before bytes: sessions are added up into their channels, and instead of adding
//! lines, the last batch (which nobody has seen yet) is replaced by the sum of itself and the new usage. Its size is
//! bounded by the number of channels and origins, so bytes are never shed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::value::RawValue;
use shoal_link::ledger::{Batch, Entry, Kind};

use super::durable::{self, create_new, decode_line, encode_line, sync_folder};
use crate::ledger::Usage;

const FOLDER: &str = "spool";
const SEGMENT: &str = "log";
/// An active segment whose batches are all acknowledged is removed once it has grown to this.
const WORTH_REMOVING: u64 = 64 << 10;

/// How much is kept, and in what pieces.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes on disk from which detail is shed.
    pub bytes: u64,
    /// Batches from which detail is shed; each takes some memory.
    pub batches: usize,
    /// Bytes at which a new segment is begun.
    pub segment_bytes: u64,
    /// Entries of one batch; more usage makes more batches, for a batch must fit a frame.
    pub entries: usize,
    /// Entries kept in memory, while the disk refuses them, from which detail is shed.
    pub backlog: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 256 << 20, batches: 200_000, segment_bytes: 4 << 20, entries: 50_000, backlog: 500_000 }
    }
}

/// Why the spool cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file or folder could not be read.
    #[error("cannot read usage from {path}: {source}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A batch was whole when it was written, or loaded, and is not any more.
    #[error("a batch of usage in {path} is damaged; it is left there and not sent", path = path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
    },
    /// Usage could not be written. It is kept in memory.
    #[error("cannot write usage to {path}: {source}; it is kept in memory until that works again", path = path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

type Key = (Arc<str>, Arc<str>, Box<str>, Kind, Arc<str>);

/// A batch as it lies on disk.
#[derive(Debug)]
pub struct Written {
    /// See [`Batch`].
    pub boot: u64,
    /// See [`Batch`].
    pub sequence: u64,
    /// The whole of it.
    pub batch: Box<RawValue>,
}

/// The usage that waits for the control plane.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    boot: u64,
    limits: Limits,
    next_sequence: u64,
    next_segment: u64,
    next_place: u64,
    /// Batches by age; a place is never used again.
    batches: BTreeMap<u64, Stored>,
    /// Place by boot and sequence.
    places: HashMap<(u64, u64), u64>,
    segments: HashMap<u64, Segment>,
    active: Option<Active>,
    /// Place of the batch that may still be replaced, because it was never given out.
    growing: Option<u64>,
    /// Not on disk yet.
    backlog: BTreeMap<Key, Usage>,
    backlog_start_ms: u64,
    backlog_end_ms: u64,
    shed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Stored {
    boot: u64,
    sequence: u64,
    segment: u64,
    offset: u64,
    len: u64,
    start_ms: u64,
}

#[derive(Debug, Default)]
struct Segment {
    bytes: u64,
    /// Batches not acknowledged.
    waiting: usize,
    /// Holds lines that cannot be understood: never removed.
    foreign: bool,
}

#[derive(Debug)]
struct Active {
    segment: u64,
    file: File,
}

impl Spool {
    /// Opens the spool in a state folder, with what former runs have left there.
    ///
    /// # Errors
    /// A folder that cannot be read or made.
    pub fn open(state_dir: &Path, boot: u64, limits: Limits) -> Result<Self, SpoolError> {
        let folder = state_dir.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(|source| SpoolError::Write { path: folder.clone(), source })?;
        let mut spool = Self {
            folder,
            boot,
            limits,
            next_sequence: 1,
            next_segment: 1,
            next_place: 1,
            batches: BTreeMap::new(),
            places: HashMap::new(),
            segments: HashMap::new(),
            active: None,
            growing: None,
            backlog: BTreeMap::new(),
            backlog_start_ms: 0,
            backlog_end_ms: 0,
            shed: 0,
        };
        spool.load()?;
        Ok(spool)
    }

    /// Adds usage to what the next [`Spool::commit`] writes.
    pub fn add(&mut self, entries: impl IntoIterator<Item = Entry>, start_ms: u64, end_ms: u64) {
        for entry in entries {
            if self.backlog.is_empty() {
                (self.backlog_start_ms, self.backlog_end_ms) = (start_ms, end_ms);
            }
            let (key, usage) = split(entry);
            *self.backlog.entry(key).or_default() += usage;
            self.backlog_start_ms = self.backlog_start_ms.min(start_ms);
            self.backlog_end_ms = self.backlog_end_ms.max(end_ms);
        }
        if self.backlog.len() > self.limits.backlog {
            self.shed_backlog();
        }
    }

    /// Writes what was added, and returns when it is synced.
    ///
    /// # Errors
    /// What could not be written is kept, and written by the next call.
    pub fn commit(&mut self) -> Result<(), SpoolError> {
        while !self.backlog.is_empty() {
            let rest = match self.backlog.keys().nth(self.limits.entries).cloned() {
                Some(key) => self.backlog.split_off(&key),
                None => BTreeMap::new(),
            };
            let written = self.write_backlog();
            if written.is_ok() {
                self.backlog.clear();
            }
            self.backlog.extend(rest);
            written?;
        }
        Ok(())
    }

    /// The oldest batch after `place` that is not acknowledged, with its place; 0 starts from the oldest of all. From
    /// now on its content is fixed.
    ///
    /// # Errors
    /// A batch that cannot be read. A damaged one is skipped from now on.
    pub fn next_after(&mut self, place: u64) -> Result<Option<(u64, Written)>, SpoolError> {
        let Some((&place, &stored)) = self.batches.range(place + 1..).next() else { return Ok(None) };
        if self.growing == Some(place) {
            self.growing = None;
        }
        let batch = self.read(stored);
        if matches!(batch, Err(SpoolError::Damaged { .. })) {
            if let Some(segment) = self.segments.get_mut(&stored.segment) {
                segment.foreign = true;
            }
            self.forget(place);
        }
        let Stored { boot, sequence, .. } = stored;
        batch.map(|batch| Some((place, Written { boot, sequence, batch })))
    }

    /// The control plane has it: forget it. An unknown name is fine, for an acknowledgement may come twice.
    pub fn acknowledge(&mut self, boot: u64, sequence: u64) {
        if let Some(&place) = self.places.get(&(boot, sequence)) {
            self.forget(place);
        }
    }

    /// Batches waiting.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    /// Entries whose session was shed here since the start.
    pub fn shed(&self) -> u64 {
        self.shed
    }

    /// Unix milliseconds of the start of the oldest usage that waits.
    pub fn oldest_ms(&self) -> Option<u64> {
        let backlog = (!self.backlog.is_empty()).then_some(self.backlog_start_ms);
        // Batches of one boot are in the order of time; those of former boots came before.
        self.batches.values().next().map(|stored| stored.start_ms).into_iter().chain(backlog).min()
    }

    fn write_backlog(&mut self) -> Result<(), SpoolError> {
        if self.batches.len() < self.limits.batches {
            // Even if this fails: it may leave a line of this sequence behind, and only the next attempt at the same
            // sequence makes that harmless.
            let growing = self.growing.take();
            let line = self.line(self.next_sequence, &self.backlog, self.backlog_start_ms, self.backlog_end_ms)?;
            if self.bytes() + line.len() as u64 <= self.limits.bytes {
                let (segment, offset) = self.append(&line)?;
                let stored = Stored {
                    boot: self.boot,
                    sequence: self.next_sequence,
                    segment,
                    offset,
                    len: line.len() as u64,
                    start_ms: self.backlog_start_ms,
                };
                self.next_sequence += 1;
                self.remember(stored);
                return Ok(());
            }
            self.growing = growing;
        }
        self.shed_backlog();
        self.grow_last()
    }

    /// Puts the backlog into the batch that nobody has seen, or into a new one of that sort.
    fn grow_last(&mut self) -> Result<(), SpoolError> {
        let last = self.growing.and_then(|place| self.batches.get(&place).map(|stored| (place, *stored)));
        let mut sums = self.backlog.clone();
        let (mut start_ms, mut end_ms) = (self.backlog_start_ms, self.backlog_end_ms);
        let mut grown = None;
        if let Some((place, stored)) = last {
            // One that cannot be read, or has no room, is left as it is, and another is begun.
            let batch = self.read(stored).ok().and_then(|json| serde_json::from_str::<Batch>(json.get()).ok());
            if let Some(batch) = batch.filter(|batch| batch.entries.len() + sums.len() <= self.limits.entries) {
                (start_ms, end_ms) = (start_ms.min(batch.start_ms), end_ms.max(batch.end_ms));
                for (key, usage) in batch.entries.into_iter().map(split) {
                    *sums.entry(key).or_default() += usage;
                }
                grown = Some((place, stored));
            }
        }
        let (sequence, segment) = match grown {
            Some((_, stored)) => (stored.sequence, stored.segment),
            None => (self.next_sequence, self.next_segment),
        };
        let line = self.line(sequence, &sums, start_ms, end_ms)?;
        let path = self.path(segment);
        // Complete or not at all: until the rename the old line is there and the backlog is kept, after it neither.
        durable::replace(&path, &line).map_err(|source| SpoolError::Write { path, source })?;
        let len = line.len() as u64;
        let stored = Stored { boot: self.boot, sequence, segment, offset: 0, len, start_ms };
        match grown {
            Some((place, _)) => {
                self.batches.insert(place, stored);
                self.segments.entry(segment).or_default().bytes = len;
            }
            None => {
                self.next_sequence += 1;
                self.next_segment += 1;
                self.segments.insert(segment, Segment { bytes: len, ..Segment::default() });
                self.growing = Some(self.remember(stored));
            }
        }
        // The file itself is synced. Should only its name be lost, in a power cut on a failing disk, so is this batch;
        // to write it once more under another name would count it twice.
        if let Err(error) = sync_folder(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot sync the spool's folder");
        }
        Ok(())
    }

    /// Appends to the active segment and syncs. After an error the segment is left alone for ever.
    fn append(&mut self, line: &[u8]) -> Result<(u64, u64), SpoolError> {
        let full = |active: &Active| {
            self.segments.get(&active.segment).is_none_or(|segment| segment.bytes >= self.limits.segment_bytes)
        };
        let active = match self.active.take().filter(|active| !full(active)) {
            Some(active) => active,
            None => {
                let segment = self.next_segment;
                // Taken also when this fails: what may be left of the file is never written to again.
                self.next_segment += 1;
                let path = self.path(segment);
                let file = create_new(&path)
                    .and_then(|file| sync_folder(&self.folder).map(|()| file))
                    .map_err(|source| SpoolError::Write { path, source })?;
                self.segments.insert(segment, Segment::default());
                Active { segment, file }
            }
        };
        let segment = active.segment;
        let offset = self.segments.get(&segment).map_or(0, |segment| segment.bytes);
        let mut file = &active.file;
        if let Err(source) = file.write_all(line).and_then(|()| file.sync_data()) {
            // Best effort: what stays behind has the name of the batch that will be written instead.
            if file.set_len(offset).is_err() {
                tracing::warn!(segment, "cannot cut a failed write off the spool");
            }
            self.remove_if_done(segment);
            return Err(SpoolError::Write { path: self.path(segment), source });
        }
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.bytes += line.len() as u64;
        }
        self.active = Some(active);
        Ok((segment, offset))
    }

    fn line(
        &self,
        sequence: u64,
        sums: &BTreeMap<Key, Usage>,
        start_ms: u64,
        end_ms: u64,
    ) -> Result<Vec<u8>, SpoolError> {
        let entries = sums.iter().map(|((tenant, channel, session, kind, origin), usage)| Entry {
            tenant: tenant.clone(),
            channel: channel.clone(),
            session: session.clone(),
            kind: *kind,
            origin: origin.clone(),
            requests: usage.requests,
            body_bytes: usage.body_bytes,
            wire_bytes: usage.wire_bytes,
        });
        let batch = Batch { boot: self.boot, sequence, start_ms, end_ms, entries: entries.collect() };
        let json = serde_json::to_vec(&batch)
            .map_err(|error| SpoolError::Write { path: self.folder.clone(), source: error.into() })?;
        let mut line = Vec::with_capacity(json.len() + 64);
        encode_line(&json, &mut line);
        Ok(line)
    }

    fn read(&self, stored: Stored) -> Result<Box<RawValue>, SpoolError> {
        let path = self.path(stored.segment);
        let mut line = vec![0; stored.len as usize];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut line, stored.offset))
            .map_err(|source| SpoolError::Read { path: path.clone(), source })?;
        let batch = decode_line(&line).and_then(|(json, _)| serde_json::from_slice(json).ok());
        batch.ok_or(SpoolError::Damaged { path })
    }

    fn remember(&mut self, stored: Stored) -> u64 {
        // Two lines of one name: the later one holds the usage of the former, which was never sent.
        self.acknowledge(stored.boot, stored.sequence);
        let place = self.next_place;
        self.next_place += 1;
        self.places.insert((stored.boot, stored.sequence), place);
        self.batches.insert(place, stored);
        self.segments.entry(stored.segment).or_default().waiting += 1;
        place
    }

    fn forget(&mut self, place: u64) {
        let Some(stored) = self.batches.remove(&place) else { return };
        self.places.remove(&(stored.boot, stored.sequence));
        if self.growing == Some(place) {
            self.growing = None;
        }
        if let Some(segment) = self.segments.get_mut(&stored.segment) {
            segment.waiting = segment.waiting.saturating_sub(1);
        }
        self.remove_if_done(stored.segment);
    }

    fn remove_if_done(&mut self, id: u64) {
        let Some(segment) = self.segments.get(&id) else { return };
        let active = self.active.as_ref().is_some_and(|active| active.segment == id);
        if segment.waiting > 0 || segment.foreign || (active && segment.bytes < WORTH_REMOVING) {
            return;
        }
        if active {
            self.active = None;
        }
        self.segments.remove(&id);
        let path = self.path(id);
        // Sent again after a restart, should it stay, and counted once all the same.
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove delivered usage");
        }
    }

    fn shed_backlog(&mut self) {
        let mut sums: BTreeMap<Key, Usage> = BTreeMap::new();
        for ((tenant, channel, session, kind, origin), usage) in std::mem::take(&mut self.backlog) {
            self.shed += u64::from(!session.is_empty());
            *sums.entry((tenant, channel, Box::default(), kind, origin)).or_default() += usage;
        }
        self.backlog = sums;
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:016}.{SEGMENT}"))
    }

    fn load(&mut self) -> Result<(), SpoolError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| SpoolError::Read { path, source }
        };
        let mut segments = Vec::new();
        for item in std::fs::read_dir(&self.folder).map_err(failed(&self.folder))? {
            let path = item.map_err(failed(&self.folder))?.path();
            if path.extension().is_some_and(|ending| ending == durable::TEMPORARY) {
                std::fs::remove_file(&path).map_err(failed(&path))?;
            } else if path.extension().is_some_and(|ending| ending == SEGMENT) {
                let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
                segments.extend(number);
            }
        }
        segments.sort_unstable();
        for segment in segments {
            let path = self.path(segment);
            let bytes = std::fs::read(&path).map_err(failed(&path))?;
            self.next_segment = self.next_segment.max(segment + 1);
            self.load_segment(segment, &bytes);
        }
        Ok(())
    }

    fn load_segment(&mut self, id: u64, bytes: &[u8]) {
        self.segments.insert(id, Segment { bytes: bytes.len() as u64, ..Segment::default() });
        let mut offset = 0;
        while let Some((json, len)) = bytes.get(offset..).and_then(decode_line) {
            match serde_json::from_slice::<Batch>(json) {
                Ok(Batch { boot, sequence, start_ms, .. }) => {
                    let (offset, len) = (offset as u64, len as u64);
                    self.remember(Stored { boot, sequence, segment: id, offset, len, start_ms });
                }
                Err(error) => {
                    tracing::error!(segment = id, %error, "usage that another release has written is left where it is");
                    if let Some(segment) = self.segments.get_mut(&id) {
                        segment.foreign = true;
                    }
                }
            }
            offset += len;
        }
        if offset < bytes.len() {
            let torn = bytes.len() - offset;
            tracing::warn!(segment = id, torn, "the last write before a kill was not complete and is ignored");
        }
        self.remove_if_done(id);
    }
}

fn split(entry: Entry) -> (Key, Usage) {
    let usage = Usage { requests: entry.requests, body_bytes: entry.body_bytes, wire_bytes: entry.wire_bytes };
    ((entry.tenant, entry.channel, entry.session, entry.kind, entry.origin), usage)
}

#[cfg(test)]
mod tests;
