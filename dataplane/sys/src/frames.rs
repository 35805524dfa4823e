//! Ethernet frames with headers of our own, many by one system call: AF_XDP in copy mode, sending only.
//!
//! For load generators. A frame is handed straight to the device, so nothing is paid for sockets, routes and filters of the
//! sending side, and each frame may come from another address. On loopback that takes two thirds of what `sendmmsg` takes. Who
//! receives them sees ordinary packets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XdpDesc, XdpDescOptions,
    XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, netdevice, sockopt};

/// Frames of a batch.
pub const FRAMES: usize = 64;

/// Bytes of a frame at most.
pub const FRAME_MAX: usize = 2048;

// Rings have a power of two of entries, chunks are powers of two up to a page.
const _: () = assert!(FRAMES.is_power_of_two() && FRAME_MAX.is_power_of_two() && FRAME_MAX <= 4096);

/// The kernel lets go of a socket's queue some time after the socket was closed.
const QUEUE_FREE: Duration = Duration::from_secs(2);

/// Calls for one batch: the kernel takes 32 frames at a time, and after an error it goes on behind the frame.
const CALLS: usize = 2 * FRAMES;

/// Sends frames from the first queue of a device.
#[derive(Debug)]
pub struct FrameSender {
    socket: OwnedFd,
    /// Where frames are written; the kernel only reads it.
    memory: Mapped,
    queued: Shared,
    completed: Shared,
    /// Frames written, whether the kernel knows of them or not.
    written: u32,
    /// Frames that are ours, by their place in `memory`.
    free: Vec<u64>,
}

/// Mapped memory.
#[derive(Debug)]
struct Mapped {
    base: NonNull<u8>,
    len: usize,
}

/// A ring that one side writes and the other reads; its figures count on and on.
#[derive(Debug)]
struct Shared {
    map: Mapped,
    offsets: XdpRingOffset,
}

impl FrameSender {
    /// For a device by its name. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// There is no such device, or the kernel does not let us.
    pub fn open(device: &str) -> io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let memory = Mapped::anonymous(FRAMES * FRAME_MAX)?;
        let registered = XdpUmemReg {
            addr: memory.base.as_ptr().expose_provenance() as u64,
            len: memory.len as u64,
            chunk_size: FRAME_MAX as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(&socket, registered)?;
        // Nothing is received, but there is no socket without a ring for it.
        sockopt::set_xdp_umem_fill_ring_size(&socket, FRAMES as u32)?;
        sockopt::set_xdp_umem_completion_ring_size(&socket, FRAMES as u32)?;
        sockopt::set_xdp_tx_ring_size(&socket, FRAMES as u32)?;
        let offsets = sockopt::xdp_mmap_offsets(&socket)?;
        let queued = Shared::map(&socket, offsets.tx, size_of::<XdpDesc>(), XDP_PGOFF_TX_RING)?;
        let completed = Shared::map(&socket, offsets.cr, size_of::<u64>(), XDP_UMEM_PGOFF_COMPLETION_RING)?;
        // Such a socket does not say it.
        let other = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let index = netdevice::name_to_index(&other, device)?;
        bind(&socket, &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, index, 0))?;
        let free = (0..FRAMES).map(|n| (n * FRAME_MAX) as u64).collect();
        Ok(Self { socket, memory, queued, completed, written: 0, free })
    }

    /// Adds a frame of `len` bytes to the batch; what was there before is still in it. `None`: it is too long, or the batch is
    /// full.
    pub fn frame(&mut self, len: usize) -> Option<&mut [u8]> {
        let len = Some(len).filter(|len| *len <= FRAME_MAX)?;
        let place = self.free.pop()?;
        let frame = XdpDesc { addr: place, len: len as u32, options: XdpDescOptions::empty() };
        // SAFETY: descriptors are what this ring has. There are as many places as frames, so the kernel has read what was here.
        unsafe { self.queued.entry::<XdpDesc>(self.written).write(frame) };
        self.written = self.written.wrapping_add(1);
        // SAFETY: the place is one of those that `open` made, with FRAME_MAX bytes in `memory`; while it is not free nobody
        // else has it, and the kernel learns of it in `send`, which takes `self` again.
        Some(unsafe { std::slice::from_raw_parts_mut(self.memory.base.as_ptr().add(place as usize), len) })
    }

    /// Hands the batch to the device. How many frames the device did not take. Those that it took are in the batch until
    /// somebody has read them: that may be after this returns.
    ///
    /// # Errors
    /// The kernel's, such as that the device is down. The frames stay in the batch.
    pub fn send(&mut self) -> io::Result<u64> {
        self.queued.producer().store(self.written, Ordering::Release);
        let mut refused = 0;
        for _ in 0..CALLS {
            if self.queued.consumer().load(Ordering::Acquire) == self.written {
                break;
            }
            match rustix::net::send(&self.socket, &[], SendFlags::DONTWAIT) {
                // Not all at once, or there was no room for completions.
                Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => {}
                Err(Errno::BUSY) => refused += 1,
                Err(error) => return Err(error.into()),
            }
            self.reclaim();
        }
        // Also those that were taken by an earlier call.
        self.reclaim();
        Ok(refused)
    }

    /// Takes back the frames that the device is done with.
    fn reclaim(&mut self) {
        let ring = &self.completed;
        let (from, to) = (ring.consumer().load(Ordering::Relaxed), ring.producer().load(Ordering::Acquire));
        for n in 0..to.wrapping_sub(from) {
            // SAFETY: addresses are what this ring has, and those between the two figures were written by the kernel.
            let place = unsafe { ring.entry::<u64>(from.wrapping_add(n)).read() };
            self.free.push(place);
        }
        ring.consumer().store(to, Ordering::Release);
    }
}

