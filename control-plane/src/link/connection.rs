//! One data plane's connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_link::frame;
use shoal_link::ledger::Batch;
use shoal_link::{ControlMessage, DataMessage, PROTOCOL};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::frames::{Frames, ReadError};
use super::hub::{Live, Published};
use super::told;
use crate::app::App;
use crate::store::now_ms;
use crate::validate::{MAX_ID, check_id};

/// Time for the first message.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// Longest silence; health comes every few seconds.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest time for one message to go out.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// Batches read and not yet committed.
const LEDGER_QUEUE: usize = 256;
/// Batches in one commit.
const LEDGER_COMMIT: usize = 64;
/// Observations taken in before other connections have their turn.
const OBSERVED_AT_ONCE: usize = 1024;
/// How long batches wait for a database that failed.
const LEDGER_RETRY: Duration = Duration::from_secs(1);
/// Longest text that a node tells of itself or of a failure; what is longer is cut.
const MAX_TEXT: usize = 2048;
/// Longest session id in the ledger.
const MAX_SESSION: usize = 256;
/// Largest number in the ledger: no interval carries a petabyte, and sums of it stay exact in JSON and SQL.
const MAX_SUM: u64 = 1 << 50;

/// Why a connection ended, other than by the peer closing it.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Hello(String),
    #[error("it speaks link protocol {0}, this release {PROTOCOL}; run the same release on both sides")]
    Protocol(u32),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("no message for {} s", SILENCE.as_secs())]
    Silent,
    #[error("it did not take a message within {} s", WRITE_WAIT.as_secs())]
    Slow,
    #[error("ledger batch {sequence} of boot {boot:x}: {reason}")]
    Ledger { boot: u64, sequence: u64, reason: String },
    #[error("the node connected again")]
    Superseded,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl End {
    /// For metrics; none when the peer or the network ended it. The hub counts superseded connections.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Hello(_) => Some("hello"),
            Self::Protocol(_) => Some("protocol"),
            Self::Read(ReadError::Frame(_)) => Some("frame"),
            Self::Silent => Some("silent"),
            Self::Slow => Some("slow"),
            Self::Ledger { .. } => Some("ledger"),
            Self::Superseded | Self::Io(_) | Self::Read(ReadError::Io(_)) => None,
        }
    }
}

