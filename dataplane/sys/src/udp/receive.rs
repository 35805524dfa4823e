//! Receiving trains by system calls, many messages each, for a program that asks in a loop of its own and wants nobody to be
//! woken: a socket that a ring or an epoll set watches costs its sender a call into them for every packet.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::{Buffers, MESSAGE_MAX, own_socket, set_int};
use crate::net::SocketAddress;
use crate::ring::segment_length;

/// From one buffer to the next: a train, and so much that not all of them begin in the same sets of a cache.
const STRIDE: usize = 65_536 + 192;

const _: () = assert!(STRIDE > MESSAGE_MAX);

/// Control data of a message: the length of a train's segments (CMSG_SPACE(4)) and where it was sent to (CMSG_SPACE(12)), aligned
/// as a cmsghdr is.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 56]);

/// Buffers for so many trains, and what was last received into them.
pub struct ReceiveBatch {
    buffers: Box<[u8]>,
    names: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
    /// Bytes of payload, name and control data, for each train received.
    received: Vec<[usize; 3]>,
}

/// A train of datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Train<'a> {
    source: SocketAddr,
    destination: Option<Ipv4Addr>,
    payload: &'a [u8],
    segment: usize,
}

/// A socket at all IPv4 addresses of this host, on a port that the system chooses. Its trains say which address they were sent to.
///
/// # Errors
/// The kernel's.
pub fn everywhere_socket(buffers: Buffers) -> io::Result<OwnedFd> {
    let socket = own_socket((Ipv4Addr::UNSPECIFIED, 0).into(), buffers)?;
    set_int(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    Ok(socket)
}

impl ReceiveBatch {
    /// For at most `trains` at once, 64 KiB of address space each.
    pub fn new(trains: usize) -> Self {
        // SAFETY: all zeros is a valid sockaddr_in6.
        let name: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        Self {
            buffers: vec![0; trains * STRIDE].into_boxed_slice(),
            names: vec![name; trains].into_boxed_slice(),
            controls: vec![Control([0; 56]); trains].into_boxed_slice(),
            received: Vec::with_capacity(trains),
        }
    }

    /// Takes what waits at `socket`, as far as there is room, in place of what was received before. Never waits. How many
    /// trains there were.
    ///
    /// # Errors
    /// The kernel's. That nothing waits is none.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.received.clear();
        let count = self.names.len();
        let mut parts = Vec::with_capacity(count);
        let mut headers = Vec::with_capacity(count);
        for ((buffer, name), control) in
            self.buffers.chunks_exact_mut(STRIDE).zip(&mut self.names).zip(&mut self.controls)
        {
            parts.push(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: MESSAGE_MAX });
            // SAFETY: all zeros is a valid, empty mmsghdr.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_name = (name as *mut libc::sockaddr_in6).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            header.msg_hdr.msg_iovlen = 1;
            headers.push(header);
        }
        for (header, part) in headers.iter_mut().zip(&mut parts) {
            header.msg_hdr.msg_iov = part;
        }
        // SAFETY: each header points to a part, a name and control data of the lengths it gives, each its own; all of them outlive
        // this call, and nobody else has them.
        let taken = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                count as u32,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(taken) = usize::try_from(taken) else {
            let error = io::Error::last_os_error();
            let nothing = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            return if nothing { Ok(0) } else { Err(error) };
        };
        self.received.extend(headers.iter().take(taken).map(|header| {
            let libc::mmsghdr { msg_hdr: message, msg_len } = header;
            [*msg_len as usize, message.msg_namelen as usize, message.msg_controllen as _]
        }));
        Ok(taken)
    }

    /// What was last received.
    pub fn trains(&self) -> impl Iterator<Item = Train<'_>> {
        let places = self.buffers.chunks_exact(STRIDE).zip(&self.names).zip(&self.controls);
        places.zip(&self.received).filter_map(|(((buffer, name), control), &[bytes, name_len, control_len])| {
            let payload = &buffer[..bytes];
            // SAFETY: as many bytes as a sockaddr_in6 has; all of them were zeroed before the kernel wrote there.
            let name = unsafe {
                std::slice::from_raw_parts((name as *const libc::sockaddr_in6).cast::<u8>(), size_of_val(name))
            };
            let source = SocketAddress::parse(&name[..name_len.min(name.len())])?;
            let control = &control.0[..control_len.min(control.0.len())];
            let joined = segment_length(control);
            let segment = joined.and_then(|length| usize::try_from(length).ok()).unwrap_or(bytes);
            Some(Train { source, destination: destination(control), payload, segment: segment.max(1) })
        })
    }
}

