//! UDP sockets, and sending trains of datagrams: many of one length by one message, many messages by one system call.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::net::SocketAddress;

mod receive;

pub use receive::{ReceiveBatch, Train, everywhere_socket};

/// Segments of a message at most: the kernel's UDP_MAX_SEGMENTS was 64 before Linux 6.9.
pub const SEGMENTS_MAX: usize = 64;

/// Bytes of a message at most: an IPv4 packet's 65,535 without its header and UDP's.
pub const MESSAGE_MAX: usize = 65_507;

/// Messages handed over by one system call.
const MESSAGES_PER_CALL: usize = 64;

/// Buffers of a socket, in bytes; the kernel bounds them by net.core.rmem_max and wmem_max, unless the process has CAP_NET_ADMIN.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// For what was received and not yet taken.
    pub receive: usize,
    /// For what was sent and has not left the host.
    pub send: usize,
}

/// What a socket's queues hold and have lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queues {
    /// Bytes of memory that wait to be received.
    pub receive: u32,
    /// The bound of it: as granted, which may be less than what was asked for.
    pub receive_max: u32,
    /// Datagrams dropped because it was full.
    pub drops: u32,
}

/// A socket that shares its address and port with the other shards' (SO_REUSEPORT), and receives trains.
///
/// # Errors
/// The kernel's.
pub fn shard_socket(address: SocketAddr, buffers: Buffers) -> io::Result<OwnedFd> {
    let socket = socket(address, buffers)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// A socket that has its address and port for itself, and receives trains.
///
/// # Errors
/// The kernel's: `AddrInUse` when somebody has the port.
pub fn own_socket(address: SocketAddr, buffers: Buffers) -> io::Result<OwnedFd> {
    let socket = socket(address, buffers)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn socket(address: SocketAddr, buffers: Buffers) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Beyond the system's limit if we may, else up to it.
    if sockopt::set_socket_recv_buffer_size_force(&socket, buffers.receive).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, buffers.receive)?;
    }
    sockopt::set_socket_send_buffer_size(&socket, buffers.send)?;
    // A kernel that cannot join datagrams hands over each by itself.
    let _ = set_int(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    Ok(socket)
}

/// Whether what this socket sends must not be cut into fragments on its way (RFC 8656 sections 14 and 18.9, DONT-FRAGMENT): with DF,
/// and refused where the path is known to take less; else without DF, and cut here where it must be.
///
/// # Errors
/// The kernel's.
pub fn set_dont_fragment(socket: impl AsFd, ipv6: bool, dont: bool) -> io::Result<()> {
    match (ipv6, dont) {
        (false, true) => set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        (false, false) => set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        (true, true) => set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
        (true, false) => set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
    }
}

fn set_int(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option's value is read from an int of ours, whose length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What waits in the socket's queue, and what was lost there.
///
/// # Errors
/// The kernel's.
pub fn queues(socket: impl AsFd) -> io::Result<Queues> {
    // As linux/sock_diag.h has them: RMEM_ALLOC, RCVBUF, WMEM_ALLOC, SNDBUF, FWD_ALLOC, WMEM_QUEUED, OPTMEM, BACKLOG, DROPS.
    let mut info = [0u32; 9];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to an array of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [receive, receive_max, .., drops] = info;
    Ok(Queues { receive, receive_max, drops })
}

/// What became of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Trains that the kernel took.
    pub trains: u64,
    /// Datagrams in them.
    pub datagrams: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Datagrams for which the socket's send buffer had no room. They are gone: later ones would only be late.
    pub no_room: u64,
    /// Datagrams that the kernel refused: no route, or more than the path takes where fragments are not wanted.
    pub refused: u64,
}

impl Sent {
    fn count(&mut self, message: &Message) {
        self.trains += 1;
        self.datagrams += message.datagrams();
        self.bytes += message.bytes as u64;
    }
}

impl AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.trains += other.trains;
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
        self.no_room += other.no_room;
        self.refused += other.refused;
    }
}

/// Messages to send from one socket, by as few system calls as can be. Bytes are borrowed, not copied.
#[derive(Default)]
pub struct SendBatch<'a> {
    messages: Vec<Message>,
    parts: Vec<IoSlice<'a>>,
}

/// A train to one destination.
struct Message {
    to: SocketAddress,
    /// Its place in `parts`.
    parts: std::ops::Range<usize>,
    bytes: usize,
    /// Length of each datagram but the last, which may be shorter.
    segment: usize,
}

impl Message {
    fn datagrams(&self) -> u64 {
        self.bytes.div_ceil(self.segment.max(1)).max(1) as u64
    }
}

impl<'a> SendBatch<'a> {
    /// Adds one datagram, made of `parts`, or a train of them: then all datagrams but the last have `segment` bytes, and there are
    /// no more than [`SEGMENTS_MAX`] of them, with no more than [`MESSAGE_MAX`] bytes together.
    pub fn push(&mut self, to: SocketAddr, parts: impl IntoIterator<Item = &'a [u8]>, segment: usize) {
        let start = self.parts.len();
        self.parts.extend(parts.into_iter().map(IoSlice::new));
        let bytes = self.parts[start..].iter().map(|part| part.len()).sum();
        self.messages.push(Message { to: to.into(), parts: start..self.parts.len(), bytes, segment });
    }

