//! The snapshot in force, for all shards.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, PoisonError};

use super::Routes;

/// Where a new snapshot is put, whole, and from where shards take it. A shard polls [`Published::version`] and takes
/// [`Published::current`] when that has changed; what it had stays valid as long as it holds it.
#[derive(Debug, Default)]
pub struct Published {
    current: Mutex<Arc<Routes>>,
    version: AtomicU64,
}

impl Published {
    /// Starts with `routes`, as version 0.
    pub fn new(routes: Routes) -> Self {
        Self { current: Mutex::new(Arc::new(routes)), version: AtomicU64::new(0) }
    }

    /// How often something was published. Not the snapshot's own version: that is [`Routes::version`].
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// What was published last, or later than the version last seen.
    pub fn current(&self) -> Arc<Routes> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces what is in force.
    pub fn publish(&self, routes: Routes) {
        let routes = Arc::new(routes);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, routes);
        self.version.fetch_add(1, Release);
        drop(current);
        // Ten thousand channels take a while to drop: not under the lock.
        drop(old);
    }
}
