//! Writing heads into a buffer the caller keeps: no allocation while it has room.

use thiserror::Error;

use crate::{
    content_range::ContentRange,
    date,
    grammar::{TOKEN, run_of_visible, run_without_controls},
};

/// A header name or value that would break the message's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidHeader {
    /// The name is not a token.
    #[error("header name is not a token")]
    Name,
    /// The value holds a control character such as CR, LF or NUL.
    #[error("header value holds a control character")]
    Value,
}

/// Appends a request or response head to a buffer.
#[derive(Debug)]
pub struct HeadWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> HeadWriter<'a> {
    /// Starts an HTTP/1.1 response with its status line. `status` has three digits.
    #[must_use]
    pub fn response(out: &'a mut Vec<u8>, status: u16) -> Self {
        debug_assert!((100..=999).contains(&status), "status {status}");
        out.extend_from_slice(b"HTTP/1.1 ");
        push_number(out, status.into());
        out.push(b' ');
        out.extend_from_slice(reason_phrase(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        Self { out }
    }

    /// Starts an HTTP/1.1 request. `method` must be a token, `target` visible ASCII.
    pub fn request(out: &'a mut Vec<u8>, method: &str, target: &str) -> Result<Self, InvalidHeader> {
        if method.is_empty() || TOKEN.run(method.as_bytes()) != method.len() {
            return Err(InvalidHeader::Name);
        }
        if target.is_empty() || run_of_visible(target.as_bytes()) != target.len() {
            return Err(InvalidHeader::Value);
        }
        for part in [method, " ", target, " HTTP/1.1\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        Ok(Self { out })
    }

    /// A header whose name and value the program itself gives.
    pub fn fixed(&mut self, name: &'static str, value: &'static str) -> &mut Self {
        debug_assert!(check(name, value.as_bytes()).is_ok(), "{name}: {value}");
        self.line(name, |out| out.extend_from_slice(value.as_bytes()))
    }

    /// A header with a name or value from elsewhere; refused, with nothing written, when it could break the framing.
    pub fn header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<&mut Self, InvalidHeader> {
        let value = value.as_ref();
        check(name, value)?;
        Ok(self.line(name, |out| out.extend_from_slice(value)))
    }

    /// A header with a decimal number.
    pub fn number(&mut self, name: &'static str, value: u64) -> &mut Self {
        self.line(name, |out| push_number(out, value))
    }

    /// A header with an IMF-fixdate of these Unix seconds.
    pub fn date(&mut self, name: &'static str, unix: u64) -> &mut Self {
        self.line(name, |out| out.extend_from_slice(&date::format(unix)))
    }

    /// A Content-Range header.
    pub fn content_range(&mut self, value: ContentRange) -> &mut Self {
        self.line("Content-Range", |out| value.write(out))
    }

    /// Where more lines can be appended whole: each checked by whoever made it, and ended by CRLF.
    pub fn lines(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// The empty line that ends the head.
    pub fn finish(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    fn line(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        value(self.out);
        self.out.extend_from_slice(b"\r\n");
        self
    }
}

/// A value may hold TAB and bytes above 127, but no other control character (RFC 9110 section 5.5).
fn check(name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
    if name.is_empty() || TOKEN.run(name.as_bytes()) != name.len() {
        return Err(InvalidHeader::Name);
    }
    if value.split(|&byte| byte == b'\t').any(|part| run_without_controls(part) != part.len()) {
        return Err(InvalidHeader::Value);
    }
    Ok(())
}

/// Appends a decimal number.
pub fn push_number(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0; 20];
    let mut rest = value;
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        start -= 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// Reason phrase of a status code in IANA's registry; empty when unknown.
#[must_use]
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::ByteRange;

    #[test]
    fn a_response_head() {
        let mut out = Vec::with_capacity(512);
        let place = out.as_ptr();
        let mut head = HeadWriter::response(&mut out, 206);
        head.fixed("Content-Type", "video/mp4").number("Content-Length", 10).date("Date", 784_111_777);
        head.content_range(ContentRange::Satisfied { range: ByteRange { first: 0, last: 9 }, total: Some(100) });
        head.header("ETag", "\"a\"").unwrap().header("X-Raw", b"\xff\ta").unwrap();
        head.finish();
        let expected: &[u8] = b"HTTP/1.1 206 Partial Content\r\nContent-Type: video/mp4\r\nContent-Length: 10\r\n\
            Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Range: bytes 0-9/100\r\nETag: \"a\"\r\nX-Raw: \xff\ta\r\n\r\n";
        assert_eq!(out, expected);
        assert_eq!(out.as_ptr(), place, "a buffer with room is not reallocated");
    }

    #[test]
    fn what_would_break_the_framing_is_refused_and_not_written() {
        let mut out = Vec::new();
        let mut head = HeadWriter::response(&mut out, 200);
        for value in ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "\x7f", "\x01"] {
            assert_eq!(head.header("A", value).err(), Some(InvalidHeader::Value), "{value:?}");
        }
        for name in ["", "a b", "a:", "a\r\n", "ä"] {
            assert_eq!(head.header(name, "x").err(), Some(InvalidHeader::Name), "{name:?}");
        }
        head.finish();
        assert_eq!(out, b"HTTP/1.1 200 OK\r\n\r\n");

        let mut out = Vec::new();
        for target in ["", "/a b", "/a\r\nb", "/ä"] {
            assert_eq!(HeadWriter::request(&mut out, "GET", target).err(), Some(InvalidHeader::Value), "{target:?}");
        }
        assert!(HeadWriter::request(&mut out, "G T", "/").is_err());
        assert!(out.is_empty());
        HeadWriter::request(&mut out, "GET", "/a?b").unwrap().finish();
        assert_eq!(out, b"GET /a?b HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn numbers() {
        for number in [0, 9, 10, 99, 100, 12_345, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
