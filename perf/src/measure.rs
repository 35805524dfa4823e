//! Measuring runs: one epoll loop over all connections, on one thread.
//!
//! Bodies are counted by the kernel and dropped (`MSG_TRUNC`), not copied to a program that would only count them.
//! tokio-uring was measured first and filled its core at about what nginx gives (README.md), so it could not tell
//! which of two faster servers is the better one; it does the runs that read every byte, in [`crate::verify`].
//!
//! The loop spins. A generator that sleeps has to be woken, by the server's core and at the server's cost: the faster the
//! generator, the slower the server would look. It says itself how much of the time it found nothing to do.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde_json::{Value, json};
use shoal_perf::busy::CoreTicks;
use shoal_perf::expected::Expected;
use shoal_perf::flow::{Flow, Order};
use shoal_perf::plan::{DIGITS, Plan};
use shoal_perf::report::{Cores, Tally};
use shoal_perf::response::{Head, MAX_HEAD, Parser};

use crate::Args;
use crate::secure::{Secure, Trust};

/// Bytes asked for while a head is expected: what of the body comes with it is copied in vain.
const HEAD_READ: usize = 1024;

/// Most body bytes dropped at once.
const DROP_BYTES: usize = 4 << 20;

/// Events taken at once.
const EVENTS: usize = 256;

/// Time after the end of a run in which answers to what was due before may still come.
const GRACE: Duration = Duration::from_secs(2);

/// A flow, what it leads to, and whom to trust there.
pub(crate) type Planned = (Flow, Plan, Option<Trust>);

/// Connection to a server.
struct Connection {
    stream: TcpStream,
    secure: Option<Box<Secure>>,
    state: State,
    /// Whose request it carries.
    flow: usize,
    /// When the request under way was sent or, in the open loop, should have been.
    due: Instant,
    target: usize,
    head: Vec<u8>,
    filled: usize,
}

enum State {
    Idle,
    Head,
    Body { head: Head, left: u64 },
    Broken,
}

/// A flow under way.
struct Running {
    flow: Flow,
    targets: Vec<Expected>,
    /// Requests of targets that are numbered, and where in them.
    numbered: Vec<Option<(Vec<u8>, Range<usize>)>>,
    order: Order,
    idle: VecDeque<usize>,
    broken: usize,
    pace: Option<Pace>,
    tally: Tally,
}

/// The schedule of an open loop.
struct Pace {
    interval: Duration,
    next_due: Instant,
}

struct Run {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    flows: Vec<Running>,
    parser: Parser,
    /// Never written: the kernel wants a buffer to know how much to drop.
    dropped: Vec<u8>,
    measure_from: Instant,
    end: Instant,
}

/// Runs the flows beside each other and gives the report: the first one's, with those of the others in it.
pub(crate) fn run(args: &Args, flows: Vec<Planned>) -> anyhow::Result<Value> {
    let mut run = Run::new(args, flows)?;
    let limit = args.requests.unwrap_or(u64::MAX);
    let ticks = |cpu: Option<usize>| cpu.map(CoreTicks::read).transpose();
    let (mut server_at_start, mut server_at_end) = (None, None);
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS];
    let mut now = Instant::now();
    let (mut nothing_to_do, mut longest_turn) = (Duration::ZERO, Duration::ZERO);
    let elapsed = loop {
        if now >= run.measure_from && server_at_start.is_none() {
            server_at_start = Some(ticks(args.server_cpu)?);
        }
        if now >= run.end && server_at_end.is_none() {
            server_at_end = Some(ticks(args.server_cpu)?);
        }
        let enough = run.flows.iter().map(|flow| flow.tally.requests).sum::<u64>() >= limit;
        if enough || run.is_over(now) {
            break now.min(run.end).saturating_duration_since(run.measure_from);
        }
        for flow in 0..run.flows.len() {
            run.ask(flow, now);
        }
        let count = epoll::wait(&run.epoll, &mut events[..], Some(&Timespec::default()))?;
        for event in &events[..count] {
            run.readable(event.data.u64() as usize);
        }
        let before = std::mem::replace(&mut now, Instant::now());
        if server_at_start.is_some() && server_at_end.is_none() {
            longest_turn = longest_turn.max(now - before);
            nothing_to_do += if count == 0 { now - before } else { Duration::ZERO };
        }
    };
    run.give_up(now);
    let server_at_end = server_at_end.map_or_else(|| ticks(args.server_cpu), Ok)?;
    let server = server_at_start.flatten().zip(server_at_end).map(|(start, end)| start.busy_until(end));
    let idle = nothing_to_do.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
    let cores = Cores { generator: Some(1.0 - idle.min(1.0)), server, longest_turn: Some(longest_turn) };
    Ok(run.report(elapsed, cores))
}

