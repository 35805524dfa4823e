//! Filling blocks from an origin.
//!
//! A transfer runs at the origin's pace, but not further ahead of the furthest viewer than `readahead_blocks`: the slowest
//! viewer holds nobody back, and nothing is fetched that nobody is going to want. When an origin breaks off, the next one
//! is asked for the rest, from the very byte, and only if strong validators say that it has the same bytes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shoal_sys::arena::BlockWriter;

use super::flight::{BlockError, Flight};
use super::key::SliceKey;
use super::sources::{Meter, Origins, Source};
use super::store::Store;
use super::table::Held;
use super::version::{Version, VersionSlot};
use crate::routes::Channel;
use crate::telemetry::metrics::Counter;
use crate::upstream::{Ask, Asked, Body, OriginHead, UpstreamError, Validators, within};

/// How long a transfer keeps its connection while nobody wants the next block.
const IDLE_DEMAND: Duration = Duration::from_secs(5);

/// The same while others wait for a connection to that origin; and the time between two looks.
const CROWDED_DEMAND: Duration = Duration::from_millis(250);

/// The same where the rest could not be asked for again, as long as somebody reads what is there: a paused player.
const READER_PATIENCE: Duration = Duration::from_secs(300);

/// Starts a transfer of the missing blocks from `index` on, at most to `last`.
pub(super) fn start_fill(
    store: &Rc<Store>,
    version: &Version,
    index: u32,
    last: u32,
) -> Result<Rc<Flight>, BlockError> {
    let total = version.total().ok_or(BlockError::Changed)?;
    let published = store.published.current();
    let mut table = store.table.borrow_mut();
    let held = table.held_mut(version.slot).ok_or(BlockError::Changed)?;
    let blocks = store.index_of(total.saturating_sub(1)).saturating_add(1);
    let mut end = blocks.min(last.saturating_add(1)).max(index + 1);
    // A transfer that would get there, but much later, ends where this one begins.
    for flight in &held.flights {
        if flight.covers(index) {
            flight.shorten(index);
        }
    }
    if let Some(claimed) = held.next_claimed(index) {
        end = end.min(claimed.max(index + 1));
    }
    end = store.next_on_disk(&held.key, index + 1, end);
    // The origins of today, not those of the day when the version was fetched.
    if let Some(channel) = published.channel(&held.channel.id) {
        held.channel = Arc::clone(channel);
    }
    let origins = Origins::new(store, &held.channel, &held.key);
    let start = u64::from(index) * store.block_bytes as u64;
    let transfer = Transfer::new(store, held, start, end, origins, None);
    drop(table);
    let flight = Rc::clone(&transfer.flight);
    glommio::spawn_local(transfer.run()).detach();
    Ok(flight)
}

/// Fills the blocks of one flight.
pub(super) struct Transfer {
    store: Rc<Store>,
    slot: VersionSlot,
    key: SliceKey,
    channel: Arc<Channel>,
    asked: Option<Arc<Asked>>,
    validators: Validators,
    combinable: bool,
    total: Option<u64>,
    flight: Rc<Flight>,
    origins: Origins,
    source: Option<Source>,
    position: u64,
}

impl Transfer {
    /// A transfer of the bytes from `position` to the block before `end`, announced to those who will wait for it. Without
    /// a source it asks the origins itself.
    pub(super) fn new(
        store: &Rc<Store>,
        held: &mut Held,
        position: u64,
        end: u32,
        origins: Origins,
        source: Option<Source>,
    ) -> Transfer {
        let flight = Rc::new(Flight::new(store.index_of(position), end));
        held.flights.push(Rc::clone(&flight));
        store.flights.set(store.flights.get() + 1);
        store.stats.add(Counter::FlightsStarted, 1);
        Transfer {
            store: Rc::clone(store),
            slot: held.version.slot,
            key: held.key.clone(),
            channel: Arc::clone(&held.channel),
            asked: held.asked.clone(),
            validators: held.version.validators.clone(),
            combinable: held.version.status == 200 && held.version.validators.is_strong(),
            total: held.version.total(),
            flight,
            origins,
            source,
            position,
        }
    }

