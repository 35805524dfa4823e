//! The tasks that ask origins and fill blocks.
//!
//! ```text
//!  open ──▶ opening ──▶ head: 304 ─────────────▶ the stale version is fresh again
//!                            200, 206, 404 … ──▶ a new version ──▶ transfer ──▶ blocks
//!  block ─────────────────────────────────────────────────────────▲
//! ```
//!
//! A transfer runs at the origin's pace, but not further ahead of the furthest viewer than `readahead_blocks`: the slowest
//! viewer holds nobody back, and nothing is fetched that nobody is going to want. When an origin breaks off, the next one
//! is asked for the rest, from the very byte, and only if strong validators say that it has the same bytes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shoal_link::ledger::Kind;
use shoal_sys::arena::BlockWriter;

use super::flight::{BlockError, Flight, OpenError, Opening};
use super::key::SliceKey;
use super::store::{OpenRequest, Store, Want};
use super::version::{Version, VersionParts, VersionSlot};
use crate::ledger::{Flow, Usage};
use crate::routes::{Channel, HealthEvent, OriginState};
use crate::telemetry::metrics::Counter;
use crate::telemetry::stats::{CacheResult, OriginStats, UpstreamError as Kept};
use crate::upstream::{Ask, Body, OriginHead, UpstreamError, Validators, within};

/// How long a transfer keeps its connection while nobody wants the next block.
const IDLE_DEMAND: Duration = Duration::from_secs(5);

/// How long a name is passed by after its origin said that the answer is not to be shared.
const PASS_MS: u64 = 10_000;

/// How long a stale version is served without asking again, while its origins fail.
const STALE_HOLD_MS: u64 = 1_000;

/// Asks the origins what they have under a name, and starts the transfer of it.
pub(super) fn start_opening(
    store: &Rc<Store>,
    request: OpenRequest,
    opening: Rc<Opening>,
    stale: Option<Arc<Version>>,
    private: bool,
) {
    let store = Rc::clone(store);
    glommio::spawn_local(async move {
        let asked = Question { store: &store, request: &request, opening: &opening, private };
        let answer = asked.ask(stale).await;
        let (answer, transfer) = match answer {
            Ok((version, cache, transfer)) => (Ok((version, cache)), transfer),
            Err(error) => (Err(error), None),
        };
        {
            let mut table = store.table.borrow_mut();
            let name = table.name_mut(&request.key);
            if name.opening.as_ref().is_some_and(|current| Rc::ptr_eq(current, &opening)) {
                name.opening = None;
            }
            table.tidy_name(&request.key, store.clock.now_ms());
        }
        opening.answer(answer);
        drop(opening);
        if let Some(transfer) = transfer {
            transfer.run().await;
        }
    })
    .detach();
}

/// Starts a transfer of the missing blocks from `index` on, at most to `last`.
pub(super) fn start_fill(
    store: &Rc<Store>,
    version: &Version,
    index: u32,
    last: u32,
) -> Result<Rc<Flight>, BlockError> {
    let total = version.total().ok_or(BlockError::Changed)?;
    let mut table = store.table.borrow_mut();
    let held = table.held_mut(version.slot).ok_or(BlockError::Changed)?;
    let blocks = store.index_of(total.saturating_sub(1)) + 1;
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
    let flight = Rc::new(Flight::new(index, end));
    held.flights.push(Rc::clone(&flight));
    let transfer = Transfer {
        store: Rc::clone(store),
        slot: version.slot,
        key: held.key.clone(),
        channel: Arc::clone(&held.channel),
        validators: version.validators.clone(),
        combinable: true,
        total: Some(total),
        flight: Rc::clone(&flight),
        origins: Origins::new(store, &held.channel),
        source: None,
        position: u64::from(index) * store.block_bytes as u64,
    };
    drop(table);
    store.flights.set(store.flights.get() + 1);
    store.stats.add(Counter::FlightsStarted, 1);
    glommio::spawn_local(transfer.run()).detach();
    Ok(flight)
}

/// The origins of one fetch in the order to try them, and how many tries are left.
struct Origins {
    candidates: Vec<Arc<OriginState>>,
    at: usize,
    tries_left: usize,
}

