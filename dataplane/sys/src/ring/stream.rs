//! TCP connections on the ring.
//!
//! A client's bytes arrive by one multishot receive per connection, into buffers of the shared pool. A buffer is handed to
//! the reader only when it waits; bytes that arrive while nobody reads (a pipelined burst during a response) are copied
//! aside, at most [`ASIDE_MAX`], and then the receive is stopped: a connection can neither empty the pool nor grow.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, Range};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use io_uring::{cqueue, opcode};

use super::buffers::{Chunk, STREAMS};
use super::op::{Hold, Op, Recv, RecvInto, Slot, to_result};
use super::{Inner, Ring, fd};
use crate::arena::{BlockRef, BlockWriter};
use crate::net::{self, SocketAddress};

/// Bytes a connection may send ahead of being read before its receive is paused.
const ASIDE_MAX: usize = 16 << 10;

/// A connected TCP socket that belongs to one ring.
pub struct Stream {
    ring: Ring,
    socket: Rc<OwnedFd>,
    recv: Rc<RecvState>,
}

/// What the multishot receive of one connection has brought.
pub(super) struct RecvState {
    socket: Rc<OwnedFd>,
    ready: RefCell<Option<Chunk>>,
    aside: RefCell<Vec<u8>>,
    waker: RefCell<Option<Waker>>,
    entry: Cell<Option<u64>>,
    end: Cell<Option<i32>>,
    interrupted: Cell<bool>,
    closed: Cell<bool>,
}

/// Bytes received: borrowed from the pool, or copied aside earlier.
pub enum Received {
    /// In a buffer of the shared pool: hold it briefly.
    Pooled(Chunk),
    /// On the heap.
    Aside(Vec<u8>),
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Received::Pooled(chunk) => chunk,
            Received::Aside(bytes) => bytes,
        }
    }
}

/// A message to send: a head, then a slice of a block. Owned by the ring while the kernel reads it; reuse it afterwards.
pub struct SendMsg {
    /// Sent first.
    pub head: Vec<u8>,
    head_sent: usize,
    body: Option<(BlockRef, Range<usize>)>,
    parts: [libc::iovec; 2],
    header: libc::msghdr,
}

impl Ring {
    /// Takes over a connected socket.
    pub fn stream(&self, socket: OwnedFd) -> Stream {
        let socket = Rc::new(socket);
        let recv = RecvState {
            socket: Rc::clone(&socket),
            ready: RefCell::default(),
            aside: RefCell::default(),
            waker: RefCell::default(),
            entry: Cell::new(None),
            end: Cell::new(None),
            interrupted: Cell::new(false),
            closed: Cell::new(false),
        };
        Stream { ring: self.clone(), socket, recv: Rc::new(recv) }
    }

    /// Connects to `address`. Cancelled when dropped.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let socket = Rc::new(net::stream_socket(address)?);
        self.connect_socket(&socket, SocketAddress::from(address)).await?;
        let socket = Rc::try_unwrap(socket).or_else(|shared| shared.try_clone())?;
        Ok(self.stream(socket))
    }
}

impl Stream {
    /// Waits for bytes; an empty result is the end of the stream.
    ///
    /// # Errors
    ///
    /// The socket's, and `TimedOut` after [`Stream::interrupt`].
    pub async fn recv(&self) -> io::Result<Received> {
        let state = &self.recv;
        let received = std::future::poll_fn(|cx| {
            if state.interrupted.replace(false) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let aside = std::mem::take(&mut *state.aside.borrow_mut());
            if !aside.is_empty() {
                return Poll::Ready(Ok(Received::Aside(aside)));
            }
            if let Some(chunk) = state.ready.borrow_mut().take() {
                return Poll::Ready(Ok(Received::Pooled(chunk)));
            }
            match state.end.get() {
                Some(0) => return Poll::Ready(Ok(Received::Aside(Vec::new()))),
                Some(error) => return Poll::Ready(Err(io::Error::from_raw_os_error(-error))),
                None => {}
            }
            let mut waker = state.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            drop(waker);
            if state.entry.get().is_none() {
                RecvState::arm(state, &self.ring.inner);
            }
            Poll::Pending
        })
        .await;
        state.waker.borrow_mut().take();
        received
    }

