//! Ethernet frames with headers of our own, many by one system call: AF_XDP in copy mode, sending only.
//!
//! For load generators. A frame is handed straight to the device, so nothing is paid for sockets, routes and filters of the
//! sending side, and each frame may come from another address. On loopback that takes two thirds of what `sendmmsg` takes. Who
//! receives them sees ordinary packets.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XdpDesc};

use crate::xsk::{self, PLACE, Shared, Transmitter, Umem};

/// Frames of a batch.
pub const FRAMES: usize = 64;

/// Bytes of a frame at most.
pub const FRAME_MAX: usize = PLACE;

// Rings have a power of two of entries.
const _: () = assert!(FRAMES.is_power_of_two());

/// Calls for one batch: the kernel takes 32 frames at a time, and after an error it goes on behind the frame.
const CALLS: usize = 2 * FRAMES;

/// Sends frames from the first queue of a device.
#[derive(Debug)]
pub struct FrameSender {
    out: Transmitter,
}

impl FrameSender {
    /// For a device by its name. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// There is no such device, or the kernel does not let us.
    pub fn open(device: &str) -> io::Result<Self> {
        let interface = xsk::interface(device)?;
        let umem = Arc::new(Umem::register(xsk::socket()?, FRAMES)?);
        let socket = &umem.socket;
        // Nothing is received, but there is no socket without a ring for it.
        sockopt::set_xdp_umem_fill_ring_size(socket, FRAMES as u32)?;
        sockopt::set_xdp_umem_completion_ring_size(socket, FRAMES as u32)?;
        sockopt::set_xdp_tx_ring_size(socket, FRAMES as u32)?;
        let offsets = sockopt::xdp_mmap_offsets(socket)?;
        let queued = Shared::map(socket, offsets.tx, (FRAMES, size_of::<XdpDesc>()), XDP_PGOFF_TX_RING)?;
        let completed = Shared::map(socket, offsets.cr, (FRAMES, size_of::<u64>()), XDP_UMEM_PGOFF_COMPLETION_RING)?;
        xsk::bind(socket, &SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, interface.index, 0))?;
        let out = Transmitter::new(Arc::clone(&umem), queued, completed, 0..FRAMES);
        Ok(Self { out })
    }

    /// Adds a frame of `len` bytes to the batch; what was there before is still in it. `None`: it is too long, or the batch is
    /// full.
    pub fn frame(&mut self, len: usize) -> Option<&mut [u8]> {
        self.out.frame(len)
    }

    /// Hands the batch to the device. How many frames the device did not take. Those that it took are in the batch until
    /// somebody has read them: that may be after this returns.
    ///
    /// # Errors
    /// The kernel's, such as that the device is down. The frames stay in the batch.
    pub fn send(&mut self) -> io::Result<u64> {
        self.out.publish();
        let mut refused = 0;
        for _ in 0..CALLS {
            if self.out.waiting() == 0 {
                break;
            }
            match self.out.kick() {
                // Not all at once, or there was no room for completions.
                Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => {}
                Err(Errno::BUSY) => refused += 1,
                Err(error) => return Err(error.into()),
            }
            self.out.reclaim();
        }
        // Also those that were taken by an earlier call.
        self.out.reclaim();
        Ok(refused)
    }
}
