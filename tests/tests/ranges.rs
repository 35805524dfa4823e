//! Random ranges from many clients at once, under eviction pressure, with slow readers and every kind of bad origin:
//! an answer is right, or it is a clean error; there is never a wrong byte.

use shoal_tests::lab::{Lab, Settings};
use shoal_tests::load::{Load, Target};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::{with_one_and_four_shards, zoo};

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
    for object in zoo::good(BLOCK) {
        good.put(object.clone());
        let again = zoo::is_repeatable(&object);
        targets.push(target("/good", object, &good, if again { "good" } else { UNREPEATABLE }, again));
    }
    for object in zoo::broken(BLOCK) {
        bad.put(object.clone());
        targets.push(target("/bad", object.clone(), &bad, "broken origin", false));
        // The same bytes, but a second origin has them whole.
        backup.put(Object { faults: Vec::new(), ..object.clone() });
        let must_succeed = zoo::can_be_helped(&object);
        targets.push(target("/backed", object, &backup, "broken, with backup", must_succeed));
    }
    for object in zoo::changing(BLOCK) {
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
