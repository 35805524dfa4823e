//! What a shard owns: names, versions, blocks, and the order in which they may have to go.

mod names;
mod purge;

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::mem::offset_of;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use shoal_cache::{Look, S3Fifo, Slot};
use shoal_sys::arena::BlockRef;

use names::Names;

use super::flight::{Flight, Opening};
use super::key::{KeyState, SliceKey};
use super::version::{Version, VersionParts, VersionSlot};
use crate::routes::Channel;
use crate::upstream::Asked;
use crate::upstream::asked::selects_same;

/// What a version weighs in the eviction order besides its blocks, its key and its header lines.
const VERSION_BYTES: usize = 1024;

/// Names that may be passed by at a time.
const PASSES_MAX: usize = 16 << 10;

/// Versions kept under one name, for requests with different headers.
pub const VARIANTS_MAX: usize = 16;

/// Index that stands for a version without blocks in the eviction order.
const NO_BLOCK: u32 = u32::MAX;

/// Stands for no place.
const NOWHERE: u32 = u32::MAX;

/// Bytes that a version takes in the table itself: two lines of the processor's cache, the first of which is all that a hit reads.
const PLACE_BYTES: usize = 128;

const _: () =
    assert!(size_of::<Place>() == PLACE_BYTES && offset_of!(Held, channel) <= PLACE_BYTES / 2 - align_of::<Held>());

/// The tables of one owner shard.
#[derive(Default)]
pub struct Table {
    names: Names,
    pending: HashMap<SliceKey, Pending, KeyState>,
    versions: Vec<Place>,
    free: Vec<u32>,
    policy: S3Fifo<BlockId>,
    detached: Vec<VersionSlot>,
    /// What the disk tier is to be told, if there is one.
    news: Option<News>,
    /// Names that are passed by, by the time when that ends.
    passes: VecDeque<(u64, SliceKey)>,
    blocks: usize,
}

/// What is known under a name besides versions.
#[derive(Default)]
pub struct Pending {
    /// The questions to the origins that are under way, each with what it asks.
    pub openings: Vec<(Rc<Opening>, Option<Arc<Asked>>)>,
    /// Until then each request fetches for itself: the origin has said that its answers are not to be shared.
    pub pass_until_ms: u64,
}

/// Where a version can be. The generation tells those apart that have had the same place.
#[derive(Default)]
#[repr(C, align(64))]
struct Place {
    generation: u32,
    held: Option<Held>,
}

/// A version and its blocks. What a hit reads comes first.
#[repr(C)]
pub struct Held {
    /// What it is.
    pub version: Arc<Version>,
    /// Its name.
    pub key: SliceKey,
    blocks: Vec<Placed>,
    /// Whose it is.
    pub channel: Arc<Channel>,
    /// What it was asked for with.
    pub asked: Option<Arc<Asked>>,
    /// Fetches that fill it.
    pub flights: Vec<Rc<Flight>>,
    /// The same with other header fields, while anybody uses it.
    #[expect(clippy::box_collection, reason = "hardly any has one, and there are millions")]
    earlier: Option<Box<Vec<Weak<Version>>>>,
    /// Its place in the eviction order while it has no block.
    empty: Option<Slot>,
    /// Place of the next older version that the same name stands for, where the origin varies its answers.
    older: u32,
    current: bool,
}

/// What has happened since the disk tier was told the last time.
#[derive(Default)]
struct News {
    left: Option<Left>,
    outdated: Vec<(SliceKey, Option<u64>)>,
    /// How far the walk has come: place of a version, and the first block of it that was not looked at.
    walked: (usize, u32),
}

/// A complete block.
pub struct Kept<'a> {
    /// Of which version.
    pub version: &'a Arc<Version>,
    /// Its name.
    pub key: &'a SliceKey,
    /// Which block.
    pub index: u32,
    /// The bytes.
    pub block: &'a BlockRef,
    /// How often it was used, as far as was counted.
    pub uses: u8,
}

