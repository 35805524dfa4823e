//! The Range request header (RFC 9110 section 14.2).

use thiserror::Error;

/// A range of bytes within a representation; both ends inclusive, `first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte.
    pub last: u64,
}

impl ByteRange {
    /// Number of bytes; at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a byte range is never empty")]
    pub const fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// One range as asked for, before the length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSpec {
    /// `first-last`
    Closed {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte asked for; may be past the end.
        last: u64,
    },
    /// `first-`
    From {
        /// Offset of the first byte.
        first: u64,
    },
    /// `-length`
    Suffix {
        /// Bytes from the end.
        length: u64,
    },
}

/// A Range header that is refused rather than ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RangeError {
    /// More ranges than allowed; the answer is 400.
    #[error("more than {max} ranges in one request; ask for fewer")]
    TooMany {
        /// Ranges allowed.
        max: usize,
    },
}

/// A parsed Range header; a single range is held inline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet {
    first: RangeSpec,
    more: Vec<RangeSpec>,
}

/// What of a representation is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// 200 with all of it: a suffix of an empty representation has no Content-Range.
    Full,
    /// 206 with one range.
    Single(ByteRange),
    /// 206 with multipart/byteranges: two or more ranges, disjoint, not touching.
    Multiple(Vec<ByteRange>),
    /// 416 with `Content-Range: bytes */total`.
    Unsatisfiable,
}

impl RangeSet {
    /// Reads the value of a Range header. `None`: another unit or not a valid set, so the header is ignored.
    pub fn parse(value: &[u8], max_ranges: usize) -> Result<Option<Self>, RangeError> {
        let _ = (value, max_ranges);
        todo!()
    }

    /// The ranges as asked for, at least one.
    pub fn specs(&self) -> impl Iterator<Item = RangeSpec> + '_ {
        std::iter::once(self.first).chain(self.more.iter().copied())
    }

    /// The only range asked for, when there is one only.
    #[must_use]
    pub fn single(&self) -> Option<RangeSpec> {
        self.more.is_empty().then_some(self.first)
    }

    /// What to send of a representation of `total` bytes.
    #[must_use]
    pub fn resolve(&self, total: u64) -> Resolved {
        let _ = total;
        todo!()
    }
}
