//! UDP by whole Ethernet frames (AF_XDP): an XDP program hands them to the socket of their queue, past the kernel's network stack.
//!
//! Each socket is bound to one queue of one interface, and has memory for its frames (UMEM) and four rings that it shares with the kernel:
//! **fill** says where frames may be written, **receive** where some were; **send** says where frames are to be sent, **completion**
//! which of them have been. Nobody waits: what finds no room is dropped by the kernel and counted.

mod rings;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING, XdpDesc,
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netdevice, sockopt};

pub(crate) use rings::{PLACE, Shared, Transmitter, Umem, bind};

/// Bytes of a frame that is sent at most.
pub const FRAME_MAX: usize = PLACE;

/// Frames that may wait to be taken, and that may be on their way out, of each socket.
pub const RECEIVE_FRAMES: usize = 2048;
/// The same.
pub const SEND_FRAMES: usize = 2048;

// Rings have a power of two of entries.
const _: () = assert!(RECEIVE_FRAMES.is_power_of_two() && SEND_FRAMES.is_power_of_two());

/// Bytes of frames that may wait in the device when the kernel has made packets of them.
const SEND_BYTES: usize = 4 << 20;

/// Calls for what waits to be sent, in copy mode: the kernel takes 32 frames at a time.
const CALLS: usize = SEND_FRAMES / 32 + 2;

/// How frames get to the socket's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The kernel copies them; works with every driver.
    Copy,
    /// The device writes them there; few drivers can.
    ZeroCopy,
}

/// A network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number of it.
    pub index: u32,
    /// Bytes of an IP packet at most.
    pub mtu: usize,
}

/// The receiving half of a socket.
#[derive(Debug)]
pub struct XskReceiver {
    umem: Arc<Umem>,
    fill: Shared,
    received: Shared,
}

/// The sending half.
#[derive(Debug)]
pub struct XskSender {
    out: Transmitter,
}

/// Frames that were received; dropped, their memory is the kernel's again.
#[derive(Debug)]
pub struct Received<'r> {
    receiver: &'r mut XskReceiver,
    from: u32,
    count: u32,
}

/// An interface by its name.
///
/// # Errors
/// There is none.
pub fn interface(name: &str) -> io::Result<Interface> {
    // An AF_XDP socket does not say such things.
    let other = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let index = netdevice::name_to_index(&other, name)?;
    // SAFETY: all zeros is a valid, empty ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    // SAFETY: the kernel reads a name, which ends in a zero, from an ifreq of ours, and writes a number there.
    if unsafe { libc::ioctl(other.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has written this one; every bit pattern is a number.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(Interface { index, mtu: usize::try_from(mtu).unwrap_or(0) })
}

/// A socket that is not yet bound. This is what needs CAP_NET_RAW, and nothing below does.
///
/// # Errors
/// Without that capability, and where the kernel has no AF_XDP.
pub fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?)
}

/// Binds a [`socket`] to a queue.
///
/// # Errors
/// `InvalidInput`: there is no such queue. `Unsupported`: the driver cannot do zero-copy. `ENOBUFS`: RLIMIT_MEMLOCK is too low.
pub fn open(socket: OwnedFd, interface: Interface, queue: u32, mode: Mode) -> io::Result<(XskReceiver, XskSender)> {
    let umem = Arc::new(Umem::register(socket, RECEIVE_FRAMES + SEND_FRAMES)?);
    let socket = &umem.socket;
    sockopt::set_xdp_umem_fill_ring_size(socket, RECEIVE_FRAMES as u32)?;
    sockopt::set_xdp_umem_completion_ring_size(socket, SEND_FRAMES as u32)?;
    sockopt::set_xdp_rx_ring_size(socket, RECEIVE_FRAMES as u32)?;
    sockopt::set_xdp_tx_ring_size(socket, SEND_FRAMES as u32)?;
    // Beyond the system's limit if we may, else up to it.
    if sockopt::set_socket_send_buffer_size_force(socket, SEND_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(socket, SEND_BYTES)?;
    }
    let offsets = sockopt::xdp_mmap_offsets(socket)?;
    let (descriptor, address) = (size_of::<XdpDesc>(), size_of::<u64>());
    let fill = Shared::map(socket, offsets.fr, (RECEIVE_FRAMES, address), XDP_UMEM_PGOFF_FILL_RING)?;
    let received = Shared::map(socket, offsets.rx, (RECEIVE_FRAMES, descriptor), XDP_PGOFF_RX_RING)?;
    let queued = Shared::map(socket, offsets.tx, (SEND_FRAMES, descriptor), XDP_PGOFF_TX_RING)?;
    let completed = Shared::map(socket, offsets.cr, (SEND_FRAMES, address), XDP_UMEM_PGOFF_COMPLETION_RING)?;
    for place in 0..RECEIVE_FRAMES as u32 {
        // SAFETY: addresses are what this ring has, and the kernel reads none of them before it is told so below.
        unsafe { fill.entry::<u64>(place).write(u64::from(place) * PLACE as u64) };
    }
    fill.producer().store(RECEIVE_FRAMES as u32, Ordering::Release);
    let flags = match mode {
        Mode::Copy => SocketAddrXdpFlags::XDP_COPY,
        Mode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
    };
    let flags = flags | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    bind(socket, &SocketAddrXdp::new(flags, interface.index, queue))?;
    let sends = RECEIVE_FRAMES..RECEIVE_FRAMES + SEND_FRAMES;
    let sender = XskSender { out: Transmitter::new(Arc::clone(&umem), queued, completed, sends) };
    Ok((XskReceiver { umem, fill, received }, sender))
}

