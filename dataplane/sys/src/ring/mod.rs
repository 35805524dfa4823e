//! A shard's own io_uring, nested in its executor.
//!
//! ```text
//!   tasks ──push──▶ SQ ──turn()──▶ kernel ──▶ CQ ──turn()──▶ wake tasks
//! ```
//!
//! Nothing is submitted one by one: tasks push entries and wake the driver, and the driver's next [`Ring::turn`] enters
//! the kernel once for all of them. The driver sleeps on [`Ring::eventfd`] only when a turn found nothing
//! ([`Ring::prepare_sleep`]).
//!
//! Each entry in flight has a slot in a slab; its index and generation are the entry's `user_data`. The slot owns every
//! buffer and descriptor the kernel may still use. A future that is dropped early leaves its slot behind as an orphan and
//! asks for cancellation; the slot is freed by the completion, never before.

mod accept;
mod buffers;
mod datagram;
mod file;
mod op;
mod stream;

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

pub use accept::Acceptor;
pub use buffers::Chunk;
pub(crate) use datagram::segment_length;
pub use datagram::{Arrived, COPIES_MAX, COPY_MAX, DatagramConfig, DatagramSocket, Datagrams};
pub use file::{Landed, Page, ReadBlock};
pub use op::{Op, Recv, RecvInto};
pub use stream::{Received, SendMsg, Stream};

use accept::AcceptState;
use buffers::BufferPool;
use datagram::DatagramState;
use op::{Hold, Slot};
use stream::RecvState;

#[cfg(test)]
mod tests;

/// Sizes of a ring. The defaults suit one shard with tens of thousands of connections.
#[derive(Debug, Clone, Copy)]
pub struct RingConfig {
    /// Submission entries; pushed beyond it, they are submitted early.
    pub entries: u32,
    /// Receive buffers shared by all connections of the ring; a power of two.
    pub buffers: u16,
    /// Bytes of each receive buffer.
    pub buffer_bytes: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { entries: 2048, buffers: 1024, buffer_bytes: 4096 }
    }
}

/// Counters of a ring since its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct RingStats {
    /// Entries submitted.
    pub submitted: u64,
    /// Completions seen.
    pub completed: u64,
    /// System calls made.
    pub enters: u64,
    /// Receives that found no buffer in the pool and were repeated.
    pub no_buffers: u64,
}

/// Handle to a shard's ring; clones share it. Not `Send`: a ring belongs to the thread that made it.
#[derive(Clone)]
pub struct Ring {
    inner: Rc<Inner>,
}

pub(crate) struct Inner {
    uring: RefCell<IoUring>,
    slots: RefCell<Slots>,
    buffers: BufferPool,
    /// For datagrams, once there are sockets of that kind.
    datagram_buffers: OnceCell<BufferPool>,
    /// Entries that found the submission queue full; each belongs to a slot, or is a cancellation of one.
    backlog: RefCell<VecDeque<squeue::Entry>>,
    eventfd: OwnedFd,
    driver: RefCell<Option<Waker>>,
    /// Tasks that let the others go first.
    yielded: RefCell<Vec<Waker>>,
    stats: Cell<RingStats>,
}

/// The slab of entries in flight.
struct Slots {
    slots: Vec<(u32, Option<Slot>)>,
    free: Vec<u32>,
}

/// `user_data` of entries whose completion nobody waits for (cancellations).
const IGNORED: u64 = u64::MAX;

impl Ring {
    /// Sets up a ring for the calling thread. Needs Linux 6.1 or later.
    pub fn new(config: RingConfig) -> io::Result<Ring> {
        let mut uring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(config.entries * 4)
            .build(config.entries)?;
        // Saves the kernel a descriptor look-up on each enter; an old kernel refuses and loses only that.
        let _ = uring.submitter().register_ring_fd();
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        uring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        uring.completion().disable_eventfd();
        let buffers = BufferPool::register(&uring, buffers::STREAMS, config.buffers, config.buffer_bytes)?;
        Ok(Ring {
            inner: Rc::new(Inner {
                uring: RefCell::new(uring),
                slots: RefCell::new(Slots { slots: Vec::new(), free: Vec::new() }),
                buffers,
                datagram_buffers: OnceCell::new(),
                backlog: RefCell::default(),
                eventfd,
                driver: RefCell::new(None),
                yielded: RefCell::default(),
                stats: Cell::new(RingStats::default()),
            }),
        })
    }

