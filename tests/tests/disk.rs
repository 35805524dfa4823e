//! The disk tier: what it has answers without the origin, also after a kill, and is never wrong.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use shoal_tests::client::{self, Request, Response};
use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::load::{Load, Target};
use shoal_tests::origin::{Etag, Object, Origin};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    a_restart_is_warm,
    what_was_purged_or_replaced_stays_away,
    damaged_files_cost_hits_only,
    kills_under_load,
    a_device_that_cannot_be_used_harms_nobody,
);

const SOON: Duration = Duration::from_secs(10);

const BLOCK: u64 = 64 << 10;

/// Of each device and shard.
const BYTES: u64 = 40 << 20;

fn settings(shards: u32) -> Settings {
    Settings::new(shards).with_disks(&[BYTES * u64::from(shards), BYTES * u64::from(shards)])
}

fn hour(object: Object) -> Object {
    object.header("Cache-Control", "max-age=3600")
}

/// Of one block and of several, also such as cannot be put together from several responses but need not be.
fn objects() -> Vec<Object> {
    let mut objects: Vec<_> = [1, 1000, BLOCK, BLOCK + 1, 5 * BLOCK + 77, 20 * BLOCK]
        .into_iter()
        .map(|size| hour(Object::new(&format!("/strong/{size}"), size)))
        .collect();
    objects.push(hour(Object { etag: Etag::Weak, last_modified: false, ..Object::new("/weak", 5000) }));
    objects.push(hour(Object { etag: Etag::None, last_modified: false, ..Object::new("/bare", 6000) }));
    objects
}

fn put(origin: &Origin, objects: &[Object]) {
    for object in objects {
        origin.put(object.clone());
    }
}

/// Asks for all of them; they must be right.
fn get_all(lab: &Lab, objects: &[Object], version: u32) {
    for object in objects {
        get(lab, object, version);
    }
}

fn get(lab: &Lab, object: &Object, version: u32) -> Response {
    let answer = client::expect(lab.http(), &Request::get(&format!("/vod{}", object.path)));
    assert_eq!(answer.status(), 200, "{}", object.path);
    assert!(object.is_right(version, 0, &answer.body), "{}: wrong bytes", object.path);
    answer
}

fn sum(lab: &Lab, name: &str) -> f64 {
    lab.metrics().sum(name, &[])
}

/// Asks for the objects until they are on disk, all of them.
fn write(lab: &Lab, objects: &[Object]) {
    let blocks: u64 = objects.iter().map(|object| object.size.div_ceil(BLOCK)).sum();
    let before = sum(lab, "shoal_disk_entries");
    for _ in 0..3 {
        get_all(lab, objects, 0);
    }
    until("the objects are on disk", SOON, || {
        sum(lab, "shoal_disk_entries") >= before + blocks as f64 && sum(lab, "shoal_disk_queued_bytes") == 0.0
    });
}

fn a_restart_is_warm(shards: u32) {
    let origin = Origin::start();
    let objects = objects();
    put(&origin, &objects);
    origin.put(hour(Object::new("/once", 1000)));
    let mut lab = settings(shards).start();
    lab.channel("vod", &[&origin]);
    get(&lab, &Object::new("/once", 1000), 0);
    write(&lab, &objects);
    thread::sleep(Duration::from_secs(1));
    for (nth, kill) in [true, false, true].into_iter().enumerate() {
        if kill {
            lab.kill_edge();
        } else {
            lab.edge().signal(Signal::TERM);
            lab.edge().wait(SOON).expect("it ends");
        }
        lab.start_edge();
        origin.forget();
        for object in &objects {
            let answer = get(&lab, object, 0);
            assert!(answer.field("Cache-Status").contains("detail=disk"), "{:?}", answer.head);
            assert!(answer.field("Age").parse::<u64>().expect("a number") >= 1, "it has grown older meanwhile");
            let again = get(&lab, object, 0);
            assert!(
                again.field("Cache-Status").starts_with("shoal; hit") && !again.field("Cache-Status").contains("disk")
            );
        }
        assert!(origin.seen().is_empty(), "restart {nth}: the origin was asked: {:?}", origin.seen());
    }
    get(&lab, &Object::new("/once", 1000), 0);
    assert_eq!(origin.requests("/once"), 1, "what was used once was not written");
    let metrics = lab.metrics();
    println!(
        "{shards} shards: {} entries found in {} s",
        metrics.sum("shoal_disk_entries", &[]),
        metrics.sum("shoal_disk_recovery_seconds", &[])
    );
}