/// A block that was evicted.
pub struct Left {
    /// See [`Kept`].
    pub version: Arc<Version>,
    /// See [`Kept`].
    pub key: SliceKey,
    /// See [`Kept`].
    pub index: u32,
    /// See [`Kept`].
    pub block: BlockRef,
    /// See [`Kept`].
    pub uses: u8,
}

struct Placed {
    index: u32,
    block: BlockRef,
    /// Uses before the last look at the block.
    uses: Cell<u8>,
    /// Its place in the eviction order; none while it fills.
    place: Option<Slot>,
}

#[derive(Debug, Clone, Copy)]
struct BlockId {
    slot: VersionSlot,
    index: u32,
}

/// What an eviction took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evicted {
    /// One block.
    Block,
    /// The last block, and the object with it.
    Object,
}

impl Table {
    /// An empty table that takes notes for a disk tier.
    pub fn with_disk() -> Table {
        Table { news: Some(News::default()), ..Table::default() }
    }

    /// What is known under `key` besides versions.
    pub fn pending(&self, key: &SliceKey) -> Option<&Pending> {
        self.pending.get(key)
    }

    /// As [`Table::pending`], made when missing.
    fn pending_mut(&mut self, key: &SliceKey) -> &mut Pending {
        self.pending.entry(key.clone()).or_default()
    }

    /// Forgets a name about which nothing is pending any more.
    fn tidy_pending(&mut self, key: &SliceKey, now_ms: u64) {
        if let Some(pending) = self.pending.get(key)
            && pending.openings.is_empty()
            && pending.pass_until_ms <= now_ms
        {
            self.pending.remove(key);
        }
    }

    /// The versions that new requests get, the newest first: more than one where the origin varies its answers.
    pub fn variants(&self, key: &SliceKey) -> impl Iterator<Item = &Held> {
        let newest = self.names.find(key.hash(), |place| self.is_named(place, key));
        std::iter::successors(newest.and_then(|place| self.at(place)), |held| self.at(held.older))
    }

    /// The version that answers the request.
    pub fn find(&self, key: &SliceKey, asked: Option<&Asked>) -> Option<&Held> {
        self.variants(key).find(|held| held.version.answers(asked))
    }

    /// The question under way whose answer will be, as far as can be told by now, this request's as well.
    pub fn find_opening(&self, key: &SliceKey, asked: Option<&Asked>) -> Option<&Rc<Opening>> {
        let pending = self.pending.get(key)?;
        let newest = self.variants(key).next();
        let selecting = newest.map_or(&[][..], |held| &held.version.selecting);
        let same = |other: &Option<Arc<Asked>>| selects_same(selecting, asked, other.as_deref());
        pending.openings.iter().find(|(_, other)| same(other)).map(|(opening, _)| opening)
    }

    fn at(&self, place: u32) -> Option<&Held> {
        self.versions.get(place as usize)?.held.as_ref()
    }

    fn is_named(&self, place: u32, key: &SliceKey) -> bool {
        self.at(place).is_some_and(|held| held.key == *key)
    }

    /// The version in `slot`, while it is there.
    pub fn held(&self, slot: VersionSlot) -> Option<&Held> {
        let place = self.versions.get(slot.index as usize)?;
        if place.generation == slot.generation { place.held.as_ref() } else { None }
    }

    /// As [`Table::held`], to change it.
    pub fn held_mut(&mut self, slot: VersionSlot) -> Option<&mut Held> {
        let place = self.versions.get_mut(slot.index as usize)?;
        if place.generation == slot.generation { place.held.as_mut() } else { None }
    }

