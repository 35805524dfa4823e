//! Devices of the disk tier that are full or fail while they are in use: real errors of the kernel. It costs hits, nothing
//! else.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::load::{Load, Target};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::volume::Volume;
use shoal_tests::{net, tool, with_one_and_four_shards};

with_one_and_four_shards!(no_space_left, input_output_errors);

const BLOCK: u64 = 64 << 10;

/// Of each shard on each of the two devices; it could not be much less.
const DISK: u64 = 17 << 20;

const SOON: Duration = Duration::from_secs(20);

/// A node with two devices, the first of which lies on a volume of its own.
struct Node {
    // Dropped in this order.
    lab: Lab,
    volume: Volume,
    origin: Origin,
    objects: Vec<Object>,
}

impl Node {
    /// `None`: this machine does not let us.
    fn start(test: &str, shards: u32, objects: u64) -> Option<Self> {
        let bytes = DISK * u64::from(shards);
        // A name that nobody else has: that of an address.
        let at = std::env::temp_dir().join(format!("shoal-tests-volume-{}", net::own_address()));
        let volume = match Volume::mount(&at, bytes + (16 << 20)) {
            Ok(volume) => volume,
            Err(reason) => {
                tool::skip(test, &reason);
                return None;
            }
        };
        let origin = Origin::start();
        let objects: Vec<_> =
            (0..objects).map(|nth| Object::new(&format!("/{nth}"), 6 * BLOCK + 999 * (nth % 150))).collect();
        for object in &objects {
            origin.put(object.clone());
        }
        let lab = Settings::new(shards)
            .with_disk_at(&at, bytes)
            .with_disks(&[bytes])
            .set("disk.admit_uses", "1")
            .set("cache.ram_bytes", &(8 << 20).to_string())
            .start();
        lab.channel("c", &[&origin]);
        Some(Self { lab, volume, origin, objects })
    }

    /// Viewers ask for everything, and get it, while `fault` does its work.
    fn under_load(&self, rng: &mut Rng, fault: impl FnOnce()) {
        let targets: Vec<_> = self
            .objects
            .iter()
            .map(|object| Target {
                prefix: "/c",
                object: object.clone(),
                origin: &self.origin,
                kind: "good",
                must_succeed: true,
            })
            .collect();
        let (stop, mut fork) = (AtomicBool::new(false), rng.fork());
        let load = Load { clients: 16, slow: 2, requests: usize::MAX, block: BLOCK };
        let tally = thread::scope(|scope| {
            let (stop, targets, http) = (&stop, &targets, self.lab.http());
            let viewers = scope.spawn(move || load.run_until(stop, http, targets, &mut fork));
            let stop = SetOnDrop(stop);
            fault();
            drop(stop);
            viewers.join().expect("every answer is right")
        });
        println!("{tally}");
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.lab.metrics().sum(name, labels)
    }

    fn hits(&self) -> f64 {
        self.sum("shoal_disk_lookups_total", &[("result", "hit")])
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn no_space_left(shards: u32) {
    // Far more than fits: something is written at all times.
    let Some(node) = Node::start("no_space_left", shards, 150 * u64::from(shards)) else { return };
    let mut rng = Rng::new(seed());
    let errors = || node.sum("shoal_disk_errors_total", &[("op", "write")]);
    node.under_load(&mut rng, || {
        until("the disk tier is in use", SOON, || node.hits() > 100.0);
        // What was set aside for the volumes is taken away, and used up by somebody else.
        for volume in volumes(&node) {
            let file = File::options().write(true).open(&volume).expect("a volume");
            let length = file.metadata().expect("it is there").len();
            fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, length).expect("ext4 can");
        }
        fill_up(&volumes(&node)[0].with_file_name("somebody-else"));
        until("writes fail", SOON, || errors() > 0.0);
        // The other device goes on.
        let before = node.hits();
        until("the disk tier is in use", SOON, || node.hits() > before + 100.0);
    });
    println!("{shards} shards: {} failed writes, {} blocks from disk", errors(), node.hits());
}

fn volumes(node: &Node) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(node.volume.path()).expect("it is mounted").flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|kind| kind == "volume")).collect()
}

fn fill_up(path: &Path) {
    let mut file = File::create(path).expect("there is room for a name");
    let piece = vec![1; 64 << 10];
    while file.write_all(&piece).is_ok() && file.sync_data().is_ok() {}
}

fn input_output_errors(shards: u32) {
    let Some(node) = Node::start("input_output_errors", shards, 40) else { return };
    let mut rng = Rng::new(seed());
    let failed_reads = || node.sum("shoal_disk_lookups_total", &[("result", "error")]);
    let down = || node.sum("shoal_disk_devices", &[("state", "down")]);
    node.under_load(&mut rng, || {
        // Then nothing more is written: a failed write takes a device out at once, and reads are to fail, too.
        let blocks: u64 = node.objects.iter().map(|object| object.size.div_ceil(BLOCK)).sum();
        until("everything is on disk", SOON, || {
            node.sum("shoal_disk_entries", &[]) >= blocks as f64 && node.sum("shoal_disk_queued_bytes", &[]) == 0.0
        });
        node.volume.fail_beyond(1 << 20);
        until("reads fail", SOON, || failed_reads() > 0.0);
        until("the device is left out", SOON, || down() > 0.0);
        let before = node.hits();
        until("the other device goes on", SOON, || node.hits() > before + 100.0);
    });
    println!(
        "{shards} shards: {} failed reads, {} failed writes, {} volumes left out, {} blocks from disk",
        failed_reads(),
        node.sum("shoal_disk_errors_total", &[("op", "write")]),
        down(),
        node.hits()
    );
    let object = &node.objects[0];
    let answer = client::expect(node.lab.http(), &Request::get(&format!("/c{}", object.path)));
    assert!(object.is_right(0, 0, &answer.body) && answer.status() == 200);
}
