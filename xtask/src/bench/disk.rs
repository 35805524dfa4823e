//! Objects on disk: the disk tier against nginx's ways to read files, under the same memory limit, with cold caches.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::certificate::Certificate;
use super::http::{Case, Edge, Length, SERVER_CPU};
use super::load::Load;
use super::nginx::Nginx;
use super::table::{Row, median};
use crate::http;
use crate::node::Place;
use crate::signals::Stop;

/// Bytes of our RAM tier; the objects of a case are four times as many.
const RAM: usize = 32 << 20;

/// What each server may use in all, page cache included: each is in a group of its own.
const LIMIT: usize = RAM + (96 << 20);

/// Bytes for the disk tier: all objects, and some room.
const DISK: usize = 8 * RAM;

/// The cases of `bench http` that come from disk. The target is for plain sendfile.
const CASES: &[Case] = &[
    Case { name: "disk-1m-cold", bytes: 1 << 20, connections: 16, tls: false, files: (4 * RAM) >> 20, target: 2.5 },
    Case { name: "disk-16k-cold", bytes: 16 << 10, connections: 32, tls: false, files: (4 * RAM) >> 14, target: 3.0 },
];

/// nginx's other ways to read files; we are to be no slower than them.
const WAYS: &[(&str, &str)] = &[
    ("nginx sendfile", ""),
    ("nginx aio threads", "aio threads;"),
    ("nginx directio", "aio threads; directio 4k; output_buffers 1 512k;"),
];

/// Time for all objects to be written to disk.
const FILL: Duration = Duration::from_secs(60);

/// Runs the cases, or says why that cannot be done here.
pub(super) fn run(bin: &Path, dir: &Path, length: &Length, load: &Load, stop: &Stop) -> anyhow::Result<Vec<Row>> {
    let group = |name| Group::new(name).context("the disk cases need the memory controller of cgroup v1, and root");
    let (ours, theirs) = (group("shoal")?, group("nginx")?);
    drop_caches().context("the disk cases drop the page cache, as root")?;
    let mut rows = Vec::new();
    for case in CASES {
        let folder = dir.join(case.name);
        // The bench's own, which nginx asks for although nobody speaks TLS here.
        let certificate = Certificate::within(dir);
        let mut place = Place::somewhere(folder.join("node"), vec![SERVER_CPU])?;
        place.edge_more = format!(
            "\n[cache]\nram_bytes = {RAM}\n\n[disk]\nadmit_uses = 1\nwrite_bytes_per_s = 1073741824\n\
             paths = [{{ path = {:?}, bytes = {DISK} }}]\n",
            folder.join("disk"),
        );
        let edge = Edge::start_with(bin, place, &folder.join("files"), std::slice::from_ref(case), stop)?;
        ours.add(edge.node.edge_id())?;
        fill(&edge, case, load, stop)?;
        for &(name, directives) in WAYS {
            let nginx = Nginx::start_with(&folder.join("nginx"), &edge.files, SERVER_CPU, &certificate, directives)?;
            nginx.processes()?.into_iter().try_for_each(|id| theirs.add(id))?;
            let urls = [edge.urls(case), case.urls(&format!("http://{}", nginx.address))];
            let (mut rates, mut valid) = ([Vec::new(), Vec::new()], true);
            for _ in 0..length.runs {
                for (urls, rates) in urls.iter().zip(&mut rates) {
                    anyhow::ensure!(!stop.asked(), "stopped");
                    drop_caches()?;
                    let mut command = load.command(case.connections, length.seconds, 0.0, case.bytes as u64, urls);
                    let run = load.measure(&mut command).with_context(|| format!("{}, {name}", case.name))?;
                    rates.push(run.per_s);
                    valid &= run.valid;
                }
            }
            nginx.stop()?;
            let [our_rate, peer_rate] = rates.map(median);
            println!("{}: {our_rate:.0} to {name}'s {peer_rate:.0} requests/s", case.name);
            let target = if directives.is_empty() { case.target } else { 1.0 };
            let case = case.name.to_owned();
            rows.push(Row {
                case,
                ours: our_rate,
                peer: peer_rate,
                peer_name: name,
                unit: "requests/s",
                target,
                valid,
            });
        }
        edge.node.stop()?;
        fs::remove_dir_all(&folder)?;
    }
    Ok(rows)
}

/// Asks for everything until all of it is on disk.
fn fill(edge: &Edge, case: &Case, load: &Load, stop: &Stop) -> anyhow::Result<()> {
    let deadline = Instant::now() + FILL;
    let urls = edge.urls(case);
    loop {
        let mut command = load.command(4, 2.0, 0.0, case.bytes as u64, &urls);
        load.measure(&mut command).with_context(|| format!("{}: filling the disk tier", case.name))?;
        thread::sleep(Duration::from_millis(500));
        let metrics = http::request(edge.node.place.admin, "GET", "/metrics", &[], &[])?;
        let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
        let entries = metrics.lines().filter_map(|line| line.strip_prefix("shoal_disk_entries{")?.rsplit(' ').next());
        let entries: f64 = entries.filter_map(|value| value.parse::<f64>().ok()).sum();
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
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> anyhow::Result<Self> {
        let folder = PathBuf::from(format!("/sys/fs/cgroup/memory/bench-{name}-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let group = Self(folder);
        fs::write(group.0.join("memory.limit_in_bytes"), LIMIT.to_string()).context("memory.limit_in_bytes")?;
        Ok(group)
    }

    fn add(&self, process: u32) -> anyhow::Result<()> {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).context("cgroup.procs")
    }
}

impl Drop for Group {
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
