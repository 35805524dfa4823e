//! How a connection gets objects, wherever they are owned.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use glommio::timer::sleep;
use shoal_cache::{FrontIndex, Held};
use shoal_sys::arena::BlockRef;

use super::flight::{BlockError, OpenError};
use super::joint::Joint;
use super::key::SliceKey;
use super::store::{OpenRequest, Opened, Store};
use super::version::{Version, VersionSlot};
use crate::shard::mesh::Mesh;
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::{CacheResult, ShardStats};

/// What one shard asks of another.
pub enum Question {
    /// See [`Store::open`].
    Open(OpenRequest),
    /// See [`Store::block`].
    Block {
        /// Of which version.
        version: Arc<Version>,
        /// Which block.
        index: u32,
        /// Bytes of it at hand.
        have: usize,
        /// Last block that will be wanted.
        last: u32,
    },
    /// See [`Store::invalidate`].
    Invalidate(SliceKey),
}

/// What the owner answers.
pub enum Answer {
    /// To [`Question::Open`].
    Open(Result<Opened, OpenError>),
    /// To [`Question::Block`].
    Block(Result<Option<BlockRef>, BlockError>),
    /// To [`Question::Invalidate`].
    Invalidated,
}

/// Blocks of other shards kept in a front index.
const FRONT_ENTRIES: usize = 64 << 10;

/// Entries of the front index looked at in each tick.
const SWEEP_STEPS: usize = 1024;

/// Times that a block is asked for while its owner is crowded, and the pause between them: 2 s in all.
const BUSY_TRIES: usize = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A shard's way to all objects: its own, those of others, and those of others that it sent lately.
pub struct Slices {
    shard: usize,
    shards: usize,
    store: Rc<Store>,
    mesh: Rc<Mesh<Question, Answer>>,
    front: RefCell<FrontIndex<(SliceKey, u32), Fronted>>,
    opening: Joint<SliceKey, Result<Opened, OpenError>>,
    asking: Joint<(usize, VersionSlot, u32), Result<Option<BlockRef>, BlockError>>,
    stats: Arc<ShardStats>,
}

/// A complete block of another shard.
struct Fronted {
    /// Not held: a version that only front indexes knew would count as being read.
    version: Weak<Version>,
    block: BlockRef,
}

impl Held for Fronted {
    fn is_retired(&self) -> bool {
        self.block.is_retired() || self.version.upgrade().is_none_or(|version| version.is_retired())
    }

    fn bytes(&self) -> usize {
        self.block.footprint()
    }
}

impl Slices {
    /// The way of shard `shard` of `shards`; `front_bytes` bounds what it keeps of others' blocks.
    pub fn new(
        shard: usize,
        shards: usize,
        store: Rc<Store>,
        mesh: Rc<Mesh<Question, Answer>>,
        front_bytes: usize,
        stats: Arc<ShardStats>,
    ) -> Slices {
        let front_bytes = if shards > 1 { front_bytes } else { 0 };
        let front = RefCell::new(FrontIndex::new(front_bytes, FRONT_ENTRIES));
        Slices { shard, shards, store, mesh, front, opening: Joint::default(), asking: Joint::default(), stats }
    }

    /// A hit that needs no waiting: owned here, or lately sent from here.
    pub fn try_open(&self, request: &OpenRequest, now_ms: u64) -> Option<Opened> {
        let key = &request.key;
        if key.owner(self.shards) == self.shard {
            return self.store.try_open(request, now_ms);
        }
        if request.revalidate {
            return None;
        }
        let mut front = self.front.borrow_mut();
        let found = front.get(&(key.clone(), self.store.index_of(request.want.first)));
        let found = found.and_then(|found| Some((found.version.upgrade()?, &found.block)));
        let answers = |version: &Version| version.is_fresh(now_ms) && version.answers(request.asked.as_deref());
        let Some((version, block)) = found.filter(|(version, _)| answers(version)) else {
            self.stats.add(Counter::FrontMisses, 1);
            return None;
        };
        self.stats.add(Counter::FrontHits, 1);
        block.touch();
        Some(Opened { version, cache: CacheResult::Hit, forwarded: None, block: Some(block.clone()) })
    }

    /// See [`Store::open`]; asked of the owner.
    pub async fn open(&self, request: &OpenRequest) -> Result<Opened, OpenError> {
        let owner = request.key.owner(self.shards);
        if owner == self.shard {
            return self.store.open(request).await;
        }
        if request.private {
            return self.ask_open(owner, request).await;
        }
        let opened = loop {
            let told = self.opening.ask(&request.key, self.ask_open(owner, request)).await;
            match told.answer {
                // An answer for one alone is for the one who asked, and one that varies for those who ask alike.
                Some(Ok(opened))
                    if !told.first
                        && (opened.version.exclusive || !opened.version.answers(request.asked.as_deref())) =>
                {
                    break self.ask_open(owner, request).await?;
                }
                Some(Ok(mut opened)) => {
                    if !told.first {
                        // Its first block may not be ours.
                        opened.block = None;
                        if opened.cache != CacheResult::Stale {
                            opened.cache = CacheResult::Coalesced;
                        }
                    }
                    break opened;
                }
                Some(Err(error)) => return Err(error),
                None => {}
            }
        };
        if let Some(block) = &opened.block {
            self.remember(&request.key, self.store.index_of(request.want.first), &opened.version, block);
        }
        Ok(opened)
    }