impl Origins {
    fn new(store: &Store, channel: &Channel) -> Origins {
        let candidates: Vec<_> = channel.pick(store.clock.now_ms(), store.roll()).cloned().collect();
        Origins { candidates, at: 0, tries_left: store.limits.retries + 1 }
    }

    /// The next one to try; none when all tries are used up.
    fn next(&mut self) -> Option<Arc<OriginState>> {
        self.tries_left = self.tries_left.checked_sub(1)?;
        let origin = self.candidates.get(self.at % self.candidates.len().max(1))?;
        self.at += 1;
        Some(Arc::clone(origin))
    }

    /// The same one once more, without costing a try.
    fn again(&mut self) {
        self.at -= 1;
        self.tries_left += 1;
    }
}

/// Bytes on their way from one origin; its figures are kept when it is dropped.
struct Source {
    body: Body,
    meter: Meter,
}

/// Counts one exchange with an origin.
struct Meter {
    store: Rc<Store>,
    channel: Arc<Channel>,
    origin: Arc<OriginState>,
    stats: Arc<OriginStats>,
    usage: Usage,
}

impl Meter {
    fn start(store: &Rc<Store>, channel: &Arc<Channel>, origin: &Arc<OriginState>) -> Meter {
        let stats = store.stats.origin(&channel.id, &origin.id);
        stats.attempt();
        let usage = Usage { requests: 1, ..Usage::default() };
        Meter { store: Rc::clone(store), channel: Arc::clone(channel), origin: Arc::clone(origin), stats, usage }
    }

    fn head(&mut self, head: &OriginHead) {
        self.usage.wire_bytes += head.head_bytes as u64;
        self.stats.received(head.head_bytes as u64);
    }

    fn body(&mut self, bytes: usize) {
        self.usage.body_bytes += bytes as u64;
        self.usage.wire_bytes += bytes as u64;
        self.stats.received(bytes as u64);
    }

    fn succeeded(&self) {
        self.health(HealthEvent::Success);
    }

    fn health(&self, event: HealthEvent) {
        if let Some(up) = self.origin.health.handle(event, self.store.clock.now_ms()) {
            tracing::info!(channel = %self.channel.id, origin = %self.origin.id, up, "origin changed its state");
        }
    }

    fn failed(&self, error: &UpstreamError) {
        self.stats.error(match error {
            UpstreamError::Resolve { .. } | UpstreamError::Connect { .. } => Kept::Connect,
            UpstreamError::Timeout { .. } => Kept::Timeout,
            UpstreamError::Status(_) => Kept::Status,
            UpstreamError::Truncated { .. } => Kept::Truncated,
            UpstreamError::OtherVersion => Kept::Validator,
            UpstreamError::BadResponse(_) | UpstreamError::WrongRange { .. } => Kept::BadHead,
            UpstreamError::Io(_) => Kept::Io,
            UpstreamError::NoMemory | UpstreamError::Abandoned | UpstreamError::NoOrigin => return,
        });
        if error.blames_origin() {
            self.health(HealthEvent::Failure);
        }
        tracing::debug!(channel = %self.channel.id, origin = %self.origin.id, %error, "origin failed");
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let flow = Flow {
            tenant: &self.channel.tenant,
            channel: &self.channel.id,
            kind: Kind::Upstream,
            origin: &self.origin.id,
        };
        self.store.ledger.borrow_mut().record(flow, "", self.usage);
    }
}

/// One opening's question to the origins.
struct Question<'a> {
    store: &'a Rc<Store>,
    request: &'a OpenRequest,
    opening: &'a Opening,
    private: bool,
}

type Answer = (Arc<Version>, CacheResult, Option<Transfer>);

