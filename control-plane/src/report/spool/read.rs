//! Reading behind the writer.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::segment::{self, FRAME, HEAD, MAX_RECORD, Next, Position};
use super::{Segments, lock};

/// Records of one segment.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
    /// Everything before this is read with it.
    pub next: Position,
    /// Bytes that had to be passed over: no record begins there.
    pub damaged: u64,
}

impl Chunk {
    /// The payloads.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().filter_map(|range| self.bytes.get(range.clone()))
    }

    /// Whether it holds nothing: the reader is where the writer is.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.damaged == 0
    }
}

pub(super) fn chunk(dir: &Path, segments: &Segments, from: Position, most: usize) -> io::Result<Chunk> {
    // The first segment that has something behind the place.
    let found = {
        let segments = lock(segments);
        let start = |number: u64| if number == from.segment { from.offset.max(HEAD as u64) } else { HEAD as u64 };
        let behind = segments.range(from.segment..).map(|(number, known)| (*number, start(*number), known.len));
        behind.filter(|(_, start, len)| start < len).min_by_key(|(number, ..)| *number)
    };
    let Some((number, start, len)) = found else { return Ok(Chunk { next: from, ..Chunk::default() }) };
    let wanted = (len - start).min(most.max(MAX_RECORD + FRAME) as u64) as usize;
    let mut bytes = vec![0; wanted];
    File::open(segment::path(dir, number))?.read_exact_at(&mut bytes, start)?;
    let last = start + wanted as u64 == len;
    let (mut records, mut at, mut damaged) = (Vec::new(), 0, 0);
    while at < bytes.len() && (at < most || records.is_empty()) {
        match segment::next(bytes.get(at..).unwrap_or_default()) {
            Next::Record(payload, taken) => {
                records.push(at + FRAME..at + FRAME + payload.len());
                at += taken;
            }
            // It goes on behind what was read.
            Next::Cut if !last => break,
            // Lengths cannot be trusted any more; the file is set aside and not deleted.
            Next::Cut | Next::Bad => {
                damaged = len - start - at as u64;
                break;
            }
        }
    }
    if damaged > 0
        && let Some(known) = lock(segments).get_mut(&number)
    {
        known.damaged = true;
    }
    let offset = if damaged > 0 { len } else { start + at as u64 };
    Ok(Chunk { bytes, records, next: Position { segment: number, offset }, damaged })
}
