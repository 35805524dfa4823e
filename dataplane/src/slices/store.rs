//! The owner's side: what a shard answers for the objects it owns.
//!
//! Two questions can be asked, by this shard's connections directly and by others' over the mesh: [`Store::open`] (which
//! version do I serve?) and [`Store::block`] (give me this block, or more of it). Both first try to answer without
//! waiting. What has to be fetched is fetched by tasks of their own ([`super::question`], [`super::transfer`]), so a request that goes away takes
//! nothing with it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shoal_sys::arena::{Arena, BlockRef, BlockWriter, Progress};

use super::flight::{BlockError, Flight, Forwarded, OpenError, Opening};
use super::hedge::Hedging;
use super::key::SliceKey;
use super::notify::Notify;
use super::question;
use super::table::{Evicted, Table};
use super::transfer;
use super::version::Version;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::ledger::Recorder;
use crate::routes::{Channel, Parents, Published};
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::{CacheResult, ShardStats};
use crate::upstream::{Asked, UpstreamLimits, Upstreams, within};

/// Evictions tried for one block before waiting for readers to let go.
const EVICTIONS_MAX: usize = 512;

/// One part in so many of the RAM may stay free while what becomes free does not make a huge page.
const SPARE_SHARE: usize = 16;

/// A block this far ahead of a transfer is asked for by itself.
const JOIN_DISTANCE: u32 = 16;

/// How long a fetch waits for memory that readers hold.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);

/// One part in so many of the RAM is for what may be evicted, however much readers keep and fetches fill.
const EVICTABLE_SHARE: usize = 3;

/// Time in which a block is to be read, or its reader is slow: at 1 MiB, slower than any video.
const SLOW_READ_S: u64 = 60;

/// For so many ticks nothing may come of waiting for memory before faster readers are asked for it.
const STARVED_TICKS: u32 = 10;

/// What a shard owns, and its way to the origins.
pub struct Store {
    pub(super) table: RefCell<Table>,
    pub(super) arena: Arena,
    pub(super) upstreams: Upstreams,
    pub(super) limits: UpstreamLimits,
    pub(super) clock: Clock,
    pub(super) stats: Arc<ShardStats>,
    pub(super) ledger: Rc<RefCell<Recorder>>,
    pub(super) block_bytes: usize,
    pub(super) published: Arc<Published>,
    pub(super) parents: Arc<Parents>,
    pub(super) flights: Cell<u64>,
    pub(super) disk: Option<Rc<Disk>>,
    pub(super) admit_uses: u8,
    pub(super) hedging: RefCell<Hedging>,
    /// Purges under way.
    pub(super) purges: Cell<u32>,
    memory: Notify,
    /// Bytes of blocks that wait for memory.
    short_of: Cell<usize>,
    /// Ticks since one of them got some.
    starved: Cell<u32>,
    /// Bytes per second that a reader who pins a block has to take at least, should its memory be needed.
    least_rate: Cell<u64>,
    dice: Cell<u64>,
}

/// What a store is made of.
pub struct StoreParts {
    /// Its memory.
    pub arena: Arena,
    /// Its way to origins.
    pub upstreams: Upstreams,
    /// Limits on that.
    pub limits: UpstreamLimits,
    /// The clock.
    pub clock: Clock,
    /// The shard's figures.
    pub stats: Arc<ShardStats>,
    /// The shard's usage.
    pub ledger: Rc<RefCell<Recorder>>,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// The snapshot in force.
    pub published: Arc<Published>,
    /// Nodes to ask before the origins.
    pub parents: Arc<Parents>,
    /// The disk tier, if there is one.
    pub disk: Option<Rc<Disk>>,
    /// Uses of a block before it goes there.
    pub admit_uses: u8,
    /// For choices among equals.
    pub seed: u64,
}

/// What a request wants of an object whose length it may not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Byte it needs first.
    pub first: u64,
    /// Last byte it knows it needs; none for an open end.
    pub last: Option<u64>,
    /// Part of the object only.
    pub ranged: bool,
}

/// One request for an object.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// Its name.
    pub key: SliceKey,
    /// Its channel.
    pub channel: Arc<Channel>,
    /// What is wanted first.
    pub want: Want,
    /// What the origin sees of the viewer's request.
    pub asked: Option<Arc<Asked>>,
    /// An origin is to be asked, however fresh what is kept may be.
    pub revalidate: bool,
    /// The shared version could not be completed for this request, or it is no reading one: it gets a response of its own.
    pub private: bool,
    /// CDN-Loop as the request brought it (RFC 8586).
    pub cdn_loop: Option<Arc<str>>,
}

