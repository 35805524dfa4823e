//! ChannelData (RFC 8656 section 12.4): channel number, length, data.

use std::ops::RangeInclusive;

/// Bytes in front of the data.
pub const CHANNEL_DATA_HEADER: usize = 4;
/// Channel numbers that may be bound. RFC 8656 section 12 ends them at 0x4fff; clients made for RFC 5766, which there still are, choose
/// among all of these, and nothing else that is spoken here begins so.
pub const CHANNELS: RangeInclusive<u16> = 0x4000..=0x7ffe;

/// A view of one ChannelData message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// Within [`CHANNELS`].
    pub channel: u16,
    /// What is relayed.
    pub data: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// Reads a datagram, or a frame of a stream: padding to a multiple of four bytes may follow the data.
    #[must_use]
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[c0, c1, l0, l1], rest) = bytes.split_first_chunk()?;
        let channel = u16::from_be_bytes([c0, c1]);
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let data = rest.get(..length)?;
        (CHANNELS.contains(&channel) && rest.len() - length < 4).then_some(Self { channel, data })
    }
}

/// What goes in front of `length` bytes of data. Over a stream, zeros up to a multiple of four follow the data.
#[must_use]
#[inline]
pub const fn channel_data_header(channel: u16, length: u16) -> [u8; CHANNEL_DATA_HEADER] {
    let ([c0, c1], [l0, l1]) = (channel.to_be_bytes(), length.to_be_bytes());
    [c0, c1, l0, l1]
}
