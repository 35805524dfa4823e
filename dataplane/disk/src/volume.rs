//! A volume: the log, and the reads and writes it takes.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::ops::{Deref, Range};

use crate::format::{
    Entry, EntryHead, Foot, Geometry, PAGE, Record, Superblock, front_fits, pages, table_pages, write_table,
};
use crate::index::Place;
use crate::log::Log;
use crate::tombstones::{Tombstone, Tombstones};

/// Entries are written together up to this many pages (1 MiB).
const BATCH_PAGES: u32 = 256;

/// A start gives a volume up when so many reads fail.
const RECOVERY_ERRORS_MAX: usize = 8;

/// What a volume lies on. Offsets and lengths are whole pages.
pub trait Medium {
    /// Bytes that can be written.
    type Buffer;
    /// Bytes that were read.
    type Bytes: Deref<Target = [u8]>;
    /// A page that was read with the block behind it.
    type Page: Deref<Target = [u8]>;
    /// Memory for a block, given by who wants to read it.
    type Room;
    /// The same, with the block in it.
    type Block: Deref<Target = [u8]>;

    /// A buffer of `len` bytes.
    fn buffer(&self, len: usize) -> Self::Buffer;
    /// Its bytes.
    fn bytes_mut(buffer: &mut Self::Buffer) -> &mut [u8];
    /// Reads `len` bytes, or fails.
    fn read(&self, offset: u64, len: usize) -> impl Future<Output = io::Result<Self::Bytes>>;
    /// Reads a page, and the `len` bytes behind it to where they are wanted, or fails. There is room for them.
    fn read_block(
        &self,
        offset: u64,
        len: usize,
        room: Self::Room,
    ) -> impl Future<Output = io::Result<(Self::Page, Self::Block)>>;
    /// Writes all of the buffer, or fails: then nobody knows what is there.
    fn write(&self, offset: u64, buffer: Self::Buffer) -> impl Future<Output = io::Result<()>>;
}

/// One shard's part of one device. Any number may read while one writes.
#[derive(Debug)]
pub struct Volume<M> {
    medium: M,
    id: u64,
    epoch: u64,
    log: RefCell<Log>,
    tombstones: RefCell<Tombstones>,
}

/// An entry that was read and checked.
#[derive(Debug)]
pub struct Found<B> {
    position: u64,
    meta: Box<[u8]>,
    payload: Payload<B>,
}

/// A block's bytes.
#[derive(Debug)]
pub enum Payload<B> {
    /// Few enough to share a page with what is known about them.
    Short(Box<[u8]>),
    /// So many at the beginning of what was read.
    Long(B, usize),
}

impl<B: Deref<Target = [u8]>> Found<B> {
    /// What is known about the object.
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// The block's bytes.
    pub fn payload(&self) -> &[u8] {
        match &self.payload {
            Payload::Short(bytes) => bytes,
            Payload::Long(block, len) => &block[..*len],
        }
    }

    /// The block.
    pub fn into_payload(self) -> Payload<B> {
        self.payload
    }
}

/// Why a read found nothing.
#[derive(Debug)]
pub enum Miss {
    /// It is not there, or not any more.
    Absent,
    /// There is no memory to read it to.
    NoRoom,
    /// What is there is not what was written.
    Corrupt,
    /// The device failed.
    Io(io::Error),
}

impl<M: Medium> Volume<M> {
    /// Makes a new, empty volume. Its journal, with the same number, must be on disk already.
    ///
    /// # Errors
    /// The device's.
    pub async fn create(medium: M, superblock: Superblock, epoch: u64) -> io::Result<Volume<M>> {
        let mut page = medium.buffer(PAGE);
        M::bytes_mut(&mut page).fill(0);
        superblock.write(M::bytes_mut(&mut page));
        medium.write(0, page).await?;
        let log = RefCell::new(Log::new(superblock.geometry, 1));
        Ok(Volume { medium, id: superblock.volume, epoch, log, tombstones: RefCell::default() })
    }

