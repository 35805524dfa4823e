//! `bench http`: all cases, one after the other, and what came of them.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Context;

use super::certificate::Certificate;
use super::load::{Load, Time};
use super::table::{self, Row};
use super::{LOAD_CPU, Options, QUIET, SERVER_CPU, background, curves, disk, gso, idle, machine, nginx, p99, ram};
use crate::signals::Stop;
use crate::{tools, workspace};

/// What all cases share.
pub(super) struct Bench {
    pub(super) bin: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) certificate: Certificate,
    pub(super) load: Load,
    pub(super) length: Length,
    /// Only what is done in seconds.
    pub(super) quick: bool,
    pub(super) stop: Stop,
    only: Vec<String>,
}

/// How often and how long.
#[derive(Clone, Copy)]
pub(super) struct Length {
    pub(super) runs: usize,
    pub(super) seconds: f64,
    warmup: f64,
}

const QUICK: Length = Length { runs: 1, seconds: 0.5, warmup: 0.1 };
const FULL: Length = Length { runs: 5, seconds: 2.0, warmup: 0.5 };

/// Cases that are measured together.
pub(super) struct Group {
    /// Their names, as in the table.
    pub(super) cases: fn() -> Vec<&'static str>,
    /// Measures those of them that are wanted.
    pub(super) run: fn(&Bench) -> anyhow::Result<Vec<Row>>,
}

const GROUPS: &[Group] = &[
    ram::GROUP,
    gso::GROUP,
    disk::GROUP,
    p99::GROUP,
    idle::GROUP,
    curves::OBJECTS,
    curves::CHANNELS,
    background::GROUP,
];

impl Length {
    pub(super) fn time(self) -> Time {
        Time { seconds: self.seconds, warmup: self.warmup }
    }
}

impl Bench {
    /// Whether a case is to be measured.
    pub(super) fn wants(&self, case: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == case)
    }

    /// Fails when somebody has asked us to stop.
    pub(super) fn go_on(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.stop.asked(), "stopped");
        Ok(())
    }
}

/// Runs the cases that the options name on both servers.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let cores = available_parallelism()?.get();
    anyhow::ensure!(cores > LOAD_CPU, "two cores are needed, one for the server and one for the load; here is {cores}");
    let names: Vec<&str> = GROUPS.iter().flat_map(|group| (group.cases)()).collect();
    if let Some(unknown) = options.only.iter().find(|only| !names.contains(&only.as_str())) {
        anyhow::bail!("--only {unknown}: there is no such case; these are: {}", names.join(", "));
    }
    tools::require(&[("nginx", "nginx-light"), ("taskset", "util-linux"), ("openssl", "openssl")])?;
    let stop = Stop::listen()?;
    let bin = workspace::build_planes(true)?;
    workspace::build_load()?;
    let others = machine::busy();
    let dir = workspace::target_dir()?.join("bench-http");
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir)?;
    let certificate = Certificate::within(&dir);
    certificate.make()?;
    let bench = Bench {
        load: Load::new(&bin, &dir, SERVER_CPU, LOAD_CPU),
        bin,
        certificate,
        length: if options.quick { QUICK } else { FULL },
        quick: options.quick,
        stop,
        only: options.only.clone(),
        dir,
    };

    let (mut rows, mut notes, mut failed) = (Vec::new(), String::new(), false);
    for group in GROUPS {
        let wanted: Vec<&str> = (group.cases)().into_iter().filter(|case| bench.wants(case)).collect();
        if wanted.is_empty() {
            continue;
        }
        match (group.run)(&bench) {
            Ok(measured) => {
                measured.iter().for_each(|row| println!("{}", row.line()));
                let left: Vec<&str> =
                    wanted.into_iter().filter(|case| !measured.iter().any(|row| row.case == *case)).collect();
                if !left.is_empty() {
                    notes.push_str(&format!("\nLeft out by --quick: {}.\n", left.join(", ")));
                }
                rows.extend(measured);
            }
            Err(error) => {
                bench.go_on()?;
                failed = true;
                let note = format!("COULD NOT MEASURE, and so failed: {}: {error:#}", wanted.join(", "));
                println!("{note}");
                notes.push_str(&format!("\n{note}\n"));
            }
        }
    }
    let left: Vec<&str> = names.into_iter().filter(|name| !bench.wants(name)).collect();
    if !left.is_empty() {
        notes.push_str(&format!("\nLeft out by --only: {}.\n", left.join(", ")));
    }
    drop(fs::remove_dir_all(&bench.dir));

    let text = table::markdown(&rows) + &notes;
    let about = about(options, bench.length, others);
    println!("{about}\n\n{text}");
    if options.record {
        table::record(&workspace::root().join("perf/RESULTS.md"), "http", &format!("{about}\n\n{text}"))?;
    }
    if let Some(file) = &options.json {
        fs::write(file, table::to_json(&rows).to_string())
            .with_context(|| format!("--json {}: cannot write it", file.display()))?;
    }
    // A case that the generator bounded was not measured.
    let valid = rows.iter().all(|row| row.invalid.is_none());
    Ok(if valid && !failed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was run, on what, and how.
fn about(options: &Options, length: Length, others: f64) -> String {
    format!(
        "`{}`, {}; server on core {SERVER_CPU}, load and control plane on core {LOAD_CPU}, loopback; median of {} interleaved \
         runs of {} s; ours with ticket check, ledger and metrics on{}",
        options.command("http"),
        machine::describe(&[nginx::version()]),
        length.runs,
        length.seconds,
        if others > QUIET {
            format!("; NOT QUIET: other processes used {:.0} % of the cores just before", others * 100.0)
        } else {
            String::new()
        }
    )
}
