//! Volumes on a disk that tears writes, flips bits, fails, and loses power at any moment.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::{Entry, Found, Geometry, Medium, Miss, PAGE, Payload, Superblock, Tombstone, Tombstones, Volume};

/// The same numbers in each run (SplitMix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What survives a crash.
#[derive(Debug)]
struct Platter {
    bytes: Vec<u8>,
    random: Random,
    /// One operation in so many fails; 0: none.
    fail_one_in: u64,
}

/// A way to the platter, until the power goes.
#[derive(Debug, Clone)]
struct Disk(Rc<RefCell<Platter>>);

impl Disk {
    fn new(geometry: Geometry, seed: u64) -> Disk {
        let bytes = vec![0; geometry.file_bytes() as usize];
        Disk(Rc::new(RefCell::new(Platter { bytes, random: Random(seed), fail_one_in: 0 })))
    }

    fn flip(&self, bits: usize) {
        let platter = &mut *self.0.borrow_mut();
        for _ in 0..bits {
            let bit = platter.random.below(platter.bytes.len() as u64 * 8);
            platter.bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }
}

impl Platter {
    fn fails(&mut self) -> bool {
        self.fail_one_in > 0 && self.random.below(self.fail_one_in) == 0
    }
}

/// A write reaches the platter sector by sector, in any order, while it is polled; what was polled so far stays.
struct Writing<'a> {
    disk: &'a Disk,
    offset: u64,
    buffer: Vec<u8>,
    sectors: Vec<usize>,
}

impl Future for Writing<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let platter = &mut *self.disk.0.borrow_mut();
        if platter.fails() {
            return Poll::Ready(Err(io::Error::other("EIO")));
        }
        for _ in 0..1 + platter.random.below(20) {
            if self.sectors.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let at = platter.random.below(self.sectors.len() as u64) as usize;
            let sector = self.sectors.swap_remove(at);
            let start = self.offset as usize + sector;
            platter.bytes[start..start + 512].copy_from_slice(&self.buffer[sector..sector + 512]);
        }
        Poll::Pending
    }
}

impl Medium for Disk {
    type Buffer = Vec<u8>;
    type Bytes = Vec<u8>;
    type Page = Vec<u8>;
    type Room = ();
    type Block = Vec<u8>;

    fn buffer(&self, len: usize) -> Vec<u8> {
        // Not zeros: what is not written must not be relied upon.
        vec![0xa5; len]
    }

    fn bytes_mut(buffer: &mut Vec<u8>) -> &mut [u8] {
        buffer
    }

    async fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        assert!(offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE));
        let mut bytes = Vec::new();
        // In two steps, so that a write may come between them.
        for half in [offset..offset + len as u64 / 2, offset + len as u64 / 2..offset + len as u64] {
            let mut waited = false;
            std::future::poll_fn(|_| match std::mem::replace(&mut waited, true) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            let mut platter = self.0.borrow_mut();
            if platter.fails() {
                return Err(io::Error::other("EIO"));
            }
            bytes.extend_from_slice(&platter.bytes[half.start as usize..half.end as usize]);
        }
        Ok(bytes)
    }

    async fn read_block(&self, offset: u64, len: usize, (): ()) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut page = self.read(offset, PAGE + len).await?;
        let block = page.split_off(PAGE);
        Ok((page, block))
    }

    async fn write(&self, offset: u64, buffer: Vec<u8>) -> io::Result<()> {
        assert!(offset.is_multiple_of(PAGE as u64) && buffer.len().is_multiple_of(PAGE));
        let sectors = (0..buffer.len()).step_by(512).collect();
        Writing { disk: self, offset, buffer, sectors }.await
    }
}

fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

const GEOMETRY: Geometry = Geometry { segment_pages: 16, segments: 8 };
const SUPERBLOCK: Superblock = Superblock { volume: 0xabc, identity: 1, geometry: GEOMETRY };

const OBJECTS: u64 = 12;
const BLOCKS: u64 = 3;