    /// Ends a [`Stream::recv`] that waits, or the next one, with `TimedOut`.
    pub fn interrupt(&self) {
        self.recv.interrupted.set(true);
        if let Some(waker) = self.recv.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Sends some of the message; returns it with the bytes sent, already advanced past them.
    pub async fn send(&self, msg: Box<SendMsg>, more: bool) -> (Box<SendMsg>, io::Result<usize>) {
        let mut msg = msg;
        let header = msg.prepare();
        let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
        let entry = opcode::SendMsg::new(fd(self.socket.as_raw_fd()), header).flags(flags as u32).build();
        // SAFETY: the message is boxed and owned by the hold, and so are the head and the block its parts point to.
        let op = unsafe { Op::start(&self.ring.inner, Hold::Send(Rc::clone(&self.socket), msg), entry) };
        let (result, held) = op.await;
        let result = to_result(result);
        let mut msg = match held.0 {
            Hold::Send(_, msg) => msg,
            _ => SendMsg::new(),
        };
        if let Ok(sent) = result {
            msg.advance(sent);
        }
        (msg, result)
    }

    /// Sends some of the message without a copy of the body (sendfile), waiting when the socket is full. Only for a body
    /// whose block [`BlockRef::slice_for_sendfile`] gives out.
    pub async fn send_file(&self, msg: &mut SendMsg) -> io::Result<usize> {
        loop {
            match self.try_send_file(msg) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ring.writable(&self.socket).await?,
                result => return result,
            }
        }
    }

    fn try_send_file(&self, msg: &mut SendMsg) -> io::Result<usize> {
        let mut total = 0;
        if msg.head_sent < msg.head.len() {
            let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
            let flags = if msg.body_left() > 0 { flags | rustix::net::SendFlags::MORE } else { flags };
            let sent = rustix::net::send(&*self.socket, &msg.head[msg.head_sent..], flags)?;
            msg.head_sent += sent;
            total += sent;
            if msg.head_sent < msg.head.len() {
                return Ok(total);
            }
        }
        let Some((block, range)) = &mut msg.body else { return Ok(total) };
        if range.start >= range.end {
            return Ok(total);
        }
        let Some((file, start)) = block.slice_for_sendfile() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this block's memory must not go to sendfile"));
        };
        let mut offset = start + range.start as u64;
        // Entries on the ring must see a blocking socket (a non-blocking one makes them fail instead of wait), and sendfile
        // a non-blocking one. Nothing runs between these calls.
        rustix::io::ioctl_fionbio(&*self.socket, true)?;
        let sent = rustix::fs::sendfile(&*self.socket, file, Some(&mut offset), range.len());
        rustix::io::ioctl_fionbio(&*self.socket, false)?;
        match sent {
            Ok(sent) => {
                range.start += sent;
                Ok(total + sent)
            }
            Err(_) if total > 0 => Ok(total),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends some of `parts` at once; `WouldBlock` when the socket is full. For bytes that the caller keeps: the kernel copies
    /// them before this returns.
    pub fn try_send(&self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        use rustix::net::SendFlags;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(rustix::net::sendmsg(&*self.socket, parts, &mut Default::default(), flags)?)
    }

    /// Waits until the socket takes bytes again (or has failed).
    pub async fn writable(&self) -> io::Result<()> {
        self.ring.writable(&self.socket).await
    }

    /// Receives into the spare capacity of `buffer`, once; not to be mixed with [`Stream::recv`]. Cancelled when dropped.
    pub fn recv_vec(&self, mut buffer: Vec<u8>) -> Recv {
        let spare = buffer.spare_capacity_mut();
        let len = u32::try_from(spare.len()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(fd(self.socket.as_raw_fd()), spare.as_mut_ptr().cast(), len).build();
        // SAFETY: the spare capacity is on the heap and owned by the hold.
        Recv(unsafe { Op::start(&self.ring.inner, Hold::Vec(Rc::clone(&self.socket), buffer), entry) })
    }

    /// Receives at most `limit` bytes into the block, once; not to be mixed with [`Stream::recv`]. Cancelled when dropped.
    pub fn recv_into(&self, mut block: BlockWriter, limit: usize) -> RecvInto {
        let (spare, len) = block.spare();
        let len = u32::try_from(len.min(limit)).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(fd(self.socket.as_raw_fd()), spare, len).build();
        // SAFETY: the block's memory does not move and lives while the hold owns its writer, which alone may fill it.
        RecvInto(unsafe { Op::start(&self.ring.inner, Hold::Block(Rc::clone(&self.socket), block), entry) })
    }

    /// Ends both directions at once: whatever waits on this connection returns.
    pub fn abort(&self) {
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
    }

    /// Open, and nothing has come that was not read.
    pub fn is_quiet(&self) -> bool {
        use rustix::net::RecvFlags;
        let mut byte = [0u8; 1];
        let peeked = rustix::net::recv(&*self.socket, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Closing becomes a reset: the peer is not to take what it has for the whole.
    pub fn reset_on_close(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&*self.socket, Some(std::time::Duration::ZERO));
    }

    /// Has the kernel send at most so many bytes per second, evenly; `None`: as fast as it can. Holds for what is queued already.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_pacing_rate(&self, bytes_per_s: Option<u64>) -> io::Result<()> {
        net::set_max_pacing_rate(&*self.socket, bytes_per_s)
    }

    /// Bytes handed to the kernel that the peer has not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: SIOCOUTQ writes one int to the address given.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if result == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// Sends the end of the stream; what the peer still sends is read and dropped by the caller, or not at all.
    pub fn finish_sending(&self) {
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Write);
    }

    #[cfg(test)]
    pub(super) fn aside_len(&self) -> usize {
        self.recv.aside.borrow().len()
    }

    /// The address of the other end.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        net::peer_address(&*self.socket)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.recv.closed.set(true);
        self.recv.ready.borrow_mut().take();
        if let Some(id) = self.recv.entry.take() {
            // The receive keeps the socket open until it ends; the peer should see the end now.
            self.ring.inner.cancel(id);
        }
    }
}

