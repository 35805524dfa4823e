//! Fetches under way, as those who wait for them see them.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::notify::Notify;
use super::version::Version;
use crate::telemetry::stats::CacheResult;

/// What an opening comes to.
pub type Found = Result<(Arc<Version>, CacheResult, Option<Forwarded>), OpenError>;

/// That a request went on to an origin (RFC 9211 sections 2.2 and 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// Why.
    pub why: Why,
    /// The origin's status.
    pub status: u16,
}

/// Why a request went on to an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing was kept under the name.
    UriMiss,
    /// What was kept answers requests with other headers.
    VaryMiss,
    /// What was kept is not fresh.
    Stale,
    /// The request wanted it from the origin.
    Request,
    /// The method is not for a cache.
    Method,
}

/// The question what the origins have under a name, asked once however many wait for the answer.
#[derive(Default)]
pub struct Opening {
    answer: RefCell<Option<Found>>,
    purged: Cell<bool>,
    done: Notify,
}

/// Why there is nothing to serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    /// Status for the viewer.
    pub status: u16,
    /// Label for metrics.
    pub reason: &'static str,
    /// One line for the viewer.
    pub message: String,
}

impl Opening {
    /// Waits for the answer.
    pub async fn answered(&self) -> Found {
        loop {
            let mark = self.done.mark();
            if let Some(answer) = &*self.answer.borrow() {
                return answer.clone();
            }
            self.done.changed(mark).await;
        }
    }

    /// Gives the answer to all who wait.
    pub fn answer(&self, answer: Found) {
        let mut place = self.answer.borrow_mut();
        if place.is_none() {
            *place = Some(answer);
            drop(place);
            self.done.notify();
        }
    }

    /// The name was purged while the question was under way: the answer is for those who wait, not to be kept.
    pub fn purge(&self) {
        self.purged.set(true);
    }

    /// See [`Opening::purge`].
    pub fn is_purged(&self) -> bool {
        self.purged.get()
    }
}

/// One stream of bytes from an origin into consecutive blocks of a version.
pub struct Flight {
    next: Cell<u32>,
    end: Cell<u32>,
    wanted: Cell<u32>,
    abandoned: Cell<bool>,
    failure: RefCell<Option<BlockError>>,
    demand: Notify,
    progress: Notify,
}

/// Why a block cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The origins have another version by now, or none; this one's bytes cannot be completed.
    #[error("the object has changed at its origin")]
    Changed,
    /// All origins failed.
    #[error("{0}")]
    Failed(String),
    /// The other shard's lanes are full.
    #[error("too many requests between shards")]
    Busy,
}

impl Flight {
    /// A flight for the blocks `first..end`, where `first` is wanted now.
    pub fn new(first: u32, end: u32) -> Flight {
        Flight {
            next: Cell::new(first),
            end: Cell::new(end),
            wanted: Cell::new(first),
            abandoned: Cell::new(false),
            failure: RefCell::default(),
            demand: Notify::default(),
            progress: Notify::default(),
        }
    }

    /// Whether it will bring the block.
    pub fn covers(&self, index: u32) -> bool {
        (self.next.get()..self.end.get()).contains(&index)
    }

    /// The block that fills now, or will next.
    pub fn next(&self) -> u32 {
        self.next.get()
    }

    /// The block after its last one.
    pub fn end(&self) -> u32 {
        self.end.get()
    }

    /// Somebody waits for the block.
    pub fn want(&self, index: u32) {
        if index > self.wanted.get() {
            self.wanted.set(index);
            self.demand.notify();
        }
    }

    /// Nobody wants the rest.
    pub fn abandon(&self) {
        self.abandoned.set(true);
        self.demand.notify();
    }