fn what_was_purged_or_replaced_stays_away(shards: u32) {
    let origin = Origin::start();
    let object = |path: &str| hour(Object::new(path, 3 * BLOCK));
    let paths = ["/kept", "/purged", "/dir/a", "/dir/b"];
    put(&origin, &paths.map(object));
    // Short enough to be replaced in time, long enough to be written.
    let replaced = Object::new("/replaced", 1000).header("Cache-Control", "max-age=13");
    origin.put(replaced.clone());
    let mut lab = settings(shards).start();
    lab.channel("vod", &[&origin]);
    let all: Vec<_> = paths.iter().map(|path| object(path)).chain([replaced.clone()]).collect();
    write(&lab, &all);
    ["/purged", "/dir/a", "/dir/b", "/replaced"].iter().for_each(|path| origin.bump(path));
    let admin = lab.admin();
    admin.purge(&json!({"scope": "object", "channel": "vod", "path": "purged"}));
    admin.purge(&json!({"scope": "prefix", "channel": "vod", "path": "dir/"}));
    lab.kill_edge();
    lab.start_edge();
    origin.forget();
    get(&lab, &all[0], 0);
    assert!(origin.seen().is_empty());
    get_all(&lab, &all[1..4], 1);

    // What has become stale is validated, and what the origin has replaced does not come back either.
    thread::sleep(Duration::from_secs(13));
    get(&lab, &replaced, 1);
    lab.kill_edge();
    lab.start_edge();
    get(&lab, &replaced, 1);
}

fn damaged_files_cost_hits_only(shards: u32) {
    let mut rng = Rng::new(seed());
    let origin = Origin::start();
    let objects: Vec<_> = (0..60).map(|nth| hour(Object::new(&format!("/{nth}"), 3 * BLOCK + 1000 * nth))).collect();
    put(&origin, &objects);
    let mut lab = settings(shards).start();
    lab.channel("vod", &[&origin]);
    write(&lab, &objects);
    for round in 0..4 {
        lab.kill_edge();
        for file in volumes(&lab) {
            damage(&file, round, &mut rng);
        }
        lab.start_edge();
        get_all(&lab, &objects, 0);
        // Written anew where they were lost.
        get_all(&lab, &objects, 0);
        let metrics = lab.metrics();
        let lookups = |result| metrics.sum("shoal_disk_lookups_total", &[("result", result)]);
        println!("round {round}: {} hits, {} wrong checksums", lookups("hit"), lookups("corrupt"));
        assert_eq!(metrics.sum("shoal_disk_devices", &[("state", "up")]), 2.0 * f64::from(shards));
        until("it is written", SOON, || sum(&lab, "shoal_disk_queued_bytes") == 0.0);
    }
}

/// Every volume of the lab's node.
fn volumes(lab: &Lab) -> Vec<PathBuf> {
    let folders = [0, 1].map(|nth| fs::read_dir(lab.dir().join(format!("disk-{nth}"))).expect("the device's folder"));
    folders.into_iter().flatten().map(|entry| entry.expect("a file").path()).collect()
}

fn damage(file: &PathBuf, round: u32, rng: &mut Rng) {
    let mut bytes = fs::read(file).expect("a volume");
    match round {
        // A bit here and there.
        0 => (0..200).for_each(|_| flip(&mut bytes, rng)),
        // So many that tables, heads and superblocks are hit.
        1 => (0..20_000).for_each(|_| flip(&mut bytes, rng)),
        2 => bytes.truncate(rng.below(bytes.len() as u64) as usize),
        _ => return fs::remove_file(file).expect("it is ours"),
    }
    fs::write(file, bytes).expect("it is ours");
}

