//! One TLS connection, of either side, between rustls and the ring.
//!
//! ```text
//!   block ──encrypt──▶ records (rustls) ──flush──▶ socket        socket ──▶ receive ──▶ plaintext
//! ```
//!
//! Plaintext is copied once on its way out: from the block into a record, where it is encrypted in place, and from where the
//! kernel takes it. That is one `sendmsg` for a batch of records, made at once; the ring only waits where the socket is full.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, IoSlice, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, HandshakeKind, ProtocolVersion, ServerConfig};
use rustls::{ServerConnection, SupportedCipherSuite};
use shoal_sys::ring::Stream;

use crate::telemetry::metrics::Counter;

/// Plaintext encrypted ahead of the socket, at most: four whole records.
pub const BATCH_BYTES: usize = 4 * RECORD_BYTES;

/// Plaintext of a full record (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 16 << 10;

/// First byte of a connection that starts with a handshake, as all do (RFC 8446 section 5.1).
pub const HANDSHAKE: u8 = 22;

/// The state of one connection. Its memory is that of rustls: at rest some kilobytes (ARCHITECTURE.md has the figure), and
/// never more than a batch of records that go out beside one record that comes in.
pub struct Session {
    tls: RefCell<Connection>,
    closed: Cell<bool>,
}

/// What a flush handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// Bytes of records taken.
    pub bytes: usize,
    /// Bytes of records left.
    pub left: usize,
}

impl Session {
    /// The server's side of a new connection.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub fn server(config: &Arc<ServerConfig>) -> Result<Session, rustls::Error> {
        Ok(Session::new(ServerConnection::new(Arc::clone(config))?.into()))
    }

    /// The client's side; `name` is asked for (SNI) and must be the certificate's.
    ///
    /// # Errors
    /// As [`Session::server`].
    pub fn client(config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Session, rustls::Error> {
        Ok(Session::new(ClientConnection::new(Arc::clone(config), name)?.into()))
    }

    fn new(mut tls: Connection) -> Session {
        tls.set_buffer_limit(Some(BATCH_BYTES));
        Session { tls: RefCell::new(tls), closed: Cell::new(false) }
    }

    /// Takes records from the front of `wire`, and gives plaintext to `take`, which says how much of it it took. Stops when
    /// it does not take all: the rest is offered at the next call. Returns the plaintext taken.
    ///
    /// # Errors
    /// What is wrong with the peer or its bytes; an alert for it waits to be flushed.
    pub fn receive(&self, wire: &mut &[u8], mut take: impl FnMut(&[u8]) -> usize) -> Result<usize, rustls::Error> {
        let mut tls = self.tls.borrow_mut();
        let mut total = 0;
        loop {
            loop {
                let mut reader = tls.reader();
                // Nothing at hand is an error of its own, WouldBlock; nothing more to come is not.
                let Ok(plain) = reader.fill_buf() else { break };
                if plain.is_empty() {
                    self.closed.set(true);
                    return Ok(total);
                }
                let offered = plain.len();
                let taken = take(plain);
                reader.consume(taken);
                total += taken;
                if taken < offered {
                    return Ok(total);
                }
            }
            if wire.is_empty() {
                return Ok(total);
            }
            // There is room: all plaintext was taken, and a record too large for the buffer is an error before it is full.
            tls.read_tls(wire).map_err(|error| rustls::Error::General(error.to_string()))?;
            tls.process_new_packets()?;
        }
    }

    /// Encrypts as much of `head`, then of `body`, as makes one batch; nothing while an earlier one is left. Returns the
    /// plaintext taken.
    ///
    /// # Errors
    /// When the connection has failed before.
    pub fn encrypt(&self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        let parts = [IoSlice::new(head), IoSlice::new(body)];
        let parts = match (head.is_empty(), body.is_empty()) {
            (_, true) => &parts[..1],
            (true, false) => &parts[1..],
            (false, false) => &parts[..],
        };
        self.tls.borrow_mut().writer().write_vectored(parts)
    }

    /// Hands records to the kernel, as many as it takes at once.
    ///
    /// # Errors
    /// The socket's; `WouldBlock` when it is full.
    pub fn try_flush(&self, stream: &Stream) -> io::Result<Flushed> {
        let mut outlet = Outlet { stream, offered: 0 };
        let bytes = self.tls.borrow_mut().write_tls(&mut outlet)?;
        Ok(Flushed { bytes, left: outlet.offered - bytes })
    }

    /// As [`Session::try_flush`], but waits for room.
    ///
    /// # Errors
    /// The socket's.
    pub async fn flush_some(&self, stream: &Stream) -> io::Result<Flushed> {
        loop {
            match self.try_flush(stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
                flushed => return flushed,
            }
        }
    }

    /// Flushes all there is. Returns the bytes.
    ///
    /// # Errors
    /// The socket's.
    pub async fn flush(&self, stream: &Stream) -> io::Result<usize> {
        let mut bytes = 0;
        while self.tls.borrow().wants_write() {
            bytes += self.flush_some(stream).await?.bytes;
        }
        Ok(bytes)
    }

    /// Tells the peer, if its socket has room, that nothing more will come.
    pub fn close(&self, stream: &Stream) {
        self.tls.borrow_mut().send_close_notify();
        // A peer that is not told sees the end of TCP, which says less.
        let _ = self.try_flush(stream);
    }

    /// Whether the handshake still lasts.
    pub fn is_handshaking(&self) -> bool {
        self.tls.borrow().is_handshaking()
    }

    /// Whether the peer has said that nothing more will come.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// What was agreed on, once it was.
    pub fn agreed(&self) -> Option<(ProtocolVersion, SupportedCipherSuite, HandshakeKind)> {
        let tls = self.tls.borrow();
        Some((tls.protocol_version()?, tls.negotiated_cipher_suite()?, tls.handshake_kind()?))
    }

    /// Where a handshake that is over is counted.
    pub fn completed(&self) -> Counter {
        match self.agreed().map(|(version, _, kind)| (version, kind)) {
            Some((ProtocolVersion::TLSv1_2, HandshakeKind::Resumed)) => Counter::TlsResumed12,
            Some((ProtocolVersion::TLSv1_2, _)) => Counter::TlsFull12,
            Some((_, HandshakeKind::Resumed)) => Counter::TlsResumed13,
            _ => Counter::TlsFull13,
        }
    }
}

