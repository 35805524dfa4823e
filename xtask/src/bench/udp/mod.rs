//! `bench udp`: STUN and TURN beside coturn and turn-server.

mod cases;
mod load;
mod servers;
mod shoal;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Context;

use super::namespace::Namespace;
use super::table::{self, MISSING, Row, Target, median};
use super::{LOAD_CPU, Options, QUIET, SERVER_CPU, machine};
use crate::signals::Stop;
use crate::{tools, workspace};
use cases::{CASES, Case, Line, Pace};
use load::{Load, Report};
use servers::{Kind, Server};

/// Lets packets with loopback addresses in that come by no route, as the load generator's frames do.
const ROUTE_LOCALNET: &str = "/proc/sys/net/ipv4/conf/lo/route_localnet";

/// What all cases share.
struct Bench {
    /// Where our programs are.
    bin: PathBuf,
    dir: PathBuf,
    load: Load,
    length: Length,
    stop: Stop,
    only: Vec<String>,
}

/// How often and how long.
#[derive(Clone, Copy)]
struct Length {
    runs: usize,
    seconds: f64,
    /// Of each rate that a search tries.
    search_seconds: f64,
    warmup: f64,
}

const QUICK: Length = Length { runs: 1, seconds: 0.3, search_seconds: 0.15, warmup: 0.1 };
const FULL: Length = Length { runs: 5, seconds: 2.0, search_seconds: 1.0, warmup: 0.3 };

/// A server under test, and what its runs reported.
struct Column {
    kind: Kind,
    server: Server,
    reports: Vec<Report>,
    /// Why it has no figures.
    failed: Option<anyhow::Error>,
}

/// What came of cases.
#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    /// What could not be measured, and why.
    failures: Vec<String>,
    /// Whether the load generator had to send one by one from sockets.
    by_sockets: bool,
}