    /// The volume that `superblock` describes, with what is on it; the medium comes back when it is another one, or none. The
    /// epoch is to be higher than those before.
    ///
    /// # Errors
    /// The device's, when it fails again and again.
    pub async fn open(
        medium: M,
        superblock: Superblock,
        mut tombstones: Tombstones,
        mut epoch: u64,
    ) -> io::Result<Result<Volume<M>, M>> {
        let page = medium.read(0, PAGE).await?;
        if Superblock::read(&page) != Some(superblock) {
            return Ok(Err(medium));
        }
        drop(page);
        let Superblock { volume, geometry, .. } = superblock;
        let mut log = Log::new(geometry, 1);
        let (mut newest, mut errors) = (Segment::default(), 0);
        for slot in 0..geometry.segments {
            match segment(&medium, volume, geometry, slot).await {
                Ok(None) => {}
                Ok(Some(segment)) => {
                    segment.records.iter().for_each(|&record| log.recovered(segment.serial, record));
                    if segment.serial > newest.serial {
                        newest = segment;
                    }
                }
                Err(error) => {
                    errors += 1;
                    if errors == RECOVERY_ERRORS_MAX {
                        return Err(error);
                    }
                }
            }
        }
        // Behind all that was found, and never before what a tombstone kills.
        let buried = tombstones.highest();
        let open =
            newest.end.filter(|&page| buried <= newest.serial * u64::from(geometry.segment_pages) + u64::from(page));
        match open {
            Some(page) => {
                epoch = epoch.max(newest.epoch + 1);
                log.continue_at(newest.serial, page, newest.records);
            }
            None => {
                let serial = newest.serial.max(buried / u64::from(geometry.segment_pages)) + 1;
                log.continue_at(serial, 0, Vec::new());
            }
        }
        tombstones.prune(log.first_live());
        let (log, tombstones) = (RefCell::new(log), RefCell::new(tombstones));
        Ok(Ok(Volume { medium, id: volume, epoch, log, tombstones }))
    }

    /// Whether an entry with so many bytes of key and metadata together, and of payload, can be written at all.
    pub fn admits(&self, front: usize, payload: usize) -> bool {
        front_fits(front) && self.log.borrow().admits(pages(front, payload))
    }

    /// Whether the block is there, as far as the index knows. `lasting`: and will not be overwritten soon.
    pub fn has(&self, hash: u64, key_hash: u64, key: &[u8], lasting: bool) -> bool {
        let log = self.log.borrow();
        log.find(hash).is_some_and(|place| {
            let overwritten_soon = lasting && log.is_old(place.position);
            !(overwritten_soon || self.tombstones.borrow().kills(key_hash, key, place.position))
        })
    }

    /// Reads a block, to where `room` says that there is room for so many bytes; a short one needs none.
    ///
    /// # Errors
    /// Why there is none. What is not to be believed is forgotten.
    pub async fn read(
        &self,
        hash: u64,
        key_hash: u64,
        key: &[u8],
        block: u32,
        room: impl AsyncFnOnce(usize) -> Option<M::Room>,
    ) -> Result<Found<M::Block>, Miss> {
        let place = self.log.borrow().find(hash).ok_or(Miss::Absent)?;
        let offset = self.log.borrow().geometry().offset(place.position);
        let len = (place.pages as usize).saturating_sub(1) * PAGE;
        let wanted = Wanted { volume: self.id, place, hash, key, block };
        let read = if len == 0 {
            self.medium.read(offset, PAGE).await.map(|page| wanted.short(&page))
        } else {
            let room = room(len).await.ok_or(Miss::NoRoom)?;
            self.medium.read_block(offset, len, room).await.map(|(page, bytes)| wanted.long(&page, bytes))
        };
        let mut log = self.log.borrow_mut();
        let found =
            if place.position < log.first_live() || self.tombstones.borrow().kills(key_hash, key, place.position) {
                Err(Miss::Absent)
            } else {
                read.unwrap_or_else(|error| Err(Miss::Io(error)))
            };
        match found {
            // Another block with the same hash: that one may stay.
            Ok(None) => Err(Miss::Absent),
            Ok(Some(found)) => Ok(found),
            Err(miss) => {
                log.forget(hash, place.position);
                Err(miss)
            }
        }
    }

