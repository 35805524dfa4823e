//! Random use against a plain model, and a look at every table after each step.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use shoal_sys::arena::{Arena, BlockWriter, PAGE};

use shoal_http::caching::Staleness;
use shoal_link::message::PurgeScope;

use super::*;
use crate::testing::{Random, channel};
use crate::upstream::Validators;

/// A version that can be completed from any response, or one that came in a single one.
fn parts(exclusive: bool, combinable: bool) -> VersionParts {
    VersionParts {
        status: 200,
        total: Some(6 * PAGE as u64),
        validators: Validators { etag: combinable.then(|| "\"v1\"".into()), ..Validators::default() },
        relay: Box::default(),
        version_lines: Box::default(),
        content_type: None,
        cache_control: None,
        date_s: 0,
        born_ms: 0,
        fresh_until_ms: 0,
        exclusive,
        expires: None,
        selecting: Box::default(),
        stale: Staleness::default(),
        tags: Box::default(),
    }
}

fn any_channel() -> Arc<Channel> {
    channel(serde_json::json!({ "origins": [{ "id": "main", "url": "http://origin.test/" }] }))
}

fn key(channel: &str, path: &str) -> SliceKey {
    SliceKey::new(1, channel, path, "")
}

/// A whole purge, in pieces of three.
fn purge(table: &mut Table, scope: &PurgeScope) -> u64 {
    if let PurgeScope::Object { channel, path } = scope {
        return table.purge_name(&key(channel, path));
    }
    table.purge_openings(scope);
    let (mut purged, mut from) = (0, Some(0));
    while let Some(start) = from {
        let some;
        (some, from) = table.purge_some(scope, start, 3);
        purged += some;
    }
    purged
}

/// Where the versions of a name are.
fn slots(table: &Table, key: &SliceKey) -> Vec<VersionSlot> {
    table.variants(key).map(|held| held.version.slot).collect()
}

/// Nobody asks under the name any more.
fn end_openings(table: &mut Table, key: &SliceKey, now_ms: u64) {
    let openings: Vec<_> = table.pending(key).unwrap().openings.iter().map(|(opening, _)| Rc::clone(opening)).collect();
    openings.iter().for_each(|opening| table.end_opening(key, opening, now_ms));
}

/// A version as it should be.
struct Expected {
    key: SliceKey,
    exclusive: bool,
    current: bool,
    combinable: bool,
    /// By index, what each weighs in the eviction order; nothing before it is complete.
    blocks: BTreeMap<u32, Option<usize>>,
    flights: Vec<Rc<Flight>>,
}

/// A table, what should be in it, and those who use it.
struct Lab {
    table: Table,
    arena: Arena,
    random: Random,
    channel: Arc<Channel>,
    keys: Vec<SliceKey>,
    versions: HashMap<VersionSlot, Expected>,
    users: Vec<Arc<Version>>,
    /// Blocks that fill.
    writers: HashMap<(VersionSlot, u32), BlockWriter>,
    openings: HashSet<usize>,
    now_ms: u64,
}

impl Lab {
    fn new(seed: u64) -> Lab {
        let names = (0..24).map(|n| key(["a", "ab"][n % 2], &format!("{}/seg{n}.ts", ["live", "vod"][n / 2 % 2])));
        Lab {
            table: Table::default(),
            arena: Arena::with_huge_max(16 << 20, 0).unwrap(),
            random: Random(seed),
            channel: any_channel(),
            keys: names.collect(),
            versions: HashMap::new(),
            users: Vec::new(),
            writers: HashMap::new(),
            openings: HashSet::new(),
            now_ms: 1,
        }
    }

    fn any_slot(&mut self) -> Option<VersionSlot> {
        let mut slots: Vec<_> = self.versions.keys().copied().collect();
        slots.sort_unstable_by_key(|slot| (slot.index, slot.generation));
        self.random.pick(&slots).copied()
    }

    fn is_used(&self, slot: VersionSlot) -> bool {
        self.users.iter().any(|version| version.slot == slot)
    }

    /// What the table is told of a version that has no name any more.
    fn expect_detached(&mut self, slot: VersionSlot) {
        if let Some(expected) = self.versions.get_mut(&slot) {
            expected.current = false;
        }
    }

