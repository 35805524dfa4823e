//! What all AF_XDP sockets are made of: memory for frames that the kernel knows (UMEM), and rings that it shares with us.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::xdp::{
    SocketAddrXdp, XdpDesc, XdpDescOptions, XdpRingFlags, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{SendFlags, sockopt};

/// Bytes of a place for a frame.
pub(crate) const PLACE: usize = 2048;

// Places are powers of two up to a page.
const _: () = assert!(PLACE.is_power_of_two() && PLACE <= 4096);

/// The kernel lets go of a socket's queue some time after the socket was closed.
const QUEUE_FREE: Duration = Duration::from_secs(2);

/// Mapped memory.
#[derive(Debug)]
pub(crate) struct Mapped {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, and not to the thread that made it; who reads or writes there says why it may.
unsafe impl Send for Mapped {}
// SAFETY: as above; of a shared `Mapped` only its address can be had.
unsafe impl Sync for Mapped {}

/// A socket and the memory of its frames.
#[derive(Debug)]
pub(crate) struct Umem {
    pub(crate) socket: OwnedFd,
    memory: Mapped,
}

/// A ring that one side writes and the other reads; its figures count on and on.
#[derive(Debug)]
pub(crate) struct Shared {
    map: Mapped,
    offsets: XdpRingOffset,
    entries: u32,
}

/// Frames on their way out: a part of the memory, and the rings by which the kernel hears of them and gives them back.
#[derive(Debug)]
pub(crate) struct Transmitter {
    umem: Arc<Umem>,
    queued: Shared,
    completed: Shared,
    /// Frames written, whether the kernel knows of them or not.
    written: u32,
    /// Frames that are ours, by their place in the memory.
    free: Vec<u64>,
}

/// Tries for as long as the queue may still be that of a socket that was closed.
pub(crate) fn bind(socket: impl AsFd, address: &SocketAddrXdp) -> io::Result<()> {
    let deadline = Instant::now() + QUEUE_FREE;
    loop {
        match rustix::net::bind(&socket, address) {
            Err(Errno::BUSY) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            result => return Ok(result?),
        }
    }
}

impl Umem {
    /// Gives a socket places for so many frames.
    pub(crate) fn register(socket: OwnedFd, frames: usize) -> io::Result<Self> {
        let memory = Mapped::anonymous(frames * PLACE)?;
        let registered = XdpUmemReg {
            addr: memory.base.as_ptr().expose_provenance() as u64,
            len: memory.len as u64,
            chunk_size: PLACE as u32,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        sockopt::set_xdp_umem_reg(&socket, registered)?;
        Ok(Self { socket, memory })
    }

    /// Bytes of the memory; `None`: there are not so many.
    pub(crate) fn bytes(&self, at: u64, len: usize) -> Option<NonNull<u8>> {
        let at = usize::try_from(at).ok()?;
        let fits = at.checked_add(len).is_some_and(|end| end <= self.memory.len);
        // SAFETY: it lies within the mapping.
        fits.then(|| unsafe { self.memory.base.add(at) })
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
    /// A ring of `entries`, of `entry` bytes each, at its `place` in the socket's file.
    pub(crate) fn map(
        socket: impl AsFd,
        offsets: XdpRingOffset,
        (entries, entry): (usize, usize),
        place: u64,
    ) -> io::Result<Self> {
        let len = offsets.desc as usize + entries * entry;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping where the kernel likes; it touches no memory that is in use.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), len, protection, MapFlags::SHARED | MapFlags::POPULATE, socket, place)
        }?;
        Ok(Self { map: Mapped::new(base.cast(), len)?, offsets, entries: entries as u32 })
    }

    fn figure(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: the kernel says that there is a u32 at this offset of the mapping, aligned as one. Both sides change it by
        // atomic operations only.
        unsafe { AtomicU32::from_ptr(self.map.base.as_ptr().add(offset as usize).cast()) }
    }

    /// How many entries were written.
    pub(crate) fn producer(&self) -> &AtomicU32 {
        self.figure(self.offsets.producer)
    }

    /// How many of them were read.
    pub(crate) fn consumer(&self) -> &AtomicU32 {
        self.figure(self.offsets.consumer)
    }

    /// Whether the kernel wants to be called before it looks at the ring again.
    pub(crate) fn needs_wakeup(&self) -> bool {
        let flags = self.offsets.flags.map(|flags| self.figure(flags).load(Ordering::Relaxed));
        flags.is_none_or(|flags| flags & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0)
    }

    /// The place of the n-th entry, which lies within the mapping for the type that the ring was mapped for.
    pub(crate) fn entry<T>(&self, n: u32) -> *mut T {
        let entries = self.map.base.as_ptr().wrapping_add(self.offsets.desc as usize).cast::<T>();
        entries.wrapping_add((n % self.entries) as usize)
    }
}

impl Transmitter {
    /// Sends the frames of these places. `queued` and `completed` are mapped for descriptors and addresses, and have an entry for each
    /// place at least.
    pub(crate) fn new(umem: Arc<Umem>, queued: Shared, completed: Shared, places: std::ops::Range<usize>) -> Self {
        let free = places.map(|place| (place * PLACE) as u64).collect();
        Self { umem, queued, completed, written: 0, free }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.umem.socket
    }

    /// Places that are free.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Adds a frame of `len` bytes to the batch; what was there before is still in it. `None`: it is too long, or the batch is
    /// full.
    pub(crate) fn frame(&mut self, len: usize) -> Option<&mut [u8]> {
        let len = Some(len).filter(|len| *len <= PLACE)?;
        let place = self.free.pop()?;
        let bytes = self.umem.bytes(place, len)?;
        let frame = XdpDesc { addr: place, len: len as u32, options: XdpDescOptions::empty() };
        // SAFETY: descriptors are what this ring has. There are as many entries as places, so the kernel has read what was here.
        unsafe { self.queued.entry::<XdpDesc>(self.written).write(frame) };
        self.written = self.written.wrapping_add(1);
        // SAFETY: the place is one of ours, with PLACE bytes of the memory; while it is not free nobody else has it, and the kernel
        // learns of it in `publish`, which takes `self` again.
        Some(unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr(), len) })
    }

    /// Says to the kernel that there are frames.
    pub(crate) fn publish(&mut self) {
        self.queued.producer().store(self.written, Ordering::Release);
    }

    /// Frames that the kernel has not taken.
    pub(crate) fn waiting(&self) -> u32 {
        self.written.wrapping_sub(self.queued.consumer().load(Ordering::Acquire))
    }

    /// Whether the kernel waits for a call before it takes them.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.queued.needs_wakeup()
    }

    /// Has the kernel take some of them, some tens at a time.
    pub(crate) fn kick(&self) -> Result<(), Errno> {
        rustix::net::send(&self.umem.socket, &[], SendFlags::DONTWAIT).map(drop)
    }

    /// Takes back the frames that the device is done with.
    pub(crate) fn reclaim(&mut self) {
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
