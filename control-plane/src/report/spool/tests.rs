//! The spool: cut and damaged tails, disks that fail, kills at any moment.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::disk::{Disk, SegmentFile};
use super::segment::{FRAME, HEAD};
use super::*;

/// A folder that goes away with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shoal-spool-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) const LIMITS: Limits =
    Limits { segment_bytes: 1 << 20, segment_ms: 60_000, queue_bytes: 1 << 20, spool_bytes: 1 << 30 };

fn open(dir: &Path, limits: Limits) -> Spool {
    let id = identify(dir).unwrap();
    Spool::open(dir, id, 0, limits, Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap())).unwrap()
}

fn all(spool: &Spool) -> Vec<Vec<u8>> {
    let (mut from, mut found) = (Position::default(), Vec::new());
    loop {
        let chunk = spool.read(from, 64).unwrap();
        if chunk.is_empty() {
            return found;
        }
        assert!(chunk.next > from);
        from = chunk.next;
        found.extend(chunk.records().map(<[u8]>::to_vec));
    }
}

fn payload(number: usize) -> Vec<u8> {
    format!("record {number} {}", "x".repeat(number % 40)).into_bytes()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart_in_order_of_segments() {
    let folder = Folder::new();
    let mut written = Vec::new();
    for round in 0..3 {
        let spool = open(folder.path(), Limits { segment_bytes: 100, ..LIMITS });
        runtime().block_on(async {
            for number in 0..20 {
                let payload = payload(round * 20 + number);
                spool.append(payload.clone()).await.unwrap();
                written.push(payload);
            }
        });
        assert_eq!(all(&spool), written);
        assert!(spool.finished().len() > 1);
    }
    let spool = open(folder.path(), LIMITS);
    assert_eq!(all(&spool), written);
    // The id stays, and finished segments can go one by one.
    assert_eq!(identify(folder.path()).unwrap(), spool.id());
    for (number, _) in spool.finished() {
        spool.remove(number).unwrap();
    }
    assert_eq!((all(&spool).len(), spool.bytes()), (0, 0));
    let id = spool.id().to_owned();
    let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
    let error = Spool::open(folder.path(), id, 0, LIMITS, metrics).err().unwrap().to_string();
    assert!(error.contains("another instance uses it"), "{error}");
    drop(spool);
    let reopened = open(folder.path(), LIMITS);
    assert!(all(&reopened).is_empty());
}

/// A segment with three records; its bytes, and where the last one begins.
fn three(folder: &Folder) -> (PathBuf, Vec<u8>, usize) {
    let spool = open(folder.path(), LIMITS);
    runtime().block_on(async {
        for number in 0..3 {
            spool.append(payload(number)).await.unwrap();
        }
    });
    drop(spool);
    let path = segment::path(folder.path(), 1);
    let bytes = fs::read(&path).unwrap();
    let last = bytes.len() - FRAME - payload(2).len();
    (path, bytes, last)
}

#[test]
fn a_tail_that_is_cut_or_damaged_at_any_byte_is_dropped_and_nothing_else() {
    let folder = Folder::new();
    let (path, bytes, last) = three(&folder);
    for at in last..bytes.len() {
        fs::write(&path, &bytes[..at]).unwrap();
        let spool = open(folder.path(), LIMITS);
        assert_eq!(all(&spool), [payload(0), payload(1)], "cut at {at}");
        drop(spool);
        assert_eq!(fs::metadata(&path).unwrap().len(), last as u64);
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            fs::write(&path, &changed).unwrap();
            assert_eq!(all(&open(folder.path(), LIMITS)), [payload(0), payload(1)], "bit {bit} of byte {at}");
        }
    }
    // What is behind the last record, as blocks that were never written.
    fs::write(&path, [bytes.as_slice(), &[0; 4096]].concat()).unwrap();
    let spool = open(folder.path(), LIMITS);
    assert_eq!(all(&spool)[..3], [payload(0), payload(1), payload(2)]);
    // New records go to a new segment, and are read behind the old ones.
    runtime().block_on(spool.append(b"more".to_vec())).unwrap();
    assert_eq!(all(&spool).last().unwrap(), b"more");
}

#[test]
fn a_head_that_is_cut_is_no_segment() {
    let folder = Folder::new();
    let (path, bytes, _) = three(&folder);
    for at in 0..=HEAD {
        fs::write(&path, &bytes[..at]).unwrap();
        assert!(all(&open(folder.path(), LIMITS)).is_empty(), "cut at {at}");
        assert!(!path.exists());
    }
}

#[test]
fn damage_in_a_finished_segment_stops_neither_reader_nor_start_and_is_kept() {
    let folder = Folder::new();
    let (path, mut bytes, last) = three(&folder);
    let spool = open(folder.path(), LIMITS);
    runtime().block_on(spool.append(b"behind".to_vec())).unwrap();
    drop(spool);
    bytes[last - 1] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let spool = open(folder.path(), LIMITS);
    let chunk = spool.read(Position::default(), 1 << 20).unwrap();
    assert_eq!(chunk.records().count(), 1);
    assert!(chunk.damaged > 0);
    assert_eq!(all(&spool), [payload(0), b"behind".to_vec()]);
    spool.remove(1).unwrap();
    assert!(!path.exists() && path.with_extension("damaged").exists());
}

