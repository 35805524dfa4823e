//! The Content-Range header (RFC 9110 section 14.4).

use crate::range::ByteRange;

/// Value of a Content-Range header of unit bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes first-last/total`, or `bytes first-last/*` when the total is unknown.
    Satisfied {
        /// What the body holds.
        range: ByteRange,
        /// Bytes of the whole representation, if known; more than `range.last`.
        total: Option<u64>,
    },
    /// `bytes */total`, in a 416.
    Unsatisfied {
        /// Bytes of the whole representation.
        total: u64,
    },
}

impl ContentRange {
    /// Reads the value; `None` when it is malformed, of another unit, or contradicts itself.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let _ = value;
        todo!()
    }

    /// Appends the value.
    pub fn write(&self, out: &mut Vec<u8>) {
        let _ = out;
    }
}
