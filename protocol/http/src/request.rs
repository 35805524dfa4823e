//! Request heads (RFC 9112 sections 2 to 6).

use std::net::Ipv6Addr;

pub use crate::headers::{Headers, Known, Limits, Version};
use crate::{
    error::HeadError,
    fields::{self, Framing, Scan},
    grammar::{REG_NAME, TOKEN, decimal, run_of_visible},
};

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
#[derive(Debug, Clone, Copy)]
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
/// `None`: more bytes are needed. What can be refused before the head is complete is refused at once. One empty line in
/// front of the request line is skipped (RFC 9112 section 2.2).
///
/// Stricter than many servers: line ends are CRLF, the target is visible ASCII without `#`, and a length that two
/// recipients could read differently is refused. More lenient than RFC 3986: other visible characters that no URI may
/// hold (`|`, `"`, `{` and so on) pass, because browsers send them; [`crate::path::normalize`] escapes them.
pub fn parse_request<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Option<(RequestHead<'a>, usize)>, HeadError> {
    let limits = limits.clamped();
    let mut scan = Scan { bytes: bytes.get(..limits.head_bytes).unwrap_or(bytes), at: 0 };
    let line = match request_line(&mut scan, &limits)? {
        Some(line) => line,
        None if bytes.len() >= limits.head_bytes => {
            return Err(HeadError::LineTooLong { limit: limits.request_line_bytes.min(limits.head_bytes) });
        }
        None => return Ok(None),
    };
    let mut headers = Headers::new(scan.bytes);
    if scan.headers(&mut headers, limits.headers, false)?.is_none() {
        if bytes.len() >= limits.head_bytes {
            return Err(HeadError::HeadTooLong { limit: limits.head_bytes });
        }
        return Ok(None);
    }
    let target = Target::parse(line.target, line.method)?;
    let host = host(&headers, line.version)?;
    let body = match fields::framing(&headers, line.version)? {
        Framing::Unspecified | Framing::Length(0) => RequestBody::None,
        Framing::Length(length) => RequestBody::Length(length),
        Framing::Chunked => RequestBody::Chunked,
    };
    let head = RequestHead {
        method: line.method,
        target: line.target,
        path: target.path,
        query: target.query,
        host: target.authority.or(host).filter(|host| !host.is_empty()),
        version: line.version,
        keep_alive: fields::keep_alive(&headers, line.version),
        headers,
        body,
        method_name: line.method_name,
    };
    Ok(Some((head, scan.at)))
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

struct RequestLine<'a> {
    method: Method,
    method_name: &'a str,
    target: &'a str,
    version: Version,
}

fn request_line<'a>(scan: &mut Scan<'a>, limits: &Limits) -> Result<Option<RequestLine<'a>>, HeadError> {
    match scan.rest() {
        [b'\r'] => return Ok(None),
        [b'\r', b'\n', ..] => scan.at += 2,
        [..] => {}
    }
    let start = scan.at;
    let line = unbounded_request_line(scan)?;
    // A complete line ends in the CRLF that the limit leaves out; an incomplete one may end in its CR.
    let end = match (&line, scan.rest()) {
        (Some(_), _) => scan.at - 2,
        (None, [.., b'\r']) => scan.bytes.len() - 1,
        (None, _) => scan.bytes.len(),
    };
    if end - start > limits.request_line_bytes {
        return Err(HeadError::LineTooLong { limit: limits.request_line_bytes });
    }
    Ok(line)
}

