//! What a shared cache may do with a response: keep it, for how long, for whom (RFC 9111).
//!
//! Decisions only: whoever asks brings the clock, the header fields and the policy.

mod fields;
mod tags;
mod targeted;
mod vary;

use crate::cache_control::{CacheControl, freshness_lifetime};

pub use fields::{field, merge_lines};
pub use tags::{has_tag, is_tag, tags};
pub use targeted::parse_targeted;
pub use vary::{Vary, normal_value};

/// The facts of a response that its storage and freshness depend on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Status of what is to be stored; that of the stored response when a 304 confirms it.
    pub status: u16,
    /// The directives that count: those of CDN-Cache-Control, where there are any (RFC 9213), else those of Cache-Control.
    pub control: &'a CacheControl,
    /// Expires, unless CDN-Cache-Control is there. More than one line is an invalid one: give an empty value.
    pub expires: Option<&'a [u8]>,
    /// Date, or the time of receipt without one; Unix seconds.
    pub date: u64,
    /// Last-Modified in Unix seconds.
    pub last_modified: Option<u64>,
}

/// What a cache does where the response leaves it the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// Milliseconds of freshness without any word of the origin.
    pub lifetime_ms: u64,
    /// A tenth of the time since Last-Modified, but at most so many milliseconds; 0: not derived from that.
    pub heuristic_max_ms: u64,
}

/// Why a response must not be kept by a shared cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// `no-store`.
    NoStore,
    /// `private`.
    Private,
    /// `must-understand` with a status whose meaning for caches is not known here (RFC 9111 section 5.2.2.3).
    NotUnderstood,
    /// The request was authorized, and nothing in the response allows to share the answer (RFC 9111 section 3.5).
    Authorized,
}

impl Facts<'_> {
    /// Whether a shared cache must not store the response (RFC 9111 section 3), `authorized` telling of an Authorization
    /// header in the request.
    #[must_use]
    pub fn barred(&self, authorized: bool) -> Option<Barred> {
        let control = self.control;
        if control.must_understand && !is_understood(self.status) {
            return Some(Barred::NotUnderstood);
        }
        // A cache that knows must-understand and the status ignores the no-store that is there for those that do not.
        if control.no_store && !control.must_understand {
            return Some(Barred::NoStore);
        }
        if control.private {
            return Some(Barred::Private);
        }
        let shareable = control.public || control.must_revalidate || control.s_maxage.is_some();
        (authorized && !shareable).then_some(Barred::Authorized)
    }

    /// Milliseconds from its birth that the response is fresh (RFC 9111 section 4.2.1).
    #[must_use]
    pub fn lifetime_ms(&self, defaults: &Defaults) -> u64 {
        if self.control.no_cache {
            return 0;
        }
        if let Some(seconds) = freshness_lifetime(self.control, self.expires, self.date) {
            return seconds.saturating_mul(1000);
        }
        if !is_heuristically_cacheable(self.status) && !self.control.public {
            return 0;
        }
        let since_change = self.last_modified.map_or(0, |modified| self.date.saturating_sub(modified));
        let heuristic = (since_change.saturating_mul(1000) / 10).min(defaults.heuristic_max_ms);
        defaults.lifetime_ms.max(heuristic)
    }

    /// How far beyond its freshness the response may be used.
    #[must_use]
    pub fn staleness(&self) -> Staleness {
        let control = self.control;
        let forbidden = control.must_revalidate || control.proxy_revalidate || control.no_cache;
        // s-maxage implies proxy-revalidate, but an origin that sends it with one of the directives of RFC 5861 means those.
        let implied = control.s_maxage.is_some();
        let allowed_ms = |seconds: Option<u64>| match seconds {
            _ if forbidden => Some(0),
            Some(seconds) => Some(seconds.saturating_mul(1000)),
            None if implied => Some(0),
            None => None,
        };
        Staleness {
            while_revalidate_ms: allowed_ms(control.stale_while_revalidate).unwrap_or(0),
            if_error_ms: allowed_ms(control.stale_if_error),
        }
    }
}

/// Times beyond the end of its freshness at which a response may still be used (RFC 5861, RFC 9111 section 4.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Staleness {
    /// While a newer one is asked for.
    pub while_revalidate_ms: u64,
    /// While the origins fail; `None`: the response does not say, so the cache decides.
    pub if_error_ms: Option<u64>,
}

/// Statuses that may be kept without a word on how long (RFC 9110 section 15.1).
#[must_use]
pub fn is_heuristically_cacheable(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Statuses whose requirements on caches are known and kept here: all final ones that RFC 9110 defines.
fn is_understood(status: u16) -> bool {
    matches!(status, 200..=206 | 300..=305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

#[cfg(test)]
mod tests;
