//! Request heads (RFC 9112 sections 2 to 6).

use crate::error::HeadError;
pub use crate::headers::{Headers, Known, Limits, Version};

/// Request method (RFC 9110 section 9). Methods are case-sensitive; `get` is `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// OPTIONS
    Options,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// PATCH
    Patch,
    /// CONNECT
    Connect,
    /// TRACE
    Trace,
    /// Any other token; [`RequestHead::method_name`] has it.
    Other,
}

/// How the body that follows a request head is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBody {
    /// No body.
    None,
    /// This many bytes, more than 0.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
}

/// One request head; borrows from the bytes it was parsed from.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// What is asked to be done.
    pub method: Method,
    /// The request target as sent, ASCII without controls and spaces.
    pub target: &'a str,
    /// Path of the target as sent, starting with `/`; `*` for the asterisk form. Not yet normalized.
    pub path: &'a str,
    /// What follows the first `?` of the target.
    pub query: Option<&'a str>,
    /// Host with its port as sent: the authority of an absolute-form target, else the Host header. `None` when empty or,
    /// in 1.0, missing.
    pub host: Option<&'a str>,
    /// Version of the message.
    pub version: Version,
    /// Header fields.
    pub headers: Headers<'a>,
    /// What follows the head.
    pub body: RequestBody,
    method_name: &'a str,
    keep_alive: bool,
}

/// Reads one request head from the start of `bytes`, with the number of bytes it took.
///
/// `None`: more bytes are needed. What can be refused before the head is complete is refused at once.
pub fn parse_request<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Option<(RequestHead<'a>, usize)>, HeadError> {
    let _ = (bytes, limits);
    todo!()
}

impl<'a> RequestHead<'a> {
    /// The method as sent.
    #[must_use]
    pub fn method_name(&self) -> &'a str {
        self.method_name
    }

    /// Value of the first header line with this name, without regard to case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.get(name)
    }

    /// [`RequestHead::header`] as text; `None` also when it is not UTF-8.
    #[must_use]
    pub fn header_str(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.headers.get(name)?).ok()
    }

    /// Whether the connection may carry another request after this one (RFC 9112 section 9.3).
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }
}
