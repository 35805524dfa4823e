//! Time limits of client connections, watched by one sweep instead of a timer for each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shoal_sys::arena::BlockRef;
use shoal_sys::ring::Stream;

use crate::slices::version::Version;

/// Time over which a slow reader's rate is measured.
const RATE_WINDOW_MS: u64 = 10_000;

/// The same for one that is in the way of others: so long it may hold a block that is wanted back. Enough for a client far away
/// to be told from one that does not read.
const GRACE_MS: u64 = 500;

/// What a connection is doing, as far as time limits go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for a request to begin.
    Idle,
    /// Reads a request head (or a PROXY header).
    Head,
    /// Works on an answer: other limits apply to that.
    Working,
    /// Waits for the client to take bytes.
    Sending,
}

/// A limit that a connection has run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// No request within the idle time.
    Idle,
    /// A head took too long.
    Head,
    /// The client reads too slowly.
    Slow,
    /// The memory of the block that it reads was needed, and others read faster.
    Memory,
}

/// One connection, as the sweep sees it.
pub struct Watched {
    /// The connection itself.
    pub stream: Stream,
    phase: Cell<Phase>,
    since_ms: Cell<u64>,
    /// Bytes given to the socket since the connection was accepted.
    sent: Cell<u64>,
    window_ms: Cell<u64>,
    /// Bytes that the client had taken at the start of the window.
    window_from: Cell<u64>,
    expired: Cell<Option<Expired>>,
    /// Bytes per second that we send at most.
    pace: Cell<Option<u64>>,
    held: RefCell<Option<HeldBlock>>,
    reading: Cell<Option<Reading>>,
}

/// The block that a response is at.
struct HeldBlock {
    index: u32,
    block: BlockRef,
    /// Its version, when it could not be fetched again, and so is not evicted under those who read on.
    unrepeatable: Option<Arc<Version>>,
    /// The version has been told that this reader does not.
    slow: Cell<bool>,
}

/// References to a version that a reader has: its own, and that of the block held.
const HOLDS: usize = 2;

impl HeldBlock {
    fn set_slow(&self, slow: bool) {
        let Some(version) = &self.unrepeatable else { return };
        match (self.slow.replace(slow), slow) {
            (false, true) => version.add_slow_holds(HOLDS),
            (true, false) => version.remove_slow_holds(HOLDS),
            _ => {}
        }
    }
}

impl Drop for HeldBlock {
    fn drop(&mut self) {
        self.set_slow(false);
    }
}

/// Since when the client has been reading it, and what it had taken then.
#[derive(Clone, Copy)]
struct Reading {
    since_ms: u64,
    from: u64,
}

impl Watched {
    /// A connection that has just been accepted.
    pub fn new(stream: Stream, now_ms: u64) -> Watched {
        Watched {
            stream,
            phase: Cell::new(Phase::Head),
            since_ms: Cell::new(now_ms),
            sent: Cell::new(0),
            window_ms: Cell::new(0),
            window_from: Cell::new(0),
            expired: Cell::new(None),
            pace: Cell::new(None),
            held: RefCell::default(),
            reading: Cell::new(None),
        }
    }

    /// Enters a phase; its time starts now.
    pub fn enter(&self, phase: Phase, now_ms: u64) {
        self.phase.set(phase);
        self.since_ms.set(now_ms);
    }

    /// As [`Watched::enter`] for the two phases of an answer, which need no time of day.
    pub fn switch(&self, phase: Phase) {
        self.phase.set(phase);
    }

    /// The phase it is in.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The socket took so many bytes.
    pub fn took(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// Keeps the block of the version that the response is at, instead of the one before.
    pub fn hold(&self, version: &Arc<Version>, index: u32, block: BlockRef) {
        self.reading.set(None);
        let unrepeatable = (!version.is_combinable()).then(|| Arc::clone(version));
        *self.held.borrow_mut() = Some(HeldBlock { index, block, unrepeatable, slow: Cell::new(false) });
    }

    /// The block that is kept, if it is that one and has more than `have` bytes.
    pub fn held(&self, index: u32, have: usize) -> Option<BlockRef> {
        let held = self.held.borrow();
        let held = held.as_ref().filter(|held| held.index == index && held.block.filled() > have)?;
        Some(held.block.clone())
    }

    /// Keeps no block any more.
    pub fn release(&self) {
        self.held.borrow_mut().take();
    }

    /// Bytes per second that we send at most, if there is such a limit.
    pub fn pace(&self) -> Option<u64> {
        self.pace.get()
    }

    /// See [`Watched::pace`].
    pub fn set_pace(&self, bytes_per_s: Option<u64>) {
        self.pace.set(bytes_per_s);
    }

    /// The limit it has run into.
    pub fn expired(&self) -> Option<Expired> {
        self.expired.get()
    }
}

/// The limits.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimits {
    /// For a head.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Slowest rate at which a client may take bytes; 0: any.
    pub min_send_bytes_per_s: u64,
    /// Rate below which a client is slow, should memory be needed.
    pub slow_bytes_per_s: u64,
}

