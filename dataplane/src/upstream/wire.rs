//! A connection to an origin, with TLS or without: bytes in order, both ways.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use shoal_sys::arena::BlockWriter;
use shoal_sys::ring::{SendMsg, Stream};

use super::error::UpstreamError;
use crate::tls;
use crate::tls::session::Session;

/// Bytes of records read at a time.
const READ_BYTES: usize = 64 << 10;

/// One connection.
pub(super) enum Wire {
    Plain(Stream),
    Tls(Box<Secure>),
}

/// One with TLS.
pub(super) struct Secure {
    stream: Stream,
    session: Session,
    /// Records received and how many of their bytes have been used.
    records: RefCell<Vec<u8>>,
    used: Cell<usize>,
}

impl Wire {
    /// Agrees on TLS over a new connection, with an origin that has a certificate for `name`.
    pub(super) async fn secure(stream: Stream, config: &Arc<ClientConfig>, name: &str) -> Result<Wire, UpstreamError> {
        let failed = |problem: String| UpstreamError::Tls { host: name.to_owned(), problem };
        let valid = ServerName::try_from(name.to_owned());
        let valid = valid.map_err(|_| failed("no certificate can have such a name".to_owned()))?;
        let session = Session::client(config, valid).map_err(|error| failed(error.to_string()))?;
        let secure = Secure { stream, session, records: RefCell::default(), used: Cell::new(0) };
        loop {
            secure.session.flush(&secure.stream).await.map_err(|error| failed(error.to_string()))?;
            if !secure.session.is_handshaking() {
                return Ok(Wire::Tls(Box::new(secure)));
            }
            let received = secure.refill().await.map_err(|error| failed(error.to_string()))?;
            if received == 0 {
                return Err(failed("the origin closed the connection during the handshake".to_owned()));
            }
            // Plaintext waits for whoever reads it.
            if let Err(error) = secure.use_records(|_| 0) {
                // The origin is told why, if it still listens.
                let _ = secure.session.try_flush(&secure.stream);
                return Err(failed(tls::describe(&error)));
            }
        }
    }

    /// Sends all of `bytes`.
    pub(super) async fn send_all(&self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => {
                let mut msg = SendMsg::new();
                msg.head = bytes;
                while !msg.is_sent() {
                    let (back, sent) = stream.send(msg, false).await;
                    msg = back;
                    sent?;
                }
            }
            Wire::Tls(secure) => {
                let mut left = &bytes[..];
                while !left.is_empty() {
                    let taken = secure.session.encrypt(left, &[])?;
                    secure.session.flush(&secure.stream).await?;
                    left = left.get(taken..).unwrap_or_default();
                }
            }
        }
        Ok(())
    }

    /// Receives into the spare capacity of `buffer`; 0 at the end. Dropped early, the buffer is lost, and no byte.
    pub(super) async fn recv(&self, mut buffer: Vec<u8>) -> (Vec<u8>, io::Result<usize>) {
        match self {
            Wire::Plain(stream) => stream.recv_vec(buffer).await,
            Wire::Tls(secure) => {
                let received = secure.receive(|bytes| {
                    let room = bytes.len().min(buffer.capacity() - buffer.len());
                    buffer.extend_from_slice(bytes.get(..room).unwrap_or_default());
                    room
                });
                let received = received.await;
                (buffer, received)
            }
        }
    }

    /// Open, and nothing has come that was not read.
    pub(super) fn is_quiet(&self) -> bool {
        match self {
            Wire::Plain(stream) => stream.is_quiet(),
            Wire::Tls(secure) => secure.stream.is_quiet() && !secure.session.is_closed() && secure.is_used_up(),
        }
    }
}

impl Secure {
    /// Receives at most `limit` bytes into `block`; 0 at the end. Dropped early, no byte is lost.
    pub(super) async fn recv_into(&self, block: &mut BlockWriter, mut limit: usize) -> io::Result<usize> {
        let receive = self.receive(|bytes| {
            let taken = block.append(bytes.get(..limit).unwrap_or(bytes));
            limit -= taken;
            taken
        });
        receive.await
    }

    fn is_used_up(&self) -> bool {
        let mut waits = false;
        let looked = self.session.receive(&mut &[][..], |_| {
            waits = true;
            0
        });
        looked.is_ok() && !waits && self.used.get() == self.records.borrow().len()
    }

    /// Waits for records, once all those before are used.
    async fn refill(&self) -> io::Result<usize> {
        let mut records = std::mem::take(&mut *self.records.borrow_mut());
        records.drain(..self.used.replace(0));
        records.reserve(READ_BYTES);
        let (records, received) = self.stream.recv_vec(records).await;
        *self.records.borrow_mut() = records;
        received
    }

    fn use_records(&self, take: impl FnMut(&[u8]) -> usize) -> Result<usize, rustls::Error> {
        let records = self.records.borrow();
        let mut left = records.get(self.used.get()..).unwrap_or_default();
        let taken = self.session.receive(&mut left, take);
        self.used.set(records.len() - left.len());
        taken
    }

    /// Waits for plaintext; 0 at the end, which the origin must have announced, or when `take` has no room.
    async fn receive(&self, mut take: impl FnMut(&[u8]) -> usize) -> io::Result<usize> {
        loop {
            let mut full = false;
            let taken = self.use_records(|bytes| {
                let taken = take(bytes);
                full |= taken < bytes.len();
                taken
            });
            let taken = taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if taken > 0 || full || self.session.is_closed() {
                return Ok(taken);
            }
            // A change of keys wants its answer.
            self.session.flush(&self.stream).await?;
            if self.refill().await? == 0 {
                let why = "the origin closed the connection without saying so in TLS (close_notify)";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
        }
    }
}