#[test]
fn what_waits_and_what_is_kept_have_limits() {
    let folder = Folder::new();
    let spool = open(folder.path(), Limits { queue_bytes: 100, spool_bytes: 300, ..LIMITS });
    assert_eq!(spool.offer(vec![0; 101]), Err(AppendError::Busy));
    let runtime = runtime();
    runtime.block_on(async {
        spool.append(vec![1; 100]).await.unwrap();
        spool.append(vec![2; 90]).await.unwrap();
        assert_eq!(spool.append(vec![3; 90]).await, Err(AppendError::Full));
    });
    assert_eq!((all(&spool).len(), spool.queued()), (2, 0));
}

/// splitmix64, so that a run is the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ mixed >> 27) % below
    }
}

/// A disk that fails now and then, and of which a power cut leaves what was synced and any part of the rest.
struct Faulty(Arc<Mutex<Faults>>);

struct Faults {
    random: Random,
    /// Each write and sync fails one time in so many.
    one_in: u64,
    /// Files, with the bytes that are synced.
    synced: BTreeMap<PathBuf, u64>,
}

impl Faults {
    fn fails(&mut self) -> io::Result<()> {
        if self.random.below(self.one_in) == 0 { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }
}

struct FaultyFile(Arc<Mutex<Faults>>, PathBuf, Vec<u8>);

impl Disk for Faulty {
    fn create(&mut self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let mut faults = self.0.lock().unwrap();
        faults.fails()?;
        fs::write(path, b"")?;
        faults.synced.insert(path.to_owned(), 0);
        Ok(Box::new(FaultyFile(Arc::clone(&self.0), path.to_owned(), Vec::new())))
    }
}

impl SegmentFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut faults = self.0.lock().unwrap();
        let failed = faults.fails();
        // A write that fails may have written a part.
        let part = if failed.is_err() { faults.random.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
        self.2.extend(&bytes[..part]);
        fs::write(&self.1, &self.2)?;
        failed
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut faults = self.0.lock().unwrap();
        faults.fails()?;
        faults.synced.insert(self.1.clone(), self.2.len() as u64);
        Ok(())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        let mut faults = self.0.lock().unwrap();
        faults.fails()?;
        self.2.truncate(len as usize);
        fs::write(&self.1, &self.2)?;
        faults.synced.insert(self.1.clone(), len);
        Ok(())
    }
}

#[test]
fn neither_failing_disks_nor_power_cuts_lose_what_was_acknowledged() {
    for seed in 0..40 {
        let folder = Folder::new();
        let faults = Arc::new(Mutex::new(Faults { random: Random(seed), one_in: 12, synced: BTreeMap::new() }));
        let (mut sent, mut acknowledged) = (0_usize, BTreeSet::new());
        for life in 0..6 {
            let segments: Segments = Arc::new(Mutex::new(segment::recover(folder.path()).unwrap()));
            let next = lock(&segments).keys().next_back().copied().unwrap_or(0) + 1;
            let limits = Limits { segment_bytes: 200, ..LIMITS };
            let disk = Box::new(Faulty(Arc::clone(&faults)));
            let mut writer = Writer::new(disk, folder.path().to_owned(), Arc::clone(&segments), next, limits);
            let commits = faults.lock().unwrap().random.below(30);
            for _ in 0..commits {
                let count = faults.lock().unwrap().random.below(4) as usize + 1;
                let records: Vec<Vec<u8>> = (sent..sent + count).map(payload).collect();
                sent += count;
                if writer.commit(records.iter().map(Vec::as_slice), life * 1000).is_ok() {
                    acknowledged.extend(records);
                }
            }
            // The power goes: of what was not synced any part stays, and the last byte may be wrong.
            let mut faults = faults.lock().unwrap();
            for (path, synced) in faults.synced.clone() {
                let Ok(mut bytes) = fs::read(&path) else { continue };
                let open = bytes.len() as u64 - synced;
                if open > 0 {
                    bytes.truncate((synced + faults.random.below(open + 1)) as usize);
                    if bytes.len() as u64 > synced && faults.random.below(2) == 0 {
                        *bytes.last_mut().unwrap() ^= 0x55;
                    }
                    fs::write(&path, &bytes).unwrap();
                }
            }
        }
        let found: Vec<Vec<u8>> = all(&open(folder.path(), LIMITS));
        let distinct: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(distinct.len(), found.len(), "seed {seed}: nothing is there twice");
        assert!(acknowledged.is_subset(&distinct), "seed {seed}: something acknowledged is lost");
        assert!(acknowledged.len() > 20, "seed {seed}");
    }
}
