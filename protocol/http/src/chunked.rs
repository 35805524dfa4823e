//! Chunked transfer coding (RFC 9112 section 7.1).

use std::ops::Range;

use thiserror::Error;

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
#[derive(Debug, Clone, Default)]
pub struct Decoder {}

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
        let _ = input;
        todo!()
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        todo!()
    }
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
        &self.bytes[usize::from(self.start)..]
    }
}

/// The line in front of a chunk of `length` bytes, `length > 0`. The data is followed by CRLF.
#[must_use]
pub fn chunk_head(length: u64) -> ChunkHead {
    let _ = length;
    todo!()
}
