//! Datagrams from any address by one call, with all their headers of our own making.
//!
//! A sender without GSO pays for each datagram, and for a system call for each client. Frames ([`shoal_sys::frames`]) of all
//! clients go by one call and pass half of the kernel by; to the server they are the same as any others.

use std::io;
use std::net::SocketAddrV4;

use shoal_sys::frames::{FRAME_MAX, FrameSender};

use super::stamp::PAYLOAD_MAX;

/// The device that loopback addresses are on.
const DEVICE: &str = "lo";

/// Bytes of the headers of Ethernet, of IPv4 without options, and of UDP.
const HEADERS: usize = 14 + 20 + 8;

// A payload in a channel has room.
const _: () = assert!(HEADERS + 4 + PAYLOAD_MAX <= FRAME_MAX);

/// Datagrams of a batch, until it is sent.
pub(super) struct Frames(FrameSender);

impl Frames {
    /// On loopback.
    pub(super) fn open() -> io::Result<Self> {
        FrameSender::open(DEVICE).map(Self)
    }

    /// Adds a datagram with `len` bytes of payload, to be written there. `None`: it is too long, or the batch is full.
    pub(super) fn datagram(&mut self, from: SocketAddrV4, to: SocketAddrV4, len: usize) -> Option<&mut [u8]> {
        let (head, payload) = self.0.frame(HEADERS + len)?.split_first_chunk_mut()?;
        *head = headers(from, to, len);
        Some(payload)
    }

    /// Sends the batch. How many datagrams the device did not take.
    pub(super) fn send(&mut self) -> io::Result<u64> {
        self.0.send()
    }
}

/// UDP's checksum may be left out (RFC 768), IP's may not.
fn headers(from: SocketAddrV4, to: SocketAddrV4, len: usize) -> [u8; HEADERS] {
    let mut headers = [0; HEADERS];
    let (ethernet, rest) = headers.split_at_mut(14);
    let (ip, udp) = rest.split_at_mut(20);
    // Loopback's own address is zero; the type is IPv4.
    ethernet[12] = 0x08;
    // Version and length, type of service, total length, identification, DF, time to live, UDP, checksum (RFC 791).
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((20 + 8 + len) as u16).to_be_bytes());
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = 17;
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    udp[0..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&((8 + len) as u16).to_be_bytes());
    headers
}

/// Of an even number of bytes (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.as_chunks::<2>().0;
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_both_ends_the_lengths_and_the_sum() {
        let headers = headers("127.1.2.3:258".parse().unwrap(), "127.0.0.1:3478".parse().unwrap(), 164);
        assert_eq!(headers[..14], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
        assert_eq!(headers[14..24], [0x45, 0, 0, 192, 0, 0, 0x40, 0, 64, 17]);
        assert_eq!(headers[26..34], [127, 1, 2, 3, 127, 0, 0, 1]);
        assert_eq!(headers[34..], [1, 2, 0x0d, 0x96, 0, 172, 0, 0]);
        assert_eq!(checksum(&headers[14..34]), 0, "the sum with the checksum in it");
    }

    #[test]
    fn the_checksum_is_that_of_a_known_header() {
        // The words 4500 0073 0000 4000 4011 0000 c0a8 0001 c0a8 00c7 add up to 479e, with both carries.
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(checksum(&header), 0xb861);
    }
}