    /// Fills blocks until there are no more, or nobody wants them, or they cannot be had.
    pub(super) async fn run(mut self) {
        let result = self.blocks().await;
        let failure = match &result {
            Ok(()) => {
                if let Some(source) = self.source.take() {
                    source.finish().await;
                }
                None
            }
            Err(UpstreamError::Abandoned) => None,
            Err(UpstreamError::OtherVersion) => Some(BlockError::Changed),
            Err(error) => Some(BlockError::Failed(error.to_string())),
        };
        let mut table = self.store.table.borrow_mut();
        let broken = match &result {
            Ok(()) => false,
            Err(UpstreamError::OtherVersion) => true,
            // What is missing could only come from the same response.
            Err(_) => !self.is_resumable(),
        };
        if broken {
            table.detach(self.slot);
        }
        if let Some(held) = table.held_mut(self.slot) {
            held.flights.retain(|flight| !Rc::ptr_eq(flight, &self.flight));
        }
        table.settle(self.slot);
        drop(table);
        self.store.flights.set(self.store.flights.get() - 1);
        self.flight.finish(failure);
    }

    async fn blocks(&mut self) -> Result<(), UpstreamError> {
        let block_bytes = self.store.block_bytes as u64;
        loop {
            let index = self.store.index_of(self.position);
            if index >= self.flight.end() || self.total.is_some_and(|total| self.position >= total) {
                return Ok(());
            }
            let mut waited = Duration::ZERO;
            while within(CROWDED_DEMAND, self.flight.until_wanted(index, self.store.readahead_blocks())).await.is_none()
            {
                waited += CROWDED_DEMAND;
                if waited >= self.patience() {
                    return Err(UpstreamError::Abandoned);
                }
            }
            if self.flight.is_abandoned() {
                return Err(UpstreamError::Abandoned);
            }
            // A transfer that started later may have taken over from here.
            if index >= self.flight.end() {
                return Err(UpstreamError::Abandoned);
            }
            let start = u64::from(index) * block_bytes;
            let len = self.total.map_or(block_bytes, |total| block_bytes.min(total - start)) as usize;
            let block = self.store.allocate(len).await.ok_or(UpstreamError::NoMemory)?;
            if !self.store.table.borrow_mut().begin_block(self.slot, index, block.share()) {
                return Err(UpstreamError::Abandoned);
            }
            let (block, end) = match self.fill(block, len).await {
                Ok(filled) => filled,
                Err(error) => {
                    self.store.table.borrow_mut().drop_block(self.slot, index);
                    return Err(error);
                }
            };
            if end {
                self.learn_total(Some(start + block.filled() as u64));
            }
            if block.filled() == 0 {
                self.store.table.borrow_mut().drop_block(self.slot, index);
                return Ok(());
            }
            block.finish();
            self.store.table.borrow_mut().finish_block(self.slot, index);
            self.flight.advance();
        }
    }

    /// Fills the block to `len` bytes, or to the end of a body of unknown length: then the second value is true.
    async fn fill(&mut self, mut block: BlockWriter, len: usize) -> Result<(BlockWriter, bool), UpstreamError> {
        while block.filled() < len {
            let source = match &mut self.source {
                Some(source) => source,
                None => {
                    self.source = Some(self.connect().await?);
                    continue;
                }
            };
            let room = len - block.filled();
            let (back, filled) = source.body.fill(block, room).await;
            block = back.ok_or_else(|| std::io::Error::other("the ring lost a block"))?;
            match filled {
                Ok(0) => match self.total {
                    None => return Ok((block, true)),
                    // The length became known on the way.
                    Some(total) if self.position >= total => return Ok((block, true)),
                    // A shorter range than asked for: the rest has to be asked for again.
                    Some(total) => self.broke_off(UpstreamError::Truncated { missing: total - self.position })?,
                },
                Ok(bytes) => {
                    source.meter.body(bytes as u64);
                    self.position += bytes as u64;
                    self.flight.notify();
                    if self.flight.is_abandoned() {
                        return Err(UpstreamError::Abandoned);
                    }
                }
                Err(error) => self.broke_off(error)?,
            }
        }
        Ok((block, false))
    }