    /// Whether what was found is dead under one of its tags.
    pub fn is_buried(&self, key: &[u8], found: &Found<M::Block>, mut has_tag: impl FnMut(&[u8]) -> bool) -> bool {
        self.tombstones.borrow().tags(key, found.position).any(&mut has_tag)
    }

    /// Forgets a block that turned out to be of no use.
    pub fn forget(&self, hash: u64) {
        let mut log = self.log.borrow_mut();
        if let Some(place) = log.find(hash) {
            log.forget(hash, place.position);
        }
    }

    /// Writes entries, in one write or several. Those too long are left out. Not to be called again before it is over.
    ///
    /// # Errors
    /// The device's: those that were not written are not found.
    pub async fn write(&self, entries: &[Entry<'_>]) -> io::Result<()> {
        let mut rest: Vec<&Entry<'_>> = entries.iter().collect();
        loop {
            // Between this and the reservation nothing can be buried: what is, is killed by its position or not written.
            rest.retain(|entry| entry.live.get() && entry.fits() && self.log.borrow().admits(entry.pages()));
            if rest.is_empty() {
                return Ok(());
            }
            let (count, pages) = self.log.borrow().fitting(rest.iter().map(|entry| entry.pages()), BATCH_PAGES);
            if count == 0 {
                self.seal().await?;
                continue;
            }
            let batch: Vec<&Entry<'_>> = rest.drain(..count).collect();
            let mut buffer = self.medium.buffer(pages as usize * PAGE);
            let start = self.log.borrow_mut().reserve(pages);
            let (mut position, mut out) = (start, M::bytes_mut(&mut buffer));
            for entry in &batch {
                let (here, behind) = out.split_at_mut(entry.pages() as usize * PAGE);
                entry.write(self.id, self.epoch, position, here);
                position += u64::from(entry.pages());
                out = behind;
            }
            let offset = self.log.borrow().geometry().offset(start);
            self.medium.write(offset, buffer).await?;
            let (mut log, mut position) = (self.log.borrow_mut(), start);
            for entry in &batch {
                log.commit(entry.hash, Place { position, pages: entry.pages() });
                position += u64::from(entry.pages());
            }
        }
    }

    /// Ends the open segment with its table, so that a start need not search it.
    ///
    /// # Errors
    /// The device's.
    pub async fn seal(&self) -> io::Result<()> {
        let (offset, buffer) = {
            let log = self.log.borrow();
            let (serial, records) = log.table();
            let pages = table_pages(records.len());
            let mut buffer = self.medium.buffer(pages as usize * PAGE);
            write_table(self.id, serial, records, M::bytes_mut(&mut buffer));
            let end = (serial + 1) * u64::from(log.geometry().segment_pages);
            (log.geometry().offset(end - u64::from(pages)), buffer)
        };
        self.medium.write(offset, buffer).await?;
        self.log.borrow_mut().next_segment();
        Ok(())
    }

    /// From now on what the tombstone names is dead as far as it was written, or is being written. Returns the record to append to
    /// the journal; none when that is to be written anew.
    pub fn bury(&self, tombstone: Tombstone) -> Option<Vec<u8>> {
        let log = self.log.borrow();
        self.tombstones.borrow_mut().add(tombstone, log.head())
    }

    /// The whole journal, without what needs not be remembered any more.
    pub fn journal(&self) -> Vec<u8> {
        let mut tombstones = self.tombstones.borrow_mut();
        tombstones.prune(self.log.borrow().first_live());
        tombstones.journal(self.id)
    }

    /// Entries in the index.
    pub fn entries(&self) -> usize {
        self.log.borrow().entries()
    }

    /// What it lies on; the volume is over.
    pub fn into_medium(self) -> M {
        self.medium
    }
}

/// What a read is to find.
struct Wanted<'a> {
    volume: u64,
    place: Place,
    hash: u64,
    key: &'a [u8],
    block: u32,
}

/// What was read, checked; nothing when it is another block's.
type Checked<B> = Result<Option<Found<B>>, Miss>;

