//! The cases that are hot in RAM, and both servers that they are run on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Context;
use serde_json::json;

use super::certificate::Certificate;
use super::load::Load;
use super::machine;
use super::nginx::Nginx;
use super::table::{self, Row};
use crate::node::{Node, Place};
use crate::signals::Stop;
use crate::{tools, up, workspace};

/// Objects of one size, asked for in turn over so many connections.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    pub(super) files: usize,
    /// By TLS 1.3 with AES-128-GCM.
    pub(super) tls: bool,
    /// Our requests per second over nginx's.
    pub(super) target: f64,
}

/// The cases of `bench http` that are hot in RAM.
pub(crate) const CASES: &[Case] = &[
    Case { name: "ram-16k-c32", bytes: 16 << 10, connections: 32, files: 64, tls: false, target: 1.5 },
    Case { name: "ram-16k-c4", bytes: 16 << 10, connections: 4, files: 64, tls: false, target: 1.3 },
    Case { name: "ram-128k-c16", bytes: 128 << 10, connections: 16, files: 16, tls: false, target: 1.15 },
    Case { name: "ram-1m-c16", bytes: 1 << 20, connections: 16, files: 8, tls: false, target: 1.0 },
    Case { name: "tls-16k", bytes: 16 << 10, connections: 32, files: 64, tls: true, target: 1.2 },
    Case { name: "tls-1m", bytes: 1 << 20, connections: 16, files: 8, tls: true, target: 1.0 },
];

pub(super) const SERVER_CPU: usize = 0;
const LOAD_CPU: usize = 1;

/// Share of the cores that others may use before the figures are marked.
const QUIET: f64 = 0.05;

const CHANNEL: &str = "bench";

/// How often and how long.
pub(super) struct Length {
    pub(super) runs: usize,
    pub(super) seconds: f64,
    warmup: f64,
}

const QUICK: Length = Length { runs: 3, seconds: 1.0, warmup: 0.3 };
const FULL: Length = Length { runs: 5, seconds: 3.0, warmup: 0.5 };

impl Case {
    fn file(&self, number: usize) -> String {
        format!("{}/{number}.ts", self.bytes)
    }

    /// The URLs of the case's objects at a plain server.
    pub(super) fn urls(&self, base: &str) -> Vec<String> {
        (0..self.files).map(|number| format!("{base}/{}", self.file(number))).collect()
    }
}

/// Our node with the benchmark's files behind a channel that asks for tickets.
pub(crate) struct Edge {
    pub(crate) node: Node,
    pub(super) files: PathBuf,
    ticket: String,
}

impl Edge {
    /// Writes the files below `dir` and starts the node.
    pub(crate) fn start(bin: &Path, dir: &Path, stop: &Stop) -> anyhow::Result<Self> {
        let certificate = Certificate::within(dir);
        certificate.make()?;
        let place = Place::somewhere(dir.join("node"), vec![SERVER_CPU])?.with_tls(certificate)?;
        Self::start_with(bin, place, &dir.join("files"), CASES, stop)
    }

    /// The same somewhere else, with the files of these cases.
    pub(super) fn start_with(
        bin: &Path,
        place: Place,
        files: &Path,
        cases: &[Case],
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        for case in cases {
            write_files(files, case)?;
        }
        let mut node = Node::start(bin, place, stop)?;
        let key = json!({"id": "k1", "secret": up::random_hex()?});
        node.put_channel(&json!({
            "id": CHANNEL, "prefix": "/bench/",
            "origins": [{"id": "files", "url": format!("file:{}", files.display())}],
            "cache": {"default_ttl_ms": 24 * 3600 * 1000},
            "access": {"ticket": {"keys": [key]}},
        }))?;
        // One ticket opens the whole channel, as one viewer's does.
        let signed = node.sign(CHANNEL, "x", "", 24 * 3600)?;
        let ticket = signed.split_once('?').context("a signed URL has a query")?.1.to_owned();
        let case = cases.first().context("there are cases")?;
        node.await_path(&format!("/bench/{}?{ticket}", case.file(0)), stop)?;
        Ok(Self { node, files: files.to_owned(), ticket })
    }

    /// The signed URLs of a case's objects.
    pub(crate) fn urls(&self, case: &Case) -> Vec<String> {
        let place = &self.node.place;
        let base = match &place.tls {
            Some((address, _)) if case.tls => format!("https://{address}/bench"),
            _ => format!("http://{}/bench", place.http),
        };
        case.urls(&base).into_iter().map(|url| format!("{url}?{}", self.ticket)).collect()
    }
}

