//! What the pages of a volume look like. All numbers are little-endian.

use std::cell::Cell;
use std::ops::Range;

use twox_hash::XxHash3_64;

/// Bytes of a page, the unit of placing and of direct I/O.
pub const PAGE: usize = 4096;

/// Changes with every change of what is written: a volume of another format is made anew.
const FORMAT: u64 = 2;

const SUPERBLOCK_MAGIC: u64 = u64::from_le_bytes(*b"shoalVOL");
const ENTRY_MAGIC: u64 = u64::from_le_bytes(*b"shoalENT");
const FOOT_MAGIC: u64 = u64::from_le_bytes(*b"shoalTAB");

/// Bytes of an entry's fixed part.
pub(crate) const HEAD: usize = 80;
/// Bytes of a table's record.
const RECORD: usize = 16;
/// Bytes at the end of a sealed segment.
const FOOT: usize = 40;

/// Smallest and largest segment.
const SEGMENT_MIN: u64 = 4 << 20;
const SEGMENT_MAX: u64 = 64 << 20;
/// A file is cut into about this many.
const SEGMENTS: u64 = 256;
/// Fewer would make each wrap-around forget too much at once.
const SEGMENTS_MIN: u64 = 4;

/// The 64-bit checksum of everything here (XXH3).
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// How a volume's file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Pages of a segment.
    pub segment_pages: u32,
    /// Segments of the file.
    pub segments: u32,
}

impl Geometry {
    /// How a file of at most `bytes` bytes is cut; `None` when that is too little.
    pub fn of(bytes: u64) -> Option<Geometry> {
        let segment = (bytes / SEGMENTS).clamp(SEGMENT_MIN, SEGMENT_MAX) / PAGE as u64;
        let segments = (bytes / PAGE as u64).checked_sub(1)? / segment;
        let segments = u32::try_from(segments).ok().filter(|&segments| u64::from(segments) >= SEGMENTS_MIN)?;
        Some(Geometry { segment_pages: segment as u32, segments })
    }

    /// Fewest bytes a file can have.
    pub const MIN_BYTES: u64 = SEGMENTS_MIN * SEGMENT_MIN + PAGE as u64;

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        (1 + self.pages()) * PAGE as u64
    }

    /// Pages of all segments.
    pub(crate) fn pages(&self) -> u64 {
        u64::from(self.segments) * u64::from(self.segment_pages)
    }

    /// Byte of the file at which the page of a position lies.
    pub(crate) fn offset(&self, position: u64) -> u64 {
        (1 + position % self.pages()) * PAGE as u64
    }
}

/// The first page of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Random, drawn when the volume was made.
    pub volume: u64,
    /// What else must not have changed, as one number: the shard, how many there are, the seed of hashes.
    pub identity: u64,
    /// How the file is cut.
    pub geometry: Geometry,
}

impl Superblock {
    pub(crate) fn write(&self, page: &mut [u8]) {
        let cut = u64::from(self.geometry.segment_pages) << 32 | u64::from(self.geometry.segments);
        put(page, &[SUPERBLOCK_MAGIC, FORMAT, self.volume, self.identity, cut]);
        seal(page, 40);
    }

    /// The superblock, if it is one of this format.
    pub fn read(page: &[u8]) -> Option<Superblock> {
        let [magic, format, volume, identity, cut] = checked::<5>(page)?;
        let geometry = Geometry { segment_pages: (cut >> 32) as u32, segments: cut as u32 };
        (magic == SUPERBLOCK_MAGIC && format == FORMAT).then_some(Superblock { volume, identity, geometry })
    }
}

/// A block to be written.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Hash of key and block, by which it is found.
    pub hash: u64,
    /// Which block of the object.
    pub block: u32,
    /// The object's full name.
    pub key: &'a [u8],
    /// What is known about the object.
    pub meta: &'a [u8],
    /// The block's bytes.
    pub payload: &'a [u8],
    /// Whether it is still to be written. Whoever buries the object sets this to false first.
    pub live: &'a Cell<bool>,
}

impl Entry<'_> {
    /// Whether it can be written at all: what is in front of the bytes has to fit into the first page.
    pub(crate) fn fits(&self) -> bool {
        front_fits(self.key.len() + self.meta.len())
    }

    pub(crate) fn pages(&self) -> u32 {
        pages(self.key.len() + self.meta.len(), self.payload.len())
    }

    /// Fills `out`, [`Entry::pages`] long.
    pub(crate) fn write(&self, volume: u64, epoch: u64, position: u64, out: &mut [u8]) {
        let meta_at = HEAD + self.key.len();
        let front = meta_at + self.meta.len();
        let payload_at = payload_at(front - HEAD, self.payload.len());
        out[HEAD..meta_at].copy_from_slice(self.key);
        out[meta_at..front].copy_from_slice(self.meta);
        out[front..payload_at].fill(0);
        let (payload, rest) = out[payload_at..].split_at_mut(self.payload.len());
        payload.copy_from_slice(self.payload);
        rest.fill(0);
        let sums = [checksum(&out[HEAD..front]), checksum(self.payload)];
        let sizes = u64::from(self.block) << 32 | self.key.len() as u64;
        let more = (self.meta.len() as u64) << 32 | self.payload.len() as u64;
        put(out, &[ENTRY_MAGIC, volume, epoch, position, self.hash, sizes, more, sums[0], sums[1]]);
        seal(out, HEAD - 8);
    }
}

