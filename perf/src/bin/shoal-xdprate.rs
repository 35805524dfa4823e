//! Packets per second through the XDP program on veth, beside what the driver alone can do and what coturn does.
//!
//! A sender that needs no network card (BPF_PROG_RUN's live frames) is at one end of a veth, the node at the other, each in a network
//! namespace that goes away with this process. What the node sends back is counted at the sender's end. Sender and program run on one
//! CPU, the one that this is started on; coturn runs on another. Prints one JSON object.

#![forbid(unsafe_code)]

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, ensure};
use clap::Parser;
use rustix::thread::sched_getcpu;
use serde_json::{Value, json};
use shoal_perf::frame::Frame;
use shoal_perf::namespace;
use shoal_perf::udp::allocation;
use shoal_perf::udp::dance::Client;
use shoal_perf::veth::{self, NODE, NODE_END, OUTER_END, Outer};
use shoal_probes::bench::{Bare, Bench};
use shoal_probes::maps::Verdict;
use shoal_probes::{Channel, Limits, Owner, Probes, index};

/// Measures packets per second.
#[derive(Parser)]
struct Options {
    /// Runs of each case.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Milliseconds of a run.
    #[arg(long, default_value_t = 1_000)]
    run_ms: u64,
    /// Only this case, for a profile.
    #[arg(long)]
    only: Option<String>,
    /// coturn's turnserver; without it there are no figures of it.
    #[arg(long)]
    turnserver: Option<PathBuf>,
    /// The CPU that coturn runs on.
    #[arg(long, default_value_t = 1)]
    peer_cpu: usize,
}

const CLIENT: &str = "192.0.2.4:40000";
const PEER: &str = "192.0.2.5:9000";
const STRANGER: &str = "203.0.113.9:40000";
const RELAY: &str = "192.0.2.1:50000";
const CHANNEL: u16 = 0x4000;
const SECRET: &str = "sixteen-or-more";

/// Frames of a call: so the time is looked at often enough.
const BURST: u32 = 64 * 1024;

/// A Binding request without attributes.
const REQUEST: [u8; 20] = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    ensure!(options.runs > 0 && options.run_ms > 0, "--runs, --run-ms: at least 1");
    let cpu = sched_getcpu();
    namespace::enter("node")?;
    namespace::pin(cpu)?;
    let outer = Outer::start(cpu)?;
    veth::lay(&outer, &["192.0.2.4", "192.0.2.5"])?;
    let wanted = |case: &&Case| options.only.as_deref().is_none_or(|only| only == case.name);
    let mut rates: Vec<(&Case, Vec<f64>)> =
        CASES.iter().filter(wanted).map(|case| (case, Vec::with_capacity(options.runs))).collect();
    // In turns: a machine that becomes slower does so for all of them.
    for _ in 0..options.runs {
        for (case, rates) in &mut rates {
            rates.push(measure(case, &outer, &options).with_context(|| format!("case {}", case.name))?);
        }
    }
    let rates = rates.into_iter().map(|(case, rates)| json!({ "case": case.name, "rate": median(rates) }));
    let mut cases: Vec<_> = rates.collect();
    if let Some(turnserver) = &options.turnserver {
        for case in OF_COTURN.iter().filter(wanted) {
            let measured = coturn(case, &outer, turnserver, &options);
            cases.push(measured.with_context(|| format!("case {}", case.name))?);
        }
    }
    println!("{}", json!({ "cases": cases }));
    Ok(())
}

/// What is sent, and what should become of it.
struct Case {
    name: &'static str,
    source: &'static str,
    destination: &'static str,
    payload: Payload,
    does: Does,
}

#[derive(Clone, Copy)]
enum Payload {
    Request,
    /// ChannelData with so many bytes.
    Channel(usize),
    /// No STUN.
    Noise,
}

/// What the node runs.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Bare(Bare),
    /// The program, which comes to this verdict.
    Judges(Verdict),
}

const fn case(
    name: &'static str,
    source: &'static str,
    destination: &'static str,
    payload: Payload,
    does: Does,
) -> Case {
    Case { name, source, destination, payload, does }
}

