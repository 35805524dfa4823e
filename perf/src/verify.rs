//! Checking runs: every body is read and compared. One task per connection on a tokio-uring runtime.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use shoal_perf::busy::CoreTicks;
use shoal_perf::expected::Expected;
use shoal_perf::plan::Plan;
use shoal_perf::report::{Cores, Tally};
use shoal_perf::response;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

use crate::Args;

/// Most bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// A connection that is not done this long after the end has hung.
const GRACE: Duration = Duration::from_secs(10);

/// What all connections share.
struct Run {
    targets: Vec<Expected>,
    tally: RefCell<Tally>,
    /// Requests started so far: picks the next target.
    started: Cell<usize>,
    measure_from: Instant,
    end: Instant,
    limit: u64,
}

/// Runs `plan` and gives the report.
pub(crate) fn run(args: &Args, plan: Plan) -> anyhow::Result<Value> {
    let entries = args.connections.next_power_of_two().clamp(64, 4096);
    let mut ring = tokio_uring::uring_builder();
    // Without this the kernel interrupts the thread for every completion: a third of the throughput.
    ring.setup_coop_taskrun().setup_single_issuer();
    tokio_uring::builder().uring_builder(&ring).entries(entries as u32).start(measure(args, plan))
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
        targets: plan.targets.into_iter().map(|target| Expected::new(target, args.status, args.bytes)).collect(),
        tally: RefCell::new(Tally::new()?),
        started: Cell::new(0),
        measure_from: begin + args.warmup(),
        end: begin + args.warmup() + args.duration(),
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
    let cores =
        Cores { generator: busy(generator, args.cpu)?, server: busy(server, args.server_cpu)?, longest_turn: None };
    Ok(run.tally.borrow().report(elapsed, args.connections, None, cores))
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
        if Instant::now() >= run.end || run.tally.borrow().requests >= run.limit {
            return Ok(());
        }
        let number = run.started.get();
        run.started.set(number + 1);
        let target = &run.targets[number % run.targets.len()];

        let due = Instant::now();
        let (sent, _) = stream.write_all(target.request).await;
        sent.with_context(|| format!("cannot send the request for {}", target.path))?;
        let (answer, rest) = answer(stream, buffer).await.with_context(|| target.path.clone())?;
        buffer = rest;

        let now = Instant::now();
        let mut tally = run.tally.borrow_mut();
        match target.check(&answer.head, Some(answer.hash)) {
            Err(wrong) => tally.error(|| wrong),
            Ok(()) if now >= run.measure_from && now <= run.end => tally.response(answer.head.body_len, now - due),
            Ok(()) => {}
        }
    }
}

/// What came back.
struct Answer {
    head: response::Head,
    hash: u64,
}

/// Reads one response; gives the buffer back.
async fn answer(stream: &TcpStream, mut buffer: Vec<u8>) -> anyhow::Result<(Answer, Vec<u8>)> {
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
    let mut hash = response::Hash::default();
    hash.add(first);
    while got < head.body_len {
        let (read, filled) = stream.read(buffer).await;
        buffer = filled;
        let read = read?;
        anyhow::ensure!(read > 0, "the server closed the connection at body byte {got} of {}", head.body_len);
        got += read as u64;
        hash.add(&buffer[..read]);
    }
    anyhow::ensure!(got == head.body_len, "{} bytes more than Content-Length came", got - head.body_len);
    Ok((Answer { head, hash: hash.value() }, buffer))
}