fn key(object: u64) -> Vec<u8> {
    format!("c{}\0object{object}", object % 3).into_bytes()
}

fn hash(object: u64, block: u64) -> u64 {
    Random(object << 8 | block).next()
}

/// The bytes of one generation of a block.
fn payload(object: u64, block: u64, generation: u64) -> Vec<u8> {
    let mut random = Random(object << 40 | block << 32 | generation);
    let len = random.below(3 * PAGE as u64) as usize;
    let mut bytes: Vec<u8> = generation.to_le_bytes().into();
    bytes.extend((0..len).map(|_| random.next() as u8));
    bytes
}

async fn fetch(volume: &Volume<Disk>, object: u64, block: u64) -> Result<Found<Vec<u8>>, Miss> {
    volume.read(hash(object, block), object, &key(object), block as u32, async |_| Some(())).await
}

type Task<T> = Pin<Box<dyn Future<Output = T>>>;
type Read = (u64, u64, Task<Result<Found<Vec<u8>>, Miss>>);

/// A volume, its journal, and what may be read from it.
struct World {
    disk: Disk,
    random: Random,
    volume: Rc<Volume<Disk>>,
    journal: Vec<u8>,
    /// The generation of each object; those before were buried.
    generations: HashMap<u64, u64>,
    writing: Option<Task<io::Result<()>>>,
    /// Of what is being written, by object.
    live: Vec<(u64, Rc<Cell<bool>>)>,
    reading: Vec<Read>,
    epoch: u64,
    found: usize,
    corrupt: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let disk = Disk::new(GEOMETRY, seed);
        let volume = Rc::new(run(Volume::create(disk.clone(), SUPERBLOCK, 0)).unwrap());
        World {
            disk,
            random: Random(seed ^ 0x5555),
            journal: volume.journal(),
            volume,
            generations: HashMap::new(),
            writing: None,
            live: Vec::new(),
            reading: Vec::new(),
            epoch: 0,
            found: 0,
            corrupt: 0,
        }
    }

    fn generation(&self, object: u64) -> u64 {
        self.generations.get(&object).copied().unwrap_or(0)
    }

    fn step(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        match self.random.below(12) {
            0..4 => match &mut self.writing {
                None => self.start_write(),
                Some(writing) => {
                    if writing.as_mut().poll(cx).is_ready() {
                        self.writing = None;
                        self.live.clear();
                    }
                }
            },
            4..7 => {
                let (object, block) = (self.random.below(OBJECTS), self.random.below(BLOCKS));
                let volume = Rc::clone(&self.volume);
                let read = async move { fetch(&volume, object, block).await };
                self.reading.push((object, block, Box::pin(read)));
            }
            7..11 => {
                let mut reading = std::mem::take(&mut self.reading);
                reading.retain_mut(|(object, block, read)| match read.as_mut().poll(cx) {
                    Poll::Pending => true,
                    Poll::Ready(read) => {
                        self.check(*object, *block, read);
                        false
                    }
                });
                self.reading = reading;
            }
            _ if self.random.below(4) == 0 => self.bury(),
            _ => {}
        }
    }

    fn start_write(&mut self) {
        let mut blocks = Vec::new();
        for _ in 0..1 + self.random.below(8) {
            let (object, block) = (self.random.below(OBJECTS), self.random.below(BLOCKS));
            let live = Rc::new(Cell::new(true));
            self.live.push((object, Rc::clone(&live)));
            blocks.push((object, block, payload(object, block, self.generation(object)), live));
        }
        let volume = Rc::clone(&self.volume);
        self.writing = Some(Box::pin(async move {
            let keys: Vec<_> = blocks.iter().map(|(object, ..)| key(*object)).collect();
            let entries = blocks.iter().zip(&keys).map(|((object, block, payload, live), key)| Entry {
                hash: hash(*object, *block),
                block: *block as u32,
                key,
                meta: b"meta",
                payload,
                live,
            });
            volume.write(&entries.collect::<Vec<_>>()).await
        }));
    }

    fn bury(&mut self) {
        let object = self.random.below(OBJECTS);
        let (tombstone, hit): (_, Vec<u64>) = match self.random.below(8) {
            0 => (Tombstone::Prefix(Box::default()), (0..OBJECTS).collect()),
            1 => {
                let prefix = format!("c{}\0", object % 3);
                let hit = (0..OBJECTS).filter(|other| key(*other).starts_with(prefix.as_bytes()));
                (Tombstone::Prefix(prefix.as_bytes().into()), hit.collect())
            }
            _ => (Tombstone::Object(object), vec![object]),
        };
        for (_, live) in self.live.iter().filter(|(object, _)| hit.contains(object)) {
            live.set(false);
        }
        match self.volume.bury(tombstone) {
            Some(record) => self.journal.extend(record),
            None => self.journal = self.volume.journal(),
        }
        for object in hit {
            *self.generations.entry(object).or_default() += 1;
        }
    }

    fn check(&mut self, object: u64, block: u64, read: Result<Found<Vec<u8>>, Miss>) {
        match read {
            Ok(found) => {
                let expected = payload(object, block, self.generation(object));
                assert!(found.payload() == expected, "{object}.{block}: wrong or buried bytes");
                assert_eq!(found.meta(), b"meta");
                self.found += 1;
            }
            Err(Miss::Corrupt) => self.corrupt += 1,
            Err(Miss::Absent | Miss::NoRoom | Miss::Io(_)) => {}
        }
    }

    /// The power goes; then everything is opened again.
    fn crash(&mut self, expect_warm: bool) {
        let lasting = |volume: &Volume<Disk>| -> Vec<(u64, u64)> {
            let all = (0..OBJECTS).flat_map(|object| (0..BLOCKS).map(move |block| (object, block)));
            all.filter(|&(object, block)| volume.has(hash(object, block), object, &key(object), true)).collect()
        };
        let before = lasting(&self.volume);
        (self.writing, self.reading) = (None, Vec::new());
        self.live.clear();
        self.epoch += 1;
        self.disk.0.borrow_mut().fail_one_in = 0;
        let (id, tombstones) = Tombstones::read(&self.journal).unwrap();
        assert_eq!(id, SUPERBLOCK.volume);
        match run(Volume::open(self.disk.clone(), SUPERBLOCK, tombstones, self.epoch)).unwrap() {
            Ok(volume) => {
                self.volume = Rc::new(volume);
                self.journal = self.volume.journal();
            }
            Err(_) => {
                // Only a flipped superblock makes the volume another one; it is made anew, under another number.
                assert!(!expect_warm);
                *self = World::new(self.random.next());
                return;
            }
        }
        for (object, block) in before {
            let read = run(fetch(&self.volume, object, block));
            assert!(read.is_ok() || !expect_warm, "{object}.{block} was there before the crash: {read:?}");
            self.check(object, block, read);
        }
    }
}