const CASES: &[Case] = &[
    case("bare-drop", STRANGER, RELAY, Payload::Noise, Does::Bare(Bare::Drop)),
    case("drop", STRANGER, RELAY, Payload::Noise, Does::Judges(Verdict::Blocked)),
    case("drop-shape", CLIENT, NODE, Payload::Noise, Does::Judges(Verdict::Shape)),
    case("bare-tx", CLIENT, NODE, Payload::Request, Does::Bare(Bare::Tx)),
    case("answer", CLIENT, NODE, Payload::Request, Does::Judges(Verdict::Answered)),
    case("bare-tx-160", CLIENT, NODE, Payload::Channel(160), Does::Bare(Bare::Tx)),
    case("relay-160", CLIENT, NODE, Payload::Channel(160), Does::Judges(Verdict::Relayed)),
    case("bare-tx-1200", CLIENT, NODE, Payload::Channel(1200), Does::Bare(Bare::Tx)),
    case("relay-1200", CLIENT, NODE, Payload::Channel(1200), Does::Judges(Verdict::Relayed)),
];

/// The same of coturn, which does what it does.
const OF_COTURN: &[Case] = &[
    case("coturn-answer", CLIENT, NODE, Payload::Request, Does::Judges(Verdict::Answered)),
    case("coturn-160", CLIENT, NODE, Payload::Channel(160), Does::Judges(Verdict::Relayed)),
    case("coturn-1200", CLIENT, NODE, Payload::Channel(1200), Does::Judges(Verdict::Relayed)),
];

/// Frames per second that coturn is offered, to find what it does best with; more than it can take make it slower.
const OFFERED: [u32; 6] = [20_000, 40_000, 80_000, 120_000, 160_000, 240_000];

impl Case {
    fn frame(&self) -> anyhow::Result<Vec<u8>> {
        let payload = match self.payload {
            Payload::Request => REQUEST.to_vec(),
            Payload::Channel(length) => {
                let head = [CHANNEL.to_be_bytes(), (length as u16).to_be_bytes()].concat();
                [head, vec![7; length]].concat()
            }
            Payload::Noise => vec![0x80; 172],
        };
        Ok(Frame::new(self.source.parse()?, self.destination.parse()?, &payload).bytes())
    }
}

/// The programs of the node, told what there is.
fn node() -> anyhow::Result<Probes> {
    let mut probes = Probes::load(1)?;
    let server: SocketAddr = NODE.parse()?;
    probes.add_endpoint(server, true, None)?;
    probes.add_address(server.ip())?;
    probes.add_relay_ports(50_000..=50_099)?;
    probes.block("203.0.113.0/24".parse()?)?;
    // No packet is over them, and each is looked at.
    probes.set_limits(&Limits {
        source: u32::MAX,
        network: u32::MAX,
        new_source: u32::MAX,
        attack: u32::MAX,
        bindings: u32::MAX,
        ..Limits::default()
    })?;
    let mut relay = probes.relays(1)?.pop().context("one hand was asked for")?;
    let channel =
        Channel { number: CHANNEL, client: CLIENT.parse()?, server, relayed: RELAY.parse()?, peer: PEER.parse()? };
    relay.own(0, 1, Owner { tenant: "bench", user: "" })?;
    relay.bind(&channel, 0, 1, u64::MAX)?;
    Ok(probes)
}

/// Packets per second of one run.
fn measure(case: &Case, outer: &Outer, options: &Options) -> anyhow::Result<f64> {
    // The sender's end counts what comes back; the node's is what is measured.
    let (mut bare, mut probes) = (None, None);
    match case.does {
        Does::Bare(does) => {
            let mut bench = Bench::load()?;
            bench.attach(does, NODE_END)?;
            bare = Some(bench);
        }
        Does::Judges(_) => {
            let mut node = node()?;
            node.attach(NODE_END)?;
            probes = Some(node);
        }
    }
    let (sent, back, seconds) = send(outer, case.frame()?, options.run_ms, None)?;
    let done = match (&bare, &probes, case.does) {
        (Some(bench), _, Does::Bare(Bare::Drop)) => bench.measured()?,
        (_, Some(probes), Does::Judges(verdict)) => {
            let verdicts = probes.verdicts()?;
            let (counted, all) = (verdicts[verdict as usize], verdicts.iter().sum::<u64>());
            ensure!(counted * 100 >= all * 99, "only {counted} of {all} were {}", verdict.name());
            if verdict.is_drop() { counted } else { back }
        }
        _ => back,
    };
    ensure!(done * 100 >= sent * 90, "of {sent} frames only {done} were seen at the end: they get lost on the veth");
    Ok(done as f64 / seconds)
}

