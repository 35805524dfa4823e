//! One version of an object: what its bytes are, not the bytes themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use shoal_http::caching::Staleness;

use crate::upstream::Asked;
use crate::upstream::asked::selects;
use crate::upstream::head::Validators;

/// `total` of a version whose end has not been seen yet.
const UNKNOWN: u64 = u64::MAX;

/// Everything a response says about an object besides its bytes. Immutable but for what is atomic; shared by every shard.
///
/// What each hit reads comes first, in two lines of the processor's cache with the reference counts before it.
#[repr(C)]
pub struct Version {
    fresh_until_ms: AtomicU64,
    /// The request headers it was chosen by, as [`crate::upstream::asked::selecting`] writes them; empty: by none.
    pub selecting: Box<[u8]>,
    total: Total,
    /// Status the origin answered with: 200 for 206 as well.
    pub status: u16,
    /// Only for the request that fetched it: private, no-store.
    pub exclusive: bool,
    retired: AtomicBool,
    date_s: AtomicU64,
    born_ms: AtomicU64,
    /// End-to-end header lines from the origin, each with its CRLF; without those of `version_lines`.
    pub relay: Box<[u8]>,
    /// ETag and Last-Modified, as lines.
    pub version_lines: Box<[u8]>,
    /// Cache-Control as the origin sent it.
    pub cache_control: Option<Box<str>>,
    /// Expires as the origin sent it.
    pub expires: Option<Box<str>>,
    /// Content-Type, when the origin sent one.
    pub content_type: Option<Box<str>>,
    /// What tells this version from another one.
    pub validators: Validators,
    /// Its place in the owner's table.
    pub slot: VersionSlot,
    /// How long it may be used when it is not fresh any more.
    pub stale: Staleness,
    /// What it can be purged by besides its name, with spaces between.
    pub tags: Box<str>,
    hold_stale_until_ms: AtomicU64,
    slow_holds: AtomicUsize,
}

/// Bytes of the whole.
enum Total {
    /// Of a version that began with it.
    Here(AtomicU64),
    /// Of one that did not: shared with the versions that have other header fields, for the same bytes.
    Shared(Arc<AtomicU64>),
}

/// Where the owner keeps a version; the generation tells it from a later one in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VersionSlot {
    /// Place in the table.
    pub index: u32,
    /// Use of that place.
    pub generation: u32,
}

/// What a version is made of. Blocks on disk carry it in this form: a change of it needs another
/// [`crate::disk::META_FORMAT`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionParts {
    /// See [`Version::status`].
    pub status: u16,
    /// Length of the whole, when known.
    pub total: Option<u64>,
    /// See [`Version::validators`].
    pub validators: Validators,
    /// See [`Version::relay`].
    pub relay: Box<[u8]>,
    /// See [`Version::version_lines`].
    pub version_lines: Box<[u8]>,
    /// See [`Version::content_type`].
    pub content_type: Option<Box<str>>,
    /// See [`Version::cache_control`].
    pub cache_control: Option<Box<str>>,
    /// Shard clock at which the response was received, less the age it had then (RFC 9111 section 4.2.3).
    pub born_ms: u64,
    /// Its Date, in Unix seconds.
    pub date_s: u64,
    /// Shard clock until which it needs no validation.
    pub fresh_until_ms: u64,
    /// See [`Version::exclusive`].
    pub exclusive: bool,
    /// See [`Version::expires`].
    pub expires: Option<Box<str>>,
    /// See [`Version::selecting`].
    pub selecting: Box<[u8]>,
    /// See [`Version::stale`].
    #[serde(with = "StalenessOnDisk")]
    pub stale: Staleness,
    /// See [`Version::tags`].
    pub tags: Box<str>,
}

/// [`Staleness`] for serde.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Staleness")]
struct StalenessOnDisk {
    while_revalidate_ms: u64,
    if_error_ms: Option<u64>,
}

impl Total {
    fn cell(&self) -> &AtomicU64 {
        match self {
            Total::Here(total) => total,
            Total::Shared(total) => total,
        }
    }
}

impl Version {
    /// The version that lives in `slot`.
    pub fn new(slot: VersionSlot, parts: VersionParts) -> Version {
        let total = match parts.total {
            Some(total) => Total::Here(AtomicU64::new(total)),
            None => Total::Shared(Arc::new(AtomicU64::new(UNKNOWN))),
        };
        Version::with_total(slot, parts, total)
    }

    /// The same bytes with other header fields, after an origin confirmed them (RFC 9111 section 4.3.4).
    pub fn confirmed(&self, parts: VersionParts) -> Version {
        let total = match &self.total {
            Total::Here(total) => Total::Here(AtomicU64::new(total.load(Ordering::Acquire))),
            Total::Shared(total) => Total::Shared(Arc::clone(total)),
        };
        Version::with_total(self.slot, parts, total)
    }