/// The address of an IP_PKTINFO (ip(7)), wherever it is in a message's control data.
fn destination(mut control: &[u8]) -> Option<Ipv4Addr> {
    // Length, level, type: a cmsghdr. What follows is aligned as it is.
    while let Some((header, _)) = control.split_first_chunk::<16>() {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *header;
        let len = usize::from_ne_bytes([a, b, c, d, e, f, g, h]).max(header.len());
        let kind = (libc::c_int::from_ne_bytes([i, j, k, l]), libc::c_int::from_ne_bytes([m, n, o, p]));
        if kind == (libc::IPPROTO_IP, libc::IP_PKTINFO) {
            // The device's index, the address of ours that would answer, the one that is in the packet.
            return control.get(header.len() + 8..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets));
        }
        control = control.get(len.next_multiple_of(8)..)?;
    }
    None
}

impl<'a> Train<'a> {
    pub(crate) fn new(source: SocketAddr, payload: &'a [u8], segment: usize) -> Self {
        Self { source, destination: None, payload, segment: segment.max(1) }
    }

    /// One datagram.
    pub fn single(source: SocketAddr, payload: &'a [u8]) -> Self {
        Self::new(source, payload, payload.len())
    }

    /// The datagrams, one behind the other.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Bytes of each of them but the last, which may be shorter; never 0.
    pub fn segment(&self) -> usize {
        self.segment
    }

    /// Who sent it.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// The address it was sent to, at an [`everywhere_socket`].
    pub fn destination(&self) -> Option<Ipv4Addr> {
        self.destination
    }

    /// Each datagram; an empty one is one too.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let (payload, segment) = (self.payload, self.segment);
        let count = payload.len().div_ceil(segment).max(1);
        (0..count).map(move |n| &payload[n * segment..payload.len().min((n + 1) * segment)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::local_address;
    use crate::udp::SendBatch;

    const BUFFERS: Buffers = Buffers { receive: 4 << 20, send: 1 << 20 };

    fn sockets(host: &str) -> (OwnedFd, OwnedFd) {
        let socket = || own_socket(format!("{host}:0").parse().unwrap(), BUFFERS).unwrap();
        (socket(), socket())
    }

    #[test]
    fn trains_and_single_datagrams_arrive_with_their_source_over_both_families() {
        for host in ["127.0.0.1", "[::1]"] {
            let (sender, receiver) = sockets(host);
            let (from, to) = (local_address(&sender).unwrap(), local_address(&receiver).unwrap());
            let train: Vec<u8> = (0..2500).map(|i| (i * 7) as u8).collect();
            let mut batch = SendBatch::default();
            batch.push(to, [&train[..]], 1000);
            batch.push(to, [&b"one"[..]], 3);
            batch.push(to, [&b""[..]], 0);
            assert_eq!(batch.send(&sender).datagrams, 5);
            let mut received = ReceiveBatch::new(8);
            assert_eq!(received.receive(&receiver).unwrap(), 3);
            let got: Vec<&[u8]> = received.trains().flat_map(|train| train.datagrams()).collect();
            assert_eq!(got, [&train[..1000], &train[1000..2000], &train[2000..], b"one", b""]);
            assert!(received.trains().all(|train| train.source() == from));
        }
    }

    #[test]
    fn what_there_is_no_room_for_comes_next_and_then_nothing() {
        let (sender, receiver) = sockets("127.0.0.1");
        let to = local_address(&receiver).unwrap();
        let texts: Vec<[u8; 1]> = (0..5).map(|n| [n]).collect();
        let mut batch = SendBatch::default();
        texts.iter().for_each(|text| batch.push(to, [&text[..]], 1));
        batch.send(&sender);
        let mut received = ReceiveBatch::new(3);
        let mut got = Vec::new();
        for count in [3, 2, 0] {
            assert_eq!(received.receive(&receiver).unwrap(), count);
            got.extend(received.trains().flat_map(|train| train.datagrams()).map(<[u8]>::to_vec));
        }
        assert_eq!(got, texts);
    }

    #[test]
    fn a_socket_at_all_addresses_says_which_one_was_meant() {
        let (sender, other) = sockets("127.0.0.1");
        let receiver = everywhere_socket(BUFFERS).unwrap();
        let port = local_address(&receiver).unwrap().port();
        let payload = [7; 300];
        let mut batch = SendBatch::default();
        // A train has the length of its segments before its address, a single datagram the address alone.
        batch.push(SocketAddr::from(([127, 3, 2, 1], port)), [&payload[..]], 100);
        batch.push(SocketAddr::from(([127, 4, 5, 6], port)), [&payload[..]], 300);
        batch.push(local_address(&other).unwrap(), [&payload[..]], 300);
        assert_eq!(batch.send(&sender).datagrams, 5);
        let mut received = ReceiveBatch::new(4);
        let mut take = |socket: &OwnedFd| {
            received.receive(socket).unwrap();
            received.trains().map(|train| (train.destination(), train.datagrams().len())).collect::<Vec<_>>()
        };
        let [first, second] = [[127, 3, 2, 1], [127, 4, 5, 6]].map(|octets| Some(Ipv4Addr::from(octets)));
        assert_eq!(take(&receiver), [(first, 3), (second, 1)]);
        assert_eq!(take(&other), [(None, 1)]);
    }
}