    /// See [`Store::block`]; asked of the owner of `key`.
    pub async fn block(
        &self,
        key: &SliceKey,
        version: &Arc<Version>,
        index: u32,
        have: usize,
        last: u32,
    ) -> Result<Option<BlockRef>, BlockError> {
        let owner = key.owner(self.shards);
        if owner == self.shard {
            return self.store.block(version, index, have, last).await;
        }
        if have == 0 {
            let mut front = self.front.borrow_mut();
            let found = front.get(&(key.clone(), index)).filter(|found| found.version.as_ptr() == Arc::as_ptr(version));
            if let Some(found) = found {
                self.stats.add(Counter::FrontHits, 1);
                found.block.touch();
                return Ok(Some(found.block.clone()));
            }
            self.stats.add(Counter::FrontMisses, 1);
        }
        let name = (owner, version.slot, index);
        let block = loop {
            let start = u64::from(index) * self.store.block_bytes() as u64;
            if version.total().is_some_and(|total| start + have as u64 >= total) {
                return Ok(None);
            }
            let told = self.asking.ask(&name, self.ask_block(owner, version, index, have, last)).await;
            match told.answer {
                Some(answer) if told.first => break answer?,
                // The other may have had less of it than we have.
                Some(Ok(Some(block))) if block.filled() > have => break Some(block),
                Some(Err(error)) => return Err(error),
                Some(Ok(_)) | None => {}
            }
        };
        if let Some(block) = &block {
            self.remember(key, index, version, block);
        }
        Ok(block)
    }

    /// See [`Store::invalidate`]; told to the owner of `key`.
    pub async fn invalidate(&self, key: &SliceKey) {
        let owner = key.owner(self.shards);
        if owner == self.shard {
            return self.store.invalidate(key);
        }
        while self.mesh.ask(owner, Question::Invalidate(key.clone())).await.is_err() {
            self.stats.add(Counter::LaneFull, 1);
            sleep(BUSY_PAUSE).await;
        }
    }

    async fn ask_open(&self, owner: usize, request: &OpenRequest) -> Result<Opened, OpenError> {
        self.stats.add(Counter::HandoverLookup, 1);
        match self.mesh.ask(owner, Question::Open(request.clone())).await {
            Ok(Answer::Open(opened)) => opened,
            Ok(Answer::Block(_) | Answer::Invalidated) | Err(_) => Err(self.busy()),
        }
    }

    async fn ask_block(
        &self,
        owner: usize,
        version: &Arc<Version>,
        index: u32,
        have: usize,
        last: u32,
    ) -> Result<Option<BlockRef>, BlockError> {
        self.stats.add(Counter::HandoverProgress, 1);
        for _ in 0..BUSY_TRIES {
            let question = Question::Block { version: Arc::clone(version), index, have, last };
            match self.mesh.ask(owner, question).await {
                Ok(Answer::Block(block)) => return block,
                Ok(Answer::Open(_) | Answer::Invalidated) => break,
                // A body under way is not to be cut for a crowd that will have passed in a moment.
                Err(_) => {
                    self.stats.add(Counter::LaneFull, 1);
                    sleep(BUSY_PAUSE).await;
                }
            }
        }
        Err(BlockError::Busy)
    }

    /// Answers another shard's question, at once if it can.
    pub fn handle(&self, from: usize, id: u32, question: Question) {
        self.stats.add(Counter::HandoverReply, 1);
        let at_once = match &question {
            Question::Open(request) if !request.private => {
                let opened = self.store.try_open(request, self.store.clock().now_ms());
                opened.map(|opened| Answer::Open(Ok(opened)))
            }
            Question::Open(_) => None,
            Question::Invalidate(key) => {
                self.store.invalidate(key);
                Some(Answer::Invalidated)
            }
            Question::Block { version, index, have, .. } => {
                let block = self.store.try_block(version, *index, *have);
                block.map(|block| Answer::Block(Ok(Some(block))))
            }
        };
        if let Some(answer) = at_once {
            return self.mesh.answer(from, id, answer);
        }
        let (store, mesh) = (Rc::clone(&self.store), Rc::clone(&self.mesh));
        glommio::spawn_local(async move {
            let answer = match question {
                Question::Open(request) => Answer::Open(store.open(&request).await),
                Question::Block { version, index, have, last } => {
                    Answer::Block(store.block(&version, index, have, last).await)
                }
                // Answered at once.
                Question::Invalidate(_) => Answer::Invalidated,
            };
            mesh.answer(from, id, answer);
        })
        .detach();
    }

    /// The owner's side of this shard.
    pub fn store(&self) -> &Rc<Store> {
        &self.store
    }

    /// The shard that owns the object.
    pub fn owner(&self, key: &SliceKey) -> usize {
        key.owner(self.shards)
    }

    /// Whether this shard owns the object.
    pub fn owns(&self, key: &SliceKey) -> bool {
        key.owner(self.shards) == self.shard
    }

    /// What is to be done now and then.
    pub fn tick(&self) {
        let mut front = self.front.borrow_mut();
        front.sweep(SWEEP_STEPS);
        self.stats.set(Gauge::FrontBytes, front.bytes() as u64);
        drop(front);
        self.store.tick();
    }

    fn remember(&self, key: &SliceKey, index: u32, version: &Arc<Version>, block: &BlockRef) {
        if Store::is_whole(block) && !version.exclusive {
            let fronted = Fronted { version: Arc::downgrade(version), block: block.clone() };
            self.front.borrow_mut().insert((key.clone(), index), fronted);
        }
    }

    fn busy(&self) -> OpenError {
        self.stats.add(Counter::LaneFull, 1);
        OpenError {
            status: 503,
            reason: "lane_full",
            message: "too many requests wait for the shard that owns this object; try again".to_owned(),
        }
    }
}
