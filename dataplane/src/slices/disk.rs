//! Between RAM and disk: what comes back from there, and what is worth going there.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shoal_link::message::PurgeScope;

use super::flight::{Flight, Opening};
use super::key::SliceKey;
use super::store::{OpenRequest, Store};
use super::table::{Kept, Left, Table};
use super::transfer;
use super::version::Version;
use crate::disk::{Burial, Disk, Fetched};
use crate::upstream::within;

/// Blocks that one look for blocks worth writing goes through, ten times in a second.
const LOOK_STEPS: usize = 1024;

/// What needs validation sooner than this is not worth a write.
const FRESH_MIN_MS: u64 = 10_000;

/// Blocks that one read goes on for.
const RUN_MAX: u32 = 64;

/// How long a read goes on waiting for somebody to want the next block.
const IDLE_DEMAND: Duration = Duration::from_secs(5);

/// Blocks of a replaced object that are looked for on disk.
const OUTDATED_LOOKS: u32 = 64 << 10;

/// The same of an object that a viewer has changed, which is of unknown length.
const INVALIDATED_LOOKS: u32 = 4 << 10;

impl Store {
    /// The version that disk has under the name of a request, fresh or not, with the block that is wanted first.
    pub(super) async fn open_from_disk(&self, request: &OpenRequest, opening: &Opening) -> Option<Arc<Version>> {
        let disk = self.disk()?;
        let index = self.index_of(request.want.first);
        let in_ram = |table: &Table| table.variants(&request.key).next().is_some();
        // Where there is another variant, what is on disk is from before the origin varied its answers.
        if !disk.has(&request.key, index) || in_ram(&self.table.borrow()) {
            return None;
        }
        let room = async |len| self.allocate_for_disk(len).await;
        let fetched = disk.fetch(&request.key, index, room).await?;
        let fits = fetched.parts.total.and_then(|total| self.block_len(total, index)) == Some(fetched.payload().len());
        if !fits || fetched.parts.exclusive {
            disk.forget(&request.key, index);
            return None;
        }
        let (block, mut parts) = fetched.into_block(room).await?;
        if parts.born_ms > self.clock.now_ms() {
            // The clock was set back: nobody knows how old it is.
            (parts.born_ms, parts.fresh_until_ms) = (0, 0);
        }
        let mut table = self.table.borrow_mut();
        if opening.is_purged() || in_ram(&table) {
            return None;
        }
        let version = table.insert(&request.key, &request.channel, request.asked.as_ref(), parts);
        if table.begin_block(version.slot, index, block.share()) {
            block.finish();
            table.finish_block(version.slot, index);
        }
        Some(version)
    }

    /// Starts to read the block, and those after it up to `last` that are there as well; `None` when it is not on disk.
    pub(super) fn start_read(self: &Rc<Self>, version: &Version, index: u32, last: u32) -> Option<Rc<Flight>> {
        let disk = Rc::clone(self.disk()?);
        let mut table = self.table.borrow_mut();
        let held = table.held_mut(version.slot)?;
        if !disk.has(&held.key, index) {
            return None;
        }
        let total = held.version.total()?;
        let mut end = last.min(index.saturating_add(RUN_MAX - 1)).min(self.index_of(total.saturating_sub(1))) + 1;
        // A transfer that would get there, but much later, ends where this begins.
        held.flights.iter().filter(|flight| flight.covers(index)).for_each(|flight| flight.shorten(index));
        if let Some(claimed) = held.next_claimed(index) {
            end = end.min(claimed);
        }
        let end = (index + 1..end).find(|&next| !disk.has(&held.key, next)).unwrap_or(end).max(index + 1);
        let flight = Rc::new(Flight::new(index, end));
        held.flights.push(Rc::clone(&flight));
        self.flights.set(self.flights.get() + 1);
        let read = Read {
            store: Rc::clone(self),
            disk,
            key: held.key.clone(),
            version: Arc::clone(&held.version),
            total,
            flight: Rc::clone(&flight),
            last,
        };
        // A task runs at once when it is spawned, and this one may have to make room in the table.
        drop(table);
        glommio::spawn_local(read.run()).detach();
        Some(flight)
    }

    /// The first block of `from..end` that is on disk, or `end`.
    pub(super) fn next_on_disk(&self, key: &SliceKey, from: u32, end: u32) -> u32 {
        let Some(disk) = &self.disk else { return end };
        (from..end.min(from.saturating_add(RUN_MAX))).find(|&index| disk.has(key, index)).unwrap_or(end)
    }

    /// Whether the block that holds the byte at `first` would come from disk.
    pub(super) fn is_on_disk(&self, key: &SliceKey, first: u64) -> bool {
        self.disk().is_some_and(|disk| disk.has(key, self.index_of(first)))
    }

    /// Whether any of the object's first blocks is on disk.
    pub(super) fn has_any_on_disk(&self, key: &SliceKey) -> bool {
        self.disk().is_some_and(|disk| (0..INVALIDATED_LOOKS).any(|index| disk.has(key, index)))
    }

    /// What the scope names must not come back from disk either.
    pub(super) fn purge_disk(&self, scope: &PurgeScope) -> Option<Burial> {
        Some(self.disk()?.purge(scope))
    }

