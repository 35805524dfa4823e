//! Sends datagrams at a rate or within a window, and receives what comes of them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use shoal_sys::frames::FRAMES;
use shoal_sys::udp::{MESSAGE_MAX, ReceiveBatch, SEGMENTS_MAX, SendBatch};

use super::account::{Account, Arrival};
use super::ends::{Ends, Sending};
use super::report::Outcome;
use super::server::Watched;
use super::stamp::Stamp;

/// Messages sent in one turn of the loop.
const MESSAGES_PER_TURN: usize = 64;

// A turn is one batch of frames.
const _: () = assert!(MESSAGES_PER_TURN <= FRAMES);

/// Trains received by one system call.
const TRAINS: usize = 64;

/// Sockets that are looked at in vain before a turn goes on.
const MISSES: usize = 8;

/// In a window, what did not come for so long is lost.
const STALL: Duration = Duration::from_millis(20);

/// In a window, how long the generator leaves the server alone at most, and how much longer each time.
const REST_MAX: Duration = Duration::from_micros(200);
const REST_STEP: Duration = Duration::from_micros(2);

/// Silence after which what was sent is no longer waited for, at the end of a run.
const SILENCE: Duration = Duration::from_millis(100);

/// Time for the last datagrams to come.
const GRACE: Duration = Duration::from_secs(1);

/// What goes where, and how it looks.
pub trait Load {
    /// How many lanes there are, at least one.
    fn lanes(&self) -> usize;

    /// The end it is sent from.
    fn from(&self, lane: usize) -> usize;

    /// To whom.
    fn to(&self, lane: usize) -> SocketAddr;

    /// The end where it, or its answer, is to arrive.
    fn at(&self, lane: usize) -> usize;

    /// Bytes of a datagram as it is sent.
    fn len(&self, lane: usize) -> usize;

    /// Writes one, over as many bytes.
    fn write(&self, stamp: Stamp, out: &mut [u8]);

    /// The stamp of one that came.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read(&self, end: usize, source: SocketAddr, datagram: &[u8]) -> Result<Stamp, String>;
}

/// When to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As soon as no more than so many datagrams are under way.
    Window(u64),
    /// So many datagrams per second, whether or not they come.
    Rate(f64),
}

/// How to send, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    /// Datagrams of one message (UDP_SEGMENT), 1 to [`SEGMENTS_MAX`]: what a sender with GSO does, or one without.
    pub train: usize,
    /// Messages of a lane before the next lane's turn.
    pub burst: usize,
    /// When.
    pub pace: Pace,
    /// Before measuring.
    pub warmup: Duration,
    /// Measured.
    pub duration: Duration,
}

impl Pattern {
    /// With as many datagrams in a message as the kernel takes of `len` bytes each.
    #[must_use]
    pub fn fitted(self, len: usize) -> Self {
        let most = (MESSAGE_MAX / len.max(1)).clamp(1, SEGMENTS_MAX);
        Self { train: self.train.clamp(1, most), ..self }
    }
}

/// Runs one load after the other between the same ends.
pub struct Engine<'a> {
    ends: &'a mut Ends,
    received: ReceiveBatch,
}

/// A run under way.
struct Run<'a, L> {
    load: &'a L,
    ends: &'a mut Ends,
    sending: Sending,
    number: u32,
    pattern: Pattern,
    accounts: Vec<Account>,
    /// In flight of all lanes.
    in_flight: u64,
    inbox: Inbox,
    /// The next lane, and how many messages it has had in its turn.
    turn: (usize, usize),
    /// What is about to be sent from one socket: to whom, where in `bytes`, and the length of a datagram.
    outbox: Vec<(SocketAddr, Range<usize>, usize)>,
    from: usize,
    bytes: Vec<u8>,
    start: Instant,
    /// Whether what comes counts as measured.
    measured: bool,
    outcome: Outcome,
}

/// In a window, the generator's rest between two turns. Looking for each datagram as it comes would keep it busy without need, and
/// the server waiting for the queue's lock; so it comes back when there is half a window, or a full turn, to take.
struct Rest {
    enough: u64,
    time: Duration,
}

/// Sockets at which something is to arrive, those that have waited longest first.
struct Inbox {
    queue: VecDeque<usize>,
    queued: Vec<bool>,
    /// In flight to each.
    waiting: Vec<u64>,
}

