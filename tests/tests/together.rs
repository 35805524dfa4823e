//! Everything at once: TLS to viewers and to origins, a disk tier and far too little RAM on every node, an edge behind two
//! parents, every kind of bad origin, and nodes that are killed and come back. There is never a wrong byte.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use shoal_tests::lab::{Lab, Settings, channel};
use shoal_tests::load::{Load, Tally, Target};
use shoal_tests::net;
use shoal_tests::origin::{Object, Origin};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::tls::{self, Authority, NOW};
use shoal_tests::{with_one_and_four_shards, zoo};

with_one_and_four_shards!(no_wrong_byte_ever);

const BLOCK: u64 = 64 << 10;

/// Of each node; a sixth of what the good objects need.
const RAM: u64 = 6 << 20;

/// Of each node's device and shard; the log goes round.
const DISK: u64 = 20 << 20;

/// Nodes killed, in turn: the edge, one parent, the other.
const KILLS: usize = 9;

/// After a kill so much may still fail: what was under way, or on a connection that nobody knows to be dead.
const AFTERMATH: Duration = Duration::from_millis(500);

/// Their bytes are the same at all times, and all of them can be asked for again.
const GOOD: &str = "good";

fn no_wrong_byte_ever(shards: u32) {
    let mut rng = Rng::new(seed());
    let authority = Authority::new();
    let (good, bad, backup, moving) = (Origin::start(), Origin::start(), Origin::start(), Origin::start());
    let targets = targets(&good, &bad, &backup, &moving);
    let (secure_origin, _) = tls::take_off(good.addr(), &authority.issue("origin", &["origin.test"], NOW));
    let mut secured = channel("good", &[&good]);
    secured["origins"][0]["url"] = json!(format!("https://{secure_origin}/"));
    secured["origins"][0]["host"] = json!("origin.test");
    let channels =
        [secured, channel("bad", &[&bad]), channel("backed", &[&bad, &backup]), channel("moving", &[&moving])];
    let secure = net::free_port(net::own_address());
    let certificate = authority.issue("edge", &["edge.test"], NOW);
    let base = settings(shards).set("upstream.roots", &format!("\"{}\"", authority.roots().display()));
    let mut parents = ["p0", "p1"].map(|name| start(base.clone(), name, &channels));
    let addresses = [0, 1].map(|nth: usize| format!("{{ address = \"{}\" }}", parents[nth].http()));
    let behind = base
        .set("upstream.parents", &format!("[{}]", addresses.join(", ")))
        .set("tls.listen", &format!("[\"{secure}\"]"))
        .set("tls.certificates", &format!("[{}]", certificate.toml()));
    let mut edge = start(behind, "edge", &channels);
    let door = tls::put_on(secure, &authority.client(&[&TLS12, &TLS13]), "edge.test");

    let stop = AtomicBool::new(false);
    let (tally, outages) = thread::scope(|scope| {
        let (stop, targets, mut fork) = (&stop, &targets, rng.fork());
        let load = Load { clients: 24, slow: 4, requests: usize::MAX, block: BLOCK };
        let viewers = scope.spawn(move || load.run_until(stop, door, targets, &mut fork));
        let outages = kill_in_turn(&mut edge, &mut parents, &mut rng);
        stop.store(true, Ordering::Relaxed);
        (viewers.join().expect("no wrong byte"), outages)
    });
    println!("{tally}");
    judge(&tally, &outages);
    report([&edge, &parents[0], &parents[1]]);
}

fn settings(shards: u32) -> Settings {
    let bytes = DISK * u64::from(shards);
    Settings::new(shards)
        .with_disks(&[bytes])
        .set("disk.admit_uses", "1")
        .set("cache.ram_bytes", &RAM.to_string())
        .set("cache.block_bytes", &BLOCK.to_string())
        .set("http.children", "[\"127.0.0.0/8\"]")
        .set("upstream.response_timeout_ms", "1000")
}

fn start(settings: Settings, name: &str, channels: &[Value]) -> Lab {
    let node = settings.set("node.name", &format!("\"{name}\"")).start();
    channels.iter().for_each(|channel| node.put_channel(channel));
    node
}