    fn step(&mut self) {
        self.now_ms += 1;
        let at = self.random.below(self.keys.len() as u64) as usize;
        let index = self.random.below(6) as u32;
        match self.random.below(100) {
            0..12 => self.insert(at),
            12..20 => {
                if !self.users.is_empty() {
                    let at = self.random.below(self.users.len() as u64) as usize;
                    self.users.swap_remove(at);
                }
            }
            20..28 => self.start_flight(),
            28..36 => self.end_flight(),
            36..58 => self.begin(index),
            58..74 => self.finish(),
            74..78 => self.drop_block(index),
            78..80 => self.drop_before(index),
            80..83 => {
                if let Some(slot) = self.any_slot() {
                    self.table.detach(slot);
                    self.expect_detached(slot);
                }
            }
            83..86 => self.collect(),
            86..93 => self.evict(),
            93..94 => self.purge(),
            94..96 => {
                self.table.add_opening(&self.keys[at], &Rc::default(), None);
                self.openings.insert(at);
            }
            96..98 => self.close_opening(at),
            98 => self.table.pass(&self.keys[at], self.now_ms + 50),
            _ => self.table.end_passes(self.now_ms),
        }
    }

    fn insert(&mut self, at: usize) {
        let exclusive = self.random.below(5) == 0;
        let key = self.keys[at].clone();
        let before = slots(&self.table, &key).first().copied();
        let combinable = self.random.below(3) > 0;
        let version = self.table.insert(&key, &self.channel, None, parts(exclusive, combinable));
        assert_eq!(version.is_combinable(), combinable);
        assert!(!version.is_retired());
        if let Some(before) = before.filter(|_| !exclusive) {
            self.expect_detached(before);
            assert!(self.table.held(before).unwrap().version.is_retired());
        }
        let (blocks, flights) = (BTreeMap::new(), Vec::new());
        let expected = Expected { key, exclusive, current: !exclusive, combinable, blocks, flights };
        assert!(self.versions.insert(version.slot, expected).is_none(), "a slot was given to two versions");
        self.users.push(version);
    }

    fn start_flight(&mut self) {
        let Some(slot) = self.any_slot() else { return };
        let flight = Rc::new(Flight::new(0, 6));
        self.table.held_mut(slot).unwrap().flights.push(Rc::clone(&flight));
        self.versions.get_mut(&slot).unwrap().flights.push(flight);
    }

    /// As at the end of a transfer.
    fn end_flight(&mut self) {
        let Some(slot) = self.any_slot() else { return };
        if let Some(flight) = self.versions.get_mut(&slot).unwrap().flights.pop() {
            self.table.held_mut(slot).unwrap().flights.retain(|other| !Rc::ptr_eq(other, &flight));
            self.table.settle(slot);
        }
    }

    fn begin(&mut self, index: u32) {
        let Some(slot) = self.any_slot() else { return };
        let len = PAGE * (1 + self.random.below(3) as usize);
        let Some(mut writer) = self.arena.alloc(len) else { return };
        writer.append(&vec![7; 1 + self.random.below(len as u64) as usize]);
        let begun = self.table.begin_block(slot, index, writer.share());
        let blocks = &mut self.versions.get_mut(&slot).unwrap().blocks;
        assert_eq!(begun, !blocks.contains_key(&index));
        if begun {
            blocks.insert(index, None);
            self.writers.insert((slot, index), writer);
        }
        let gone = VersionSlot { generation: slot.generation.wrapping_add(1), ..slot };
        assert!(!self.table.begin_block(gone, index, self.arena.alloc(1).unwrap().share()));
    }

    fn finish(&mut self) {
        let mut filling: Vec<_> = self.writers.keys().copied().collect();
        filling.sort_unstable_by_key(|(slot, index)| (slot.index, slot.generation, *index));
        let Some(&(slot, index)) = self.random.pick(&filling) else { return };
        // Complete, and with the pages given back that it did not need, before it may be evicted.
        let block = self.writers.remove(&(slot, index)).unwrap().finish();
        if self.random.below(2) == 0 {
            block.touch();
        }
        self.table.finish_block(slot, index);
        let overhead = self.table.held(slot).map(Held::overhead);
        if let Some(blocks) = self.versions.get_mut(&slot).map(|expected| &mut expected.blocks) {
            let overhead = overhead.filter(|_| blocks.len() == 1).unwrap_or(0);
            blocks.insert(index, Some(block.footprint() + overhead));
        }
    }

    fn drop_block(&mut self, index: u32) {
        let Some(slot) = self.any_slot() else { return };
        let block = self.table.held(slot).and_then(|held| held.block(index)).cloned();
        self.table.drop_block(slot, index);
        assert!(block.is_none_or(|block| block.is_retired()));
        self.versions.get_mut(&slot).unwrap().blocks.remove(&index);
        self.writers.remove(&(slot, index));
    }

