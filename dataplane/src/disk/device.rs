//! One shard's volume on one device: opened, written in the background, taken out while the device fails.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use glommio::timer::sleep;
use shoal_disk::{Entry, Found, Geometry, Miss, Superblock, Tombstone, Tombstones, Volume};
use shoal_sys::arena::{BlockRef, BlockWriter};
use shoal_sys::ring::{Landed, Ring};

use super::file::File;
use super::journal::{Change, Journal};
use crate::slices::key::SliceKey;
use crate::slices::notify::Notify;
use crate::telemetry::metrics::Counter;
use crate::telemetry::stats::ShardStats;
use crate::upstream::within;

/// A device that failed is tried again after this, and after twice as long each time it fails again.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// So many reads that fail or take too long, one after the other, take a device out.
const FAILURES_MAX: u32 = 8;

/// A write that takes longer has failed.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Reads under way at a time; what comes beyond is fetched from the origin.
const READS_MAX: usize = 256;

/// Blocks written together at most.
const BATCH_MAX: usize = 64;
/// And their bytes.
const BATCH_BYTES: usize = 1 << 20;

/// What may be written at once after a rest, in times of what may be written in a second.
const BURST_S: f64 = 2.0;

/// A block that is to be written.
pub(super) struct Offer {
    pub(super) key: SliceKey,
    pub(super) index: u32,
    pub(super) hash: u64,
    pub(super) meta: Vec<u8>,
    pub(super) block: BlockRef,
    live: Cell<bool>,
}

/// What a device is made of.
pub(super) struct DeviceParts {
    /// The volume's file.
    pub(super) path: PathBuf,
    /// How it is cut.
    pub(super) geometry: Geometry,
    /// A number for what must not have changed since it was written.
    pub(super) identity: u64,
    /// The journal's file.
    pub(super) journal: PathBuf,
    /// A number for the device.
    pub(super) id: u64,
    /// Bytes written in a second, at most.
    pub(super) bytes_per_s: u64,
    /// Bytes of blocks that may wait to be written.
    pub(super) queue_bytes: usize,
    /// How long a read may take.
    pub(super) read_patience: Duration,
    /// The shard's ring.
    pub(super) ring: Ring,
    /// The shard's figures.
    pub(super) stats: Arc<ShardStats>,
}

/// A volume that comes and goes with its device.
pub(super) struct Device {
    parts: DeviceParts,
    journal: Rc<Journal>,
    volume: RefCell<Option<Rc<Volume<File>>>>,
    /// Something was purged or replaced while the volume could not be told.
    distrusted: Cell<bool>,
    failures: Cell<u32>,
    reads: Cell<usize>,
    offers: RefCell<VecDeque<Rc<Offer>>>,
    offered: RefCell<HashSet<u64>>,
    offered_bytes: Cell<usize>,
    closing: Cell<bool>,
    /// It was tried to open the volume, with or without success; or all is written, for the end.
    settled: Cell<bool>,
    changed: Notify,
}

impl Device {
    pub(super) fn new(parts: DeviceParts) -> Rc<Device> {
        let journal = Journal::new(parts.journal.clone(), &parts.stats);
        let device = Rc::new(Device {
            parts,
            journal,
            volume: RefCell::default(),
            distrusted: Cell::new(false),
            failures: Cell::new(0),
            reads: Cell::new(0),
            offers: RefCell::default(),
            offered: RefCell::default(),
            offered_bytes: Cell::new(0),
            closing: Cell::new(false),
            settled: Cell::new(false),
            changed: Notify::default(),
        });
        glommio::spawn_local(Rc::clone(&device).run()).detach();
        device
    }

    pub(super) fn id(&self) -> u64 {
        self.parts.id
    }

    pub(super) fn volume(&self) -> Option<Rc<Volume<File>>> {
        self.volume.borrow().clone()
    }

    pub(super) fn is_up(&self) -> bool {
        self.volume.borrow().is_some()
    }

    pub(super) fn offered_bytes(&self) -> usize {
        self.offered_bytes.get()
    }

    /// Waits until it was tried to open the volume, or after [`Device::close`] until all is written.
    pub(super) async fn settled(&self) {
        loop {
            let mark = self.changed.mark();
            if self.settled.get() {
                return;
            }
            self.changed.changed(mark).await;
        }
    }

    /// Has what waits written; then it is over.
    pub(super) fn close(&self) {
        self.closing.set(true);
        self.settled.set(false);
        self.changed.notify();
    }

