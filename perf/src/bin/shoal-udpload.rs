//! `shoal-udpload`: loads one STUN and TURN server from one core, and checks everything that comes out of it.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};
use shoal_perf::report::SERVER_FREE;
use shoal_perf::udp::bindings::Bindings;
use shoal_perf::udp::ends::{CLIENTS_MAX, Sending};
use shoal_perf::udp::engine::{Engine, Load, Pace, Pattern};
use shoal_perf::udp::field::{Direction, Field, Server, Shape};
use shoal_perf::udp::lanes::Lanes;
use shoal_perf::udp::search::search;
use shoal_perf::udp::server::Watched;
use shoal_perf::udp::stamp::{PAYLOAD_MAX, STAMP};
use shoal_stun::credentials::time_limited_password;

/// Seconds of a run at most: permissions last for five minutes, and are not renewed.
const SECONDS_MAX: f64 = 20.0;

/// Allocations made before those whose memory is measured: what a server sets up once is not theirs.
const FIRST: usize = 64;

/// How long a time-limited name is good for: longer than any run.
const NAME_LASTS: Duration = Duration::from_secs(3600);

/// Load generator for STUN and TURN over UDP, one core. Prints JSON.
#[derive(Parser, Debug)]
#[command(name = "shoal-udpload", version)]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// The server's STUN and TURN port.
    #[arg(long, global = true, default_value = "127.0.0.1:3478")]
    server: SocketAddr,
    /// A user it knows.
    #[arg(long, global = true, default_value = "user")]
    user: String,
    /// And the password.
    #[arg(long, global = true, default_value = "password")]
    password: String,
    /// Instead of the password, what the server makes those of time-limited names with (`EXPIRY:USER`, coturn's REST API).
    #[arg(long, global = true)]
    secret: Option<String>,
    /// The server's process, to tell its time and memory.
    #[arg(long, global = true)]
    server_pid: Option<u32>,
    /// Core of the server, to tell whether it or this program was the bottleneck.
    #[arg(long, global = true)]
    server_cpu: Option<usize>,
    /// Whether the server keeps its core busy looking for work: then it is full only if this program is not.
    #[arg(long, global = true)]
    server_spins: bool,
    /// Core to run on.
    #[arg(long, global = true)]
    cpu: Option<usize>,
    /// Send from the clients' sockets also where frames could be sent for all of them.
    #[arg(long, global = true)]
    sockets: bool,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Payloads through allocations.
    Relay(Relay),
    /// Binding requests.
    Binding(Binding),
    /// Allocations made, given a channel, and ended.
    Allocate(Allocate),
}

#[derive(Args, Debug)]
struct Relay {
    /// Allocations, each of a client of its own.
    #[arg(short = 'n', long, default_value_t = 1)]
    allocations: usize,
    /// Who is at the other end.
    #[arg(long, default_value = "peer")]
    to: To,
    /// Which way payloads go.
    #[arg(long, default_value = "up")]
    direction: Way,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 160)]
    payload: usize,
    /// Datagrams of a message: 1, or up to 64 by UDP_SEGMENT.
    #[arg(long, default_value_t = 1)]
    train: usize,
    /// Find the highest rate at which nothing is lost, beginning from the peak within the window.
    #[arg(long, conflicts_with = "rate")]
    search: bool,
    #[command(flatten)]
    pace: Paced,
}

#[derive(Args, Debug)]
struct Binding {
    /// Clients.
    #[arg(short = 'n', long, default_value_t = 64)]
    clients: usize,
    #[command(flatten)]
    pace: Paced,
}

#[derive(Args, Debug)]
struct Allocate {
    /// How many; two and two are each other's peers.
    #[arg(short = 'n', long, default_value_t = 2000)]
    allocations: usize,
}

