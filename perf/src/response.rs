//! Just enough of a response head to check it: status, length, end.

/// Longest response head accepted.
pub const MAX_HEAD: usize = 16 * 1024;

/// What a response says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Content-Length.
    pub body_len: u64,
    /// Bytes up to and with the empty line.
    pub head_len: usize,
    /// The server will close the connection after this response.
    pub close: bool,
}

/// Why bytes are not a response that can be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Does not start with an HTTP/1 status line.
    #[error("not an HTTP/1 response: {0:?}")]
    NotHttp(String),
    /// No end of head within [`MAX_HEAD`] bytes.
    #[error("the response head is longer than {MAX_HEAD} bytes")]
    TooLong,
    /// Without a length the end of a body cannot be checked.
    #[error("status {0} without a usable Content-Length; the load generator measures responses of known length only")]
    NoLength(u16),
}

/// Parses heads, faster when one is the same as the one before: servers change a digit of Date or Age once a second.
#[derive(Debug, Default)]
pub struct Parser {
    last: Option<(Vec<u8>, Head)>,
}

impl Parser {
    /// As [`parse`].
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Option<Head>, HeadError> {
        if let Some((last, head)) = &self.last
            && bytes.starts_with(last)
        {
            return Ok(Some(*head));
        }
        let head = parse(bytes)?;
        self.last = head.map(|head| (bytes[..head.head_len].to_vec(), head));
        Ok(head)
    }
}

/// Parses the head at the start of `bytes`; `None` while its end has not come.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
    let Some(head_len) = end_of_head(bytes) else {
        return if bytes.len() >= MAX_HEAD { Err(HeadError::TooLong) } else { Ok(None) };
    };
    let head = &bytes[..head_len];
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end());
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(number)
        .ok_or_else(|| HeadError::NotHttp(String::from_utf8_lossy(&first[..first.len().min(40)]).into_owned()))?
        as u16;
    let (mut body_len, mut close) = (None, false);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            body_len = number(value);
        } else if name.eq_ignore_ascii_case(b"connection") {
            close = value.eq_ignore_ascii_case(b"close");
        }
    }
    match body_len {
        Some(body_len) => Ok(Some(Head { status, body_len, head_len, close })),
        None if matches!(status, 204 | 304) => Ok(Some(Head { status, body_len: 0, head_len, close })),
        None => Err(HeadError::NoLength(status)),
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    // A head is a few hundred bytes in front of a body of many thousands: never look further than a head may reach.
    let window = &bytes[..bytes.len().min(MAX_HEAD)];
    window.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// FNV-1a: cheap, and independent of how the body was cut into reads.
#[derive(Debug, Clone, Copy)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// Takes in more of the body.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    }

    /// Of all so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_at_every_split_and_never_early() {
        let bytes = b"HTTP/1.1 206 Partial Content\r\ncontent-LENGTH: 16384\r\nConnection: close\r\n\r\nbody";
        let end = bytes.len() - 4;
        for cut in 0..end {
            assert_eq!(parse(&bytes[..cut]), Ok(None));
        }
        assert_eq!(parse(bytes), Ok(Some(Head { status: 206, body_len: 16384, head_len: end, close: true })));
    }

    #[test]
    fn a_remembered_head_gives_the_same_answer() {
        let mut parser = Parser::default();
        for bytes in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 55\r\n\r\n",
        ] {
            for _ in 0..2 {
                assert_eq!(parser.parse(bytes), parse(bytes));
            }
            assert_eq!(parser.parse(&bytes[..20]), Ok(None));
        }
    }

    #[test]
    fn a_response_without_length_is_refused_unless_it_has_no_body() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(HeadError::NoLength(200)));
        assert_eq!(parse(b"HTTP/1.1 304 Not Modified\r\n\r\n").unwrap().unwrap().body_len, 0);
    }

    #[test]
    fn what_is_not_http_or_never_ends_is_refused() {
        assert!(matches!(parse(b"SSH-2.0-x\r\n\r\n"), Err(HeadError::NotHttp(_))));
        assert_eq!(parse(&[b'x'; MAX_HEAD]), Err(HeadError::TooLong));
    }
}
