//! Hand-over between shards: a question to the owner, and its answer.
//!
//! A lane is a bounded queue from one shard to another. Each shard may have [`Fabric::credits`] questions open at each
//! other; a lane has room for that many questions and as many answers. So a push never finds a lane full, nobody ever
//! waits to send an answer, and there is nothing to deadlock on. A shard that is out of credits keeps further questions
//! waiting, as many again; what comes beyond that is refused ([`Busy`]) and counted.
//!
//! The lanes are looked at once in each turn of the driver, and a shard that sleeps is woken by its doorbell. (glommio's
//! own channels are looked at only when its reactor is polled: under load that is twice in a millisecond.)

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use crossbeam::queue::ArrayQueue;
use shoal_sys::doorbell::Doorbell;

use crate::slices::notify::Notify;

/// Open questions of one shard at all others together; divided among them.
const CREDITS_TOTAL: usize = 16 << 10;

/// Open questions at one other shard, whatever their number.
const CREDITS_MIN: usize = 256;
/// The same, from above.
const CREDITS_MAX: usize = 4096;

/// Messages taken from one lane in one turn, so that a busy peer leaves room for the others.
const BATCH: usize = 128;

/// What one shard says to another.
enum Message<Q, A> {
    Question { id: u32, question: Q },
    Answer { id: u32, answer: A },
}

/// All lanes between all shards.
pub struct Fabric<Q, A> {
    lanes: Vec<ArrayQueue<Box<Message<Q, A>>>>,
    bells: Vec<OnceLock<Doorbell>>,
    credits: usize,
}

/// One shard's end of the fabric. Not to be sent to another thread.
pub struct Mesh<Q, A> {
    fabric: Arc<Fabric<Q, A>>,
    shard: usize,
    open: RefCell<OpenQuestions<A>>,
    peers: Vec<Peer>,
}

#[derive(Default)]
struct Peer {
    outstanding: Cell<usize>,
    waiting: Cell<usize>,
    returned: Notify,
}

struct OpenQuestions<A> {
    places: Vec<Place<A>>,
    free: Vec<u32>,
}

enum Place<A> {
    Free,
    Waiting(Option<Waker>),
    Answered(A),
    /// Whoever asked is gone.
    Orphan,
}

/// Too many questions wait for the owner already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many questions wait for another shard")]
pub struct Busy;

impl<Q, A> Fabric<Q, A> {
    /// The lanes between `shards` shards.
    pub fn new(shards: usize) -> Fabric<Q, A> {
        let credits = (CREDITS_TOTAL / shards).clamp(CREDITS_MIN, CREDITS_MAX);
        let lanes = if shards > 1 { shards * shards } else { 0 };
        Fabric {
            lanes: (0..lanes).map(|_| ArrayQueue::new(2 * credits)).collect(),
            bells: (0..shards).map(|_| OnceLock::new()).collect(),
            credits,
        }
    }

    /// Questions that one shard may have open at one other.
    pub fn credits(&self) -> usize {
        self.credits
    }

    fn lane(&self, from: usize, to: usize) -> Option<&ArrayQueue<Box<Message<Q, A>>>> {
        self.lanes.get(from * self.bells.len() + to)
    }

    fn push(&self, from: usize, to: usize, message: Message<Q, A>) {
        if let Some(lane) = self.lane(from, to) {
            let pushed = lane.push(Box::new(message));
            debug_assert!(pushed.is_ok(), "credits keep lanes from being full");
        }
        if let Some(bell) = self.bells.get(to).and_then(OnceLock::get) {
            bell.ring();
        }
    }
}

impl<Q, A> Mesh<Q, A> {
    /// The end of `shard`, which wakes up by `bell`.
    pub fn new(fabric: Arc<Fabric<Q, A>>, shard: usize, bell: Doorbell) -> Mesh<Q, A> {
        if let Some(place) = fabric.bells.get(shard) {
            // A second bell for the same shard is a bug that a test would see: its messages would sleep.
            let _ = place.set(bell);
        }
        let peers = (0..fabric.bells.len()).map(|_| Peer::default()).collect();
        Mesh { fabric, shard, open: RefCell::new(OpenQuestions { places: Vec::new(), free: Vec::new() }), peers }
    }