    /// How long to wait for somebody who wants more: what can be asked for again is let go; what came in this one response is
    /// not so soon, while it is read.
    fn patience(&self) -> Duration {
        let table = self.store.table.borrow();
        let held = table.held(self.slot).filter(|_| !self.is_resumable());
        let crowded = self.source.as_ref().is_some_and(|source| source.body.is_crowded());
        match (crowded, held) {
            (true, Some(held)) if held.is_read_on() => IDLE_DEMAND,
            (true, _) => CROWDED_DEMAND,
            (false, Some(held)) if held.is_read() => READER_PATIENCE,
            (false, _) => IDLE_DEMAND,
        }
    }

    /// Whether another response could go on from here.
    fn is_resumable(&self) -> bool {
        self.combinable && self.total.is_some()
    }

    /// The length of the whole has become known.
    fn learn_total(&mut self, total: Option<u64>) {
        self.total = total;
        if let Some(total) = total
            && let Some(held) = self.store.table.borrow().held(self.slot)
        {
            held.version.set_total(total);
        }
    }

    /// The source is of no use any more; passes the error on when no other can take over.
    fn broke_off(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        if let Some(source) = self.source.take() {
            source.meter.failed(&error);
        }
        if self.combinable && self.origins.may_try() { Ok(()) } else { Err(error) }
    }

    /// Asks the next origins for the rest, from the byte where the last one broke off.
    async fn connect(&mut self) -> Result<Source, UpstreamError> {
        let mut last = UpstreamError::NoOrigin;
        while let Some(origin) = self.origins.next() {
            let end = u64::from(self.flight.end()).saturating_mul(self.store.block_bytes as u64);
            // Without a length known, all of the rest.
            let last_byte = self.total.map(|total| end.min(total) - 1);
            let path = self.key.path().to_vec();
            let ask = Ask {
                path: std::str::from_utf8(&path).unwrap_or_default(),
                range: origin.range.then_some((self.position, last_byte)),
                known: Some(&self.validators),
                revalidate: false,
                own_cors: self.channel.cors.enabled(),
                asked: self.asked.as_deref(),
                follow: self.channel.follows_redirects(),
                cdn_loop: None,
            };
            let mut meter = Meter::start(&self.store, &self.channel, &origin);
            let joined = match self.store.upstreams.fetch(&origin, &ask).await {
                Ok((head, body)) => {
                    meter.head(&head);
                    let joined = self.join(&head, body, &mut meter).await;
                    if joined.is_ok() && self.total.is_none() {
                        self.learn_total(head.total);
                    }
                    joined
                }
                Err(error) => Err(error),
            };
            match joined {
                Ok(body) => {
                    meter.succeeded();
                    return Ok(Source { body, meter });
                }
                Err(error) => {
                    meter.failed(&error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Whether this response goes on where the last one broke off.
    async fn join(&self, head: &OriginHead, mut body: Body, meter: &mut Meter) -> Result<Body, UpstreamError> {
        match head.status {
            200 | 206 => {}
            500..=599 => return Err(UpstreamError::Status(head.status)),
            _ => return Err(UpstreamError::OtherVersion),
        }
        let fits = match (self.total, head.total) {
            (Some(ours), theirs) => theirs == Some(ours),
            (None, theirs) => {
                theirs.is_none_or(|total| total >= self.position) && (head.status == 200 || theirs.is_some())
            }
        };
        if !fits || !head.validators.same_bytes(&self.validators) {
            return Err(UpstreamError::OtherVersion);
        }
        if head.status == 206 && head.first != self.position {
            return Err(UpstreamError::WrongRange { asked: self.position, got: head.first.to_string() });
        }
        if head.status == 200 {
            let read = body.skip(self.position).await?;
            meter.body(read);
        }
        Ok(body)
    }
}