    fn drop_before(&mut self, index: u32) {
        let Some(slot) = self.any_slot() else { return };
        self.table.drop_before(slot, index);
        let blocks = &mut self.versions.get_mut(&slot).unwrap().blocks;
        while blocks.first_key_value().is_some_and(|(&first, weight)| first < index && weight.is_some()) {
            blocks.pop_first();
        }
    }

    fn collect(&mut self) {
        self.table.collect();
        let users: HashSet<_> = self.users.iter().map(|version| version.slot).collect();
        self.versions.retain(|slot, expected| {
            let unused = !expected.current && !users.contains(slot);
            assert!(!unused || expected.flights.iter().all(|flight| flight.is_abandoned()));
            assert!(unused || expected.flights.iter().all(|flight| !flight.is_abandoned()));
            let gone = unused && expected.flights.is_empty();
            if gone {
                self.writers.retain(|(writer, _), _| writer != slot);
            }
            !gone
        });
    }

    fn evict(&mut self) {
        let forced = self.random.below(3) == 0;
        let evicted = self.table.evict(if forced { 0 } else { usize::MAX });
        let before: BTreeSet<_> = self.expected_blocks().filter(|(_, complete)| *complete).map(|(at, _)| at).collect();
        let after: BTreeSet<_> = self.held_blocks().map(|(at, _)| at).collect();
        let gone: Vec<_> = before.difference(&after).copied().collect();
        assert!(gone.len() <= 1, "one eviction took {gone:?}");
        for (index, generation, block) in gone {
            let slot = VersionSlot { index, generation };
            assert!(forced || self.versions[&slot].combinable || !self.is_used(slot), "somebody reads it");
            self.versions.get_mut(&slot).unwrap().blocks.remove(&block);
        }
        if evicted == Some(Evicted::Object) {
            let left: Vec<_> = self
                .versions
                .iter()
                .filter(|(slot, expected)| {
                    expected.current && !self.table.held(**slot).is_some_and(|held| held.current)
                })
                .map(|(slot, expected)| {
                    (*slot, expected.combinable, expected.blocks.is_empty() && expected.flights.is_empty())
                })
                .collect();
            assert!(matches!(left[..], [] | [(_, _, true)] | [(_, false, _)]), "{left:?}");
            left.into_iter().for_each(|(slot, ..)| self.expect_detached(slot));
        }
    }

    fn purge(&mut self) {
        let scopes = [
            PurgeScope::Channel { channel: "a".to_owned() },
            PurgeScope::Prefix { channel: "ab".to_owned(), path: "live/".to_owned() },
            PurgeScope::Prefix { channel: "a".to_owned(), path: "live/seg1".to_owned() },
            PurgeScope::Object { channel: "ab".to_owned(), path: "vod/seg3.ts".to_owned() },
            PurgeScope::Object { channel: "a".to_owned(), path: "vod/seg".to_owned() },
            PurgeScope::Tag { channel: "none".to_owned(), tag: "t".to_owned() },
            PurgeScope::All,
        ];
        let scope = self.random.pick(&scopes).unwrap();
        let named = |key: &SliceKey| {
            let (channel, path) = (key.channel(), key.path());
            match scope {
                PurgeScope::All => true,
                PurgeScope::Tag { .. } => false,
                PurgeScope::Channel { channel: named } => channel == named.as_bytes(),
                PurgeScope::Prefix { channel: named, path: start } => {
                    channel == named.as_bytes() && path.starts_with(start.as_bytes())
                }
                PurgeScope::Object { channel: named, path: whole } => {
                    channel == named.as_bytes() && path == whole.as_bytes()
                }
            }
        };
        let hit: Vec<_> = self
            .versions
            .iter()
            .filter(|(_, expected)| expected.current && named(&expected.key))
            .map(|(slot, _)| *slot)
            .collect();
        let openings: Vec<_> = self.openings.iter().filter(|at| named(&self.keys[**at])).copied().collect();
        assert_eq!(purge(&mut self.table, scope), hit.len() as u64);
        for at in openings {
            assert!(self.table.pending(&self.keys[at]).unwrap().openings[0].0.is_purged());
        }
        for slot in hit {
            assert!(self.table.held(slot).unwrap().version.is_retired());
            self.expect_detached(slot);
        }
    }

    fn close_opening(&mut self, at: usize) {
        if self.openings.remove(&at) {
            end_openings(&mut self.table, &self.keys[at], self.now_ms);
        }
    }

