//! Where entries go and which are there: the bookkeeping of a volume, without any I/O.

use crate::format::{Geometry, Record, table_pages};
use crate::index::{Index, Place};

/// While the log goes round once, each part of the index is swept so often: no more than a fourth of it is dead.
const SWEEPS: u64 = 4;

/// The log of one volume.
#[derive(Debug)]
pub(crate) struct Log {
    geometry: Geometry,
    index: Index,
    /// Serial number of the open segment.
    serial: u64,
    /// The next free page in it.
    page: u32,
    /// What is in it, and on the disk.
    records: Vec<Record>,
    written: u64,
    sweeps: u64,
}

impl Log {
    /// An empty log that goes on with segment `serial`.
    pub(crate) fn new(geometry: Geometry, serial: u64) -> Log {
        Log { geometry, index: Index::default(), serial, page: 0, records: Vec::new(), written: 0, sweeps: 0 }
    }

    /// Goes on at this page of segment `serial`, which has these entries.
    pub(crate) fn continue_at(&mut self, serial: u64, page: u32, records: Vec<Record>) {
        (self.serial, self.page, self.records) = (serial, page, records);
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(crate) fn entries(&self) -> usize {
        self.index.len()
    }

    /// The position of the next entry.
    pub(crate) fn head(&self) -> u64 {
        self.serial * u64::from(self.geometry.segment_pages) + u64::from(self.page)
    }

    /// The first position that is not overwritten.
    pub(crate) fn first_live(&self) -> u64 {
        (self.serial + 1).saturating_sub(u64::from(self.geometry.segments)) * u64::from(self.geometry.segment_pages)
    }

    /// Whether the position will be overwritten before a quarter of the log has been written.
    pub(crate) fn is_old(&self, position: u64) -> bool {
        position < self.head().saturating_sub(self.geometry.pages() / 4 * 3)
    }

    pub(crate) fn find(&self, hash: u64) -> Option<Place> {
        self.index.get(hash).filter(|place| place.position >= self.first_live())
    }

    pub(crate) fn forget(&mut self, hash: u64, position: u64) {
        self.index.remove(hash, position);
    }

    /// An entry that is on the disk since an earlier start.
    pub(crate) fn recovered(&mut self, serial: u64, record: Record) {
        let position = serial * u64::from(self.geometry.segment_pages) + u64::from(record.page);
        self.index.insert(record.hash, Place { position, pages: record.pages });
    }

    /// Whether an entry of so many pages can be had in any segment.
    pub(crate) fn admits(&self, pages: u32) -> bool {
        pages <= u32::from(u16::MAX) && pages + table_pages(1) <= self.geometry.segment_pages
    }

    /// How many of the next entries, of so many pages each, go into the open segment in one write of at most `most` pages (or of
    /// one entry).
    pub(crate) fn fitting(&self, entries: impl Iterator<Item = u32>, most: u32) -> (usize, u32) {
        let (mut count, mut sum) = (0, 0);
        for pages in entries {
            let table = table_pages(self.records.len() + count + 1);
            let full = self.page + sum + pages + table > self.geometry.segment_pages;
            if full || (count > 0 && sum + pages > most) {
                break;
            }
            count += 1;
            sum += pages;
        }
        (count, sum)
    }

    /// Takes the next pages of the open segment. Whatever becomes of the write, nobody else gets them.
    pub(crate) fn reserve(&mut self, pages: u32) -> u64 {
        let position = self.head();
        self.page += pages;
        position
    }

    /// An entry is on the disk: from now on it is found.
    pub(crate) fn commit(&mut self, hash: u64, place: Place) {
        let page = (place.position % u64::from(self.geometry.segment_pages)) as u32;
        self.records.push(Record { hash, page, pages: place.pages });
        self.index.insert(hash, place);
        self.written += u64::from(place.pages);
        let goal = self.written.saturating_mul(SWEEPS * Index::parts()) / self.geometry.pages();
        let first_live = self.first_live();
        while self.sweeps < goal {
            self.index.sweep(|position| position >= first_live);
            self.sweeps += 1;
        }
    }

    /// What the open segment's table has to say.
    pub(crate) fn table(&self) -> (u64, &[Record]) {
        (self.serial, &self.records)
    }

    /// Opens the next segment: what lies there now is gone.
    pub(crate) fn next_segment(&mut self) {
        self.continue_at(self.serial + 1, 0, Vec::new());
    }
}