/// All connections of a shard.
pub struct Deadlines {
    limits: TimeLimits,
    watched: RefCell<Vec<Option<Rc<Watched>>>>,
    free: RefCell<Vec<usize>>,
    swept_ms: Cell<u64>,
}

impl Deadlines {
    /// Watches nothing yet.
    pub fn new(limits: TimeLimits, now_ms: u64) -> Deadlines {
        Deadlines { limits, watched: RefCell::default(), free: RefCell::default(), swept_ms: Cell::new(now_ms) }
    }

    /// Starts to watch a connection; the number is for [`Deadlines::forget`].
    pub fn watch(&self, connection: Rc<Watched>) -> usize {
        let mut watched = self.watched.borrow_mut();
        match self.free.borrow_mut().pop() {
            Some(place) => {
                watched[place] = Some(connection);
                place
            }
            None => {
                watched.push(Some(connection));
                watched.len() - 1
            }
        }
    }

    /// Stops watching.
    pub fn forget(&self, place: usize) {
        if let Some(connection) = self.watched.borrow_mut().get_mut(place)
            && connection.take().is_some()
        {
            self.free.borrow_mut().push(place);
        }
    }

    /// Ends what has run into a limit.
    pub fn sweep(&self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.swept_ms.replace(now_ms));
        let watched = self.watched.borrow();
        let mut in_the_way = Vec::new();
        for connection in watched.iter().flatten() {
            connection.check(&self.limits, now_ms, passed);
            if let Some(rate) = connection.in_the_way(now_ms, self.limits.slow_bytes_per_s) {
                in_the_way.push((rate, connection));
            }
        }
        in_the_way.sort_unstable_by_key(|(rate, _)| *rate);
        in_the_way.iter().for_each(|(_, connection)| connection.give_back());
    }

    /// Ends all connections that wait for a request; those that work on one are told by the flag of their context.
    pub fn end_idle(&self) {
        for connection in self.watched.borrow().iter().flatten() {
            if connection.phase.get() == Phase::Idle {
                connection.stream.interrupt();
            }
        }
    }

    /// Ends all connections at once.
    pub fn end_all(&self) {
        for connection in self.watched.borrow().iter().flatten() {
            connection.stream.interrupt();
            connection.stream.abort();
        }
    }
}

impl Watched {
    fn check(&self, limits: &TimeLimits, now_ms: u64, passed_ms: u64) {
        let lasted = Duration::from_millis(now_ms.saturating_sub(self.since_ms.get()));
        match self.phase.get() {
            Phase::Idle if lasted > limits.idle => {
                self.expired.set(Some(Expired::Idle));
                self.stream.interrupt();
            }
            Phase::Head if lasted > limits.head => {
                self.expired.set(Some(Expired::Head));
                self.stream.interrupt();
            }
            Phase::Sending => {
                self.window_ms.set(self.window_ms.get() + passed_ms);
                if self.window_ms.get() < RATE_WINDOW_MS {
                    return;
                }
                let taken = self.taken();
                let taken = taken.saturating_sub(self.window_from.replace(taken));
                // Who gets no more from us is not slow.
                let least = limits.min_send_bytes_per_s.min(self.pace.get().map_or(u64::MAX, |pace| pace / 2));
                let least = least.saturating_mul(self.window_ms.get()) / 1000;
                if taken < least {
                    self.expired.set(Some(Expired::Slow));
                    self.stream.abort();
                }
                self.window_ms.set(0);
            }
            _ => {}
        }
    }

    /// What the client took, not what the socket did: that wakes us for large pieces only.
    fn taken(&self) -> u64 {
        self.sent.get().saturating_sub(self.stream.unacknowledged())
    }

    /// The rate at which the client takes bytes, when that is less than what the owner of the block asks of those who keep it in
    /// memory; below `slow` it keeps nothing from being evicted either.
    fn in_the_way(&self, now_ms: u64, slow: u64) -> Option<u64> {
        let held = self.held.borrow();
        let Some(held) = held.as_ref().filter(|_| self.phase.get() == Phase::Sending) else {
            self.reading.set(None);
            return None;
        };
        let Some(Reading { since_ms, from }) = self.reading.get() else {
            self.reading.set(Some(Reading { since_ms: now_ms, from: self.taken() }));
            return None;
        };
        let asked_below = held.block.asked_below().filter(|_| held.block.is_retired());
        let lasted_ms = now_ms.saturating_sub(since_ms);
        if lasted_ms < GRACE_MS || (asked_below.is_none() && held.unrepeatable.is_none()) {
            return None;
        }
        let rate = self.taken().saturating_sub(from).saturating_mul(1000) / lasted_ms;
        // Who gets no more from us is not slow.
        let most = self.pace.get().map_or(u64::MAX, |pace| pace / 2);
        held.set_slow(rate < most.min(slow));
        (rate < most.min(asked_below?)).then_some(rate)
    }

    /// Cuts the connection off, if the memory of its block is still wanted back.
    fn give_back(&self) {
        if self.held.borrow().as_ref().is_some_and(|held| held.block.settle_asked()) {
            self.expired.set(Some(Expired::Memory));
            // What is in the socket would stay there for as long as the client likes.
            self.stream.reset_on_close();
            self.stream.abort();
        }
    }
}

#[cfg(test)]
mod tests;
