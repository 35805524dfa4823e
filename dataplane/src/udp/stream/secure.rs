//! A connection's bytes over TLS.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use shoal_sys::ring::Received;

use super::{Connection, End};
use crate::telemetry::metrics::Counter;
use crate::telemetry::stats::ShardStats;
use crate::tls::session::{Session, failure};

/// Agrees on a session; what has come already is its start. What the client says right behind its part of it is added to `input`.
pub(super) async fn handshake(
    connection: &Connection,
    config: &Arc<ServerConfig>,
    mut wire: Received,
    input: &mut Vec<u8>,
    stats: &ShardStats,
) -> Result<Box<Session>, End> {
    let session = Session::server(config).map_err(|error| {
        tracing::error!(%error, "cannot begin a TLS session");
        End::Reset
    })?;
    let session = Box::new(session);
    loop {
        if let Err(error) = records(connection, &session, &wire, input) {
            stats.add(failure(&error), 1);
            tracing::debug!(%error, "TLS handshake failed");
            return Err(End::Handshake);
        }
        let flushed = session.flush(&connection.stream).await;
        stats.add(Counter::TurnBytesOut, flushed.map_err(|_| End::Reset)? as u64);
        if !session.is_handshaking() {
            stats.add(session.completed(), 1);
            return Ok(session);
        }
        drop(wire);
        wire = connection.receive(stats).await.inspect_err(|_| {
            let counter = if connection.told.get().is_some() { Counter::TlsTimeout } else { Counter::TlsClosed };
            stats.add(counter, 1);
        })?;
    }
}

/// Waits for bytes and adds what they hold to the input.
pub(super) async fn receive(
    connection: &Connection,
    session: &Session,
    input: &mut Vec<u8>,
    stats: &ShardStats,
) -> Result<(), End> {
    if session.is_closed() {
        return Err(End::Peer);
    }
    let wire = connection.receive(stats).await?;
    records(connection, session, &wire, input).map_err(|_| End::Malformed)?;
    // A change of keys wants its answer. One that finds no room now goes out before what comes next.
    if let Ok(flushed) = session.try_flush(&connection.stream) {
        stats.add(Counter::TurnBytesOut, flushed.bytes as u64);
    }
    Ok(())
}

/// Sends one batch of what is queued, all of it. Returns the bytes of its records.
pub(super) async fn send(connection: &Connection, session: &Session) -> io::Result<usize> {
    connection.output.send(|first, second| session.encrypt(first, second))?;
    session.flush(&connection.stream).await
}

/// Puts what `wire` holds into the input. When it is not acceptable, the client is told so, if its socket has room.
fn records(
    connection: &Connection,
    session: &Session,
    mut wire: &[u8],
    input: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    let received = session.receive(&mut wire, |plain| {
        input.extend_from_slice(plain);
        plain.len()
    });
    if received.is_err() {
        let _ = session.try_flush(&connection.stream);
    }
    received.map(drop)
}
