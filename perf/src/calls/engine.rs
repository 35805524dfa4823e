//! The loop: spins, as that of `shoal-load`, so that no server has to wake it.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde_json::{Value, json};

use super::{Came, Script, Setting};
use crate::busy::CoreTicks;
use crate::report::{Cores, Tally};

/// Events taken at once.
const EVENTS: usize = 256;
/// Bytes read at once.
const READ: usize = 64 << 10;
/// Most bytes of an answer.
const MAX_ANSWER: usize = 1 << 20;
/// For how long greetings may take.
const GREETING: Duration = Duration::from_secs(20);

struct Connection {
    stream: TcpStream,
    /// What was read and is not whole yet.
    read: Vec<u8>,
    /// What is to be sent.
    out: Vec<u8>,
    /// When the call under way was made.
    called: Option<Instant>,
    greeted: bool,
    broken: bool,
}

struct Run<'a, S> {
    script: &'a mut S,
    connections: Vec<Connection>,
    tally: Tally,
    /// Bytes that were no answers to calls.
    other: u64,
    /// Where each call has a connection of its own.
    reconnect: Option<(SocketAddr, &'a OwnedFd)>,
    window: Option<(Instant, Instant)>,
    /// Calls that may still be made.
    left: u64,
    ended: bool,
}

/// Runs a script and gives the report, as `shoal-load`'s.
///
/// # Errors
/// A connection could not be made, or nobody greeted.
pub fn run<S: Script>(setting: &Setting, script: &mut S) -> anyhow::Result<Value> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let connections = connect(setting, &epoll)?;
    let reconnect = setting.reconnect.then_some((setting.server, &epoll));
    let left = setting.calls.unwrap_or(u64::MAX);
    let mut run =
        Run { script, connections, tally: Tally::new()?, other: 0, reconnect, window: None, left, ended: false };
    run.greet(&epoll)?;
    let begin = Instant::now() + setting.warmup;
    let end = begin + setting.duration;
    run.window = Some((begin, end));
    for index in 0..run.connections.len() {
        run.call(index);
    }
    let ticks = || setting.server_cpu.map(CoreTicks::read).transpose();
    let mut server_at_start = None;
    let (mut now, mut nothing_to_do, mut longest_turn) = (Instant::now(), Duration::ZERO, Duration::ZERO);
    let mut dropped = vec![0; READ];
    loop {
        if now >= begin && server_at_start.is_none() {
            server_at_start = Some(ticks()?);
        }
        let idle = || run.connections.iter().all(|one| one.broken || one.called.is_none());
        if now >= end || (run.ended && idle()) {
            break;
        }
        let count = run.turn(&epoll, &mut dropped)?;
        let before = std::mem::replace(&mut now, Instant::now());
        if server_at_start.is_some() {
            longest_turn = longest_turn.max(now - before);
            nothing_to_do += if count == 0 { now - before } else { Duration::ZERO };
        }
        if run.connections.iter().all(|connection| connection.broken) {
            break;
        }
    }
    let elapsed = now.min(end).saturating_duration_since(begin);
    let server = server_at_start.flatten().zip(ticks()?).map(|(start, end)| start.busy_until(end));
    let idle = nothing_to_do.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
    let cores = Cores { generator: Some(1.0 - idle.min(1.0)), server, longest_turn: Some(longest_turn) };
    let mut report = run.tally.report(elapsed, setting.connections, None, cores);
    report["other_bytes"] = json!(run.other);
    Ok(report)
}

fn connect(setting: &Setting, epoll: &OwnedFd) -> anyhow::Result<Vec<Connection>> {
    (0..setting.connections)
        .map(|index| {
            let stream = open(setting.server, epoll, index)?;
            let (read, out) = (Vec::new(), Vec::new());
            Ok(Connection { stream, read, out, called: None, greeted: false, broken: false })
        })
        .collect()
}

