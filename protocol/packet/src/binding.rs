//! Answers to plain Binding requests, those without an attribute, in both dialects (RFC 8489, RFC 3489).
//!
//! All that is asked for beyond the address (CHANGE-REQUEST, PADDING, FINGERPRINT …) is not here but in user space, whose
//! answers to plain requests have the same bytes.

/// The magic cookie (RFC 8489 section 5). Without it a message is of the classic dialect.
pub const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// The first four bytes of a plain request: type and length.
pub const REQUEST: [u8; 4] = [0x00, 0x01, 0, 0];

/// Attributes of an answer at most.
pub const ATTRIBUTES_MAX: usize = 4;

const SUCCESS: u16 = 0x0101;

/// Whose address an attribute has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The client's, as it is seen.
    Client,
    /// The client's, with [`mask_port`] and cookie and transaction id upon it.
    MaskedClient,
    /// Where the request came to, and the answer comes from.
    Local,
    /// The second one, with the second port.
    Other,
}

/// How many attributes an answer has; `other`: there is a second address.
#[must_use]
#[inline]
pub const fn attributes(classic: bool, other: bool) -> usize {
    match (classic, other) {
        (false, false) => 1,
        (true, false) => 2,
        (true, true) => 3,
        (false, true) => 4,
    }
}

/// Type and contents of the attribute at a place below [`attributes`].
#[must_use]
#[inline]
pub const fn attribute(classic: bool, place: usize) -> (u16, Whose) {
    match (classic, place) {
        // XOR-MAPPED-ADDRESS, MAPPED-ADDRESS, RESPONSE-ORIGIN, OTHER-ADDRESS.
        (false, 0) => (0x0020, Whose::MaskedClient),
        (false, 1) => (0x0001, Whose::Client),
        (false, 2) => (0x802b, Whose::Local),
        (false, _) => (0x802c, Whose::Other),
        // MAPPED-ADDRESS, SOURCE-ADDRESS, CHANGED-ADDRESS.
        (true, 0) => (0x0001, Whose::Client),
        (true, 1) => (0x0004, Whose::Local),
        (true, _) => (0x0005, Whose::Other),
    }
}

/// Bytes of an attribute: 8 before the address, and the address.
#[must_use]
#[inline]
pub const fn attribute_length(ipv6: bool) -> usize {
    if ipv6 { 24 } else { 12 }
}

/// What an attribute has before its address.
#[must_use]
#[inline]
pub const fn attribute_head(kind: u16, ipv6: bool, port: u16) -> [[u8; 4]; 2] {
    let ([k0, k1], [p0, p1]) = (kind.to_be_bytes(), port.to_be_bytes());
    let (length, family) = if ipv6 { (20, 2) } else { (8, 1) };
    [[k0, k1, 0, length], [0, family, p0, p1]]
}

/// A port with the cookie upon it.
#[must_use]
#[inline]
pub const fn mask_port(port: u16) -> u16 {
    port ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]])
}

/// Type and length of an answer with so many bytes of attributes; cookie and transaction id are those of the request.
#[must_use]
#[inline]
pub const fn header(length: usize) -> [u8; 4] {
    let ([t0, t1], [l0, l1]) = (SUCCESS.to_be_bytes(), (length as u16).to_be_bytes());
    [t0, t1, l0, l1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_those_of_the_rfc() {
        // RFC 5769 section 2.2: 192.0.2.1, port 32853, masked.
        assert_eq!(attribute_head(0x0020, false, mask_port(32_853)), [[0, 0x20, 0, 8], [0, 1, 0xa1, 0x47]]);
        assert_eq!(attribute_head(0x0020, true, mask_port(32_853)), [[0, 0x20, 0, 0x14], [0, 2, 0xa1, 0x47]]);
        assert_eq!(header(0x60), [1, 1, 0, 0x60]);
    }

    #[test]
    fn no_answer_has_more_than_the_most() {
        for classic in [false, true] {
            assert!(
                attributes(classic, true) <= ATTRIBUTES_MAX && attributes(classic, false) < attributes(classic, true)
            );
            // What is only there with a second address comes last.
            assert_eq!(attribute(classic, attributes(classic, true) - 1).1, Whose::Other);
        }
    }
}
