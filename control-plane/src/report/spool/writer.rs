//! The writer: records in, one sync, and then they are acknowledged.

use std::io;
use std::path::PathBuf;

use super::disk::{Disk, SegmentFile};
use super::segment::{self, HEAD};
use super::{Known, Limits, Segments, lock};

const HOUR_MS: u64 = 3_600_000;

pub(super) struct Writer {
    disk: Box<dyn Disk>,
    dir: PathBuf,
    segments: Segments,
    next: u64,
    limits: Limits,
    open: Option<Open>,
    buffer: Vec<u8>,
}

struct Open {
    number: u64,
    file: Box<dyn SegmentFile>,
    /// Bytes that are synced.
    len: u64,
    created_ms: u64,
}

impl Writer {
    /// A writer whose first segment has the number `next`.
    pub(super) fn new(disk: Box<dyn Disk>, dir: PathBuf, segments: Segments, next: u64, limits: Limits) -> Self {
        Self { disk, dir, segments, next, limits, open: None, buffer: Vec::new() }
    }

    /// Writes payloads. They are on the disk when this returns, all of them; after an error nothing is said of any.
    pub(super) fn commit<'a>(&mut self, payloads: impl Iterator<Item = &'a [u8]>, now_ms: u64) -> io::Result<()> {
        self.finish_old(now_ms);
        self.buffer.clear();
        for payload in payloads {
            segment::frame(payload, &mut self.buffer);
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(now_ms)?,
        };
        match open.file.append(&self.buffer).and_then(|()| open.file.sync()) {
            Ok(()) => {
                open.len += self.buffer.len() as u64;
                self.show(&open, false);
                self.open = Some(open);
                Ok(())
            }
            Err(error) => {
                self.abandon(open);
                Err(error)
            }
        }
    }

    /// Finishes the segment when it is large, old, or of another hour.
    pub(super) fn finish_old(&mut self, now_ms: u64) {
        let Limits { segment_bytes, segment_ms, .. } = self.limits;
        let old = |open: &mut Open| {
            open.len >= segment_bytes
                || now_ms.abs_diff(open.created_ms) >= segment_ms
                || now_ms / HOUR_MS != open.created_ms / HOUR_MS
        };
        if let Some(open) = self.open.take_if(old) {
            self.show(&open, true);
        }
    }

    fn begin(&mut self, now_ms: u64) -> io::Result<Open> {
        let number = self.next;
        let mut file = self.disk.create(&segment::path(&self.dir, number))?;
        // The number is used, whatever comes of it.
        self.next += 1;
        file.append(&segment::head(number, now_ms))?;
        Ok(Open { number, file, len: HEAD as u64, created_ms: now_ms })
    }

    /// Leaves a segment that could not be written. Should it not be cut either, readers stop at what was synced, and what is
    /// behind it was not acknowledged.
    fn abandon(&mut self, mut open: Open) {
        if let Err(error) = open.file.cut(open.len) {
            tracing::warn!(%error, segment = open.number, "a segment of the spool cannot be cut to what was synced");
        }
        if open.len > HEAD as u64 {
            self.show(&open, true);
        } else {
            // Without a record it is of no use; a file that stays is removed at the next start.
            let _ = std::fs::remove_file(segment::path(&self.dir, open.number));
        }
    }

    fn show(&self, open: &Open, finished: bool) {
        let known = Known { len: open.len, finished, created_ms: open.created_ms, damaged: false };
        lock(&self.segments).insert(open.number, known);
    }
}