    fn with_total(slot: VersionSlot, parts: VersionParts, total: Total) -> Version {
        Version {
            slot,
            status: parts.status,
            validators: parts.validators,
            relay: parts.relay,
            version_lines: parts.version_lines,
            content_type: parts.content_type,
            cache_control: parts.cache_control,
            exclusive: parts.exclusive,
            expires: parts.expires,
            selecting: parts.selecting,
            stale: parts.stale,
            tags: parts.tags,
            hold_stale_until_ms: AtomicU64::new(0),
            total,
            date_s: AtomicU64::new(parts.date_s),
            born_ms: AtomicU64::new(parts.born_ms),
            fresh_until_ms: AtomicU64::new(parts.fresh_until_ms),
            retired: AtomicBool::new(false),
            slow_holds: AtomicUsize::new(0),
        }
    }

    /// What it is made of, as it stands.
    pub fn parts(&self) -> VersionParts {
        VersionParts {
            status: self.status,
            total: self.total(),
            validators: self.validators.clone(),
            relay: self.relay.clone(),
            version_lines: self.version_lines.clone(),
            content_type: self.content_type.clone(),
            cache_control: self.cache_control.clone(),
            born_ms: self.born_ms.load(Ordering::Relaxed),
            date_s: self.date_s(),
            fresh_until_ms: self.fresh_until_ms(),
            exclusive: self.exclusive,
            expires: self.expires.clone(),
            selecting: self.selecting.clone(),
            tags: self.tags.clone(),
            stale: self.stale,
        }
    }

    /// Bytes of the whole object; unknown while a body without a length still arrives.
    pub fn total(&self) -> Option<u64> {
        match self.total.cell().load(Ordering::Acquire) {
            UNKNOWN => None,
            total => Some(total),
        }
    }

    /// The end of the body was seen.
    pub fn set_total(&self, total: u64) {
        self.total.cell().store(total, Ordering::Release);
    }

    /// Whether it may be served without asking the origin.
    pub fn is_fresh(&self, now_ms: u64) -> bool {
        now_ms < self.fresh_until_ms.load(Ordering::Relaxed)
    }

    /// Shard clock until which it is fresh.
    pub fn fresh_until_ms(&self) -> u64 {
        self.fresh_until_ms.load(Ordering::Relaxed)
    }

    /// An origin has confirmed it.
    pub fn refresh(&self, date_s: u64, born_ms: u64, fresh_until_ms: u64) {
        self.date_s.store(date_s, Ordering::Relaxed);
        self.born_ms.store(born_ms, Ordering::Relaxed);
        self.fresh_until_ms.store(fresh_until_ms, Ordering::Relaxed);
    }

    /// Whether it answers this request as well as the one it was fetched for.
    pub fn answers(&self, asked: Option<&Asked>) -> bool {
        selects(&self.selecting, asked)
    }

    /// Whether it may be served while a newer one is asked for (RFC 5861 section 3).
    pub fn may_revalidate_later(&self, now_ms: u64) -> bool {
        now_ms < self.fresh_until_ms().saturating_add(self.stale.while_revalidate_ms) && !self.is_retired()
    }

    /// Whether it may be served while its origins fail (RFC 5861 section 4, RFC 9111 section 4.2.4); `default_ms` of staleness is
    /// allowed where the origin does not say.
    pub fn may_bridge_errors(&self, now_ms: u64, default_ms: u64) -> bool {
        now_ms < self.fresh_until_ms().saturating_add(self.stale.if_error_ms.unwrap_or(default_ms))
    }

    /// Its origins fail: it is served stale until then, without asking them again.
    pub fn hold_stale(&self, until_ms: u64) {
        self.hold_stale_until_ms.store(until_ms, Ordering::Relaxed);
    }

    /// See [`Version::hold_stale`].
    pub fn is_held_stale(&self, now_ms: u64) -> bool {
        now_ms < self.hold_stale_until_ms.load(Ordering::Relaxed)
    }

    /// The origin's Date, in Unix seconds.
    pub fn date_s(&self) -> u64 {
        self.date_s.load(Ordering::Relaxed)
    }

    /// Seconds since the origin made or confirmed the response (the Age header).
    pub fn age_s(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.born_ms.load(Ordering::Relaxed)) / 1000
    }

    /// No new request may be given this version: it was purged, replaced, or turned out broken.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// See [`Version::retire`].
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// So many of its references belong to readers who take next to nothing, and keep nothing from being evicted.
    pub fn add_slow_holds(&self, holds: usize) {
        self.slow_holds.fetch_add(holds, Ordering::Relaxed);
    }

    /// They do not any more.
    pub fn remove_slow_holds(&self, holds: usize) {
        self.slow_holds.fetch_sub(holds, Ordering::Relaxed);
    }

    /// See [`Version::add_slow_holds`].
    pub fn slow_holds(&self) -> usize {
        self.slow_holds.load(Ordering::Relaxed)
    }

    /// Whether bytes of it may come from more than one response.
    pub fn is_combinable(&self) -> bool {
        self.status == 200 && self.validators.is_strong() && self.total().is_some()
    }
}