impl Wanted<'_> {
    /// From an entry of one page.
    fn short<B: Deref<Target = [u8]>>(&self, page: &[u8]) -> Checked<B> {
        self.check(page, |at| page.get(at).map(|bytes| Payload::Short(bytes.into())))
    }

    /// From an entry's first page, and what is behind it.
    fn long<B: Deref<Target = [u8]>>(&self, page: &[u8], bytes: B) -> Checked<B> {
        self.check(page, |at| (at.len() <= bytes.len()).then(|| Payload::Long(bytes, at.len())))
    }

    fn check<B: Deref<Target = [u8]>>(
        &self,
        page: &[u8],
        payload: impl FnOnce(Range<usize>) -> Option<Payload<B>>,
    ) -> Checked<B> {
        let Place { position, pages } = self.place;
        let head = EntryHead::read(self.volume, page)
            .filter(|head| head.position == position && head.hash == self.hash && head.pages() == pages)
            .ok_or(Miss::Corrupt)?;
        let [key, meta] = head.key_and_meta(page).ok_or(Miss::Corrupt)?;
        if head.block != self.block || page.get(key) != Some(self.key) {
            return Ok(None);
        }
        let payload = payload(head.payload()).ok_or(Miss::Corrupt)?;
        let found = Found { position, meta: page.get(meta).ok_or(Miss::Corrupt)?.into(), payload };
        if head.is_payload(found.payload()) { Ok(Some(found)) } else { Err(Miss::Corrupt) }
    }
}

/// What was found in one segment.
#[derive(Debug, Default)]
struct Segment {
    serial: u64,
    records: Vec<Record>,
    /// The page behind the last entry; none when it is sealed.
    end: Option<u32>,
    /// The epoch of the last entry.
    epoch: u64,
}

/// What one segment of the file holds: from its table, or by going from entry to entry.
async fn segment<M: Medium>(medium: &M, volume: u64, geometry: Geometry, slot: u32) -> io::Result<Option<Segment>> {
    let pages = geometry.segment_pages;
    let start = u64::from(slot) * u64::from(pages);
    let belongs = |serial: u64| serial % u64::from(geometry.segments) == u64::from(slot);
    let first = {
        let page = medium.read(geometry.offset(start), PAGE).await?;
        EntryHead::read(volume, &page)
    };
    let first = first.filter(|head| head.position % u64::from(pages) == 0);
    let begun = first.map(|head| head.position / u64::from(pages)).filter(|&serial| belongs(serial));
    let last = medium.read(geometry.offset(start + u64::from(pages) - 1), PAGE).await?;
    // A table of what was there before the segment was begun anew says nothing.
    let foot = Foot::read(volume, &last)
        .filter(|foot| belongs(foot.serial) && begun.is_none_or(|begun| begun <= foot.serial))
        .filter(|foot| table_pages(foot.entries) < pages);
    drop(last);
    if let Some(foot) = foot {
        let len = table_pages(foot.entries);
        let table = medium.read(geometry.offset(start + u64::from(pages - len)), len as usize * PAGE).await?;
        if let Some(records) = foot.records(&table) {
            return Ok(Some(Segment { serial: foot.serial, records, end: None, epoch: 0 }));
        }
    }
    let (Some(serial), Some(first)) = (begun, first) else { return Ok(None) };
    let mut found = Segment { serial, records: Vec::new(), end: None, epoch: first.epoch };
    let (mut page, mut head) = (0, Some(first));
    // What an earlier start had left further on has a lower epoch than what was written over its beginning.
    while let Some(entry) = head.filter(|entry| {
        entry.epoch >= found.epoch
            && entry.position == first.position + u64::from(page)
            && entry.pages() <= pages - page
    }) {
        // One that was cut off must not stand in for an older one that is whole.
        let bytes = medium.read(geometry.offset(entry.position), entry.pages() as usize * PAGE).await?;
        if entry.is_whole(&bytes) {
            found.records.push(Record { hash: entry.hash, page, pages: entry.pages() });
        }
        found.epoch = entry.epoch;
        page += entry.pages();
        head = match page < pages {
            true => EntryHead::read(volume, &medium.read(geometry.offset(start + u64::from(page)), PAGE).await?),
            false => None,
        };
    }
    found.end = Some(page);
    Ok(Some(found))
}