impl<'a> Engine<'a> {
    /// Between the ends of a field.
    pub fn new(ends: &'a mut Ends) -> Self {
        Self { ends, received: ReceiveBatch::new(TRAINS) }
    }

    /// One run. Whether its figures say anything of the server is for the outcome to tell.
    ///
    /// # Errors
    /// The kernel's; or trains are to be sent by frames, which have one datagram each.
    pub fn run(&mut self, load: &impl Load, pattern: Pattern, server: Watched) -> io::Result<Outcome> {
        if pattern.train > 1 && self.ends.sending() == Sending::Frames {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "trains are sent by sockets, not by frames"));
        }
        let dropped = self.ends.drops()?;
        let mut run = Run::new(load, self.ends, pattern);
        run.go(&mut self.received, server)?;
        let mut outcome = run.outcome;
        outcome.own_drops = self.ends.drops()? - dropped;
        Ok(outcome)
    }
}

impl<'a, L: Load> Run<'a, L> {
    fn new(load: &'a L, ends: &'a mut Ends, pattern: Pattern) -> Self {
        let longest = (0..load.lanes()).map(|lane| load.len(lane)).max().unwrap_or(1);
        let sockets = ends.sockets().len();
        Self {
            load,
            number: ends.next_run(),
            sending: ends.sending(),
            ends,
            pattern: pattern.fitted(longest),
            accounts: vec![Account::default(); load.lanes()],
            in_flight: 0,
            inbox: Inbox { queue: VecDeque::new(), queued: vec![false; sockets], waiting: vec![0; sockets] },
            turn: (0, 0),
            outbox: Vec::with_capacity(MESSAGES_PER_TURN),
            from: 0,
            bytes: Vec::new(),
            start: Instant::now(),
            measured: false,
            outcome: Outcome::new(pattern.pace),
        }
    }

    fn go(&mut self, received: &mut ReceiveBatch, server: Watched) -> io::Result<()> {
        let measure_from = self.start + self.pattern.warmup;
        let end = measure_from + self.pattern.duration;
        let interval = match self.pattern.pace {
            Pace::Rate(rate) => Some(Duration::from_secs_f64(self.pattern.train as f64 / rate.max(1e-3))),
            Pace::Window(_) => None,
        };
        let mut due = self.start;
        let mut now = self.start;
        let mut progress = now;
        let mut before = None;
        let mut rest = match self.pattern.pace {
            Pace::Window(window) => Rest::new(window, self.pattern.train),
            Pace::Rate(_) => Rest::never(),
        };
        let mut nothing_to_do = Duration::ZERO;
        let mut sent_before = 0;
        while now < end {
            if now >= measure_from && before.is_none() {
                before = Some(server.look()?);
                sent_before = self.outcome.sent;
                self.measured = true;
                now = Instant::now();
                progress = now;
            }
            let sent = match (self.pattern.pace, interval) {
                (Pace::Rate(_), Some(interval)) => self.send_due(&mut due, now, interval)?,
                (Pace::Window(window), _) => self.send_within(window, now)?,
                (Pace::Rate(_), None) => 0,
            };
            let came = self.receive(received)?;
            let mut last = std::mem::replace(&mut now, Instant::now());
            if sent > 0 || came > 0 {
                // It is only the rest in which there was nothing to do.
                last = now;
            }
            let until = now + rest.after(came);
            while now < until {
                std::hint::spin_loop();
                now = Instant::now();
            }
            if came > 0 || self.in_flight == 0 {
                progress = now;
            } else if interval.is_none() && now - progress > STALL {
                self.give_up();
                progress = now;
            }
            if self.measured {
                nothing_to_do += now - last;
            }
        }
        self.measured = false;
        // A warm-up that took longer than the run leaves nothing measured.
        let measured = now.saturating_duration_since(measure_from);
        self.outcome.seconds = measured.as_secs_f64();
        self.outcome.sent_measured = self.outcome.sent - sent_before;
        if let Some(before) = before {
            self.outcome.used = before.until(server.look()?);
        }
        self.outcome.generator_busy = 1.0 - (nothing_to_do.as_secs_f64() / self.outcome.seconds.max(1e-9)).min(1.0);
        self.drain(received)?;
        for account in &self.accounts {
            self.outcome.lost += account.sent - account.received;
        }
        Ok(())
    }

