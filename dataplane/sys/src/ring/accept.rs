//! Accepting: one multishot entry per listener.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use io_uring::opcode;

use super::op::{Slot, adopt};
use super::{Inner, Ring, fd};

/// Connections accepted ahead of being taken, before the others are left to the kernel's backlog.
const READY_MAX: usize = 256;

/// Hands out the connections of one listener. Dropped, it stops accepting; connections not yet taken are closed.
pub struct Acceptor {
    ring: Rc<Inner>,
    state: Rc<AcceptState>,
}

pub(super) struct AcceptState {
    listener: OwnedFd,
    ready: RefCell<VecDeque<io::Result<OwnedFd>>>,
    waker: RefCell<Option<Waker>>,
    entry: Cell<Option<u64>>,
    stopped: Cell<bool>,
}

impl Ring {
    /// Starts accepting on `listener`.
    pub fn accept(&self, listener: OwnedFd) -> Acceptor {
        let state = Rc::new(AcceptState {
            listener,
            ready: RefCell::default(),
            waker: RefCell::default(),
            entry: Cell::new(None),
            stopped: Cell::new(false),
        });
        Acceptor { ring: Rc::clone(&self.inner), state }
    }
}

impl Acceptor {
    /// The next connection. After an error (too many open files, mostly) the caller should wait a little and call again.
    pub async fn next(&self) -> io::Result<OwnedFd> {
        std::future::poll_fn(|cx| {
            if let Some(connection) = self.state.ready.borrow_mut().pop_front() {
                return Poll::Ready(connection);
            }
            *self.state.waker.borrow_mut() = Some(cx.waker().clone());
            if self.state.entry.get().is_none() {
                let entry =
                    opcode::AcceptMulti::new(fd(self.state.listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
                // SAFETY: the entry points to nothing; the slot owns the state, which owns the listener.
                let id = unsafe { self.ring.start(Slot::Accept(Rc::clone(&self.state)), entry) };
                self.state.entry.set(Some(id));
            }
            Poll::Pending
        })
        .await
    }

    #[cfg(test)]
    pub(super) fn ready(&self) -> usize {
        self.state.ready.borrow().len()
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.state.stopped.set(true);
        self.state.ready.borrow_mut().clear();
        if let Some(id) = self.state.entry.take() {
            self.ring.cancel(id);
        }
    }
}

impl AcceptState {
    pub(super) fn complete(state: &Rc<Self>, ring: &Rc<Inner>, result: i32, more: bool) {
        if !more {
            state.entry.set(None);
        }
        let connection = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(adopt(result)) };
        if state.stopped.get() {
            return;
        }
        // That is us, below; it is armed again when all have been taken.
        if result != -libc::ECANCELED {
            state.ready.borrow_mut().push_back(connection);
            if state.ready.borrow().len() == READY_MAX
                && let Some(id) = state.entry.get()
            {
                ring.cancel(id);
            }
        }
        if let Some(waker) = state.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}
