//! For how long a version may be used, by its origin's words and its channel's rules.

use shoal_http::cache_control::CacheControl;
use shoal_http::caching::{Barred, Defaults, Facts, Staleness, field, is_heuristically_cacheable, parse_targeted};

use super::version::VersionParts;
use crate::routes::Channel;

/// The words of a response, or of the stored one that it confirms, that its use depends on.
pub(super) struct Words<'a> {
    /// Status of what is stored.
    pub(super) status: u16,
    /// Header lines sent on; CDN-Cache-Control is among them.
    pub(super) relay: &'a [u8],
    /// Cache-Control.
    pub(super) cache_control: Option<&'a str>,
    /// Expires.
    pub(super) expires: Option<&'a str>,
    /// Last-Modified in Unix seconds.
    pub(super) last_modified: Option<u64>,
    /// Date in Unix seconds.
    pub(super) date_s: Option<u64>,
    /// Seconds it had when it arrived.
    pub(super) age_s: u64,
}

/// What follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// By the shard's clock, when the origin made or confirmed it.
    pub(super) born_ms: u64,
    /// Its Date, in Unix seconds.
    pub(super) date_s: u64,
    /// By the shard's clock, until when it needs no validation.
    pub(super) fresh_until_ms: u64,
    /// How long it may be used beyond that.
    pub(super) stale: Staleness,
    /// Why it must not be kept for others, if it must not.
    pub(super) barred: Option<Barred>,
    /// It is meant for everybody, whatever else it says of the request.
    pub(super) public: bool,
}

impl Words<'_> {
    /// The terms on which it is kept, received at `now_ms`. `authorized`: the origin saw an Authorization header.
    pub(super) fn terms(&self, channel: &Channel, path: &str, authorized: bool, now_ms: u64) -> Terms {
        let policy = &channel.cache;
        let targeted = parse_targeted(field(self.relay, "cdn-cache-control"));
        let expires = self.expires.filter(|_| targeted.is_none()).map(str::as_bytes);
        let control =
            targeted.unwrap_or_else(|| CacheControl::parse(self.cache_control.iter().map(|text| text.as_bytes())));
        let defaults = match self.status {
            // A redirect is kept only if the origin says so, or by its Last-Modified.
            300..=399 => Defaults { lifetime_ms: 0, heuristic_max_ms: policy.heuristic_ttl_max_ms.into() },
            400..=599 => Defaults { lifetime_ms: policy.negative_ttl_ms.into(), heuristic_max_ms: 0 },
            _ if is_playlist(path) => Defaults { lifetime_ms: policy.playlist_ttl_ms.into(), heuristic_max_ms: 0 },
            _ => Defaults {
                lifetime_ms: policy.default_ttl_ms.into(),
                heuristic_max_ms: policy.heuristic_ttl_max_ms.into(),
            },
        };
        let date_s = self.date_s.unwrap_or(now_ms / 1000);
        let facts =
            Facts { status: self.status, control: &control, expires, date: date_s, last_modified: self.last_modified };
        let born_ms = now_ms.saturating_sub(self.age_s.saturating_mul(1000));
        // Without a word of the origin its age says nothing about how long the channel wants it kept from now on.
        let explicit = control.s_maxage.is_some() || control.max_age.is_some() || expires.is_some();
        let from_ms = if explicit { born_ms } else { now_ms };
        let lifetime_ms = facts.lifetime_ms(&defaults);
        Terms {
            born_ms,
            date_s,
            // What may not be kept at all is not served stale either.
            fresh_until_ms: if explicit || lifetime_ms > 0 { from_ms.saturating_add(lifetime_ms) } else { 0 },
            stale: facts.staleness(),
            barred: facts.barred(authorized),
            public: control.public,
        }
    }
}

/// Which word of the origin says how long the response stays fresh, or which key of the channel where the origin does not.
pub(super) fn fresh_by(parts: &VersionParts, channel: &Channel, path: &str) -> String {
    let policy = &channel.cache;
    let targeted = parse_targeted(field(&parts.relay, "cdn-cache-control"));
    let name = if targeted.is_some() { "CDN-Cache-Control" } else { "Cache-Control" };
    let expires = targeted.is_none() && parts.expires.is_some();
    let said = parts.cache_control.iter().map(|text| text.as_bytes());
    let control = targeted.unwrap_or_else(|| CacheControl::parse(said));
    if control.no_cache {
        return format!("{name}: no-cache");
    }
    if let Some(seconds) = control.s_maxage {
        return format!("{name}: s-maxage={seconds}");
    }
    if let Some(seconds) = control.max_age {
        return format!("{name}: max-age={seconds}");
    }
    if expires {
        return "Expires".to_owned();
    }
    if !is_heuristically_cacheable(parts.status) && !control.public {
        return format!("status {}, which is only kept when the origin says so", parts.status);
    }
    let modified = policy.heuristic_ttl_max_ms > 0 && parts.validators.last_modified.is_some();
    match parts.status {
        300..=399 => "Last-Modified (cache.heuristic_ttl_max_ms)".to_owned(),
        400..=599 => format!("cache.negative_ttl_ms = {}", policy.negative_ttl_ms),
        _ if is_playlist(path) => format!("cache.playlist_ttl_ms = {}", policy.playlist_ttl_ms),
        _ if modified => "Last-Modified (cache.heuristic_ttl_max_ms), or cache.default_ttl_ms if longer".to_owned(),
        _ => format!("cache.default_ttl_ms = {}", policy.default_ttl_ms),
    }
}