    fn expected_blocks(&self) -> impl Iterator<Item = ((u32, u32, u32), bool)> {
        self.versions.iter().flat_map(|(slot, expected)| {
            expected.blocks.iter().map(|(&index, weight)| ((slot.index, slot.generation, index), weight.is_some()))
        })
    }

    fn held(&self) -> impl Iterator<Item = (VersionSlot, &Held)> {
        self.table.versions.iter().enumerate().filter_map(|(index, place)| {
            let slot = VersionSlot { index: index as u32, generation: place.generation };
            place.held.as_ref().map(|held| (slot, held))
        })
    }

    fn held_blocks(&self) -> impl Iterator<Item = ((u32, u32, u32), bool)> {
        self.held().flat_map(|(slot, held)| {
            held.blocks.iter().map(move |placed| ((slot.index, slot.generation, placed.index), placed.place.is_some()))
        })
    }

    /// All that must hold at any time.
    fn check(&self) {
        let (mut bytes, mut places, mut blocks) = (0, 0, 0);
        for (slot, held) in self.held() {
            let expected = &self.versions[&slot];
            assert_eq!((held.current, &held.key), (expected.current, &expected.key));
            assert_eq!(held.version.slot, slot);
            assert!(held.version.is_retired() || held.current || expected.exclusive);
            assert!(!held.current || !held.version.is_retired());
            assert!(held.blocks.is_sorted_by_key(|placed| placed.index));
            let in_order = self.table.detached.iter().filter(|detached| **detached == slot).count();
            assert_eq!(in_order, usize::from(!held.current), "what has no name waits to be collected, once");
            if held.current {
                assert_eq!(slots(&self.table, &held.key), [slot]);
                assert!(held.empty.is_none() || held.blocks.is_empty());
                let bare = held.blocks.is_empty() && held.flights.is_empty();
                assert!(!bare || held.empty.is_some(), "what has no block must be found by an eviction all the same");
            }
            blocks += held.blocks.len();
            for placed in &held.blocks {
                assert!(!placed.block.is_retired());
                let Some(place) = placed.place else { continue };
                let id = self.table.policy.get(place).unwrap();
                assert_eq!((id.slot, id.index), (slot, placed.index));
                bytes += expected.blocks[&placed.index].unwrap();
                places += 1;
            }
            if let Some(place) = held.empty {
                let id = self.table.policy.get(place).unwrap();
                assert_eq!((id.slot, id.index), (slot, NO_BLOCK));
                bytes += held.overhead();
                places += 1;
            }
        }
        assert_eq!(self.held().count(), self.versions.len());
        let held: BTreeSet<_> = self.held_blocks().collect();
        assert_eq!(held, self.expected_blocks().collect());
        assert_eq!((self.table.evictable_bytes(), self.table.policy.len()), (bytes, places));
        assert_eq!(self.table.blocks(), blocks);

        let live = self.held().map(|(slot, _)| slot.index);
        let mut all: Vec<_> = self.table.free.iter().copied().chain(live).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..self.table.versions.len() as u32), "a slot is lost, or free twice");

        for (at, key) in self.keys.iter().enumerate() {
            for slot in slots(&self.table, key) {
                assert!(self.versions[&slot].current && self.versions[&slot].key == *key);
            }
            let Some(pending) = self.table.pending(key) else {
                assert!(!self.openings.contains(&at));
                continue;
            };
            let passed_by = self.table.passes.iter().any(|(_, passed)| passed == key);
            let anything = !pending.openings.is_empty() || passed_by;
            assert!(anything, "{:?} stands for nothing", String::from_utf8_lossy(key.path()));
            assert_eq!(!pending.openings.is_empty(), self.openings.contains(&at));
        }
        assert_eq!(self.table.names.len(), self.versions.values().filter(|expected| expected.current).count());
        assert!(self.table.pending.len() <= self.keys.len());
    }

    /// Everybody goes.
    fn leave(&mut self) {
        self.users.clear();
        for expected in self.versions.values_mut() {
            expected.flights.clear();
        }
        for slot in self.versions.keys() {
            self.table.held_mut(*slot).unwrap().flights.clear();
            self.table.settle(*slot);
        }
        let filling: Vec<_> = self.writers.keys().copied().collect();
        for (slot, index) in filling {
            self.table.drop_block(slot, index);
            self.writers.remove(&(slot, index));
            self.versions.get_mut(&slot).unwrap().blocks.remove(&index);
        }
        for at in 0..self.keys.len() {
            self.close_opening(at);
        }
        self.table.end_passes(u64::MAX);
        self.check();
    }
}

