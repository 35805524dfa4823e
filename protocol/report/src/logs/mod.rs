//! Access logs of CDNs and web servers: a line becomes a request that was answered, with its time in UTC.
//!
//! | Format | From |
//! |---|---|
//! | [`Format::Nginx`] | nginx, `ngx_http_log_module`: `combined`, or any `log_format` of usual variables |
//! | [`Format::W3c`] | W3C working draft WD-logfile-960323, with `#Fields`; CloudFront, IIS, Azure CDN |
//! | [`Format::Tencent`] | Tencent Cloud CDN, offline logs (document 228/6316 of its help) |
//! | [`Format::Aliyun`] | Alibaba Cloud CDN, offline logs (`cdn/user-guide/download-logs` of its help) |
//!
//! Reading is line by line and takes time in proportion to the bytes; a line that is none is counted, and the first few are kept
//! to be shown. Nothing is unescaped: paths come as the CDN wrote them.

mod aliyun;
mod line;
mod nginx;
mod reader;
mod tencent;
mod time;
mod w3c;

use std::net::IpAddr;

pub use nginx::{FormatError, LogFormat};
pub use reader::{BadLine, Reader, Totals};
pub use time::{Zone, ZoneError, hour};

/// Longest line; what is longer is bad.
pub const MAX_LINE: usize = 32 << 10;
/// Bad lines that are kept to be shown.
pub const MAX_BAD: usize = 5;
/// Bytes of a bad line that are kept.
pub const MAX_QUOTED: usize = 200;

/// A request, as a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Unix seconds.
    pub time: u64,
    /// Host that was asked, as written, perhaps with a port; none where the format has none.
    pub host: Option<&'a str>,
    /// Path, without the query.
    pub path: &'a str,
    /// Query, without its `?`.
    pub query: Option<&'a str>,
    /// Status of the answer.
    pub status: u16,
    /// Bytes of the answer; what they are of is [`Measure`].
    pub bytes: u64,
    /// Who asked.
    pub client: Option<IpAddr>,
    /// Whether the answer came from the CDN's cache, where it says.
    pub hit: Option<bool>,
}

/// What a log's bytes are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Measure {
    /// Bodies alone.
    Body,
    /// Heads and bodies.
    Wire,
}

/// The form of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// nginx, by a compiled `log_format`.
    Nginx(LogFormat),
    /// W3C extended, whose fields the log itself names.
    W3c,
    /// Tencent Cloud CDN.
    Tencent,
    /// Alibaba Cloud CDN.
    Aliyun,
}

impl Format {
    /// What its bytes are of. Tencent says that the fifth field is of file and head together; Alibaba's `responsesize` is the size
    /// of the answer, beside which its real-time logs have `body_bytes_sent`; W3C's `sc-bytes` are bytes transferred.
    #[must_use]
    pub fn measure(&self) -> Measure {
        match self {
            Self::Nginx(format) => format.measure(),
            Self::W3c | Self::Tencent | Self::Aliyun => Measure::Wire,
        }
    }

    /// The zone of times that name none.
    #[must_use]
    pub fn zone(&self) -> Zone {
        match self {
            Self::Tencent => Zone::CHINA,
            Self::Nginx(_) | Self::W3c | Self::Aliyun => Zone::UTC,
        }
    }
}

/// Why a line is none.
pub(crate) type Reason = &'static str;

/// A target or URL in its parts: host where it has one, path and query.
pub(crate) fn target(text: &str) -> Option<(Option<&str>, &str, Option<&str>)> {
    let after_scheme = text.split_once("://").filter(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    let (host, rest) = match after_scheme {
        None => (None, text),
        Some((_, rest)) => {
            let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (Some(host).filter(|host| !host.is_empty()), path)
        }
    };
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let path = if path.is_empty() && host.is_some() { "/" } else { path };
    path.starts_with('/').then_some((host, path, query))
}

/// The text of a field that may be `-` for nothing.
pub(crate) fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !matches!(*text, "" | "-"))
}

/// Whether an answer came from a cache, by the words that CDNs have for it.
pub(crate) fn hit(text: &str) -> Option<bool> {
    let word = text.trim_start_matches("TCP_").trim_start_matches("tcp_");
    let starts = |what: &str| word.get(..what.len()).is_some_and(|start| start.eq_ignore_ascii_case(what));
    if ["hit", "refreshhit", "mem_hit", "revalidated", "stale", "updating", "originshieldhit"].iter().any(|w| starts(w))
    {
        Some(true)
    } else if ["miss", "bypass", "expired", "error", "capacityexceeded", "limitexceeded"].iter().any(|w| starts(w)) {
        Some(false)
    } else {
        None
    }
}

pub(crate) fn number(text: &str, what: Reason) -> Result<u64, Reason> {
    match text {
        // Apache's and CloudFront's way to write none.
        "-" => Ok(0),
        _ if text.len() <= 15 && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| what)
        }
        _ => Err(what),
    }
}

pub(crate) fn status(text: &str) -> Result<u16, Reason> {
    // nginx logs 000 for a client that went before there was any answer.
    let ok = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| ok).ok_or("its status is no number of three digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_in_their_parts() {
        for (text, wanted) in [
            ("/a/b?c=d?e", Some((None, "/a/b", Some("c=d?e")))),
            ("http://www.aliyun.com/index.html", Some((Some("www.aliyun.com"), "/index.html", None))),
            ("https://h:8443", Some((Some("h:8443"), "/", None))),
            ("https://h?x", Some((Some("h"), "/", Some("x")))),
            ("/a?u=http://h/", Some((None, "/a", Some("u=http://h/")))),
            ("*", None),
            ("", None),
            ("http:///a", Some((None, "/a", None))),
        ] {
            assert_eq!(target(text), wanted, "{text}");
        }
    }

    #[test]
    fn words_for_hits() {
        for word in ["HIT", "hit", "TCP_HIT", "TCP_MEM_HIT", "RefreshHit", "Hit"] {
            assert_eq!(hit(word), Some(true), "{word}");
        }
        for word in ["MISS", "miss", "TCP_MISS", "Error", "BYPASS"] {
            assert_eq!(hit(word), Some(false), "{word}");
        }
        assert_eq!((hit("-"), hit("Redirect")), (None, None));
    }

    #[test]
    fn numbers_are_digits() {
        assert_eq!(
            (number("0", "x"), number("-", "x"), number("999999999999999", "x")),
            (Ok(0), Ok(0), Ok(999_999_999_999_999))
        );
        for bad in ["", "+1", "-1", "1.5", "9999999999999999", " 1"] {
            assert_eq!(number(bad, "x"), Err("x"), "{bad}");
        }
        assert_eq!((status("206"), status("000")), (Ok(206), Ok(0)));
        for bad in ["20", "2000", "+20", "2x0"] {
            assert!(status(bad).is_err(), "{bad}");
        }
    }
}
