//! What an origin's response says, copied out of its head.

use serde::{Deserialize, Serialize};
use shoal_http::caching::{Vary, tags};
use shoal_http::content_range::ContentRange;
use shoal_http::date;
use shoal_http::entity_tag::EntityTag;
use shoal_http::response::{BodyFraming, Known, ResponseHead};

/// What tells one version of an object from another (RFC 9110 section 8.8).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Validators {
    /// ETag as sent.
    pub etag: Option<Box<str>>,
    /// Last-Modified in Unix seconds.
    pub last_modified: Option<u64>,
    /// Last-Modified is at least a second older than Date, so that it is a strong validator (section 8.8.2.2).
    pub settled: bool,
}

impl Validators {
    /// Equal validators of this kind mean equal bytes.
    pub fn is_strong(&self) -> bool {
        match &self.etag {
            Some(etag) => EntityTag::parse(etag.as_bytes()).is_some_and(|tag| !tag.weak),
            None => self.last_modified.is_some() && self.settled,
        }
    }

    /// Whether both name the same bytes, beyond doubt.
    pub fn same_bytes(&self, other: &Validators) -> bool {
        if !self.is_strong() || !other.is_strong() {
            return false;
        }
        match (&self.etag, &other.etag) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, None) => self.last_modified == other.last_modified,
            _ => false,
        }
    }

    /// Whether a 304 with these validators cannot be about a version with `other` (RFC 9111 section 4.3.4). A cache in between that
    /// has an older version than ours says 304 to our If-Modified-Since, and means its own.
    pub fn denies(&self, other: &Validators) -> bool {
        match (&self.etag, &other.etag) {
            (Some(ours), Some(theirs)) => self.is_strong() && other.is_strong() && ours != theirs,
            (None, None) => {
                let dates = self.last_modified.zip(other.last_modified);
                dates.is_some_and(|(ours, theirs)| ours != theirs)
            }
            _ => false,
        }
    }

    /// As the conditional rules want them.
    pub fn as_conditional(&self) -> shoal_http::conditional::Validators<'_> {
        shoal_http::conditional::Validators { etag: self.etag.as_deref(), last_modified: self.last_modified }
    }

    /// As If-Range wants them: a date that may not tell two versions apart does not count.
    pub fn as_strong(&self) -> shoal_http::conditional::Validators<'_> {
        let last_modified = self.last_modified.filter(|_| self.settled);
        shoal_http::conditional::Validators { etag: self.etag.as_deref(), last_modified }
    }

    /// The value for If-Range; none without a strong validator.
    pub fn if_range(&self) -> Option<Vec<u8>> {
        if !self.is_strong() {
            return None;
        }
        match &self.etag {
            Some(etag) => Some(etag.as_bytes().to_vec()),
            None => self.last_modified.map(|unix| date::format(unix).to_vec()),
        }
    }
}

/// A response head that outlives the buffer it was read from.
#[derive(Debug)]
pub struct OriginHead {
    /// Status code.
    pub status: u16,
    /// Offset of the body's first byte in the object; 0 but for 206.
    pub first: u64,
    /// Length of the whole object, where the head says it.
    pub total: Option<u64>,
    /// Bytes of this body, where the head says it.
    pub length: Option<u64>,
    /// How the body ends.
    pub framing: BodyFraming,
    /// Whether the connection can be used again.
    pub keep_alive: bool,
    /// What names the version.
    pub validators: Validators,
    /// End-to-end header lines to send on, with their CRLFs; those about versions are in `version_lines`.
    pub relay: Vec<u8>,
    /// ETag and Last-Modified, as lines.
    pub version_lines: Vec<u8>,
    /// Content-Type.
    pub content_type: Option<Box<str>>,
    /// Cache-Control as sent, its lines joined.
    pub cache_control: Option<Box<str>>,
    /// Expires as sent; empty when there are several, which is an invalid one.
    pub expires: Option<Box<str>>,
    /// Date in Unix seconds.
    pub date_s: Option<u64>,
    /// Seconds it had when it arrived.
    pub age_s: u64,
    /// Set-Cookie lines, for the one who asked.
    pub cookies: Vec<u8>,
    /// Request headers that it was chosen by.
    pub vary: Vary,
    /// Its tags, as [`shoal_http::caching::tags`] gives them.
    pub tags: String,
    /// Bytes of the head itself.
    pub head_bytes: usize,
}