    /// Sends what is due by `now`, stamped with the time when it was.
    fn send_due(&mut self, due: &mut Instant, now: Instant, interval: Duration) -> io::Result<usize> {
        let mut messages = 0;
        while *due <= now && messages < MESSAGES_PER_TURN {
            self.push(*due)?;
            *due += interval;
            messages += 1;
        }
        self.flush()?;
        Ok(messages)
    }

    fn send_within(&mut self, window: u64, now: Instant) -> io::Result<usize> {
        let mut messages = 0;
        let train = self.pattern.train as u64;
        // A window smaller than a train lets one through.
        while (self.in_flight + train <= window || self.in_flight == 0) && messages < MESSAGES_PER_TURN {
            self.push(now)?;
            messages += 1;
        }
        self.flush()?;
        Ok(messages)
    }

    /// Writes a message of the next lane.
    fn push(&mut self, at: Instant) -> io::Result<()> {
        let (lane, had) = self.turn;
        let at = at.saturating_duration_since(self.start).as_nanos() as u64;
        let stamp = Stamp { run: self.number, lane: lane as u32, number: self.accounts[lane].sent, at };
        match self.sending {
            Sending::Frames => self.write_frame(lane, stamp),
            Sending::Sockets => self.write_message(lane, stamp)?,
        }
        let train = self.pattern.train as u64;
        self.accounts[lane].sent += train;
        self.outcome.sent += train;
        self.in_flight += train;
        self.inbox.expect(self.ends.socket(self.load.at(lane)), train);
        self.turn = if had + 1 < self.pattern.burst { (lane, had + 1) } else { ((lane + 1) % self.accounts.len(), 0) };
        Ok(())
    }

    fn write_frame(&mut self, lane: usize, stamp: Stamp) {
        let load = self.load;
        match self.ends.frame(load.from(lane), load.to(lane), load.len(lane)) {
            Some(payload) => load.write(stamp, payload),
            None => self.outcome.not_sent += 1,
        }
    }

    /// Sends what was written before if that is from another socket.
    fn write_message(&mut self, lane: usize, first: Stamp) -> io::Result<()> {
        let (from, to, len) = (self.load.from(lane), self.load.to(lane), self.load.len(lane));
        if from != self.from {
            self.flush()?;
            self.from = from;
        }
        let begin = self.outbox.last().map_or(0, |(_, range, _)| range.end);
        let end = begin + len * self.pattern.train;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        for (n, datagram) in self.bytes[begin..end].chunks_exact_mut(len).enumerate() {
            self.load.write(Stamp { number: first.number + n as u64, ..first }, datagram);
        }
        self.outbox.push((to, begin..end, len));
        Ok(())
    }

    /// Hands what was written to the kernel.
    fn flush(&mut self) -> io::Result<()> {
        if self.sending == Sending::Frames {
            self.outcome.not_sent += self.ends.send_frames()?;
        }
        if !self.outbox.is_empty() {
            let mut batch = SendBatch::default();
            for (to, range, len) in self.outbox.drain(..) {
                batch.push(to, [&self.bytes[range]], len);
            }
            let sent = batch.send(&self.ends.sockets()[self.from]);
            self.outcome.not_sent += sent.no_room + sent.refused;
        }
        Ok(())
    }

    /// Takes what has come, as far as one turn does. How many datagrams that were.
    fn receive(&mut self, received: &mut ReceiveBatch) -> io::Result<u64> {
        let (mut came, mut misses) = (0, 0);
        for _ in 0..self.inbox.queue.len() {
            let Some(socket) = self.inbox.queue.pop_front() else { break };
            let trains = received.receive(&self.ends.sockets()[socket])?;
            if trains > 0 {
                came += self.count(received, socket, self.start.elapsed().as_nanos() as u64);
            }
            self.inbox.requeue(socket, trains == TRAINS);
            if trains == 0 {
                misses += 1;
                if misses == MISSES {
                    break;
                }
            }
        }
        Ok(came)
    }

