//! Well-behaved clients, on schedule: each has one socket for Binding requests and one with an allocation, whose channel leads to a peer that
//! sends everything back. One thread does it all, with ordinary sockets.
//!
//! A Binding request carries a SOFTWARE attribute, so user space has to answer it; what is sent by the channel XDP relays, both ways, where
//! it is on. Latency counts from when a request was due; what has no answer after a second is lost, and counts as a second.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::thread::set_current_timer_slack;
use shoal_stun::credentials::time_limited_password;
use shoal_stun::message::{
    Builder, Class, Message, Method, Software, TransactionId, XorMappedAddress, channel_data_header,
};

use super::SECRET;
use crate::udp::allocation;
use crate::udp::dance::Client;
use crate::udp::stamp::{Stamp, Stamper};

/// When an answer is too late.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// What a channel carries, in bytes.
const PAYLOAD: usize = 160;

/// The first channel's number.
const CHANNEL: u16 = 0x4000;

/// How long a time-limited name is good for: longer than any run.
const NAME_LASTS: Duration = Duration::from_secs(3600);

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Answered by user space.
    Binding,
    /// Through the channel, to the peer and back.
    Channel,
}

impl Kind {
    /// Both, in the order of [`Viewers::run`]'s outcomes.
    pub const ALL: [Self; 2] = [Self::Binding, Self::Channel];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Channel => "channel",
        }
    }
}

/// What came of the requests of a kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Requests.
    pub sent: u64,
    /// Those without an answer in time.
    pub lost: u64,
    /// Half of the answers came so soon.
    pub p50_us: f64,
    /// And 99 of a hundred.
    pub p99_us: f64,
}

/// All of them, and their peer.
pub struct Viewers {
    node: SocketAddr,
    viewers: Vec<Viewer>,
    peer: UdpSocket,
    stamper: Stamper,
    run: u32,
}

struct Viewer {
    binding: UdpSocket,
    channel: UdpSocket,
    number: u16,
}

/// When requests are due, and which were answered.
struct Schedule {
    begin: Instant,
    /// Between two requests of a kind.
    interval: Duration,
    /// By kind and number, where an answer came in time.
    latency: [Vec<Option<Duration>>; 2],
    /// How many of both kinds are sent.
    sent: usize,
    answered: usize,
}

impl Schedule {
    /// The kinds take turns.
    fn new(begin: Instant, per_second: u32, time: Duration) -> Self {
        let count = (time.as_secs_f64() * f64::from(per_second)) as usize;
        let latency = [vec![None; count], vec![None; count]];
        Self { begin, interval: Duration::from_secs(1) / per_second, latency, sent: 0, answered: 0 }
    }

    /// When this one of a kind is to be sent.
    fn due(&self, kind: Kind, number: usize) -> Instant {
        let own = self.interval * number as u32;
        self.begin + if kind == Kind::Channel { own + self.interval / 2 } else { own }
    }

    /// The next to be sent, and when.
    fn next(&self) -> Option<(Kind, usize, Instant)> {
        let (kind, number) = (Kind::ALL[self.sent % 2], self.sent / 2);
        (number < self.latency[kind as usize].len()).then(|| (kind, number, self.due(kind, number)))
    }

    /// Takes an answer, the first one only.
    fn answer(&mut self, kind: Kind, number: usize, now: Instant) {
        let latency = now.saturating_duration_since(self.due(kind, number));
        if let Some(place @ None) = self.latency[kind as usize].get_mut(number)
            && latency < DEADLINE
        {
            *place = Some(latency);
            self.answered += 1;
        }
    }

    /// When there is nothing more to wait for, if there is nothing to send.
    fn end(&self) -> Instant {
        let count = self.latency[0].len();
        self.due(Kind::Channel, count) + DEADLINE
    }

    fn is_over(&self, now: Instant) -> bool {
        self.next().is_none() && (self.answered == self.sent || now >= self.end())
    }

    fn outcome(&self, kind: Kind) -> anyhow::Result<Outcome> {
        let latencies = &self.latency[kind as usize];
        let mut histogram = Histogram::<u64>::new_with_max(DEADLINE.as_nanos() as u64, 3)?;
        for latency in latencies {
            histogram.record(latency.unwrap_or(DEADLINE).as_nanos() as u64)?;
        }
        let lost = latencies.iter().filter(|latency| latency.is_none()).count();
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Ok(Outcome { sent: latencies.len() as u64, lost: lost as u64, p50_us: at(0.5), p99_us: at(0.99) })
    }
}

