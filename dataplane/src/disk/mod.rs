//! The disk tier of a shard: which blocks are on which device, and what is written there.
//!
//! ```text
//!  slices ──has, fetch──▶ Disk ──(by hash, among those that work)──▶ Device ──▶ Volume (shoal-disk) ──▶ File (direct I/O)
//!         ──offer───────▶                                              │  queue, budget
//!         ──purge───────▶                                              └─▶ Journal, in node.state_dir
//! ```
//!
//! Whatever fails here is a miss: the origin has it all. Only the journal must not fail silently, for it keeps what was
//! purged from coming back; see [`journal`].

mod device;
mod file;
mod journal;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_disk::{Found, Geometry, Payload, Tombstone};
use shoal_http::caching::has_tag;
use shoal_link::message::PurgeScope;
use shoal_sys::arena::{BlockRef, BlockWriter};
use shoal_sys::ring::{Landed, Ring};

use self::device::{Device, DeviceParts};
use crate::settings::DiskSettings;
use crate::slices::key::SliceKey;
use crate::slices::version::VersionParts;
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::ShardStats;
use crate::upstream::within;

/// A start waits so long for what is on disk; after that it serves what it has, and the rest when it is there.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// An end waits so long for what waits to be written.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// A purge waits so long for the journal; it is said in the log when that was not enough.
const PURGE_PATIENCE: Duration = Duration::from_secs(5);

/// One part in so many of a shard's RAM may wait to be written.
const QUEUE_SHARE: usize = 8;

/// Changes with every change of [`VersionParts`]: what was written before cannot be read then.
pub const META_FORMAT: u64 = 1;

/// Folder of the journals and the seed, in the state folder.
const STATE_FOLDER: &str = "disk";

/// What a shard's disk tier is made of.
pub struct DiskParts<'a> {
    /// What was configured; with at least one path.
    pub settings: &'a DiskSettings,
    /// Where the journals are.
    pub state_dir: &'a Path,
    /// This shard.
    pub shard: usize,
    /// How many there are.
    pub shards: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Bytes of the shard's RAM.
    pub ram_bytes: usize,
    /// Of the hashes of keys; see [`seed`].
    pub seed: u64,
    /// The shard's ring.
    pub ring: &'a Ring,
    /// The shard's figures.
    pub stats: Arc<ShardStats>,
}

/// A shard's disk tier.
pub struct Disk {
    devices: Vec<Rc<Device>>,
    seed: u64,
    stats: Arc<ShardStats>,
}

/// A block from disk, and what is known about its object.
pub struct Fetched {
    found: Found<Landed>,
    /// The version it is of; the times are the shard clock's, which is near the wall clock also after a restart.
    pub parts: VersionParts,
}

impl Fetched {
    /// The block's bytes.
    pub fn payload(&self) -> &[u8] {
        self.found.payload()
    }

    /// The block, complete, and what is known about its object. Only a short one needs more memory, which `room` has.
    pub async fn into_block(
        self,
        room: impl AsyncFnOnce(usize) -> Option<BlockWriter>,
    ) -> Option<(BlockWriter, VersionParts)> {
        let block = match self.found.into_payload() {
            Payload::Long(landed, len) => landed.keep(len),
            Payload::Short(bytes) => {
                let mut block = room(bytes.len()).await?;
                block.append(&bytes);
                block
            }
        };
        Some((block, self.parts))
    }
}

/// Changes that must be on disk before a purge is done.
#[must_use]
pub struct Burial(Vec<(Rc<Device>, u64)>);

impl Burial {
    /// Waits until no restart can bring back what was buried.
    pub async fn done(self) {
        let saved = async {
            for (device, change) in self.0 {
                device.saved(change).await;
            }
        };
        if within(PURGE_PATIENCE, saved).await.is_none() {
            tracing::error!(
                "a purge was not written to node.state_dir in time: after a crash now, objects may come back"
            );
        }
    }
}

