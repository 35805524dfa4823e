//! What well-behaved clients lose, and how much longer they wait, while the node is flooded: with XDP and without.
//!
//! Node and sender are at the ends of a veth, each in a network namespace that goes away with this process. The node is the data plane itself,
//! with its default limits. What the flood consists of is told in `shoal_perf::flood::attack`; where what runs, in `shoal_perf::flood`; and what
//! clients do, in `shoal_perf::flood::viewers`. Quiet runs and flooded ones take turns; p99 grows by so much as the one does beside the other,
//! and what is told is the median. Prints one JSON object.
//!
//! Without XDP the node's end still runs a program, one that passes everything: else a veth takes no such frames as the flood is made of.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use clap::Parser;
use serde_json::{Value, json};
use shoal_perf::flood::attack::Flood;
use shoal_perf::flood::node::Node;
use shoal_perf::flood::viewers::{Kind, Outcome, Viewers};
use shoal_perf::namespace;
use shoal_perf::veth::{self, NODE, NODE_END, OUTER_END, Outer};
use shoal_probes::bench::{Bare, Bench};

/// Measures what well-behaved clients notice of a flood.
#[derive(Parser)]
struct Options {
    /// The data plane's program.
    #[arg(long)]
    dataplane: PathBuf,
    /// Pairs of runs, a quiet one and a flooded one, with XDP and without.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Milliseconds of a run.
    #[arg(long, default_value_t = 4_000)]
    run_ms: u64,
    /// Requests in a second, of each kind.
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Frames of the flood in a second.
    #[arg(long, default_value_t = 1_500_000)]
    flood_rate: u32,
    /// What it consists of.
    #[arg(long, value_enum, default_value = "mixed")]
    flood: Flood,
    /// Only with XDP (`on`) or without (`off`), for a profile.
    #[arg(long)]
    only: Option<String>,
    /// The CPU that sends the flood, and takes it.
    #[arg(long, default_value_t = 0)]
    flood_cpu: usize,
    /// The CPU of the node's shard and of well-behaved clients.
    #[arg(long, default_value_t = 1)]
    node_cpu: usize,
}

/// Addresses of well-behaved clients, and their peer.
const VIEWERS: [&str; 8] =
    ["192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.14", "192.0.2.15", "192.0.2.16", "192.0.2.17"];
const PEER: &str = "192.0.2.5";
const PEER_PORT: u16 = 9_000;

/// How long the flood goes on before it is measured.
const LEAD: Duration = Duration::from_millis(200);

/// Until the node has told what XDP did: it looks several times in a second.
const TOLD: Duration = Duration::from_millis(500);

/// A quiet run or a flooded one.
struct Run {
    outcomes: [Outcome; 2],
    /// Packets that came to the node in a second.
    rate: f64,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    ensure!(options.runs > 0 && options.run_ms > 0 && options.rate > 0, "--runs, --run-ms, --rate: at least 1");
    ensure!(options.flood_cpu != options.node_cpu, "--flood-cpu, --node-cpu: two CPUs are needed");
    namespace::enter("node")?;
    namespace::pin(options.node_cpu)?;
    let outer = Outer::start(options.flood_cpu)?;
    veth::lay(&outer, &[&[PEER], &VIEWERS[..]].concat())?;
    veth::be_a_card(&outer)?;
    // What the node relays back comes in by a veth only if there is a program.
    let _outer_end = outer.within(|| {
        let mut bench = Bench::load()?;
        bench.attach(Bare::Pass, OUTER_END)?;
        Ok(bench)
    })?;
    let mut cases = Vec::new();
    for (name, interface) in [("on", Some(NODE_END)), ("off", None)] {
        if options.only.as_deref().is_none_or(|only| only == name) {
            let case = measure(name, interface, &outer, &options).with_context(|| format!("XDP {name}"))?;
            cases.push(case);
        }
    }
    ensure!(!cases.is_empty(), "--only: `on` or `off`");
    println!("{}", json!({ "cases": cases }));
    Ok(())
}