/// What a request serves.
#[derive(Clone)]
pub struct Opened {
    /// Of which version.
    pub version: Arc<Version>,
    /// How it was found.
    pub cache: CacheResult,
    /// What had to be asked of an origin for it, if that much is known.
    pub forwarded: Option<Forwarded>,
    /// The first block wanted, if there is anything of it yet.
    pub block: Option<BlockRef>,
}

impl Store {
    /// An empty store.
    pub fn new(parts: StoreParts) -> Store {
        Store {
            table: RefCell::new(if parts.disk.is_some() { Table::with_disk() } else { Table::default() }),
            arena: parts.arena,
            upstreams: parts.upstreams,
            limits: parts.limits,
            clock: parts.clock,
            stats: parts.stats,
            ledger: parts.ledger,
            block_bytes: parts.block_bytes,
            published: parts.published,
            parents: parts.parents,
            flights: Cell::new(0),
            disk: parts.disk,
            admit_uses: parts.admit_uses,
            hedging: RefCell::default(),
            purges: Cell::new(0),
            memory: Notify::default(),
            short_of: Cell::new(0),
            starved: Cell::new(0),
            least_rate: Cell::new(0),
            dice: Cell::new(parts.seed | 1),
        }
    }

    /// The fresh version of an object, if there is one: the whole of a hit.
    pub fn try_open(&self, request: &OpenRequest, now_ms: u64) -> Option<Opened> {
        if request.revalidate {
            return None;
        }
        let want = request.want;
        let table = self.table.borrow();
        let held = table.find(&request.key, request.asked.as_deref())?;
        let stale = !held.version.is_fresh(now_ms);
        if stale && !held.version.is_held_stale(now_ms) {
            return None;
        }
        let block = held.block(self.index_of(want.first)).filter(|block| block.filled() > 0).cloned();
        // Bytes that have to be fetched first make it a miss, whatever is known about the object.
        let have_first = block.is_some() || held.version.total().is_some_and(|total| want.first >= total);
        if let Some(block) = &block {
            block.touch();
        }
        let cache = match (stale, have_first) {
            (true, _) => CacheResult::Stale,
            (false, true) => CacheResult::Hit,
            (false, false) => CacheResult::Miss,
        };
        let version = Arc::clone(&held.version);
        drop(table);
        let from_disk =
            cache == CacheResult::Miss && version.is_combinable() && self.is_on_disk(&request.key, want.first);
        let cache = if from_disk { CacheResult::Disk } else { cache };
        Some(Opened { version, cache, forwarded: None, block })
    }

    /// The version that answers the request, fetched or confirmed when it has to be.
    pub async fn open(self: &Rc<Self>, request: &OpenRequest) -> Result<Opened, OpenError> {
        let mut joined = false;
        loop {
            let now_ms = self.clock.now_ms();
            let shared = (!request.private).then(|| self.try_open(request, now_ms)).flatten();
            if let Some(mut opened) = shared {
                if joined {
                    opened.cache = CacheResult::Coalesced;
                }
                return Ok(opened);
            }
            let (opening, ours, stale) = self.join_or_start(request, now_ms);
            if let Some(version) = stale.filter(|stale| !request.revalidate && stale.may_revalidate_later(now_ms)) {
                let block = self.try_block(&version, self.index_of(request.want.first), 0);
                return Ok(Opened { version, cache: CacheResult::Stale, forwarded: None, block });
            }
            if !ours {
                self.stats.add(Counter::FlightWaiters, 1);
                joined = true;
            }
            let (version, cache, forwarded) = opening.answered().await?;
            if !ours && (version.exclusive || !version.answers(request.asked.as_deref())) {
                // Not to be shared, or not by this request: from now on the name says so, and this one fetches for itself.
                continue;
            }
            let cache = match (ours, cache) {
                (true, cache) => cache,
                (false, CacheResult::Stale) => CacheResult::Stale,
                (false, _) => CacheResult::Coalesced,
            };
            let block = self.try_block(&version, self.index_of(request.want.first), 0);
            return Ok(Opened { version, cache, forwarded, block });
        }
    }

    /// The question under way or a new one, whether it is new, and the version that is not fresh any more.
    fn join_or_start(self: &Rc<Self>, request: &OpenRequest, now_ms: u64) -> (Rc<Opening>, bool, Option<Arc<Version>>) {
        let asked = request.asked.as_deref();
        let mut table = self.table.borrow_mut();
        let stale = table.find(&request.key, asked).filter(|_| !request.private);
        let stale = stale.map(|held| Arc::clone(&held.version));
        if let Some(opening) = table.find_opening(&request.key, asked).filter(|_| !request.private) {
            return (Rc::clone(opening), false, stale);
        }
        let private =
            request.private || table.pending(&request.key).is_some_and(|pending| pending.pass_until_ms > now_ms);
        let opening = Rc::new(Opening::default());
        if !private {
            table.add_opening(&request.key, &opening, request.asked.clone());
        }
        drop(table);
        let stale = stale.filter(|_| !private);
        question::start_opening(self, request.clone(), Rc::clone(&opening), stale.clone(), private);
        (opening, true, stale)
    }