impl Disk {
    /// Opens the volumes, and waits for what is on them, but not for ever.
    pub async fn start(parts: DiskParts<'_>) -> Rc<Disk> {
        let begun = Instant::now();
        let DiskParts { settings, shard, shards, stats, seed, .. } = parts;
        let count = settings.paths.len().max(1);
        let identity =
            shoal_packet::hash_words(seed, &[META_FORMAT, shard as u64, shards as u64, parts.block_bytes as u64]);
        let device = |(path, bytes): &(std::path::PathBuf, u64)| {
            let geometry = Geometry::of(bytes / shards as u64)?;
            let id = shoal_packet::hash_key(0, path.as_os_str().as_encoded_bytes());
            Some(Device::new(DeviceParts {
                path: path.join(format!("shard-{shard}.volume")),
                geometry,
                identity,
                journal: parts.state_dir.join(STATE_FOLDER).join(format!("shard-{shard}-{id:016x}.journal")),
                id,
                bytes_per_s: settings.write_bytes_per_s / (shards * count) as u64,
                queue_bytes: parts.ram_bytes / QUEUE_SHARE / count,
                read_patience: settings.read_timeout,
                ring: parts.ring.clone(),
                stats: Arc::clone(&stats),
            }))
        };
        let devices: Vec<_> = settings.paths.iter().filter_map(device).collect();
        let opened = async {
            for device in &devices {
                device.settled().await;
            }
        };
        if within(START_PATIENCE, opened).await.is_none() {
            tracing::warn!(shard, "the disk tier is still being read; serving without it until then");
        }
        stats.set(Gauge::DiskRecovery, begun.elapsed().as_micros() as u64);
        Rc::new(Disk { devices, seed, stats })
    }

    /// Writes what waits.
    pub async fn close(&self) {
        self.devices.iter().for_each(|device| device.close());
        let closed = async {
            for device in &self.devices {
                device.settled().await;
            }
        };
        if within(CLOSE_PATIENCE, closed).await.is_none() {
            tracing::warn!("the disk tier did not write all that waited; the next start fetches it again");
        }
    }

    /// The device for a hash, of those that work: the same one as long as none comes or goes (rendezvous hashing).
    fn device(&self, hash: u64) -> Option<&Rc<Device>> {
        let working = self.devices.iter().filter(|device| device.is_up());
        working.max_by_key(|device| shoal_packet::hash_words(device.id(), &[hash]))
    }

    /// Whether the block is there, as far as the index knows.
    pub fn has(&self, key: &SliceKey, index: u32) -> bool {
        let hash = key.hash_of_block(index);
        let volume = self.device(hash).and_then(|device| device.volume());
        volume.is_some_and(|volume| volume.has(hash, key.hash(), key.bytes(), false))
    }

    /// Reads a block to where `room` has room for so many bytes; `None` is a miss, whatever the reason.
    pub async fn fetch(
        &self,
        key: &SliceKey,
        index: u32,
        room: impl AsyncFnOnce(usize) -> Option<BlockWriter>,
    ) -> Option<Fetched> {
        let hash = key.hash_of_block(index);
        let device = Rc::clone(self.device(hash)?);
        let found = device.read(key, index, hash, room).await?;
        match postcard::from_bytes::<VersionParts>(found.meta()) {
            Ok(parts) => {
                let has = |tag: &[u8]| str::from_utf8(tag).is_ok_and(|tag| has_tag(&parts.tags, tag));
                if device.volume().is_none_or(|volume| volume.is_buried(key.bytes(), &found, has)) {
                    self.forget(key, index);
                    return None;
                }
                Some(Fetched { found, parts })
            }
            Err(error) => {
                tracing::debug!(%error, "unreadable metadata on disk");
                self.stats.add(Counter::DiskCorrupt, 1);
                self.forget(key, index);
                None
            }
        }
    }