    /// The object has been changed at its origin: what is on disk of it is not to come back, whether or not RAM knows it.
    pub(super) fn invalidate_disk(&self, key: &SliceKey) {
        if let Some(disk) = self.disk() {
            disk.outdated(key, INVALIDATED_LOOKS);
        }
    }

    /// Offers what was used often enough and is not on disk, and what an eviction took.
    pub(super) fn feed_disk(&self) {
        let Some(disk) = self.disk() else { return };
        let now_ms = self.clock.now_ms();
        self.table.borrow_mut().walk(LOOK_STEPS, |kept| self.offer(disk, kept, now_ms));
        disk.tick();
    }

    /// Offers a block that an eviction took.
    pub(super) fn offer_left(&self) {
        let left = self.table.borrow_mut().take_left();
        if let (Some(Left { version, key, index, block, uses }), Some(disk)) = (left, &self.disk) {
            self.offer(disk, Kept { version: &version, key: &key, index, block: &block, uses }, self.clock.now_ms());
        }
    }

    fn offer(&self, disk: &Disk, kept: Kept<'_>, now_ms: u64) {
        let Kept { version, key, index, block, uses } = kept;
        if self.purges.get() == 0
            && uses >= self.admit_uses
            && self.is_worth_keeping(version, now_ms)
            && disk.wants(key, index)
        {
            let total = version.total();
            if total.and_then(|total| self.block_len(total, index)) == Some(block.filled()) {
                disk.offer(key, index, &version.parts(), block);
            }
        }
    }

    /// Whether blocks of it mean anything by themselves, and for long enough.
    fn is_worth_keeping(&self, version: &Version, now_ms: u64) -> bool {
        let in_one_block = version.total().is_some_and(|total| total <= self.block_bytes as u64);
        !version.exclusive
            && (version.is_combinable() || in_one_block)
            // Its name alone would not find it again.
            && version.selecting.is_empty()
            && version.fresh_until_ms() >= now_ms + FRESH_MIN_MS
    }

    /// The disk tier, after it was told what was replaced since the last time.
    pub(super) fn disk(&self) -> Option<&Rc<Disk>> {
        let disk = self.disk.as_ref()?;
        for (key, total) in self.table.borrow_mut().take_outdated() {
            let blocks = total.map_or(0, |total| self.index_of(total.saturating_sub(1)).saturating_add(1));
            disk.outdated(&key, blocks.clamp(1, OUTDATED_LOOKS));
        }
        Some(disk)
    }

    /// Bytes of a block of an object of `total` bytes; `None` beyond its end.
    fn block_len(&self, total: u64, index: u32) -> Option<usize> {
        let left = total.checked_sub(u64::from(index) * self.block_bytes as u64).filter(|&left| left > 0)?;
        Some(left.min(self.block_bytes as u64) as usize)
    }
}

/// Fills the blocks of one flight from disk.
struct Read {
    store: Rc<Store>,
    disk: Rc<Disk>,
    key: SliceKey,
    version: Arc<Version>,
    total: u64,
    flight: Rc<Flight>,
    /// The last block that was asked for.
    last: u32,
}

impl Read {
    async fn run(self) {
        let missing = self.blocks().await;
        let mut table = self.store.table.borrow_mut();
        if let Some(held) = table.held_mut(self.version.slot) {
            held.flights.retain(|flight| !Rc::ptr_eq(flight, &self.flight));
        }
        table.settle(self.version.slot);
        drop(table);
        self.store.flights.set(self.store.flights.get() - 1);
        // What disk did not have after all comes from the origin; those who wait find that flight instead of this one.
        let failure =
            missing.and_then(|index| transfer::start_fill(&self.store, &self.version, index, self.last).err());
        self.flight.finish(failure);
    }

    /// The block at which it went wrong.
    async fn blocks(&self) -> Option<u32> {
        let store = &self.store;
        for index in self.flight.next()..self.flight.end() {
            let wanted = self.flight.until_wanted(index, store.limits.readahead_blocks);
            if within(IDLE_DEMAND, wanted).await.is_none() || self.flight.is_abandoned() || index >= self.flight.end() {
                return None;
            }
            let room = async |len| store.allocate_for_disk(len).await;
            let Some(fetched) = self.disk.fetch(&self.key, index, room).await else { return Some(index) };
            if !self.fits(&fetched, index) {
                self.disk.forget(&self.key, index);
                return Some(index);
            }
            let Some((block, _)) = fetched.into_block(room).await else { return Some(index) };
            let mut table = store.table.borrow_mut();
            if !table.begin_block(self.version.slot, index, block.share()) {
                return None;
            }
            block.finish();
            table.finish_block(self.version.slot, index);
            drop(table);
            self.flight.advance();
        }
        None
    }

    /// Whether the block is one of this very version.
    fn fits(&self, fetched: &Fetched, index: u32) -> bool {
        fetched.parts.validators.same_bytes(&self.version.validators)
            && fetched.parts.total == Some(self.total)
            && self.store.block_len(self.total, index) == Some(fetched.payload().len())
    }
}