    /// Adds a version, asked for with `asked`. One that is not exclusive becomes the one that such requests get; the one before
    /// is detached.
    pub fn insert(
        &mut self,
        key: &SliceKey,
        channel: &Arc<Channel>,
        asked: Option<&Arc<Asked>>,
        parts: VersionParts,
    ) -> Arc<Version> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.versions.push(Place::default());
            (self.versions.len() - 1) as u32
        });
        let place = &mut self.versions[index as usize];
        let slot = VersionSlot { index, generation: place.generation };
        let version = Arc::new(Version::new(slot, parts));
        place.held = Some(Held {
            version: Arc::clone(&version),
            key: key.clone(),
            blocks: Vec::new(),
            channel: Arc::clone(channel),
            asked: asked.cloned(),
            flights: Vec::new(),
            earlier: None,
            empty: None,
            older: NOWHERE,
            current: !version.exclusive,
        });
        if version.exclusive {
            self.detached.push(slot);
        } else {
            let asked = asked.map(|asked| &**asked);
            while let Some(before) = self.find(key, asked).map(|held| held.version.slot) {
                let same = self.held(before).is_some_and(|held| {
                    held.version.total() == version.total() && held.version.validators.same_bytes(&version.validators)
                });
                if !same {
                    self.note_outdated(before);
                }
                self.take_away(before);
            }
            let versions = &self.versions;
            let is = |place: u32| {
                let held = versions.get(place as usize).and_then(|place| place.held.as_ref());
                held.is_some_and(|held| held.key == *key)
            };
            let older = self.names.put(key.hash(), index, is);
            if let Some(held) = self.held_mut(slot) {
                held.older = older.unwrap_or(NOWHERE);
            }
            let oldest = self.variants(key).nth(VARIANTS_MAX).map(|held| held.version.slot);
            if let Some(oldest) = oldest {
                self.detach(oldest);
            }
            self.place_empty(slot);
        }
        version
    }

    /// Gives the version in `slot` other header fields: a new version of the same bytes, which new requests get.
    pub fn confirm(&mut self, slot: VersionSlot, parts: VersionParts) -> Option<Arc<Version>> {
        let held = self.held_mut(slot)?;
        let version = Arc::new(held.version.confirmed(parts));
        let before = std::mem::replace(&mut held.version, Arc::clone(&version));
        if held.current {
            before.retire();
        } else {
            version.retire();
        }
        let earlier = held.earlier.get_or_insert_default();
        earlier.retain(|earlier| earlier.strong_count() > 0);
        earlier.push(Arc::downgrade(&before));
        Some(version)
    }

    /// Takes a version that is not right any more away from its name: those who have it may finish, nobody new gets it. It goes
    /// when they are done, and is not to come back from disk.
    pub fn detach(&mut self, slot: VersionSlot) {
        self.note_outdated(slot);
        self.take_away(slot);
    }

    fn note_outdated(&mut self, slot: VersionSlot) {
        let Some((key, total)) =
            self.held(slot).filter(|held| held.current).map(|held| (held.key.clone(), held.version.total()))
        else {
            return;
        };
        if let Some(news) = &mut self.news {
            news.outdated.push((key, total));
        }
    }

    /// As [`Table::detach`], of a version that is as good as ever.
    fn take_away(&mut self, slot: VersionSlot) {
        let Some(held) = self.held_mut(slot) else { return };
        held.version.retire();
        if !std::mem::replace(&mut held.current, false) {
            return;
        }
        let empty = held.empty.take();
        let older = std::mem::replace(&mut held.older, NOWHERE);
        let key = held.key.clone();
        if let Some(empty) = empty {
            self.policy.remove(empty);
        }
        self.unlink(&key, slot.index, older);
        self.detached.push(slot);
    }

    /// Takes the version at `place` out of its name's variants; `older` comes after it.
    fn unlink(&mut self, key: &SliceKey, place: u32, older: u32) {
        if self.names.replace(key.hash(), place, (older != NOWHERE).then_some(older)) {
            return;
        }
        let newer = self.variants(key).find(|held| held.older == place).map(|held| held.version.slot);
        if let Some(newer) = newer.and_then(|slot| self.held_mut(slot)) {
            newer.older = older;
        }
    }

    /// Drops detached versions that nobody uses. Their flights are told to stop.
    pub fn collect(&mut self) {
        let mut detached = std::mem::take(&mut self.detached);
        detached.retain(|&slot| {
            let Some(held) = self.held(slot) else { return false };
            if held.is_read() {
                return true;
            }
            for flight in &held.flights {
                flight.abandon();
            }
            if !held.flights.is_empty() {
                return true;
            }
            self.remove(slot);
            false
        });
        self.detached.append(&mut detached);
    }

    /// Removes a version with all its blocks.
    fn remove(&mut self, slot: VersionSlot) {
        let Some(place) = self.versions.get_mut(slot.index as usize) else { return };
        if place.generation != slot.generation {
            return;
        }
        let Some(held) = place.held.take() else { return };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot.index);
        held.version.retire();
        for placed in held.blocks {
            placed.block.retire();
            self.blocks -= 1;
            if let Some(place) = placed.place {
                self.policy.remove(place);
            }
        }
        if let Some(empty) = held.empty {
            self.policy.remove(empty);
        }
    }

    /// Adds a block that begins to fill. False when the version is gone.
    pub fn begin_block(&mut self, slot: VersionSlot, index: u32, block: BlockRef) -> bool {
        let Some(held) = self.held_mut(slot) else { return false };
        let empty = held.empty.take();
        match held.blocks.binary_search_by_key(&index, |placed| placed.index) {
            Ok(_) => return false,
            Err(at) => held.blocks.insert(at, Placed { index, block, uses: Cell::new(0), place: None }),
        }
        self.blocks += 1;
        if let Some(empty) = empty {
            self.policy.remove(empty);
        }
        true
    }

    /// A block is complete: from now on it may be evicted.
    pub fn finish_block(&mut self, slot: VersionSlot, index: u32) {
        let Some(held) = self.held(slot) else { return };
        let Some(placed) = held.find(index) else { return };
        // What is known about the object weighs on its first block.
        let bytes = placed.block.footprint() + if held.blocks.len() == 1 { held.overhead() } else { 0 };
        let key = held.key.hash_of_block(index);
        let place = self.policy.insert(BlockId { slot, index }, key, bytes);
        // It was known from before: somebody wanted it again.
        let uses = u8::from(self.policy.in_main(place));
        if let Some(placed) = self.held_mut(slot).and_then(|held| held.find_mut(index)) {
            placed.place = Some(place);
            placed.uses.set(uses);
        }
    }

    /// Takes one block out: it failed, or its only reader is past it.
    pub fn drop_block(&mut self, slot: VersionSlot, index: u32) {
        let Some(held) = self.held_mut(slot) else { return };
        let Ok(at) = held.blocks.binary_search_by_key(&index, |placed| placed.index) else { return };
        let placed = held.blocks.remove(at);
        placed.block.retire();
        let empty = held.blocks.is_empty() && held.current;
        self.blocks -= 1;
        if let Some(place) = placed.place {
            self.policy.remove(place);
        }
        if empty {
            self.place_empty(slot);
        }
    }

    /// Drops the blocks of an exclusive version that its reader has passed.
    pub fn drop_before(&mut self, slot: VersionSlot, index: u32) {
        while let Some(first) = self.held(slot).and_then(|held| held.blocks.first()) {
            if first.index >= index || first.place.is_none() {
                break;
            }
            let first = first.index;
            self.drop_block(slot, first);
        }
    }

    /// Gives up the block that will be missed least. `None`: everything is in use.
    ///
    /// What came in one response that nothing can complete stays as long as somebody reads on, but not more than `read_max` bytes
    /// of that in a row; and with its first block it goes whole, for a viewer that starts on it would run into the hole.
    pub fn evict(&mut self, read_max: usize) -> Option<Evicted> {
        let versions = &self.versions;
        let mut read = 0;
        let id = self.policy.evict(|id| {
            let held = versions.get(id.slot.index as usize).and_then(|place| place.held.as_ref());
            match held {
                Some(held) if id.index == NO_BLOCK && !held.flights.is_empty() => Look::Busy,
                Some(held) if read < read_max && !held.version.is_combinable() && held.is_read_on() => {
                    read += held.find(id.index).map_or(0, |placed| placed.block.footprint());
                    Look::Busy
                }
                Some(held) => Look::Uses(held.find(id.index).map_or(0, Placed::take_uses)),
                None => Look::Uses(0),
            }
        })?;
        let Some(held) = self.held_mut(id.slot) else { return Some(Evicted::Block) };
        if id.index == NO_BLOCK {
            held.empty = None;
        } else if let Ok(at) = held.blocks.binary_search_by_key(&id.index, |placed| placed.index) {
            let Placed { index, block, uses, .. } = held.blocks.remove(at);
            block.retire();
            let (version, key) = (Arc::clone(&held.version), held.key.clone());
            if let Some(news) = &mut self.news {
                news.left = Some(Left { version, key, index, block, uses: uses.get() });
            }
            self.blocks -= 1;
        }
        let Some(held) = self.held(id.slot) else { return Some(Evicted::Block) };
        let has_hole = !held.blocks.is_empty() && !held.version.is_combinable();
        if !has_hole && (!held.blocks.is_empty() || !held.flights.is_empty()) {
            return Some(Evicted::Block);
        }
        // Nothing is left of it: those who hold the version may ask for blocks again, so it is only detached.
        self.take_away(id.slot);
        Some(Evicted::Object)
    }

    /// Retires what is kept under one name: it has been changed at its origin.
    pub fn invalidate(&mut self, key: &SliceKey) {
        for slot in self.purge_pending(key) {
            self.detach(slot);
        }
    }

    /// A flight of the version is over: what has no block any more gets its place in the eviction order back.
    pub fn settle(&mut self, slot: VersionSlot) {
        let Some(held) = self.held(slot) else { return };
        if held.current && held.blocks.is_empty() && held.flights.is_empty() && held.empty.is_none() {
            self.place_empty(slot);
        }
    }

    /// From now until then each request for the name fetches for itself.
    pub fn pass(&mut self, key: &SliceKey, until_ms: u64) {
        self.pending_mut(key).pass_until_ms = until_ms;
        self.passes.push_back((until_ms, key.clone()));
    }

    /// Forgets names whose time of passing is over, and beyond [`PASSES_MAX`] also before that.
    pub fn end_passes(&mut self, now_ms: u64) {
        while let Some((until_ms, _)) = self.passes.front() {
            if *until_ms > now_ms && self.passes.len() <= PASSES_MAX {
                break;
            }
            let Some((_, key)) = self.passes.pop_front() else { break };
            if let Some(pending) = self.pending.get_mut(&key)
                && (pending.pass_until_ms <= now_ms || self.passes.len() >= PASSES_MAX)
            {
                pending.pass_until_ms = 0;
                self.tidy_pending(&key, now_ms);
            }
        }
    }

    /// The block that the last eviction took.
    pub fn take_left(&mut self) -> Option<Left> {
        self.news.as_mut()?.left.take()
    }

    /// The objects that were replaced or turned out broken, with their lengths.
    pub fn take_outdated(&mut self) -> Vec<(SliceKey, Option<u64>)> {
        self.news.as_mut().map(|news| std::mem::take(&mut news.outdated)).unwrap_or_default()
    }

    /// Shows the next `steps` blocks of all, in turn, those that are complete and whose version is current.
    pub fn walk(&mut self, steps: usize, mut show: impl FnMut(Kept<'_>)) {
        let Some(News { walked: (mut place, mut from), .. }) = self.news else { return };
        for _ in 0..steps.min(self.blocks + self.versions.len()) {
            let held = self.versions.get(place).and_then(|place| place.held.as_ref()).filter(|held| held.current);
            let next = held.and_then(|held| {
                let at = held.blocks.partition_point(|placed| placed.index < from);
                Some((held, held.blocks.get(at)?))
            });
            let Some((held, placed)) = next else {
                (place, from) = ((place + 1) % self.versions.len().max(1), 0);
                continue;
            };
            from = placed.index.saturating_add(1);
            if placed.place.is_some() {
                let uses = placed.uses.get().saturating_add(placed.block.uses());
                let Placed { index, block, .. } = placed;
                show(Kept { version: &held.version, key: &held.key, index: *index, block, uses });
            }
        }
        if let Some(news) = &mut self.news {
            news.walked = (place, from);
        }
    }

    fn place_empty(&mut self, slot: VersionSlot) {
        let Some(held) = self.held(slot) else { return };
        let (key, bytes) = (held.key.hash_of_block(NO_BLOCK), held.overhead());
        let place = self.policy.insert(BlockId { slot, index: NO_BLOCK }, key, bytes);
        if let Some(held) = self.held_mut(slot) {
            held.empty = Some(place);
        }
    }

    /// Shows up to `steps` versions that new requests may get, from place `from` on. Returns where to go on, until all were shown.
    pub fn each_held(&self, from: usize, steps: usize, mut show: impl FnMut(&Held)) -> Option<usize> {
        let end = from.saturating_add(steps);
        let places = self.versions.get(from..end.min(self.versions.len())).unwrap_or_default();
        places.iter().filter_map(|place| place.held.as_ref()).filter(|held| held.current).for_each(&mut show);
        (end < self.versions.len()).then_some(end)
    }

    /// Names known. One that has a version and is asked about counts twice.
    pub fn objects(&self) -> usize {
        self.names.len() + self.pending.len()
    }

    /// Blocks held.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes that may be evicted.
    pub fn evictable_bytes(&self) -> usize {
        self.policy.bytes()
    }
}