    /// The block turned out to be of no use.
    pub fn forget(&self, key: &SliceKey, index: u32) {
        let hash = key.hash_of_block(index);
        if let Some(volume) = self.device(hash).and_then(|device| device.volume()) {
            volume.forget(hash);
        }
    }

    /// Whether the block is worth an [`Disk::offer`]: it is neither there nor about to be.
    pub fn wants(&self, key: &SliceKey, index: u32) -> bool {
        let hash = key.hash_of_block(index);
        self.device(hash).is_some_and(|device| device.wants(key, hash))
    }

    /// Has a complete block written when there is time.
    pub fn offer(&self, key: &SliceKey, index: u32, parts: &VersionParts, block: &BlockRef) {
        let hash = key.hash_of_block(index);
        let Some(device) = self.device(hash) else { return };
        match postcard::to_stdvec(parts) {
            Ok(meta) => device.offer(key, index, hash, meta, block),
            Err(error) => tracing::debug!(%error, "metadata that cannot be written"),
        }
    }

    /// The object has been replaced: what is there of its first `blocks` blocks, or about to be, must not come back.
    pub fn outdated(&self, key: &SliceKey, blocks: u32) {
        let known = (0..blocks).any(|index| {
            let hash = key.hash_of_block(index);
            self.devices.iter().any(|device| device.knows(key, hash))
        });
        if known || self.devices.iter().any(|device| !device.is_up()) {
            drop(self.bury(&Tombstone::Object(key.hash())));
        }
    }

    /// What the scope names must not come back.
    pub fn purge(&self, scope: &PurgeScope) -> Burial {
        let prefix =
            |channel: &str, path: &str| Tombstone::Prefix([channel.as_bytes(), b"\0", path.as_bytes()].concat().into());
        self.bury(&match scope {
            PurgeScope::All => Tombstone::Prefix(Box::default()),
            PurgeScope::Channel { channel } => prefix(channel, ""),
            PurgeScope::Prefix { channel, path } => prefix(channel, path),
            PurgeScope::Tag { channel, tag } => {
                Tombstone::Tag([channel.as_bytes(), b"\0", tag.as_bytes()].concat().into())
            }
            PurgeScope::Object { channel, path } => {
                Tombstone::Object(SliceKey::new(self.seed, channel, path, "").hash())
            }
        })
    }

    fn bury(&self, tombstone: &Tombstone) -> Burial {
        Burial(self.devices.iter().map(|device| (Rc::clone(device), device.bury(tombstone))).collect())
    }

    /// Figures.
    pub fn tick(&self) {
        let volumes: Vec<_> = self.devices.iter().filter_map(|device| device.volume()).collect();
        self.stats.set(Gauge::DiskEntries, volumes.iter().map(|volume| volume.entries() as u64).sum());
        self.stats.set(Gauge::DiskUp, volumes.len() as u64);
        self.stats.set(Gauge::DiskDown, (self.devices.len() - volumes.len()) as u64);
        self.stats.set(Gauge::DiskQueued, self.devices.iter().map(|device| device.offered_bytes() as u64).sum());
    }
}

/// The seed of the hashes of keys, which says what is on which shard's volumes: the same at each start, known to nobody
/// outside. Drawn when the state folder has none. Blocks: for before the shards start.
///
/// # Errors
/// The state folder's: then nothing on disk can be found again.
pub fn seed(state_dir: &Path) -> io::Result<u64> {
    let folder = state_dir.join(STATE_FOLDER);
    let path = folder.join("seed");
    match fs::read(&path) {
        Ok(bytes) => {
            if let Ok(seed) = bytes.try_into().map(u64::from_le_bytes) {
                return Ok(seed);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::create_dir_all(&folder)?;
    let seed = crate::link::random_u64()?;
    let temporary = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    io::Write::write_all(&mut file, &seed.to_le_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    Ok(seed)
}

/// The result of `work`, done on another thread.
async fn off_shard<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(work).await
}