/// Whether the path names an HLS playlist or a DASH manifest.
pub fn is_playlist(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let extension = path.rsplit('.').next().unwrap_or_default();
    ["m3u8", "m3u", "mpd"].iter().any(|playlist| extension.eq_ignore_ascii_case(playlist))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW_MS: u64 = 1_000_000_000;

    fn words() -> Words<'static> {
        Words {
            status: 200,
            relay: b"",
            cache_control: None,
            expires: None,
            last_modified: None,
            date_s: Some(999_990),
            age_s: 10,
        }
    }

    fn terms(words: Words<'_>, path: &str) -> Terms {
        let cache = json!({
            "default_ttl_ms": 5000, "playlist_ttl_ms": 1000, "negative_ttl_ms": 300, "heuristic_ttl_max_ms": 60_000,
        });
        let channel =
            crate::testing::channel(json!({ "origins": [{ "id": "o", "url": "http://o.test/" }], "cache": cache }));
        words.terms(&channel, path, false, NOW_MS)
    }

    #[test]
    fn explicit_lifetimes_count_from_birth_and_the_channels_from_now() {
        let explicit = terms(Words { cache_control: Some("max-age=60"), ..words() }, "a.ts");
        assert_eq!((explicit.born_ms, explicit.date_s), (NOW_MS - 10_000, 999_990));
        assert_eq!(explicit.fresh_until_ms, NOW_MS + 50_000);
        let ttl_ms = |words, path| terms(words, path).fresh_until_ms.saturating_sub(NOW_MS);
        assert_eq!(ttl_ms(words(), "a.ts"), 5_000);
        assert_eq!(ttl_ms(words(), "a.m3u8?x=1"), 1_000);
        assert_eq!(ttl_ms(Words { status: 404, ..words() }, "a.ts"), 300);
        assert_eq!(ttl_ms(Words { status: 302, ..words() }, "a.ts"), 0);
        assert_eq!(ttl_ms(Words { last_modified: Some(900_000), ..words() }, "a.ts"), 60_000);
        assert_eq!(ttl_ms(Words { last_modified: Some(900_000), ..words() }, "a.mpd"), 1_000);
        assert_eq!(ttl_ms(Words { expires: Some("Mon, 12 Jan 1970 13:46:40 GMT"), ..words() }, "a.ts"), 0);
        for (status, cache_control, until_ms) in [
            (200, "no-cache", 0),
            (403, "", 0),
            (403, "max-age=0", NOW_MS - 10_000),
            (200, "max-age=9, no-cache", NOW_MS - 10_000),
        ] {
            let said = Words { status, cache_control: Some(cache_control), ..words() };
            assert_eq!(terms(said, "a.ts").fresh_until_ms, until_ms, "{status} {cache_control}");
        }
        assert_eq!(terms(Words { date_s: None, ..words() }, "a.ts").date_s, NOW_MS / 1000);
    }

    #[test]
    fn what_is_said_to_caches_of_our_kind_counts_alone() {
        let relay = b"X: 1\r\nCDN-Cache-Control: max-age=60\r\n";
        let said = Words { relay, cache_control: Some("no-store"), expires: Some("0"), ..words() };
        let terms = terms(said, "a.ts");
        assert_eq!((terms.fresh_until_ms, terms.barred), (NOW_MS + 50_000, None));
    }

    #[test]
    fn what_decided_is_named() {
        let cache = json!({ "default_ttl_ms": 5000, "negative_ttl_ms": 300, "heuristic_ttl_max_ms": 60_000 });
        let channel =
            crate::testing::channel(json!({ "origins": [{ "id": "o", "url": "http://o.test/" }], "cache": cache }));
        let parts = |status, cache_control: &str, relay: &[u8]| VersionParts {
            status,
            total: None,
            validators: crate::upstream::Validators::default(),
            relay: relay.into(),
            version_lines: Box::default(),
            content_type: None,
            cache_control: (!cache_control.is_empty()).then(|| cache_control.into()),
            born_ms: 0,
            date_s: 0,
            fresh_until_ms: 0,
            exclusive: false,
            expires: None,
            selecting: Box::default(),
            stale: Staleness::default(),
            tags: Box::default(),
        };
        let expires = VersionParts { expires: Some("0".into()), ..parts(200, "public", b"") };
        let mut modified = parts(200, "", b"");
        modified.validators.last_modified = Some(1);
        for (parts, path, by) in [
            (parts(200, "max-age=9, s-maxage=60", b""), "a.ts", "Cache-Control: s-maxage=60"),
            (parts(200, "max-age=9", b""), "a.ts", "Cache-Control: max-age=9"),
            (parts(200, "max-age=9, no-cache", b""), "a.ts", "Cache-Control: no-cache"),
            (parts(200, "no-cache", b"CDN-Cache-Control: max-age=7\r\n"), "a.ts", "CDN-Cache-Control: max-age=7"),
            (expires, "a.ts", "Expires"),
            (parts(200, "", b""), "a.ts", "cache.default_ttl_ms = 5000"),
            (parts(200, "", b""), "a.m3u8", "cache.playlist_ttl_ms = 1000"),
            (parts(404, "", b""), "a.ts", "cache.negative_ttl_ms = 300"),
            (parts(403, "", b""), "a.ts", "status 403, which is only kept when the origin says so"),
            (modified, "a.ts", "Last-Modified (cache.heuristic_ttl_max_ms), or cache.default_ttl_ms if longer"),
        ] {
            assert_eq!(fresh_by(&parts, &channel, path), by);
        }
    }
}
