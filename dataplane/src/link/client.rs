//! The connection to a control plane: dial one after another, and do what the one that answers says.
//!
//! One task reads and writes the socket together and never waits for only one of the two, so neither side can block
//! the other: what is to be written is bounded by what is asked for (commands, snapshots) and by a window (usage).

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use shoal_link::frame::{self, FrameError};
use shoal_link::message::{Command, Reply, WrittenUsage};
use shoal_link::{ControlMessage, DataMessage, PROTOCOL, Snapshot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::spool::{Spool, SpoolError};
use crate::settings::{Endpoint, LinkSettings};
use crate::telemetry::metrics::Node;
use crate::telemetry::node::NodeStats;

/// Between two health reports.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks at what was seen of peers and of playback.
const OBSERVED_INTERVAL: Duration = Duration::from_millis(500);
/// To connect, and for the control plane's hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For the acknowledgement of the oldest batch sent; a control plane that takes longer is dialled anew.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Batches sent and not acknowledged.
const WINDOW: usize = 16;
/// Bytes waiting to be written from which no further batch is added.
const OUTPUT_ENOUGH: usize = 256 << 10;
/// Commands carried out at the same time; more are refused.
const MAX_COMMANDS: usize = 64;
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Most room that is kept for what is read.
const KEPT_BYTES: usize = 1 << 20;
/// The back-off doubles this often.
const MAX_DOUBLINGS: u32 = 4;

/// What the link does to the rest of the process.
pub trait Plane: Send + Sync + 'static {
    /// This node, as a hello says it.
    fn hello(&self) -> DataMessage;

    /// How this node is.
    fn health(&self) -> DataMessage;

    /// A control plane has answered: it knows nothing of this node's peers.
    fn connected(&self);

    /// What was seen of peers and of playback, if there is anything new.
    fn observed(&self) -> Option<DataMessage>;

    /// Puts a snapshot in force, or says which field of it cannot be.
    fn apply(self: Arc<Self>, snapshot: Snapshot) -> impl Future<Output = Result<(), String>> + Send;

    /// Carries out a command, within a bound.
    fn command(self: Arc<Self>, command: Command) -> impl Future<Output = Result<Reply, String>> + Send + 'static;
}

/// The spool, between the task that fills it and the link that empties it.
#[derive(Debug)]
pub struct SharedSpool {
    spool: Mutex<Spool>,
    filled: Notify,
}

impl SharedSpool {
    /// To be shared.
    pub fn new(spool: Spool) -> Self {
        Self { spool: Mutex::new(spool), filled: Notify::new() }
    }

