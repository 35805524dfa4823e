//! The connections: one task each on a tokio-uring runtime, all on one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use shoal_perf::busy::CoreTicks;
use shoal_perf::plan::{Plan, Target};
use shoal_perf::report::{Cores, Tally};
use shoal_perf::response;
use tokio::sync::Mutex;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

use crate::Args;

/// A whole response of the small cases comes in one read.
const READ_BYTES: usize = 256 * 1024;

/// A connection that is not done this long after the end has hung.
const GRACE: Duration = Duration::from_secs(10);

/// What all connections share.
struct Run {
    targets: Vec<Expected>,
    tally: RefCell<Tally>,
    /// Requests started so far: picks the next target.
    started: Cell<usize>,
    /// Set in the open loop.
    schedule: Option<Schedule>,
    measure_from: Instant,
    end: Instant,
    status: u16,
    checksum: bool,
    limit: u64,
}

/// When requests are due, whether or not the server keeps up.
struct Schedule {
    /// When the next one is due. Held by the one connection that waits for that moment; the others queue behind it.
    next: Mutex<Instant>,
    interval: Duration,
}

/// A target, and what its answers must look like.
struct Expected {
    request: &'static [u8],
    path: String,
    bytes: Cell<Option<u64>>,
    hash: Cell<Option<u64>>,
}

/// Runs `plan` and gives the report.
pub(crate) fn run(args: &Args, plan: Plan) -> anyhow::Result<Value> {
    let entries = args.connections.next_power_of_two().clamp(64, 4096);
    tokio_uring::builder().entries(entries as u32).start(measure(args, plan))
}

async fn measure(args: &Args, plan: Plan) -> anyhow::Result<Value> {
    let server = plan.server;
    let mut streams = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        let stream = TcpStream::connect(server).await.with_context(|| format!("cannot connect to {server}"))?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let begin = Instant::now();
    let run = Rc::new(Run {
        targets: plan.targets.into_iter().map(|target| Expected::new(target, args.bytes)).collect(),
        tally: RefCell::new(Tally::new()?),
        started: Cell::new(0),
        schedule: args
            .rate
            .map(|rate| Schedule { next: Mutex::new(begin), interval: Duration::from_secs_f64(1.0 / rate) }),
        measure_from: begin + args.warmup(),
        end: begin + args.warmup() + args.duration(),
        status: args.status,
        checksum: args.checksum,
        limit: args.requests.unwrap_or(u64::MAX),
    });
    let tasks: Vec<_> =
        streams.into_iter().map(|stream| tokio_uring::spawn(connection(Rc::clone(&run), stream))).collect();

    tokio::time::sleep_until(run.measure_from.into()).await;
    let ticks = |cpu: Option<usize>| cpu.map(CoreTicks::read).transpose();
    let (generator, server) = (ticks(args.cpu)?, ticks(args.server_cpu)?);
    for task in tasks {
        match tokio::time::timeout_at((run.end + GRACE).into(), task).await {
            Ok(done) => done.context("a connection's task died")?,
            Err(_) => run.tally.borrow_mut().error(|| format!("no answer for {} s", GRACE.as_secs())),
        }
    }
    let elapsed = Instant::now().min(run.end).saturating_duration_since(run.measure_from);
    let busy = |start: Option<CoreTicks>, cpu| anyhow::Ok(start.zip(ticks(cpu)?).map(|(a, b)| a.busy_until(b)));
    let cores = Cores { generator: busy(generator, args.cpu)?, server: busy(server, args.server_cpu)? };
    Ok(run.tally.borrow().report(elapsed, args.connections, args.rate, cores))
}

async fn connection(run: Rc<Run>, stream: TcpStream) {
    if let Err(error) = requests(&run, &stream).await {
        run.tally.borrow_mut().error(|| format!("{error:#}"));
    }
}

