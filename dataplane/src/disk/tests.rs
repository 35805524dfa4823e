//! Devices that fail, and what comes of it.

use std::cell::Cell;
use std::future::Future;
use std::path::PathBuf;

use glommio::timer::sleep;
use rustix::io::Errno;
use shoal_http::caching::Staleness;
use shoal_sys::arena::Arena;
use shoal_sys::ring::RingConfig;

use super::*;
use crate::testing::{Folder, folder, in_executor};
use crate::upstream::head::Validators;

/// What goes wrong with the files of this thread's devices.
#[derive(Debug, Default)]
pub(super) struct Faults {
    read: Cell<Option<Errno>>,
    write: Cell<Option<Errno>>,
    delay: Cell<Option<Duration>>,
}

impl Faults {
    pub(super) async fn before_read(&self) -> io::Result<()> {
        if let Some(delay) = self.delay.get() {
            sleep(delay).await;
        }
        self.read.get().map_or(Ok(()), |errno| Err(errno.into()))
    }

    pub(super) async fn before_write(&self) -> io::Result<()> {
        self.write.get().map_or(Ok(()), |errno| Err(errno.into()))
    }
}

thread_local! {
    static FAULTS: Rc<Faults> = Rc::default();
}

pub(super) fn faults() -> Rc<Faults> {
    FAULTS.with(Rc::clone)
}

const BLOCK: usize = 64 << 10;

/// One shard's disk tier on two devices.
struct Lab {
    folder: Folder,
    arena: Arena,
    ring: Ring,
    stats: Arc<ShardStats>,
    disk: Rc<Disk>,
}

impl Lab {
    async fn start() -> Lab {
        let (folder, stats, ring) = (folder(), Arc::new(ShardStats::default()), turning_ring());
        let disk = start(&folder, &ring, &stats).await;
        Lab { folder, arena: Arena::with_huge_max(8 << 20, 0).unwrap(), ring, stats, disk }
    }

    /// As after a kill: nothing is closed or sealed.
    async fn restart(&mut self) {
        self.stats = Arc::new(ShardStats::default());
        self.disk = start(&self.folder, &self.ring, &self.stats).await;
    }

    fn device(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("device-{index}"))
    }

    /// Offers block 0 of so many objects.
    async fn offer(&self, objects: std::ops::Range<u64>) {
        for object in objects {
            let mut block = self.arena.alloc(BLOCK).unwrap();
            block.append(&bytes(object));
            self.disk.offer(&key(object), 0, &parts(), &block.finish());
        }
        until(|| self.disk.devices.iter().all(|device| device.offered_bytes() == 0)).await;
    }

    /// How many of the objects come back, each with its right bytes.
    async fn found(&self, objects: std::ops::Range<u64>) -> usize {
        let mut found = 0;
        for object in objects {
            if let Some(fetched) = self.disk.fetch(&key(object), 0, async |len| self.arena.alloc(len)).await {
                assert_eq!(fetched.payload(), bytes(object), "object {object}");
                let room = async |_| panic!("it has its memory already");
                let (block, read) = fetched.into_block(room).await.unwrap();
                assert_eq!(block.finish().bytes(), bytes(object));
                assert_eq!(read.validators, parts().validators);
                found += 1;
            }
        }
        found
    }

    fn count(&self, counter: Counter) -> u64 {
        self.stats.counter(counter)
    }

    fn devices_up(&self) -> usize {
        self.disk.devices.iter().filter(|device| device.is_up()).count()
    }
}

/// A ring that is turned now and then.
fn turning_ring() -> Ring {
    let ring = Ring::new(RingConfig { entries: 8, buffers: 4, buffer_bytes: 1024 }).unwrap();
    let turned = ring.clone();
    let turns = async move {
        loop {
            turned.turn().unwrap();
            sleep(Duration::from_micros(100)).await;
        }
    };
    glommio::spawn_local(turns).detach();
    ring
}

async fn start(folder: &Folder, ring: &Ring, stats: &Arc<ShardStats>) -> Rc<Disk> {
    let paths = (0..2).map(|index| (folder.path().join(format!("device-{index}")), 32 << 20)).collect();
    let settings =
        DiskSettings { paths, admit_uses: 1, write_bytes_per_s: 1 << 30, read_timeout: Duration::from_millis(200) };
    Disk::start(DiskParts {
        settings: &settings,
        state_dir: folder.path(),
        shard: 0,
        shards: 1,
        block_bytes: BLOCK,
        ram_bytes: 64 << 20,
        seed: 7,
        ring,
        stats: Arc::clone(stats),
    })
    .await
}