impl Question<'_> {
    async fn ask(&self, stale: Option<Arc<Version>>) -> Result<Answer, OpenError> {
        let channel = &self.request.channel;
        let mut origins = Origins::new(self.store, channel);
        let mut last = UpstreamError::NoOrigin;
        let mut ranged = self.request.want.ranged && stale.is_none();
        while let Some(origin) = origins.next() {
            let range = (ranged && origin.range).then(|| self.range());
            let ask = Ask {
                path: self.path(),
                range,
                known: stale.as_ref().map(|version| &version.validators),
                revalidate: stale.is_some(),
                own_cors: channel.cors.enabled(),
            };
            let mut meter = Meter::start(self.store, channel, &origin);
            let (head, body) = match self.store.upstreams.fetch(&origin, &ask).await {
                Ok(response) => response,
                Err(error) => {
                    meter.failed(&error);
                    last = error;
                    continue;
                }
            };
            meter.head(&head);
            match self.judge(&head, range.map(|(first, _)| first), stale.as_deref()) {
                Verdict::Use => {
                    meter.succeeded();
                    return Ok(self.begin(head, Source { body, meter }, origins));
                }
                Verdict::StillGood(version_head) => {
                    meter.succeeded();
                    body.finish();
                    if let Some(version) = &stale {
                        let (born_ms, fresh_until_ms) = self.lifetime(version_head);
                        version.refresh(born_ms, fresh_until_ms);
                        return Ok((Arc::clone(version), CacheResult::Revalidated, None));
                    }
                }
                Verdict::AskForAll => {
                    // The origin does not have that range, but may have the object.
                    ranged = false;
                    origins.again();
                }
                Verdict::Fail(error) => {
                    meter.failed(&error);
                    last = error;
                }
            }
        }
        self.give_up(stale, &last)
    }

    fn give_up(&self, stale: Option<Arc<Version>>, last: &UpstreamError) -> Result<Answer, OpenError> {
        let now_ms = self.store.clock.now_ms();
        if let Some(version) = stale {
            let grace = u64::from(self.request.channel.cache.stale_if_error_ms);
            if version.may_be_stale() && now_ms < version.fresh_until_ms().saturating_add(grace) {
                version.hold_stale(now_ms + STALE_HOLD_MS);
                return Ok((version, CacheResult::Stale, None));
            }
        }
        let status = last.viewer_status();
        Err(OpenError { status, reason: last.kind(), message: format!("no origin could answer: {last}") })
    }

    /// Path and query below the channel's prefix, as the origin is asked for it.
    fn path(&self) -> &str {
        std::str::from_utf8(self.request.key.path()).unwrap_or_default()
    }

    /// The wanted bytes, widened to whole blocks.
    fn range(&self) -> (u64, Option<u64>) {
        let Want { first, last, .. } = self.request.want;
        let block = self.store.block_bytes as u64;
        (first / block * block, last.map(|last| (last / block + 1).saturating_mul(block) - 1))
    }

    fn judge<'h>(&self, head: &'h OriginHead, asked: Option<u64>, stale: Option<&Version>) -> Verdict<'h> {
        match (head.status, asked) {
            (304, _) if stale.is_some() => Verdict::StillGood(head),
            (304, _) => Verdict::Fail(UpstreamError::BadResponse("304 without a condition".to_owned())),
            (416, Some(_)) => Verdict::AskForAll,
            (206, None) => Verdict::Fail(UpstreamError::BadResponse("206 without a Range".to_owned())),
            (206, Some(first)) if head.first != first => {
                Verdict::Fail(UpstreamError::WrongRange { asked: first, got: head.first.to_string() })
            }
            // Without the length of the whole the viewer could not be told what it gets.
            (206, Some(_)) if head.total.is_none() => Verdict::AskForAll,
            (500..=599, _) => Verdict::Fail(UpstreamError::Status(head.status)),
            _ => Verdict::Use,
        }
    }

    /// When the response was born, and until when it is fresh, both by the shard's clock.
    fn lifetime(&self, head: &OriginHead) -> (u64, u64) {
        let policy = &self.request.channel.cache;
        let default_ms = match head.status {
            404 | 410 => policy.negative_ttl_ms,
            _ if is_playlist(self.path()) => policy.playlist_ttl_ms,
            _ => policy.default_ttl_ms,
        };
        let now_ms = self.store.clock.now_ms();
        let born_ms = now_ms.saturating_sub(head.age_s.saturating_mul(1000));
        let fresh_until_ms = match head.lifetime_s {
            _ if head.cache_control.no_cache => 0,
            Some(lifetime_s) => born_ms.saturating_add(lifetime_s.saturating_mul(1000)),
            None => now_ms + u64::from(default_ms),
        };
        (born_ms, fresh_until_ms)
    }

    fn begin(&self, head: OriginHead, source: Source, origins: Origins) -> Answer {
        let store = self.store;
        let channel = &self.request.channel;
        let (born_ms, fresh_until_ms) = self.lifetime(&head);
        let keeps =
            matches!(head.status, 200 | 203 | 206 | 404 | 410) && head.cache_control.storable() && !head.personal;
        let exclusive = self.private || self.opening.is_purged() || !keeps;
        let status = if head.status == 206 { 200 } else { head.status };
        let validators = head.validators.clone();
        let parts = VersionParts {
            status,
            total: head.total,
            validators: validators.clone(),
            relay: head.relay.into(),
            version_lines: head.version_lines.into(),
            content_type: head.content_type,
            cache_control: head.cache_control_text,
            must_revalidate: head.cache_control.must_revalidate || head.cache_control.proxy_revalidate,
            born_ms,
            fresh_until_ms,
            exclusive,
        };
        let mut table = store.table.borrow_mut();
        let version = table.insert(&self.request.key, channel, parts);
        if !keeps && !self.private {
            table.name_mut(&self.request.key).pass_until_ms = store.clock.now_ms() + PASS_MS;
        }
        let cache = if exclusive { CacheResult::Bypass } else { CacheResult::Miss };
        if head.length == Some(0) {
            drop(table);
            source.body.finish();
            return (version, cache, None);
        }
        let first = store.index_of(head.first);
        let last_byte = head.length.map(|length| head.first + length - 1);
        let end = last_byte.map_or(u32::MAX, |last| store.index_of(last) + 1);
        let flight = Rc::new(Flight::new(first, end));
        if let Some(held) = table.held_mut(version.slot) {
            held.flights.push(Rc::clone(&flight));
        }
        drop(table);
        store.flights.set(store.flights.get() + 1);
        store.stats.add(Counter::FlightsStarted, 1);
        let transfer = Transfer {
            store: Rc::clone(store),
            slot: version.slot,
            key: self.request.key.clone(),
            channel: Arc::clone(channel),
            combinable: version.status == 200 && validators.is_strong(),
            total: head.total,
            flight,
            validators,
            origins,
            source: Some(source),
            position: head.first,
        };
        (version, cache, Some(transfer))
    }
}