/// One request after the other until the run is over.
async fn requests(run: &Run, stream: &TcpStream) -> anyhow::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let due = match &run.schedule {
            Some(schedule) => schedule.wait(run.end).await?,
            None => Instant::now(),
        };
        if Instant::now() >= run.end || run.tally.borrow().requests >= run.limit {
            return Ok(());
        }
        let number = run.started.get();
        run.started.set(number + 1);
        let target = &run.targets[number % run.targets.len()];

        let (sent, _) = stream.write_all(target.request).await;
        sent.with_context(|| format!("cannot send the request for {}", target.path))?;
        let (answer, rest) = answer(run.checksum, stream, buffer).await.with_context(|| target.path.clone())?;
        buffer = rest;

        let now = Instant::now();
        let mut tally = run.tally.borrow_mut();
        match target.check(run.status, &answer) {
            Err(wrong) => tally.error(|| wrong),
            // In the open loop the clock runs from when the request was due: a stall costs all that it held up.
            Ok(()) if now >= run.measure_from && now <= run.end => tally.response(answer.head.body_len, now - due),
            Ok(()) => {}
        }
        anyhow::ensure!(!answer.head.close, "{}: the server closed a keep-alive connection", target.path);
    }
}

/// What came back.
struct Answer {
    head: response::Head,
    hash: Option<u64>,
}

/// Reads one response; gives the buffer back.
async fn answer(checksum: bool, stream: &TcpStream, mut buffer: Vec<u8>) -> anyhow::Result<(Answer, Vec<u8>)> {
    let mut filled = 0;
    let head = loop {
        let (read, slice) = stream.read(buffer.slice(filled..)).await;
        buffer = slice.into_inner();
        let read = read?;
        anyhow::ensure!(read > 0, "the server closed the connection before its answer");
        filled += read;
        if let Some(head) = response::parse(&buffer[..filled])? {
            break head;
        }
    };
    let first = &buffer[head.head_len..filled];
    let mut got = first.len() as u64;
    let mut hash = checksum.then(|| fnv(FNV_OFFSET, first));
    while got < head.body_len {
        let (read, filled) = stream.read(buffer).await;
        buffer = filled;
        let read = read?;
        anyhow::ensure!(read > 0, "the server closed the connection at body byte {got} of {}", head.body_len);
        got += read as u64;
        hash = hash.map(|hash| fnv(hash, &buffer[..read]));
    }
    anyhow::ensure!(got == head.body_len, "{} bytes more than Content-Length came", got - head.body_len);
    Ok((Answer { head, hash }, buffer))
}

impl Expected {
    fn new(target: Target, bytes: Option<u64>) -> Self {
        Self {
            // The kernel reads it during every send; the program ends with the run.
            request: Vec::leak(target.request),
            path: target.path,
            bytes: Cell::new(bytes),
            hash: Cell::new(None),
        }
    }

    /// Compares an answer with what was asked for, or with the first answer.
    fn check(&self, status: u16, answer: &Answer) -> Result<(), String> {
        let path = &self.path;
        if answer.head.status != status {
            return Err(format!("{path}: status {} instead of {status}", answer.head.status));
        }
        let bytes = self.bytes.get().unwrap_or(answer.head.body_len);
        self.bytes.set(Some(bytes));
        if answer.head.body_len != bytes {
            return Err(format!("{path}: {} body bytes instead of {bytes}", answer.head.body_len));
        }
        let hash = self.hash.get().or(answer.hash);
        self.hash.set(hash);
        if answer.hash.is_some() && answer.hash != hash {
            return Err(format!("{path}: the body differs from the first one"));
        }
        Ok(())
    }
}

impl Schedule {
    /// Waits until a request is due, and says when it was. Returns at once after `end`.
    async fn wait(&self, end: Instant) -> anyhow::Result<Instant> {
        let mut next = self.next.lock().await;
        let due = *next;
        *next += self.interval;
        // A timer of the runtime is a millisecond coarse; a trip through the ring is a few microseconds.
        while Instant::now() < due.min(end) {
            tokio_uring::no_op().await?;
        }
        Ok(due)
    }
}

/// FNV-1a's start value.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: cheap, and independent of how the body was cut into reads.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