impl Run {
    fn new(args: &Args, flows: Vec<Planned>) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (mut connections, mut running) = (Vec::new(), Vec::new());
        for (flow, plan, trust) in flows {
            let first = connections.len();
            for _ in 0..flow.connections {
                let stream =
                    TcpStream::connect(plan.server).with_context(|| format!("cannot connect to {}", plan.server))?;
                stream.set_nodelay(true)?;
                let secure = trust.as_ref().map(|trust| Secure::new(trust, &stream).map(Box::new)).transpose()?;
                stream.set_nonblocking(true)?;
                let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
                epoll::add(&epoll, &stream, epoll::EventData::new_u64(connections.len() as u64), flags)?;
                connections.push(Connection {
                    stream,
                    secure,
                    state: State::Idle,
                    flow: running.len(),
                    due: Instant::now(),
                    target: 0,
                    head: vec![0; HEAD_READ],
                    filled: 0,
                });
            }
            running.push(Running::new(flow, plan, (first..connections.len()).collect())?);
        }
        let begin = Instant::now();
        for pace in running.iter_mut().filter_map(|flow| flow.pace.as_mut()) {
            pace.next_due = begin;
        }
        let measure_from = begin + args.warmup();
        Ok(Self {
            epoll,
            connections,
            flows: running,
            parser: Parser::default(),
            dropped: vec![0; DROP_BYTES],
            measure_from,
            end: measure_from + args.duration(),
        })
    }

    /// At the end an open loop waits for what it still owes: requests that were due before, and their answers.
    fn is_over(&self, now: Instant) -> bool {
        if self.flows.iter().all(|flow| flow.broken == flow.flow.connections) {
            return true;
        }
        let owes = |flow: &Running| {
            let waits = flow.idle.len() + flow.broken < flow.flow.connections;
            flow.pace.as_ref().is_some_and(|pace| waits || pace.next_due < self.end)
        };
        now >= self.end && (now >= self.end + GRACE || !self.flows.iter().any(owes))
    }

    /// Sends what a flow may send by now.
    fn ask(&mut self, flow: usize, now: Instant) {
        loop {
            let running = &mut self.flows[flow];
            let due = running.pace.as_ref().map_or(now, |pace| pace.next_due);
            if due > now || due >= self.end {
                break;
            }
            let Some(index) = running.idle.pop_front() else { break };
            if let Some(pace) = &mut running.pace {
                pace.next_due += pace.interval;
            }
            self.start(index, due);
        }
    }

    /// Sends the next request on an idle connection.
    fn start(&mut self, index: usize, due: Instant) {
        let connection = &mut self.connections[index];
        let flow = &mut self.flows[connection.flow];
        let (target, request) = flow.next();
        connection.target = target;
        connection.due = due;
        connection.filled = 0;
        connection.state = State::Head;
        let sent = match &mut connection.secure {
            Some(secure) => secure.send(&connection.stream, request).map_err(|error| format!("{error:#}")),
            None => match send(&connection.stream, request, SendFlags::NOSIGNAL) {
                Ok(sent) if sent == request.len() => Ok(()),
                Ok(sent) => Err(format!("only {sent} bytes of the request could be sent")),
                Err(error) => Err(format!("cannot send the request: {error}")),
            },
        };
        if let Err(why) = sent {
            self.broke(index, why);
        }
    }

    /// Reads what came, up to the end of a response; then the connection is idle.
    fn readable(&mut self, index: usize) {
        match self.connections[index].advance(&mut self.parser, &mut self.dropped) {
            Ok(None) => {}
            Ok(Some(head)) => self.finished(index, head),
            Err(error) => self.broke(index, format!("{error:#}")),
        }
    }

    fn finished(&mut self, index: usize, head: Head) {
        let connection = &mut self.connections[index];
        let flow = &mut self.flows[connection.flow];
        connection.state = State::Idle;
        let now = Instant::now();
        // An open loop measures the requests that were due in its time, a closed one those that were done in it.
        let counts = if flow.pace.is_some() { connection.due } else { now };
        match flow.targets[connection.target].check(&head, None) {
            // In the open loop the clock runs from when the request was due: a stall costs all that it held up.
            Ok(()) if (self.measure_from..=self.end).contains(&counts) => {
                flow.tally.response(head.body_len, now.saturating_duration_since(connection.due));
            }
            Ok(()) => {}
            Err(wrong) => flow.tally.error(|| wrong),
        }
        flow.idle.push_back(index);
    }

    fn broke(&mut self, index: usize, why: String) {
        let connection = &mut self.connections[index];
        let flow = &mut self.flows[connection.flow];
        if !matches!(connection.state, State::Broken) {
            connection.state = State::Broken;
            flow.broken += 1;
            flow.idle.retain(|&idle| idle != index);
        }
        let path = &flow.targets[connection.target].path;
        flow.tally.error(|| format!("{path}: {why}"));
    }

    /// What an open loop is still owed counts as late as it is by now.
    fn give_up(&mut self, now: Instant) {
        let window = self.measure_from..self.end;
        for connection in &self.connections {
            let flow = &mut self.flows[connection.flow];
            let waits = matches!(connection.state, State::Head | State::Body { .. });
            if flow.pace.is_some() && waits && window.contains(&connection.due) {
                flow.tally.unanswered(now.saturating_duration_since(connection.due));
            }
        }
        for Running { pace, tally, .. } in &mut self.flows {
            let Some(pace) = pace else { continue };
            while pace.next_due < window.end.min(now) {
                if window.contains(&pace.next_due) {
                    tally.unanswered(now.saturating_duration_since(pace.next_due));
                }
                pace.next_due += pace.interval;
            }
        }
    }

    fn report(&self, elapsed: Duration, cores: Cores) -> Value {
        let mut reports = self.flows.iter().map(|Running { flow, tally, .. }| {
            let mut report = tally.report(elapsed, flow.connections, flow.rate, cores);
            report["name"] = json!(flow.name);
            report
        });
        let mut first = reports.next().unwrap_or_default();
        first["beside"] = reports.collect();
        first
    }
}

