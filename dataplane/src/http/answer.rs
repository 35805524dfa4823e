//! What to send of a version, and the head that says so.

use std::sync::Arc;

use shoal_http::conditional::{self, Outcome};
use shoal_http::content_range::ContentRange;
use shoal_http::headers::{Known, Version as HttpVersion};
use shoal_http::mime;
use shoal_http::multipart::Multipart;
use shoal_http::range::{ByteRange, RangeSet, RangeSpec, Resolved};
use shoal_http::request::{Method, RequestHead};
use shoal_http::writer::{HeadWriter, push_number};

use super::refusal::Refusal;
use crate::routes::Channel;
use crate::slices::flight::{Forwarded, Why};
use crate::slices::store::Want;
use crate::slices::version::Version;
use crate::telemetry::stats::CacheResult;

/// Separates the parts of a multipart answer. Parts are announced with their lengths' ranges, so a client need not search
/// for it; 128 random bits, made once, keep it out of any body.
const BOUNDARY: &str = "shoal-5f0c9a1be27d4e3388c1a6d0947be215";

/// What of a version is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// No body: 304, or HEAD.
    Nothing,
    /// All of it, to an end that may not be known yet.
    Whole,
    /// One range.
    One(ByteRange),
    /// Several ranges, as multipart/byteranges.
    Many(Vec<ByteRange>),
}

/// How the end of the body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Content-Length.
    Length,
    /// Chunked.
    Chunked,
    /// By closing.
    Close,
}

/// An answer decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Status.
    pub status: u16,
    /// Body.
    pub selection: Selection,
    /// Its end.
    pub framing: Framing,
    /// Length of the whole object. Asked of the version once: the owner may learn it at any moment.
    pub total: Option<u64>,
}

/// The Range header of a GET, if it has one that counts.
pub fn asked_ranges(head: &RequestHead<'_>, most: usize) -> Result<Option<RangeSet>, Refusal> {
    let value = head.headers.single(Known::Range).filter(|_| head.method == Method::Get);
    let Some(value) = value else { return Ok(None) };
    RangeSet::parse(value, most).map_err(|error| Refusal::new(416, "too_many_ranges", error.to_string()))
}

/// What a request needs of its object, before anything is known of that.
pub fn want(head: &RequestHead<'_>, ranges: Option<&RangeSet>) -> Want {
    let Some(ranges) = ranges else {
        // A HEAD needs the origin's head alone; the first block is what is fetched with it.
        let last = (head.method == Method::Head).then_some(0);
        return Want { first: 0, last, ranged: false };
    };
    let (mut first, mut last) = (u64::MAX, Some(0));
    for spec in ranges.specs() {
        let (low, high) = match spec {
            RangeSpec::Closed { first, last } => (first, Some(last)),
            RangeSpec::From { first } => (first, None),
            // Where it lies is known once the length is; the first block brings that.
            RangeSpec::Suffix { .. } => (0, Some(0)),
        };
        first = first.min(low);
        last = last.zip(high).map(|(last, high)| last.max(high));
    }
    Want { first, last, ranged: true }
}

/// As [`want`], once the length is known: for a request whose first try has told it.
pub fn resolved_want(want: Want, ranges: Option<&RangeSet>, total: Option<u64>) -> Want {
    let Some((ranges, total)) = ranges.zip(total) else { return want };
    match ranges.resolve(total) {
        Resolved::Single(range) => Want { first: range.first, last: Some(range.last), ranged: true },
        Resolved::Multiple(ranges) => {
            let first = ranges.iter().map(|range| range.first).min().unwrap_or(0);
            Want { first, last: ranges.iter().map(|range| range.last).max(), ranged: true }
        }
        Resolved::Full | Resolved::Unsatisfiable => want,
    }
}