    /// The block, if there is more of it than `have` bytes.
    pub fn try_block(&self, version: &Version, index: u32, have: usize) -> Option<BlockRef> {
        let table = self.table.borrow();
        let held = table.held(version.slot)?;
        // Transfers keep ahead of the viewer that is furthest, also of one that reads the block as it fills.
        held.flights.iter().filter(|flight| flight.next() >= index).for_each(|flight| flight.want(index));
        let block = held.block(index)?;
        if block.filled() <= have {
            return None;
        }
        // Who reads a block as it fills asks many times, and uses it once.
        if have == 0 {
            block.touch();
        }
        Some(block.clone())
    }

    /// The block with more than `have` bytes in it; `None` when the object ends before that. `last` is the last block that
    /// the request will want, as far as it knows.
    pub async fn block(
        self: &Rc<Self>,
        version: &Version,
        index: u32,
        have: usize,
        last: u32,
    ) -> Result<Option<BlockRef>, BlockError> {
        if version.exclusive {
            self.table.borrow_mut().drop_before(version.slot, index);
        }
        let mut waited_for: Option<Rc<Flight>> = None;
        loop {
            if let Some(block) = self.try_block(version, index, have) {
                return Ok(Some(block));
            }
            let start = u64::from(index) * self.block_bytes as u64;
            if version.total().is_some_and(|total| start + have as u64 >= total) {
                return Ok(None);
            }
            if let Some(failure) = waited_for.as_ref().and_then(|flight| flight.failure()) {
                return Err(failure);
            }
            let flight = match self.table.borrow().held(version.slot) {
                None => return Err(BlockError::Changed),
                Some(held) => held.flight(index).cloned(),
            };
            // A transfer that is far from the block yet is no help, when the block can be asked for by itself.
            let flight = flight.filter(|flight| !version.is_combinable() || index - flight.next() <= JOIN_DISTANCE);
            let flight = match flight {
                Some(flight) => flight,
                None if version.is_combinable() => match self.start_read(version, index, last) {
                    Some(flight) => flight,
                    None => transfer::start_fill(self, version, index, last)?,
                },
                None => {
                    // Its bytes came in one response, and that is over: they cannot be completed from another one.
                    self.table.borrow_mut().detach(version.slot);
                    return Err(BlockError::Changed);
                }
            };
            let mark = flight.mark();
            flight.want(index);
            flight.progressed(mark).await;
            waited_for = Some(flight);
        }
    }

    /// The object has been changed at its origin: what is kept of it is not served any more (RFC 9111 section 4.4).
    pub fn invalidate(&self, key: &SliceKey) {
        self.table.borrow_mut().invalidate(key);
        self.invalidate_disk(key);
    }

    /// Memory for a block of `len` bytes, taken from what will be missed least.
    pub(super) async fn allocate(&self, len: usize) -> Option<BlockWriter> {
        let alloc = |arena: &Arena| arena.alloc(len);
        if let Some(block) = self.try_allocate(alloc) {
            return Some(block);
        }
        let wait = async {
            loop {
                let mark = self.memory.mark();
                if let Some(block) = self.try_allocate(alloc) {
                    self.starved.set(0);
                    return block;
                }
                self.memory.changed(mark).await;
            }
        };
        let short_of = ShortOf::bytes(self, len);
        let block = within(MEMORY_PATIENCE, wait).await;
        drop(short_of);
        if block.is_none() {
            self.stats.add(Counter::ArenaFailures, 1);
        }
        block
    }

    /// The same, for `len` bytes that a device will write there: from huge pages, and something more may have to go for them.
    pub(super) async fn allocate_for_disk(&self, len: usize) -> Option<BlockWriter> {
        let huge = |arena: &Arena| {
            let spare = arena.capacity() - arena.in_use();
            arena
                .alloc_huge(len)
                .or_else(|| if spare < arena.capacity() / SPARE_SHARE { None } else { arena.alloc(len) })
        };
        match self.try_allocate(huge) {
            Some(block) => Some(block),
            None => self.allocate(len).await,
        }
    }