fn key(object: u64) -> SliceKey {
    SliceKey::new(7, if object.is_multiple_of(2) { "even" } else { "odd" }, &format!("dir/{object}"), "")
}

fn bytes(object: u64) -> Vec<u8> {
    (0..BLOCK - object as usize).map(|at| (at as u64 * 31 + object * 7) as u8).collect()
}

fn parts() -> VersionParts {
    VersionParts {
        status: 200,
        total: Some(5),
        validators: Validators { etag: Some("\"v1\"".into()), last_modified: Some(6), settled: true },
        relay: b"X-A: b\r\n".as_slice().into(),
        version_lines: b"ETag: \"v1\"\r\n".as_slice().into(),
        content_type: Some("video/mp4".into()),
        cache_control: None,
        born_ms: 1 << 40,
        date_s: 1 << 30,
        fresh_until_ms: 1 << 41,
        exclusive: false,
        expires: Some("0".into()),
        selecting: Box::default(),
        tags: "news sport".into(),
        stale: Staleness { while_revalidate_ms: 1, if_error_ms: Some(2) },
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(within(Duration::from_secs(20), wait).await.is_some(), "not within 20 s");
}

fn in_lab<F: Future<Output = ()> + 'static>(test: impl FnOnce(Lab) -> F + Send + 'static) {
    in_executor(|| async { test(Lab::start().await).await });
}

#[test]
fn what_was_written_comes_back_after_a_kill_and_after_an_end_in_order() {
    in_lab(|mut lab| async move {
        lab.offer(0..40).await;
        assert_eq!(lab.found(0..50).await, 40);
        lab.restart().await;
        assert_eq!(lab.found(0..50).await, 40);
        lab.offer(40..50).await;
        lab.disk.close().await;
        lab.restart().await;
        assert_eq!(lab.found(0..50).await, 50);
        assert!(lab.disk.devices.iter().all(|device| device.volume().unwrap().entries() > 5), "both devices are used");
        assert_eq!((lab.count(Counter::DiskCorrupt), lab.count(Counter::DiskHits)), (0, 50));
    });
}

#[test]
fn what_was_purged_or_replaced_stays_away_also_after_a_kill() {
    in_lab(|mut lab| async move {
        lab.offer(0..40).await;
        lab.disk.purge(&PurgeScope::Object { channel: "even".into(), path: "dir/4".into() }).done().await;
        lab.disk.purge(&PurgeScope::Prefix { channel: "odd".into(), path: "dir/1".into() }).done().await;
        lab.disk.outdated(&key(6), 1);
        // 1, 11, 13, 15, 17, 19, and 4 and 6.
        assert_eq!(lab.found(0..40).await, 32);
        assert!(!lab.disk.has(&key(4), 0) && !lab.disk.has(&key(11), 0) && lab.disk.wants(&key(6), 0));
        lab.disk.purge(&PurgeScope::Channel { channel: "nobody".into() }).done().await;
        lab.restart().await;
        assert_eq!(lab.found(0..40).await, 32);
        // What is written after a purge is not what was purged.
        lab.offer(4..5).await;
        assert_eq!(lab.found(4..5).await, 1);
        lab.disk.purge(&PurgeScope::Tag { channel: "odd".into(), tag: "spo".into() }).done().await;
        assert_eq!(lab.found(0..40).await, 33);
        lab.disk.purge(&PurgeScope::Tag { channel: "odd".into(), tag: "sport".into() }).done().await;
        lab.restart().await;
        assert_eq!(lab.found(0..40).await, 19, "the even ones, but for one that was replaced");
        lab.disk.purge(&PurgeScope::All).done().await;
        assert_eq!(lab.found(0..40).await, 0);
        lab.restart().await;
        assert_eq!(lab.found(0..40).await, 0);
    });
}

#[test]
fn what_waits_to_be_written_is_purged_as_well() {
    in_lab(|lab| async move {
        let mut block = lab.arena.alloc(BLOCK).unwrap();
        block.append(&bytes(1));
        lab.disk.offer(&key(1), 0, &parts(), &block.finish());
        assert!(!lab.disk.wants(&key(1), 0), "it is on its way");
        lab.disk.purge(&PurgeScope::Channel { channel: "odd".into() }).done().await;
        until(|| lab.disk.devices.iter().all(|device| device.offered_bytes() == 0)).await;
        assert_eq!(lab.found(0..2).await, 0);
    });
}

