//! Response heads of upstreams (RFC 9112 sections 4 to 6).

use crate::error::HeadError;
pub use crate::headers::{Headers, Known, Limits, Version};

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
#[derive(Clone, Copy)]
pub struct ResponseHead<'a> {
    /// Status code, 100 to 999.
    pub status: u16,
    /// Version of the message.
    pub version: Version,
    /// Header fields.
    pub headers: Headers<'a>,
    /// What follows the head.
    pub body: BodyFraming,
    keep_alive: bool,
}

/// Reads one response head from the start of `bytes`, with the number of bytes it took. `None`: more bytes are needed.
///
/// A 1xx head is returned like any other; the caller skips it.
pub fn parse_response<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    request_was_head: bool,
) -> Result<Option<(ResponseHead<'a>, usize)>, HeadError> {
    let _ = (bytes, limits, request_was_head);
    todo!()
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