/// Sends for so long, as fast as it goes or so many in a second. Gives how many were sent, how many came back, and in what time.
fn send(outer: &Outer, frame: Vec<u8>, run_ms: u64, per_second: Option<u32>) -> anyhow::Result<(u64, u64, f64)> {
    outer.within(move || {
        let mut bench = Bench::load()?;
        bench.attach(Bare::Drop, OUTER_END)?;
        bench.feed(&frame, false)?;
        // So few frames at once as a peer is offered are refused then (ENOSPC).
        if per_second.is_none() {
            bench.stand_by("lo")?;
        }
        let interface = index(OUTER_END)?;
        let (mut sent, before, begin) = (0, bench.measured()?, Instant::now());
        while begin.elapsed() < Duration::from_millis(run_ms) {
            let count = match per_second {
                None => BURST,
                Some(rate) => {
                    let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                    due.saturating_sub(sent).min(BURST.into()) as u32
                }
            };
            if count == 0 {
                thread::sleep(Duration::from_micros(200));
                continue;
            }
            bench.send(interface, &frame, count)?;
            sent += u64::from(count);
        }
        let seconds = begin.elapsed().as_secs_f64();
        // What is in a queue still.
        thread::sleep(Duration::from_millis(20));
        Ok((sent, bench.measured()? - before, seconds))
    })
}

/// coturn, ended when dropped.
struct Turnserver(Child);

impl Drop for Turnserver {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn coturn(case: &Case, outer: &Outer, program: &std::path::Path, options: &Options) -> anyhow::Result<Value> {
    let dir = std::env::temp_dir().join(format!("shoal-xdprate-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let server: SocketAddr = NODE.parse()?;
    let ip = server.ip().to_string();
    let mut command = Command::new("taskset");
    command.args(["-c", &options.peer_cpu.to_string()]).arg(program);
    // As an operator would tune it: one relay thread for the one core, no log.
    command.args(["-n", "-m", "1", "-L", &ip, "-E", &ip, "-p", &server.port().to_string()]);
    command.args(["-a", "-u", &format!("bench:{SECRET}"), "-r", "bench", "--no-tls", "--no-dtls", "--no-tcp"]);
    command.args(["--no-tcp-relay", "--no-cli", "--no-stdout-log", "--simple-log", "--log-file", "/dev/null"]);
    command.arg("--pidfile").arg(dir.join("pid")).arg("--userdb").arg(dir.join("db"));
    let _ended_with_us =
        Turnserver(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("coturn cannot be started")?);
    // Without a program a veth takes no such frames as are sent here.
    let mut node = Bench::load()?;
    node.attach(Bare::Pass, NODE_END)?;
    let socket = outer.within(move || allocate(server))?;
    let frame = case.frame()?;
    let mut best = (0.0, 0);
    for offered in OFFERED {
        let mut rates = Vec::new();
        for _ in 0..options.runs {
            let (_, back, seconds) = send(outer, frame.clone(), options.run_ms, Some(offered))?;
            rates.push(back as f64 / seconds);
        }
        let rate = median(rates);
        if rate > best.0 {
            best = (rate, offered);
        }
    }
    drop(socket);
    fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    ensure!(best.0 > 0.0, "nothing came back from coturn");
    Ok(json!({ "case": case.name, "rate": best.0, "offered": best.1 }))
}

/// An allocation with the channel, over a socket that has the client's address.
fn allocate(server: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind(CLIENT.parse::<SocketAddr>()?)?;
    let mut client = Client::new("bench", SECRET, 1);
    allocation::obtain(&socket, server, &mut client, CHANNEL, PEER.parse()?).context("coturn")?;
    Ok(socket)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