impl Viewers {
    /// A viewer at each of these addresses, with its channel to the peer. To be called in their namespace.
    ///
    /// # Errors
    /// The node gives no allocations.
    pub fn open(node: SocketAddr, peer: SocketAddr, addresses: &[&str]) -> anyhow::Result<Self> {
        let expiry = SystemTime::now().duration_since(UNIX_EPOCH)? + NAME_LASTS;
        let mut viewers = Vec::new();
        for (number, address) in (0..).zip(addresses) {
            let user = format!("{}:viewer-{number}", expiry.as_secs());
            let password = String::from_utf8(time_limited_password(SECRET.as_bytes(), &user).to_vec())?;
            let bind = || UdpSocket::bind((*address, 0)).with_context(|| (*address).to_owned());
            let [binding, channel] = [bind()?, bind()?];
            let mut client = Client::new(&user, &password, u32::from(number));
            let at = CHANNEL + number;
            allocation::obtain(&channel, node, &mut client, at, peer).with_context(|| format!("viewer {address}"))?;
            for socket in [&binding, &channel] {
                // Not before: a socket that is connected stays with the queue by which it has sent first, that of this thread's CPU.
                socket.connect(node)?;
                socket.set_nonblocking(true)?;
            }
            viewers.push(Viewer { binding, channel, number: at });
        }
        ensure!(!viewers.is_empty(), "there is no viewer");
        let peer = UdpSocket::bind(peer).with_context(|| peer.to_string())?;
        peer.set_nonblocking(true)?;
        Ok(Self { node, viewers, peer, stamper: Stamper::new(expiry.as_nanos() as u64), run: 0 })
    }

    /// Sends so many requests of each kind in a second, for so long, and takes what comes back. On this thread's CPU.
    ///
    /// # Errors
    /// An answer says what it should not.
    pub fn run(&mut self, per_second: u32, time: Duration) -> anyhow::Result<[Outcome; 2]> {
        // To wake when something is due, and not when it suits the kernel.
        set_current_timer_slack(NonZeroU64::new(1))?;
        self.run += 1;
        let mut schedule = Schedule::new(Instant::now(), per_second, time);
        loop {
            let now = Instant::now();
            if schedule.is_over(now) {
                break;
            }
            let until = match schedule.next() {
                Some((kind, number, due)) if due <= now => {
                    self.send(kind, number);
                    schedule.sent += 1;
                    continue;
                }
                Some((.., due)) => due,
                None => schedule.end(),
            };
            let ready = self.wait(until - now)?;
            self.receive(&mut schedule, &ready)?;
        }
        Ok([schedule.outcome(Kind::Binding)?, schedule.outcome(Kind::Channel)?])
    }