/// Runs every case on both servers, in turn.
pub(super) fn run(quick: bool, record: bool, json: Option<&Path>) -> anyhow::Result<ExitCode> {
    let cores = available_parallelism()?.get();
    anyhow::ensure!(cores > LOAD_CPU, "two cores are needed, one for the server and one for the load; here is {cores}");
    tools::require(&[("nginx", "nginx-light"), ("taskset", "util-linux"), ("openssl", "openssl")])?;
    let stop = Stop::listen()?;
    let bin = workspace::build_planes(true)?;
    workspace::build_load()?;
    let others = machine::busy();
    let dir = workspace::target_dir()?.join("bench-http");
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir)?;
    let certificate = Certificate::within(&dir);
    let load = Load::new(&bin, SERVER_CPU, LOAD_CPU, &certificate);
    let edge = Edge::start(&bin, &dir, &stop)?;
    let nginx = Nginx::start(&dir.join("nginx"), &edge.files, SERVER_CPU, &certificate)?;
    let length = if quick { QUICK } else { FULL };

    let mut rows = Vec::new();
    for case in CASES {
        rows.push(compare(case, &length, &load, &edge, &nginx, &stop)?);
    }
    nginx.stop()?;
    edge.node.stop()?;
    let mut unmeasured = String::new();
    match super::disk::run(&bin, &dir, &length, &load, &stop) {
        Ok(disk) => rows.extend(disk),
        Err(error) => unmeasured = format!("\nNOT MEASURED, and so failed: the disk cases: {error:#}\n"),
    }
    drop(fs::remove_dir_all(&dir));

    let text = table::markdown(&rows) + &unmeasured;
    let command = if quick { "cargo xtask bench http --quick" } else { "cargo xtask bench http" };
    let about = format!(
        "`{command}`, {}; server on core {SERVER_CPU}, load on core {LOAD_CPU}, loopback; median of {} interleaved \
         runs of {} s; ours with ticket check, ledger and metrics on{}",
        machine::describe(),
        length.runs,
        length.seconds,
        if others > QUIET {
            format!("; NOT QUIET: other processes used {:.0} % of the cores just before", others * 100.0)
        } else {
            String::new()
        }
    );
    println!("{about}\n\n{text}");
    if record {
        table::record(&workspace::root().join("perf/RESULTS.md"), "http", &format!("{about}\n\n{text}"))?;
    }
    if let Some(file) = json {
        fs::write(file, table::to_json(&rows).to_string())
            .with_context(|| format!("--json {}: cannot write it", file.display()))?;
    }
    // A case that the generator bounded was not measured.
    Ok(if unmeasured.is_empty() && rows.iter().all(|row| row.valid) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn compare(case: &Case, length: &Length, load: &Load, edge: &Edge, nginx: &Nginx, stop: &Stop) -> anyhow::Result<Row> {
    let peer = match case.tls {
        true => format!("https://{}", nginx.secure),
        false => format!("http://{}", nginx.address),
    };
    let urls = [edge.urls(case), case.urls(&peer)];
    let bytes = case.bytes as u64;
    for urls in &urls {
        load.check(bytes, urls).with_context(|| case.name)?;
    }
    let mut rates = [Vec::new(), Vec::new()];
    let mut valid = true;
    for _ in 0..length.runs {
        for (urls, rates) in urls.iter().zip(&mut rates) {
            anyhow::ensure!(!stop.asked(), "stopped");
            let mut command = load.command(case.connections, length.seconds, length.warmup, bytes, urls);
            let run = load.measure(&mut command).with_context(|| case.name)?;
            rates.push(run.per_s);
            valid &= run.valid;
        }
    }
    let [ours, peer] = rates.map(table::median);
    println!("{}: {ours:.0} to nginx's {peer:.0} requests/s", case.name);
    Ok(Row {
        case: case.name.to_owned(),
        ours,
        peer,
        peer_name: "nginx",
        unit: "requests/s",
        target: case.target,
        valid,
    })
}

/// Files of noise, the same at every run.
fn write_files(folder: &Path, case: &Case) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join(case.bytes.to_string()))?;
    for number in 0..case.files {
        let mut state = (case.bytes + number) as u64 | 1;
        let mut bytes = Vec::with_capacity(case.bytes);
        while bytes.len() < case.bytes {
            // xorshift64 (Marsaglia 2003)
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        fs::write(folder.join(case.file(number)), bytes)?;
    }
    Ok(())
}
