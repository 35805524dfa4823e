//! Waking every task of a shard that waits for a change.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};

/// A change that tasks of one shard can wait for.
#[derive(Default)]
pub struct Notify {
    generation: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Notify {
    /// Wakes all who wait.
    pub fn notify(&self) {
        self.generation.set(self.generation.get() + 1);
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waiter in waiters {
            waiter.wake();
        }
    }

    /// A mark to take before looking at what may change.
    pub fn mark(&self) -> u64 {
        self.generation.get()
    }

    /// Waits for a change after `mark`.
    pub async fn changed(&self, mark: u64) {
        let mut registered: Option<Waker> = None;
        std::future::poll_fn(|cx| {
            if self.generation.get() != mark {
                return Poll::Ready(());
            }
            if !registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                registered = Some(cx.waker().clone());
                let mut waiters = self.waiters.borrow_mut();
                // One task that gives up and comes back, again and again, is there once.
                if !waiters.last().is_some_and(|last| last.will_wake(cx.waker())) {
                    waiters.push(cx.waker().clone());
                }
            }
            Poll::Pending
        })
        .await;
    }
}
