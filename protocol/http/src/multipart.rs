//! Layout of multipart/byteranges bodies (RFC 9110 section 14.6).

use crate::range::ByteRange;

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
        let _ = out;
    }

    /// Appends what stands in front of a part's bytes: delimiter and part head.
    pub fn write_part_head(&self, range: ByteRange, out: &mut Vec<u8>) {
        let _ = (range, out);
    }

    /// Appends what follows the last part.
    pub fn write_trailer(&self, out: &mut Vec<u8>) {
        let _ = out;
    }

    /// Exact Content-Length of the body with these parts.
    #[must_use]
    pub fn content_length(&self, ranges: &[ByteRange]) -> u64 {
        let _ = ranges;
        todo!()
    }
}