/// Decides on the answer. `etag` replaces the version's own where the body is rewritten; then there is no other validator.
pub fn decide(
    head: &RequestHead<'_>,
    version: &Version,
    ranges: Option<&RangeSet>,
    rewritten: Option<Option<&str>>,
) -> Result<Plan, Refusal> {
    let validators = match rewritten {
        Some(etag) => conditional::Validators { etag, last_modified: None },
        None => version.validators.as_conditional(),
    };
    let is_head = head.method == Method::Head;
    let total = version.total();
    // The conditions of a request that was passed were its origin's to check.
    if version.status == 200 && matches!(head.method, Method::Get | Method::Head) {
        match conditional::evaluate(head, &validators) {
            Outcome::Proceed => {}
            Outcome::NotModified => {
                return Ok(Plan { status: 304, selection: Selection::Nothing, framing: Framing::Length, total });
            }
            Outcome::PreconditionFailed => {
                let message = "If-Match or If-Unmodified-Since does not hold for the object as it is now";
                return Err(Refusal::new(412, "precondition", message));
            }
        }
    }
    let framing = match (total, head.version) {
        (Some(_), _) => Framing::Length,
        (None, HttpVersion::Http11) => Framing::Chunked,
        (None, HttpVersion::Http10) => Framing::Close,
    };
    let whole = Plan {
        status: version.status,
        selection: if is_head { Selection::Nothing } else { Selection::Whole },
        framing,
        total,
    };
    // A range of a body whose length is not known yet cannot be checked: all of it is sent (RFC 9110 section 14.2).
    let (Some(ranges), Some(length)) = (ranges, total) else { return Ok(whole) };
    let holds = || conditional::if_range_holds(head, &version.validators.as_strong());
    if version.status != 200 || rewritten.is_some() || !holds() {
        return Ok(whole);
    }
    let selection = match ranges.resolve(length) {
        Resolved::Full => return Ok(whole),
        Resolved::Single(range) => Selection::One(range),
        Resolved::Multiple(ranges) => Selection::Many(ranges),
        Resolved::Unsatisfiable => {
            let message = format!("none of the ranges lies within the object's {length} bytes");
            return Err(Refusal::new(416, "range", message).with("Content-Range", format!("bytes */{length}")));
        }
    };
    Ok(Plan { status: 206, selection, framing: Framing::Length, total })
}

/// The multipart layout of a version.
pub fn multipart<'a>(version: &'a Version, path: &str, total: u64) -> Multipart<'a> {
    Multipart { boundary: BOUNDARY, content_type: content_type(version, path), total }
}

/// Everything that goes into an answer's head.
pub struct AnswerHead<'a> {
    /// What is sent.
    pub plan: &'a Plan,
    /// Of what.
    pub version: &'a Arc<Version>,
    /// Whose.
    pub channel: &'a Channel,
    /// Path below the channel's prefix.
    pub path: &'a str,
    /// How it was found.
    pub cache: CacheResult,
    /// What was asked of an origin for it.
    pub forwarded: Option<Forwarded>,
    /// Clock, for Age.
    pub now_ms: u64,
    /// The request's Origin.
    pub origin: Option<&'a [u8]>,
    /// Length and entity tag of a body rewritten for this viewer.
    pub rewritten: Option<(u64, Option<&'a str>)>,
    /// The connection stays open.
    pub keep_alive: bool,
    /// The request's version.
    pub http: HttpVersion,
    /// The other end is a node that keeps the object too: it is told what else that can be purged by.
    pub child: bool,
}

impl AnswerHead<'_> {
    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut lines = Vec::new();
        let mut head = HeadWriter::response(out, self.plan.status);
        head.fixed("Server", "shoal");
        head.date("Date", self.version.date_s());
        let not_modified = self.plan.status == 304;
        if !not_modified {
            self.write_content(&mut head, &mut lines);
        }
        match self.rewritten {
            None => {
                if let Some(value) = &self.version.cache_control {
                    // Checked when the origin's head was parsed.
                    let _ = head.header("Cache-Control", value.as_bytes());
                }
                head.number("Age", self.version.age_s(self.now_ms));
                if let Some(value) = &self.version.expires {
                    let _ = head.header("Expires", value.as_bytes());
                }
            }
            Some((_, etag)) => {
                let fresh_s = self.version.fresh_until_ms().saturating_sub(self.now_ms) / 1000;
                let value = match self.version.exclusive {
                    true => "private, no-store".to_owned(),
                    false => format!("private, max-age={fresh_s}"),
                };
                let _ = head.header("Cache-Control", value);
                if let Some(etag) = etag {
                    let _ = head.header("ETag", etag);
                }
            }
        }
        write_cache_status(head.lines(), self);
        head.fixed("Server-Timing", server_timing(self.cache));
        if !self.keep_alive {
            head.fixed("Connection", "close");
        } else if self.http == HttpVersion::Http10 {
            head.fixed("Connection", "keep-alive");
        }
        if self.child && !self.version.tags.is_empty() {
            // Only visible ASCII has been let in.
            let _ = head.header("Surrogate-Key", self.version.tags.as_bytes());
        }
        let out = head.lines();
        self.channel.cors.response_lines(self.origin, out);
        out.extend_from_slice(&self.version.relay);
        if self.rewritten.is_none() {
            out.extend_from_slice(&self.version.version_lines);
        }
        head.finish();
    }

    fn write_content(&self, head: &mut HeadWriter<'_>, value: &mut Vec<u8>) {
        let total = self.plan.total;
        let content_type = content_type(self.version, self.path);
        let length = match (&self.plan.selection, self.rewritten) {
            (Selection::Many(ranges), _) => {
                let layout = multipart(self.version, self.path, total.unwrap_or_default());
                layout.write_content_type(value);
                let _ = head.header("Content-Type", &*value);
                Some(layout.content_length(ranges))
            }
            (selection, rewritten) => {
                if let Some(content_type) = content_type {
                    let _ = head.header("Content-Type", content_type);
                }
                match selection {
                    Selection::One(range) => {
                        head.content_range(ContentRange::Satisfied { range: *range, total });
                        Some(range.len())
                    }
                    _ => rewritten.map(|(length, _)| length).or(total),
                }
            }
        };
        match length {
            // RFC 9110 section 8.6.
            Some(_) if self.plan.status == 204 => {}
            Some(length) => {
                head.number("Content-Length", length);
            }
            None if self.plan.framing == Framing::Chunked => {
                head.fixed("Transfer-Encoding", "chunked");
            }
            None => {}
        }
        if self.version.status == 200 && self.rewritten.is_none() {
            head.fixed("Accept-Ranges", "bytes");
        }
    }
}