impl RecvState {
    fn arm(state: &Rc<Self>, ring: &Rc<Inner>) {
        let entry = opcode::RecvMulti::new(fd(state.socket.as_raw_fd()), STREAMS).build();
        // SAFETY: the entry points to nothing of ours but the registered pool; the slot owns the state and so the socket.
        let id = unsafe { ring.start(Slot::Recv(Rc::clone(state)), entry) };
        state.entry.set(Some(id));
    }

    pub(super) fn complete(state: &Rc<Self>, ring: &Rc<Inner>, entry: &cqueue::Entry, more: bool) {
        if !more {
            state.entry.set(None);
        }
        let result = entry.result();
        if let Some(id) = cqueue::buffer_select(entry.flags()) {
            let chunk = Chunk::new(ring, id, result.max(0) as u32);
            if state.closed.get() || result <= 0 {
                drop(chunk);
            } else {
                state.take(ring, chunk);
            }
        }
        if result <= 0 && !more {
            match -result {
                // No buffer was free, or we paused it: armed again by the reader.
                libc::ENOBUFS | libc::ECANCELED => {}
                error => state.end.set(Some(if error == 0 { 0 } else { -error })),
            }
        }
        if let Some(waker) = state.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn take(&self, ring: &Rc<Inner>, chunk: Chunk) {
        let reading = self.waker.borrow().is_some();
        let mut ready = self.ready.borrow_mut();
        let mut aside = self.aside.borrow_mut();
        if reading && ready.is_none() && aside.is_empty() {
            *ready = Some(chunk);
            return;
        }
        if let Some(first) = ready.take() {
            aside.extend_from_slice(&first);
        }
        aside.extend_from_slice(&chunk);
        if aside.len() >= ASIDE_MAX
            && let Some(id) = self.entry.get()
        {
            drop((ready, aside));
            ring.cancel(id);
        }
    }
}

impl SendMsg {
    /// An empty message.
    pub fn new() -> Box<SendMsg> {
        const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Box::new(SendMsg {
            head: Vec::new(),
            head_sent: 0,
            body: None,
            parts: [EMPTY; 2],
            // SAFETY: all zeros is a valid, empty msghdr.
            header: unsafe { std::mem::zeroed() },
        })
    }

    /// Forgets what was sent and what was left; keeps the head's capacity.
    pub fn clear(&mut self) {
        self.head.clear();
        self.head_sent = 0;
        self.body = None;
    }

    /// Sets the slice of a block that follows the head. `range` must lie within the block's filled bytes.
    pub fn set_body(&mut self, block: BlockRef, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= block.filled(), "only filled bytes may be sent");
        self.body = Some((block, range));
    }

    /// Whether [`Stream::send_file`] can take the body.
    pub fn can_send_file(&self) -> bool {
        self.body.as_ref().is_some_and(|(block, _)| block.is_sendable())
    }

    /// Bytes of the head not yet sent.
    pub fn head_left(&self) -> usize {
        self.head.len() - self.head_sent
    }

    /// Bytes of the body not yet sent.
    pub fn body_left(&self) -> usize {
        self.body.as_ref().map_or(0, |(_, range)| range.len())
    }

    /// Nothing left.
    pub fn is_sent(&self) -> bool {
        self.head_left() == 0 && self.body_left() == 0
    }

    /// What is left to send: of the head, and of the body.
    pub fn left(&self) -> (&[u8], &[u8]) {
        let body = self.body.as_ref().map_or(&[][..], |(block, range)| &block.bytes()[range.clone()]);
        (&self.head[self.head_sent..], body)
    }

    fn prepare(&mut self) -> *const libc::msghdr {
        let head = &self.head[self.head_sent..];
        self.parts[0] = libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() };
        let body = self.body.as_ref().map_or(&[][..], |(block, range)| &block.bytes()[range.clone()]);
        self.parts[1] = libc::iovec { iov_base: body.as_ptr().cast_mut().cast(), iov_len: body.len() };
        let skip = usize::from(head.is_empty());
        self.header.msg_iov = self.parts[skip..].as_mut_ptr();
        self.header.msg_iovlen = (2 - skip - usize::from(body.is_empty() && skip == 0)) as _;
        &raw const self.header
    }

    /// Passes over the first `sent` bytes of what is left.
    pub fn advance(&mut self, sent: usize) {
        let of_head = sent.min(self.head_left());
        self.head_sent += of_head;
        if let Some((_, range)) = &mut self.body {
            range.start = (range.start + sent - of_head).min(range.end);
        }
    }
}
