//! What a shard owns: names, versions, blocks, and the order in which they may have to go.

mod purge;

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use shoal_cache::{Look, S3Fifo, Slot};
use shoal_sys::arena::BlockRef;

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

/// The tables of one owner shard.
#[derive(Default)]
pub struct Table {
    keys: HashMap<SliceKey, Name, KeyState>,
    /// Names with questions under way.
    asking: HashSet<SliceKey, KeyState>,
    versions: Vec<(u32, Option<Held>)>,
    free: Vec<u32>,
    policy: S3Fifo<BlockId>,
    detached: Vec<VersionSlot>,
    /// What the disk tier is to be told, if there is one.
    news: Option<News>,
    /// Names that are passed by, by the time when that ends.
    passes: VecDeque<(u64, SliceKey)>,
    blocks: usize,
}

/// What is known under a name.
#[derive(Default)]
pub struct Name {
    /// The versions that new requests get, the newest first: more than one where the origin varies its answers.
    pub variants: Vec<VersionSlot>,
    /// The questions to the origins that are under way, each with what it asks.
    pub openings: Vec<(Rc<Opening>, Option<Arc<Asked>>)>,
    /// Until then each request fetches for itself: the origin has said that its answers are not to be shared.
    pub pass_until_ms: u64,
}

/// A version and its blocks.
pub struct Held {
    /// What it is.
    pub version: Arc<Version>,
    /// Its name.
    pub key: SliceKey,
    /// Whose it is.
    pub channel: Arc<Channel>,
    /// What it was asked for with.
    pub asked: Option<Arc<Asked>>,
    /// The same with other header fields, while anybody uses it.
    earlier: Vec<Weak<Version>>,
    /// Fetches that fill it.
    pub flights: Vec<Rc<Flight>>,
    blocks: Vec<Placed>,
    /// Its place in the eviction order while it has no block.
    empty: Option<Slot>,
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

    /// What is known under `key`.
    pub fn name(&self, key: &SliceKey) -> Option<&Name> {
        self.keys.get(key)
    }

    /// As [`Table::name`], made when missing.
    pub fn name_mut(&mut self, key: &SliceKey) -> &mut Name {
        self.keys.entry(key.clone()).or_default()
    }

    /// Forgets a name that stands for nothing any more.
    pub fn tidy_name(&mut self, key: &SliceKey, now_ms: u64) {
        if let Some(name) = self.keys.get(key)
            && name.variants.is_empty()
            && name.openings.is_empty()
            && name.pass_until_ms <= now_ms
        {
            self.keys.remove(key);
        }
    }

    /// The version that answers the request.
    pub fn find(&self, key: &SliceKey, asked: Option<&Asked>) -> Option<&Held> {
        let variants = &self.keys.get(key)?.variants;
        variants.iter().filter_map(|&slot| self.held(slot)).find(|held| held.version.answers(asked))
    }

    /// The question under way whose answer will be, as far as can be told by now, this request's as well.
    pub fn find_opening(&self, key: &SliceKey, asked: Option<&Asked>) -> Option<&Rc<Opening>> {
        let name = self.keys.get(key)?;
        let newest = name.variants.first().and_then(|&slot| self.held(slot));
        let selecting = newest.map_or(&[][..], |held| &held.version.selecting);
        let same = |other: &Option<Arc<Asked>>| selects_same(selecting, asked, other.as_deref());
        name.openings.iter().find(|(_, other)| same(other)).map(|(opening, _)| opening)
    }

    /// The version in `slot`, while it is there.
    pub fn held(&self, slot: VersionSlot) -> Option<&Held> {
        let (generation, held) = self.versions.get(slot.index as usize)?;
        if *generation == slot.generation { held.as_ref() } else { None }
    }

    /// As [`Table::held`], to change it.
    pub fn held_mut(&mut self, slot: VersionSlot) -> Option<&mut Held> {
        let (generation, held) = self.versions.get_mut(slot.index as usize)?;
        if *generation == slot.generation { held.as_mut() } else { None }
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
            self.versions.push((0, None));
            (self.versions.len() - 1) as u32
        });
        let (generation, place) = &mut self.versions[index as usize];
        let slot = VersionSlot { index, generation: *generation };
        let version = Arc::new(Version::new(slot, parts));
        *place = Some(Held {
            version: Arc::clone(&version),
            key: key.clone(),
            channel: Arc::clone(channel),
            asked: asked.cloned(),
            earlier: Vec::new(),
            flights: Vec::new(),
            blocks: Vec::new(),
            empty: None,
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
            let variants = &mut self.name_mut(key).variants;
            variants.insert(0, slot);
            if let Some(&oldest) = variants.get(VARIANTS_MAX) {
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
        held.earlier.retain(|earlier| earlier.strong_count() > 0);
        held.earlier.push(Arc::downgrade(&before));
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
        let key = held.key.clone();
        if let Some(empty) = empty {
            self.policy.remove(empty);
        }
        if let Some(name) = self.keys.get_mut(&key) {
            name.variants.retain(|&variant| variant != slot);
        }
        self.tidy_name(&key, u64::MAX);
        self.detached.push(slot);
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
        let Some((generation, place)) = self.versions.get_mut(slot.index as usize) else { return };
        if *generation != slot.generation {
            return;
        }
        let Some(held) = place.take() else { return };
        *generation = generation.wrapping_add(1);
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
    /// What came in one response that nothing can complete stays as long as somebody reads it, unless `forced`; and with its
    /// first block it goes whole, for a viewer that starts on it would run into the hole.
    pub fn evict(&mut self, forced: bool) -> Option<Evicted> {
        let versions = &self.versions;
        let id = self.policy.evict(|id| {
            let held = versions.get(id.slot.index as usize).and_then(|(_, held)| held.as_ref());
            match held {
                Some(held) if id.index == NO_BLOCK && !held.flights.is_empty() => Look::Busy,
                Some(held) if !forced && !held.version.is_combinable() && held.is_read() => Look::Busy,
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
        let Some(name) = self.keys.get(key) else { return };
        name.openings.iter().for_each(|(opening, _)| opening.purge());
        for slot in name.variants.clone() {
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
        self.name_mut(key).pass_until_ms = until_ms;
        self.passes.push_back((until_ms, key.clone()));
    }

    /// Forgets names whose time of passing is over, and beyond [`PASSES_MAX`] also before that.
    pub fn end_passes(&mut self, now_ms: u64) {
        while let Some((until_ms, _)) = self.passes.front() {
            if *until_ms > now_ms && self.passes.len() <= PASSES_MAX {
                break;
            }
            let Some((_, key)) = self.passes.pop_front() else { break };
            if let Some(name) = self.keys.get_mut(&key)
                && (name.pass_until_ms <= now_ms || self.passes.len() >= PASSES_MAX)
            {
                name.pass_until_ms = 0;
                self.tidy_name(&key, now_ms);
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
            let held = self.versions.get(place).and_then(|(_, held)| held.as_ref()).filter(|held| held.current);
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
        places.iter().filter_map(|(_, held)| held.as_ref()).filter(|held| held.current).for_each(&mut show);
        (end < self.versions.len()).then_some(end)
    }

    /// Names known.
    pub fn objects(&self) -> usize {
        self.keys.len()
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
        Arc::strong_count(&self.version) > 1 || self.earlier.iter().any(|earlier| earlier.strong_count() > 0)
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
