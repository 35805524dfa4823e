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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_who_wait_are_woken_once_for_each_change() {
        let notify = Notify::default();
        let counts = [(); 3].map(|()| Arc::new(Count::default()));
        let wakers = counts.clone().map(Waker::from);
        let woken = || counts.each_ref().map(|count| count.0.load(Ordering::Relaxed));
        let mark = notify.mark();
        let mut waits = [(); 3].map(|()| Box::pin(notify.changed(mark)));
        for _ in 0..5 {
            for (wait, waker) in waits.iter_mut().zip(&wakers) {
                assert!(wait.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
            }
        }
        assert_eq!(notify.waiters.borrow().len(), 3, "one place for each, however often it is polled");
        notify.notify();
        notify.notify();
        assert_eq!(woken(), [1, 1, 1]);
        for (wait, waker) in waits.iter_mut().zip(&wakers) {
            assert!(wait.as_mut().poll(&mut Context::from_waker(waker)).is_ready());
        }
        assert!(notify.waiters.borrow().is_empty());
    }

    #[test]
    fn a_change_between_mark_and_wait_is_not_missed() {
        let notify = Notify::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mark = notify.mark();
        notify.notify();
        assert!(pin!(notify.changed(mark)).poll(&mut cx).is_ready());
        assert!(pin!(notify.changed(notify.mark())).poll(&mut cx).is_pending());
    }
}