impl Running {
    fn new(flow: Flow, plan: Plan, idle: VecDeque<usize>) -> anyhow::Result<Self> {
        let numbered = plan.targets.iter().map(|target| target.digits.clone().map(|at| (target.request.clone(), at)));
        Ok(Self {
            numbered: numbered.collect(),
            targets: plan.targets.into_iter().map(|target| Expected::new(target, flow.status, flow.bytes)).collect(),
            order: if flow.random { Order::Random(0) } else { Order::Turn(0) },
            idle,
            broken: 0,
            pace: flow
                .rate
                .map(|rate| Pace { interval: Duration::from_secs_f64(1.0 / rate), next_due: Instant::now() }),
            tally: Tally::new()?,
            flow,
        })
    }

    /// The target to ask for next, and the request.
    fn next(&mut self) -> (usize, &[u8]) {
        let numbers = u64::from(self.flow.numbers);
        let next = self.order.next(numbers * self.targets.len() as u64);
        let (target, mut number) = ((next / numbers) as usize, next % numbers);
        match &mut self.numbered[target] {
            None => (target, self.targets[target].request),
            Some((request, at)) => {
                debug_assert_eq!(at.len(), DIGITS);
                for digit in request[at.clone()].iter_mut().rev() {
                    *digit = b'0' + (number % 10) as u8;
                    number /= 10;
                }
                (target, request)
            }
        }
    }
}

