//! Writing heads into a buffer the caller keeps: no allocation while it has room.

use thiserror::Error;

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
    /// Starts an HTTP/1.1 response with its status line. Status is 100 to 999.
    #[must_use]
    pub fn response(out: &'a mut Vec<u8>, status: u16) -> Self {
        let _ = status;
        Self { out }
    }

    /// Starts an HTTP/1.1 request. `method` must be a token, `target` printable ASCII without spaces.
    pub fn request(out: &'a mut Vec<u8>, method: &str, target: &str) -> Result<Self, InvalidHeader> {
        let _ = (method, target);
        Ok(Self { out })
    }

    /// A header whose name and value the program itself gives.
    pub fn fixed(&mut self, name: &'static str, value: &'static str) -> &mut Self {
        let _ = (name, value);
        self
    }

    /// A header with a value from elsewhere; refused, and nothing written, when it could break the framing.
    pub fn header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<&mut Self, InvalidHeader> {
        let _ = (name, value.as_ref());
        Ok(self)
    }

    /// A header with a decimal number.
    pub fn number(&mut self, name: &'static str, value: u64) -> &mut Self {
        let _ = (name, value);
        self
    }

    /// A header with an IMF-fixdate of these Unix seconds.
    pub fn date(&mut self, name: &'static str, unix: u64) -> &mut Self {
        let _ = (name, unix);
        self
    }

    /// A Content-Range header.
    pub fn content_range(&mut self, value: crate::content_range::ContentRange) -> &mut Self {
        let _ = value;
        self
    }

    /// The empty line that ends the head.
    pub fn finish(self) {
        let _ = self.out;
    }
}

/// Appends a decimal number.
pub fn push_number(out: &mut Vec<u8>, value: u64) {
    let _ = (out, value);
}

/// Reason phrase of a status code; empty when unknown.
#[must_use]
pub fn reason_phrase(status: u16) -> &'static str {
    let _ = status;
    ""
}
