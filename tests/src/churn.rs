//! Clients that come and go in every way there is, good and bad, as fast as they can.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection};

use crate::client::{Conn, PATIENCE, Request};
use crate::net::{anywhere, reset_on_drop};
use crate::origin::Object;
use crate::rng::Rng;
use crate::tls;

/// Clients at a time.
const CLIENTS: usize = 16;

/// What a connection does, with and without TLS, and how many of a hundred do that.
const WAYS: &[(Way, bool, u64)] = &[
    (Way::Answered(Leaving::Reset), false, 28),
    (Way::Answered(Leaving::Close), false, 6),
    (Way::ClosedByServer, false, 8),
    (Way::MidBody, false, 15),
    (Way::HalfHead(Leaving::Reset), false, 10),
    (Way::HalfHead(Leaving::Close), false, 5),
    (Way::Silent, false, 9),
    (Way::Garbage, false, 6),
    (Way::Abandoned, false, 3),
    (Way::Answered(Leaving::Close), true, 2),
    (Way::Answered(Leaving::Reset), true, 1),
    (Way::MidBody, true, 2),
    (Way::HalfHead(Leaving::Reset), true, 3),
    (Way::Silent, true, 1),
    (Way::Garbage, true, 1),
];

/// One way to use a connection.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// Two requests, both answered.
    Answered(Leaving),
    /// One request that asks for the connection to be closed.
    ClosedByServer,
    /// Reset in the middle of a long body.
    MidBody,
    /// A part of a request's head, or of a handshake.
    HalfHead(Leaving),
    /// Not a byte, then a reset.
    Silent,
    /// What is neither HTTP nor TLS.
    Garbage,
    /// Reset while the origin is being asked.
    Abandoned,
}

/// How a client leaves.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    /// In order.
    Close,
    /// With a RST.
    Reset,
}

