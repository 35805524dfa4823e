//! `bench control`: tracker, conf and reports of the control plane beside trackers of others, on one core.

mod cases;
mod load;
mod servers;
mod services;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Context;

use super::table::{self, Row, Target};
use super::{LOAD_CPU, Options, QUIET, SERVER_CPU, machine};
use crate::signals::Stop;
use crate::{tools, workspace};
use cases::CASES;
use load::Load;

/// What all cases share.
struct Bench {
    /// Where our programs are.
    bin: PathBuf,
    dir: PathBuf,
    load: Load,
    length: Length,
    stop: Stop,
}

/// How often, how long, how many.
#[derive(Clone, Copy)]
struct Length {
    runs: usize,
    seconds: f64,
    warmup: f64,
    /// Peers of the largest swarm.
    peers: u64,
    /// Reports that are rolled up.
    reports: u64,
}

const QUICK: Length = Length { runs: 1, seconds: 0.8, warmup: 0.2, peers: 100_000, reports: 200_000 };
const FULL: Length = Length { runs: 5, seconds: 3.0, warmup: 0.5, peers: 1_000_000, reports: 10_000_000 };

/// Runs the cases that the options name.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let cores = available_parallelism()?.get();
    anyhow::ensure!(cores > LOAD_CPU, "two cores are needed, one for the server and one for the load; here is {cores}");
    let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    if let Some(unknown) = options.only.iter().find(|only| !names.contains(&only.as_str())) {
        anyhow::bail!("--only {unknown}: there is no such case; these are: {}", names.join(", "));
    }
    tools::require(&[("taskset", "util-linux"), ("opentracker", "opentracker")])?;
    let stop = Stop::listen()?;
    let bin = workspace::build_control()?;
    workspace::build_load()?;
    servers::install_aquatic()?;
    let dir = workspace::target_dir()?.join("bench-control");
    let length = if options.quick { QUICK } else { FULL };
    let bench = Bench { load: Load(bin.clone()), bin, dir, length, stop };
    let others = machine::busy();
    let mut rows = Vec::new();
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        bench.go_on()?;
        let first = rows.len();
        match (case.measure)(&bench, case) {
            Ok(found) => rows.extend(found),
            Err(error) => {
                bench.go_on()?;
                rows.push(Row::failed(case.name, case.unit, case.target, &error));
            }
        }
        rows[first..].iter().for_each(|row: &Row| println!("{}", row.line()));
    }
    drop(fs::remove_dir_all(&bench.dir));
    let mut text = table::markdown(&rows);
    let left: Vec<&str> = names.into_iter().filter(|name| !wanted(name)).collect();
    if !left.is_empty() {
        text.push_str(&format!("\nLeft out by --only: {}.\n", left.join(", ")));
    }
    let about = about(options, length, others);
    println!("{about}\n\n{text}");
    if options.record {
        table::record(&workspace::root().join("perf/RESULTS.md"), "control", &format!("{about}\n\n{text}"))?;
    }
    if let Some(file) = &options.json {
        fs::write(file, table::to_json(&rows).to_string())
            .with_context(|| format!("--json {}: cannot write it", file.display()))?;
    }
    Ok(if rows.iter().all(|row| row.invalid.is_none()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Bench {
    /// Fails when somebody has asked us to stop.
    fn go_on(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.stop.asked(), "stopped");
        Ok(())
    }

    /// How long a run of the generator is.
    fn timed(&self, connections: u32) -> Vec<String> {
        let Length { seconds, warmup, .. } = self.length;
        ["--connections", &connections.to_string(), "--duration", &seconds.to_string(), "--warmup", &warmup.to_string()]
            .map(str::to_owned)
            .to_vec()
    }
}

/// A line of one case.
fn row(
    name: &str,
    unit: &'static str,
    target: Target,
    (ours, peer, peer_name): (f64, f64, &str),
    invalid: Option<String>,
) -> Row {
    Row { case: name.to_owned(), ours, peer, peer_name: peer_name.to_owned(), unit, target, invalid }
}

/// What was run, on what, and how.
fn about(options: &Options, length: Length, others: f64) -> String {
    let peers = ["aquatic_http 0.9.0", "aquatic_ws 0.9.0", "opentracker of Debian"].map(str::to_owned);
    format!(
        "`{}`, {}; server on core {SERVER_CPU}, load on core {LOAD_CPU}, loopback; median of {} interleaved runs of {} s{}",
        options.command("control"),
        machine::describe(&peers),
        length.runs,
        length.seconds,
        if others > QUIET {
            format!("; NOT QUIET: other processes used {:.0} % of the cores just before", others * 100.0)
        } else {
            String::new()
        }
    )
}
