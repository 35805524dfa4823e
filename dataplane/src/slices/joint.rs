//! One question for all tasks of a shard that would ask the same.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use super::notify::Notify;

/// Questions under way, by what they ask.
pub struct Joint<K, V> {
    open: RefCell<HashMap<K, Rc<Pending<V>>>>,
}

struct Pending<V> {
    answer: RefCell<Option<V>>,
    /// Whoever asked is gone, or has the answer.
    over: Notify,
}

impl<K, V> Default for Joint<K, V> {
    fn default() -> Self {
        Self { open: RefCell::default() }
    }
}

/// An answer, and whether this task asked for it itself.
pub struct Told<V> {
    /// The answer; none when the task that asked went away before it came.
    pub answer: Option<V>,
    /// Nobody else asked.
    pub first: bool,
}

impl<K: Clone + Eq + Hash, V: Clone> Joint<K, V> {
    /// Asks by `ask`, or waits for the task that does already.
    pub async fn ask(&self, key: &K, ask: impl Future<Output = V>) -> Told<V> {
        let pending = self.open.borrow().get(key).cloned();
        if let Some(pending) = pending {
            let mark = pending.over.mark();
            if pending.answer.borrow().is_none() {
                pending.over.changed(mark).await;
            }
            return Told { answer: pending.answer.borrow().clone(), first: false };
        }
        let pending = Rc::new(Pending { answer: RefCell::new(None), over: Notify::default() });
        self.open.borrow_mut().insert(key.clone(), Rc::clone(&pending));
        let ends = Ends { joint: self, key, pending: &pending };
        let answer = ask.await;
        *pending.answer.borrow_mut() = Some(answer.clone());
        drop(ends);
        Told { answer: Some(answer), first: true }
    }
}

/// Lets the others go on, also when the task that asked is dropped.
struct Ends<'a, K: Eq + Hash, V> {
    joint: &'a Joint<K, V>,
    key: &'a K,
    pending: &'a Pending<V>,
}

impl<K: Eq + Hash, V> Drop for Ends<'_, K, V> {
    fn drop(&mut self) {
        self.joint.open.borrow_mut().remove(self.key);
        self.pending.over.notify();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn the_second_waits_for_the_first_and_asks_itself_when_that_gives_up() {
        let joint = Joint::<u32, u32>::default();
        let mut cx = Context::from_waker(Waker::noop());
        let answer = RefCell::new(None);
        let slow = || std::future::poll_fn(|_| answer.borrow().map_or(Poll::Pending, Poll::Ready));
        let mut second = pin!(joint.ask(&7, async { unreachable!("somebody asks already") }));
        {
            let mut first = pin!(joint.ask(&7, slow()));
            assert!(first.as_mut().poll(&mut cx).is_pending());
            assert!(second.as_mut().poll(&mut cx).is_pending());
        }
        let Poll::Ready(told) = second.as_mut().poll(&mut cx) else { panic!("left waiting for nobody") };
        assert_eq!((told.answer, told.first), (None, false));

        let mut first = pin!(joint.ask(&7, slow()));
        let mut second = pin!(joint.ask(&7, slow()));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        *answer.borrow_mut() = Some(5);
        let Poll::Ready(told) = first.as_mut().poll(&mut cx) else { panic!("the answer is there") };
        assert_eq!((told.answer, told.first), (Some(5), true));
        let Poll::Ready(told) = second.as_mut().poll(&mut cx) else { panic!("the answer is there") };
        assert_eq!((told.answer, told.first), (Some(5), false));
    }
}