    /// Does something to it. May block for as long as a disk takes to sync.
    pub fn with<R>(&self, act: impl FnOnce(&mut Spool) -> R) -> R {
        act(&mut self.spool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes the link: there is something new to send.
    pub fn notify(&self) {
        self.filled.notify_one();
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens there, or the connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Bytes that are no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It accepted and said nothing.
    #[error("no hello within {} s", HELLO_TIMEOUT.as_secs())]
    NoHello,
    /// It speaks another version.
    #[error("it speaks protocol {theirs} and this node {PROTOCOL}; install the same release on both")]
    Protocol {
        /// Its version.
        theirs: u32,
    },
    /// Something else came before, or after, the one hello.
    #[error("it sent a message out of order: {0}")]
    OutOfOrder(&'static str),
    /// It takes usage and never says that it has it.
    #[error("usage was not acknowledged within {} s", ACK_TIMEOUT.as_secs())]
    NoAck,
}

/// Keeps a connection to one of the control planes for as long as the process lives.
#[derive(Debug)]
pub struct Client<P> {
    settings: LinkSettings,
    plane: Arc<P>,
    spool: Arc<SharedSpool>,
    stats: Arc<NodeStats>,
}

impl<P: Plane> Client<P> {
    /// A client that has not dialled yet.
    pub fn new(settings: LinkSettings, plane: Arc<P>, spool: Arc<SharedSpool>, stats: Arc<NodeStats>) -> Self {
        Self { settings, plane, spool, stats }
    }

    /// Dials, for ever. Returns only when there is no control plane to dial.
    pub async fn run(self) {
        let mut failures = 0;
        while !self.settings.control.is_empty() {
            for endpoint in &self.settings.control {
                let begun = self.stats.get(Node::LinkSucceeded);
                let error = match self.session(endpoint).await {
                    Ok(()) => LinkError::Io(io::ErrorKind::UnexpectedEof.into()),
                    Err(error) => error,
                };
                self.stats.set(Node::LinkConnected, 0);
                if self.stats.get(Node::LinkSucceeded) > begun {
                    failures = 0;
                    tracing::warn!(%endpoint, %error, "lost the control plane; the last snapshot stays in force");
                } else {
                    self.stats.add(Node::LinkFailed, 1);
                    tracing::debug!(%endpoint, %error, "cannot reach the control plane");
                    if failures == 0 {
                        tracing::warn!(%endpoint, %error, "cannot reach the control plane; trying on");
                    }
                }
            }
            tokio::time::sleep(backoff(self.settings.retry, failures, super::random_u64().unwrap_or(0))).await;
            failures = failures.saturating_add(1);
        }
    }

    /// One connection, to its end.
    async fn session(&self, endpoint: &Endpoint) -> Result<(), LinkError> {
        let mut session = Session::default();
        session.queue(&self.plane.hello())?;
        let deadline = Instant::now() + HELLO_TIMEOUT;
        let connect = async {
            match endpoint {
                Endpoint::Unix(path) => UnixStream::connect(path).await,
            }
        };
        let mut stream = tokio::time::timeout_at(deadline, connect).await.map_err(|_| LinkError::NoHello)??;
        let hello = session.first_message(&mut stream);
        let hello = tokio::time::timeout_at(deadline, hello).await.map_err(|_| LinkError::NoHello)?;
        match hello? {
            Some(ControlMessage::Hello { protocol: PROTOCOL }) => {}
            Some(ControlMessage::Hello { protocol }) => return Err(LinkError::Protocol { theirs: protocol }),
            Some(_) => return Err(LinkError::OutOfOrder("something before its hello")),
            None => return Ok(()),
        }
        self.stats.add(Node::LinkSucceeded, 1);
        self.stats.set(Node::LinkConnected, 1);
        tracing::info!(%endpoint, "connected to the control plane");
        self.plane.connected();
        self.converse(&mut stream, session).await
    }

    async fn converse(&self, stream: &mut UnixStream, mut session: Session) -> Result<(), LinkError> {
        let mut health = tokio::time::interval(HEALTH_INTERVAL);
        health.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut observing = tokio::time::interval(OBSERVED_INTERVAL);
        observing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut commands: JoinSet<(u64, Result<Reply, String>)> = JoinSet::new();
        let (mut reader, mut writer) = stream.split();
        loop {
            while let Some(message) = session.take_message()? {
                self.handle(message, &mut session, &mut commands).await?;
            }
            self.queue_usage(&mut session)?;
            while session.output.len() < OUTPUT_ENOUGH
                && let Some(observed) = self.plane.observed()
            {
                session.queue(&observed)?;
            }
            let ack_deadline = session.in_flight.first().map_or_else(far, |sent| sent.at + ACK_TIMEOUT);
            tokio::select! {
                read = reader.read_buf(&mut session.input) => if read? == 0 { return Ok(()) },
                written = writer.write(&session.output), if !session.output.is_empty() => {
                    session.output.drain(..written?);
                }
                Some(done) = commands.join_next() => match done {
                    Ok((id, result)) => session.queue(&DataMessage::Done { id, result })?,
                    // A panic has ended the process by now; nothing cancels single commands.
                    Err(error) => tracing::error!(%error, "a command was not finished"),
                },
                _ = observing.tick() => {}
                _ = health.tick() => session.queue(&self.plane.health())?,
                () = self.spool.filled.notified() => {}
                () = tokio::time::sleep_until(ack_deadline) => return Err(LinkError::NoAck),
            }
        }
    }

    async fn handle(
        &self,
        message: ControlMessage,
        session: &mut Session,
        commands: &mut JoinSet<(u64, Result<Reply, String>)>,
    ) -> Result<(), LinkError> {
        match message {
            ControlMessage::Hello { .. } => return Err(LinkError::OutOfOrder("a second hello")),
            ControlMessage::Snapshot(snapshot) => {
                let version = snapshot.version;
                session.queue(&match self.plane.clone().apply(snapshot).await {
                    Ok(()) => DataMessage::Applied { version },
                    Err(reason) => {
                        self.stats.add(Node::SnapshotsRefused, 1);
                        tracing::error!(version, reason, "refused a snapshot; the one before stays in force");
                        DataMessage::Refused { version, reason }
                    }
                })?;
            }
            ControlMessage::Command { id, .. } if commands.len() >= MAX_COMMANDS => {
                let result = Err(format!("{MAX_COMMANDS} commands are under way on this node; try again later"));
                session.queue(&DataMessage::Done { id, result })?;
            }
            ControlMessage::Command { id, command } => {
                tracing::info!(id, ?command, "command from the control plane");
                let work = self.plane.clone().command(command);
                commands.spawn(async move { (id, work.await) });
            }
            ControlMessage::LedgerAck { boot, sequence } => {
                session.in_flight.retain(|sent| sent.name != (boot, sequence));
                self.spool.with(|spool| spool.acknowledge(boot, sequence));
            }
        }
        Ok(())
    }

    /// Adds batches to the output while window and output have room.
    fn queue_usage(&self, session: &mut Session) -> Result<(), LinkError> {
        while session.in_flight.len() < WINDOW && session.output.len() < OUTPUT_ENOUGH {
            match self.spool.with(|spool| spool.next_after(session.place)) {
                Ok(Some((place, written))) => {
                    session.place = place;
                    session.in_flight.push(Sent { name: (written.boot, written.sequence), at: Instant::now() });
                    session.queue(&WrittenUsage::Ledger(&written.batch))?;
                }
                Ok(None) => break,
                Err(error) => {
                    self.stats.add(Node::SpoolErrors, 1);
                    tracing::error!(%error, "cannot deliver usage");
                    // A damaged batch is skipped; what cannot be read now may be at the next occasion.
                    if !matches!(error, SpoolError::Damaged { .. }) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One connection's state.
#[derive(Debug, Default)]
struct Session {
    input: Vec<u8>,
    output: Vec<u8>,
    /// Place in the spool of the last batch sent.
    place: u64,
    /// Oldest first.
    in_flight: Vec<Sent>,
}

#[derive(Debug)]
struct Sent {
    name: (u64, u64),
    at: Instant,
}

impl Session {
    fn queue(&mut self, message: &impl Serialize) -> Result<(), FrameError> {
        frame::encode(message, &mut self.output)
    }

    fn take_message(&mut self) -> Result<Option<ControlMessage>, FrameError> {
        let Some((message, used)) = frame::decode(&self.input)? else {
            self.input.reserve(READ_BYTES);
            return Ok(None);
        };
        self.input.drain(..used);
        // A snapshot is as long as thousands of other messages.
        if self.input.len() < READ_BYTES && self.input.capacity() > KEPT_BYTES {
            self.input.shrink_to(READ_BYTES);
        }
        Ok(Some(message))
    }

    /// Writes what is queued and reads until there is one message; `None` at the end of the stream.
    async fn first_message(&mut self, stream: &mut UnixStream) -> Result<Option<ControlMessage>, LinkError> {
        stream.write_all(&self.output).await?;
        self.output.clear();
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            if stream.read_buf(&mut self.input).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// A deadline that never comes.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

/// From half to all of `first`, doubled with each failure up to a bound. The spread keeps many nodes from coming back at
/// once.
fn backoff(first: Duration, failures: u32, random: u64) -> Duration {
    let most = first * (1 << failures.min(MAX_DOUBLINGS));
    most / 2 + (most / 2).mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests;
