//! `cargo xtask bench`: the data plane beside its peers, on the same core, in one run.

mod background;
mod case;
mod certificate;
mod control;
mod curves;
mod disk;
mod edge;
mod gso;
mod http;
mod idle;
mod load;
mod machine;
mod memory;
mod namespace;
mod nginx;
mod p99;
mod ram;
mod stage;
mod table;
mod udp;
mod xdp;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

pub(crate) use certificate::Certificate;
pub(crate) use load::Load;
pub(crate) use machine::versions;
pub(crate) use stage::{Stage, names};
pub(crate) use table::record;

/// All servers run here, in turn.
const SERVER_CPU: usize = 0;

/// And their load here.
const LOAD_CPU: usize = 1;

/// Share of the cores that others may use before the figures are marked.
const QUIET: f64 = 0.05;

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure.
    name: Name,
    /// Fewer and shorter runs: ends within 50 s of the build, and says less.
    #[arg(long)]
    quick: bool,
    /// Measure this case alone; may be repeated.
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// Write the table into perf/RESULTS.md.
    #[arg(long)]
    record: bool,
    /// Write the figures into this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Slices from RAM and from disk, latency, memory and growth, with ticket check, ledger and metrics on, against nginx.
    Http,
    /// Relayed packets, Binding requests, allocations, latency, loss and memory, against coturn and turn-server.
    Udp,
    /// Announces, memory and growth of the tracker, conf and reports, against aquatic and opentracker.
    Control,
    /// Nanoseconds of the XDP program for a packet of each verdict, beyond those of a program that does nothing.
    Xdp,
}

/// Succeeds when everything could be measured, whether or not a target was met.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    match options.name {
        Name::Http => http::run(options),
        Name::Udp => udp::run(options),
        Name::Control => control::run(options),
        Name::Xdp => xdp::run(options),
    }
}

impl Options {
    /// As it was typed, but for `--record` and `--json`.
    fn command(&self, name: &str) -> String {
        let mut command = format!("cargo xtask bench {name}");
        if self.quick {
            command.push_str(" --quick");
        }
        for only in &self.only {
            command.push_str(&format!(" --only {only}"));
        }
        command
    }
}