fn targets<'a>(good: &'a Origin, bad: &'a Origin, backup: &'a Origin, moving: &'a Origin) -> Vec<Target<'a>> {
    let target = |prefix, object: Object, origin, kind| Target { prefix, object, origin, kind, must_succeed: false };
    let mut targets = Vec::new();
    for object in zoo::good(BLOCK) {
        good.put(object.clone());
        let kind = if zoo::is_repeatable(&object) { GOOD } else { "good, unrepeatable" };
        targets.push(target("/good", object, good, kind));
    }
    for object in zoo::broken(BLOCK) {
        bad.put(object.clone());
        targets.push(target("/bad", object.clone(), bad, "broken origin"));
        backup.put(Object { faults: Vec::new(), ..object.clone() });
        let kind = if zoo::can_be_helped(&object) { GOOD } else { "broken, with backup" };
        targets.push(target("/backed", object, backup, kind));
    }
    for object in zoo::changing(BLOCK) {
        moving.put(object.clone());
        targets.push(target("/moving", object, moving, "changing"));
    }
    targets
}

/// Within which a node is there again on a busy machine.
const START: Duration = Duration::from_secs(10);

/// From when to when the edge was not there.
type Outage = (Instant, Instant);

/// Kills one after the other and starts it again; says when viewers may have noticed.
fn kill_in_turn(edge: &mut Lab, parents: &mut [Lab; 2], rng: &mut Rng) -> Vec<Outage> {
    let mut outages = Vec::new();
    for kill in 0..KILLS {
        thread::sleep(Duration::from_millis(rng.between(300, 1000)));
        let killed = Instant::now();
        match kill % 3 {
            0 => restart(edge),
            nth => restart(&mut parents[nth - 1]),
        }
        if kill % 3 == 0 {
            outages.push((killed, Instant::now()));
        }
    }
    thread::sleep(Duration::from_millis(500));
    outages
}

fn restart(node: &mut Lab) {
    node.kill_edge();
    node.start_edge();
}

/// What could be had at all times was had, but for the edge's outages. A parent's are nobody's business.
fn judge(tally: &Tally, outages: &[Outage]) {
    let in_outage =
        |from: Instant, to: Instant| outages.iter().any(|(start, end)| from < *end + AFTERMATH && *start < to);
    let failures: Vec<_> = tally.failures.iter().filter(|failed| failed.kind == GOOD).collect();
    for failed in &failures {
        assert!(in_outage(failed.from, failed.to), "with the edge up: {}", failed.what);
    }
    let right: u64 = tally
        .outcomes
        .iter()
        .filter(|((kind, how), _)| kind == GOOD && how.starts_with("right"))
        .map(|(_, count)| count)
        .sum();
    println!("{right} right, {} failed in {} outages of the edge", failures.len(), outages.len());
    // How many fail in an outage is how often they try again, and says nothing.
    assert!(outages.iter().all(|(start, end)| *end - *start < START), "the edge is back soon");
    assert!(right > 100, "what may succeed does");
}

/// Everything was in use, and nothing on disk was found to be wrong.
fn report(nodes: [&Lab; 3]) {
    for (node, name) in nodes.into_iter().zip(["edge", "p0", "p1"]) {
        let metrics = node.metrics();
        let lookups = |result| metrics.sum("shoal_disk_lookups_total", &[("result", result)]);
        let evicted = metrics.sum("shoal_cache_evictions_total", &[("what", "block")]);
        println!("{name}: {} blocks from disk, {evicted} evicted since its last start", lookups("hit"));
        assert_eq!((lookups("corrupt"), lookups("error")), (0.0, 0.0), "{name}");
        // The parents were away until just now.
        assert!(name != "edge" || lookups("hit") > 0.0 && evicted > 0.0, "RAM is meant to be too small");
    }
    let asked = |origin| nodes[0].metrics().sum("shoal_upstream_attempts_total", &[("origin", origin)]);
    println!("edge: {} questions to origins", asked("o0"));
}
