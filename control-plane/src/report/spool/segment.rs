//! A segment's bytes: head, records, and what of it is whole.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::Known;

/// Bytes in front of the first record.
pub(super) const HEAD: usize = 24;
/// Bytes in front of a record's payload.
pub(super) const FRAME: usize = 8;
/// Most bytes of a payload.
pub const MAX_RECORD: usize = 4 << 20;

const MAGIC: &[u8; 8] = b"SHOALSP1";

/// A place in the spool: everything before it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Byte in it.
    pub offset: u64,
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.seg"))
}

pub(super) fn head(number: u64, created_ms: u64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&number.to_le_bytes());
    head[16..].copy_from_slice(&created_ms.to_le_bytes());
    head
}

/// When a segment was made; none where it has no head.
fn created_ms(bytes: &[u8], number: u64) -> Option<u64> {
    let (head, _) = bytes.split_first_chunk::<HEAD>()?;
    let (magic, rest) = head.split_first_chunk::<8>()?;
    let (given, created) = rest.split_first_chunk::<8>()?;
    let created: &[u8; 8] = created.try_into().ok()?;
    (magic == MAGIC && u64::from_le_bytes(*given) == number).then(|| u64::from_le_bytes(*created))
}

/// Puts a payload's frame in front of it.
pub(super) fn frame(payload: &[u8], out: &mut Vec<u8>) {
    let length = (payload.len() as u32).to_le_bytes();
    out.extend(length);
    out.extend(checksum(length, payload).to_le_bytes());
    out.extend(payload);
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

/// What is at the start of some bytes.
pub(super) enum Next<'a> {
    /// A payload; it and its frame take so many bytes.
    Record(&'a [u8], usize),
    /// A record that goes on behind the bytes.
    Cut,
    /// No record.
    Bad,
}

pub(super) fn next(bytes: &[u8]) -> Next<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Next::Cut };
    let len = u32::from_le_bytes(*length) as usize;
    if len > MAX_RECORD {
        return Next::Bad;
    }
    let Some((sum, rest)) = rest.split_first_chunk::<4>() else { return Next::Cut };
    match rest.get(..len) {
        None => Next::Cut,
        Some(payload) if checksum(*length, payload) == u32::from_le_bytes(*sum) => Next::Record(payload, FRAME + len),
        Some(_) => Next::Bad,
    }
}

/// Bytes up to the end of the last record that is whole.
fn whole(bytes: &[u8]) -> usize {
    let mut at = HEAD;
    while let Next::Record(_, len) = next(bytes.get(at..).unwrap_or_default()) {
        at += len;
    }
    at
}

/// The segments in a folder. The newest is cut to what is whole of it; the others were finished and are taken as they are.
pub(super) fn recover(dir: &Path) -> io::Result<BTreeMap<u64, Known>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    let newest = numbers.last().copied();
    let mut segments = BTreeMap::new();
    for number in numbers {
        let path = path(dir, number);
        let mut known = Known { len: fs::metadata(&path)?.len(), finished: true, created_ms: 0, damaged: false };
        if known.len <= HEAD as u64 {
            // Begun, and nothing in it was acknowledged.
            fs::remove_file(&path)?;
            continue;
        }
        if Some(number) == newest {
            let bytes = fs::read(&path)?;
            let whole = if created_ms(&bytes, number).is_some() { whole(&bytes) } else { 0 };
            if whole <= HEAD {
                // Nothing in it was acknowledged.
                fs::remove_file(&path)?;
                continue;
            }
            known.len = whole as u64;
            if whole < bytes.len() {
                tracing::info!(
                    segment = number,
                    bytes = bytes.len() - whole,
                    "cut off what was not written to its end"
                );
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(known.len)?;
                file.sync_all()?;
            }
        }
        match read_created(&path, number)? {
            Some(created_ms) => segments.insert(number, Known { created_ms, ..known }),
            None => {
                tracing::error!(segment = number, "a segment of the spool has no head; it is set aside as `.damaged`");
                fs::rename(&path, path.with_extension("damaged"))?;
                None
            }
        };
    }
    Ok(segments)
}

fn read_created(path: &Path, number: u64) -> io::Result<Option<u64>> {
    use std::io::Read;
    let mut head = [0; HEAD];
    fs::File::open(path)?.read_exact(&mut head)?;
    Ok(created_ms(&head, number))
}