/// Whom to bother.
#[derive(Debug)]
pub struct Churn<'a> {
    /// Where plain connections go.
    pub plain: SocketAddr,
    /// Where those with TLS go.
    pub secure: SocketAddr,
    /// With what they are made.
    pub tls: Vec<Arc<ClientConfig>>,
    /// Path of a short object, and the object.
    pub short: (&'a str, Object),
    /// Path of a long one, of some megabytes.
    pub long: (&'a str, Object),
    /// Path of one that takes its origin a while, each time.
    pub slow: &'a str,
}

impl Churn<'_> {
    /// Makes so many connections; returns how many of each kind. Panics at a wrong byte and at an answer that does not come.
    pub fn run(&self, connections: usize, rng: &mut Rng) -> BTreeMap<String, u64> {
        let (left, counts) = (AtomicUsize::new(connections), Mutex::new(BTreeMap::new()));
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                let (mut rng, left, counts) = (rng.fork(), &left, &counts);
                scope.spawn(move || {
                    let mut own = BTreeMap::<String, u64>::new();
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                        let (way, secure) = choose(&mut rng);
                        let did = if secure { self.secure(way, &mut rng) } else { self.plain(way, &mut rng) };
                        let kind = format!("{}{way:?}", if secure { "TLS, " } else { "" });
                        did.unwrap_or_else(|error| panic!("{kind}: {error}"));
                        *own.entry(kind).or_default() += 1;
                    }
                    let mut counts = counts.lock().expect("no client panics while it holds this");
                    own.into_iter().for_each(|(kind, n)| *counts.entry(kind).or_default() += n);
                });
            }
        });
        counts.into_inner().expect("no client panics while it holds this")
    }

    fn plain(&self, way: Way, rng: &mut Rng) -> io::Result<()> {
        let mut conn = Conn::open_from(self.plain, Some(anywhere(rng)), None)?;
        let stream = conn.stream().try_clone()?;
        match way {
            Way::Answered(leaving) => {
                for _ in 0..2 {
                    self.judge(&conn.ask(&Request::get(self.short.0)).map_err(io::Error::other)?.body)?;
                }
                leave(&stream, leaving);
            }
            Way::ClosedByServer => {
                let request = Request::get(self.short.0).header("Connection", "close");
                self.judge(&conn.ask(&request).map_err(io::Error::other)?.body)?;
                conn.wait_for_close(PATIENCE).map_err(|_| ErrorKind::TimedOut)?;
            }
            _ => self.misbehave(&stream, &stream, way, rng)?,
        }
        Ok(())
    }

    fn secure(&self, way: Way, rng: &mut Rng) -> io::Result<()> {
        let socket = Conn::open_from(self.secure, Some(anywhere(rng)), None)?.stream().try_clone()?;
        let config = rng.pick(&self.tls);
        match way {
            Way::HalfHead(_) => {
                let mut hello = Vec::new();
                let name = "edge.test".try_into().map_err(io::Error::other)?;
                let mut session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                session.write_tls(&mut hello)?;
                // Whole ones too: then it leaves in the middle of the handshake.
                hello.truncate(rng.between(1, 2 * hello.len() as u64) as usize);
                (&socket).write_all(&hello)?;
                pause(rng);
                leave(&socket, Leaving::Reset);
            }
            Way::Silent | Way::Garbage => self.misbehave(&socket, &socket, way, rng)?,
            Way::MidBody => {
                let stream = tls::over(socket.try_clone()?, config, "edge.test")?;
                self.misbehave(stream, &socket, way, rng)?;
            }
            _ => {
                let mut stream = tls::over(socket.try_clone()?, config, "edge.test")?;
                stream.write_all(&Request::get(self.short.0).bytes())?;
                let mut got = vec![0; self.short.1.size as usize + 4096];
                let mut len = 0;
                let end = loop {
                    len += stream.read(&mut got[len..])?;
                    let head = got[..len].windows(4).position(|window| window == b"\r\n\r\n");
                    if let Some(at) = head.filter(|at| len >= at + 4 + self.short.1.size as usize) {
                        break at + 4;
                    }
                };
                self.judge(&got[end..len])?;
                if let Way::Answered(Leaving::Close) = way {
                    stream.conn.send_close_notify();
                    stream.flush()?;
                }
                leave(&socket, if let Way::Answered(leaving) = way { leaving } else { Leaving::Reset });
            }
        }
        Ok(())
    }

    fn judge(&self, body: &[u8]) -> io::Result<()> {
        let object = &self.short.1;
        let right = body.len() as u64 == object.size && object.is_right(0, 0, body);
        if right { Ok(()) } else { Err(io::Error::other(format!("{} wrong bytes", body.len()))) }
    }

    /// What needs no answer. `socket` is what is under `stream`.
    fn misbehave(&self, mut stream: impl ReadWrite, socket: &TcpStream, way: Way, rng: &mut Rng) -> io::Result<()> {
        match way {
            Way::MidBody => {
                stream.write_all(&Request::get(self.long.0).bytes())?;
                let (mut left, mut buffer) = (rng.below(300_000), vec![0; 16 << 10]);
                while left > 0 {
                    let read = stream.read(&mut buffer)? as u64;
                    if read == 0 {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                    left = left.saturating_sub(read);
                }
                leave(socket, Leaving::Reset);
            }
            Way::HalfHead(leaving) => {
                let head = Request::get(self.short.0).header("X", "y").bytes();
                stream.write_all(&head[..rng.between(1, head.len() as u64 - 1) as usize])?;
                pause(rng);
                leave(socket, leaving);
            }
            Way::Garbage => {
                let noise: Vec<u8> =
                    (0..rng.between(1, 3000)).map(|_| rng.next_u64() as u8).chain(*b"\r\n\r\n").collect();
                // It may be thrown out in the middle of it.
                drop(stream.write_all(&noise));
                drop(socket.shutdown(std::net::Shutdown::Write));
                let mut rest = Vec::new();
                match stream.read_to_end(&mut rest) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                    _ => leave(socket, Leaving::Reset),
                }
            }
            Way::Abandoned => {
                stream.write_all(&Request::get(self.slow).bytes())?;
                thread::sleep(Duration::from_millis(rng.below(5)));
                leave(socket, Leaving::Reset);
            }
            _ => {
                pause(rng);
                leave(socket, Leaving::Reset);
            }
        }
        Ok(())
    }
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// Long enough for some to be noticed before they are gone, short enough for others not to be.
fn pause(rng: &mut Rng) {
    if rng.one_in(2) {
        thread::sleep(Duration::from_micros(rng.below(2000)));
    }
}

fn choose(rng: &mut Rng) -> (Way, bool) {
    let mut left = rng.below(WAYS.iter().map(|(.., share)| share).sum());
    for (way, secure, share) in WAYS {
        match left.checked_sub(*share) {
            Some(rest) => left = rest,
            None => return (*way, *secure),
        }
    }
    (Way::Silent, false)
}

/// Has the socket leave so once it is dropped.
fn leave(socket: &TcpStream, leaving: Leaving) {
    if let Leaving::Reset = leaving {
        reset_on_drop(socket);
    }
}
