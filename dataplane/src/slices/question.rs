//! What the origins have under a name: one question however many wait for the answer.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use shoal_http::caching::{Vary, merge_lines};

use super::flight::{Forwarded, OpenError, Opening, Why};
use super::hedge::{Side, first_of};
use super::sources::{Meter, Origins, Source};
use super::store::{OpenRequest, Store, Want};
use super::terms::{Terms, Words};
use super::transfer::Transfer;
use super::version::{Version, VersionParts};
use crate::routes::OriginState;
use crate::telemetry::metrics::Counter;
use crate::telemetry::stats::CacheResult;
use crate::upstream::asked::selecting;
use crate::upstream::{Ask, Body, OriginHead, UpstreamError, Validators, within};

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
        let on_disk = match &stale {
            None if !private => store.open_from_disk(&request, &opening).await,
            _ => None,
        };
        let answer = match on_disk {
            Some(version) if version.is_fresh(store.clock.now_ms()) && !request.revalidate => {
                Ok((version, CacheResult::Disk, None, None))
            }
            version => asked.ask(stale.or(version)).await,
        };
        let (answer, transfer) = match answer {
            Ok((version, cache, forwarded, transfer)) => (Ok((version, cache, forwarded)), transfer),
            Err(error) => (Err(error), None),
        };
        store.table.borrow_mut().end_opening(&request.key, &opening, store.clock.now_ms());
        opening.answer(answer);
        drop(opening);
        if let Some(transfer) = transfer {
            transfer.run().await;
        }
    })
    .detach();
}

/// One opening's question to the origins.
struct Question<'a> {
    store: &'a Rc<Store>,
    request: &'a OpenRequest,
    opening: &'a Opening,
    private: bool,
}

/// The head of an answer, and the body to read.
type Fetched = Result<(OriginHead, Body), UpstreamError>;

type Answer = (Arc<Version>, CacheResult, Option<Forwarded>, Option<Transfer>);