/// Whether key and metadata of so many bytes fit into an entry's first page.
pub(crate) fn front_fits(front: usize) -> bool {
    HEAD + front <= PAGE
}

/// Pages of an entry with so many bytes of key and metadata, and of payload.
pub(crate) fn pages(front: usize, payload: usize) -> u32 {
    (payload_at(front, payload) + payload).div_ceil(PAGE) as u32
}

/// Where the payload begins: on a page of its own, so that it can be read to where it will be used, unless all of the entry fits
/// into one.
fn payload_at(front: usize, payload: usize) -> usize {
    if HEAD + front + payload <= PAGE { HEAD + front } else { PAGE }
}

/// The fixed part of an entry, as found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryHead {
    pub epoch: u64,
    pub position: u64,
    pub hash: u64,
    pub block: u32,
    key: u32,
    meta: u32,
    payload: u32,
    front_sum: u64,
    payload_sum: u64,
}

impl EntryHead {
    /// The head of an entry of this volume.
    pub(crate) fn read(volume: u64, page: &[u8]) -> Option<EntryHead> {
        let [magic, of, epoch, position, hash, sizes, more, front_sum, payload_sum] = checked::<9>(page)?;
        let head = EntryHead {
            epoch,
            position,
            hash,
            block: (sizes >> 32) as u32,
            key: sizes as u32,
            meta: (more >> 32) as u32,
            payload: more as u32,
            front_sum,
            payload_sum,
        };
        (magic == ENTRY_MAGIC && of == volume && front_fits(head.front())).then_some(head)
    }

    fn front(&self) -> usize {
        self.key as usize + self.meta as usize
    }

    /// Pages of the entry.
    pub(crate) fn pages(&self) -> u32 {
        pages(self.front(), self.payload as usize)
    }

    /// Where key and metadata lie in the first page, when they are whole.
    pub(crate) fn key_and_meta(&self, page: &[u8]) -> Option<[Range<usize>; 2]> {
        let end = HEAD + self.front();
        if checksum(page.get(HEAD..end)?) != self.front_sum {
            return None;
        }
        let key = HEAD..HEAD + self.key as usize;
        Some([key.clone(), key.end..end])
    }

    /// Where the payload lies in the entry. From [`PAGE`] on it is the first of what is there.
    pub(crate) fn payload(&self) -> Range<usize> {
        let at = payload_at(self.front(), self.payload as usize);
        at..at + self.payload as usize
    }

    /// Whether these bytes are the payload that was written.
    pub(crate) fn is_payload(&self, bytes: &[u8]) -> bool {
        checksum(bytes) == self.payload_sum
    }

    /// Whether these bytes are all of the entry, and as it was written.
    pub(crate) fn is_whole(&self, bytes: &[u8]) -> bool {
        self.key_and_meta(bytes).is_some() && bytes.get(self.payload()).is_some_and(|payload| self.is_payload(payload))
    }
}

/// What a sealed segment says of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub hash: u64,
    /// Page in the segment.
    pub page: u32,
    pub pages: u32,
}

/// Pages of the table of `entries` entries.
pub(crate) fn table_pages(entries: usize) -> u32 {
    (entries * RECORD + FOOT).div_ceil(PAGE) as u32
}

/// Fills `out`, [`table_pages`] long: the last pages of segment `serial`.
pub(crate) fn write_table(volume: u64, serial: u64, records: &[Record], out: &mut [u8]) {
    out.fill(0);
    for (record, place) in records.iter().zip(out.chunks_exact_mut(RECORD)) {
        put(place, &[record.hash, u64::from(record.page) << 32 | u64::from(record.pages)]);
    }
    let foot = out.len() - FOOT;
    let sum = checksum(&out[..foot]);
    put(&mut out[foot..], &[FOOT_MAGIC ^ sum, volume, serial, records.len() as u64]);
    seal(&mut out[foot..], 32);
}

/// The end of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Foot {
    pub serial: u64,
    pub entries: usize,
    sum: u64,
}

impl Foot {
    /// Reads the last page of a segment of this volume.
    pub(crate) fn read(volume: u64, page: &[u8]) -> Option<Foot> {
        let foot = page.get(page.len().checked_sub(FOOT)?..)?;
        let [magic, of, serial, entries] = checked::<4>(foot)?;
        (of == volume).then_some(Foot { serial, entries: usize::try_from(entries).ok()?, sum: magic ^ FOOT_MAGIC })
    }

