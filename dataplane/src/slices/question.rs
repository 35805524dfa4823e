//! What the origins have under a name: one question however many wait for the answer.

use std::rc::Rc;
use std::sync::Arc;

use super::flight::{OpenError, Opening};
use super::sources::{Meter, Origins, Source};
use super::store::{OpenRequest, Store, Want};
use super::transfer::Transfer;
use super::version::{Version, VersionParts};
use crate::telemetry::stats::CacheResult;
use crate::upstream::{Ask, OriginHead, UpstreamError};

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
                        let (born_ms, fresh_until_ms) = self.lifetime(version_head, version.status);
                        version.refresh(born_ms, fresh_until_ms);
                        return Ok((Arc::clone(version), CacheResult::Revalidated, None));
                    }
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
            // Such a part cannot be completed from other responses: all who share the object share one whole response.
            (206, Some(_)) if !head.validators.is_strong() && !self.private => Verdict::AskForAll,
            // Another origin, or a stale copy, serves the viewers better than word of an overload.
            (408 | 429 | 500..=599, _) => Verdict::Fail(UpstreamError::Status(head.status)),
            _ => Verdict::Use,
        }
    }

    /// When the response was born, and until when it is fresh, both by the shard's clock.
    /// `status` is that of the version, which a 304 only confirms.
    fn lifetime(&self, head: &OriginHead, status: u16) -> (u64, u64) {
        let policy = &self.request.channel.cache;
        let default_ms = match status {
            404 | 410 => policy.negative_ttl_ms,
            _ if is_playlist(self.path()) => policy.playlist_ttl_ms,
            _ => policy.default_ttl_ms,
        };
        let now_ms = self.store.clock.now_ms();
        let born_ms = now_ms.saturating_sub(head.age_s.saturating_mul(1000));
        let fresh_until_ms = match head.lifetime_s {
            _ if head.cache_control.no_cache => 0,
            None if !is_heuristically_cacheable(status) => 0,
            Some(lifetime_s) => born_ms.saturating_add(lifetime_s.saturating_mul(1000)),
            None => now_ms + u64::from(default_ms),
        };
        (born_ms, fresh_until_ms)
    }

    fn begin(&self, head: OriginHead, source: Source, origins: Origins) -> Answer {
        let store = self.store;
        let channel = &self.request.channel;
        let (born_ms, fresh_until_ms) = self.lifetime(&head, head.status);
        let keeps = head.cache_control.storable() && !head.personal;
        let exclusive = self.private || self.opening.is_purged() || !keeps;
        let status = if head.status == 206 { 200 } else { head.status };
        let parts = VersionParts {
            status,
            total: head.total,
            validators: head.validators,
            relay: head.relay.into(),
            version_lines: head.version_lines.into(),
            content_type: head.content_type,
            cache_control: head.cache_control_text,
            expires: head.expires,
            must_revalidate: head.cache_control.must_revalidate || head.cache_control.proxy_revalidate,
            born_ms,
            fresh_until_ms,
            exclusive,
        };
        let mut table = store.table.borrow_mut();
        let version = table.insert(&self.request.key, channel, parts);
        if !keeps && !self.private {
            table.pass(&self.request.key, store.clock.now_ms() + PASS_MS);
        }
        let cache = if exclusive { CacheResult::Bypass } else { CacheResult::Miss };
        if head.length == Some(0) {
            drop(table);
            source.body.finish();
            return (version, cache, None);
        }
        let last_byte = head.length.map(|length| head.first + length - 1);
        let end = last_byte.map_or(u32::MAX, |last| store.index_of(last).saturating_add(1));
        let transfer =
            table.held_mut(version.slot).map(|held| Transfer::new(store, held, head.first, end, origins, Some(source)));
        drop(table);
        (version, cache, transfer)
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

/// Statuses that may be kept without the origin saying for how long (RFC 9110 section 15.1); those shoal meets.
fn is_heuristically_cacheable(status: u16) -> bool {
    matches!(status, 200 | 203 | 206 | 404 | 410)
}

/// Whether the path names an HLS playlist or a DASH manifest.
pub fn is_playlist(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let extension = path.rsplit('.').next().unwrap_or_default();
    ["m3u8", "m3u", "mpd"].iter().any(|playlist| extension.eq_ignore_ascii_case(playlist))
}