/// The origin's Content-Type, unless it says nothing useful of a media file.
fn content_type<'a>(version: &'a Version, path: &str) -> Option<&'a str> {
    let theirs = version.content_type.as_deref();
    if version.status != 200 {
        return theirs;
    }
    let ours = mime::for_path(path);
    let Some(ours) = ours else { return theirs };
    match theirs {
        Some(theirs) if !is_vague(theirs) => Some(theirs),
        _ => Some(ours),
    }
}

/// Types that servers give to files they do not know.
fn is_vague(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    ["application/octet-stream", "binary/octet-stream", "text/plain", "application/x-download", ""]
        .iter()
        .any(|vague| essence.eq_ignore_ascii_case(vague))
}

/// Appends the Cache-Status line (RFC 9211).
fn write_cache_status(out: &mut Vec<u8>, answer: &AnswerHead<'_>) {
    let version = answer.version;
    let ttl = |out: &mut Vec<u8>| {
        let until_ms = version.fresh_until_ms();
        out.extend_from_slice(if until_ms > answer.now_ms { b"; ttl=" } else { b"; ttl=-" });
        push_number(out, until_ms.abs_diff(answer.now_ms) / 1000);
    };
    out.extend_from_slice(b"Cache-Status: shoal");
    match answer.cache {
        CacheResult::Hit => {
            out.extend_from_slice(b"; hit");
            ttl(out);
        }
        CacheResult::Disk => {
            out.extend_from_slice(b"; hit");
            ttl(out);
            out.extend_from_slice(b"; detail=disk");
        }
        CacheResult::Stale => {
            out.extend_from_slice(b"; hit");
            ttl(out);
            out.extend_from_slice(match version.may_revalidate_later(answer.now_ms) {
                true => b"; detail=stale-while-revalidate",
                false => b"; detail=stale-if-error",
            });
        }
        CacheResult::None => out.extend_from_slice(b"; fwd=bypass"),
        CacheResult::Miss | CacheResult::Revalidated | CacheResult::Coalesced | CacheResult::Bypass => {
            let why = answer.forwarded.map(|forwarded| forwarded.why);
            out.extend_from_slice(match why {
                // The object is known; bytes of it had to be fetched.
                None if answer.cache == CacheResult::Miss => b"; fwd=partial",
                None | Some(Why::UriMiss) => b"; fwd=uri-miss",
                Some(Why::VaryMiss) => b"; fwd=vary-miss",
                Some(Why::Stale) => b"; fwd=stale",
                Some(Why::Request) => b"; fwd=request",
                Some(Why::Method) => b"; fwd=method",
            });
            if let Some(forwarded) = answer.forwarded {
                out.extend_from_slice(b"; fwd-status=");
                push_number(out, forwarded.status.into());
            }
            if !version.exclusive {
                out.extend_from_slice(b"; stored");
                ttl(out);
            }
            if answer.cache == CacheResult::Coalesced {
                out.extend_from_slice(b"; collapsed");
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn server_timing(cache: CacheResult) -> &'static str {
    match cache {
        CacheResult::Hit => "cache;desc=hit",
        CacheResult::Disk => "cache;desc=disk",
        CacheResult::Miss => "cache;desc=miss",
        CacheResult::Stale => "cache;desc=stale",
        CacheResult::Revalidated => "cache;desc=revalidated",
        CacheResult::Coalesced => "cache;desc=coalesced",
        CacheResult::Bypass => "cache;desc=bypass",
        CacheResult::None => "cache;desc=none",
    }
}

/// An entity tag for the version as rewritten with `ticket`.
pub fn rewritten_etag(version: &Version, ticket: &str) -> Option<String> {
    let etag = version.validators.etag.as_deref()?;
    let body = etag.strip_suffix('"')?;
    let mut digits = Vec::new();
    push_number(&mut digits, shoal_packet::hash_key(0, ticket.as_bytes()));
    Some(format!("{body}-{}\"", String::from_utf8_lossy(&digits)))
}

#[cfg(test)]
mod tests;
