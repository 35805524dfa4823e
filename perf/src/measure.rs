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
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde_json::Value;
use shoal_perf::busy::CoreTicks;
use shoal_perf::expected::Expected;
use shoal_perf::plan::Plan;
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

struct Connection {
    stream: TcpStream,
    secure: Option<Box<Secure>>,
    state: State,
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

struct Run {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    targets: Vec<Expected>,
    started: usize,
    broken: usize,
    parser: Parser,
    /// Never written: the kernel wants a buffer to know how much to drop.
    dropped: Vec<u8>,
    tally: Tally,
    measure_from: Instant,
    end: Instant,
}

/// Runs `plan` and gives the report.
pub(crate) fn run(args: &Args, plan: Plan, trust: Option<&Trust>) -> anyhow::Result<Value> {
    let mut run = Run::new(args, plan, trust)?;
    let interval = args.rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
    let limit = args.requests.unwrap_or(u64::MAX);
    let ticks = |cpu: Option<usize>| cpu.map(CoreTicks::read).transpose();
    let mut server_at_start = None;
    let mut next_due = Instant::now();
    let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS];
    let mut now = Instant::now();
    let mut nothing_to_do = Duration::ZERO;
    let elapsed = loop {
        if now >= run.measure_from && server_at_start.is_none() {
            server_at_start = Some(ticks(args.server_cpu)?);
        }
        if now >= run.end || run.tally.requests >= limit || run.broken == run.connections.len() {
            break now.min(run.end).saturating_duration_since(run.measure_from);
        }
        while interval.is_none() || next_due <= now {
            let Some(index) = run.idle.pop_front() else { break };
            run.start(index, if interval.is_some() { next_due } else { now });
            next_due += interval.unwrap_or_default();
        }
        let count = epoll::wait(&run.epoll, &mut events[..], Some(&Timespec::default()))?;
        for event in &events[..count] {
            run.readable(event.data.u64() as usize);
        }
        let before = std::mem::replace(&mut now, Instant::now());
        if count == 0 && server_at_start.is_some() {
            nothing_to_do += now - before;
        }
    };
    let server = server_at_start.flatten().zip(ticks(args.server_cpu)?).map(|(start, end)| start.busy_until(end));
    let idle = nothing_to_do.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
    let cores = Cores { generator: Some(1.0 - idle.min(1.0)), server };
    Ok(run.tally.report(elapsed, args.connections, args.rate, cores))
}

impl Run {
    fn new(args: &Args, plan: Plan, trust: Option<&Trust>) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(args.connections);
        for index in 0..args.connections {
            let stream =
                TcpStream::connect(plan.server).with_context(|| format!("cannot connect to {}", plan.server))?;
            stream.set_nodelay(true)?;
            let secure = trust.map(|trust| Secure::new(trust, &stream).map(Box::new)).transpose()?;
            stream.set_nonblocking(true)?;
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&epoll, &stream, epoll::EventData::new_u64(index as u64), flags)?;
            connections.push(Connection {
                stream,
                secure,
                state: State::Idle,
                due: Instant::now(),
                target: 0,
                head: vec![0; HEAD_READ],
                filled: 0,
            });
        }
        let measure_from = Instant::now() + args.warmup();
        Ok(Self {
            epoll,
            idle: (0..connections.len()).collect(),
            connections,
            targets: plan.targets.into_iter().map(|target| Expected::new(target, args.status, args.bytes)).collect(),
            started: 0,
            broken: 0,
            parser: Parser::default(),
            dropped: vec![0; DROP_BYTES],
            tally: Tally::new()?,
            measure_from,
            end: measure_from + args.duration(),
        })
    }

    /// Sends the next request on an idle connection.
    fn start(&mut self, index: usize, due: Instant) {
        let connection = &mut self.connections[index];
        connection.target = self.started % self.targets.len();
        self.started += 1;
        let target = &self.targets[connection.target];
        connection.due = due;
        connection.filled = 0;
        connection.state = State::Head;
        if let Some(secure) = &mut connection.secure {
            if let Err(error) = secure.send(&connection.stream, target.request) {
                self.broke(index, format!("{error:#}"));
            }
            return;
        }
        match send(&connection.stream, target.request, SendFlags::NOSIGNAL) {
            Ok(sent) if sent == target.request.len() => {}
            Ok(sent) => self.broke(index, format!("only {sent} bytes of the request could be sent")),
            Err(error) => self.broke(index, format!("cannot send the request: {error}")),
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
        connection.state = State::Idle;
        let now = Instant::now();
        match self.targets[connection.target].check(&head, None) {
            // In the open loop the clock runs from when the request was due: a stall costs all that it held up.
            Ok(()) if now >= self.measure_from && now <= self.end => {
                self.tally.response(head.body_len, now.saturating_duration_since(connection.due));
            }
            Ok(()) => {}
            Err(wrong) => self.tally.error(|| wrong),
        }
        self.idle.push_back(index);
    }

    fn broke(&mut self, index: usize, why: String) {
        let connection = &mut self.connections[index];
        if !matches!(connection.state, State::Broken) {
            connection.state = State::Broken;
            self.broken += 1;
        }
        let path = &self.targets[connection.target].path;
        self.tally.error(|| format!("{path}: {why}"));
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
