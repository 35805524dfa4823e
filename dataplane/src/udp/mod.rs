//! What a shard serves over UDP.
//!
//! ```text
//!   sockets ─trains─▶ ring ─batch─▶ handle ─▶ protocol/stun ─▶ replies ─trains─▶ sockets
//! ```
//!
//! Each shard has a socket of its own for each address and port (SO_REUSEPORT), and the kernel gives a client's datagrams to one
//! of them by its address and port. One task takes what has arrived in batches, answers into one buffer, and hands all
//! answers of a batch to the kernel by one system call for each socket. Nothing waits: what the kernel has no room for is
//! dropped, newest first, and counted.

mod rates;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use shoal_stun::discovery::{self, Answer, Endpoints, MAX_GROWTH, Other};
use shoal_stun::message::MAGIC_COOKIE;
use shoal_sys::ring::{Arrived, DatagramConfig, DatagramSocket, Datagrams, Ring};
use shoal_sys::udp::{self, SendBatch, Sent};

use crate::settings::UdpSettings;
use crate::shard::UdpListener;
use crate::telemetry::metrics::{Counter, Gauge};
use crate::telemetry::stats::ShardStats;

use rates::Rates;

/// Trains handled before others have their turn.
const BATCH_MAX: usize = 64;

/// Bytes of answers that wait for the end of the batch; when there is no room for one more, they go out.
const REPLY_BYTES: usize = 256 << 10;

/// A datagram that is longer is not answered: no request is.
const REQUEST_MAX: usize = 2048;

/// The UDP half of a shard.
pub(crate) struct Udp {
    ring: Ring,
    datagrams: Datagrams,
    endpoints: Vec<Endpoint>,
    stats: Arc<ShardStats>,
    work: RefCell<Work>,
}

/// One of the shard's sockets.
struct Endpoint {
    address: SocketAddr,
    socket: DatagramSocket,
    discovery: Endpoints,
}

/// What is used again and again by each batch.
struct Work {
    rates: Rates,
    started: Instant,
    replies: Replies,
}

/// Answers that have not been sent.
struct Replies {
    buffer: Box<[u8]>,
    used: usize,
    list: Vec<Reply>,
}

struct Reply {
    /// Index of the endpoint it leaves from.
    endpoint: usize,
    to: SocketAddr,
    bytes: Range<usize>,
}

impl Udp {
    /// Starts receiving on `listeners`.
    ///
    /// # Errors
    /// No memory for the receive buffers.
    pub(crate) fn start(
        settings: &UdpSettings,
        listeners: Vec<UdpListener>,
        ring: &Ring,
        stats: Arc<ShardStats>,
    ) -> io::Result<Rc<Udp>> {
        let datagrams = ring.datagrams(DatagramConfig { buffers: settings.receive_buffers })?;
        let endpoint = |(index, listener): (usize, UdpListener)| Endpoint {
            address: listener.address,
            socket: datagrams.receive(listener.socket, index as u64),
            discovery: discovery_endpoints(settings, listener.address.ip()),
        };
        let endpoints = listeners.into_iter().enumerate().map(endpoint).collect();
        let work = RefCell::new(Work {
            rates: Rates::new(settings.bindings_per_address),
            started: Instant::now(),
            replies: Replies { buffer: vec![0; REPLY_BYTES].into(), used: 0, list: Vec::new() },
        });
        Ok(Rc::new(Udp { ring: ring.clone(), datagrams, endpoints, stats, work }))
    }

