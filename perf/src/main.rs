//! `shoal-load`: loads one HTTP/1.1 server from one core and checks every answer.

#![forbid(unsafe_code)]

mod measure;
mod secure;
mod verify;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity};
use secure::Trust;
use serde_json::Value;
use shoal_perf::flow::Flow;
use shoal_perf::plan::Plan;

/// Load generator: HTTP/1.1 keep-alive, one core, closed loop, or open loop with --rate. Prints JSON.
#[derive(Parser, Debug)]
#[command(name = "shoal-load", version)]
pub(crate) struct Args {
    /// URLs of one server, asked for in turn: http://host:port/path or https://host:port/path
    #[arg(required_unless_present = "flows")]
    urls: Vec<String>,
    /// File with a JSON list of flows to run side by side instead, each with its URLs, connections and pace (README).
    #[arg(long, conflicts_with_all = ["urls", "checksum"])]
    flows: Option<PathBuf>,
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
    if let Some(cpu) = args.cpu {
        let mut set = CpuSet::new();
        anyhow::ensure!(cpu < CpuSet::MAX_CPU, "--cpu {cpu}: there is no such core");
        set.set(cpu);
        sched_setaffinity(None, &set).with_context(|| format!("--cpu {cpu}: cannot run there"))?;
    }
    for (name, value) in [("--duration", args.duration), ("--warmup", args.warmup)] {
        let fine = value.is_finite() && value >= 0.0 && (value > 0.0 || name == "--warmup");
        anyhow::ensure!(fine, "{name} {value}: must be a positive number");
    }
    let flows = args.flows()?.into_iter().map(|flow| {
        flow.check()?;
        let plan = Plan::new(&flow.urls, &args.headers)?;
        let trust = Trust::of(&plan, args.roots.as_deref())?;
        anyhow::Ok((flow, plan, trust))
    });
    let mut flows = flows.collect::<anyhow::Result<Vec<_>>>()?;
    let report = match flows.pop() {
        Some((_, plan, Some(trust))) if args.checksum => secure::verify(&args, plan, &trust)?,
        Some((_, plan, None)) if args.checksum => verify::run(&args, plan)?,
        last => {
            flows.extend(last);
            measure::run(&args, flows)?
        }
    };
    println!("{report:#}");
    let fine = |report: &Value| report["errors"] == 0 && report["requests"] != 0;
    let all = fine(&report) && report["beside"].as_array().is_none_or(|others| others.iter().all(fine));
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    /// What to run side by side.
    fn flows(&self) -> anyhow::Result<Vec<Flow>> {
        let Some(file) = &self.flows else {
            return Ok(vec![Flow {
                name: "load".to_owned(),
                urls: self.urls.clone(),
                connections: self.connections,
                rate: self.rate,
                bytes: self.bytes,
                status: self.status,
                numbers: 1,
                random: false,
            }]);
        };
        let text = fs::read(file).with_context(|| format!("--flows {}: cannot read it", file.display()))?;
        let flows: Vec<Flow> = serde_json::from_slice(&text).with_context(|| format!("--flows {}", file.display()))?;
        anyhow::ensure!(!flows.is_empty(), "--flows {}: at least one flow is needed", file.display());
        Ok(flows)
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }
}