impl Connection {
    /// [`Connection::advance`] by TLS, where all must be decrypted.
    fn advance_secure(&mut self, secure: &mut Secure, parser: &mut Parser) -> anyhow::Result<Option<Head>> {
        if matches!(self.state, State::Broken) {
            return Ok(None);
        }
        let Self { stream, state, head, filled, .. } = self;
        loop {
            let more = secure.receive(stream, |plain| {
                let (of_head, body) = match state {
                    State::Body { head, left } => (*head, left.checked_sub(plain.len() as u64)),
                    State::Head => {
                        // A head comes in one record, but for servers that cut it up.
                        let mut came = plain;
                        if *filled > 0 {
                            head.truncate(*filled);
                            head.extend_from_slice(plain);
                            came = head;
                        }
                        let Some(parsed) = parser.parse(came)? else {
                            head.truncate(*filled);
                            head.extend_from_slice(plain);
                            *filled = head.len();
                            return Ok(());
                        };
                        (parsed, parsed.body_len.checked_sub((came.len() - parsed.head_len) as u64))
                    }
                    State::Idle | State::Broken => anyhow::bail!("the server sent bytes that nobody asked for"),
                };
                let left = body.context("more bytes than Content-Length came")?;
                *state = State::Body { head: of_head, left };
                Ok(())
            })?;
            match state {
                State::Body { head, left: 0 } => return Ok(Some(*head)),
                _ if !more => return Ok(None),
                _ => {}
            }
        }
    }

    /// Reads until the response ends (`Some`) or nothing more is there (`None`).
    fn advance(&mut self, parser: &mut Parser, dropped: &mut [u8]) -> anyhow::Result<Option<Head>> {
        if let Some(mut secure) = self.secure.take() {
            let advanced = self.advance_secure(&mut secure, parser);
            self.secure = Some(secure);
            return advanced;
        }
        loop {
            match &mut self.state {
                State::Idle => match recv(&self.stream, &mut self.head[..1], RecvFlags::empty()) {
                    Err(Errno::AGAIN) => return Ok(None),
                    _ => anyhow::bail!("the server closed the connection, or sent bytes that nobody asked for"),
                },
                State::Broken => return Ok(None),
                State::Head => {
                    if self.filled == self.head.len() {
                        anyhow::ensure!(self.filled < MAX_HEAD, "no end of the head within {MAX_HEAD} bytes");
                        self.head.resize(MAX_HEAD, 0);
                    }
                    let read = match recv(&self.stream, &mut self.head[self.filled..], RecvFlags::empty()) {
                        Err(Errno::AGAIN) => return Ok(None),
                        read => read?.1,
                    };
                    anyhow::ensure!(read > 0, "the server closed the connection before its answer");
                    self.filled += read;
                    if let Some(head) = parser.parse(&self.head[..self.filled])? {
                        let body = (self.filled - head.head_len) as u64;
                        let left = head.body_len.checked_sub(body).context("more bytes than Content-Length came")?;
                        self.state = State::Body { head, left };
                    }
                }
                State::Body { head, left: 0 } => return Ok(Some(*head)),
                State::Body { left, .. } => {
                    let ask = dropped.len().min(*left as usize);
                    let read = match recv(&self.stream, &mut dropped[..ask], RecvFlags::TRUNC) {
                        Err(Errno::AGAIN) => return Ok(None),
                        read => read?.1,
                    };
                    anyhow::ensure!(read > 0, "the server closed the connection {left} bytes before the body's end");
                    *left -= read as u64;
                    if read < ask {
                        // Nothing is left; what comes next is a new event (epoll(7), question 9).
                        return Ok(None);
                    }
                }
            }
        }
    }
}