    /// Asks the shard `to` and waits for its answer.
    ///
    /// # Errors
    /// [`Busy`] when the queue for it is full.
    pub async fn ask(self: &Rc<Self>, to: usize, question: Q) -> Result<A, Busy> {
        let peer = self.peers.get(to).ok_or(Busy)?;
        if peer.outstanding.get() >= self.fabric.credits {
            if peer.waiting.get() >= self.fabric.credits {
                return Err(Busy);
            }
            let _place = Waiting::new(&peer.waiting);
            while peer.outstanding.get() >= self.fabric.credits {
                let mark = peer.returned.mark();
                peer.returned.changed(mark).await;
            }
        }
        peer.outstanding.set(peer.outstanding.get() + 1);
        let id = self.open.borrow_mut().insert();
        self.fabric.push(self.shard, to, Message::Question { id, question });
        Ok(Asked { mesh: self, id, answered: false }.await)
    }

    /// Gives the answer to a question that [`Mesh::receive`] brought.
    pub fn answer(&self, to: usize, id: u32, answer: A) {
        self.fabric.push(self.shard, to, Message::Answer { id, answer });
    }

    /// Takes what others have sent: answers wake those who asked, questions go to `handle` with their sender and id.
    /// Returns messages taken.
    pub fn receive(&self, mut handle: impl FnMut(usize, u32, Q)) -> usize {
        let mut taken = 0;
        for from in 0..self.peers.len() {
            let Some(lane) = self.fabric.lane(from, self.shard).filter(|_| from != self.shard) else { continue };
            for _ in 0..BATCH {
                let Some(message) = lane.pop() else { break };
                taken += 1;
                match *message {
                    Message::Question { id, question } => handle(from, id, question),
                    Message::Answer { id, answer } => {
                        self.open.borrow_mut().answer(id, answer);
                        if let Some(peer) = self.peers.get(from) {
                            peer.outstanding.set(peer.outstanding.get() - 1);
                            if peer.waiting.get() > 0 {
                                peer.returned.notify();
                            }
                        }
                    }
                }
            }
        }
        taken
    }

    /// Whether nothing waits to be received.
    pub fn is_idle(&self) -> bool {
        let mut senders = (0..self.peers.len()).filter(|&from| from != self.shard);
        senders.all(|from| self.fabric.lane(from, self.shard).is_none_or(ArrayQueue::is_empty))
    }
}

/// Counts one who waits for a credit.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// An open question. Dropped, its answer will be thrown away.
struct Asked<'a, Q, A> {
    mesh: &'a Mesh<Q, A>,
    id: u32,
    answered: bool,
}

impl<Q, A> Future for Asked<'_, Q, A> {
    type Output = A;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A> {
        let answer = self.mesh.open.borrow_mut().poll(self.id, cx);
        self.answered = answer.is_ready();
        answer
    }
}

impl<Q, A> Drop for Asked<'_, Q, A> {
    fn drop(&mut self) {
        if !self.answered {
            self.mesh.open.borrow_mut().orphan(self.id);
        }
    }
}

impl<A> OpenQuestions<A> {
    fn insert(&mut self) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::Free);
            (self.places.len() - 1) as u32
        });
        self.places[id as usize] = Place::Waiting(None);
        id
    }

    fn poll(&mut self, id: u32, cx: &Context<'_>) -> Poll<A> {
        let place = &mut self.places[id as usize];
        match std::mem::replace(place, Place::Free) {
            Place::Answered(answer) => {
                self.free.push(id);
                Poll::Ready(answer)
            }
            _ => {
                *place = Place::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    fn answer(&mut self, id: u32, answer: A) {
        let Some(place) = self.places.get_mut(id as usize) else { return };
        match std::mem::replace(place, Place::Free) {
            Place::Waiting(waker) => {
                *place = Place::Answered(answer);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            _ => self.free.push(id),
        }
    }

    fn orphan(&mut self, id: u32) {
        let Some(place) = self.places.get_mut(id as usize) else { return };
        match place {
            Place::Waiting(_) => *place = Place::Orphan,
            _ => {
                *place = Place::Free;
                self.free.push(id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