fn open(server: SocketAddr, epoll: &OwnedFd, index: usize) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(server).with_context(|| format!("cannot connect to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(epoll, &stream, epoll::EventData::new_u64(index as u64), flags)?;
    Ok(stream)
}

impl<S: Script> Run<'_, S> {
    /// Has every connection greeted, where greetings are needed.
    fn greet(&mut self, epoll: &OwnedFd) -> anyhow::Result<()> {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            self.script.greeting(index, &mut connection.out);
            connection.greeted = connection.out.is_empty();
            connection.flush().map_err(anyhow::Error::msg)?;
        }
        let deadline = Instant::now() + GREETING;
        let mut dropped = vec![0; READ];
        while self.connections.iter().any(|connection| !connection.greeted) {
            self.turn(epoll, &mut dropped)?;
            anyhow::ensure!(Instant::now() < deadline, "not every connection was greeted within {GREETING:?}");
            if let Some(error) = &self.tally.first_error {
                anyhow::bail!("{error}");
            }
        }
        Ok(())
    }

    /// Takes the events that are there.
    fn turn(&mut self, epoll: &OwnedFd, buffer: &mut [u8]) -> anyhow::Result<usize> {
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; EVENTS];
        let count = epoll::wait(epoll, &mut events[..], Some(&Timespec::default()))?;
        for event in &events[..count] {
            let index = event.data.u64() as usize;
            if let Err(why) = self.readable(index, buffer) {
                self.connections[index].broken = true;
                self.tally.error(|| why);
            }
        }
        Ok(count)
    }

    fn readable(&mut self, index: usize, buffer: &mut [u8]) -> Result<(), String> {
        loop {
            let connection = &mut self.connections[index];
            if connection.broken {
                return Ok(());
            }
            match recv(&connection.stream, &mut *buffer, RecvFlags::empty()) {
                Err(Errno::AGAIN) => return connection.flush(),
                Err(error) => return Err(format!("cannot read: {error}")),
                Ok((_, 0)) => return Err("the server closed the connection".to_owned()),
                Ok((_, read)) => connection.read.extend_from_slice(&buffer[..read]),
            }
            self.take(index)?;
        }
    }

    /// Looks at what was read; calls again when it was the answer.
    fn take(&mut self, index: usize) -> Result<(), String> {
        let mut at = 0;
        let answered = loop {
            let connection = &mut self.connections[index];
            let rest = connection.read.get(at..).unwrap_or_default();
            if rest.is_empty() {
                break false;
            }
            match self.script.came(index, rest, &mut connection.out)? {
                Came::Part if rest.len() > MAX_ANSWER => {
                    return Err(format!("no whole answer in {} bytes", rest.len()));
                }
                Came::Part => break false,
                Came::Other(bytes) => {
                    at += bytes;
                    connection.greeted = true;
                    self.other += bytes as u64;
                }
                Came::Answer(bytes) => {
                    at += bytes;
                    let called = connection.called.take().ok_or("an answer to nothing")?;
                    let now = Instant::now();
                    if self.window.is_some_and(|(begin, end)| (begin..=end).contains(&now)) {
                        self.tally.response(bytes as u64, now - called);
                    }
                    break true;
                }
            }
        };
        self.connections[index].read.drain(..at);
        if answered {
            if let Some((server, epoll)) = self.reconnect {
                let connection = &mut self.connections[index];
                // Reset, so that no port is kept waiting: there are not enough for many seconds of this.
                set_socket_linger(&connection.stream, Some(Duration::ZERO)).map_err(|error| error.to_string())?;
                connection.stream = open(server, epoll, index).map_err(|error| format!("{error:#}"))?;
            }
            self.call(index);
            // What came behind the answer.
            return self.take(index);
        }
        Ok(())
    }

    fn call(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if self.left == 0 || !self.script.call(index, &mut connection.out) {
            self.ended = true;
            return;
        }
        self.left -= 1;
        connection.called = Some(Instant::now());
        if let Err(why) = connection.flush() {
            connection.broken = true;
            self.tally.error(|| why);
        }
    }
}

impl Connection {
    /// Sends what there is; what the socket has no room for stays, and is tried again when something came.
    fn flush(&mut self) -> Result<(), String> {
        while !self.out.is_empty() {
            match send(&self.stream, &self.out, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(format!("cannot send: {error}")),
            }
        }
        Ok(())
    }
}
