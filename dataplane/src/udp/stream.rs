//! TURN over streams, for clients whose network lets no UDP through (RFC 8656 section 3.1): TCP, and TLS where the first byte says so.
//!
//! ```text
//!   client ─bytes─▶ read ─frames─▶ protocol/stun ─▶ outbox ─▶ relays' sockets
//!      ▲                                │ replies
//!      └──────── write ◀─── output ◀────┴──── what came to relays' sockets
//! ```
//!
//! One task for each connection, on the shard that accepted it; there its allocation stays. So a reserved port (RESERVATION-TOKEN)
//! can be had only if it is this shard's: else the client is told 508, as if nobody had kept it. An allocation ends with its
//! connection.
//!
//! **Who reads slowly loses messages, and nobody waits for them.** What is for a client goes to a queue with a bound, whole
//! messages only; what finds no room is dropped, newest first, and is not charged. Replies have some room of their own. Behind the
//! queue the kernel takes no more than [`UNSENT_MAX`] ahead of what TCP may send.
//!
//! **Who has no allocation costs little.** No message of theirs may be longer than a request, and there is not much time: see the
//! limits in `open`.

mod frames;
mod open;
mod output;
mod secure;
#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell};
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use shoal_stun::turn::{FiveTuple, Transport};
use shoal_sys::ring::{Received, Ring, Stream};

use super::Udp;
use crate::telemetry::metrics::Counter;
use crate::telemetry::stats::ShardStats;
use crate::tls::session::{HANDSHAKE, Session};

use frames::Taken;
pub(crate) use open::StreamNode;
pub(super) use open::Streams;
use output::Output;

/// Bytes that the kernel takes for a connection beyond what TCP may send at the time.
pub(crate) const UNSENT_MAX: u32 = 128 << 10;

/// Bytes that a connection keeps for the next message that comes in parts.
const INPUT_KEPT: usize = 2 << 10;

/// One client's connection.
struct Connection {
    stream: Stream,
    flow: FiveTuple,
    /// Set when the handshake is over, if there was one.
    tls: OnceCell<Box<Session>>,
    output: Output,
    /// When it was accepted, or known to have an allocation.
    since_ms: Cell<u64>,
    /// When the last whole message came; before there is one, nothing.
    heard_ms: Cell<Option<u64>>,
    /// Why it has to end, if it was not the client who ended it.
    told: Cell<Option<End>>,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Peer,
    Reset,
    Malformed,
    TooLong,
    NoCertificate,
    Handshake,
    Greeting,
    Idle,
    NoAllocation,
    Replaced,
}

impl End {
    fn counter(self) -> Counter {
        match self {
            Self::Peer => Counter::TurnClosedByPeer,
            Self::Reset => Counter::TurnClosedReset,
            Self::Malformed => Counter::TurnClosedMalformed,
            Self::TooLong => Counter::TurnClosedTooLong,
            Self::NoCertificate => Counter::TurnClosedNoCertificate,
            Self::Handshake => Counter::TurnClosedHandshake,
            Self::Greeting => Counter::TurnClosedGreeting,
            Self::Idle => Counter::TurnClosedIdle,
            Self::NoAllocation => Counter::TurnClosedNoAllocation,
            Self::Replaced => Counter::TurnClosedReplaced,
        }
    }
}

/// A connection that is served. When it is dropped, nothing is left of it.
struct Serving {
    udp: Rc<Udp>,
    connection: Rc<Connection>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let Self { udp, connection } = self;
        if udp.streams.close(connection) {
            udp.end_allocation(&connection.flow);
        }
    }
}

impl Udp {
    /// Takes on a connection that was accepted at `server`: gives what serves it to its end, if there is room for one more.
    pub(crate) fn take_stream(
        self: &Rc<Self>,
        socket: OwnedFd,
        server: SocketAddr,
    ) -> Option<impl Future<Output = ()> + use<>> {
        self.stats.add(Counter::TurnConnectionsAccepted, 1);
        let stream = self.ring.stream(socket);
        // Gone already.
        let client = stream.peer().ok()?;
        if self.is_blocked(client.ip()) {
            self.stats.add(Counter::TurnClosedBlocked, 1);
            return None;
        }
        let flow = FiveTuple { client, server, transport: Transport::Tcp };
        let connection = Rc::new(Connection::new(stream, flow, self.clock.now_ms()));
        if let Some(flow) = self.streams.open(&connection)? {
            // What the client had by its last connection is not the new one's.
            self.end_allocation(&flow);
        }
        let serving = Serving { udp: Rc::clone(self), connection };
        Some(async move {
            let Serving { udp, connection } = &serving;
            let end = first_of(connection.read(udp), connection.write(&udp.ring, &udp.stats)).await;
            let end = connection.told.get().unwrap_or(end);
            udp.stats.add(end.counter(), 1);
            connection.finish(end);
        })
    }