    /// No messages.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Hands all messages to the kernel, and forgets them. Never waits.
    pub fn send(&mut self, socket: impl AsFd) -> Sent {
        self.send_reporting(socket, |_, _, _| {})
    }

    /// The same, and says of what was not taken: the message, in the order in which they were pushed, how many of its datagrams, and
    /// how many bytes of them.
    pub fn send_reporting(&mut self, socket: impl AsFd, mut lost: impl FnMut(usize, u64, u64)) -> Sent {
        let mut sent = Sent::default();
        let mut from = 0;
        while let Some(first) = self.messages.get(from) {
            let count = (self.messages.len() - from).min(MESSAGES_PER_CALL);
            let before = sent;
            match send_some(socket.as_fd().as_raw_fd(), &self.messages[from..from + count], &self.parts) {
                Ok(taken) => {
                    self.messages[from..from + taken].iter().for_each(|message| sent.count(message));
                    from += taken;
                    continue;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN | libc::ENOBUFS) => sent.no_room += first.datagrams(),
                    // A device without checksums, or a segment longer than the path takes: fragments are for single datagrams.
                    Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE) if first.datagrams() > 1 => {
                        self.send_singly(socket.as_fd().as_raw_fd(), first, &mut sent);
                    }
                    _ => sent.refused += first.datagrams(),
                },
            }
            let gone = sent.no_room + sent.refused - before.no_room - before.refused;
            if gone > 0 {
                lost(from, gone, first.bytes as u64 - (sent.bytes - before.bytes));
            }
            from += 1;
        }
        self.clear();
        sent
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.parts.clear();
    }

    /// Sends the datagrams of a train each by itself.
    fn send_singly(&self, socket: libc::c_int, train: &Message, sent: &mut Sent) {
        let bytes: Vec<u8> = self.parts[train.parts.clone()].iter().flat_map(|part| part.iter().copied()).collect();
        for datagram in bytes.chunks(train.segment) {
            let part = [IoSlice::new(datagram)];
            let message = Message { to: train.to, parts: 0..1, bytes: datagram.len(), segment: datagram.len() };
            match send_some(socket, std::slice::from_ref(&message), &part) {
                Ok(_) => sent.count(&message),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => sent.no_room += 1,
                Err(_) => sent.refused += 1,
            }
        }
    }
}

/// Control data of a message: its UDP_SEGMENT.
#[repr(C)]
#[derive(Clone, Copy)]
struct SegmentControl {
    header: libc::cmsghdr,
    segment: u16,
    padding: [u8; 6],
}

// CMSG_SPACE(2) and CMSG_LEN(2): the value follows its header at once, and the next header would be aligned to 8.
const _: () = assert!(size_of::<SegmentControl>() == 24 && std::mem::offset_of!(SegmentControl, segment) == 16);

/// Hands at most [`MESSAGES_PER_CALL`] messages over; how many the kernel took. An error is the first message's.
fn send_some(socket: libc::c_int, messages: &[Message], parts: &[IoSlice<'_>]) -> io::Result<usize> {
    let count = messages.len().min(MESSAGES_PER_CALL);
    let mut controls = [const { MaybeUninit::<SegmentControl>::uninit() }; MESSAGES_PER_CALL];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES_PER_CALL];
    for ((message, control), header) in messages.iter().zip(&mut controls).zip(&mut headers) {
        // SAFETY: all zeros is a valid, empty mmsghdr.
        let header = &mut header.write(unsafe { std::mem::zeroed() }).msg_hdr;
        header.msg_name = message.to.as_ptr().cast_mut().cast();
        header.msg_namelen = message.to.len();
        let parts = &parts[message.parts.clone()];
        // An IoSlice has the layout of an iovec, by its documentation.
        header.msg_iov = parts.as_ptr().cast_mut().cast();
        header.msg_iovlen = parts.len() as _;
        if message.datagrams() > 1 {
            let control = control.write(SegmentControl {
                header: libc::cmsghdr {
                    cmsg_len: (size_of::<libc::cmsghdr>() + size_of::<u16>()) as _,
                    cmsg_level: libc::SOL_UDP,
                    cmsg_type: libc::UDP_SEGMENT,
                },
                segment: message.segment as u16,
                padding: [0; 6],
            });
            header.msg_control = (control as *mut SegmentControl).cast();
            header.msg_controllen = size_of::<SegmentControl>() as _;
        }
    }
    // SAFETY: the first `count` headers point to an address, parts and control data that outlive this call; the kernel only reads
    // them, but for the headers' lengths.
    let sent = unsafe { libc::sendmmsg(socket, headers.as_mut_ptr().cast(), count as u32, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests;
