//! Bytes from one peer to the other over the way that was found: numbered chunks, acknowledgements, a checksum at the end.
//! Reliable enough to show that a way works, and no more.
//!
//! ```text
//! kind      1    0xd0 data, 0xd1 acknowledgement: neither STUN nor ChannelData begin like this (RFC 7983)
//! zero      3
//! number    4    of the chunk; in an acknowledgement, of the first one that is missing
//! body           data 0: how many bytes there will be (8). Data 1 to n: those, CHUNK in each but the last.
//!                Data n + 1: their SHA-256.
//!                Acknowledgement: a bit for each of the 64 chunks behind the missing one (8), and the verdict (1): 0 not
//!                known yet, 1 right, 2 wrong
//! tag       8    of HMAC-SHA-256 over all before, with the key of the introduction
//! ```

mod receiver;
mod sender;
#[cfg(test)]
mod tests;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

pub use receiver::Receiver;
pub use sender::Sender;

use crate::wire::PunchKey;

/// Bytes of a chunk: with all headers, through a relay too, less than a packet of the Internet holds.
pub const CHUNK: usize = 1_100;
/// Bytes of a packet at most.
pub const MAX_PACKET: usize = HEADER + CHUNK + TAG;
/// Bytes of a transfer at most.
pub const MAX_BYTES: u64 = 1 << 30;

/// Chunks that may be on their way at once: as many as an acknowledgement has bits.
const WINDOW: u32 = 64;
const HEADER: usize = 8;
const TAG: usize = 8;
const DATA: u8 = 0xd0;
const ACKNOWLEDGEMENT: u8 = 0xd1;

/// What the receiver says of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As many bytes as were announced, with the right checksum.
    Right,
    /// Not so.
    Wrong,
}

/// Chunks of payload in so many bytes.
const fn chunks(bytes: u64) -> u32 {
    bytes.div_ceil(CHUNK as u64) as u32
}

/// A packet that is the other peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packet<'d> {
    kind: u8,
    number: u32,
    body: &'d [u8],
}

impl<'d> Packet<'d> {
    /// `None` when it is not signed with the key.
    fn open(key: &PunchKey, datagram: &'d [u8]) -> Option<Self> {
        let (signed, received) = datagram.split_last_chunk::<TAG>()?;
        let (&[kind, _, _, _, a, b, c, d], body) = signed.split_first_chunk::<HEADER>()?;
        let known = kind == DATA || kind == ACKNOWLEDGEMENT;
        let right: bool = tag(key, signed).ct_eq(received).into();
        (known && right).then_some(Self { kind, number: u32::from_be_bytes([a, b, c, d]), body })
    }

    /// Writes it to `out`, of [`MAX_PACKET`] bytes, and gives its length.
    fn seal(&self, key: &PunchKey, out: &mut [u8]) -> Option<usize> {
        let [a, b, c, d] = self.number.to_be_bytes();
        let header = [self.kind, 0, 0, 0, a, b, c, d];
        let signed = HEADER + self.body.len();
        let (place, rest) = out.split_at_mut_checked(signed)?;
        place.iter_mut().zip(header.iter().chain(self.body)).for_each(|(place, byte)| *place = *byte);
        rest.get_mut(..TAG)?.copy_from_slice(&tag(key, place));
        Some(signed + TAG)
    }
}

fn tag(key: &PunchKey, signed: &[u8]) -> [u8; TAG] {
    let mut tag = [0; TAG];
    // A key of any length is good for an HMAC.
    if let Ok(mac) = Hmac::<Sha256>::new_from_slice(&key.0) {
        let full = mac.chain_update(signed).finalize().into_bytes();
        tag.iter_mut().zip(full).for_each(|(place, byte)| *place = byte);
    }
    tag
}
