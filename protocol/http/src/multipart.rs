//! Layout of multipart/byteranges bodies (RFC 9110 section 14.6).

use crate::{content_range::ContentRange, range::ByteRange};

/// One multipart/byteranges body. The boundary must be a token of at most 70 characters that no part contains.
#[derive(Debug, Clone, Copy)]
pub struct Multipart<'a> {
    /// Separates the parts, without dashes.
    pub boundary: &'a str,
    /// Content-Type of each part, if known.
    pub content_type: Option<&'a str>,
    /// Bytes of the whole representation.
    pub total: u64,
}

impl Multipart<'_> {
    /// Appends the value of the response's Content-Type header.
    pub fn write_content_type(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"multipart/byteranges; boundary=");
        out.extend_from_slice(self.boundary.as_bytes());
    }

    /// Appends what stands in front of a part's bytes: delimiter and part head. The first part's delimiter starts with
    /// CRLF like the others (an empty preamble, RFC 2046 section 5.1.1), so that all heads are alike.
    pub fn write_part_head(&self, range: ByteRange, out: &mut Vec<u8>) {
        out.extend_from_slice(DELIMITER);
        out.extend_from_slice(self.boundary.as_bytes());
        if let Some(content_type) = self.content_type {
            out.extend_from_slice(CONTENT_TYPE);
            out.extend_from_slice(content_type.as_bytes());
        }
        out.extend_from_slice(CONTENT_RANGE);
        ContentRange::Satisfied { range, total: Some(self.total) }.write(out);
        out.extend_from_slice(HEAD_END);
    }

    /// Appends what follows the last part.
    pub fn write_trailer(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(DELIMITER);
        out.extend_from_slice(self.boundary.as_bytes());
        out.extend_from_slice(TRAILER_END);
    }

    /// Exact Content-Length of the body with these parts.
    #[must_use]
    pub fn content_length(&self, ranges: &[ByteRange]) -> u64 {
        let delimiter = DELIMITER.len() + self.boundary.len();
        let content_type = self.content_type.map_or(0, |value| CONTENT_TYPE.len() + value.len());
        let fixed = delimiter + content_type + CONTENT_RANGE.len() + "bytes -/".len() + HEAD_END.len();
        let parts: u64 = ranges
            .iter()
            .map(|range| fixed as u64 + digits(range.first) + digits(range.last) + digits(self.total) + range.len())
            .sum();
        parts + (delimiter + TRAILER_END.len()) as u64
    }
}

const DELIMITER: &[u8] = b"\r\n--";
const CONTENT_TYPE: &[u8] = b"\r\nContent-Type: ";
const CONTENT_RANGE: &[u8] = b"\r\nContent-Range: ";
const HEAD_END: &[u8] = b"\r\n\r\n";
const TRAILER_END: &[u8] = b"--\r\n";

/// Number of decimal digits.
fn digits(number: u64) -> u64 {
    u64::from(number.checked_ilog10().unwrap_or(0)) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(layout: &Multipart<'_>, ranges: &[ByteRange]) -> Vec<u8> {
        let mut out = Vec::new();
        for range in ranges {
            layout.write_part_head(*range, &mut out);
            out.extend(std::iter::repeat_n(b'x', range.len() as usize));
        }
        layout.write_trailer(&mut out);
        out
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 9110 section 14.6, with parts of a few bytes.
        let layout =
            Multipart { boundary: "THIS_STRING_SEPARATES", content_type: Some("application/pdf"), total: 8000 };
        let ranges = [ByteRange { first: 500, last: 502 }, ByteRange { first: 7000, last: 7000 }];
        let expected = "\r\n--THIS_STRING_SEPARATES\r\nContent-Type: application/pdf\r\n\
            Content-Range: bytes 500-502/8000\r\n\r\nxxx\r\n--THIS_STRING_SEPARATES\r\n\
            Content-Type: application/pdf\r\nContent-Range: bytes 7000-7000/8000\r\n\r\nx\r\n\
            --THIS_STRING_SEPARATES--\r\n";
        assert_eq!(String::from_utf8(body(&layout, &ranges)).unwrap(), expected);
        let mut value = Vec::new();
        layout.write_content_type(&mut value);
        assert_eq!(value, b"multipart/byteranges; boundary=THIS_STRING_SEPARATES");
    }

    #[test]
    fn the_length_is_exact() {
        for content_type in [None, Some("video/mp4")] {
            for total in [1, 9, 10, 99, 100, 1_000_000] {
                let layout = Multipart { boundary: "b", content_type, total };
                let all: Vec<_> = [0, 1, 9, 10, 99, 100, 999_999]
                    .into_iter()
                    .filter(|first| *first < total)
                    .map(|first| ByteRange { first, last: (first + 3).min(total - 1) })
                    .collect();
                for count in 0..=all.len() {
                    let ranges = &all[..count];
                    assert_eq!(
                        layout.content_length(ranges),
                        body(&layout, ranges).len() as u64,
                        "{layout:?} {ranges:?}"
                    );
                }
            }
        }
    }
}
