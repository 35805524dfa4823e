//! A connection's bytes over TLS: handshake, receiving, sending.

use std::sync::Arc;

use rustls::ServerConfig;
use shoal_sys::ring::SendMsg;

use super::connection::{Broken, Connection};
use super::deadlines::{Expired, Phase};
use super::refusal::Refusal;
use crate::telemetry::metrics::Counter;
use crate::tls::session::{Batch, HANDSHAKE, Session, failure};
use crate::upstream::within;

/// Agrees on a session. It has the time of a head for it, from accept on, and whatever has come already is its start.
pub(super) async fn handshake(connection: &Connection, config: &Arc<ServerConfig>) -> Result<Box<Session>, Broken> {
    let stats = &connection.ctx.stats;
    let failed = |broken| {
        let counter = match broken {
            Broken::Expired(Expired::Head) => Some(Counter::TlsTimeout),
            Broken::Closed | Broken::Reset => Some(Counter::TlsClosed),
            _ => None,
        };
        counter.inspect(|counter| stats.add(*counter, 1));
        broken
    };
    let mut wire = std::mem::take(&mut *connection.input.borrow_mut());
    if wire.is_empty() {
        wire.extend_from_slice(&connection.receive_raw().await.map_err(failed)?);
    }
    match wire.first() {
        Some(&HANDSHAKE) => {}
        Some(first) if first.is_ascii_uppercase() => {
            stats.add(Counter::TlsPlainHttp, 1);
            let refusal = Refusal::closing(400, "plain_http", "this port speaks TLS; ask with https://");
            connection.refuse_outright(&refusal).await;
            return Err(Broken::Malformed);
        }
        _ => {
            stats.add(Counter::TlsNotTls, 1);
            return Err(Broken::Malformed);
        }
    }
    let session = Session::server(config).map_err(|error| {
        tracing::error!(%error, "cannot begin a TLS session");
        Broken::Reset
    })?;
    let session = Box::new(session);
    loop {
        let received = receive_records(connection, &session, &wire);
        if let Err(error) = received {
            stats.add(failure(&error), 1);
            tracing::debug!(%error, "TLS handshake failed");
            return Err(Broken::Malformed);
        }
        // The sweep only ends what waits to receive.
        let limit = connection.ctx.settings.head_timeout;
        match within(limit, session.flush(&connection.watched.stream)).await {
            // No request's bytes: nobody is accounted for them.
            Some(Ok(flushed)) => stats.add(Counter::WireBytes, flushed as u64),
            Some(Err(_)) => return Err(failed(Broken::Reset)),
            None => return Err(failed(Broken::Expired(Expired::Head))),
        }
        if !session.is_handshaking() {
            stats.add(session.completed(), 1);
            return Ok(session);
        }
        wire.clear();
        wire.extend_from_slice(&connection.receive_raw().await.map_err(failed)?);
    }
}

/// Waits for plaintext and adds it to the input.
pub(super) async fn receive(connection: &Connection, session: &Session) -> Result<(), Broken> {
    // Who says goodbye after the last request need not hang up to be believed.
    while !session.is_closed() {
        let before = connection.input.borrow().len();
        {
            let received = connection.receive_raw().await?;
            if receive_records(connection, session, &received).is_err() {
                return Err(Broken::Malformed);
            }
        }
        // A change of keys wants its answer. One that finds no room now goes out before the next response.
        if let Ok(flushed) = session.try_flush(&connection.watched.stream) {
            connection.ctx.stats.add(Counter::WireBytes, flushed.bytes as u64);
        }
        if connection.input.borrow().len() > before {
            return Ok(());
        }
    }
    Err(Broken::Closed)
}

/// Sends all of the message: a batch of records at a time, straight from the block.
pub(super) async fn send(
    connection: &Connection,
    session: &Session,
    mut msg: Box<SendMsg>,
) -> Result<Box<SendMsg>, Broken> {
    let watched = &connection.watched;
    watched.switch(Phase::Sending);
    while !msg.is_sent() {
        let (head, body) = msg.left();
        let of_head = head.len();
        let taken = session.encrypt(head, body).map_err(|_| Broken::Reset)?;
        msg.advance(taken);
        let mut batch = Batch::new(taken, of_head);
        loop {
            let Ok(flushed) = session.flush_some(&watched.stream).await else {
                return Err(watched.expired().map_or(Broken::Reset, Broken::Expired));
            };
            watched.took(flushed.bytes);
            connection.count(batch.took(flushed) as u64, flushed.bytes as u64);
            if flushed.left == 0 {
                break;
            }
        }
        // A client that takes everything at once must not keep the others waiting.
        if !msg.is_sent() {
            connection.ctx.ring.next_turn().await;
        }
    }
    watched.switch(Phase::Working);
    Ok(msg)
}

/// Puts what `wire` holds into the input. When it is not acceptable, the client is told so, if its socket has room.
fn receive_records(connection: &Connection, session: &Session, mut wire: &[u8]) -> Result<(), rustls::Error> {
    let mut input = connection.input.borrow_mut();
    let received = session.receive(&mut wire, |plain| {
        input.extend_from_slice(plain);
        plain.len()
    });
    if received.is_err() {
        let _ = session.try_flush(&connection.watched.stream);
    }
    received.map(drop)
}
