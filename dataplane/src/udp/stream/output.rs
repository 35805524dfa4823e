//! What waits to be sent to one client.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::task::{Poll, Waker};

use shoal_stun::turn::{MAX_HEAD, MAX_REPLY};

/// Bytes that may wait.
pub(super) const QUEUE_MAX: usize = 256 << 10;

/// Bytes of them that are for replies alone: a client that cannot read fast enough is still to learn that its allocation goes on.
const REPLIES: usize = 16 * MAX_REPLY;

/// Bytes that may wait when a relayed message has been added.
const RELAYED_MAX: usize = QUEUE_MAX - REPLIES;
/// The longest datagram has room in an empty queue.
const _: () = assert!(RELAYED_MAX > MAX_HEAD + (64 << 10));

/// Bytes that an empty queue keeps for what comes next.
const KEPT: usize = 2 << 10;

/// The queue.
#[derive(Default)]
pub(super) struct Output {
    queued: RefCell<VecDeque<u8>>,
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
        let mut queued = self.queued.borrow_mut();
        let total = queued.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        if total > most {
            return false;
        }
        if queued.capacity() < total {
            // In doubles, as usual, but never beyond the bound.
            let capacity = total.max(2 * queued.capacity()).min(QUEUE_MAX);
            let room = capacity - queued.len();
            queued.reserve_exact(room);
        }
        parts.iter().for_each(|part| queued.extend(*part));
        drop(queued);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        true
    }

    /// Waits until there is something.
    pub(super) async fn wait(&self) {
        std::future::poll_fn(|cx| {
            if !self.is_empty() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.queued.borrow().is_empty()
    }

    /// Gives all there is, in two parts, to `send`, which says how much of it it took.
    pub(super) fn send(&self, send: impl FnOnce(&[u8], &[u8]) -> io::Result<usize>) -> io::Result<usize> {
        let mut queued = self.queued.borrow_mut();
        let (first, second) = queued.as_slices();
        let sent = send(first, second)?.min(queued.len());
        queued.drain(..sent);
        if queued.is_empty() && queued.capacity() > KEPT {
            *queued = VecDeque::new();
        }
        Ok(sent)
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.queued.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    /// Takes at most so many bytes.
    fn take(output: &Output, most: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        let sent = output.send(|first, second| {
            taken = [first, second].concat();
            taken.truncate(most);
            Ok(taken.len())
        });
        assert_eq!(sent.unwrap(), taken.len());
        taken
    }

    #[test]
    fn messages_are_whole_and_in_order() {
        let output = Output::default();
        let mut waiting = pin!(output.wait());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert!(output.relay([b"head", b"payload", b"\0"]) && output.reply(b"reply"));
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
        assert_eq!(take(&output, 6), b"headpa");
        assert!(output.reply(b"next"));
        let full = output.send(|_, _| Err(io::ErrorKind::WouldBlock.into()));
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(take(&output, 100), b"yload\0replynext");
        assert!(output.is_empty());
    }

    #[test]
    fn there_is_a_bound_and_replies_have_some_room_of_their_own() {
        let (output, payload) = (Output::default(), [7; 1000]);
        let fill = || std::iter::repeat_with(|| output.relay([&[], &payload, &[]])).take_while(|added| *added).count();
        assert_eq!(fill(), RELAYED_MAX / 1000);
        let replies = std::iter::repeat_with(|| output.reply(&[8; MAX_REPLY])).take_while(|added| *added).count();
        assert_eq!(replies, (QUEUE_MAX - RELAYED_MAX / 1000 * 1000) / MAX_REPLY);
        assert!(output.queued.borrow().capacity() <= QUEUE_MAX);
        assert_eq!(take(&output, 10_000).len(), 10_000);
        assert_eq!(fill(), (10_000 - REPLIES) / 1000, "replies take their room for as long");
        while !output.is_empty() {
            take(&output, 7777);
        }
        assert!(output.queued.borrow().capacity() <= KEPT, "memory is given back");
    }
}