#[test]
fn a_device_that_takes_no_writes_is_left_out_and_comes_back() {
    for errno in [Errno::NOSPC, Errno::IO, Errno::ROFS] {
        in_lab(move |lab| async move {
            lab.offer(0..20).await;
            faults().write.set(Some(errno));
            lab.offer(20..40).await;
            until(|| lab.devices_up() == 0).await;
            assert_eq!(lab.found(0..40).await, 0, "no device, no hit, no harm");
            assert!(lab.count(Counter::DiskWriteErrors) > 0 && lab.count(Counter::DiskWriteDrops) > 0);
            faults().write.set(None);
            until(|| lab.devices_up() == 2).await;
            assert_eq!(lab.found(0..20).await, 20);
        });
    }
}

#[test]
fn a_purge_counts_for_a_device_that_is_away() {
    in_lab(|lab| async move {
        lab.offer(0..20).await;
        faults().write.set(Some(Errno::IO));
        lab.offer(20..40).await;
        until(|| lab.devices_up() == 0).await;
        lab.disk.purge(&PurgeScope::Object { channel: "even".into(), path: "dir/4".into() }).done().await;
        faults().write.set(None);
        until(|| lab.devices_up() == 2).await;
        assert_eq!(lab.found(4..5).await, 0);
        lab.offer(0..4).await;
        assert_eq!(lab.found(0..4).await, 4, "it is used again");
    });
}

#[test]
fn a_device_whose_reads_fail_or_hang_is_left_out() {
    in_lab(|lab| async move {
        lab.offer(0..40).await;
        faults().read.set(Some(Errno::IO));
        assert_eq!(lab.found(0..40).await, 0);
        assert_eq!((lab.devices_up(), lab.count(Counter::DiskReadErrors)), (0, 16), "eight in a row for each");
        faults().read.set(None);
        until(|| lab.devices_up() == 2).await;
        assert_eq!(lab.found(0..40).await, 40);
        faults().delay.set(Some(Duration::from_secs(1)));
        assert_eq!(lab.found(0..40).await, 0);
        assert_eq!((lab.devices_up(), lab.count(Counter::DiskTimeouts)), (0, 16));
        faults().delay.set(None);
    });
}

#[test]
fn damaged_truncated_and_missing_files_only_cost_hits() {
    in_lab(|mut lab| async move {
        lab.offer(0..40).await;
        let volume = lab.device(0).join("shard-0.volume");
        let mut damaged = fs::read(&volume).unwrap();
        // A byte in each eleventh page, but not in the superblock.
        damaged.iter_mut().skip(4096 * 3).step_by(4096 * 11).for_each(|byte| *byte ^= 1);
        fs::write(&volume, &damaged).unwrap();
        lab.restart().await;
        let left = lab.found(0..40).await;
        assert!((5..40).contains(&left), "{left}");
        assert!(lab.count(Counter::DiskCorrupt) > 0 || lab.disk.devices[0].volume().unwrap().entries() < 10);

        fs::OpenOptions::new().write(true).open(&volume).unwrap().set_len(1 << 20).unwrap();
        lab.restart().await;
        assert!(lab.found(0..40).await <= left && lab.devices_up() == 2);
        fs::remove_file(&volume).unwrap();
        lab.restart().await;
        assert_eq!(lab.devices_up(), 2);

        for entry in fs::read_dir(lab.folder.path().join("disk")).unwrap() {
            fs::write(entry.unwrap().path(), b"what is this").unwrap();
        }
        lab.restart().await;
        assert_eq!((lab.found(0..40).await, lab.devices_up()), (0, 2), "without its journal a volume is empty");
        lab.offer(0..40).await;
        lab.restart().await;
        assert_eq!(lab.found(0..40).await, 40);
    });
}

#[test]
fn a_folder_that_cannot_be_used_harms_nobody() {
    in_executor(|| async {
        let folder = folder();
        fs::write(folder.path().join("device-0"), b"a file where a folder should be").unwrap();
        let stats = Arc::new(ShardStats::default());
        let disk = start(&folder, &turning_ring(), &stats).await;
        disk.tick();
        assert_eq!((stats.gauge(Gauge::DiskUp), stats.gauge(Gauge::DiskDown)), (1, 1));
        assert_eq!(stats.counter(Counter::DiskOpenErrors), 1);
    });
}

#[test]
fn metadata_changes_with_its_format_number() {
    let written = postcard::to_stdvec(&parts()).unwrap();
    let sum = written.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    assert_eq!(
        (META_FORMAT, written.len(), sum),
        (1, 83, 14_999_510_787_091_722_961),
        "give META_FORMAT a new number, then put the new sum here"
    );
}

#[test]
fn the_seed_stays() {
    let folder = folder();
    let drawn = seed(folder.path()).unwrap();
    assert_eq!(seed(folder.path()).unwrap(), drawn);
    fs::write(folder.path().join("disk/seed"), b"short").unwrap();
    assert_ne!(seed(folder.path()).unwrap(), drawn);
}