/// Where one that failed is.
pub fn failure(error: &rustls::Error) -> Counter {
    match error {
        rustls::Error::AlertReceived(_) => Counter::TlsAlert,
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => Counter::TlsIncompatible,
        _ => Counter::TlsMalformed,
    }
}

/// The socket, as rustls wants to see it: all records in one call.
struct Outlet<'a> {
    stream: &'a Stream,
    offered: usize,
}

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.offered = parts.iter().map(|part| part.len()).sum();
        self.stream.try_send(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One batch of records on its way to the kernel, as the ledger sees it: plaintext counts when its record has been taken
/// whole, for of a part of a record the peer can use nothing.
#[derive(Debug)]
pub struct Batch {
    plain: usize,
    /// Bytes of the plaintext that are no body: they come first.
    head: usize,
    /// Bytes of records taken.
    sent: usize,
    /// Body bytes counted.
    counted: usize,
}

impl Batch {
    /// `plain` bytes were encrypted, the first `head` of which are no body.
    pub fn new(plain: usize, head: usize) -> Batch {
        Batch { plain, head: head.min(plain), sent: 0, counted: 0 }
    }

    /// Body bytes to count for what was flushed.
    pub fn took(&mut self, flushed: Flushed) -> usize {
        self.sent += flushed.bytes;
        let total = self.sent + flushed.left;
        let whole = match flushed.left {
            0 => self.plain,
            _ => {
                // All records but the last are full, and all add the same.
                let records = self.plain.div_ceil(RECORD_BYTES).max(1);
                let added = total.saturating_sub(self.plain) / records;
                (self.sent / (RECORD_BYTES + added) * RECORD_BYTES).min(self.plain)
            }
        };
        let body = whole.saturating_sub(self.head);
        let new = body.saturating_sub(self.counted);
        self.counted += new;
        new
    }
}

#[cfg(test)]
mod tests;