fn flip(bytes: &mut [u8], rng: &mut Rng) {
    let bit = rng.below(bytes.len() as u64 * 8);
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
}

/// `SHOAL_KILLS` says how often; 100 times without.
fn kills_under_load(shards: u32) {
    let kills = std::env::var("SHOAL_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(100);
    let mut rng = Rng::new(seed());
    let origin = Origin::start();
    let hot: Vec<_> = (0..8).map(|nth| hour(Object::new(&format!("/hot/{nth}"), 2 * BLOCK + nth))).collect();
    let cold: Vec<_> = (0..200).map(|nth| hour(Object::new(&format!("/cold/{nth}"), 4 * BLOCK + 99 * nth))).collect();
    put(&origin, &hot);
    put(&origin, &cold);
    let mut lab = settings(shards).set("cache.ram_bytes", &(8 << 20).to_string()).start();
    lab.channel("vod", &[&origin]);
    write(&lab, &hot);
    let targets: Vec<_> = hot
        .iter()
        .chain(&cold)
        .map(|object| Target {
            prefix: "/vod",
            object: object.clone(),
            origin: &origin,
            kind: "good",
            must_succeed: false,
        })
        .collect();
    for nth in 0..kills {
        let (http, targets, mut fork, stop) = (lab.http(), &targets, rng.fork(), AtomicBool::new(false));
        thread::scope(|scope| {
            let stop = &stop;
            let load = Load { clients: 16, slow: 2, requests: usize::MAX, block: BLOCK };
            let viewers = scope.spawn(move || load.run_until(stop, http, targets, &mut fork));
            thread::sleep(Duration::from_millis(rng.between(20, 200)));
            lab.kill_edge();
            stop.store(true, Ordering::Relaxed);
            viewers.join().expect("no wrong byte");
        });
        lab.start_edge();
        origin.forget();
        get_all(&lab, &hot, 0);
        let asked: u64 = hot.iter().map(|object| origin.requests(&object.path)).sum();
        assert_eq!(asked, 0, "kill {nth}: the restart was not warm");
        let metrics = lab.metrics();
        for wrong in ["corrupt", "error"] {
            assert_eq!(metrics.sum("shoal_disk_lookups_total", &[("result", wrong)]), 0.0, "kill {nth}: {wrong}");
        }
    }
    println!("{shards} shards: {kills} kills, {} blocks on disk", sum(&lab, "shoal_disk_entries"));
}

fn a_device_that_cannot_be_used_harms_nobody(shards: u32) {
    let origin = Origin::start();
    let objects = objects();
    put(&origin, &objects);
    // The first has not that much room.
    let mut lab = Settings::new(shards).with_disks(&[1 << 50, BYTES * u64::from(shards)]).start();
    lab.channel("vod", &[&origin]);
    let devices = |lab: &Lab, state| lab.metrics().sum("shoal_disk_devices", &[("state", state)]) / f64::from(shards);
    until("the figures are there", SOON, || devices(&lab, "up") + devices(&lab, "down") == 2.0);
    assert_eq!((devices(&lab, "up"), devices(&lab, "down")), (1.0, 1.0));
    write(&lab, &objects);
    lab.kill_edge();
    // And now the other is no folder any more.
    fs::remove_dir_all(lab.dir().join("disk-1")).expect("it is ours");
    fs::write(lab.dir().join("disk-1"), b"").expect("the lab's own folder");
    lab.start_edge();
    get_all(&lab, &objects, 0);
    until("both are out", SOON, || devices(&lab, "down") == 2.0);
    fs::remove_file(lab.dir().join("disk-1")).expect("it is ours");
    until("it is tried again", SOON * 2, || devices(&lab, "up") == 1.0);
    get_all(&lab, &objects, 0);
}