/// All runs with XDP at an interface, or without.
fn measure(name: &str, interface: Option<&str>, outer: &Outer, options: &Options) -> anyhow::Result<Value> {
    let (server, peer): (SocketAddr, _) = (NODE.parse()?, SocketAddr::new(PEER.parse()?, PEER_PORT));
    let node = Node::start(&options.dataplane, options.node_cpu, server, interface)?;
    let mut node_end = Bench::load()?;
    if interface.is_none() {
        node_end.attach(Bare::Pass, NODE_END)?;
    }
    let mut viewers = outer.within(move || Viewers::open(server, peer, &VIEWERS))?;
    // Whatever is slow only once.
    viewers.run(options.rate, LEAD)?;
    let mut pairs = Vec::new();
    for _ in 0..options.runs {
        let mut run = |flooded| run(&mut viewers, outer, options, server, flooded);
        pairs.push([run(false)?, run(true)?]);
    }
    thread::sleep(TOLD);
    let verdicts = node.verdicts()?;
    if interface.is_some() {
        // Both ways.
        let channels = pairs.iter().flatten().map(|run| run.outcomes[Kind::Channel as usize]);
        let back: u64 = channels.map(|outcome| 2 * (outcome.sent - outcome.lost)).sum();
        let relayed = verdicts.get("relayed").copied().unwrap_or(0);
        ensure!(relayed * 10 >= back * 9, "of {back} packets of channels XDP relayed only {relayed}: {verdicts:?}");
    }
    let rate = median(pairs.iter().map(|[_, flooded]| flooded.rate).collect());
    let mut case = json!({ "case": name, "flood_rate": rate, "verdicts": verdicts });
    for kind in Kind::ALL {
        case[kind.name()] = told(kind, &pairs);
    }
    Ok(case)
}

/// Medians of a kind, and each run.
fn told(kind: Kind, pairs: &[[Run; 2]]) -> Value {
    let at = |run: usize| pairs.iter().map(move |pair| pair[run].outcomes[kind as usize]);
    let figures = |run: usize| {
        let (sent, lost) = at(run).fold((0, 0), |(sent, lost), one| (sent + one.sent, lost + one.lost));
        let of = |figure: fn(&Outcome) -> f64| at(run).map(|one| figure(&one)).collect::<Vec<_>>();
        json!({
            "sent": sent,
            "lost": lost,
            "lost_share": lost as f64 / sent as f64,
            "p50_us": median(of(|one| one.p50_us)),
            "p99_us": median(of(|one| one.p99_us)),
            "each_p99_us": of(|one| one.p99_us),
        })
    };
    let growth = at(0).zip(at(1)).map(|(quiet, flooded)| flooded.p99_us / quiet.p99_us).collect();
    json!({ "quiet": figures(0), "flooded": figures(1), "p99_growth": median(growth) })
}

fn run(
    viewers: &mut Viewers,
    outer: &Outer,
    options: &Options,
    server: SocketAddr,
    flooded: bool,
) -> anyhow::Result<Run> {
    let stop = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let attack = flooded.then(|| {
            let (stop, flood, rate) = (Arc::clone(&stop), options.flood, options.flood_rate);
            scope.spawn(move || outer.within(move || flood.send(server, rate, &stop)))
        });
        thread::sleep(LEAD);
        let (before, begin) = (veth::came_in(), Instant::now());
        let outcomes = viewers.run(options.rate, Duration::from_millis(options.run_ms));
        let (after, time) = (veth::came_in(), begin.elapsed());
        stop.store(true, Ordering::Relaxed);
        if let Some(attack) = attack {
            attack.join().map_err(|_| anyhow!("the flood's thread panicked"))??;
        }
        Ok(Run { outcomes: outcomes?, rate: (after? - before?) as f64 / time.as_secs_f64() })
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
