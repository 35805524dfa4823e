//! Datagrams: one multishot receive per socket, all into one pool of large buffers.
//!
//! A buffer takes a whole **train**: what the kernel (UDP_GRO) or the sender (UDP_SEGMENT) has joined of one flow, up to 64 KiB
//! in segments of one length. Trains of all sockets of a shard go into one queue in the order of their completions, so that
//! one task can take them in batches. Short ones are copied out and their buffers given back at once: so many may wait, and
//! a batch be as long as it takes to join what goes one way, without a buffer of 66 KiB for each. A socket that finds the pool
//! empty is armed again when the queue has been taken; its datagrams wait in its own buffer in the kernel until then, or are
//! dropped there, newest first.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use io_uring::{cqueue, opcode, types::RecvMsgOut};

use super::buffers::{BufferPool, DATAGRAMS};
use super::op::Slot;
use super::{Inner, Ring, fd};
use crate::net::SocketAddress;
use crate::udp::Train;

/// Bytes of a receive buffer: the largest train, with the kernel's header, source address and control data before it.
const BUFFER_BYTES: u32 = 66 << 10;

/// Bytes kept for control data: the length of a train's segments.
const CONTROL_BYTES: usize = 32;

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct DatagramConfig {
    /// Receive buffers, 66 KiB of address space each; a power of two. So many trains may wait to be taken, beside those that
    /// were copied: at most [`COPIES_MAX`] of at most [`COPY_MAX`] bytes.
    pub buffers: u16,
}

impl Default for DatagramConfig {
    fn default() -> Self {
        Self { buffers: 256 }
    }
}

/// The datagrams of a shard: their pool and their queue. At most one per ring.
pub struct Datagrams {
    ring: Rc<Inner>,
    queue: Rc<Queue>,
}

#[derive(Default)]
struct Queue {
    arrived: RefCell<VecDeque<Arrived>>,
    /// Sockets whose receive has ended and has to be armed again.
    unarmed: RefCell<Vec<Rc<DatagramState>>>,
    waker: RefCell<Option<Waker>>,
    /// Receives that ended with an error, which is one of the network's, not of the socket.
    errors: Cell<u64>,
}

/// A socket that receives. Dropped, it stops; what had arrived is still in the queue.
pub struct DatagramSocket {
    ring: Rc<Inner>,
    state: Rc<DatagramState>,
}

pub(super) struct DatagramState {
    socket: Rc<OwnedFd>,
    key: u64,
    queue: Rc<Queue>,
    entry: Cell<Option<u64>>,
    stopped: Cell<bool>,
    /// Room for name and control data; the kernel reads it while the receive is armed.
    header: Box<libc::msghdr>,
}

/// A train of datagrams, in a buffer of the pool; it goes back there when dropped.
pub struct Arrived {
    store: Store,
    key: u64,
    source: SocketAddr,
    segment: u16,
    truncated: bool,
}

/// Where a train's bytes are.
enum Store {
    /// In a buffer of the pool, which goes back there when this is dropped.
    Pool { ring: Rc<Inner>, id: u16, payload: Range<u32> },
    /// In memory of their own.
    Copy(Box<[u8]>),
}

/// Longest payload that is copied out of its buffer: any datagram that Ethernet takes.
pub const COPY_MAX: usize = 1500;

/// When so many wait, what comes stays in its buffer; and when there are no more of those, in the kernel.
pub const COPIES_MAX: usize = 4096;

impl Ring {
    /// Sets up the pool.
    ///
    /// # Errors
    /// The kernel's, or `AlreadyExists` when the ring has one.
    pub fn datagrams(&self, config: DatagramConfig) -> io::Result<Datagrams> {
        if self.inner.datagram_buffers.get().is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let pool = BufferPool::register(&self.inner.uring.borrow(), DATAGRAMS, config.buffers, BUFFER_BYTES)?;
        let _ = self.inner.datagram_buffers.set(pool);
        Ok(Datagrams { ring: Rc::clone(&self.inner), queue: Rc::default() })
    }
}

impl Datagrams {
    /// Starts receiving on `socket`, a UDP socket. `key` comes back with what arrives there.
    pub fn receive(&self, socket: OwnedFd, key: u64) -> DatagramSocket {
        // SAFETY: all zeros is a valid, empty msghdr.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        header.msg_controllen = CONTROL_BYTES as _;
        let state = Rc::new(DatagramState {
            socket: Rc::new(socket),
            key,
            queue: Rc::clone(&self.queue),
            entry: Cell::new(None),
            stopped: Cell::new(false),
            header,
        });
        DatagramState::arm(&state, &self.ring);
        DatagramSocket { ring: Rc::clone(&self.ring), state }
    }