#[test]
fn what_was_written_survives_crashes_and_what_was_buried_does_not() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        for _ in 0..30 {
            for _ in 0..world.random.below(300) {
                world.step();
            }
            world.crash(true);
        }
        assert!(world.found > 100, "seed {seed}: only {} reads found anything", world.found);
    }
}

#[test]
fn flipped_bits_and_failing_operations_only_cost_hits() {
    let (mut found, mut corrupt) = (0, 0);
    for seed in 1000..1060 {
        let mut world = World::new(seed);
        for _ in 0..20 {
            world.disk.0.borrow_mut().fail_one_in = [0, 5, 50][world.random.below(3) as usize];
            for _ in 0..world.random.below(300) {
                world.step();
                if world.random.below(40) == 0 {
                    world.disk.flip(3);
                }
            }
            let flips = world.random.below(60) as usize;
            world.disk.flip(flips);
            world.crash(false);
        }
        found += world.found;
        corrupt += world.corrupt;
    }
    assert!(found > 5_000 && corrupt > 100, "{found} found, {corrupt} corrupt");
}

#[test]
fn a_block_for_which_there_is_no_room_stays() {
    let volume = run(Volume::create(Disk::new(GEOMETRY, 5), SUPERBLOCK, 0)).unwrap();
    let (live, key) = (Cell::new(true), key(1));
    let write = |hash, payload: &[u8]| {
        let entry = Entry { hash, block: 0, key: &key, meta: b"meta", payload, live: &live };
        run(volume.write(&[entry])).unwrap();
    };
    write(1, &[1; PAGE]);
    write(2, &[2; 100]);
    let read = |hash, room| run(volume.read(hash, 7, &key, 0, async |_| room));
    assert!(matches!(read(1, None), Err(Miss::NoRoom)));
    assert_eq!(read(1, Some(())).unwrap().payload(), [1; PAGE]);
    assert!(matches!(read(2, None).unwrap().into_payload(), Payload::Short(bytes) if *bytes == [2; 100]));
}

