//! Time limits of client connections, watched by one sweep instead of a timer for each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use shoal_sys::ring::Stream;

/// Time over which a slow reader's rate is measured.
const RATE_WINDOW_MS: u64 = 10_000;

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
}

/// One connection, as the sweep sees it.
pub struct Watched {
    /// The connection itself.
    pub stream: Stream,
    phase: Cell<Phase>,
    since_ms: Cell<u64>,
    window_ms: Cell<u64>,
    window_bytes: Cell<u64>,
    /// Bytes in the socket at the start of the window.
    window_queued: Cell<u64>,
    expired: Cell<Option<Expired>>,
    /// Bytes per second that we send at most.
    pace: Cell<Option<u64>>,
}

impl Watched {
    /// A connection that has just been accepted.
    pub fn new(stream: Stream, now_ms: u64) -> Watched {
        Watched {
            stream,
            phase: Cell::new(Phase::Head),
            since_ms: Cell::new(now_ms),
            window_ms: Cell::new(0),
            window_bytes: Cell::new(0),
            window_queued: Cell::new(0),
            expired: Cell::new(None),
            pace: Cell::new(None),
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

    /// The client took so many bytes.
    pub fn took(&self, bytes: usize) {
        self.window_bytes.set(self.window_bytes.get() + bytes as u64);
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
        for connection in self.watched.borrow().iter().flatten() {
            connection.check(&self.limits, now_ms, passed);
        }
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
                // What the client took, not what the socket did: that wakes us for large pieces only.
                let queued = self.stream.unacknowledged();
                let taken = (self.window_bytes.get() + self.window_queued.replace(queued)).saturating_sub(queued);
                // Who gets no more from us is not slow.
                let least = limits.min_send_bytes_per_s.min(self.pace.get().map_or(u64::MAX, |pace| pace / 2));
                let least = least.saturating_mul(self.window_ms.get()) / 1000;
                if taken < least {
                    self.expired.set(Some(Expired::Slow));
                    self.stream.abort();
                }
                self.window_ms.set(0);
                self.window_bytes.set(0);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
