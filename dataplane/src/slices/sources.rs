//! The origins that one fetch may ask, and what each of them gave.

use std::rc::Rc;
use std::sync::Arc;

use shoal_link::ledger::Kind;

use super::key::SliceKey;
use super::store::Store;
use crate::ledger::{Flow, Usage};
use crate::routes::{Channel, HealthEvent, OriginState, ParentFetch};
use crate::telemetry::stats::{OriginStats, UpstreamError as Kept};
use crate::upstream::{Body, OriginHead, UpstreamError};

/// The origins of one fetch in the order to try them, and how many tries are left.
pub(super) struct Origins {
    candidates: Vec<Arc<OriginState>>,
    at: usize,
    tries_left: usize,
}

impl Origins {
    /// Parents first, then the channel's own.
    pub(super) fn new(store: &Store, channel: &Channel, key: &SliceKey) -> Origins {
        let now_ms = store.clock.now_ms();
        let mut candidates = store.parents.pick(channel, key, now_ms);
        let tries_left = candidates.len() + store.limits.retries + 1;
        candidates.extend(channel.pick(now_ms, store.roll()).cloned());
        Origins { candidates, at: 0, tries_left }
    }

    /// The next one to try; none when all tries are used up.
    pub(super) fn next(&mut self) -> Option<Arc<OriginState>> {
        self.tries_left = self.tries_left.checked_sub(1)?;
        let origin = self.candidates.get(self.at % self.candidates.len().max(1))?;
        self.at += 1;
        Some(Arc::clone(origin))
    }

    /// Whether there is a try left.
    pub(super) fn may_try(&self) -> bool {
        self.tries_left > 0
    }

    /// Whether there is a try left at one that was not asked yet.
    pub(super) fn has_other(&self) -> bool {
        self.may_try() && self.at < self.candidates.len()
    }

    /// One to ask beside the one that was given last, which asks for ranges as that one does.
    pub(super) fn beside(&mut self, ranges: bool) -> Option<Arc<OriginState>> {
        let other = self.candidates.get(self.at).filter(|other| self.may_try() && other.range == ranges)?;
        let other = Arc::clone(other);
        self.at += 1;
        self.tries_left -= 1;
        Some(other)
    }

    /// The same one once more, without costing a try.
    pub(super) fn again(&mut self) {
        self.at -= 1;
        self.tries_left += 1;
    }
}

/// Bytes on their way from one origin; its figures are kept when it is dropped.
pub(super) struct Source {
    pub(super) body: Body,
    pub(super) meter: Meter,
}

/// What is left of a body is read to its end when it is no more than this: that costs less than a new connection, and what
/// the origin has sent anyway is counted.
const LEFTOVER_MAX: u64 = 256 << 10;

impl Source {
    /// Done with it, whether or not there is more.
    pub(super) async fn finish(mut self) {
        if let Some(left) = self.body.left().filter(|&left| left > 0 && left <= LEFTOVER_MAX)
            && let Ok(read) = self.body.skip(left).await
        {
            self.meter.body(read);
        }
        self.body.finish();
    }
}

/// Counts one exchange with an origin.
pub(super) struct Meter {
    store: Rc<Store>,
    channel: Arc<Channel>,
    origin: Arc<OriginState>,
    stats: Arc<OriginStats>,
    usage: Usage,
    _fetch: Option<ParentFetch>,
}

impl Meter {
    pub(super) fn start(store: &Rc<Store>, channel: &Arc<Channel>, origin: &Arc<OriginState>) -> Meter {
        let stats = store.stats.origin(&channel.id, &origin.id);
        stats.attempt();
        let usage = Usage { requests: 1, ..Usage::default() };
        Meter {
            store: Rc::clone(store),
            channel: Arc::clone(channel),
            origin: Arc::clone(origin),
            stats,
            usage,
            _fetch: origin.parent.as_ref().map(|parent| parent.begin()),
        }
    }

    /// Who was asked.
    pub(super) fn origin(&self) -> &OriginState {
        &self.origin
    }

    pub(super) fn head(&mut self, head: &OriginHead) {
        self.usage.wire_bytes += head.head_bytes as u64;
        self.stats.received(head.head_bytes as u64);
    }

    pub(super) fn body(&mut self, bytes: u64) {
        self.usage.body_bytes += bytes;
        self.usage.wire_bytes += bytes;
        self.stats.received(bytes);
        self.settle();
    }

    /// Into the ledger, so that a long body is not counted at its end only.
    fn settle(&mut self) {
        let flow = Flow {
            tenant: &self.channel.tenant,
            channel: &self.channel.id,
            kind: Kind::Upstream,
            origin: &self.origin.id,
        };
        self.store.ledger.borrow_mut().record(flow, "", std::mem::take(&mut self.usage));
    }

    pub(super) fn succeeded(&self) {
        self.health(HealthEvent::Success);
    }

    fn health(&self, event: HealthEvent) {
        if let Some(up) = self.origin.health.handle(event, self.store.clock.now_ms()) {
            tracing::info!(channel = %self.channel.id, origin = %self.origin.id, up, "origin changed its state");
        }
    }

    pub(super) fn failed(&self, error: &UpstreamError) {
        self.stats.error(match error {
            UpstreamError::Resolve { .. } | UpstreamError::Connect { .. } => Kept::Connect,
            UpstreamError::Tls { .. } => Kept::Tls,
            UpstreamError::Timeout { .. } => Kept::Timeout,
            UpstreamError::Status(_) | UpstreamError::Redirects(_) => Kept::Status,
            UpstreamError::Truncated { .. } => Kept::Truncated,
            UpstreamError::OtherVersion => Kept::Validator,
            UpstreamError::BadResponse(_) | UpstreamError::WrongRange { .. } => Kept::BadHead,
            UpstreamError::Io(_) => Kept::Io,
            UpstreamError::NoMemory | UpstreamError::Abandoned | UpstreamError::NoOrigin | UpstreamError::Crowded => {
                return;
            }
        });
        if error.blames_origin() {
            self.health(HealthEvent::Failure);
        }
        tracing::debug!(channel = %self.channel.id, origin = %self.origin.id, %error, "origin failed");
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.usage != Usage::default() {
            self.settle();
        }
    }
}