    fn try_allocate(&self, alloc: impl Fn(&Arena) -> Option<BlockWriter>) -> Option<BlockWriter> {
        for _ in 0..EVICTIONS_MAX {
            if let Some(block) = alloc(&self.arena) {
                return Some(block);
            }
            // Readers would keep what is evicted now as well, and everybody else be without.
            if self.kept_beyond() > 0 {
                return None;
            }
            if self.evict(self.kept_max()).is_none() {
                self.evict(0)?;
            }
        }
        alloc(&self.arena)
    }

    fn evict(&self, read_max: usize) -> Option<()> {
        let evicted = self.table.borrow_mut().evict(read_max)?;
        self.offer_left();
        self.stats.add(Counter::EvictedBlocks, 1);
        if evicted == Evicted::Object {
            self.stats.add(Counter::EvictedObjects, 1);
        }
        Some(())
    }

    /// What is to be done now and then: memory that readers gave back, versions nobody uses, figures.
    pub fn tick(&self) {
        self.arena.reclaim();
        self.table.borrow_mut().collect();
        self.table.borrow_mut().end_passes(self.clock.now_ms());
        // Objects without bytes (a 404, an empty file) take no block, but must not pile up either.
        while self.table.borrow().evictable_bytes() > self.arena.capacity() {
            if self.evict(usize::MAX).is_none() {
                break;
            }
        }
        self.memory.notify();
        self.ask_slow_readers();
        self.feed_disk();
        let table = self.table.borrow();
        self.stats.set(Gauge::CacheBytes, table.evictable_bytes() as u64);
        self.stats.set(Gauge::CacheObjects, table.objects() as u64);
        self.stats.set(Gauge::CacheBlocks, table.blocks() as u64);
        self.stats.set(Gauge::ArenaUsed, self.arena.in_use() as u64);
        self.stats.set(Gauge::ArenaCapacity, self.arena.capacity() as u64);
        self.stats.set(Gauge::ArenaPinned, self.arena.pinned() as u64);
        self.stats.set(Gauge::Flights, self.flights.get());
    }

    /// Asks readers of all shards for the memory of blocks that only they keep: the slow ones when it is more than its share, and
    /// faster and faster ones when nothing comes of waiting for memory.
    fn ask_slow_readers(&self) {
        let slow = self.slow_bytes_per_s();
        let short_of = self.short_of.get();
        self.starved.set(if short_of > 0 { self.starved.get() + 1 } else { 0 });
        let rate = self.least_rate.get();
        let rate = if self.starved.get() > STARVED_TICKS { rate.saturating_add(rate / 8) } else { rate - rate / 16 };
        self.least_rate.set(rate.max(slow));
        self.arena.ask_back(self.kept_beyond().max(short_of), self.least_rate.get());
    }

    /// Rate below which readers are slow: they are the first to go when memory is short.
    pub fn slow_bytes_per_s(&self) -> u64 {
        (self.block_bytes as u64 / SLOW_READ_S).max(1)
    }

    /// Bytes that cannot be evicted, because readers keep them or fetches fill them, beyond the share that is theirs.
    fn kept_beyond(&self) -> usize {
        let kept = self.arena.in_use().saturating_sub(self.table.borrow().evictable_bytes());
        kept.saturating_sub(self.kept_max())
    }

    fn kept_max(&self) -> usize {
        let capacity = self.arena.capacity();
        capacity - capacity / EVICTABLE_SHARE
    }

    /// Blocks to fetch ahead of those who read on: none while memory is short.
    pub(super) fn readahead_blocks(&self) -> u32 {
        if self.short_of.get() > 0 { 0 } else { self.limits.readahead_blocks }
    }

    /// The block that holds the byte at `offset`.
    pub fn index_of(&self, offset: u64) -> u32 {
        u32::try_from(offset / self.block_bytes as u64).unwrap_or(u32::MAX)
    }

    /// Whether the block is as long as it will ever be.
    pub fn is_whole(block: &BlockRef) -> bool {
        block.progress() == Progress::Complete
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// The clock it goes by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A number nobody needs to be able to guess or to repeat (xorshift64).
    pub(super) fn roll(&self) -> u64 {
        let mut dice = self.dice.get();
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        self.dice.set(dice);
        dice
    }
}

/// A block that waits for memory, or was given up.
struct ShortOf<'a>(&'a Store, usize);

impl<'a> ShortOf<'a> {
    fn bytes(store: &'a Store, bytes: usize) -> Self {
        store.short_of.set(store.short_of.get() + bytes);
        Self(store, bytes)
    }
}

impl Drop for ShortOf<'_> {
    fn drop(&mut self) {
        self.0.short_of.set(self.0.short_of.get() - self.1);
    }
}

#[cfg(test)]
mod origin;
#[cfg(test)]
mod tests;