    async fn run(self: Rc<Self>) {
        let (mut pause, mut was_down) = (RETRY_MIN, false);
        while !self.closing.get() {
            let path = self.parts.path.display();
            let begun = Instant::now();
            let failed = match self.open().await {
                // A purge came in between: once more, and this time from nothing.
                Ok(_) if self.distrusted.get() => continue,
                Ok(volume) => {
                    let (entries, after_ms) = (volume.entries(), begun.elapsed().as_millis() as u64);
                    if was_down {
                        tracing::info!(volume = %path, entries, after_ms, "the disk tier's device works again");
                    } else {
                        tracing::debug!(volume = %path, entries, after_ms, "opened a volume of the disk tier");
                    }
                    self.failures.set(0);
                    let volume = Rc::new(volume);
                    *self.volume.borrow_mut() = Some(Rc::clone(&volume));
                    self.settle();
                    let up = Instant::now();
                    let ended = self.write_until_down(&volume).await;
                    *self.volume.borrow_mut() = None;
                    if up.elapsed() > RETRY_MAX {
                        pause = RETRY_MIN;
                    }
                    match ended {
                        Ok(()) => break,
                        Err(error) => error,
                    }
                }
                Err(error) => {
                    self.parts.stats.add(Counter::DiskOpenErrors, 1);
                    error
                }
            };
            if !was_down {
                tracing::error!(
                    volume = %path, error = %failed,
                    "a device of the disk tier failed; it is left out, and tried again from time to time",
                );
            }
            was_down = true;
            self.drop_offers();
            self.settle();
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        self.settle();
    }

    fn settle(&self) {
        self.settled.set(true);
        self.changed.notify();
    }

    async fn open(&self) -> io::Result<Volume<File>> {
        let DeviceParts { path, geometry, identity, ring, stats, .. } = &self.parts;
        let mut file = File::open(path, geometry.file_bytes(), ring, stats).await?;
        let (geometry, identity, epoch) = (*geometry, *identity, epoch());
        if let Some((volume, tombstones)) = self.journal.read().await.filter(|_| !self.distrusted.get()) {
            let superblock = Superblock { volume, identity, geometry };
            match Volume::open(file, superblock, tombstones, epoch).await? {
                Ok(volume) => return Ok(volume),
                Err(other) => file = other,
            }
        }
        self.distrusted.set(false);
        let superblock = Superblock { volume: crate::link::random_u64()?, identity, geometry };
        // The journal first: what an older volume has left in the file is nobody's then.
        let saved = self.journal.change(Change::Replace(Tombstones::default().journal(superblock.volume)));
        self.journal.saved(saved).await;
        Volume::create(file, superblock, epoch).await
    }

    /// Writes what is offered. Ends well when the device is closed.
    async fn write_until_down(&self, volume: &Volume<File>) -> io::Result<()> {
        let mut budget = Budget::new(self.parts.bytes_per_s);
        loop {
            let mark = self.changed.mark();
            if self.failures.get() >= FAILURES_MAX {
                return Err(io::Error::other(
                    "too many reads failed, one after the other; the log at `debug` has them",
                ));
            }
            if self.journal.wants_rewrite() {
                self.journal.change(Change::Replace(volume.journal()));
            }
            let batch = self.next_batch();
            if batch.is_empty() {
                if self.closing.get() {
                    return Ok(());
                }
                self.changed.changed(mark).await;
                continue;
            }
            let bytes: usize = batch.iter().map(|offer| offer.block.filled()).sum();
            // What waits when the process ends was admitted already.
            if !self.closing.get() {
                budget.spend(bytes).await;
            }
            let entries: Vec<_> = batch
                .iter()
                .map(|offer| Entry {
                    hash: offer.hash,
                    block: offer.index,
                    key: offer.key.bytes(),
                    meta: &offer.meta,
                    payload: offer.block.bytes(),
                    live: &offer.live,
                })
                .collect();
            let written = in_time(volume.write(&entries)).await;
            drop(entries);
            for offer in &batch {
                self.offers.borrow_mut().pop_front();
                self.taken(offer);
            }
            if let Err(error) = written {
                self.parts.stats.add(Counter::DiskWriteErrors, 1);
                self.parts.stats.add(Counter::DiskWriteDrops, batch.len() as u64);
                return Err(error);
            }
        }
    }

    /// The first of those who wait; they stay there until they are written, so that a purge finds them.
    fn next_batch(&self) -> Vec<Rc<Offer>> {
        let mut bytes = 0;
        let fits = |offer: &&Rc<Offer>| {
            bytes += offer.block.filled();
            bytes <= BATCH_BYTES
        };
        let offers = self.offers.borrow();
        let mut batch: Vec<_> = offers.iter().take(BATCH_MAX).take_while(fits).cloned().collect();
        if batch.is_empty() {
            batch.extend(offers.front().cloned());
        }
        batch
    }

    fn taken(&self, offer: &Offer) {
        self.offered.borrow_mut().remove(&offer.hash);
        self.offered_bytes.set(self.offered_bytes.get() - offer.block.footprint());
    }

    fn drop_offers(&self) {
        let offers = std::mem::take(&mut *self.offers.borrow_mut());
        offers.iter().for_each(|offer| self.taken(offer));
        self.parts.stats.add(Counter::DiskWriteDrops, offers.len() as u64);
    }

    /// Whether the block should be written: it is neither there, as far as that will last, nor about to be.
    pub(super) fn wants(&self, key: &SliceKey, hash: u64) -> bool {
        !self.offered.borrow().contains(&hash)
            && self.volume().is_some_and(|volume| !volume.has(hash, key.hash(), key.bytes(), true))
    }

    /// Whether the block is there, or about to be.
    pub(super) fn knows(&self, key: &SliceKey, hash: u64) -> bool {
        self.offered.borrow().contains(&hash)
            || self.volume().is_some_and(|volume| volume.has(hash, key.hash(), key.bytes(), false))
    }

    /// Has a block written some time. A block too many is not.
    pub(super) fn offer(&self, key: &SliceKey, index: u32, hash: u64, meta: Vec<u8>, block: &BlockRef) {
        let bytes = self.offered_bytes.get() + block.footprint();
        let admits = self.volume().is_some_and(|volume| volume.admits(key.len() + meta.len(), block.filled()));
        if bytes > self.parts.queue_bytes || !admits || self.closing.get() {
            return self.parts.stats.add(Counter::DiskWriteDrops, 1);
        }
        let offer = Offer { key: key.clone(), index, hash, meta, block: block.clone(), live: Cell::new(true) };
        self.offers.borrow_mut().push_back(Rc::new(offer));
        self.offered.borrow_mut().insert(hash);
        self.offered_bytes.set(bytes);
        self.changed.notify();
    }

    /// Reads a block to where `room` has room for it; `None` is a miss, whatever the reason.
    pub(super) async fn read(
        &self,
        key: &SliceKey,
        index: u32,
        hash: u64,
        room: impl AsyncFnOnce(usize) -> Option<BlockWriter>,
    ) -> Option<Found<Landed>> {
        let volume = self.volume()?;
        let stats = &self.parts.stats;
        if self.reads.get() >= READS_MAX {
            stats.add(Counter::DiskBusy, 1);
            return None;
        }
        self.reads.set(self.reads.get() + 1);
        let under_way = Reading(&self.reads);
        let read = within(self.parts.read_patience, volume.read(hash, key.hash(), key.bytes(), index, room)).await;
        drop(under_way);
        match read {
            Some(Ok(found)) => {
                self.failures.set(0);
                stats.add(Counter::DiskHits, 1);
                return Some(found);
            }
            Some(Err(Miss::Absent | Miss::NoRoom)) => stats.add(Counter::DiskMisses, 1),
            Some(Err(Miss::Corrupt)) => {
                stats.add(Counter::DiskCorrupt, 1);
                tracing::debug!(volume = %self.parts.path.display(), "a checksum was wrong; the block is fetched anew");
            }
            Some(Err(Miss::Io(error))) => {
                stats.add(Counter::DiskReadErrors, 1);
                tracing::debug!(volume = %self.parts.path.display(), %error, "a read failed; the block is fetched anew");
                self.failed();
            }
            None => {
                stats.add(Counter::DiskTimeouts, 1);
                self.failed();
            }
        }
        None
    }

    fn failed(&self) {
        self.failures.set(self.failures.get() + 1);
        if self.failures.get() >= FAILURES_MAX {
            *self.volume.borrow_mut() = None;
            self.changed.notify();
        }
    }

    /// What the tombstone names must not come back. Returns the change of the journal to wait for.
    pub(super) fn bury(&self, tombstone: &Tombstone) -> u64 {
        for offer in self.offers.borrow().iter() {
            let dead = match tombstone {
                Tombstone::Object(hash) => offer.key.hash() == *hash,
                Tombstone::Prefix(prefix) => offer.key.bytes().starts_with(prefix),
                // Whatever its tags: the next look will offer again what is to be kept.
                Tombstone::Tag(tag) => tag.strip_prefix(offer.key.channel()).is_some_and(|tag| tag.first() == Some(&0)),
            };
            if dead {
                offer.live.set(false);
            }
        }
        let change = match self.volume() {
            Some(volume) => match volume.bury(tombstone.clone()) {
                Some(record) => Change::Append(record),
                None => Change::Replace(volume.journal()),
            },
            None if self.distrusted.replace(true) => return self.journal.asked(),
            None => Change::Remove,
        };
        self.changed.notify();
        self.journal.change(change)
    }

    /// Waits until the change of the journal is on disk.
    pub(super) async fn saved(&self, change: u64) {
        self.journal.saved(change).await;
    }
}

/// One read under way.
struct Reading<'a>(&'a Cell<usize>);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A number that is higher at each start.
fn epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as u64)
}

async fn in_time(work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let timed_out = || io::Error::new(io::ErrorKind::TimedOut, format!("a write took longer than {WRITE_PATIENCE:?}"));
    within(WRITE_PATIENCE, work).await.unwrap_or_else(|| Err(timed_out()))
}

/// How much may be written.
struct Budget {
    bytes_per_s: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(bytes_per_s: u64) -> Budget {
        let bytes_per_s = bytes_per_s.max(1) as f64;
        Budget { bytes_per_s, left: bytes_per_s * BURST_S, at: Instant::now() }
    }

    /// Waits until so many bytes more may be written.
    async fn spend(&mut self, bytes: usize) {
        let earned = self.at.elapsed().as_secs_f64() * self.bytes_per_s;
        (self.left, self.at) = ((self.left + earned).min(self.bytes_per_s * BURST_S), Instant::now());
        self.left -= bytes as f64;
        if self.left < 0.0 {
            sleep(Duration::from_secs_f64(-self.left / self.bytes_per_s)).await;
        }
    }
}