/// Lines that belong to one connection or that shoal writes itself.
const NOT_RELAYED: [&str; 28] = [
    "accept-ranges",
    "age",
    "alt-svc",
    "cache-control",
    "cache-status",
    "cache-tag",
    "connection",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expires",
    "keep-alive",
    "last-modified",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-connection",
    "server",
    "server-timing",
    "set-cookie",
    "surrogate-key",
    "te",
    "timing-allow-origin",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

impl OriginHead {
    /// Reads `head`, asked for at `asked_unix` and received at `now_unix` (seconds). `cors`: shoal sends its own CORS lines,
    /// the origin's are dropped.
    pub fn read(head: &ResponseHead<'_>, asked_unix: u64, now_unix: u64, cors: bool) -> Result<OriginHead, String> {
        let text = |name: Known| head.headers.single(name).and_then(|value| std::str::from_utf8(value).ok());
        let date_header = head.headers.known(Known::Date).and_then(date::parse);
        let last_modified = head.headers.single(Known::LastModified).and_then(date::parse);
        let etag = text(Known::Etag).filter(|value| EntityTag::parse(value.as_bytes()).is_some()).map(Box::from);
        let validators = Validators {
            etag,
            last_modified,
            settled: last_modified.is_some_and(|modified| modified < date_header.unwrap_or(now_unix)),
        };
        let length = match head.body {
            BodyFraming::None => Some(0),
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked | BodyFraming::UntilClose => None,
        };
        let (mut first, mut total) = (0, length);
        if head.status == 206 {
            let value = head.headers.single(Known::ContentRange).ok_or("206 without one Content-Range")?;
            match ContentRange::parse(value) {
                Some(ContentRange::Satisfied { range, total: whole }) => {
                    if length.is_some_and(|length| length != range.len()) {
                        return Err("Content-Range and Content-Length disagree".to_owned());
                    }
                    (first, total) = (range.first, whole);
                }
                _ => return Err(format!("unreadable Content-Range `{}`", String::from_utf8_lossy(value))),
            }
        }
        let age = head.headers.known(Known::Age).and_then(shoal_http::cache_control::parse_age);
        let (mut relay, mut cookies) = (Vec::new(), Vec::new());
        let connection_lists = |name: &str| {
            head.headers
                .get_all("connection")
                .flat_map(|value| value.split(|&byte| byte == b','))
                .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        };
        for (name, value) in head.headers.iter() {
            let lower = name.to_ascii_lowercase();
            let drop = NOT_RELAYED.binary_search(&lower.as_str()).is_ok()
                || (cors && lower.starts_with("access-control-"))
                || connection_lists(&lower);
            if !drop {
                relay_line(&mut relay, name, value);
            } else if lower == "set-cookie" {
                relay_line(&mut cookies, name, value);
            }
        }
        let mut version_lines = Vec::new();
        if let Some(value) = head.headers.single(Known::LastModified) {
            relay_line(&mut version_lines, "Last-Modified", value);
        }
        if let Some(etag) = &validators.etag {
            relay_line(&mut version_lines, "ETag", etag.as_bytes());
        }
        let cache_control: Option<Box<str>> = {
            let lines: Vec<_> =
                head.headers.all(Known::CacheControl).filter_map(|value| std::str::from_utf8(value).ok()).collect();
            (!lines.is_empty()).then(|| lines.join(", ").into())
        };
        let expires = head.headers.known(Known::Expires).map(|_| text(Known::Expires).unwrap_or_default().into());
        Ok(OriginHead {
            status: head.status,
            first,
            total,
            length,
            framing: head.body,
            keep_alive: head.keep_alive(),
            validators,
            relay,
            version_lines,
            content_type: text(Known::ContentType).map(Box::from),
            cache_control,
            expires,
            date_s: date_header,
            age_s: shoal_http::cache_control::initial_age(age, date_header, asked_unix, now_unix),
            cookies,
            vary: Vary::parse(head.headers.all(Known::Vary)),
            tags: tags(head.headers.get_all("surrogate-key"), head.headers.get_all("cache-tag")),
            head_bytes: 0,
        })
    }
}

fn relay_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use shoal_http::headers::Limits;
    use shoal_http::response::parse_response;

    use super::*;

    fn read(head: &str) -> Result<OriginHead, String> {
        let (head, _) = parse_response(head.as_bytes(), &Limits::default(), false).unwrap().unwrap();
        OriginHead::read(&head, 1_000, 1_001, true)
    }

    #[test]
    fn dropped_lines_are_sorted() {
        assert!(NOT_RELAYED.is_sorted());
    }

    #[test]
    fn end_to_end_lines_are_relayed_and_no_others() {
        let head = read(
            "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Keep: 2\r\nSet-Cookie: a=b\r\nSurrogate-Key: s\r\nContent-Length: 3\r\n\
             Access-Control-Allow-Origin: x\r\nDate: Thu, 01 Jan 1970 00:16:40 GMT\r\nETag: \"v1\"\r\n\r\n",
        )
        .unwrap();
        let relay = String::from_utf8(head.relay).unwrap();
        assert_eq!(relay, "X-Keep: 2\r\n");
        assert_eq!(head.cookies, b"Set-Cookie: a=b\r\n");
        assert_eq!(head.tags, "s");
        assert_eq!(head.version_lines, b"ETag: \"v1\"\r\n");
        assert_eq!((head.total, head.first), (Some(3), 0));
    }

    #[test]
    fn a_partial_response_must_agree_with_itself() {
        let good = read("HTTP/1.1 206 x\r\nContent-Length: 3\r\nContent-Range: bytes 5-7/90\r\n\r\n").unwrap();
        assert_eq!((good.first, good.total, good.length), (5, Some(90), Some(3)));
        assert!(read("HTTP/1.1 206 x\r\nContent-Length: 4\r\nContent-Range: bytes 5-7/90\r\n\r\n").is_err());
        assert!(read("HTTP/1.1 206 x\r\nContent-Length: 4\r\n\r\n").is_err());
    }

    #[test]
    fn only_strong_validators_prove_the_same_bytes() {
        let tag = |etag: &str| Validators { etag: Some(etag.into()), ..Validators::default() };
        assert!(tag("\"a\"").same_bytes(&tag("\"a\"")));
        assert!(!tag("\"a\"").same_bytes(&tag("\"b\"")));
        assert!(!tag("W/\"a\"").same_bytes(&tag("W/\"a\"")));
        let modified = |settled| Validators { etag: None, last_modified: Some(5), settled };
        assert!(modified(true).same_bytes(&modified(true)));
        assert!(!modified(false).same_bytes(&modified(false)));
        assert!(!Validators::default().same_bytes(&Validators::default()));
    }

    #[test]
    fn a_304_about_another_version_confirms_nothing() {
        let tag = |etag: &str| Validators { etag: Some(etag.into()), ..Validators::default() };
        let modified = |at, settled| Validators { etag: None, last_modified: Some(at), settled };
        assert!(tag("\"a\"").denies(&tag("\"b\"")) && !tag("\"a\"").denies(&tag("\"a\"")));
        // A cache with an older version, whose date is before the one that was asked about.
        assert!(modified(0, true).denies(&modified(60, true)) && modified(0, false).denies(&modified(60, true)));
        assert!(!modified(60, true).denies(&modified(60, false)));
        // What a 304 does not say denies nothing.
        assert!(!Validators::default().denies(&modified(60, true)) && !Validators::default().denies(&tag("\"a\"")));
        assert!(!modified(0, true).denies(&tag("\"a\"")));
    }
}