#[derive(Args, Debug, Clone, Copy)]
struct Paced {
    /// Messages of a client before the next one's turn.
    #[arg(long, default_value_t = 1)]
    burst: usize,
    /// Datagrams under way, all together.
    #[arg(long, default_value_t = 192)]
    window: u64,
    /// Datagrams per second on schedule instead, whether or not they come.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds to measure.
    #[arg(short, long, default_value_t = 2.0)]
    duration: f64,
    /// Seconds to run before measuring.
    #[arg(long, default_value_t = 0.3)]
    warmup: f64,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum To {
    /// A peer without a relay, the same for all.
    Peer,
    /// Another allocation: each payload is relayed twice.
    Pairs,
    /// The same peer without any server: what this program can do.
    Direct,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Way {
    /// From clients to the peer.
    Up,
    /// From the peer to clients.
    Down,
    /// Both.
    Both,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(cpu) = cli.cpu {
        let mut set = CpuSet::new();
        anyhow::ensure!(cpu < CpuSet::MAX_CPU, "--cpu {cpu}: there is no such core");
        set.set(cpu);
        sched_setaffinity(None, &set).with_context(|| format!("--cpu {cpu}: cannot run there"))?;
    }
    more_descriptors();
    let report = match &cli.what {
        What::Relay(relay) => cli.relay(relay)?,
        What::Binding(binding) => cli.binding(binding)?,
        What::Allocate(allocate) => cli.allocate(allocate)?,
    };
    println!("{report:#}");
    let right = |report: &Value| report["wrong"].as_u64().unwrap_or_default() == 0;
    Ok(if right(&report) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As many as we may have; too few show when a socket cannot be opened.
fn more_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

impl Cli {
    fn server(&self) -> anyhow::Result<Server> {
        let (mut username, mut password) = (self.user.clone(), self.password.clone());
        if let Some(secret) = &self.secret {
            let expiry = SystemTime::now().duration_since(UNIX_EPOCH)? + NAME_LASTS;
            username = format!("{}:{username}", expiry.as_secs());
            password = String::from_utf8(time_limited_password(secret.as_bytes(), &username).to_vec())?;
        }
        Ok(Server { address: self.server, username, password })
    }

    /// For messages of so many datagrams.
    fn sending(&self, train: usize) -> Sending {
        if self.sockets || train > 1 { Sending::Sockets } else { Sending::Frames }
    }

    fn watched(&self) -> Watched {
        Watched { pid: self.server_pid, cpu: self.server_cpu, spins: self.server_spins }
    }

    fn relay(&self, relay: &Relay) -> anyhow::Result<Value> {
        let Relay { allocations, payload, train, .. } = *relay;
        let fine = (STAMP..=PAYLOAD_MAX).contains(&payload);
        anyhow::ensure!(fine, "--payload {payload}: between {STAMP} and {PAYLOAD_MAX} bytes are possible");
        let (shape, direction) = (relay.to.shape(), relay.direction.direction());
        let paired = shape != Shape::Pairs || allocations.is_multiple_of(2);
        anyhow::ensure!(paired, "--allocations {allocations}: pairs need an even number");
        let pattern = relay.pace.pattern(train)?;
        let mut field = Field::new(self.server()?, allocations, self.sending(train))?;
        if shape != Shape::Direct {
            field.allocate(0..allocations).context("allocate")?;
            field.bind(0..allocations, shape).context("bind channels")?;
        }
        let lanes = Lanes::new(field.lanes(shape, direction)?, payload, key());
        let measured = self.measure(&mut field, &lanes, pattern, payload, relay.search);
        if shape != Shape::Direct {
            // Else the next run would find the server's tables full of these.
            field.release(0..allocations).context("end the allocations")?;
        }
        let mut report = measured?;
        report["allocations"] = json!(allocations);
        report["payload"] = json!(payload);
        report["train"] = json!(pattern.fitted(payload + 4).train);
        Ok(report)
    }

    fn measure(
        &self,
        field: &mut Field,
        load: &impl Load,
        pattern: Pattern,
        payload: usize,
        to_search: bool,
    ) -> io::Result<Value> {
        let frames = field.ends().sending() == Sending::Frames;
        let mut engine = Engine::new(field.ends());
        let outcome = engine.run(load, pattern, self.watched())?;
        let mut report = outcome.to_json(payload);
        if to_search {
            report["search"] = search(&mut engine, load, pattern, outcome.per_s(), self.watched())?.to_json();
        }
        report["sent_by"] = json!(if frames { "frames" } else { "sockets" });
        Ok(report)
    }

    fn binding(&self, binding: &Binding) -> anyhow::Result<Value> {
        let mut field = Field::new(self.server()?, binding.clients, self.sending(1))?;
        let load = Bindings::new(self.server, field.ends().clients().to_vec());
        let mut report = self.measure(&mut field, &load, binding.pace.pattern(1)?, 0, false)?;
        report["clients"] = json!(binding.clients);
        Ok(report)
    }

    fn allocate(&self, allocate: &Allocate) -> anyhow::Result<Value> {
        let n = allocate.allocations;
        anyhow::ensure!((1..=CLIENTS_MAX - FIRST).contains(&n), "--allocations {n}: too many, or none");
        anyhow::ensure!(n.is_multiple_of(2), "--allocations {n}: each is another's peer, so an even number is needed");
        let mut field = Field::new(self.server()?, FIRST + n, self.sending(1))?;
        let watched = self.watched();
        field.allocate(0..FIRST)?;
        field.bind(0..FIRST, Shape::Pairs)?;
        let (resident, before) = (watched.resident()?, watched.look()?);
        let allocating = field.allocate(FIRST..FIRST + n)?;
        let used = before.until(watched.look()?);
        let binding = field.bind(FIRST..FIRST + n, Shape::Pairs)?;
        let later = watched.resident()?;
        field.release(0..FIRST + n)?;
        let grown = resident.zip(later).map(|(before, after)| after.saturating_sub(before) as f64);
        let waited = used.busy.filter(|busy| *busy < SERVER_FREE);
        let invalid = waited.map(|busy| format!("{:.0} % of the server's core were busy", busy * 100.0));
        Ok(json!({
            "allocations": n,
            "allocations_per_s": n as f64 / allocating.as_secs_f64().max(1e-9),
            "bindings_per_s": n as f64 / binding.as_secs_f64().max(1e-9),
            "server_cpu_us_per_allocation": used.cpu_ns.map(|ns| ns as f64 / 1e3 / n as f64),
            "server_busy": used.busy,
            "bytes_per_allocation": grown.map(|grown| grown / n as f64),
            "valid": invalid.is_none(),
            // It was more than so many; nothing else is wrong with it.
            "at_least": invalid.is_some(),
            "invalid_because": invalid,
        }))
    }
}

impl Paced {
    fn pattern(self, train: usize) -> anyhow::Result<Pattern> {
        let Self { burst, window, rate, duration, warmup } = self;
        let fine = |seconds: f64| seconds.is_finite() && (0.0..=SECONDS_MAX).contains(&seconds);
        anyhow::ensure!(fine(duration) && duration > 0.0, "--duration {duration}: at most {SECONDS_MAX} s");
        anyhow::ensure!(fine(warmup), "--warmup {warmup}: at most {SECONDS_MAX} s");
        anyhow::ensure!(rate.is_none_or(|rate| rate.is_finite() && rate > 0.0), "--rate: must be a positive number");
        anyhow::ensure!(train > 0 && burst > 0 && window > 0, "--train, --burst and --window: at least 1");
        Ok(Pattern {
            train,
            burst,
            pace: rate.map_or(Pace::Window(window), Pace::Rate),
            warmup: Duration::from_secs_f64(warmup),
            duration: Duration::from_secs_f64(duration),
        })
    }
}

impl To {
    fn shape(self) -> Shape {
        match self {
            Self::Peer => Shape::Peer,
            Self::Pairs => Shape::Pairs,
            Self::Direct => Shape::Direct,
        }
    }
}

impl Way {
    fn direction(self) -> Direction {
        match self {
            Self::Up => Direction::Up,
            Self::Down => Direction::Down,
            Self::Both => Direction::Both,
        }
    }
}

/// Another one for each process.
fn key() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ u64::from(std::process::id()) << 40
}