fn unbounded_request_line<'a>(scan: &mut Scan<'a>) -> Result<Option<RequestLine<'a>>, HeadError> {
    let method_at = scan.at;
    scan.at += TOKEN.run(scan.rest());
    let method = scan.bytes.get(method_at..scan.at).unwrap_or_default();
    match scan.rest() {
        [] => return Ok(None),
        [b' ', ..] if !method.is_empty() => scan.at += 1,
        [..] => return Err(HeadError::Malformed("request does not start with a method and one space")),
    }
    let target_at = scan.at;
    scan.at += run_of_visible(scan.rest());
    let target = scan.bytes.get(target_at..scan.at).unwrap_or_default();
    match scan.rest() {
        [] => return Ok(None),
        [b' ', ..] if !target.is_empty() => scan.at += 1,
        [b' ', ..] => return Err(HeadError::Malformed("more than one space between method and target")),
        [b'\r' | b'\n', ..] => return Err(HeadError::Malformed("request line without an HTTP version")),
        [0x80..=0xff, ..] => {
            return Err(HeadError::Malformed("byte above 127 in the request target; percent-encode it"));
        }
        [..] => return Err(HeadError::Malformed("control character in the request target")),
    }
    let Some(version) = scan.version()? else { return Ok(None) };
    if scan.line_end("request line goes on after the HTTP version")?.is_none() {
        return Ok(None);
    }
    // Both are ASCII by the scans above.
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| HeadError::Malformed("request line is not ASCII"));
    Ok(Some(RequestLine {
        method: Method::from_name(method),
        method_name: text(method)?,
        target: text(target)?,
        version,
    }))
}

impl Method {
    fn from_name(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"OPTIONS" => Self::Options,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"PATCH" => Self::Patch,
            b"CONNECT" => Self::Connect,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }
}

/// A request target taken apart (RFC 9112 section 3.2).
struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn parse(target: &'a str, method: Method) -> Result<Self, HeadError> {
        if target.contains('#') {
            return Err(HeadError::Malformed("`#` in the request target"));
        }
        if method == Method::Connect {
            return Err(HeadError::Malformed("authority-form target; CONNECT is not served here"));
        }
        if target.starts_with('/') {
            let (path, query) = split_query(target);
            return Ok(Self { authority: None, path, query });
        }
        if target == "*" {
            return match method {
                Method::Options => Ok(Self { authority: None, path: target, query: None }),
                _ => Err(HeadError::Malformed("`*` as the request target of a method other than OPTIONS")),
            };
        }
        let Some(rest) = strip_scheme(target) else {
            return Err(HeadError::Malformed("request target is neither a path nor an http URL"));
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() || !is_authority(authority) {
            return Err(HeadError::Host("the URL in the request line has no valid host"));
        }
        let (path, query) = split_query(rest);
        let path = match (path, method, query) {
            // RFC 9112 section 3.2.4: how a proxy asks about the whole server.
            ("", Method::Options, None) => "*",
            ("", ..) => "/",
            _ => path,
        };
        Ok(Self { authority: Some(authority), path, query })
    }
}

fn split_query(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

fn strip_scheme(target: &str) -> Option<&str> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

/// The Host header. It may be empty: the client's URL has no authority then.
fn host<'a>(headers: &Headers<'a>, version: Version) -> Result<Option<&'a str>, HeadError> {
    if headers.is_repeated(Known::Host) {
        return Err(HeadError::Host("given more than once"));
    }
    let Some(value) = headers.known(Known::Host) else {
        return match version {
            Version::Http10 => Ok(None),
            Version::Http11 => Err(HeadError::Host("missing; HTTP/1.1 requires it")),
        };
    };
    match std::str::from_utf8(value) {
        Ok(host) if host.is_empty() || is_authority(host) => Ok(Some(host)),
        _ => Err(HeadError::Host("not a host name or address with an optional port")),
    }
}

/// Whether this is `uri-host [ ":" port ]` with a host that is not empty.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            (address, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if REG_NAME.run(host.as_bytes()) != host.len() {
                return false;
            }
            (host, port)
        }
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some(digits) => digits.is_empty() || decimal(digits.as_bytes()).is_some_and(|port| port <= u16::MAX.into()),
        None => port.is_empty(),
    };
    !host.is_empty() && port_is_valid
}

#[cfg(test)]
mod tests;