#[test]
fn a_volume_that_is_all_noise_is_empty() {
    let disk = Disk::new(GEOMETRY, 3);
    let created = run(Volume::create(disk.clone(), SUPERBLOCK, 0)).unwrap();
    drop(created);
    let mut platter = disk.0.borrow_mut();
    let mut random = Random(4);
    platter.bytes[PAGE..].fill_with(|| random.next() as u8);
    drop(platter);
    let volume = run(Volume::open(disk, SUPERBLOCK, Tombstones::default(), 1)).unwrap().ok().unwrap();
    assert_eq!(volume.entries(), 0);
}

#[test]
fn a_start_reads_tables_and_goes_on_where_all_that_was_known_ends() {
    let disk = Disk::new(GEOMETRY, 9);
    let volume = run(Volume::create(disk.clone(), SUPERBLOCK, 0)).unwrap();
    let (live, key, bytes) = (Cell::new(true), key(1), [1; 100]);
    let entry = |hash| Entry { hash, block: 0, key: &key, meta: b"", payload: &bytes, live: &live };
    for hash in 0..40 {
        run(volume.write(&[entry(hash)])).unwrap();
    }
    run(volume.seal()).unwrap();
    // The first page of each segment is lost: the tables are enough for the others.
    for segment in 0..3 {
        disk.0.borrow_mut().bytes[(1 + segment * 16) * PAGE..][..PAGE].fill(0);
    }
    let mut tombstones = Tombstones::default();
    tombstones.add(Tombstone::Object(77), 1000);
    let volume = run(Volume::open(disk, SUPERBLOCK, tombstones, 1)).unwrap().ok().unwrap();
    assert_eq!(volume.entries(), 40);
    // Beyond all positions that a tombstone kills.
    run(volume.write(&[entry(99)])).unwrap();
    assert!(volume.has(99, 77, &key, false));
}

#[test]
fn entries_of_an_earlier_life_are_not_taken_for_ones_of_this() {
    let disk = Disk::new(GEOMETRY, 11);
    let (live, key, bytes) = (Cell::new(true), key(1), [1; 100]);
    let entry = |hash| Entry { hash, block: 0, key: &key, meta: b"", payload: &bytes, live: &live };
    let volume = run(Volume::create(disk.clone(), SUPERBLOCK, 0)).unwrap();
    run(volume.write(&[1, 2, 3, 4].map(entry))).unwrap();
    // Without its first entry nothing says that the segment was begun: the next start begins it again.
    disk.0.borrow_mut().bytes[17 * PAGE..][..PAGE].fill(0);
    let open = |epoch| run(Volume::open(disk.clone(), SUPERBLOCK, Tombstones::default(), epoch)).unwrap().ok().unwrap();
    let volume = open(1);
    assert_eq!(volume.entries(), 0);
    run(volume.write(&[entry(5)])).unwrap();
    assert_eq!(open(2).entries(), 1, "those behind it have the right positions, but another epoch");
}