    /// Of each viewer's sockets, and then of the peer's, whether something has come.
    fn wait(&self, time: Duration) -> anyhow::Result<Vec<bool>> {
        let sockets = self.viewers.iter().flat_map(|viewer| [&viewer.binding, &viewer.channel]).chain([&self.peer]);
        let mut polled: Vec<PollFd<'_>> = sockets.map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        match poll(&mut polled, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => Ok(polled.iter().map(|socket| !socket.revents().is_empty()).collect()),
            Err(error) => Err(error.into()),
        }
    }

    fn send(&self, kind: Kind, number: usize) {
        let viewer = &self.viewers[number % self.viewers.len()];
        let mut bytes = [0; 4 + PAYLOAD];
        let (socket, length) = match kind {
            Kind::Binding => {
                let mut builder = Builder::new(&mut bytes, Method::BINDING, Class::Request, id(self.run, number));
                (&viewer.binding, builder.add(&Software("viewer")).finish().unwrap_or_default())
            }
            Kind::Channel => {
                let stamp = Stamp { run: self.run, lane: viewer.number.into(), number: number as u64, at: 0 };
                let (head, payload) = bytes.split_at_mut(4);
                head.copy_from_slice(&channel_data_header(viewer.number, PAYLOAD as u16));
                self.stamper.write(stamp, payload);
                (&viewer.channel, bytes.len())
            }
        };
        // What the kernel does not take has no answer, and is lost.
        let _ = socket.send(&bytes[..length]);
    }

    /// All that is there.
    fn receive(&self, schedule: &mut Schedule, ready: &[bool]) -> anyhow::Result<()> {
        let mut bytes = [0; 1500];
        let (ready, of_peer) = ready.as_chunks::<2>();
        // The peer first, for there are those who wait for what it sends.
        if of_peer.contains(&true) {
            while let Some((length, source)) = received(self.peer.recv_from(&mut bytes))? {
                let _ = self.peer.send_to(&bytes[..length], source);
            }
        }
        for (viewer, &[binding, channel]) in self.viewers.iter().zip(ready) {
            while binding && let Some(length) = received(viewer.binding.recv(&mut bytes))? {
                if let Some(number) = self.bound(&viewer.binding, &bytes[..length])? {
                    schedule.answer(Kind::Binding, number, Instant::now());
                }
            }
            while channel && let Some(length) = received(viewer.channel.recv(&mut bytes))? {
                if let Some(number) = self.echoed(viewer.number, &bytes[..length])? {
                    schedule.answer(Kind::Channel, number, Instant::now());
                }
            }
        }
        Ok(())
    }

    /// The number of the request that this answers; none if it was one of an earlier run.
    fn bound(&self, socket: &UdpSocket, answer: &[u8]) -> anyhow::Result<Option<usize>> {
        let message = Message::parse(answer).context("an answer to a Binding request")?;
        let mapped = message.read::<XorMappedAddress>().ok().flatten().map(|mapped| mapped.0);
        let right = message.class() == Class::Success && mapped == Some(socket.local_addr()?);
        ensure!(right, "{message:?} says that the viewer is {mapped:?}");
        let [.., a, b, c, d, e, f, g, h] = *message.transaction_id().as_bytes();
        let number = u32::from_be_bytes([e, f, g, h]) as usize;
        Ok((u32::from_be_bytes([a, b, c, d]) == self.run).then_some(number))
    }

    /// The same of what came back from the peer.
    fn echoed(&self, channel: u16, data: &[u8]) -> anyhow::Result<Option<usize>> {
        let head = channel_data_header(channel, PAYLOAD as u16);
        let stamp = data.strip_prefix(&head).and_then(|payload| self.stamper.read(payload));
        let stamp = stamp.filter(|stamp| stamp.lane == u32::from(channel));
        let stamp = stamp.with_context(|| format!("channel {channel:#x} of {} has other data", self.node))?;
        Ok((stamp.run == self.run).then_some(stamp.number as usize))
    }
}

/// Run and number as a transaction's id.
fn id(run: u32, number: usize) -> TransactionId {
    let ([a, b, c, d], [e, f, g, h]) = (run.to_be_bytes(), (number as u32).to_be_bytes());
    TransactionId::new([b'v', b'i', b'e', b'w', a, b, c, d, e, f, g, h])
}

/// What came, or nothing.
fn received<T>(result: std::io::Result<T>) -> anyhow::Result<Option<T>> {
    match result {
        Ok(received) => Ok(Some(received)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("the node, or the peer, is not there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counts_from_when_a_request_was_due_and_what_is_late_is_lost() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let mut schedule = Schedule::new(begin, 100, ms(40));
        let mut due = Vec::new();
        while let Some((kind, number, at)) = schedule.next() {
            due.push((kind.name(), number, at - begin));
            schedule.sent += 1;
        }
        assert_eq!(due.len(), 8);
        assert_eq!(due[2..4], [("binding", 1, ms(10)), ("channel", 1, ms(15))]);
        for number in 0..4 {
            schedule.answer(Kind::Binding, number, begin + ms(12 + 10 * number as u64));
        }
        // Twice, too late, and never asked for.
        schedule.answer(Kind::Binding, 0, begin + ms(900));
        schedule.answer(Kind::Channel, 0, begin + ms(1005));
        schedule.answer(Kind::Channel, 4, begin + ms(50));
        assert!(!schedule.is_over(begin + ms(1044)) && schedule.is_over(begin + ms(1045)));
        let outcome = schedule.outcome(Kind::Binding).unwrap();
        assert_eq!((outcome.sent, outcome.lost), (4, 0));
        assert!((11_980.0..12_020.0).contains(&outcome.p99_us), "{outcome:?}");
        let outcome = schedule.outcome(Kind::Channel).unwrap();
        assert_eq!((outcome.sent, outcome.lost), (4, 4));
        assert!(outcome.p50_us >= 999_000.0, "{outcome:?}");
    }

    #[test]
    fn it_is_over_once_all_is_answered() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(begin, 1000, Duration::from_millis(1));
        assert!(!schedule.is_over(begin));
        schedule.sent = 2;
        schedule.answer(Kind::Binding, 0, begin);
        assert!(!schedule.is_over(begin));
        schedule.answer(Kind::Channel, 0, begin + Duration::from_millis(1));
        assert!(schedule.is_over(begin));
    }
}