enum Verdict<'h> {
    /// A version to serve.
    Use,
    /// The version known is confirmed.
    StillGood(&'h OriginHead),
    /// Ask again, without a range.
    AskForAll,
    /// Not usable; another origin may do better.
    Fail(UpstreamError),
}

/// Fills the blocks of one flight.
pub(super) struct Transfer {
    store: Rc<Store>,
    slot: VersionSlot,
    key: SliceKey,
    channel: Arc<Channel>,
    validators: Validators,
    combinable: bool,
    total: Option<u64>,
    flight: Rc<Flight>,
    origins: Origins,
    source: Option<Source>,
    position: u64,
}

impl Transfer {
    async fn run(mut self) {
        let result = self.blocks().await;
        let failure = match &result {
            Ok(()) => {
                if let Some(source) = self.source.take() {
                    source.body.finish();
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
            Err(_) => !self.combinable || self.total.is_none(),
        };
        if broken {
            table.detach(self.slot);
        }
        if let Some(held) = table.held_mut(self.slot) {
            held.flights.retain(|flight| !Rc::ptr_eq(flight, &self.flight));
        }
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
            let wanted = self.flight.until_wanted(index, self.store.limits.readahead_blocks);
            if within(IDLE_DEMAND, wanted).await.is_none() || self.flight.is_abandoned() {
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
                    source.meter.body(bytes);
                    self.position += bytes as u64;
                    self.flight.notify();
                }
                Err(error) => self.broke_off(error)?,
            }
        }
        Ok((block, false))
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
        if self.combinable && self.origins.tries_left > 0 { Ok(()) } else { Err(error) }
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
            };
            let mut meter = Meter::start(&self.store, &self.channel, &origin);
            let joined = match self.store.upstreams.fetch(&origin, &ask).await {
                Ok((head, body)) => {
                    meter.head(&head);
                    let joined = self.join(&head, body).await;
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
    async fn join(&self, head: &OriginHead, mut body: Body) -> Result<Body, UpstreamError> {
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
            body.skip(self.position).await?;
        }
        Ok(body)
    }
}

/// Whether the path names an HLS playlist or a DASH manifest.
pub fn is_playlist(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let extension = path.rsplit('.').next().unwrap_or_default();
    ["m3u8", "m3u", "mpd"].iter().any(|playlist| extension.eq_ignore_ascii_case(playlist))
}
