//! A purge of one shard: RAM and disk, without the shard standing still for it.

use std::time::{Duration, Instant};

use shoal_link::message::PurgeScope;

use super::key::SliceKey;
use super::store::Store;
use crate::disk::Burial;
use crate::telemetry::metrics::Counter;

/// A purge lets others have their turn when it has retired so many versions,
const RETIRED_AT_ONCE: u64 = 512;

/// or has looked for so long,
const LOOKING_AT_ONCE: Duration = Duration::from_micros(300);

/// which it asks the clock after so many places.
const STEPS: usize = 256;

/// Nothing is written to disk while one of these lives: what a purge has not come to yet would come back from there.
struct Undisturbed<'a>(&'a Store);

impl<'a> Undisturbed<'a> {
    fn new(store: &'a Store) -> Self {
        store.purges.set(store.purges.get() + 1);
        Self(store)
    }
}

impl Drop for Undisturbed<'_> {
    fn drop(&mut self) {
        self.0.purges.set(self.0.purges.get() - 1);
    }
}

impl Store {
    /// Retires what `scope` names. Returns objects, and what to wait for before that survives a restart. `key_seed` is that of all
    /// keys; `pause` is awaited between pieces of the work.
    ///
    /// Objects that only disk has are counted when they are purged by name: the disk tier knows the others by their hashes.
    pub async fn purge<F: Future<Output = ()>>(
        &self,
        scope: &PurgeScope,
        key_seed: u64,
        pause: impl Fn() -> F,
    ) -> (u64, Option<Burial>) {
        let _undisturbed = Undisturbed::new(self);
        let (purged, burial) = match scope {
            PurgeScope::Object { channel, path } => {
                let key = SliceKey::new(key_seed, channel, path, "");
                let on_disk = u64::from(self.has_any_on_disk(&key));
                let burial = self.purge_disk(scope);
                let in_ram = self.table.borrow_mut().purge_name(&key);
                self.table.borrow_mut().collect();
                (in_ram.max(on_disk), burial)
            }
            _ => {
                let burial = self.purge_disk(scope);
                self.table.borrow_mut().purge_openings(scope);
                (self.purge_ram(scope, pause).await, burial)
            }
        };
        self.stats.add(Counter::PurgedObjects, purged);
        (purged, burial)
    }

    async fn purge_ram<F: Future<Output = ()>>(&self, scope: &PurgeScope, pause: impl Fn() -> F) -> u64 {
        let (mut purged, mut from) = (0, Some(0));
        loop {
            let (begun, mut retired) = (Instant::now(), 0);
            while let Some(start) = from {
                let some;
                (some, from) = self.table.borrow_mut().purge_some(scope, start, STEPS);
                retired += some;
                if retired >= RETIRED_AT_ONCE || begun.elapsed() >= LOOKING_AT_ONCE {
                    break;
                }
            }
            purged += retired;
            if retired > 0 {
                // What nobody reads goes at once, or it would go all together.
                self.table.borrow_mut().collect();
                self.arena.reclaim();
            }
            if from.is_none() {
                return purged;
            }
            pause().await;
        }
    }
}