/// Serves a connection until either side ends it, or `stop`.
pub async fn serve(app: Arc<App>, stream: UnixStream, mut stop: watch::Receiver<bool>) {
    let result = tokio::select! {
        result = run(&app, stream) => result,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    if let Err(end) = result {
        if let Some(reason) = end.reason() {
            app.metrics.link_refused(reason);
        }
        tracing::warn!(reason = %end, "link connection ended");
    }
}

async fn run(app: &Arc<App>, stream: UnixStream) -> Result<(), End> {
    let (read, mut write) = stream.into_split();
    let mut frames = Frames::new(read);
    let first = timeout(HELLO_WAIT, frames.next())
        .await
        .map_err(|_| End::Hello(format!("no hello within {} s", HELLO_WAIT.as_secs())))??;
    let (node, live) = match first {
        None => return Ok(()),
        Some(DataMessage::Hello { protocol, node, boot, software, snapshot, public_url, region, endpoints }) => {
            // The answer tells the other side which protocol would do, also when its own will not.
            send(&mut write, &ControlMessage::Hello { protocol: PROTOCOL }).await?;
            if protocol != PROTOCOL {
                return Err(End::Protocol(protocol));
            }
            check_id(&node).map_err(|message| End::Hello(format!("node name {node:?} {message} (node.name)")))?;
            let connected_ms = now_ms();
            let (software, public_url) = (cut(software), public_url.map(cut));
            let (region, endpoints) = (region.map(told::short), told::endpoints(*endpoints));
            (node, Live { boot, software, public_url, region, endpoints, connected_ms, snapshot, ..Live::default() })
        }
        Some(_) => return Err(End::Hello("its first message is not a hello".to_owned())),
    };
    tracing::info!(node, software = live.software, snapshot = live.snapshot, "data plane connected");
    let (outgoing, joined) = app.hub.join(&node, live.clone());
    let connection = joined.connection;
    let (ledger, batches) = mpsc::channel(LEDGER_QUEUE);
    let result = tokio::select! {
        result = receive(app, &node, connection, &mut frames, ledger) => result,
        result = transmit(app, &mut write, joined.queue, live.snapshot) => result,
        result = record(app, &node, &live, batches, outgoing) => result,
        _ = joined.superseded => Err(End::Superseded),
    };
    app.peers.disconnected(Instant::now(), connection);
    if let Some(live) = app.hub.leave(&node, connection) {
        app.left(&node, &live).await;
    }
    tracing::info!(node, "data plane disconnected");
    result
}

/// Takes messages in.
async fn receive(
    app: &App,
    node: &str,
    connection: u64,
    frames: &mut Frames<OwnedReadHalf>,
    ledger: mpsc::Sender<Batch>,
) -> Result<(), End> {
    loop {
        let Some(message) = timeout(SILENCE, frames.next()).await.map_err(|_| End::Silent)?? else {
            return Ok(());
        };
        match message {
            DataMessage::Hello { .. } => return Err(End::Hello("it said hello twice".to_owned())),
            DataMessage::Applied { version } => {
                tracing::debug!(node, version, "snapshot applied");
                app.hub.applied(node, connection, version);
            }
            DataMessage::Refused { version, reason } => {
                let reason = cut(reason);
                tracing::warn!(node, version, reason, "the data plane refused a snapshot");
                app.hub.refused(node, connection, version, reason);
            }
            DataMessage::Done { id, result } => app.hub.done(node, connection, id, result.map_err(cut)),
            DataMessage::Health(health) => app.hub.health(node, connection, told::health(*health)),
            DataMessage::Playback(sums) => app.playback.take_in(node, sums),
            DataMessage::Observed(observations) => {
                for some in observations.chunks(OBSERVED_AT_ONCE) {
                    app.peers.observe(Instant::now(), node, connection, some);
                    // All that a large node has come at once.
                    tokio::task::yield_now().await;
                }
            }
            DataMessage::Ledger(batch) => {
                check_batch(&batch)?;
                // Full: the database is behind, and the node waits too.
                if ledger.send(batch).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Sends messages, and the newest snapshot whenever the node has not been sent it.
async fn transmit(
    app: &App,
    write: &mut OwnedWriteHalf,
    mut queue: mpsc::Receiver<ControlMessage>,
    mut sent: Option<u64>,
) -> Result<(), End> {
    let mut newest = app.hub.follow();
    newest.mark_changed();
    loop {
        tokio::select! {
            changed = newest.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let published = Arc::<Published>::clone(&newest.borrow_and_update());
                let version = published.snapshot.version;
                if !published.frame.is_empty() && sent != Some(version) {
                    send_frame(write, &published.frame).await?;
                    sent = Some(version);
                    app.metrics.snapshot_sent();
                }
            }
            message = queue.recv() => match message {
                Some(message) => send(write, &message).await?,
                None => return Ok(()),
            },
        }
    }
}

/// Writes down the node, then commits batches and acknowledges them. While the database fails they wait here, and
/// behind them the node; snapshots and commands go on.
async fn record(
    app: &App,
    node: &str,
    live: &Live,
    mut batches: mpsc::Receiver<Batch>,
    outgoing: mpsc::Sender<ControlMessage>,
) -> Result<(), End> {
    app.joined(node, live).await;
    let mut taken = Vec::new();
    while batches.recv_many(&mut taken, LEDGER_COMMIT).await > 0 {
        let commit = Arc::new(std::mem::take(&mut taken));
        loop {
            let (name, work) = (node.to_owned(), Arc::clone(&commit));
            match app.db(move |store| store.apply_ledger(&name, &work)).await {
                Ok(applied) => {
                    app.metrics.ledger(&applied);
                    if applied.skipped > 0 {
                        tracing::warn!(node, batches = applied.skipped, "ledger batches never came");
                    }
                    break;
                }
                Err(_) => tokio::time::sleep(LEDGER_RETRY).await,
            }
        }
        for batch in commit.iter() {
            let ack = ControlMessage::LedgerAck { boot: batch.boot, sequence: batch.sequence };
            if outgoing.send(ack).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Bounds a text from the other side.
pub(super) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

/// Keeps what a broken node sends out of the sums.
fn check_batch(batch: &Batch) -> Result<(), End> {
    let wrong = |reason: String| Err(End::Ledger { boot: batch.boot, sequence: batch.sequence, reason });
    if batch.sequence == 0 || batch.sequence > MAX_SUM {
        return wrong(format!("sequence numbers are from 1 to {MAX_SUM}"));
    }
    if batch.end_ms < batch.start_ms || batch.end_ms > MAX_SUM {
        return wrong(format!("from {} to {} is no interval in Unix milliseconds", batch.start_ms, batch.end_ms));
    }
    for entry in &batch.entries {
        for (name, text, most) in [
            ("tenant", &*entry.tenant, MAX_ID),
            ("channel", &*entry.channel, MAX_ID),
            ("session", &*entry.session, MAX_SESSION),
            ("origin", &*entry.origin, MAX_ID),
        ] {
            if text.len() > most {
                return wrong(format!("{name} of {} bytes; at most {most} are allowed", text.len()));
            }
        }
        for (name, sum) in
            [("requests", entry.requests), ("body_bytes", entry.body_bytes), ("wire_bytes", entry.wire_bytes)]
        {
            if sum > MAX_SUM {
                return wrong(format!("{name} is {sum}; at most {MAX_SUM} is possible in one interval"));
            }
        }
    }
    Ok(())
}

async fn send(write: &mut OwnedWriteHalf, message: &ControlMessage) -> Result<(), End> {
    let mut bytes = Vec::new();
    frame::encode(message, &mut bytes).map_err(ReadError::from)?;
    send_frame(write, &bytes).await
}

async fn send_frame<W: AsyncWrite + Unpin>(write: &mut W, bytes: &[u8]) -> Result<(), End> {
    timeout(WRITE_WAIT, write.write_all(bytes)).await.map_err(|_| End::Slow)?.map_err(End::from)
}
