//! Properties that every input must keep, called by the fuzz targets and by the replay of their corpus. They panic when one
//! is broken.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::{Entry, Geometry, Medium, PAGE, Superblock, Tombstone, Tombstones, Volume};

const GEOMETRY: Geometry = Geometry { segment_pages: 8, segments: 4 };
const SUPERBLOCK: Superblock = Superblock { volume: 1, identity: 2, geometry: GEOMETRY };

/// More entries than a segment holds.
const ENTRIES: u64 = 10;

/// A disk in memory.
struct Memory(RefCell<Vec<u8>>);

impl Medium for Memory {
    type Buffer = Vec<u8>;
    type Bytes = Vec<u8>;
    type Page = Vec<u8>;
    type Room = ();
    type Block = Vec<u8>;

    fn buffer(&self, len: usize) -> Vec<u8> {
        vec![0; len]
    }

    fn bytes_mut(buffer: &mut Vec<u8>) -> &mut [u8] {
        buffer
    }

    async fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.0.borrow();
        let bytes = bytes.get(offset as usize..offset as usize + len);
        Ok(bytes.ok_or(io::ErrorKind::UnexpectedEof)?.to_vec())
    }

    async fn read_block(&self, offset: u64, len: usize, (): ()) -> io::Result<(Vec<u8>, Vec<u8>)> {
        Ok((self.read(offset, PAGE).await?, self.read(offset + PAGE as u64, len).await?))
    }

    async fn write(&self, offset: u64, buffer: Vec<u8>) -> io::Result<()> {
        let mut bytes = self.0.borrow_mut();
        let place = bytes.get_mut(offset as usize..offset as usize + buffer.len());
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(&buffer);
        Ok(())
    }
}

/// The output of a future that never waits.
fn now<F: Future>(future: F) -> io::Result<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn write(volume: &Volume<Memory>, hash: u64, payload: &[u8]) -> io::Result<()> {
    let live = Cell::new(true);
    let entry = Entry { hash, block: 0, key: b"c\0key", meta: b"meta", payload, live: &live };
    now(volume.write(&[entry]))?
}

fn payload(hash: u64) -> Vec<u8> {
    (0..1000 + 900 * hash as usize).map(|at| (at as u64 * hash) as u8).collect()
}

fn damaged(input: &[u8]) -> io::Result<()> {
    let memory = Memory(RefCell::new(vec![0; GEOMETRY.file_bytes() as usize]));
    let volume = now(Volume::create(memory, SUPERBLOCK, 1))??;
    for hash in 0..ENTRIES {
        write(&volume, hash, &payload(hash))?;
    }
    let mut bytes = volume.into_medium().0.into_inner();
    for edit in input.chunks_exact(4) {
        let at = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize % bytes.len();
        bytes[at] ^= edit[3];
    }
    let whole = Superblock::read(&bytes[..PAGE]) == Some(SUPERBLOCK);
    let opened = now(Volume::open(Memory(RefCell::new(bytes)), SUPERBLOCK, Tombstones::default(), 2))??;
    let Ok(volume) = opened else {
        assert!(!whole, "a volume with a right superblock opens");
        return Ok(());
    };
    let check = |hash: u64| {
        let read = now(volume.read(hash, 7, b"c\0key", 0, async |_| Some(())))?;
        if let Ok(found) = read {
            assert!(found.payload() == payload(hash) && found.meta() == b"meta", "wrong bytes under {hash}");
            return io::Result::Ok(true);
        }
        Ok(false)
    };
    for hash in 0..ENTRIES {
        let found = check(hash)?;
        assert!(found || !input.is_empty(), "{hash} is lost");
    }
    write(&volume, ENTRIES, &payload(ENTRIES))?;
    assert!(check(ENTRIES)?, "what is written after a start is there");
    Ok(())
}

/// Edits to a volume: three bytes of place, and one of bits to flip there. Nothing wrong is read from it, and it can be
/// written.
pub fn volume(input: &[u8]) {
    let done = damaged(input);
    assert!(done.is_ok(), "a disk in memory never fails: {done:?}");
}

/// A journal: one byte of how many records, so many of kind, position and text; then edits as of [`volume`]. It is read
/// as it was up to a cut, or not at all.
pub fn journal(input: &[u8]) {
    let Some((&count, mut rest)) = input.split_first() else { return };
    let mut tombstones = Tombstones::default();
    let mut bytes = tombstones.journal(5);
    let mut states = vec![tombstones.clone()];
    for _ in 0..count % 16 {
        let Some(([kind, before, len], more)) = rest.split_first_chunk::<3>() else { break };
        let (text, more) = more.split_at(usize::from(*len % 16).min(more.len()));
        rest = more;
        let tombstone = match kind % 3 {
            0 => Tombstone::Object(u64::from(*kind)),
            1 => Tombstone::Prefix(text.into()),
            _ => Tombstone::Tag(text.into()),
        };
        match tombstones.add(tombstone, u64::from(*before)) {
            Some(record) => bytes.extend(record),
            None => {
                bytes = tombstones.journal(5);
                states.truncate(1);
            }
        }
        states.push(tombstones.clone());
    }
    assert!(Tombstones::read(&bytes) == Some((5, tombstones.clone())), "what was written is read");
    let written = bytes.clone();
    for edit in rest.chunks_exact(4) {
        let at = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize % bytes.len();
        bytes[at] ^= edit[3];
    }
    let cut = bytes.len() / 2;
    for part in [&bytes[..], &bytes[..cut]] {
        let Some((volume, read)) = Tombstones::read(part) else { continue };
        assert!(volume == 5 && states.contains(&read), "as it was up to a cut");
        assert!(bytes != written || part.len() == cut || read == tombstones, "an untouched journal");
        assert!(Tombstones::read(&read.journal(volume)) == Some((volume, read)), "it can be written anew");
    }
}
