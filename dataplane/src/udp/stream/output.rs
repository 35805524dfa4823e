//! What waits to be sent to one client.

use std::cell::{Cell, RefCell};
use std::task::{Poll, Waker};

use shoal_stun::turn::{MAX_HEAD, MAX_REPLY};

/// Bytes that may wait.
pub(super) const QUEUE_MAX: usize = 256 << 10;

/// Bytes of them that are for replies alone: a client that cannot read fast enough is still to learn that its allocation goes on.
const REPLIES: usize = 16 * MAX_REPLY;

/// Bytes of messages that may wait when a relayed one is added.
pub(super) const RELAYED_MAX: usize = QUEUE_MAX - REPLIES;
/// The longest datagram has room in an empty queue.
const _: () = assert!(RELAYED_MAX > 2 * (MAX_HEAD + (64 << 10)));

/// Bytes that an empty queue keeps for what comes next.
const KEPT: usize = 2 << 10;

/// The queue. What is taken from it counts until it is sent.
#[derive(Default)]
pub(super) struct Output {
    queued: RefCell<Vec<u8>>,
    under_way: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

impl Output {
    /// Adds a reply, if there is room for it.
    pub(super) fn reply(&self, reply: &[u8]) -> bool {
        self.push([reply, &[], &[]], QUEUE_MAX)
    }

    /// Adds a relayed message, if there is room for all of it: head, payload, padding.
    pub(super) fn relay(&self, message: [&[u8]; 3]) -> bool {
        self.push(message, RELAYED_MAX)
    }

    fn push(&self, parts: [&[u8]; 3], most: usize) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut queued = self.queued.borrow_mut();
        let total = queued.len() + length;
        if self.under_way.get() + total > most {
            return false;
        }
        if queued.capacity() < total {
            // In doubles, as usual, but never beyond the bound.
            let room = total.max(2 * queued.capacity()).min(QUEUE_MAX) - queued.len();
            queued.reserve_exact(room);
        }
        parts.iter().for_each(|part| queued.extend_from_slice(part));
        drop(queued);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        true
    }

    /// Waits until there is something, and takes all of it, instead of what is in `bytes`.
    pub(super) async fn take(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        if bytes.capacity() > KEPT {
            *bytes = Vec::new();
        }
        std::future::poll_fn(|cx| {
            let mut queued = self.queued.borrow_mut();
            if queued.is_empty() {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            std::mem::swap(&mut *queued, bytes);
            self.under_way.set(bytes.len());
            Poll::Ready(())
        })
        .await;
    }

    /// So many bytes of what was taken have been sent.
    pub(super) fn sent(&self, bytes: usize) {
        self.under_way.set(self.under_way.get().saturating_sub(bytes));
    }

    /// Takes all there is, if it may be sent now: not after the half of a message.
    pub(super) fn rest(&self) -> Option<Vec<u8>> {
        let rest = std::mem::take(&mut *self.queued.borrow_mut());
        (self.under_way.get() == 0 && !rest.is_empty()).then_some(rest)
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.queued.borrow().len() + self.under_way.get()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn take(output: &Output, bytes: &mut Vec<u8>) -> bool {
        pin!(output.take(bytes)).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn messages_are_whole_and_in_order() {
        let (output, mut bytes) = (Output::default(), Vec::new());
        assert!(!take(&output, &mut bytes));
        assert!(output.relay([b"head", b"payload", b"\0"]) && output.reply(b"reply"));
        assert!(take(&output, &mut bytes));
        assert_eq!(bytes, b"headpayload\0reply");
        assert!(output.reply(b"next") && take(&output, &mut bytes));
        assert_eq!(bytes, b"next");
    }

    #[test]
    fn what_is_taken_counts_until_it_is_sent_and_no_more_is_held() {
        let (output, mut bytes, payload) = (Output::default(), Vec::new(), [7; 1000]);
        let fill = || std::iter::repeat_with(|| output.relay([&[], &payload, &[]])).take_while(|added| *added).count();
        assert_eq!(fill(), RELAYED_MAX / 1000);
        assert!(take(&output, &mut bytes) && bytes.capacity() <= QUEUE_MAX);
        assert_eq!(fill(), 0, "nothing is sent yet");
        let replies = std::iter::repeat_with(|| output.reply(&[8; MAX_REPLY])).take_while(|added| *added).count();
        assert!(replies >= REPLIES / MAX_REPLY, "{replies}");
        output.sent(10_000);
        assert_eq!(fill(), (10_000 - REPLIES) / 1000, "replies take their room for as long");
        output.sent(bytes.len() - 10_000);
        assert!(take(&output, &mut bytes));
        output.sent(bytes.len());
        assert!(!take(&output, &mut bytes) && bytes.capacity() <= KEPT, "memory is given back");
        assert!(output.queued.borrow().capacity() <= KEPT);
    }

    #[test]
    fn the_last_words_are_not_in_the_middle_of_others() {
        let (output, mut bytes) = (Output::default(), Vec::new());
        assert_eq!(output.rest(), None);
        output.reply(b"one");
        assert!(take(&output, &mut bytes));
        output.reply(b"two");
        assert_eq!(output.rest(), None);
        output.sent(3);
        output.reply(b"three");
        assert_eq!(output.rest().as_deref(), Some(&b"three"[..]));
    }
}