impl Question<'_> {
    async fn ask(&self, stale: Option<Arc<Version>>) -> Result<Answer, OpenError> {
        let channel = &self.request.channel;
        let mut origins = Origins::new(self.store, channel, &self.request.key);
        let mut last = UpstreamError::NoOrigin;
        let mut ranged = self.request.want.ranged && stale.is_none();
        let mut known = stale.clone();
        while let Some(origin) = origins.next() {
            let range = (ranged && origin.range).then(|| self.range());
            let ask = Ask {
                path: self.path(),
                range,
                known: known.as_ref().map(|version| &version.validators),
                revalidate: known.is_some(),
                own_cors: channel.cors.enabled(),
                asked: self.request.asked.as_deref(),
                follow: channel.follows_redirects(),
                cdn_loop: self.request.cdn_loop.as_deref(),
            };
            let (mut meter, fetched) = self.fetch(&origin, &ask, &mut origins).await;
            let (head, body) = match fetched {
                Ok(response) => response,
                Err(error) => {
                    meter.failed(&error);
                    // What may have changed things there must not be asked for again.
                    let again = !self.is_unsafe() || error.is_before_sending();
                    last = error;
                    if again { continue } else { break }
                }
            };
            meter.head(&head);
            // What it says of us, not of the object: it does not know us as its child, or the request goes in a circle.
            if meter.origin().parent.is_some() && matches!(head.status, 401 | 403 | 421 | 508) {
                last = UpstreamError::Status(head.status);
                meter.failed(&last);
                continue;
            }
            let relays_errors =
                channel.forward.server_errors && !origins.has_other() && !self.may_bridge(stale.as_deref());
            match self.judge(&head, range.map(|(first, _)| first), known.as_deref(), relays_errors) {
                Verdict::Use => {
                    meter.succeeded();
                    let why = self.why(stale.is_some());
                    return Ok(self.begin(head, Source { body, meter }, origins, why));
                }
                Verdict::StillGood(version) => {
                    meter.succeeded();
                    body.finish();
                    // It is gone when it was thrown away meanwhile, but it is right all the same.
                    let confirmed = self.confirm(version, &head).or(known);
                    let Some(version) = confirmed else { break };
                    let why = if self.request.revalidate { Why::Request } else { Why::Stale };
                    return Ok((version, CacheResult::Revalidated, Some(Forwarded { why, status: 304 }), None));
                }
                Verdict::AskWithoutCondition => {
                    body.finish();
                    known = None;
                    origins.again();
                }
                Verdict::AskForAll => {
                    // The origin does not have that range, but may have the object. What is small is read to its end: the
                    // connection can be used again, and what came is counted.
                    Source { body, meter }.finish().await;
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

    /// Asks `origin`, and one more when that takes unusually long: the first good answer counts.
    async fn fetch(&self, origin: &Arc<OriginState>, ask: &Ask<'_>, origins: &mut Origins) -> (Meter, Fetched) {
        let Question { store, request, .. } = self;
        let (channel, policy) = (&request.channel, &request.channel.forward);
        let meter = Meter::start(store, channel, origin);
        let started = Instant::now();
        let took = |origin: &OriginState, since: Instant| {
            store.hedging.borrow_mut().took(policy, &channel.id, &origin.id, since.elapsed());
        };
        let usual = store.hedging.borrow_mut().begin(policy, &channel.id, &origin.id).filter(|_| !self.is_unsafe());
        let mut first = pin!(store.upstreams.fetch(origin, ask));
        let in_time = match usual {
            Some(usual) => within(usual, first.as_mut()).await,
            None => Some(first.as_mut().await),
        };
        if let Some(fetched) = in_time {
            took(origin, started);
            return (meter, fetched);
        }
        let other = match store.hedging.borrow_mut().spend(&channel.id) {
            true => origins.beside(origin.range),
            false => None,
        };
        let Some(other) = other else {
            let fetched = first.await;
            took(origin, started);
            return (meter, fetched);
        };
        store.stats.add(Counter::Hedges, 1);
        let other_meter = Meter::start(store, channel, &other);
        let other_started = Instant::now();
        let mut second = pin!(store.upstreams.fetch(&other, ask));
        let (side, fetched) = first_of(first.as_mut(), second.as_mut()).await;
        took(origin, started);
        took(&other, other_started);
        match (side, fetched) {
            (Side::First, Err(error)) => {
                meter.failed(&error);
                (other_meter, second.await)
            }
            (Side::Second, Err(error)) => {
                other_meter.failed(&error);
                (meter, first.await)
            }
            (Side::First, fetched) => (meter, fetched),
            (Side::Second, fetched) => (other_meter, fetched),
        }
    }

    fn give_up(&self, stale: Option<Arc<Version>>, last: &UpstreamError) -> Result<Answer, OpenError> {
        if let Some(version) = stale.filter(|version| self.may_bridge(Some(version))) {
            version.hold_stale(self.store.clock.now_ms() + STALE_HOLD_MS);
            return Ok((version, CacheResult::Stale, None, None));
        }
        let status = last.viewer_status();
        Err(OpenError { status, reason: last.kind(), message: format!("no origin could answer: {last}") })
    }

    /// Whether a stale version may be served because no origin answers, or is served already.
    fn may_bridge(&self, stale: Option<&Version>) -> bool {
        let grace_ms = u64::from(self.request.channel.cache.stale_if_error_ms);
        let now_ms = self.store.clock.now_ms();
        stale.is_some_and(|version| version.may_bridge_errors(now_ms, grace_ms) || version.may_revalidate_later(now_ms))
    }

    fn is_unsafe(&self) -> bool {
        self.request.asked.as_ref().is_some_and(|asked| asked.is_unsafe())
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

    fn judge<'v>(
        &self,
        head: &OriginHead,
        asked: Option<u64>,
        known: Option<&'v Version>,
        relays_errors: bool,
    ) -> Verdict<'v> {
        match (head.status, asked) {
            // Whatever it is, it is this request's answer.
            _ if self.is_unsafe() => Verdict::Use,
            (304, _) if let Some(version) = known => match head.validators.denies(&version.validators) {
                false => Verdict::StillGood(version),
                true => Verdict::AskWithoutCondition,
            },
            (304, _) => Verdict::Fail(UpstreamError::BadResponse("304 without a condition".to_owned())),
            (416, Some(_)) => Verdict::AskForAll,
            (206, None) => Verdict::Fail(UpstreamError::BadResponse("206 without a Range".to_owned())),
            (206, Some(first)) if head.first != first => {
                Verdict::Fail(UpstreamError::WrongRange { asked: first, got: head.first.to_string() })
            }
            // Without the length of the whole the viewer could not be told what it gets.
            (206, Some(_)) if head.total.is_none() => Verdict::AskForAll,
            // Such a part cannot be completed from other responses: all who share the object share one whole response.
            (206, Some(_)) if !head.validators.is_strong() && !self.private => Verdict::AskForAll,
            // Another origin, or a stale copy, serves the viewers better than word of an overload.
            (408 | 429 | 500..=599, _) if !relays_errors => Verdict::Fail(UpstreamError::Status(head.status)),
            _ => Verdict::Use,
        }
    }

    /// The origin has confirmed the version: its times start anew, and its header fields are those of the 304 where that has
    /// them (RFC 9111 section 3.2).
    fn confirm(&self, version: &Version, head: &OriginHead) -> Option<Arc<Version>> {
        let relay = merge_lines(&version.relay, &head.relay);
        let version_lines = merge_lines(&version.version_lines, &head.version_lines);
        let cache_control = head.cache_control.as_ref().or(version.cache_control.as_ref());
        let expires = head.expires.as_ref().or(version.expires.as_ref());
        let terms = self.terms(&Words {
            status: version.status,
            relay: &relay,
            cache_control: cache_control.map(|text| &**text),
            expires: expires.map(|text| &**text),
            last_modified: head.validators.last_modified.or(version.validators.last_modified),
            date_s: head.date_s,
            age_s: head.age_s,
        });
        let tags = if head.tags.is_empty() { version.tags.clone() } else { head.tags.as_str().into() };
        let mut table = self.store.table.borrow_mut();
        let unchanged = *relay == *version.relay
            && *version_lines == *version.version_lines
            && tags == version.tags
            && cache_control == version.cache_control.as_ref()
            && expires == version.expires.as_ref();
        let held = table.held(version.slot).map(|held| Arc::clone(&held.version));
        let confirmed = match held {
            Some(held) if unchanged => {
                held.refresh(terms.date_s, terms.born_ms, terms.fresh_until_ms);
                Some(held)
            }
            Some(_) => {
                let parts = VersionParts {
                    status: version.status,
                    total: version.total(),
                    validators: version.validators.clone(),
                    content_type: version.content_type.clone(),
                    selecting: version.selecting.clone(),
                    exclusive: version.exclusive,
                    cache_control: cache_control.cloned(),
                    expires: expires.cloned(),
                    relay: relay.into_owned().into(),
                    version_lines: version_lines.into_owned().into(),
                    date_s: terms.date_s,
                    born_ms: terms.born_ms,
                    fresh_until_ms: terms.fresh_until_ms,
                    stale: terms.stale,
                    tags,
                };
                table.confirm(version.slot, parts)
            }
            None => None,
        };
        if terms.barred.is_some() {
            table.detach(version.slot);
        }
        confirmed
    }

    fn terms(&self, words: &Words<'_>) -> Terms {
        let authorized = self.request.asked.as_ref().is_some_and(|asked| asked.has("authorization"));
        words.terms(&self.request.channel, self.path(), authorized, self.store.clock.now_ms())
    }

    fn why(&self, had_stale: bool) -> Why {
        if self.is_unsafe() {
            return Why::Method;
        }
        let table = self.store.table.borrow();
        let has_variants = table.variants(&self.request.key).next().is_some();
        match (had_stale, self.request.revalidate) {
            (true, true) => Why::Request,
            (true, false) => Why::Stale,
            (false, _) if has_variants && !self.request.private => Why::VaryMiss,
            (false, _) => Why::UriMiss,
        }
    }

    fn begin(&self, head: OriginHead, source: Source, origins: Origins, why: Why) -> Answer {
        let store = self.store;
        let channel = &self.request.channel;
        let asked = self.request.asked.as_ref();
        let forwarded = Some(Forwarded { why, status: head.status });
        let status = if head.status == 206 { 200 } else { head.status };
        let terms = self.terms(&Words {
            status,
            relay: &head.relay,
            cache_control: head.cache_control.as_deref(),
            expires: head.expires.as_deref(),
            last_modified: head.validators.last_modified,
            date_s: head.date_s,
            age_s: head.age_s,
        });
        // A cookie is for the one who asked. An origin that says `public` all the same means the rest of the response.
        let keeps = terms.barred.is_none()
            && head.vary != Vary::Everything
            && (head.cookies.is_empty() || terms.public)
            && !self.is_unsafe();
        let exclusive = self.private || self.opening.is_purged() || !keeps;
        let mut relay = head.relay;
        if exclusive {
            relay.extend_from_slice(&head.cookies);
        }
        let parts = VersionParts {
            status,
            total: head.total,
            // The rest of an answer to POST cannot be had by asking again, whatever its ETag says.
            validators: if self.is_unsafe() { Validators::default() } else { head.validators },
            relay: relay.into(),
            version_lines: head.version_lines.into(),
            content_type: head.content_type,
            cache_control: head.cache_control,
            expires: head.expires,
            selecting: selecting(&head.vary, asked.map(|asked| &**asked)).into(),
            date_s: terms.date_s,
            born_ms: terms.born_ms,
            fresh_until_ms: terms.fresh_until_ms,
            stale: terms.stale,
            tags: head.tags.into(),
            exclusive,
        };
        let mut table = store.table.borrow_mut();
        let version = table.insert(&self.request.key, channel, asked, parts);
        if !keeps && !self.private {
            table.pass(&self.request.key, store.clock.now_ms() + PASS_MS);
        }
        let cache = if exclusive { CacheResult::Bypass } else { CacheResult::Miss };
        if head.length == Some(0) {
            drop(table);
            source.body.finish();
            return (version, cache, forwarded, None);
        }
        let last_byte = head.length.map(|length| head.first + length - 1);
        let end = last_byte.map_or(u32::MAX, |last| store.index_of(last).saturating_add(1));
        let transfer =
            table.held_mut(version.slot).map(|held| Transfer::new(store, held, head.first, end, origins, Some(source)));
        drop(table);
        (version, cache, forwarded, transfer)
    }
}

enum Verdict<'v> {
    /// A version to serve.
    Use,
    /// The version known is confirmed.
    StillGood(&'v Version),
    /// The origin confirms another version than the one known.
    AskWithoutCondition,
    /// Ask again, without a range.
    AskForAll,
    /// Not usable; another origin may do better.
    Fail(UpstreamError),
}
