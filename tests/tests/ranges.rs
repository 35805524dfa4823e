//! Random ranges from many clients at once, under eviction pressure, with slow readers and every kind of bad origin:
//! an answer is right, or it is a clean error; there is never a wrong byte.

use std::time::Duration;

use shoal_tests::lab::{Lab, Settings};
use shoal_tests::load::{Load, Target};
use shoal_tests::origin::{Change, Etag, Fault, Framing, Object, Origin, When};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::with_one_and_four_shards;

const BLOCK: u64 = 64 << 10;

/// A fifth of what the good objects need.
const RAM: u64 = 8 << 20;

/// Kind of objects whose blocks cannot be fetched again one by one.
const UNREPEATABLE: &str = "good, unrepeatable";

with_one_and_four_shards!(no_wrong_byte_ever, no_wrong_byte_from_disk);

fn no_wrong_byte_ever(shards: u32) {
    compare(shards, Settings::new(shards));
}

/// All that comes is written, on two devices, and the log goes round.
fn no_wrong_byte_from_disk(shards: u32) {
    let bytes = u64::from(shards) * (20 << 20);
    let lab = compare(shards, Settings::new(shards).with_disks(&[bytes, bytes]).set("disk.admit_uses", "1"));
    let metrics = lab.metrics();
    let hits = metrics.sum("shoal_disk_lookups_total", &[("result", "hit")]);
    println!("  {hits} blocks from disk, {} bytes written", metrics.sum("shoal_disk_bytes_total", &[("op", "write")]));
    assert!(hits > 100.0, "the disk tier is meant to be used");
    for wrong in ["corrupt", "error"] {
        assert_eq!(metrics.sum("shoal_disk_lookups_total", &[("result", wrong)]), 0.0, "{wrong}");
    }
}

fn compare(shards: u32, settings: Settings) -> Lab {
    let mut rng = Rng::new(seed());
    let (good, bad, backup, moving) = (Origin::start(), Origin::start(), Origin::start(), Origin::start());
    let mut targets = Vec::new();
    for object in good_objects() {
        good.put(object.clone());
        // What was evicted meanwhile can be fetched again only under a strong validator, and of a known length; without,
        // an answer that has begun may have to break off.
        let strong = object.etag == Etag::Strong || object.etag == Etag::None && object.last_modified;
        let again = strong && object.framing == Framing::Length;
        targets.push(target("/good", object, &good, if again { "good" } else { UNREPEATABLE }, again));
    }
    for object in broken_objects() {
        bad.put(object.clone());
        targets.push(target("/bad", object.clone(), &bad, "broken origin", false));
        // The same bytes, but a second origin has them whole.
        backup.put(Object { faults: Vec::new(), ..object.clone() });
        // A viewer who was told a wrong length, or none, cannot be helped by the origin that knows better.
        let told_wrong =
            object.faults.iter().any(|(_, fault)| matches!(fault, Fault::LongLength(_) | Fault::ShortLength(_)));
        let must_succeed = !told_wrong && object.framing == Framing::Length;
        targets.push(target("/backed", object, &backup, "broken, with backup", must_succeed));
    }
    for object in changing_objects() {
        moving.put(object.clone());
        targets.push(target("/moving", object, &moving, "changing", false));
    }
    let lab = settings
        .set("cache.ram_bytes", &RAM.to_string())
        .set("cache.block_bytes", &BLOCK.to_string())
        .set("upstream.response_timeout_ms", "1000")
        .start();
    lab.channel("good", &[&good]);
    lab.channel("bad", &[&bad]);
    lab.channel("backed", &[&bad, &backup]);
    lab.channel("moving", &[&moving]);

    let load = Load { clients: 48, slow: 8, requests: 10_000, block: BLOCK };
    let tally = load.run(lab.http(), &targets, &mut rng);
    println!("{tally}");
    let count = |what: &dyn Fn(&str) -> bool| {
        let outcomes = tally.outcomes.iter().filter(|((kind, outcome), _)| kind == UNREPEATABLE && what(outcome));
        outcomes.map(|(_, count)| count).sum::<u64>()
    };
    let (all, broken) = (count(&|_| true), count(&|outcome| !outcome.starts_with("right")));
    assert!(broken * 10 < all, "{broken} of {all} answers of well-behaved origins broke off");
    report(&lab, shards);
    lab
}

