//! Waking a sleeping shard from another thread.
//!
//! The doorbell is the eventfd that the shard's ring signals anyway, so a shard that sleeps waits for one thing only. A
//! shard that is awake looks at its queues by itself, and nobody rings.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use glommio::io::BufferedFile;

use crate::ring::Ring;

/// Rings one shard's bell. Cheap when the shard is awake: one load.
#[derive(Clone)]
pub struct Doorbell {
    shared: Arc<Shared>,
}

struct Shared {
    eventfd: OwnedFd,
    sleeping: AtomicBool,
}

impl Doorbell {
    /// The bell of the shard that drives `ring`.
    pub fn new(ring: &Ring) -> io::Result<Doorbell> {
        let eventfd = ring.eventfd().try_clone_to_owned()?;
        Ok(Doorbell { shared: Arc::new(Shared { eventfd, sleeping: AtomicBool::new(false) }) })
    }

    /// Call after having put something where the shard will look.
    pub fn ring(&self) {
        // Pairs with the fence in `doze`: either we see the shard asleep, or it sees what we put there.
        fence(Ordering::SeqCst);
        if self.shared.sleeping.load(Ordering::Relaxed) && self.shared.sleeping.swap(false, Ordering::Relaxed) {
            self.ring_self();
        }
    }

    /// Ends the shard's own next wait at once.
    pub fn ring_self(&self) {
        // An eventfd refuses only at 2^64 - 1, and then the reader is signalled already.
        let _ = rustix::io::write(&self.shared.eventfd, &1u64.to_ne_bytes());
    }

    /// The shard is about to sleep. It must look at its queues once more before it does.
    pub fn doze(&self) {
        self.shared.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The shard is up again.
    pub fn awake(&self) {
        self.shared.sleeping.store(false, Ordering::Relaxed);
    }
}

/// The shard's end: waits inside its glommio executor.
pub struct DoorbellWaiter {
    file: BufferedFile,
}

impl DoorbellWaiter {
    /// Must be called inside the executor that will wait.
    pub fn new(ring: &Ring) -> io::Result<DoorbellWaiter> {
        let eventfd = ring.eventfd().try_clone_to_owned()?;
        // SAFETY: the descriptor is ours alone, and the file takes it over. glommio has no public wait for a foreign
        // descriptor, but reading eight bytes from an eventfd is one.
        let file = unsafe { BufferedFile::from_raw_fd(eventfd.into_raw_fd()) };
        Ok(DoorbellWaiter { file })
    }

    /// Waits until the bell rings or the ring has completions.
    pub async fn wait(&self) -> io::Result<()> {
        self.file.read_at(0, 8).await.map(|_| ()).map_err(|error| io::Error::other(error.to_string()))
    }
}