/// Runs the cases that the options name on all servers.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let cores = available_parallelism()?.get();
    anyhow::ensure!(cores > LOAD_CPU, "two cores are needed, one for the server and one for the load; here is {cores}");
    let names: Vec<&str> = CASES.iter().flat_map(|case| case.lines).map(|line| line.name).collect();
    if let Some(unknown) = options.only.iter().find(|only| !names.contains(&only.as_str())) {
        anyhow::bail!("--only {unknown}: there is no such case; these are: {}", names.join(", "));
    }
    tools::require(&[("turnserver", "coturn"), ("taskset", "util-linux"), ("sha256sum", "coreutils")])?;
    let stop = Stop::listen()?;
    let bin = workspace::build_planes(true)?;
    workspace::build_load()?;
    let dir = workspace::target_dir()?.join("bench-udp");
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir)?;
    let bench = Bench {
        load: Load { program: bin.join("shoal-udpload"), cpu: LOAD_CPU },
        bin,
        dir,
        length: if options.quick { QUICK } else { FULL },
        stop,
        only: options.only.clone(),
    };
    let cases: Vec<&Case> = CASES.iter().filter(|case| case.lines.iter().any(|line| bench.wants(line))).collect();
    let turn_server = match cases.iter().any(|case| case.peers.contains(&Kind::TurnServer)) {
        true => servers::install_turn_server(),
        false => Ok(()),
    };
    let others = machine::busy();
    let without = if turn_server.is_ok() { None } else { Some(Kind::TurnServer) };
    let mut found = match Namespace::create() {
        Ok(namespace) => namespace.within(|| {
            fs::write(ROUTE_LOCALNET, "1").with_context(|| format!("cannot write {ROUTE_LOCALNET}"))?;
            bench.measure_all(&cases, without)
        }),
        Err(error) => {
            println!("{error:#}; so the load generator sends from sockets, and offers less");
            bench.measure_all(&cases, without)
        }
    }?;
    drop(fs::remove_dir_all(&bench.dir));
    if let Err(error) = turn_server {
        found.failures.push(format!("turn-server: {error:#}"));
    }

    let mut text = table::markdown(&found.rows);
    for failure in &found.failures {
        text.push_str(&format!("\nCOULD NOT MEASURE, and so failed: {failure}\n"));
    }
    let is_left = |name: &&str| !options.only.is_empty() && !options.only.iter().any(|only| only == name);
    let left: Vec<&str> = names.into_iter().filter(is_left).collect();
    if !left.is_empty() {
        text.push_str(&format!("\nLeft out by --only: {}.\n", left.join(", ")));
    }
    let about = about(options, bench.length, others, found.by_sockets);
    println!("{about}\n\n{text}");
    if options.record {
        table::record(&workspace::root().join("perf/RESULTS.md"), "udp", &format!("{about}\n\n{text}"))?;
    }
    if let Some(file) = &options.json {
        fs::write(file, table::to_json(&found.rows).to_string())
            .with_context(|| format!("--json {}: cannot write it", file.display()))?;
    }
    // A case that the generator bounded was not measured, and what we cannot do we have not reached.
    let valid = found.rows.iter().all(|row| row.invalid.is_none() && !row.ours.is_nan() && !row.peer.is_nan());
    Ok(if valid && found.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Bench {
    fn wants(&self, line: &Line) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == line.name)
    }

    /// Fails when somebody has asked us to stop.
    fn go_on(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.stop.asked(), "stopped");
        Ok(())
    }

    /// All of these cases, on all their peers but one that cannot be had.
    fn measure_all(&self, cases: &[&Case], without: Option<Kind>) -> anyhow::Result<Found> {
        let mut found = Found::default();
        for case in cases {
            let peers: Vec<Kind> = case.peers.iter().copied().filter(|kind| Some(*kind) != without).collect();
            let (rows, failures) = (found.rows.len(), found.failures.len());
            if let Err(error) = self.measure(case, &peers, &mut found) {
                self.go_on()?;
                let wanted: Vec<&str> = case.lines.iter().map(|line| line.name).collect();
                found.failures.push(format!("{}: {error:#}", wanted.join(", ")));
            }
            found.rows[rows..].iter().for_each(|row| println!("{}", row.line()));
            found.failures[failures..].iter().for_each(|failure| println!("COULD NOT MEASURE: {failure}"));
        }
        Ok(found)
    }

    /// A case on the data plane and on its peers, in turn.
    fn measure(&self, case: &Case, peers: &[Kind], found: &mut Found) -> anyhow::Result<()> {
        let mut columns = Vec::new();
        for kind in std::iter::once(Kind::Shoal).chain(peers.iter().copied()) {
            let server = kind.start(&self.bin, &self.dir.join(kind.name()))?;
            columns.push(Column { kind, server, reports: Vec::new(), failed: None });
        }
        let (mut rate, mut direct) = (None, Vec::new());
        if let Pace::Share(percent) = case.pace {
            let peak = self.peak(case, &columns)? * f64::from(percent) / 100.0;
            rate = Some(peak.round());
        }
        let words = self.words(case, rate);
        for _ in 0..self.length.runs {
            for column in columns.iter_mut().filter(|column| column.failed.is_none()) {
                self.go_on()?;
                match self.load.run(&words, Some(&column.server.access)) {
                    Ok(report) => column.reports.push(report),
                    Err(error) => column.failed = Some(error),
                }
            }
            if rate.is_some() {
                direct.push(self.load.run(&with(&words, &["--to", "direct"]), None).context("without a server")?);
            }
        }
        let mut measured = Vec::new();
        for Column { kind, server, reports, failed } in columns {
            let stopped = server.stop().with_context(|| format!("stop {}", kind.name()));
            // Half of the runs are no measure.
            let reports = if failed.is_some() { Vec::new() } else { reports };
            let names = case.lines[0].name;
            let failure = |error| format!("{names} on {}: {error:#}", kind.name());
            found.failures.extend(failed.into_iter().chain(stopped.err()).map(failure));
            found.by_sockets |= !case.has_trains() && reports.iter().any(Report::is_by_sockets);
            measured.push((kind, reports));
        }
        for line in case.lines.iter().filter(|line| self.wants(line)) {
            let without = if direct.is_empty() { 0.0 } else { self::figure(line, &direct)? };
            let figure = |reports: &[Report]| match reports.is_empty() {
                true => Ok(MISSING),
                false => Ok::<_, anyhow::Error>(self::figure(line, reports)? - without),
            };
            let Some(((_, ours), peers)) = measured.split_first() else { continue };
            for (place, (kind, peer)) in peers.iter().enumerate() {
                // That we might have done more is no reason against us. That a peer might have is one, where it decides; it does not
                // where there is no target, or none that a peer has a part in.
                let decides = matches!(line.target, Target::RatioAtLeast(_)) && place == 0;
                let counts = |report: &&Report| decides || !report.is_at_least();
                let ours_count = ours.iter().filter(|report| !report.is_at_least());
                let runs = ours_count.chain(peer.iter().filter(counts)).chain(&direct);
                let mut peer_name = kind.name().to_owned();
                if let Some(rate) = rate {
                    peer_name.push_str(&format!(", both at {rate:.0} packets/s"));
                }
                for (whose, reports) in [("ours", ours), ("the peer", peer)] {
                    if !line.first && reports.iter().any(Report::is_at_least) {
                        peer_name.push_str(&format!("; the load generator bounded {whose}"));
                    }
                }
                found.rows.push(Row {
                    case: line.name.to_owned(),
                    ours: figure(ours)?,
                    peer: figure(peer)?,
                    peer_name,
                    unit: line.unit,
                    // The targets are for coturn, the first peer.
                    target: if place == 0 { line.target } else { Target::None },
                    invalid: runs.filter_map(Report::invalid).next(),
                });
            }
        }
        Ok(())
    }

    /// What the first peer relays at most.
    fn peak(&self, case: &Case, columns: &[Column]) -> anyhow::Result<f64> {
        let server = &columns.get(1).context("there is no peer")?.server;
        let words = self.words(&Case { pace: Pace::Peak, ..*case }, None);
        let mut peaks = Vec::new();
        for _ in 0..self.length.runs {
            self.go_on()?;
            peaks.push(self.load.run(&words, Some(&server.access))?.figure("packets_per_s")?);
        }
        Ok(median(peaks))
    }

    /// For the generator.
    fn words(&self, case: &Case, rate: Option<f64>) -> Vec<String> {
        let words: Vec<String> = case.words.split(' ').map(str::to_owned).collect();
        let Length { seconds, search_seconds, warmup, .. } = self.length;
        let seconds = if case.pace == Pace::Search { search_seconds } else { seconds }.to_string();
        let timed = ["--duration", &seconds, "--warmup", &warmup.to_string()];
        match (case.pace, rate) {
            (Pace::Once, _) => words,
            (Pace::Search, _) => with(&with(&words, &timed), &["--search"]),
            (_, Some(rate)) => with(&with(&words, &timed), &["--rate", &rate.to_string()]),
            (_, None) => with(&words, &timed),
        }
    }
}