fn target<'a>(prefix: &'a str, object: Object, origin: &'a Origin, kind: &'a str, must_succeed: bool) -> Target<'a> {
    Target { prefix, object, origin, kind, must_succeed }
}

fn good_objects() -> Vec<Object> {
    let mut objects = Vec::new();
    let edges = [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK + 123];
    for (name, framing, ranges, etag, last_modified) in [
        ("plain", Framing::Length, true, Etag::Strong, true),
        ("weak", Framing::Length, true, Etag::Weak, true),
        ("dated", Framing::Length, true, Etag::None, true),
        ("bare", Framing::Length, true, Etag::None, false),
        ("rangeless", Framing::Length, false, Etag::Strong, false),
        ("chunked", Framing::Chunked, false, Etag::Strong, true),
        ("chunked-ranges", Framing::Chunked, true, Etag::Strong, true),
        ("close", Framing::Close, false, Etag::None, true),
    ] {
        for size in edges.into_iter().chain([3 << 20]) {
            let path = format!("/{name}/{size}.bin");
            objects.push(Object { framing, ranges, etag, last_modified, ..Object::new(&path, size) });
        }
    }
    for nth in 0..4 {
        objects.push(Object::new(&format!("/large/{nth}.mp4"), (4 << 20) + 77 * nth));
    }
    objects
}

fn broken_objects() -> Vec<Object> {
    let mut objects = Vec::new();
    let half = BLOCK / 2;
    for (name, fault) in [
        ("truncates-at-once", Fault::Truncate(0)),
        ("truncates", Fault::Truncate(half + 7)),
        ("resets", Fault::Reset(half + 9)),
        ("stalls", Fault::Stall(half, Duration::from_millis(1500))),
        ("slow-head", Fault::SlowHead(Duration::from_millis(1200))),
        ("fails", Fault::Status(500)),
        ("overloaded", Fault::Status(503)),
        ("mute", Fault::NoAnswer),
        ("garbage", Fault::Garbage),
        ("long", Fault::LongLength(10)),
        ("elsewhere", Fault::WrongRange(1)),
        ("short", Fault::ShortLength(3)),
    ] {
        let object = Object::new(&format!("/{name}.bin"), 4 * BLOCK + 99);
        objects.push(object.fault(When::OneIn(3), fault));
    }
    for (name, framing) in [("chunked", Framing::Chunked), ("whole", Framing::Length)] {
        let object = Object { framing, ranges: false, ..Object::new(&format!("/{name}-cut.bin"), 3 * BLOCK) };
        objects.push(object.fault(When::OneIn(3), Fault::Reset(BLOCK + 1)));
    }
    objects
}

fn changing_objects() -> Vec<Object> {
    let mut objects = Vec::new();
    for (name, etag, last_modified, growth) in [
        ("strong", Etag::Strong, true, 0),
        ("strong-only", Etag::Strong, false, 0),
        ("weak", Etag::Weak, false, 0),
        ("dated", Etag::None, true, 0),
        ("growing", Etag::Strong, true, 1000),
        ("growing-bare", Etag::None, false, 1000),
    ] {
        for (ranges, mode) in [(true, "ranges"), (false, "whole")] {
            let object = Object::new(&format!("/changing/{name}-{mode}.bin"), 5 * BLOCK + 5);
            let object = Object { etag, last_modified, growth, ranges, ..object };
            // Short freshness, so that new versions are seen at all.
            let object = object.header("Cache-Control", "max-age=1");
            objects.push(Object { change: Change::EveryRequests(4), ..object });
        }
    }
    objects
}

fn report(lab: &Lab, shards: u32) {
    let handovers = lab.report_handovers("ranges");
    if shards > 1 {
        assert!(handovers > 0.0, "with {shards} shards some objects are owned elsewhere");
    }
    let metrics = lab.metrics();
    let evicted = metrics.sum("shoal_cache_evictions_total", &[("what", "block")]);
    println!("  {evicted} blocks evicted");
    assert!(evicted > 0.0, "the objects are meant to be more than the RAM tier holds");
    let held = metrics.sum("shoal_cache_bytes", &[]);
    assert!(held <= RAM as f64, "{held} bytes held of {RAM} allowed");
}
