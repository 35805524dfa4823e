//! What a request costs as there is more to choose from: objects in the cache, and channels.
//!
//! The objects have no bodies. What may grow is the way to an object, and with bodies the most of them would not fit: each
//! takes a page at least.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::edge::{channel, ticket};
use super::http::{Bench, Group};
use super::load::Flow;
use super::table::{Row, Target};
use super::{SERVER_CPU, memory};
use crate::node::{Node, Place};

/// What the cost with the most may be over that with the fewest.
const GROWTH: f64 = 1.10;

/// Objects to compare with.
const FEW: u32 = 1_000;

/// Numbers of objects, with the case that asks for all of them and that which asks for the same as where there are few: the
/// first pays for memory that is in no cache of the processor too, the second only for the look-up.
const MANY: [(u32, [&str; 2]); 2] =
    [(100_000, ["objects-1e5", "objects-1e5-hot"]), (10_000_000, ["objects-1e7", "objects-1e7-hot"])];

/// Most objects that --quick has time for.
const QUICK_MANY: u32 = 100_000;

/// Connections that ask.
const CONNECTIONS: usize = 32;

/// The one file that all objects are answered with; their names differ in the query.
const FILE: &str = "empty.ts";

/// Bytes of RAM that one object without a body takes at most by the cache's own reckoning: `VERSION_BYTES` of the data
/// plane's table, name and header lines. The process took 700 when it was measured.
const OBJECT_BYTES: u64 = 1_280;

/// Objects that are asked for where channels are compared, in all channels together.
const OBJECTS_OF_CHANNELS: usize = 10_000;

/// Seconds in which the cache can be filled.
const FILL: f64 = 1_200.0;

/// Time for the metrics to say what has happened.
const COUNTED: Duration = Duration::from_secs(5);

/// More and more objects in one channel.
pub(super) const OBJECTS: Group = Group { cases: || MANY.iter().flat_map(|(_, cases)| *cases).collect(), run: objects };

/// More channels, with as many objects in all.
pub(super) const CHANNELS: Group = Group { cases: || vec!["channels-1e4"], run: channels };

/// A node with so many of something, and how to ask for all of it.
struct Filled {
    node: Node,
    urls: Vec<String>,
    /// Objects at each URL.
    numbers: u32,
}

fn objects(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let fill = |count: u32| -> anyhow::Result<Filled> {
        let ram = u64::from(count) * OBJECT_BYTES + (64 << 20);
        anyhow::ensure!(
            memory::available()? > ram,
            "{count} objects take up to {} MiB of RAM, and only {} MiB are available",
            ram >> 20,
            memory::available()? >> 20
        );
        let dir = bench.dir.join(format!("objects-{count}"));
        Filled::start(bench, &dir, ram, 1, count).with_context(|| format!("{count} objects"))
    };
    let few = fill(FEW)?;
    let peer = format!("shoal, {FEW} objects");
    let mut rows = Vec::new();
    for (count, [all, hot]) in MANY {
        let cases = [(all, count), (hot, FEW)].into_iter().filter(|(case, _)| bench.wants(case));
        if cases.clone().next().is_none() || (bench.quick && count > QUICK_MANY) {
            continue;
        }
        let many = fill(count)?;
        for (case, asked) in cases {
            rows.push(compare(bench, case, &peer, [&many, &few], asked)?);
        }
        many.node.stop()?;
    }
    few.node.stop()?;
    Ok(rows)
}

fn channels(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    if bench.quick {
        // The control plane takes a minute to learn the many.
        return Ok(Vec::new());
    }
    let start = |count: usize| {
        let dir = bench.dir.join(format!("channels-{count}"));
        let each = (OBJECTS_OF_CHANNELS / count) as u32;
        Filled::start(bench, &dir, 256 << 20, count, each).with_context(|| format!("{count} channels"))
    };
    let few = start(10)?;
    let many = start(10_000)?;
    let row = compare(bench, "channels-1e4", "shoal, 10 channels", [&many, &few], u32::MAX)?;
    many.node.stop()?;
    few.node.stop()?;
    Ok(vec![row])
}

/// Asks `[many, few]` in turn, at random, for all or for the first `asked` objects of each URL.
fn compare(bench: &Bench, case: &str, peer: &str, filled: [&Filled; 2], asked: u32) -> anyhow::Result<Row> {
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.length.runs {
        for (filled, runs) in filled.into_iter().zip(&mut runs) {
            bench.go_on()?;
            let flow = Flow { numbers: asked.min(filled.numbers), ..filled.flow() };
            runs.push(bench.load.measure(flow, bench.length.time()).with_context(|| case.to_owned())?);
        }
    }
    Ok(Row::of_runs(case, peer, "µs/request", runs, |run| run.cost_us, Target::RatioAtMost(GROWTH)))
}

impl Filled {
    /// A node with so many channels and objects in each, all of them cached.
    fn start(bench: &Bench, dir: &Path, ram: u64, channels: usize, each: u32) -> anyhow::Result<Self> {
        let mut place = Place::somewhere(dir.join("node"), vec![SERVER_CPU])?;
        place.edge_more = format!("\n[cache]\nram_bytes = {ram}\n");
        let files = dir.join("files");
        fs::create_dir_all(&files)?;
        fs::write(files.join(FILE), "")?;
        let mut node = Node::start(&bench.bin, place, &bench.stop)?;
        let mut urls = Vec::with_capacity(channels);
        for number in 0..channels {
            bench.go_on()?;
            let id = format!("c{number}");
            node.put_channel(&channel(&id, &files)?)?;
            urls.push(format!("/{id}/{FILE}?{}&n={{}}", ticket(&node, &id)?));
        }
        let last = urls.last().context("there is a channel")?.replace("{}", "0");
        node.await_path(&last, &bench.stop)?;
        let base = format!("http://{}", node.place.http);
        let urls = urls.into_iter().map(|path| format!("{base}{path}")).collect();
        let filled = Filled { node, urls, numbers: each };
        bench.load.fill(Flow { random: false, ..filled.flow() }, FILL)?;
        let count = channels as f64 * f64::from(each);
        let deadline = Instant::now() + COUNTED;
        loop {
            let held = memory::metric(filled.node.place.admin, "shoal_cache_objects")?;
            if held >= count {
                break;
            }
            bench.go_on()?;
            anyhow::ensure!(Instant::now() < deadline, "only {held} of {count} objects are in the cache");
            thread::sleep(Duration::from_millis(100));
        }
        let resident = memory::resident(&[filled.node.edge_id()])?;
        println!("{channels} channels, {count:.0} objects: {:.0} MiB resident", resident / f64::from(1 << 20));
        Ok(filled)
    }

    fn flow(&self) -> Flow<'_> {
        Flow { urls: &self.urls, connections: CONNECTIONS, bytes: 0, rate: None, numbers: self.numbers, random: true }
    }
}
