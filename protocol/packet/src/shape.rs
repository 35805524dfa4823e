//! What a client's datagram can be, by its first bytes and its length: all that is not of these shapes user space drops, too.

/// Bytes of a STUN header (RFC 8489 section 5).
pub const STUN_HEADER: usize = 20;

/// Bytes of a ChannelData header (RFC 8656 section 12.4).
pub const CHANNEL_HEADER: usize = 4;

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A STUN message of either dialect: Binding, TURN, punching.
    Stun,
    /// ChannelData, with no more behind it than padding.
    ChannelData,
    /// Nothing that is spoken here.
    Other,
}

/// The shape of a datagram of `length` bytes that begins with `first`.
#[must_use]
#[inline]
pub const fn shape(first: [u8; 4], length: usize) -> Shape {
    let said = u16::from_be_bytes([first[2], first[3]]) as usize;
    match first[0] >> 6 {
        // Also the classic dialect's attributes are of whole words.
        0 if length == STUN_HEADER + said && said & 3 == 0 => Shape::Stun,
        1 if length >= CHANNEL_HEADER + said && length - CHANNEL_HEADER - said <= 3 => Shape::ChannelData,
        _ => Shape::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_be_those_that_are_said() {
        assert_eq!(shape([0, 1, 0, 0], 20), Shape::Stun);
        assert_eq!(shape([0, 1, 0, 8], 28), Shape::Stun);
        assert_eq!(shape([0x3f, 0xff, 0xff, 0xfc], 20 + 0xfffc), Shape::Stun);
        for (first, length) in [([0, 1, 0, 0], 19), ([0, 1, 0, 0], 21), ([0, 1, 0, 6], 26), ([0, 1, 0, 8], 27)] {
            assert_eq!(shape(first, length), Shape::Other, "{first:?} {length}");
        }
    }

    #[test]
    fn channel_data_may_have_padding_behind_it() {
        for length in 9..=12 {
            assert_eq!(shape([0x40, 0, 0, 5], length), Shape::ChannelData);
        }
        assert_eq!(shape([0x7f, 0xff, 0, 0], 4), Shape::ChannelData);
        for length in [4, 8, 13] {
            assert_eq!(shape([0x40, 0, 0, 5], length), Shape::Other);
        }
    }

    #[test]
    fn all_else_is_nothing() {
        // DTLS, RTP.
        for first in [0x80, 0xc0, 0xff] {
            assert_eq!(shape([first, 0, 0, 0], 20), Shape::Other);
        }
    }
}