    /// Serves until it is dropped.
    pub(crate) async fn serve(self: Rc<Udp>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            self.datagrams.arrive().await;
            self.datagrams.take(&mut batch, BATCH_MAX);
            self.handle(&batch);
            batch.clear();
            self.ring.next_turn().await;
        }
    }

    /// Notes what waits in the sockets, and what was lost there.
    pub(crate) fn figures(&self) {
        let (mut receive, mut receive_max, mut drops) = (0, u64::MAX, 0);
        for queues in self.endpoints.iter().filter_map(|at| udp::queues(&at.socket).ok()) {
            receive += u64::from(queues.receive);
            receive_max = receive_max.min(queues.receive_max.into());
            drops += u64::from(queues.drops);
        }
        self.stats.set(Gauge::UdpQueue, receive);
        self.stats.set(Gauge::UdpQueueMax, if receive_max == u64::MAX { 0 } else { receive_max });
        self.stats.set_total(Counter::UdpQueueDrops, drops);
    }

    fn handle(&self, batch: &[Arrived]) {
        let work = &mut *self.work.borrow_mut();
        let now_ns = work.started.elapsed().as_nanos() as u64;
        for train in batch {
            let Some(endpoint) = self.endpoints.get(train.key() as usize) else { continue };
            let datagrams = train.datagrams();
            self.stats.add(Counter::UdpTrainsIn, 1);
            self.stats.add(Counter::UdpDatagramsIn, datagrams.len() as u64);
            self.stats.add(Counter::UdpBytesIn, train.payload().len() as u64);
            if train.is_truncated() {
                self.stats.udp_drop("truncated", datagrams.len() as u64);
                continue;
            }
            for datagram in datagrams {
                if let Err(reason) = self.answer(work, endpoint, train.source(), datagram, now_ns) {
                    self.stats.udp_drop(reason, 1);
                }
            }
        }
        self.send(&mut work.replies);
    }

    /// Answers one datagram, or says why not.
    fn answer(
        &self,
        work: &mut Work,
        endpoint: &Endpoint,
        source: SocketAddr,
        datagram: &[u8],
        now_ns: u64,
    ) -> Result<(), &'static str> {
        if datagram.len() > REQUEST_MAX {
            return Err("too_long");
        }
        if work.replies.spare().len() < datagram.len() + MAX_GROWTH {
            self.send(&mut work.replies);
        }
        let out = work.replies.spare();
        let (from, to, length, cost) =
            match discovery::answer(datagram, endpoint.address, source, &endpoint.discovery, out) {
                Answer::Send { from, to, length, cost } => (from, to, length, cost),
                Answer::Ask { .. } => return Err("no_partner"),
                Answer::Silence(silence) => return Err(silence.reason()),
            };
        if !work.rates.admit(source.ip(), cost, now_ns) {
            return Err("rate");
        }
        let from = self.endpoints.iter().position(|at| at.address == from).ok_or("no_socket")?;
        let classic = datagram.get(4..8) != Some(&MAGIC_COOKIE.to_be_bytes()[..]);
        // The class of an error response has both its bits set (RFC 8489 section 5).
        let error = out.get(..2).is_some_and(|head| head[0] & 1 == 1 && head[1] & 0x10 != 0);
        self.stats.add(answered(classic, error), 1);
        work.replies.push(from, to, length);
        Ok(())
    }

    /// Hands all answers to the kernel.
    fn send(&self, replies: &mut Replies) {
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let mut batch = SendBatch::default();
            let mut waiting = replies.list.iter().filter(|reply| reply.endpoint == index).peekable();
            while let Some(first) = waiting.next() {
                // What goes to one client and is of one length is one train, as it was when it came.
                let mut bytes = first.bytes.clone();
                let segment = bytes.len();
                let mut segments = 1;
                while segments < udp::SEGMENTS_MAX
                    && bytes.len() + segment <= udp::MESSAGE_MAX
                    && let Some(next) = waiting.next_if(|next| {
                        next.to == first.to && next.bytes.start == bytes.end && next.bytes.len() == segment
                    })
                {
                    bytes.end = next.bytes.end;
                    segments += 1;
                }
                batch.push(first.to, [&replies.buffer[bytes]], segment);
            }
            if !batch.is_empty() {
                self.count(batch.send(&endpoint.socket));
            }
        }
        replies.list.clear();
        replies.used = 0;
    }

    fn count(&self, sent: Sent) {
        self.stats.add(Counter::UdpTrainsOut, sent.trains);
        self.stats.add(Counter::UdpDatagramsOut, sent.datagrams);
        self.stats.add(Counter::UdpBytesOut, sent.bytes);
        for (reason, datagrams) in [("send_buffer_full", sent.no_room), ("send_refused", sent.refused)] {
            if datagrams > 0 {
                self.stats.udp_drop(reason, datagrams);
            }
        }
    }
}

impl Replies {
    /// Where the next answer is written.
    fn spare(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Keeps what was written there.
    fn push(&mut self, endpoint: usize, to: SocketAddr, length: usize) {
        let bytes = self.used..self.used + length;
        self.used = bytes.end;
        self.list.push(Reply { endpoint, to, bytes });
    }
}

fn answered(classic: bool, error: bool) -> Counter {
    match (classic, error) {
        (false, false) => Counter::StunAnswered,
        (false, true) => Counter::StunRefused,
        (true, false) => Counter::ClassicAnswered,
        (true, true) => Counter::ClassicRefused,
    }
}

/// The address `own` and the one that clients are told as its other: addresses of a family go in pairs, and one that is left
/// over takes the first.
fn discovery_endpoints(settings: &UdpSettings, own: IpAddr) -> Endpoints {
    let family: Vec<IpAddr> = settings.addresses.iter().copied().filter(|ip| ip.is_ipv4() == own.is_ipv4()).collect();
    let place = family.iter().position(|ip| *ip == own).unwrap_or_default();
    let other = family.get(place ^ 1).or(family.first()).filter(|ip| **ip != own);
    Endpoints {
        own,
        other: other.map_or(Other::Nowhere, |ip| Other::Here(*ip)),
        ports: [settings.port, settings.alternate_port.unwrap_or(settings.port)],
    }
}