    /// Signalled when completions arrive after [`Ring::prepare_sleep`] said true.
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.inner.eventfd.as_fd()
    }

    /// Submits what was pushed, takes what completed and wakes its tasks. Never waits. Returns completions handled.
    pub fn turn(&self) -> io::Result<usize> {
        self.inner.enter()?;
        while !self.inner.backlog.borrow().is_empty() {
            let before = self.inner.backlog.borrow().len();
            self.inner.feed();
            self.inner.enter()?;
            if self.inner.backlog.borrow().len() == before {
                break;
            }
        }
        let mut handled = 0;
        loop {
            let mut batch = [const { std::mem::MaybeUninit::uninit() }; COMPLETION_BATCH];
            let mut uring = self.inner.uring.borrow_mut();
            let completions = uring.completion().fill(&mut batch).len();
            drop(uring);
            for entry in &batch[..completions] {
                // SAFETY: `fill` initialised the first `completions` elements.
                let entry: &cqueue::Entry = unsafe { entry.assume_init_ref() };
                self.inner.complete(entry);
            }
            handled += completions;
            if completions < COMPLETION_BATCH {
                break;
            }
        }
        self.inner.count(|stats| stats.completed += handled as u64);
        let yielded = std::mem::take(&mut *self.inner.yielded.borrow_mut());
        handled += yielded.len();
        yielded.into_iter().for_each(Waker::wake);
        Ok(handled)
    }

    /// Waits for the next turn, so that everybody else has one. A task that only woke itself would keep the executor from
    /// ever being idle, and so from looking at its own rings.
    pub async fn next_turn(&self) {
        let mut waited = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.inner.yielded.borrow_mut().push(cx.waker().clone());
            self.inner.wake_driver();
            Poll::Pending
        })
        .await;
    }

    /// Keeps the driver's waker: the next push wakes it.
    pub fn set_driver(&self, cx: &Context<'_>) {
        let mut driver = self.inner.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
    }

    /// Whether a turn would find something: pushed, completed, or ready to be. Asks memory that is shared with the kernel, not
    /// the kernel.
    pub fn has_work(&self) -> bool {
        if !self.inner.backlog.borrow().is_empty() || !self.inner.yielded.borrow().is_empty() {
            return true;
        }
        let mut uring = self.inner.uring.borrow_mut();
        let submissions = uring.submission();
        if !submissions.is_empty() || submissions.taskrun() || submissions.cq_overflow() {
            return true;
        }
        drop(submissions);
        !uring.completion().is_empty()
    }

    /// Turns the eventfd on and says whether it is safe to wait for it: false when work is already there.
    ///
    /// # Errors
    /// The kernel's, as [`Ring::turn`].
    pub fn prepare_sleep(&self) -> io::Result<bool> {
        self.inner.uring.borrow_mut().completion().enable_eventfd();
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        // Work that was queued before the eventfd was on is run here; later work signals it, but only if nothing is queued
        // before it. So all must be run, of which one enter does no more than a part (since Linux 6.13), also if it completes
        // nothing. The TASKRUN flag alone says too little: the kernel sets it after queueing, so it can stay set when the work
        // has been run meanwhile. An entry in flight is queued once at most, which is the bound.
        for _ in 0..self.in_flight() / WORK_PER_ENTER + 2 {
            self.inner.enter()?;
            let mut uring = self.inner.uring.borrow_mut();
            if !uring.completion().is_empty() || !uring.submission().taskrun() {
                break;
            }
        }
        let mut uring = self.inner.uring.borrow_mut();
        let idle = self.inner.backlog.borrow().is_empty()
            && self.inner.yielded.borrow().is_empty()
            && uring.submission().is_empty()
            && uring.completion().is_empty();
        if !idle {
            uring.completion().disable_eventfd();
        }
        Ok(idle)
    }

    /// Turns the eventfd off again after a sleep, so that a busy ring pays nothing for it.
    pub fn awake(&self) {
        self.inner.uring.borrow_mut().completion().disable_eventfd();
    }

    /// What the ring has done so far.
    pub fn stats(&self) -> RingStats {
        self.inner.stats.get()
    }

    /// Entries in flight, orphans included; zero when everything given to the kernel has come back.
    pub fn in_flight(&self) -> usize {
        let slots = self.inner.slots.borrow();
        slots.slots.len() - slots.free.len()
    }

    /// Receive buffers, of streams and datagrams, that the kernel has filled and that have not been given back.
    pub fn buffers_taken(&self) -> usize {
        self.inner.buffers.taken() + self.inner.datagram_buffers.get().map_or(0, BufferPool::taken)
    }
}

/// At least so much queued work is run by one enter, if there is so much (the kernel's `IO_LOCAL_TW_DEFAULT_MAX` is 20).
const WORK_PER_ENTER: usize = 16;

/// Completions copied out of the queue at a time.
const COMPLETION_BATCH: usize = 64;

