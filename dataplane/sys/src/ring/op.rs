//! Entries that complete once, and the futures that wait for them.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::{opcode, types};

use super::accept::AcceptState;
use super::datagram::DatagramState;
use super::file::Scatter;
use super::stream::{RecvState, SendMsg};
use super::{Inner, Ring, fd};
use crate::arena::BlockWriter;
use crate::net::SocketAddress;

/// What becomes of an entry's completion.
pub(super) enum Slot {
    /// A future waits (or will, once polled).
    Waiting { waker: Option<Waker>, hold: Hold },
    /// Completed; the future takes it at its next poll.
    Done { result: i32, hold: Hold },
    /// The future is gone; the resources wait for the kernel.
    #[expect(dead_code, reason = "held for the kernel, never read again")]
    Orphan { hold: Hold },
    /// A multishot accept.
    Accept(Rc<AcceptState>),
    /// A multishot receive from a stream.
    Recv(Rc<RecvState>),
    /// A multishot receive of datagrams.
    Datagrams(Rc<DatagramState>),
}

/// What an entry in flight owns.
#[expect(dead_code, reason = "the descriptors are held for the kernel, never read again")]
pub(super) enum Hold {
    Nothing,
    /// The socket alone.
    Socket(Rc<OwnedFd>),
    Send(Rc<OwnedFd>, Box<SendMsg>),
    Vec(Rc<OwnedFd>, Vec<u8>),
    Block(Rc<OwnedFd>, BlockWriter),
    Scatter(Rc<OwnedFd>, Box<Scatter>),
    Connect(Rc<OwnedFd>, Box<SocketAddress>),
    Word(Rc<OwnedFd>, Box<u64>),
    Time(Box<types::Timespec>),
}

/// A single-shot entry in flight. Dropped early, it is cancelled.
pub struct Op {
    ring: Rc<Inner>,
    id: u64,
    finished: bool,
}

impl Op {
    /// # Safety
    ///
    /// Everything `entry` points to must be owned by `hold`, at an address that does not change when `hold` moves.
    pub(super) unsafe fn start(ring: &Rc<Inner>, hold: Hold, entry: io_uring::squeue::Entry) -> Op {
        // SAFETY: passed on to our caller; the slot owns `hold`.
        let id = unsafe { ring.start(Slot::Waiting { waker: None, hold }, entry) };
        Op { ring: Rc::clone(ring), id, finished: false }
    }

    pub(super) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<(i32, Hold)> {
        let mut slots = self.ring.slots.borrow_mut();
        match slots.get(self.id) {
            Some(Slot::Waiting { waker, .. }) => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Some(Slot::Done { .. }) => {
                self.finished = true;
                match slots.remove(self.id) {
                    Some(Slot::Done { result, hold }) => Poll::Ready((result, hold)),
                    _ => Poll::Ready((-libc::ECANCELED, Hold::Nothing)),
                }
            }
            // Cannot be: the slot is ours until we take it. Answer as cancelled rather than wait for ever.
            _ => Poll::Ready((-libc::ECANCELED, Hold::Nothing)),
        }
    }
}

impl Future for Op {
    type Output = (i32, HeldBack);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_done(cx).map(|(result, hold)| (result, HeldBack(hold)))
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut slots = self.ring.slots.borrow_mut();
        let Some(slot) = slots.get(self.id) else { return };
        match std::mem::replace(slot, Slot::Orphan { hold: Hold::Nothing }) {
            Slot::Waiting { hold, .. } => {
                *slot = Slot::Orphan { hold };
                drop(slots);
                self.ring.cancel(self.id);
            }
            // Completed, never looked at.
            _ => {
                let done = slots.remove(self.id);
                drop(slots);
                drop(done);
            }
        }
    }
}

/// What an operation owned, given back with its result.
pub struct HeldBack(pub(super) Hold);

