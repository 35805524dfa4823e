//! Header lines: one strict scan shared by requests and responses, and what their framing headers mean.

use crate::{
    error::HeadError,
    grammar::{TOKEN, decimal, elements, run_without_controls, trim},
    headers::{Headers, Known, Version},
};

/// Bytes of one head so far, cut at the limit, and the place the scan has reached.
pub(crate) struct Scan<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Scan<'a> {
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Takes a CRLF. `None`: more bytes are needed.
    #[inline]
    pub(crate) fn line_end(&mut self, otherwise: &'static str) -> Result<Option<()>, HeadError> {
        match self.rest() {
            [b'\r', b'\n', ..] => {
                self.at += 2;
                Ok(Some(()))
            }
            [] | [b'\r'] => Ok(None),
            [b'\r', ..] => Err(HeadError::Malformed("CR without LF")),
            [b'\n', ..] => Err(HeadError::Malformed("LF without CR; lines end in CRLF")),
            [..] => Err(HeadError::Malformed(otherwise)),
        }
    }

    /// Takes `HTTP/x.y`. `None`: more bytes are needed.
    pub(crate) fn version(&mut self) -> Result<Option<Version>, HeadError> {
        const NAME: &[u8] = b"HTTP/";
        let rest = self.rest();
        if rest.iter().zip(NAME).any(|(byte, expected)| byte != expected) {
            return Err(HeadError::Malformed("HTTP version is not `HTTP/` with two digits around a dot"));
        }
        match rest.get(NAME.len()..NAME.len() + 3) {
            Some(&[b'1', b'.', minor @ b'0'..=b'9']) => {
                self.at += NAME.len() + 3;
                Ok(Some(if minor == b'0' { Version::Http10 } else { Version::Http11 }))
            }
            Some(&[major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9']) => {
                Err(HeadError::Version { major: major - b'0', minor: minor - b'0' })
            }
            Some(_) => Err(HeadError::Malformed("HTTP version is not `HTTP/` with two digits around a dot")),
            None => Ok(None),
        }
    }

    /// Takes all header lines and the empty line after them. `None`: more bytes are needed.
    ///
    /// `space_before_colon`: whether spaces between name and colon are dropped, as a proxy must do with responses and
    /// must not with requests (RFC 9112 section 5.1).
    pub(crate) fn headers(
        &mut self,
        headers: &mut Headers<'a>,
        limit: usize,
        space_before_colon: bool,
    ) -> Result<Option<()>, HeadError> {
        loop {
            match self.rest() {
                [b'\r' | b'\n', ..] | [] => return self.line_end(""),
                [b' ' | b'\t', ..] => return Err(HeadError::Malformed("header line starts with a space (obs-fold)")),
                [..] => {}
            }
            if headers.len() >= limit {
                return Err(HeadError::TooManyHeaders { limit });
            }
            let name_at = self.at;
            let name_len = TOKEN.run(self.rest());
            self.at += name_len;
            if space_before_colon {
                self.skip_spaces();
            }
            match self.rest() {
                [] => return Ok(None),
                [b':', ..] if name_len > 0 => self.at += 1,
                [b':', ..] => return Err(HeadError::Malformed("header line without a name")),
                [b' ' | b'\t', ..] => return Err(HeadError::Malformed("space between header name and colon")),
                [b'\r' | b'\n', ..] => return Err(HeadError::Malformed("header line without a colon")),
                [..] => return Err(HeadError::Malformed("header name is not a token")),
            }
            self.skip_spaces();
            let value_at = self.at;
            if self.value()?.is_none() {
                return Ok(None);
            }
            let value_len = trim(self.bytes.get(value_at..self.at).unwrap_or_default()).len();
            if self.line_end("control character in a header value")?.is_none() {
                return Ok(None);
            }
            headers.push(name_at, name_len, value_at, value_len);
        }
    }

    fn skip_spaces(&mut self) {
        while let [b' ' | b'\t', ..] = self.rest() {
            self.at += 1;
        }
    }

    /// Takes text up to the next control character other than TAB. `None`: more bytes are needed.
    pub(crate) fn value(&mut self) -> Result<Option<()>, HeadError> {
        loop {
            self.at += run_without_controls(self.rest());
            match self.rest() {
                [] => return Ok(None),
                [b'\t', ..] => self.at += 1,
                [0, ..] => return Err(HeadError::Malformed("NUL in the head")),
                [..] => return Ok(Some(())),
            }
        }
    }
}

/// What the framing headers of a head say.
pub(crate) enum Framing {
    /// Neither Content-Length nor Transfer-Encoding.
    Unspecified,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding that ends in, and is no more than, chunked.
    Chunked,
}

/// Reads Content-Length and Transfer-Encoding (RFC 9112 section 6.3), refusing whatever two recipients could read
/// differently.
pub(crate) fn framing(headers: &Headers<'_>, version: Version) -> Result<Framing, HeadError> {
    let length = content_length(headers)?;
    if headers.known(Known::TransferEncoding).is_none() {
        return Ok(length.map_or(Framing::Unspecified, Framing::Length));
    }
    if length.is_some() {
        return Err(HeadError::Framing("both Content-Length and Transfer-Encoding"));
    }
    if version == Version::Http10 {
        return Err(HeadError::Framing("Transfer-Encoding in HTTP/1.0"));
    }
    let mut codings = 0;
    let mut last_is_chunked = false;
    for coding in headers.all(Known::TransferEncoding).flat_map(elements) {
        if last_is_chunked {
            return Err(HeadError::Framing("chunked is not the last transfer coding"));
        }
        codings += 1;
        last_is_chunked = coding.eq_ignore_ascii_case(b"chunked");
    }
    match (codings, last_is_chunked) {
        (1, true) => Ok(Framing::Chunked),
        (_, true) => Err(HeadError::TransferCoding),
        (_, false) => Err(HeadError::Framing("Transfer-Encoding does not end in chunked")),
    }
}

/// Content-Length; repeated ones must all be equal.
fn content_length(headers: &Headers<'_>) -> Result<Option<u64>, HeadError> {
    let mut length = None;
    for value in headers.all(Known::ContentLength) {
        for element in value.split(|&byte| byte == b',').map(trim) {
            let Some(number) = decimal(element) else {
                return Err(HeadError::Framing("Content-Length is not a decimal number below 2^64"));
            };
            if length.is_some_and(|length| length != number) {
                return Err(HeadError::Framing("Content-Length given twice with different values"));
            }
            length = Some(number);
        }
    }
    Ok(length)
}

/// Whether Connection and the version let the connection live on (RFC 9112 section 9.3).
pub(crate) fn keep_alive(headers: &Headers<'_>, version: Version) -> bool {
    let mut keep_alive = version == Version::Http11;
    for option in headers.all(Known::Connection).flat_map(elements) {
        if option.eq_ignore_ascii_case(b"close") {
            return false;
        }
        keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    keep_alive
}
