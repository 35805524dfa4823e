//! The socket around a [`Session`].

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use shoal_stun::nat::{Dialect, Timing};

use crate::discover::{Discovery, Found};
use crate::random::Random;
use crate::session::{Event, Session};
use crate::turn::MAX_DATAGRAM;

/// The longest wait for a datagram; a session that waits for nothing else looks at its time as often.
const WAIT: Duration = Duration::from_millis(500);

/// A socket and a clock.
#[derive(Debug)]
pub struct Shell {
    socket: UdpSocket,
    local: SocketAddr,
    started: Instant,
}

impl Shell {
    /// Binds a socket to the own address that `server` is reached from: whoever does not know it cannot tell that there is no
    /// NAT.
    ///
    /// # Errors
    /// There is no way to the server, or no free port.
    pub fn bind(server: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
        // Connecting a UDP socket sends nothing.
        let probe = UdpSocket::bind(any)?;
        probe.connect(server)?;
        let socket = UdpSocket::bind(SocketAddr::new(probe.local_addr()?.ip(), 0))?;
        let local = socket.local_addr()?;
        Ok(Self { socket, local, started: Instant::now() })
    }

    /// What the socket is bound to.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Milliseconds since the socket was bound.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A seed from the system.
    ///
    /// # Errors
    /// It has none.
    pub fn seed() -> io::Result<[u64; 2]> {
        let mut bytes = [[0; 8]; 2];
        File::open("/dev/urandom")?.read_exact(bytes.as_flattened_mut())?;
        Ok(bytes.map(u64::from_be_bytes))
    }

    /// Finds the type of the NAT in front of `server`.
    ///
    /// # Errors
    /// The socket's.
    pub fn discover(&self, dialect: Dialect, server: SocketAddr, timing: Timing) -> io::Result<Found> {
        let mut discovery = Discovery::new(dialect, server, self.local, timing, Random::new(Self::seed()?));
        let mut out = [0; MAX_DATAGRAM];
        loop {
            while let Some((to, length)) = discovery.poll_transmit(self.now(), &mut out) {
                self.send(to, out.get(..length).unwrap_or_default());
            }
            if let Some(found) = discovery.found() {
                return Ok(found.clone());
            }
            if let Some((from, length)) = self.receive(discovery.next_deadline(), &mut out)? {
                discovery.handle(self.now(), from, out.get(..length).unwrap_or_default());
            }
        }
    }

    /// Runs a session to its end; at `until`, milliseconds since the socket was bound, it is ended.
    ///
    /// # Errors
    /// The socket's.
    pub fn run(&self, session: &mut Session, until: u64, mut each: impl FnMut(&Session, Event)) -> io::Result<()> {
        let mut out = [0; MAX_DATAGRAM];
        loop {
            if self.now() >= until {
                session.leave(self.now());
            }
            while let Some((to, length)) = session.poll_transmit(self.now(), &mut out) {
                self.send(to, out.get(..length).unwrap_or_default());
            }
            while let Some(event) = session.poll_event() {
                each(session, event);
            }
            if session.is_over() {
                return Ok(());
            }
            let wake = session.next_deadline().into_iter().chain([until]).min();
            if let Some((from, length)) = self.receive(wake, &mut out)? {
                session.handle(self.now(), from, out.get(..length).unwrap_or_default());
            }
        }
    }

    /// What cannot be sent is lost, as it may be on its way, too.
    fn send(&self, to: SocketAddr, bytes: &[u8]) {
        drop(self.socket.send_to(bytes, to));
    }

    /// The next datagram, if one comes before `deadline`.
    fn receive(&self, deadline: Option<u64>, buffer: &mut [u8]) -> io::Result<Option<(SocketAddr, usize)>> {
        let wait = deadline.map_or(WAIT, |at| Duration::from_millis(at.saturating_sub(self.now())).min(WAIT));
        // A timeout of zero would be none.
        self.socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        match self.socket.recv_from(buffer) {
            Ok((length, from)) => Ok(Some((from, length))),
            // Nobody was there; or the time is over.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
