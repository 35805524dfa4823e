//! `shoal-callload`: calls a tracker or our report service from one core, in a closed loop. Prints JSON.

#![forbid(unsafe_code)]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use rustix::thread::{CpuSet, sched_setaffinity};
use shoal_perf::calls::{Announces, Reports, Setting, Sockets, info_hash, run};

/// Load generator for trackers and reports: one core, closed loop. Prints JSON.
#[derive(Parser, Debug)]
#[command(name = "shoal-callload", version)]
struct Args {
    /// The server.
    #[arg(long)]
    server: SocketAddr,
    /// Connections, each with one call under way.
    #[arg(short, long, default_value_t = 64)]
    connections: usize,
    /// Seconds to measure.
    #[arg(short, long, default_value_t = 5.0)]
    duration: f64,
    /// Seconds to run before measuring.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// End after so many answers, if sooner.
    #[arg(short = 'n', long)]
    calls: Option<u64>,
    /// A connection for each call, for servers that keep none.
    #[arg(long)]
    reconnect: bool,
    /// Core to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Core of the server, to tell whether it or this program was the bottleneck.
    #[arg(long)]
    server_cpu: Option<usize>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Announces by HTTP.
    Announce {
        /// Where to.
        #[arg(long, default_value = "/announce")]
        path: String,
        /// Swarms.
        #[arg(long, default_value_t = 1000)]
        swarms: u64,
        /// Peers in all of them.
        #[arg(long, default_value_t = 10_000)]
        peers: u64,
        /// Peers to ask for.
        #[arg(long, default_value_t = 30)]
        numwant: u32,
        /// Each peer once, in turn.
        #[arg(long)]
        once: bool,
    },
    /// Prints the info hashes of `announce`, for trackers that have to be told, and calls nobody.
    InfoHashes {
        /// Swarms.
        #[arg(long, default_value_t = 1000)]
        swarms: u64,
    },
    /// Announces by WebSocket, a peer on each connection.
    Socket {
        /// Where to.
        #[arg(long, default_value = "/")]
        path: String,
        /// Swarms.
        #[arg(long, default_value_t = 100)]
        swarms: u64,
        /// Of them, those that a peer is in.
        #[arg(long, default_value_t = 1)]
        each: u64,
        /// Offers in an announce; those that come are answered.
        #[arg(long, default_value_t = 0)]
        offers: u32,
        /// The server says how the swarm is also to who answers an offer.
        #[arg(long)]
        told: bool,
    },
    /// Batches of reports.
    Reports {
        /// Where to.
        #[arg(long, default_value = "/v1/reports")]
        path: String,
        /// File with a pass a line, each of a session of its own.
        #[arg(long)]
        passes: PathBuf,
        /// Reports in a batch.
        #[arg(long, default_value_t = 1)]
        batch: u64,
        /// Reports that each session has sent before.
        #[arg(long, default_value_t = 0)]
        first: u64,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(cpu) = args.cpu {
        let mut set = CpuSet::new();
        anyhow::ensure!(cpu < CpuSet::MAX_CPU, "--cpu {cpu}: there is no such core");
        set.set(cpu);
        sched_setaffinity(None, &set).with_context(|| format!("--cpu {cpu}: cannot run there"))?;
    }
    for (name, value, least) in [("--duration", args.duration, f64::MIN_POSITIVE), ("--warmup", args.warmup, 0.0)] {
        anyhow::ensure!(value.is_finite() && value >= least, "{name} {value}: must be a positive number of seconds");
    }
    anyhow::ensure!(args.connections > 0, "--connections 0: at least one is needed");
    let setting = Setting {
        server: args.server,
        connections: args.connections,
        warmup: Duration::from_secs_f64(args.warmup),
        duration: Duration::from_secs_f64(args.duration),
        calls: args.calls,
        reconnect: args.reconnect,
        server_cpu: args.server_cpu,
    };
    let host = args.server.to_string();
    let report = match args.what {
        What::InfoHashes { swarms } => {
            for swarm in 0..swarms {
                let hex: String = info_hash(swarm).iter().map(|byte| format!("{byte:02X}")).collect();
                println!("{hex}");
            }
            return Ok(ExitCode::SUCCESS);
        }
        What::Announce { path, swarms, peers, numwant, once } => {
            anyhow::ensure!(swarms > 0 && peers > 0, "--swarms and --peers: at least one is needed");
            run(&setting, &mut Announces::new(host, path, [swarms, peers], numwant, once))?
        }
        What::Socket { path, swarms, each, offers, told } => {
            anyhow::ensure!(swarms > 0 && each > 0, "--swarms and --each: at least one is needed");
            run(&setting, &mut Sockets::new(host, path, args.connections, [swarms, each], offers, told))?
        }
        What::Reports { path, passes, batch, first } => {
            let text = fs::read_to_string(&passes)
                .with_context(|| format!("--passes {}: cannot read it", passes.display()))?;
            let passes: Vec<String> = text.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect();
            anyhow::ensure!(!passes.is_empty() && batch > 0, "--passes and --batch: at least one is needed");
            run(&setting, &mut Reports::new(host, path, passes, batch, first))?
        }
    };
    println!("{report:#}");
    Ok(if report["errors"] == 0 && report["requests"] != 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