    /// See [`Flight::abandon`].
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.get()
    }

    /// Waits until the block is wanted, or near enough to what is.
    pub async fn until_wanted(&self, index: u32, ahead: u32) {
        loop {
            let mark = self.demand.mark();
            if self.abandoned.get() || index <= self.wanted.get().saturating_add(ahead) {
                return;
            }
            self.demand.changed(mark).await;
        }
    }

    /// A block is whole; the next one follows.
    pub fn advance(&self) {
        self.next.set(self.next.get() + 1);
        self.progress.notify();
    }

    /// It will bring no block at or after `end`.
    pub fn shorten(&self, end: u32) {
        self.end.set(self.end.get().min(end));
    }

    /// More bytes are there.
    pub fn notify(&self) {
        self.progress.notify();
    }

    /// It is over; whoever still waits gets the failure, if there is one.
    pub fn finish(&self, failure: Option<BlockError>) {
        *self.failure.borrow_mut() = failure;
        self.end.set(self.next.get().min(self.end.get()));
        self.progress.notify();
    }

    /// Why it is over, if it failed.
    pub fn failure(&self) -> Option<BlockError> {
        self.failure.borrow().clone()
    }

    /// A mark to take before looking at a block.
    pub fn mark(&self) -> u64 {
        self.progress.mark()
    }

    /// Waits for a change after `mark`.
    pub async fn progressed(&self, mark: u64) {
        self.progress.changed(mark).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn refused(reason: &'static str) -> OpenError {
        OpenError { status: 502, reason, message: "no origin could answer".to_owned() }
    }

    #[test]
    fn an_opening_answers_all_and_its_first_answer_stays() {
        let opening = Opening::default();
        let mut early = [(); 5].map(|()| Box::pin(opening.answered()));
        assert!(early.iter_mut().all(|wait| poll(wait.as_mut()).is_pending()));
        opening.answer(Err(refused("status")));
        opening.answer(Err(refused("timeout")));
        for wait in &mut early {
            let Poll::Ready(Err(error)) = poll(wait.as_mut()) else { panic!("the answer is there") };
            assert_eq!(error.reason, "status");
        }
        assert!(matches!(poll(pin!(opening.answered())), Poll::Ready(Err(_))), "whoever comes late gets it at once");
        assert!(!opening.is_purged());
        opening.purge();
        assert!(opening.is_purged());
    }

    #[test]
    fn a_flight_covers_what_it_has_still_to_bring() {
        let flight = Flight::new(3, 6);
        let covered = |flight: &Flight| (0..8).filter(|&index| flight.covers(index)).collect::<Vec<_>>();
        assert_eq!(covered(&flight), [3, 4, 5]);
        flight.advance();
        assert_eq!(covered(&flight), [4, 5]);
        flight.shorten(5);
        flight.shorten(7);
        assert_eq!((covered(&flight), flight.next(), flight.end()), (vec![4], 4, 5));
        flight.finish(None);
        assert_eq!((covered(&flight), flight.failure()), (vec![], None));

        let failed = Flight::new(0, u32::MAX);
        failed.finish(Some(BlockError::Changed));
        assert_eq!((covered(&failed), failed.failure()), (vec![], Some(BlockError::Changed)));
    }

    #[test]
    fn a_flight_goes_on_as_far_as_it_is_wanted_and_some_way_ahead() {
        let flight = Flight::new(10, 100);
        assert!(poll(pin!(flight.until_wanted(12, 2))).is_ready());
        let mut wait = pin!(flight.until_wanted(13, 2));
        assert!(poll(wait.as_mut()).is_pending());
        flight.want(5);
        assert!(poll(wait.as_mut()).is_pending(), "who is behind does not drive it");
        flight.want(11);
        assert!(poll(wait.as_mut()).is_ready());
        assert!(poll(pin!(flight.until_wanted(u32::MAX, u32::MAX))).is_ready());

        let mut wait = pin!(flight.until_wanted(50, 0));
        assert!(poll(wait.as_mut()).is_pending());
        flight.abandon();
        assert!(poll(wait.as_mut()).is_ready() && flight.is_abandoned());
    }

    #[test]
    fn every_step_of_a_flight_is_seen() {
        let flight = Flight::new(0, 2);
        let steps: [fn(&Flight); 3] = [Flight::notify, Flight::advance, |flight| flight.finish(None)];
        for step in steps {
            let mark = flight.mark();
            let mut wait = pin!(flight.progressed(mark));
            assert!(poll(wait.as_mut()).is_pending());
            step(&flight);
            assert!(poll(wait.as_mut()).is_ready());
        }
    }
}
