//! `shoal-load`: loads one HTTP/1.1 server from one core and checks every answer.

#![forbid(unsafe_code)]

mod measure;
mod secure;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity};
use secure::Trust;
use shoal_perf::plan::Plan;

/// Load generator: HTTP/1.1 keep-alive, one core, closed loop, or open loop with --rate. Prints JSON.
#[derive(Parser, Debug)]
#[command(name = "shoal-load", version)]
pub(crate) struct Args {
    /// URLs of one server, asked for in turn: http://host:port/path or https://host:port/path
    #[arg(required = true)]
    urls: Vec<String>,
    /// Connections.
    #[arg(short, long, default_value_t = 32)]
    connections: usize,
    /// Seconds to measure.
    #[arg(short, long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds to run before measuring.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// End after this many responses, if sooner.
    #[arg(short = 'n', long)]
    requests: Option<u64>,
    /// Requests per second over all connections, sent on schedule whether or not answers came (open loop).
    #[arg(long)]
    rate: Option<f64>,
    /// Header to add to each request, `Name: value`; may be repeated.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Status that every response must have.
    #[arg(long, default_value_t = 200)]
    status: u16,
    /// Body bytes that every response must have; without it, each URL's first answer sets its length.
    #[arg(long)]
    bytes: Option<u64>,
    /// Read every body, and compare it with the first one of its URL. Slower: for checking, not for measuring.
    #[arg(long, conflicts_with = "rate")]
    checksum: bool,
    /// Certificates (PEM) to trust with https://. Sessions are of TLS 1.3 with AES-128-GCM.
    #[arg(long)]
    roots: Option<PathBuf>,
    /// Core to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Core of the server, to tell whether it or this program was the bottleneck.
    #[arg(long)]
    server_cpu: Option<usize>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let plan = Plan::new(&args.urls, &args.headers)?;
    if let Some(cpu) = args.cpu {
        let mut set = CpuSet::new();
        anyhow::ensure!(cpu < CpuSet::MAX_CPU, "--cpu {cpu}: there is no such core");
        set.set(cpu);
        sched_setaffinity(None, &set).with_context(|| format!("--cpu {cpu}: cannot run there"))?;
    }
    anyhow::ensure!(args.connections > 0, "--connections 0: at least one is needed");
    for (name, value) in [("--duration", Some(args.duration)), ("--warmup", Some(args.warmup)), ("--rate", args.rate)] {
        let fine = value.is_none_or(|v| v.is_finite() && v >= 0.0 && (v > 0.0 || name == "--warmup"));
        anyhow::ensure!(fine, "{name} {}: must be a positive number", value.unwrap_or_default());
    }
    let trust = Trust::of(&plan, args.roots.as_deref())?;
    let report = match (args.checksum, &trust) {
        (true, Some(trust)) => secure::verify(&args, plan, trust)?,
        (true, None) => verify::run(&args, plan)?,
        (false, trust) => measure::run(&args, plan, trust.as_ref())?,
    };
    println!("{report:#}");
    Ok(if report["errors"] == 0 && report["requests"] != 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }
}
