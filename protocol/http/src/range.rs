//! The Range request header (RFC 9110 section 14.2).

use thiserror::Error;

use crate::grammar::{decimal_saturating, elements};

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
    /// More ranges than allowed; the answer is 416 (RFC 9110 section 15.5.17).
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
    /// 206 with multipart/byteranges: two or more ranges, disjoint, the gaps wide enough to be worth a part each.
    Multiple(Vec<ByteRange>),
    /// 416 with `Content-Range: bytes */total`.
    Unsatisfiable,
}

/// Ranges out of order that are still answered in the client's order; more of them are sorted first, as RFC 9110
/// section 14.2 advises against many small unordered ranges.
const MAX_UNORDERED: usize = 8;

/// Bytes between two ranges below which sending them costs less than another part head (RFC 9110 section 15.3.7.2).
const COALESCE_GAP: u64 = 80;

impl RangeSet {
    /// Reads the value of a Range header. `None`: another unit or not a valid set, so the header is ignored.
    pub fn parse(value: &[u8], max_ranges: usize) -> Result<Option<Self>, RangeError> {
        let Some((unit, list)) = value.split_at_checked(6) else { return Ok(None) };
        if !unit.eq_ignore_ascii_case(b"bytes=") {
            return Ok(None);
        }
        let mut specs = elements(list);
        let Some(first) = specs.next().and_then(RangeSpec::parse) else { return Ok(None) };
        let mut more = Vec::new();
        for spec in specs {
            let Some(spec) = RangeSpec::parse(spec) else { return Ok(None) };
            if more.len() + 1 >= max_ranges {
                return Err(RangeError::TooMany { max: max_ranges });
            }
            more.push(spec);
        }
        Ok(Some(Self { first, more }))
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
    ///
    /// Ranges that overlap or nearly touch are coalesced, and then all are in ascending order; otherwise a few keep the
    /// client's order. So no byte is ever sent twice, and many ranges cost no more than the whole.
    #[must_use]
    pub fn resolve(&self, total: u64) -> Resolved {
        if total == 0 {
            // Only a suffix can be satisfied then, and no Content-Range can say so (RFC 9110 section 14.1.2).
            let suffix = self.specs().any(|spec| matches!(spec, RangeSpec::Suffix { length: 1.. }));
            return if suffix { Resolved::Full } else { Resolved::Unsatisfiable };
        }
        if let Some(spec) = self.single() {
            return spec.resolve(total).map_or(Resolved::Unsatisfiable, Resolved::Single);
        }
        let ranges: Vec<_> = self.specs().filter_map(|spec| spec.resolve(total)).collect();
        let mut coalesced = ranges.clone();
        coalesced.sort_unstable_by_key(|range| range.first);
        coalesced.dedup_by(|next, kept| {
            let near = next.first <= kept.last.saturating_add(COALESCE_GAP);
            if near {
                kept.last = kept.last.max(next.last);
            }
            near
        });
        match coalesced.as_slice() {
            [] => Resolved::Unsatisfiable,
            [range] => Resolved::Single(*range),
            _ if coalesced.len() == ranges.len() && ranges.len() <= MAX_UNORDERED => Resolved::Multiple(ranges),
            _ => Resolved::Multiple(coalesced),
        }
    }
}

impl RangeSpec {
    /// Reads `first-last`, `first-` or `-length`. Numbers above 2^64 - 1 count as that.
    fn parse(spec: &[u8]) -> Option<Self> {
        let dash = spec.iter().position(|&byte| byte == b'-')?;
        let (first, last) = (spec.get(..dash)?, spec.get(dash + 1..)?);
        if first.is_empty() {
            return Some(Self::Suffix { length: decimal_saturating(last)? });
        }
        let first = decimal_saturating(first)?;
        if last.is_empty() {
            return Some(Self::From { first });
        }
        let last = decimal_saturating(last)?;
        (first <= last).then_some(Self::Closed { first, last })
    }

    /// The bytes meant, of `total > 0`; `None` when it cannot be satisfied.
    #[must_use]
    pub fn resolve(&self, total: u64) -> Option<ByteRange> {
        let end = total.checked_sub(1)?;
        match *self {
            Self::Closed { first, last } => (first <= end).then_some(ByteRange { first, last: last.min(end) }),
            Self::From { first } => (first <= end).then_some(ByteRange { first, last: end }),
            Self::Suffix { length: 0 } => None,
            Self::Suffix { length } => Some(ByteRange { first: total.saturating_sub(length), last: end }),
        }
    }
}

#[cfg(test)]
mod tests;
