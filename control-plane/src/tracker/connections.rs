//! Connections by number, and the messages that wait for them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::metrics::Dropped;

/// Pieces of the table, each with a lock of its own.
const PIECES: u64 = 64;

type Piece = Mutex<HashMap<u64, mpsc::Sender<Utf8Bytes>>>;

/// The connections of this process.
pub(crate) struct Connections {
    pieces: Vec<Piece>,
    next: AtomicU64,
    open: AtomicUsize,
    most: usize,
    queue: usize,
}

/// A connection's place in the table; gives it back when dropped.
pub(crate) struct Connection<'a> {
    connections: &'a Connections,
    /// Its number; never 0.
    pub(crate) id: u64,
    /// What waits for it.
    pub(crate) queue: mpsc::Receiver<Utf8Bytes>,
}

impl Connections {
    /// At most `most`, with at most `queue` messages waiting for each, numbered from `first` on.
    pub(crate) fn new(most: usize, queue: usize, first: u64) -> Self {
        let pieces = (0..PIECES).map(|_| Mutex::default()).collect();
        Self { pieces, next: AtomicU64::new(first), open: AtomicUsize::new(0), most, queue: queue.max(1) }
    }

    /// How many there are.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// A place; none when there are too many.
    pub(crate) fn enter(&self) -> Option<Connection<'_>> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, queue) = mpsc::channel(self.queue);
        self.piece(id).lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        Some(Connection { connections: self, id, queue })
    }

    /// Has a message wait for a connection.
    pub(crate) fn send(&self, id: u64, message: Utf8Bytes) -> Result<(), Dropped> {
        let piece = self.piece(id).lock().unwrap_or_else(PoisonError::into_inner);
        piece.get(&id).ok_or(Dropped::Gone)?.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => Dropped::Queue,
            TrySendError::Closed(_) => Dropped::Gone,
        })
    }

    fn piece(&self, id: u64) -> &Piece {
        &self.pieces[(id % PIECES) as usize]
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let piece = self.connections.piece(self.id);
        piece.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_queues_are_bounded_and_come_back() {
        let connections = Connections::new(2, 1, 1);
        let mut one = connections.enter().unwrap();
        let two = connections.enter().unwrap();
        assert!(connections.enter().is_none() && connections.open() == 2);
        assert_eq!(connections.send(one.id, "a".into()), Ok(()));
        assert_eq!(connections.send(one.id, "b".into()), Err(Dropped::Queue));
        assert_eq!(one.queue.try_recv().unwrap().as_str(), "a");
        let gone = two.id;
        drop(two);
        assert_eq!(connections.send(gone, "c".into()), Err(Dropped::Gone));
        assert!(connections.enter().is_some_and(|other| other.id != gone));
    }
}