/// Tries for as long as the queue may still be that of a socket that was closed.
fn bind(socket: impl AsFd, address: &SocketAddrXdp) -> io::Result<()> {
    let deadline = Instant::now() + QUEUE_FREE;
    loop {
        match rustix::net::bind(&socket, address) {
            Err(Errno::BUSY) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            result => return Ok(result?),
        }
    }
}

impl Mapped {
    fn anonymous(len: usize) -> io::Result<Self> {
        // SAFETY: a new mapping where the kernel likes; it touches no memory that is in use.
        let base = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        Self::new(base.cast(), len)
    }

    fn new(base: *mut u8, len: usize) -> io::Result<Self> {
        let base = NonNull::new(base).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, len })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours from when it was made, and what is borrowed of it borrows its owner. The kernel has the
        // pages for as long as it needs them. An error means that nothing was unmapped: then the address space is lost.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl Shared {
    fn map(socket: impl AsFd, offsets: XdpRingOffset, entry: usize, place: u64) -> io::Result<Self> {
        let len = offsets.desc as usize + FRAMES * entry;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping where the kernel likes; it touches no memory that is in use.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), len, protection, MapFlags::SHARED | MapFlags::POPULATE, socket, place)
        }?;
        Ok(Self { map: Mapped::new(base.cast(), len)?, offsets })
    }

    fn figure(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel says that there is a u32 at this offset of the mapping, aligned as one. Both sides change it by
        // atomic operations only.
        unsafe { AtomicU32::from_ptr(self.map.base.as_ptr().add(offset as usize).cast()) }
    }

    /// How many entries were written.
    fn producer(&self) -> &AtomicU32 {
        self.figure(self.offsets.producer)
    }

    /// How many of them were read.
    fn consumer(&self) -> &AtomicU32 {
        self.figure(self.offsets.consumer)
    }

    /// The place of the n-th entry, which lies within the mapping for the type that the ring was mapped for.
    fn entry<T>(&self, n: u32) -> *mut T {
        let entries = self.map.base.as_ptr().wrapping_add(self.offsets.desc as usize).cast::<T>();
        entries.wrapping_add(n as usize % FRAMES)
    }
}