impl AsFd for XskReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.umem.socket.as_fd()
    }
}

impl XskReceiver {
    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.received.consumer().load(Ordering::Relaxed) == self.received.producer().load(Ordering::Acquire)
    }

    /// Takes what waits, up to `max` frames.
    pub fn receive(&mut self, max: usize) -> Received<'_> {
        let from = self.received.consumer().load(Ordering::Relaxed);
        let waiting = self.received.producer().load(Ordering::Acquire).wrapping_sub(from);
        Received { receiver: self, from, count: waiting.min(max as u32) }
    }
}

impl Received<'_> {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The n-th of them; of no bytes where there is none.
    pub fn frame(&self, nth: usize) -> &[u8] {
        if nth >= self.len() {
            return &[];
        }
        let XdpDesc { addr, len, .. } = self.descriptor(nth as u32);
        let own = addr < (RECEIVE_FRAMES * PLACE) as u64 && addr % PLACE as u64 + u64::from(len) <= PLACE as u64;
        let Some(bytes) = self.receiver.umem.bytes(addr, len as usize).filter(|_| own) else { return &[] };
        // SAFETY: the bytes lie in a place for received frames, which the kernel has given to us and does not write to before it is in
        // the fill ring again: that happens when `self` is dropped. We write only to places for frames that are sent.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr(), len as usize) }
    }

    fn descriptor(&self, nth: u32) -> XdpDesc {
        // SAFETY: descriptors are what this ring has; so many were written by the kernel, which waits with more until they are read.
        unsafe { self.receiver.received.entry::<XdpDesc>(self.from.wrapping_add(nth)).read() }
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        if self.is_empty() {
            return;
        }
        let XskReceiver { umem, fill, received } = &*self.receiver;
        let filled = fill.producer().load(Ordering::Relaxed);
        for nth in 0..self.count {
            // The kernel leaves room before a frame.
            let place = self.descriptor(nth).addr & !(PLACE as u64 - 1);
            // SAFETY: addresses are what this ring has. It has an entry for each place that is received to, and this one is not in it.
            unsafe { fill.entry::<u64>(filled.wrapping_add(nth)).write(place) };
        }
        fill.producer().store(filled.wrapping_add(self.count), Ordering::Release);
        received.consumer().store(self.from.wrapping_add(self.count), Ordering::Release);
        if fill.needs_wakeup() {
            // The device had run out of memory. It has no bytes for us, and says so.
            let _ = rustix::net::recv(&umem.socket, &mut [0_u8; 0][..], RecvFlags::DONTWAIT);
        }
    }
}

impl XskSender {
    /// Frames for which there is room.
    pub fn room(&self) -> usize {
        self.out.room()
    }

    /// Adds a frame of `len` bytes, to be filled by the caller. `None`: it is too long, or there is no room.
    pub fn frame(&mut self, len: usize) -> Option<&mut [u8]> {
        self.out.frame(len)
    }

    /// Has the kernel take what was added, as far as the device takes it now; the rest goes next time. Never waits.
    ///
    /// # Errors
    /// The kernel's, such as that the device is down. The frames stay.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.publish();
        for _ in 0..CALLS {
            let waiting = self.out.waiting();
            if waiting == 0 || !self.out.needs_wakeup() {
                break;
            }
            match self.out.kick() {
                // Not all at once, or the device is busy.
                Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::BUSY) => {}
                Err(error) => return Err(error.into()),
            }
            self.out.reclaim();
            if self.out.waiting() == waiting {
                break;
            }
        }
        self.out.reclaim();
        Ok(())
    }

    /// Frames that the kernel has not taken.
    pub fn waiting(&self) -> usize {
        self.out.waiting() as usize
    }

    /// Frames for the other half that the kernel has dropped so far, because too many waited or none of the memory was its own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn lost(&self) -> io::Result<u64> {
        let figures = sockopt::xdp_statistics(self.out.socket())?;
        Ok(figures.rx_dropped + figures.rx_ring_full.unwrap_or(0))
    }
}