#[test]
fn random_use_agrees_with_a_plain_model_and_leaves_nothing_behind() {
    for seed in 0..24 {
        let mut lab = Lab::new(seed);
        let mut peak = 0;
        for _ in 0..4_000 {
            lab.step();
            lab.check();
            peak = peak.max(lab.table.blocks());
        }
        assert!(peak > 40, "seed {seed}: only {peak} blocks");
        lab.leave();
        if seed % 2 == 0 {
            purge(&mut lab.table, &PurgeScope::All);
        } else {
            while lab.table.evict(usize::MAX).is_some() {}
        }
        lab.table.collect();
        assert_eq!((lab.table.objects(), lab.table.blocks(), lab.table.evictable_bytes()), (0, 0, 0), "seed {seed}");
        assert_eq!(lab.table.free.len(), lab.table.versions.len(), "seed {seed}");
        assert!(lab.table.detached.is_empty() && lab.table.passes.is_empty(), "seed {seed}");
        lab.arena.reclaim();
        assert_eq!(lab.arena.in_use(), 0, "seed {seed}");
    }
}

#[test]
fn names_passed_by_are_forgotten_in_time_and_in_number() {
    let mut table = Table::default();
    for n in 0..100 {
        table.pass(&key("a", &n.to_string()), 1_000 + n / 50);
    }
    table.pass(&key("a", "0"), 2_000);
    table.end_passes(999);
    assert_eq!(table.objects(), 100);
    table.end_passes(1_000);
    assert_eq!(table.objects(), 51, "the renewed one is still passed by");
    table.end_passes(2_000);
    assert_eq!(table.objects(), 0);

    for n in 0..3 * PASSES_MAX {
        table.pass(&key("a", &n.to_string()), 5_000);
    }
    table.end_passes(4_999);
    assert_eq!((table.objects(), table.passes.len()), (PASSES_MAX, PASSES_MAX));
    assert!(table.pending(&key("a", "0")).is_none(), "the oldest go");
}

#[test]
fn a_claim_is_the_next_block_that_is_there_or_on_its_way() {
    let arena = Arena::with_huge_max(1 << 20, 0).unwrap();
    let mut table = Table::default();
    let version = table.insert(&key("a", "x"), &any_channel(), None, parts(false, true));
    let writer = arena.alloc(1).unwrap();
    assert!(table.begin_block(version.slot, 7, writer.share()));
    let held = table.held_mut(version.slot).unwrap();
    let claims = |held: &Held| [0, 3, 6, 7, 8].map(|index| held.next_claimed(index));
    assert_eq!(claims(held), [Some(7), Some(7), Some(7), Some(7), None]);
    held.flights.push(Rc::new(Flight::new(2, 5)));
    assert_eq!(claims(held), [Some(2), Some(3), Some(7), Some(7), None]);
    assert!(held.flight(4).is_some() && held.flight(5).is_none());
    held.flights[0].shorten(3);
    assert_eq!(claims(held), [Some(2), Some(7), Some(7), Some(7), None]);
}

#[test]
fn what_cannot_be_had_again_stays_under_who_reads_on() {
    let arena = Arena::with_huge_max(1 << 20, 0).unwrap();
    let mut table = Table::default();
    let reader = table.insert(&key("a", "x"), &any_channel(), None, parts(false, false));
    for index in 0..3 {
        let mut writer = arena.alloc(1).unwrap();
        writer.append(b"x");
        assert!(table.begin_block(reader.slot, index, writer.share()));
        writer.finish();
        table.finish_block(reader.slot, index);
    }
    assert_eq!(table.evict(usize::MAX), None);
    reader.add_slow_holds(1);
    assert_eq!(table.evict(usize::MAX), Some(Evicted::Object), "with its first block it is nobody's");
    reader.remove_slow_holds(1);
    assert_eq!((table.evict(usize::MAX), table.blocks()), (None, 2));
    assert_eq!((table.evict(PAGE), table.blocks()), (Some(Evicted::Object), 1), "more than so much in a row does not");
}

fn asked(lines: &str) -> Arc<Asked> {
    Arc::new(Asked { method: "GET".into(), lines: lines.as_bytes().into(), body: Box::default() })
}

fn varying(selecting: &str) -> VersionParts {
    VersionParts { selecting: selecting.as_bytes().into(), ..parts(false, true) }
}

