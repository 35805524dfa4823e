//! The Content-Range header (RFC 9110 section 14.4).

use crate::{
    grammar::{decimal, trim},
    range::ByteRange,
    writer::push_number,
};

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
        let (unit, rest) = value.split_at_checked(6)?;
        if !unit.eq_ignore_ascii_case(b"bytes ") {
            return None;
        }
        let slash = rest.iter().position(|&byte| byte == b'/')?;
        let (range, total) = (trim(rest.get(..slash)?), trim(rest.get(slash + 1..)?));
        let total = if total == b"*" { None } else { Some(decimal(total)?) };
        if range == b"*" {
            return Some(Self::Unsatisfied { total: total? });
        }
        let dash = range.iter().position(|&byte| byte == b'-')?;
        let (first, last) = (decimal(range.get(..dash)?)?, decimal(range.get(dash + 1..)?)?);
        // `last` stays below 2^64 - 1, so that a length never overflows.
        let valid = first <= last && total.is_none_or(|total| last < total) && last < u64::MAX;
        valid.then_some(Self::Satisfied { range: ByteRange { first, last }, total })
    }

    /// Appends the value.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"bytes ");
        match *self {
            Self::Satisfied { range, total } => {
                push_number(out, range.first);
                out.push(b'-');
                push_number(out, range.last);
                out.push(b'/');
                match total {
                    Some(total) => push_number(out, total),
                    None => out.push(b'*'),
                }
            }
            Self::Unsatisfied { total } => {
                out.extend_from_slice(b"*/");
                push_number(out, total);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let range = ByteRange { first: 42, last: 1233 };
        for (value, text) in [
            // RFC 9110 section 14.4.
            (ContentRange::Satisfied { range, total: Some(1234) }, "bytes 42-1233/1234"),
            (ContentRange::Satisfied { range, total: None }, "bytes 42-1233/*"),
            (ContentRange::Unsatisfied { total: 1234 }, "bytes */1234"),
            (ContentRange::Unsatisfied { total: 0 }, "bytes */0"),
        ] {
            let mut out = Vec::new();
            value.write(&mut out);
            assert_eq!(out, text.as_bytes());
            assert_eq!(ContentRange::parse(&out), Some(value));
        }
        assert!(ContentRange::parse(b"Bytes 0-0/1").is_some());
    }

    #[test]
    fn contradictions_are_refused() {
        for text in [
            "",
            "bytes",
            "bytes 0-1",
            "bytes 1-0/2",
            "bytes 0-2/2",
            "bytes */*",
            "bytes -1/2",
            "bytes 0-/2",
            "bytes 0-1/-2",
            "items 0-1/2",
            "bytes=0-1/2",
            "bytes 0-18446744073709551615/*",
            "bytes 0-18446744073709551616/*",
        ] {
            assert_eq!(ContentRange::parse(text.as_bytes()), None, "{text}");
        }
    }
}
