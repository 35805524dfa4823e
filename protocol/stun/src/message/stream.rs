//! Messages on a stream (RFC 8489 section 6.2.2, RFC 8656 section 12.4): TURN over TCP or TLS has no other framing than the
//! lengths of STUN messages and ChannelData, told apart by their first two bits.

use thiserror::Error;

use super::attribute::padded;
use super::{CHANNEL_DATA_HEADER, CHANNELS, HEADER, MAGIC_COOKIE};

/// Where the next message of a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// It takes these bytes from the front, padding of ChannelData included: at most 65,555.
    Whole(usize),
    /// It is not all there: so many bytes are the least that it takes in all.
    Partial(usize),
}

/// The stream is neither STUN nor ChannelData, and cannot become so again: close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not TURN: neither a STUN message nor ChannelData")]
pub struct NotTurn;

/// Looks at the front of what was received.
///
/// # Errors
/// Nothing that TURN sends begins so. Classic STUN is not spoken over streams.
pub fn next_frame(bytes: &[u8]) -> Result<Frame, NotTurn> {
    let Some((&[k0, k1, l0, l1], rest)) = bytes.split_first_chunk() else {
        return match bytes.first() {
            Some(0x80..) => Err(NotTurn),
            _ => Ok(Frame::Partial(CHANNEL_DATA_HEADER)),
        };
    };
    let kind = u16::from_be_bytes([k0, k1]);
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let total = if kind < 0x4000 {
        let cookie = MAGIC_COOKIE.to_be_bytes();
        let seen = rest.len().min(cookie.len());
        if !length.is_multiple_of(4) || rest.get(..seen) != cookie.get(..seen) {
            return Err(NotTurn);
        }
        HEADER + length
    } else if CHANNELS.contains(&kind) {
        CHANNEL_DATA_HEADER + padded(length)
    } else {
        return Err(NotTurn);
    };
    Ok(if bytes.len() < total { Frame::Partial(total) } else { Frame::Whole(total) })
}