/// Turns a completion's result into bytes or an error.
pub(super) fn to_result(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// A receive into a vector's spare capacity. Gives the vector back, longer by what arrived.
pub struct Recv(pub(super) Op);

impl Future for Recv {
    type Output = (Vec<u8>, io::Result<usize>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_done(cx).map(|(result, hold)| {
            let mut buffer = match hold {
                Hold::Vec(_, buffer) => buffer,
                _ => Vec::new(),
            };
            let result = to_result(result);
            if let Ok(received) = result {
                // SAFETY: the entry was built over the spare capacity, and the kernel filled `received` bytes of it.
                unsafe { buffer.set_len(buffer.len() + received) };
            }
            (buffer, result)
        })
    }
}

/// A receive straight into a block of the arena.
pub struct RecvInto(pub(super) Op);

impl Future for RecvInto {
    /// The block is `None` only if the ring lost the operation, which is a bug.
    type Output = (Option<BlockWriter>, io::Result<usize>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_done(cx).map(|(result, hold)| {
            let result = to_result(result);
            match hold {
                Hold::Block(_, mut block) => {
                    if let Ok(received) = result {
                        // SAFETY: the entry was built over the block's spare bytes, and the kernel filled `received`.
                        unsafe { block.advance(received) };
                    }
                    (Some(block), result)
                }
                _ => (None, result),
            }
        })
    }
}

impl Ring {
    /// Waits for `descriptor`, an eventfd, to be signalled and takes its count. Cancelled when dropped.
    pub async fn wait_eventfd(&self, descriptor: &Rc<OwnedFd>) -> io::Result<u64> {
        let mut word = Box::new(0u64);
        let entry = opcode::Read::new(fd(descriptor.as_raw_fd()), (&raw mut *word).cast(), 8).build();
        // SAFETY: the word is boxed and owned by the hold, like the descriptor.
        let op = unsafe { Op::start(&self.inner, Hold::Word(Rc::clone(descriptor), word), entry) };
        let (result, held) = op.await;
        to_result(result)?;
        match held.0 {
            Hold::Word(_, word) => Ok(*word),
            _ => Ok(0),
        }
    }

    /// Waits for `time` to pass. Cancelled when dropped.
    pub async fn sleep(&self, time: Duration) {
        let time = Box::new(types::Timespec::from(time));
        let entry = opcode::Timeout::new(&raw const *time).build();
        // SAFETY: the time is boxed and owned by the hold.
        let op = unsafe { Op::start(&self.inner, Hold::Time(time), entry) };
        // ETIME is how a timeout succeeds.
        op.await;
    }

    /// Waits until `descriptor` is ready for writing (or has failed).
    pub(super) async fn writable(&self, descriptor: &Rc<OwnedFd>) -> io::Result<()> {
        let entry = opcode::PollAdd::new(fd(descriptor.as_raw_fd()), libc::POLLOUT as u32).build();
        // SAFETY: the entry points to nothing; the descriptor stays open in the hold.
        let op = unsafe { Op::start(&self.inner, Hold::Socket(Rc::clone(descriptor)), entry) };
        to_result(op.await.0).map(|_| ())
    }

    /// Waits until `descriptor` is ready for reading (or has failed). Cancelled when dropped.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn readable(&self, descriptor: &Rc<OwnedFd>) -> io::Result<()> {
        let entry = opcode::PollAdd::new(fd(descriptor.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the entry points to nothing; the descriptor stays open in the hold.
        let op = unsafe { Op::start(&self.inner, Hold::Socket(Rc::clone(descriptor)), entry) };
        to_result(op.await.0).map(|_| ())
    }

    /// Connects `socket`. Cancelled when dropped.
    pub(super) async fn connect_socket(&self, socket: &Rc<OwnedFd>, address: SocketAddress) -> io::Result<()> {
        let address = Box::new(address);
        let entry = opcode::Connect::new(fd(socket.as_raw_fd()), address.as_ptr(), address.len()).build();
        // SAFETY: the address is boxed and owned by the hold, like the socket.
        let op = unsafe { Op::start(&self.inner, Hold::Connect(Rc::clone(socket), address), entry) };
        to_result(op.await.0).map(|_| ())
    }
}

/// Takes over a descriptor that the kernel has just made for us.
pub(super) fn adopt(raw: i32) -> OwnedFd {
    // SAFETY: an accept's result is a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
