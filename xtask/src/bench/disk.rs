//! Objects on disk: the disk tier against nginx's ways to read files, under the same memory limit, with cold caches.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::case::Case;
use super::edge::Edge;
use super::http::{Bench, Group};
use super::load::{Flow, Load, Time};
use super::nginx::{Nginx, Setup};
use super::table::{Row, Target};
use super::{SERVER_CPU, memory};
use crate::node::Place;
use crate::signals::Stop;

/// Bytes of our RAM tier; the objects of a case are four times as many.
pub(super) const RAM: usize = 256 << 20;

/// RAM tier and objects are so much smaller where little time is.
const QUICK: usize = 8;

/// What each server may use besides as much as our RAM tier has, page cache included: each is in a group of its own. It has to
/// be little, or the page cache of one without a RAM tier holds most of the objects.
const MORE: usize = 48 << 20;

/// The cases of `bench http` that come from disk. The target is for plain sendfile.
pub(super) const CASES: &[Case] = &[
    Case { name: "disk-1m-cold", bytes: 1 << 20, connections: 16, tls: false, files: (4 * RAM) >> 20, target: 2.5 },
    Case { name: "disk-16k-cold", bytes: 16 << 10, connections: 32, tls: false, files: (4 * RAM) >> 14, target: 3.0 },
];

/// nginx's other ways to read files; we are to be no slower than them.
const WAYS: &[(&str, &str)] = &[
    ("nginx sendfile", ""),
    ("nginx aio threads", "aio threads;"),
    ("nginx directio", "aio threads; directio 4k; output_buffers 1 512k;"),
];

/// What --quick has time for.
const QUICK_WAYS: &[(&str, &str)] = &[("nginx sendfile; --quick leaves its other ways out", "")];

/// Time for all objects to be written to disk.
const FILL: Duration = Duration::from_secs(60);

/// As [`ram::GROUP`](super::ram::GROUP).
pub(super) const GROUP: Group = Group { cases: || CASES.iter().map(|case| case.name).collect(), run };

/// A server's own limit of memory.
struct Limits {
    ours: MemoryGroup,
    theirs: MemoryGroup,
}

fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let group =
        |name, limit| MemoryGroup::new(name, limit).context("this needs the memory controller of cgroup v1, and root");
    let scale = if bench.quick { QUICK } else { 1 };
    let ram = RAM / scale;
    let group = |name| group(name, ram + MORE);
    let limits = Limits { ours: group("shoal")?, theirs: group("nginx")? };
    drop_caches().context("the page cache is to be dropped, which needs root")?;
    let mut rows = Vec::new();
    for case in CASES.iter().filter(|case| bench.wants(case.name)) {
        let case = &Case { files: case.files / scale, ..*case };
        let folder = bench.dir.join(case.name);
        let edge = start(&bench.bin, &folder, ram, std::slice::from_ref(case), &bench.stop)?;
        limits.ours.add(edge.node.edge_id())?;
        fill(&edge, case, &bench.load, &bench.stop)?;
        let ways = if bench.quick { QUICK_WAYS } else { WAYS };
        for &(name, directives) in ways {
            let setup = Setup { more: directives, ..Setup::new(&folder, &edge.files, &bench.certificate) };
            rows.push(compare(bench, case, &edge, &limits, name, &setup)?);
        }
        edge.node.stop()?;
        fs::remove_dir_all(&folder)?;
    }
    Ok(rows)
}

/// A node with `ram` bytes of RAM tier and a disk tier in `folder`, and the files of these cases.
pub(super) fn start(bin: &Path, folder: &Path, ram: usize, cases: &[Case], stop: &Stop) -> anyhow::Result<Edge> {
    let mut place = Place::somewhere(folder.join("node"), vec![SERVER_CPU])?;
    place.edge_more = format!(
        "\n[cache]\nram_bytes = {ram}\n\n[disk]\nadmit_uses = 1\nwrite_bytes_per_s = 1073741824\n\
         paths = [{{ path = {:?}, bytes = {} }}]\n",
        folder.join("disk"),
        // All objects, and some room.
        8 * ram,
    );
    Edge::start_with(bin, place, &folder.join("files"), cases, stop)
}

/// Runs a case on both, with one of nginx's ways to read files.
fn compare(
    bench: &Bench,
    case: &Case,
    edge: &Edge,
    limits: &Limits,
    name: &str,
    setup: &Setup<'_>,
) -> anyhow::Result<Row> {
    let nginx = Nginx::start(setup)?;
    nginx.processes()?.into_iter().try_for_each(|id| limits.theirs.add(id))?;
    let urls = [edge.urls(case), case.urls(&format!("http://{}", nginx.address))];
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.length.runs {
        for (urls, runs) in urls.iter().zip(&mut runs) {
            bench.go_on()?;
            drop_caches()?;
            let time = Time { seconds: bench.length.seconds, warmup: 0.0 };
            runs.push(
                bench.load.measure(Flow::of(case, urls), time).with_context(|| format!("{}, {name}", case.name))?,
            );
        }
    }
    nginx.stop()?;
    let target = if setup.more.is_empty() { case.target } else { 1.0 };
    let target = Target::RatioAtLeast(target);
    Ok(Row::of_runs(case.name, name, "requests/s", runs, |run| run.per_s, target))
}

/// Asks for everything until all of it is on disk.
pub(super) fn fill(edge: &Edge, case: &Case, load: &Load, stop: &Stop) -> anyhow::Result<()> {
    let deadline = Instant::now() + FILL;
    let urls = edge.urls(case);
    loop {
        load.fill(Flow { connections: 4, ..Flow::of(case, &urls) }, FILL.as_secs_f64())
            .with_context(|| format!("{}: filling the disk tier", case.name))?;
        thread::sleep(Duration::from_millis(500));
        let entries = memory::metric(edge.node.place.admin, "shoal_disk_entries")?;
        if entries >= case.files as f64 {
            return Ok(());
        }
        anyhow::ensure!(!stop.asked(), "stopped");
        anyhow::ensure!(Instant::now() < deadline, "{}: only {entries} of {} are on disk", case.name, case.files);
    }
}

fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("/proc/sys/vm/drop_caches")
}

/// A group of processes with the memory limit, gone when dropped.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(name: &str, limit: usize) -> anyhow::Result<Self> {
        let folder = PathBuf::from(format!("/sys/fs/cgroup/memory/bench-{name}-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let group = Self(folder);
        fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).context("memory.limit_in_bytes")?;
        Ok(group)
    }

    fn add(&self, process: u32) -> anyhow::Result<()> {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).context("cgroup.procs")
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Its processes have been stopped, but may take a moment; one that was not keeps it.
        for _ in 0..20 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