    fn count(&mut self, received: &ReceiveBatch, socket: usize, now: u64) -> u64 {
        let mut came = 0;
        for train in received.trains() {
            let source = train.source();
            let Some(end) = self.ends.end(socket, &train) else {
                self.outcome.wrong(|| format!("{:?} is nobody's address", train.destination()));
                continue;
            };
            for datagram in train.datagrams() {
                match self.load.read(end, source, datagram) {
                    Ok(stamp) if stamp.run != self.number => self.outcome.stale += 1,
                    Ok(stamp) => {
                        came += 1;
                        self.arrive(stamp, now);
                    }
                    Err(wrong) => self.outcome.wrong(|| wrong),
                }
            }
        }
        came
    }

    fn arrive(&mut self, stamp: Stamp, now: u64) {
        let lane = stamp.lane as usize;
        let Some(account) = self.accounts.get_mut(lane) else {
            return self.outcome.wrong(|| format!("lane {lane} does not exist"));
        };
        let before = account.in_flight();
        let arrival = account.arrive(stamp.number);
        let settled = before - account.in_flight();
        self.in_flight -= settled;
        let waiting = &mut self.inbox.waiting[self.ends.socket(self.load.at(lane))];
        *waiting = waiting.saturating_sub(settled);
        match arrival {
            Arrival::New | Arrival::Reordered => {
                self.outcome.received += 1;
                self.outcome.reordered += u64::from(arrival == Arrival::Reordered);
                if self.measured {
                    self.outcome.received_measured += 1;
                    if matches!(self.pattern.pace, Pace::Rate(_)) {
                        self.outcome.latency(now.saturating_sub(stamp.at));
                    }
                }
            }
            Arrival::Late => self.outcome.late += 1,
            Arrival::Duplicate => {
                self.outcome.duplicates += 1;
                self.outcome.wrong(|| format!("datagram {} of lane {lane} came twice", stamp.number));
            }
            Arrival::Unsent => {
                self.outcome.wrong(|| format!("datagram {} of lane {lane} was never sent", stamp.number));
            }
        }
    }

    /// Waits no more for what is in flight.
    fn give_up(&mut self) {
        self.outcome.stalls += 1;
        for account in &mut self.accounts {
            account.give_up();
        }
        self.in_flight = 0;
        self.inbox.waiting.fill(0);
    }

    /// Takes what still comes when nothing is sent any more.
    fn drain(&mut self, received: &mut ReceiveBatch) -> io::Result<()> {
        let end = Instant::now() + GRACE;
        let mut last = Instant::now();
        let socket = |lane| self.ends.socket(self.load.at(lane));
        let mut at: Vec<usize> = (0..self.accounts.len()).map(socket).collect();
        at.sort_unstable();
        at.dedup();
        while self.outcome.received < self.outcome.sent {
            let mut came = 0;
            for &socket in &at {
                received.receive(&self.ends.sockets()[socket])?;
                came += self.count(received, socket, 0);
            }
            let now = Instant::now();
            if came > 0 {
                last = now;
            }
            if now > end || now - last > SILENCE {
                break;
            }
        }
        Ok(())
    }
}

impl Rest {
    fn new(window: u64, train: usize) -> Self {
        let turn = (MESSAGES_PER_TURN * train) as u64;
        Self { enough: (window / 2).clamp(1, turn), time: Duration::ZERO }
    }

    fn never() -> Self {
        Self { enough: 0, time: Duration::ZERO }
    }

    /// How long, after a turn in which so many came.
    fn after(&mut self, came: u64) -> Duration {
        if came >= self.enough {
            self.time /= 2;
        } else if came * 2 < self.enough {
            self.time = (self.time + REST_STEP).min(REST_MAX);
        }
        self.time
    }
}

impl Inbox {
    fn expect(&mut self, socket: usize, datagrams: u64) {
        self.waiting[socket] += datagrams;
        if !std::mem::replace(&mut self.queued[socket], true) {
            self.queue.push_back(socket);
        }
    }

    /// Puts a socket back that was looked at, if more is to arrive there.
    fn requeue(&mut self, socket: usize, full: bool) {
        match (full, self.waiting[socket]) {
            (true, _) => self.queue.push_front(socket),
            (false, 0) => self.queued[socket] = false,
            (false, _) => self.queue.push_back(socket),
        }
    }
}

#[cfg(test)]
mod tests;