fn with(words: &[String], more: &[&str]) -> Vec<String> {
    words.iter().cloned().chain(more.iter().map(|word| (*word).to_owned())).collect()
}

/// The median of a line's figure, or that of the first run.
fn figure(line: &Line, reports: &[Report]) -> anyhow::Result<f64> {
    let mut figures = reports.iter().map(|report| report.figure(line.figure)).collect::<anyhow::Result<Vec<_>>>()?;
    if line.first {
        figures.truncate(1);
    }
    Ok(median(figures))
}

/// What was run, on what, and how.
fn about(options: &Options, length: Length, others: f64, by_sockets: bool) -> String {
    let peers = [format!("coturn {}", servers::coturn_version()), "turn-server 4.1.5".to_owned()];
    format!(
        "`{}`, {}; server on core {SERVER_CPU}, load on core {LOAD_CPU}, loopback; median of {} interleaved runs of {} s \
         ({} s for each rate of a search){}{}",
        options.command("udp"),
        machine::describe(&peers),
        length.runs,
        length.seconds,
        length.search_seconds,
        if by_sockets { "; ONE BY ONE SENT FROM SOCKETS, which costs the load generator twice as much" } else { "" },
        if others > QUIET {
            format!("; NOT QUIET: other processes used {:.0} % of the cores just before", others * 100.0)
        } else {
            String::new()
        }
    )
}