    /// Waits until something has arrived.
    pub async fn arrive(&self) {
        std::future::poll_fn(|cx| {
            if !self.queue.arrived.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.rearm();
            *self.queue.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Moves what has arrived to the end of `batch`, until that holds `max`.
    pub fn take(&self, batch: &mut Vec<Arrived>, max: usize) {
        let mut arrived = self.queue.arrived.borrow_mut();
        let count = arrived.len().min(max.saturating_sub(batch.len()));
        batch.extend(arrived.drain(..count));
    }

    /// Whether the kernel has less than half of the pool's buffers.
    pub fn is_short(&self) -> bool {
        self.ring.datagram_buffers.get().is_some_and(|pool| pool.taken() * 2 > pool.count())
    }

    /// Receives that ended with an error so far: what ICMP had to say, mostly.
    pub fn errors(&self) -> u64 {
        self.queue.errors.get()
    }

    fn rearm(&self) {
        for state in self.queue.unarmed.borrow_mut().drain(..) {
            if !state.stopped.get() {
                DatagramState::arm(&state, &self.ring);
            }
        }
    }
}

impl DatagramSocket {
    /// The key it was given.
    pub fn key(&self) -> u64 {
        self.state.key
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.state.socket.as_fd()
    }
}

impl Drop for DatagramSocket {
    fn drop(&mut self) {
        self.state.stopped.set(true);
        if let Some(id) = self.state.entry.take() {
            self.ring.cancel(id);
        }
    }
}

impl DatagramState {
    fn arm(state: &Rc<Self>, ring: &Rc<Inner>) {
        let entry =
            opcode::RecvMsgMulti::new(fd(state.socket.as_raw_fd()), &raw const *state.header, DATAGRAMS).build();
        // SAFETY: the header is boxed and owned by the state, which the slot owns, like the socket; it has no pointers itself.
        let id = unsafe { ring.start(Slot::Datagrams(Rc::clone(state)), entry) };
        state.entry.set(Some(id));
    }

    pub(super) fn complete(state: &Rc<Self>, ring: &Rc<Inner>, entry: &cqueue::Entry, more: bool) {
        if !more {
            state.entry.set(None);
            if !state.stopped.get() {
                state.queue.unarmed.borrow_mut().push(Rc::clone(state));
            }
        }
        let result = entry.result();
        match cqueue::buffer_select(entry.flags()) {
            Some(id) => {
                if let Some(arrived) = Arrived::parse(ring, state, id, result.max(0).unsigned_abs())
                    && !state.stopped.get()
                {
                    state.queue.arrived.borrow_mut().push_back(arrived);
                }
            }
            None if matches!(-result, 0 | libc::ENOBUFS | libc::ECANCELED) => {}
            None => state.queue.errors.set(state.queue.errors.get() + 1),
        }
        if let Some(waker) = state.queue.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl Arrived {
    /// Takes over a buffer that a completion named. `None`, and the buffer is given back, when there is no source address.
    fn parse(ring: &Rc<Inner>, state: &DatagramState, id: u16, len: u32) -> Option<Arrived> {
        let pool = ring.datagram_buffers.get()?;
        pool.take(id);
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        // From here on dropping it gives the buffer back.
        let mut arrived = Arrived {
            store: Store::Pool { ring: Rc::clone(ring), id, payload: 0..0 },
            key: state.key,
            source: unspecified,
            segment: 0,
            truncated: false,
        };
        let buffer = pool.bytes(id, len);
        let message = RecvMsgOut::parse(buffer, &state.header).ok()?;
        let payload = message.payload_data();
        arrived.source = SocketAddress::parse(message.name_data())?;
        arrived.truncated = message.is_payload_truncated() || message.is_control_data_truncated();
        arrived.segment = match segment_length(message.control_data()) {
            Some(length) => u16::try_from(length).ok().filter(|length| *length > 0)?,
            None => u16::try_from(payload.len()).unwrap_or(u16::MAX),
        };
        if payload.len() <= COPY_MAX && state.queue.arrived.borrow().len() < COPIES_MAX {
            arrived.store = Store::Copy(payload.into());
        } else if let Store::Pool { payload: place, .. } = &mut arrived.store {
            // The payload is the end of what was filled.
            *place = len - payload.len() as u32..len;
        }
        Some(arrived)
    }

    /// The key of the socket it came to.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Who sent it.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Bytes of every segment of [`Arrived::payload`] but the last, which may be shorter.
    pub fn segment(&self) -> usize {
        usize::from(self.segment)
    }

    /// The segments, one behind the other.
    pub fn payload(&self) -> &[u8] {
        match &self.store {
            Store::Copy(bytes) => bytes,
            Store::Pool { ring, id, payload } => {
                let pool = ring.datagram_buffers.get();
                pool.map_or(&[], |pool| &pool.bytes(*id, payload.end)[payload.start as usize..])
            }
        }
    }

    /// All of that.
    pub fn train(&self) -> Train<'_> {
        Train::new(self.source, self.payload(), self.segment())
    }

    /// Each datagram of the train; an empty datagram is one too.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.train().datagrams()
    }

    /// Whether bytes are missing, because the sender's train was longer than a buffer.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Self::Pool { ring, id, .. } = self
            && let Some(pool) = ring.datagram_buffers.get()
        {
            pool.give(*id);
        }
    }
}

/// The UDP_GRO value in a message's control data, if there is one.
pub(crate) fn segment_length(control: &[u8]) -> Option<libc::c_int> {
    let header_len = size_of::<libc::cmsghdr>();
    if control.len() < header_len + size_of::<libc::c_int>() {
        return None;
    }
    let mut header = MaybeUninit::<libc::cmsghdr>::uninit();
    // SAFETY: as many bytes are copied as a header has, and they are there; every bit pattern is a valid header.
    let header = unsafe {
        std::ptr::copy_nonoverlapping(control.as_ptr(), header.as_mut_ptr().cast(), header_len);
        header.assume_init()
    };
    // Nothing else is asked for, so nothing can come before it.
    if header.cmsg_level != libc::SOL_UDP || header.cmsg_type != libc::UDP_GRO {
        return None;
    }
    control[header_len..].first_chunk().map(|bytes| libc::c_int::from_ne_bytes(*bytes))
}
