//! Chunked transfer coding (RFC 9112 section 7.1).

use std::ops::Range;

use thiserror::Error;

use crate::grammar::hex;

/// Why a chunked body was refused; nothing after it on the connection can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// Chunk size is missing, not hexadecimal or above 2^63.
    #[error("chunk size is not a hexadecimal number below 2^63")]
    Size,
    /// A line of the framing does not end in CRLF, or holds a control character.
    #[error("chunk framing is broken: {0}")]
    Framing(&'static str),
    /// A chunk extension is longer than [`MAX_EXTENSION_BYTES`].
    #[error("chunk extension is longer than {MAX_EXTENSION_BYTES} bytes")]
    ExtensionTooLong,
    /// The trailers are longer than [`MAX_TRAILER_BYTES`].
    #[error("trailers are longer than {MAX_TRAILER_BYTES} bytes")]
    TrailersTooLong,
}

/// Bytes of one chunk's extensions.
pub const MAX_EXTENSION_BYTES: u32 = 256;
/// Bytes of all trailers of a body; they are read and dropped.
pub const MAX_TRAILER_BYTES: u32 = 8 * 1024;
/// What ends a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Incremental decoder of one chunked body.
///
/// Line ends must be CRLF. Spaces and tabs after a chunk's size pass, because deployed origins pad sizes with them.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    /// Size of the current chunk as far as read, then what is left of its data.
    remaining: u64,
    /// Bytes of the current size line, or of the trailers.
    extra: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In front of the first digit of a size.
    SizeStart,
    /// Behind a digit of a size.
    Size,
    /// In spaces behind a size.
    SizeEnd,
    /// In extensions.
    Extension,
    /// Behind the CR of a size line.
    SizeLf,
    /// In a chunk's data.
    Data,
    /// Behind a chunk's data.
    DataCr,
    /// Behind the CR that follows a chunk's data.
    DataLf,
    /// At the start of a line of trailers.
    TrailerStart,
    /// In a line of trailers.
    Trailer,
    /// Behind the CR of a line of trailers.
    TrailerLf,
    /// Behind the CR of the last line.
    EndLf,
    /// Behind the body.
    Done,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::SizeStart, remaining: 0, extra: 0 }
    }
}

/// What one call of [`Decoder::decode`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input taken, body data included. More than 0 unless the input was empty or the body had ended.
    pub used: usize,
    /// Where in the input body data lies, in front of `used`; may be empty.
    pub data: Range<usize>,
    /// The body has ended; what follows `used` is not part of it.
    pub done: bool,
}

impl Decoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes framing up to and with one run of body data. Call again with the rest of the input while there is any.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut at = 0;
        while self.state != State::Done {
            let rest = input.get(at..).unwrap_or_default();
            let Some(&byte) = rest.first() else { break };
            if self.state == State::Data {
                let run = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(rest.len());
                self.remaining -= run as u64;
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step { used: at + run, data: at..at + run, done: false });
            }
            self.state = self.framing_byte(byte)?;
            at += 1;
        }
        Ok(Step { used: at, data: at..at, done: self.is_done() })
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn framing_byte(&mut self, byte: u8) -> Result<State, ChunkError> {
        let next = match (self.state, byte) {
            (State::SizeStart | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = hex(byte).ok_or(ChunkError::Size)?;
                // The bound on zeros in front of a size is the one on extensions.
                self.count_extra(MAX_EXTENSION_BYTES, ChunkError::Size)?;
                if self.remaining >= MAX_CHUNK >> 4 {
                    return Err(ChunkError::Size);
                }
                self.remaining = self.remaining << 4 | u64::from(digit);
                State::Size
            }
            (State::SizeStart, _) => return Err(ChunkError::Size),
            (State::Size | State::SizeEnd | State::Extension, b'\r') => State::SizeLf,
            (State::Size | State::SizeEnd, b';') => State::Extension,
            (State::Size | State::SizeEnd, b' ' | b'\t') => {
                self.count_extra(MAX_EXTENSION_BYTES, ChunkError::ExtensionTooLong)?;
                State::SizeEnd
            }
            (State::Size | State::SizeEnd, _) => return Err(ChunkError::Size),
            (State::Extension, _) => {
                if is_control(byte) {
                    return Err(ChunkError::Framing("control character in a chunk extension"));
                }
                self.count_extra(MAX_EXTENSION_BYTES, ChunkError::ExtensionTooLong)?;
                State::Extension
            }
            (State::SizeLf, b'\n') => {
                self.extra = 0;
                if self.remaining == 0 { State::TrailerStart } else { State::Data }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::SizeStart,
            (State::DataCr | State::DataLf, _) => {
                return Err(ChunkError::Framing("chunk data is not followed by CRLF"));
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerStart | State::Trailer, _) => {
                if is_control(byte) {
                    return Err(ChunkError::Framing("control character in a trailer"));
                }
                self.count_extra(MAX_TRAILER_BYTES, ChunkError::TrailersTooLong)?;
                State::Trailer
            }
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            (State::SizeLf | State::TrailerLf | State::EndLf, _) => {
                return Err(ChunkError::Framing("CR without LF"));
            }
            // Neither gets here: data is taken in runs, and nothing is taken behind the end.
            (State::Data | State::Done, _) => self.state,
        };
        Ok(next)
    }

    fn count_extra(&mut self, max: u32, error: ChunkError) -> Result<(), ChunkError> {
        self.extra += 1;
        if self.extra > max { Err(error) } else { Ok(()) }
    }
}

const MAX_CHUNK: u64 = 1 << 63;

const fn is_control(byte: u8) -> bool {
    byte < 0x20 && byte != b'\t' || byte == 0x7f
}

/// The line in front of a chunk's data.
#[derive(Debug, Clone, Copy)]
pub struct ChunkHead {
    bytes: [u8; 18],
    start: u8,
}

impl ChunkHead {
    /// The line, with its CRLF.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(usize::from(self.start)..).unwrap_or_default()
    }
}

/// The line in front of a chunk of `length` bytes. The data is followed by CRLF. A length of 0 would end the body, which
/// [`LAST_CHUNK`] is for.
#[must_use]
pub fn chunk_head(length: u64) -> ChunkHead {
    debug_assert!(length > 0, "a chunk of no bytes ends the body");
    let mut head = ChunkHead { bytes: *b"0000000000000000\r\n", start: 16 };
    let mut rest = length;
    for digit in head.bytes.iter_mut().take(16).rev() {
        *digit = char::from_digit((rest & 15) as u32, 16).map_or(b'0', |digit| digit as u8);
        rest >>= 4;
        head.start -= 1;
        if rest == 0 {
            break;
        }
    }
    head
}

#[cfg(test)]
mod tests;