impl Inner {
    fn count(&self, change: impl FnOnce(&mut RingStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// One `io_uring_enter` when there is anything to submit or to run.
    fn enter(&self) -> io::Result<()> {
        let mut uring = self.uring.borrow_mut();
        let pending = {
            let submissions = uring.submission();
            if submissions.is_empty() && !submissions.taskrun() && !submissions.cq_overflow() {
                return Ok(());
            }
            submissions.len()
        };
        let started = self.stats.get();
        self.stats.set(RingStats {
            submitted: started.submitted + pending as u64,
            enters: started.enters + 1,
            ..started
        });
        // SAFETY: no argument is passed; GETEVENTS runs deferred task work without waiting.
        match unsafe { uring.submitter().enter::<libc::sigset_t>(pending as u32, 0, IORING_ENTER_GETEVENTS, None) } {
            Ok(_) => Ok(()),
            // Memory for a request was short, or the completion queue is full: what is left is submitted next turn.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes a slot for an entry and pushes it.
    ///
    /// # Safety
    ///
    /// Everything `entry` points to must be owned by `slot` and stay at its address while the slot lives.
    unsafe fn start(&self, slot: Slot, entry: squeue::Entry) -> u64 {
        let id = self.slots.borrow_mut().insert(slot);
        // SAFETY: passed on to our caller.
        unsafe { self.push(entry.user_data(id)) };
        id
    }

    /// # Safety
    ///
    /// As [`Inner::start`].
    unsafe fn push(&self, entry: squeue::Entry) {
        self.backlog.borrow_mut().push_back(entry);
        self.feed();
        self.wake_driver();
    }

    fn wake_driver(&self) {
        if let Some(driver) = self.driver.borrow_mut().take() {
            driver.wake();
        }
    }

    /// Moves entries from the backlog to the submission queue, as far as there is room.
    fn feed(&self) {
        let mut backlog = self.backlog.borrow_mut();
        let mut uring = self.uring.borrow_mut();
        let mut submissions = uring.submission();
        while let Some(entry) = backlog.front() {
            // SAFETY: whoever pushed the entry keeps what it points to alive until its completion.
            if unsafe { submissions.push(entry) }.is_err() {
                break;
            }
            backlog.pop_front();
        }
    }

    /// Asks the kernel to end the entry early. Its slot lives on until its completion.
    fn cancel(&self, id: u64) {
        // SAFETY: a cancellation points to nothing.
        unsafe { self.push(opcode::AsyncCancel::new(id).build().user_data(IGNORED)) };
    }

    fn count_starved(&self, entry: &cqueue::Entry) {
        if entry.result() == -libc::ENOBUFS {
            self.count(|stats| stats.no_buffers += 1);
        }
    }

    fn complete(self: &Rc<Self>, entry: &cqueue::Entry) {
        let id = entry.user_data();
        if id == IGNORED {
            return;
        }
        let more = cqueue::more(entry.flags());
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get(id) else { return };
        match slot {
            Slot::Waiting { waker, hold } => {
                let waker = waker.take();
                let hold = std::mem::replace(hold, Hold::Nothing);
                *slot = Slot::Done { result: entry.result(), hold };
                drop(slots);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Done { .. } => {}
            Slot::Orphan { .. } => {
                let orphan = slots.remove(id);
                drop(slots);
                drop(orphan);
            }
            Slot::Accept(state) => {
                let state = Rc::clone(state);
                end_unless(more, slots, id);
                AcceptState::complete(&state, self, entry.result(), more);
            }
            Slot::Recv(state) => {
                let state = Rc::clone(state);
                end_unless(more, slots, id);
                self.count_starved(entry);
                RecvState::complete(&state, self, entry, more);
            }
            Slot::Datagrams(state) => {
                let state = Rc::clone(state);
                end_unless(more, slots, id);
                self.count_starved(entry);
                DatagramState::complete(&state, self, entry, more);
            }
        }
    }
}

/// Gives the slot of a multishot entry back when that was its last completion. What it owned is dropped when the slab is free again.
fn end_unless(more: bool, mut slots: RefMut<'_, Slots>, id: u64) {
    if !more {
        let ended = slots.remove(id);
        drop(slots);
        drop(ended);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The kernel may still write into buffers that slots own. Closing the ring cancels everything, but not
        // synchronously: what is in flight at the end of the process is leaked rather than freed under the kernel.
        let slots = std::mem::replace(self.slots.get_mut(), Slots { slots: Vec::new(), free: Vec::new() });
        if slots.slots.len() > slots.free.len() {
            std::mem::forget(slots);
            self.buffers.leak();
            if let Some(buffers) = self.datagram_buffers.get() {
                buffers.leak();
            }
        }
    }
}

impl Slots {
    fn insert(&mut self, slot: Slot) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (generation, place) = &mut self.slots[index as usize];
        *place = Some(slot);
        u64::from(*generation) << 32 | u64::from(index)
    }

    fn get(&mut self, id: u64) -> Option<&mut Slot> {
        let (generation, place) = self.slots.get_mut(id as u32 as usize)?;
        if *generation == (id >> 32) as u32 { place.as_mut() } else { None }
    }

    fn remove(&mut self, id: u64) -> Option<Slot> {
        self.get(id)?;
        let index = id as u32;
        let (generation, place) = &mut self.slots[index as usize];
        // The highest generations are skipped so that no slot's id is ever IGNORED.
        *generation = (*generation + 1) & 0x7fff_ffff;
        self.free.push(index);
        place.take()
    }
}

const IORING_ENTER_GETEVENTS: u32 = 1;

fn fd(raw: RawFd) -> types::Fd {
    types::Fd(raw)
}
