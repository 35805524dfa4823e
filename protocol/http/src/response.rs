//! Response heads of upstreams (RFC 9112 sections 4 to 6).

pub use crate::headers::{Headers, Known, Limits, Version};
use crate::{
    error::HeadError,
    fields::{self, Framing, Scan},
    grammar::decimal,
};

/// How the body that follows a response head is delimited (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body: HEAD, 1xx, 204, 304, or a length of 0.
    None,
    /// This many bytes, more than 0.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the upstream closes; a broken transfer cannot be told from a complete one.
    UntilClose,
}

/// One response head; borrows from the bytes it was parsed from.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'a> {
    /// Status code, 100 to 999.
    pub status: u16,
    /// Version of the message.
    pub version: Version,
    /// Header fields.
    pub headers: Headers<'a>,
    /// What follows the head.
    pub body: BodyFraming,
    /// Content-Length, also where there is no body: the answer to a HEAD, a 304.
    pub content_length: Option<u64>,
    keep_alive: bool,
}

/// Reads one response head from the start of `bytes`, with the number of bytes it took. `None`: more bytes are needed.
///
/// A 1xx head is returned like any other; the caller skips it. As strict as with requests, except for what deployed
/// origins need and cannot be used to smuggle: the reason phrase may be missing together with its space, and spaces
/// between a header's name and its colon are dropped (RFC 9112 section 5.1 asks that of a proxy).
pub fn parse_response<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    request_was_head: bool,
) -> Result<Option<(ResponseHead<'a>, usize)>, HeadError> {
    let limits = limits.clamped();
    let mut scan = Scan { bytes: bytes.get(..limits.head_bytes).unwrap_or(bytes), at: 0 };
    let mut headers = Headers::new(scan.bytes);
    let line = status_line(&mut scan)?;
    let line_bytes = if line.is_some() { scan.at - 2 } else { scan.bytes.len() };
    if line_bytes > limits.request_line_bytes.saturating_add(usize::from(line.is_none())) {
        return Err(HeadError::LineTooLong { limit: limits.request_line_bytes });
    }
    let complete = line.is_some() && scan.headers(&mut headers, limits.headers, true)?.is_some();
    let Some((version, status)) = line.filter(|_| complete) else {
        if bytes.len() >= limits.head_bytes {
            return Err(HeadError::HeadTooLong { limit: limits.head_bytes });
        }
        return Ok(None);
    };
    let framing = fields::framing(&headers, version)?;
    let content_length = match framing {
        Framing::Length(length) => Some(length),
        Framing::Unspecified | Framing::Chunked => None,
    };
    let body = match framing {
        _ if request_was_head || matches!(status, 100..=199 | 204 | 304) => BodyFraming::None,
        Framing::Length(0) => BodyFraming::None,
        Framing::Length(length) => BodyFraming::Length(length),
        Framing::Chunked => BodyFraming::Chunked,
        Framing::Unspecified => BodyFraming::UntilClose,
    };
    let keep_alive = body != BodyFraming::UntilClose && fields::keep_alive(&headers, version);
    Ok(Some((ResponseHead { status, version, headers, body, content_length, keep_alive }, scan.at)))
}

impl<'a> ResponseHead<'a> {
    /// Value of the first header line with this name, without regard to case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.get(name)
    }

    /// [`ResponseHead::header`] as text; `None` also when it is not UTF-8.
    #[must_use]
    pub fn header_str(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.headers.get(name)?).ok()
    }

    /// Whether the connection may carry another request once the body was read to its end.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }
}

/// Takes the status line (RFC 9112 section 4). `None`: more bytes are needed.
fn status_line(scan: &mut Scan<'_>) -> Result<Option<(Version, u16)>, HeadError> {
    let Some(version) = scan.version()? else { return Ok(None) };
    let digits = match scan.rest() {
        [b' ', digits @ ..] => digits.get(..3),
        [] => None,
        [..] => return Err(HeadError::Malformed("status line without a space after the version")),
    };
    let Some(digits) = digits else { return Ok(None) };
    let Some(status @ 100..=999) = decimal(digits) else {
        return Err(HeadError::Malformed("status code is not three digits above 99"));
    };
    scan.at += 4;
    match scan.rest() {
        [b' ', ..] => {
            if scan.value()?.is_none() {
                return Ok(None);
            }
        }
        [b'0'..=b'9', ..] => return Err(HeadError::Malformed("status code has more than three digits")),
        [..] => {}
    }
    Ok(scan.line_end("control character or missing space in the status line")?.map(|()| (version, status as u16)))
}

#[cfg(test)]
mod tests;
