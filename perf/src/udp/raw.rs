//! Datagrams of many sockets by one system call.
//!
//! A sender without GSO pays for each datagram, and for a system call for each client. With headers of our own (raw(7),
//! IP_HDRINCL) the datagrams of all clients go by one call; to the server they are the same. Needs CAP_NET_RAW.

use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, RawProtocol, SocketFlags, SocketType, socket_with};

/// Bytes of an IPv4 header without options, and of UDP's.
pub const HEADERS: usize = 20 + 8;

/// IP's number for what has headers of its own: such a socket receives nothing.
const IPPROTO_RAW: u32 = 255;

/// Opens the socket; `None` where we may not, or where one of the senders is not on IPv4.
pub fn open(senders: &[SocketAddr]) -> Option<OwnedFd> {
    let protocol = Protocol::from_raw(RawProtocol::new(IPPROTO_RAW)?);
    let socket = || socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).ok();
    senders.iter().all(SocketAddr::is_ipv4).then(socket).flatten()
}

/// The headers of a datagram with `len` bytes of payload. The kernel writes IP's checksum; UDP's may be left out (RFC 768).
pub fn headers(from: SocketAddrV4, to: SocketAddrV4, len: usize) -> [u8; HEADERS] {
    let mut headers = [0; HEADERS];
    let (ip, udp) = headers.split_at_mut(20);
    // Version and length, type of service, total length, identification, DF, time to live, UDP, checksum (RFC 791).
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((HEADERS + len) as u16).to_be_bytes());
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = 17;
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    udp[0..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&((8 + len) as u16).to_be_bytes());
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_both_ends_and_the_lengths() {
        let headers = headers("127.1.2.3:258".parse().unwrap(), "127.0.0.1:3478".parse().unwrap(), 164);
        let ip = [0x45, 0, 0, 192, 0, 0, 0x40, 0, 64, 17, 0, 0, 127, 1, 2, 3, 127, 0, 0, 1];
        assert_eq!(headers[..20], ip);
        assert_eq!(headers[20..], [1, 2, 0x0d, 0x96, 0, 172, 0, 0]);
    }

    #[test]
    fn other_families_have_no_such_socket() {
        assert!(open(&["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()]).is_none());
    }
}