#[test]
fn each_request_finds_the_variant_that_was_chosen_for_its_like() {
    let (mut table, key, channel) = (Table::default(), key("a", "x"), any_channel());
    let (one, two) = (asked("A: 1\r\n"), asked("A: 2\r\n"));
    let first = table.insert(&key, &channel, Some(&one), varying("a: 1\r\n"));
    let second = table.insert(&key, &channel, Some(&two), varying("a: 2\r\n"));
    let found = |table: &Table, asked: Option<&Asked>| table.find(&key, asked).map(|held| held.version.slot);
    assert_eq!(found(&table, Some(&one)), Some(first.slot));
    assert_eq!(found(&table, Some(&two)), Some(second.slot));
    assert_eq!(found(&table, None), None);

    let opening = Rc::new(Opening::default());
    table.add_opening(&key, &opening, Some(Arc::clone(&one)));
    assert!(table.find_opening(&key, Some(&one)).is_some());
    assert!(table.find_opening(&key, Some(&two)).is_none(), "that question is known to bring another variant");
    end_openings(&mut table, &key, 0);

    let again = table.insert(&key, &channel, Some(&one), varying("a: 1\r\n"));
    assert!(first.is_retired() && !second.is_retired());
    assert_eq!(found(&table, Some(&one)), Some(again.slot));
    // What does not vary any more answers everybody.
    let all = table.insert(&key, &channel, Some(&one), varying(""));
    assert_eq!((found(&table, Some(&one)), found(&table, None)), (Some(all.slot), Some(all.slot)));
    assert_eq!(purge(&mut table, &PurgeScope::All), 2);
    assert!(table.find(&key, Some(&two)).is_none() && table.objects() == 0);
}

#[test]
fn variants_of_a_name_are_bounded() {
    let (mut table, key, channel) = (Table::default(), key("a", "x"), any_channel());
    let versions: Vec<_> = (0..2 * VARIANTS_MAX)
        .map(|nth| table.insert(&key, &channel, None, varying(&format!("a: {nth}\r\n"))))
        .collect();
    let newest_first = versions.iter().rev().take(VARIANTS_MAX).map(|version| version.slot);
    assert!(newest_first.eq(slots(&table, &key)));
    let retired = versions.iter().map(|version| version.is_retired());
    assert!(retired.eq((0..2 * VARIANTS_MAX).map(|nth| nth < VARIANTS_MAX)), "the oldest go first");
    table.invalidate(&key);
    assert!(table.objects() == 0 && versions.iter().all(|version| version.is_retired()));
}

#[test]
fn a_confirmed_version_has_new_fields_and_the_old_ones_readers() {
    let (mut table, key, channel) = (Table::default(), key("a", "x"), any_channel());
    let before = table.insert(&key, &channel, None, VersionParts { total: None, ..parts(false, false) });
    let relay = b"X: 1\r\n".as_slice().into();
    let after = table.confirm(before.slot, VersionParts { relay, total: None, ..parts(false, false) }).unwrap();
    assert!(before.is_retired() && !after.is_retired() && after.slot == before.slot);
    assert_eq!(&*table.find(&key, None).unwrap().version.relay, b"X: 1\r\n");
    after.set_total(7);
    assert_eq!(before.total(), Some(7), "they are the same bytes");

    table.detach(after.slot);
    drop(after);
    table.collect();
    assert!(table.held(before.slot).is_some_and(Held::is_read), "somebody reads it by its old fields");
    let slot = before.slot;
    drop(before);
    table.collect();
    assert!(table.held(slot).is_none());
}

#[test]
fn a_tag_takes_all_of_its_channel_that_have_it() {
    let (mut table, channel) = (Table::default(), any_channel());
    let tagged = |tags: &str| VersionParts { tags: tags.into(), ..parts(false, true) };
    let insert = |table: &mut Table, at, tags| table.insert(&at, &channel, None, tagged(tags));
    let one = insert(&mut table, key("a", "1"), "news sport");
    let two = insert(&mut table, key("a", "2"), "sport");
    let other = insert(&mut table, key("b", "1"), "news");
    let opening = Rc::new(Opening::default());
    table.add_opening(&key("a", "3"), &opening, None);
    let mut purged = |tag: &str| purge(&mut table, &PurgeScope::Tag { channel: "a".to_owned(), tag: tag.to_owned() });
    assert_eq!((purged("new"), purged("news")), (0, 1));
    assert!(one.is_retired() && !two.is_retired() && !other.is_retired());
    assert!(opening.is_purged(), "it may turn out to have the tag");
    assert_eq!(purged("sport"), 1);
}