    /// The records, from the [`table_pages`] at the segment's end.
    pub(crate) fn records(&self, table: &[u8]) -> Option<Vec<Record>> {
        let records = table.get(..table.len().checked_sub(FOOT)?)?;
        if checksum(records) != self.sum || self.entries * RECORD > records.len() {
            return None;
        }
        let record = |bytes: &[u8]| {
            let [hash, place] = words::<2>(bytes)?;
            Some(Record { hash, page: (place >> 32) as u32, pages: place as u32 })
        };
        records.chunks_exact(RECORD).take(self.entries).map(record).collect()
    }
}

fn put(out: &mut [u8], words: &[u64]) {
    for (word, place) in words.iter().zip(out.chunks_exact_mut(8)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// Puts the checksum of the first `len` bytes behind them.
fn seal(out: &mut [u8], len: usize) {
    let sum = checksum(&out[..len]);
    put(&mut out[len..], &[sum]);
}

fn words<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (chunks, _) = bytes.as_chunks::<8>();
    let chunks = chunks.first_chunk::<N>()?;
    Some(chunks.map(u64::from_le_bytes))
}

/// The first words, if the checksum behind them is right.
fn checked<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (sealed, rest) = bytes.split_at_checked(N * 8)?;
    let [sum] = words::<1>(rest)?;
    if sum != checksum(sealed) {
        return None;
    }
    words(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_an_entry_is_noticed() {
        for (payload, pages) in [(vec![7; 100], 1), (vec![7; PAGE - HEAD - 16], 1), (vec![7; PAGE - HEAD - 15], 2)] {
            let (live, key) = (Cell::new(true), b"channel\0path");
            let entry = Entry { hash: 5, block: 3, key, meta: b"meta", payload: &payload, live: &live };
            let mut bytes = vec![0xa5; entry.pages() as usize * PAGE];
            assert_eq!(bytes.len() / PAGE, pages);
            entry.write(1, 2, 9, &mut bytes);
            let whole = |bytes: &[u8]| EntryHead::read(1, bytes).filter(|head| head.is_whole(bytes));
            let head = whole(&bytes).unwrap();
            let [key, meta] = head.key_and_meta(&bytes).unwrap();
            let body = head.payload();
            let parts = (&bytes[key], &bytes[meta.clone()], &bytes[body.clone()]);
            assert_eq!(parts, (entry.key, entry.meta, entry.payload));
            assert_eq!(
                (head.pages() as usize, EntryHead::read(2, &bytes)),
                (pages, None),
                "and none of another volume"
            );
            for bit in (0..meta.end * 8).chain(body.start * 8..body.end * 8) {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(whole(&bytes), None, "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            assert!(whole(&bytes[..body.end - 1]).is_none());
        }
    }

    #[test]
    fn what_does_not_fit_into_the_first_page_is_not_written() {
        let (live, meta) = (Cell::new(true), [0; PAGE - HEAD - 1]);
        let entry = |key| Entry { hash: 5, block: 3, key, meta: &meta, payload: b"p", live: &live };
        assert!(entry(b"k").fits() && !entry(b"ke").fits());
        assert_eq!(entry(b"k").pages(), 2);
    }

    #[test]
    fn every_flipped_bit_of_a_table_is_noticed() {
        let records: Vec<_> = (0..300).map(|n| Record { hash: n * 7, page: n as u32, pages: 1 }).collect();
        let mut table = vec![0; table_pages(records.len()) as usize * PAGE];
        assert_eq!(table.len(), 2 * PAGE);
        write_table(1, 77, &records, &mut table);
        let whole = |table: &[u8]| {
            let foot = Foot::read(1, &table[table.len() - PAGE..])?;
            Some((foot.serial, foot.records(table)?))
        };
        assert_eq!(whole(&table), Some((77, records)));
        for bit in (0..table.len() * 8).step_by(13) {
            table[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(whole(&table), None, "bit {bit}");
            table[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_superblock_comes_back_and_a_flipped_one_does_not() {
        let superblock = Superblock { volume: 9, identity: 8, geometry: Geometry::of(1 << 30).unwrap() };
        let mut page = vec![0; PAGE];
        superblock.write(&mut page);
        assert_eq!(Superblock::read(&page), Some(superblock));
        for bit in 0..48 * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Superblock::read(&page), None);
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn files_are_cut_into_segments_that_fit() {
        assert_eq!(Geometry::of(Geometry::MIN_BYTES - 1), None);
        for bytes in [Geometry::MIN_BYTES, 100 << 20, 1 << 30, 10 << 40] {
            let geometry = Geometry::of(bytes).unwrap();
            assert!(geometry.file_bytes() <= bytes && geometry.file_bytes() > bytes / 5 * 4, "{bytes}: {geometry:?}");
        }
    }
}