impl Placed {
    fn take_uses(&self) -> u8 {
        let uses = self.block.take_uses();
        self.uses.set(self.uses.get().saturating_add(uses));
        uses
    }
}

impl Held {
    /// Heap bytes of what is known about the object.
    fn overhead(&self) -> usize {
        let asked = self.asked.as_ref().map_or(0, |asked| asked.lines.len());
        let version = &self.version;
        VERSION_BYTES + self.key.len() + version.relay.len() + version.version_lines.len() + version.tags.len() + asked
    }

    /// Its blocks in RAM, those that fill included, and their bytes.
    pub fn ram(&self) -> (u32, u64) {
        let bytes = self.blocks.iter().map(|placed| placed.block.footprint() as u64).sum();
        (self.blocks.len() as u32, bytes)
    }

    /// Whether anybody but the table uses it.
    pub fn is_read(&self) -> bool {
        // One is the table's.
        Arc::strong_count(&self.version) > 1
            || self.earlier.iter().flat_map(|earlier| &**earlier).any(|earlier| earlier.strong_count() > 0)
    }

    /// As [`Held::is_read`], but for those who take next to nothing.
    pub fn is_read_on(&self) -> bool {
        // One is the table's, or ours.
        let by_others = |version: &Arc<Version>| Arc::strong_count(version) > 1 + version.slow_holds();
        let mut earlier = self.earlier.iter().flat_map(|earlier| &**earlier).filter_map(Weak::upgrade);
        by_others(&self.version) || earlier.any(|earlier| by_others(&earlier))
    }

    /// The block, filling or complete.
    pub fn block(&self, index: u32) -> Option<&BlockRef> {
        self.find(index).map(|placed| &placed.block)
    }

    /// The first block at or after `index` that is there already or claimed by a flight.
    pub fn next_claimed(&self, index: u32) -> Option<u32> {
        let at = self.blocks.partition_point(|placed| placed.index < index);
        let held = self.blocks.get(at).map(|placed| placed.index);
        let claimed = self.flights.iter().filter(|flight| flight.end() > index).map(|flight| flight.next().max(index));
        held.into_iter().chain(claimed).min()
    }

    /// The flight that will bring the block.
    pub fn flight(&self, index: u32) -> Option<&Rc<Flight>> {
        self.flights.iter().find(|flight| flight.covers(index))
    }

    fn find(&self, index: u32) -> Option<&Placed> {
        let at = self.blocks.binary_search_by_key(&index, |placed| placed.index).ok()?;
        self.blocks.get(at)
    }

    fn find_mut(&mut self, index: u32) -> Option<&mut Placed> {
        let at = self.blocks.binary_search_by_key(&index, |placed| placed.index).ok()?;
        self.blocks.get_mut(at)
    }
}

#[cfg(test)]
mod tests;