    fn end_allocation(&self, flow: &FiveTuple) {
        if let Some(turn) = &mut self.work.borrow_mut().state.turn {
            turn.closed(flow);
        }
    }
}

impl Connection {
    fn new(stream: Stream, flow: FiveTuple, now_ms: u64) -> Self {
        Self {
            stream,
            flow,
            tls: OnceCell::new(),
            output: Output::default(),
            since_ms: Cell::new(now_ms),
            heard_ms: Cell::new(None),
            told: Cell::new(None),
        }
    }

    /// Handles what comes.
    async fn read(&self, udp: &Udp) -> End {
        let Err(end) = self.read_on(udp).await;
        end
    }

    async fn read_on(&self, udp: &Udp) -> Result<Infallible, End> {
        let mut input = Vec::new();
        let mut received = self.receive(&udp.stats).await?;
        if received.first() == Some(&HANDSHAKE) {
            let config = udp.streams.tls().ok_or(End::NoCertificate)?;
            // Boxed: a connection that is served is not to hold the room for its handshake.
            let session = Box::pin(secure::handshake(self, config, received, &mut input, &udp.stats)).await?;
            // Nothing else sets it.
            let session = self.tls.get_or_init(|| session);
            loop {
                self.handle(udp, &mut input).await?;
                secure::receive(self, session, &mut input, &udp.stats).await?;
            }
        }
        loop {
            // Most often whole messages come, and are not copied.
            let taken = if input.is_empty() { udp.frames(self, &received)? } else { Taken::default() };
            input.extend_from_slice(received.get(taken.bytes..).unwrap_or_default());
            // Its buffer is others' while this one waits.
            drop(received);
            if !taken.all {
                self.handle(udp, &mut input).await?;
            }
            received = self.receive(&udp.stats).await?;
        }
    }

    /// Handles the whole messages of `input`, and leaves there what is the start of the next one.
    async fn handle(&self, udp: &Udp, input: &mut Vec<u8>) -> Result<(), End> {
        let mut used = 0;
        loop {
            let taken = udp.frames(self, input.get(used..).unwrap_or_default())?;
            used += taken.bytes;
            if taken.all {
                break;
            }
            udp.ring.next_turn().await;
        }
        input.drain(..used);
        if input.is_empty() && input.capacity() > INPUT_KEPT {
            *input = Vec::new();
        }
        Ok(())
    }

    /// Waits for bytes as they come over the network: some.
    async fn receive(&self, stats: &ShardStats) -> Result<Received, End> {
        match self.stream.recv().await {
            Ok(received) if received.is_empty() => Err(End::Peer),
            Ok(received) => {
                stats.add(Counter::TurnBytesIn, received.len() as u64);
                Ok(received)
            }
            // Also when it was told to end.
            Err(_) => Err(End::Reset),
        }
    }

    /// Sends what is queued: each time all there is.
    async fn write(&self, ring: &Ring, stats: &ShardStats) -> End {
        loop {
            self.output.wait().await;
            let sent = match self.tls.get() {
                Some(session) => secure::send(self, session).await,
                None => match self.output.send(|first, second| self.try_send(first, second)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await.map(|()| 0),
                    sent => sent,
                },
            };
            let Ok(sent) = sent else { return End::Reset };
            stats.add(Counter::TurnBytesOut, sent as u64);
            if !self.output.is_empty() {
                // A client that takes everything at once must not keep the others waiting.
                ring.next_turn().await;
            }
        }
    }

    fn try_send(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        self.stream.try_send(&[IoSlice::new(first), IoSlice::new(second)])
    }

    /// Has it end for this reason.
    fn tell(&self, end: End) {
        self.told.set(Some(end));
        self.stream.interrupt();
        if self.heard_ms.get().is_none() {
            // It may wait for room for its part of a handshake.
            self.stream.abort();
        }
    }

    /// Says goodbye. A client that will send no more is given the last replies, as far as its socket has room.
    fn finish(&self, end: End) {
        let last = end == End::Peer && !self.output.is_empty();
        let Some(session) = self.tls.get() else {
            if last {
                let _ = self.output.send(|first, second| self.try_send(first, second));
            }
            return;
        };
        if last {
            let _ = self.output.send(|first, second| session.encrypt(first, second));
        }
        if matches!(end, End::Peer | End::Idle | End::NoAllocation) {
            session.close(&self.stream);
        }
    }
}

/// The result of whichever is over first.
async fn first_of<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    let (mut one, mut other) = (pin!(one), pin!(other));
    std::future::poll_fn(|cx| match one.as_mut().poll(cx) {
        Poll::Pending => other.as_mut().poll(cx),
        ready => ready,
    })
    .await
}
