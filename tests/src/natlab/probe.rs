//! Bare datagrams that show what a NAT does, without any protocol that could be wrong about it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::{Behaviour, Dependence, NatLab, Side};

/// Time for a datagram that comes at all: there is no delay but a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time for those that may not come, once one that must has come.
const QUIET: Duration = Duration::from_millis(150);

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(40);

/// Which family to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Side {
    /// The client's own address.
    pub fn client_ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.client_address().into(),
            Family::V6 => self.client_address_v6().expect("the side was planned with IPv6").into(),
        }
    }

    /// A new socket of the client.
    pub fn socket(&self, family: Family) -> UdpSocket {
        self.client().udp((self.client_ip(family), 0).into())
    }

    /// What its NAT does; nothing if no UDP comes through.
    pub fn probe(&self, lab: &NatLab, family: Family) -> Option<Behaviour> {
        let addresses = match family {
            Family::V4 => lab.addresses(),
            Family::V6 => lab.addresses_v6(),
        };
        let one = lab.hub().udp((addresses[0], 0).into());
        let other_port = lab.hub().udp((addresses[0], 0).into());
        let other_address = lab.hub().udp((addresses[1], 0).into());

        let client = self.socket(family);
        let seen = seen_by(&client, &one)?;
        let mapping = if seen_by(&client, &other_port)? != seen {
            Dependence::AddressAndPort
        } else if seen_by(&client, &other_address)? != seen {
            Dependence::Address
        } else {
            Dependence::Independent
        };

        let asking = self.socket(family);
        let mapped = seen_by(&asking, &one)?;
        for (server, text) in [(&other_address, "address"), (&other_port, "port"), (&one, "same")] {
            server.send_to(text.as_bytes(), mapped).expect("the hub has a route");
        }
        let heard = hear(&asking);
        assert!(heard.contains(&"same".to_owned()), "an answer did not come through: {heard:?}");
        let filtering = match (heard.contains(&"address".to_owned()), heard.contains(&"port".to_owned())) {
            (true, true) => Dependence::Independent,
            (false, true) => Dependence::Address,
            (false, false) => Dependence::AddressAndPort,
            (true, false) => panic!("a filter that no standard knows: {heard:?}"),
        };
        let transparent = Some(seen) == client.local_addr().ok();
        Some(Behaviour { transparent, mapping, filtering })
    }
}

/// The address that `server` sees `client` send from; nothing if it sees nothing.
pub fn seen_by(client: &UdpSocket, server: &UdpSocket) -> Option<SocketAddr> {
    let to = server.local_addr().expect("a bound socket has an address");
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 64];
    // A datagram of somebody else is none of ours.
    let text = format!("{:?}", client.local_addr());
    while Instant::now() < deadline {
        // Refused by an ICMP message for the one before.
        drop(client.send_to(text.as_bytes(), to));
        while let Some((length, from)) = receive(server, &mut buffer, PAUSE) {
            if &buffer[..length] == text.as_bytes() {
                return Some(from);
            }
        }
    }
    None
}

/// What comes within a moment, as text; `same` is what has to come.
fn hear(socket: &UdpSocket) -> Vec<String> {
    let mut heard = Vec::new();
    let mut buffer = [0; 64];
    let deadline = Instant::now() + PATIENCE;
    loop {
        match receive(socket, &mut buffer, QUIET) {
            Some((length, _)) => heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            None if heard.contains(&"same".to_owned()) || Instant::now() > deadline => return heard,
            None => {}
        }
    }
}

/// The next datagram within a time.
fn receive(socket: &UdpSocket, buffer: &mut [u8], within: Duration) -> Option<(usize, SocketAddr)> {
    socket.set_read_timeout(Some(within)).expect("the time is not zero");
    match socket.recv_from(buffer) {
        Ok(received) => Some(received),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => None,
        Err(error) => panic!("cannot receive: {error}"),
    }
}

/// Whether two clients who were told each other's addresses by `server` reach each other.
pub fn punch(one: &Side, other: &Side, server: &UdpSocket) -> bool {
    let sockets = [one, other].map(|side| side.socket(Family::V4));
    match [seen_by(&sockets[0], server), seen_by(&sockets[1], server)] {
        [Some(first), Some(second)] => knock(&sockets, [second, first]),
        _ => false,
    }
}

/// Whether two sockets reach each other that have been told of `peers`. They send in turns, answer whoever writes, and
/// give up soon.
pub fn knock(sockets: &[UdpSocket; 2], mut peers: [SocketAddr; 2]) -> bool {
    let mut answered = [false; 2];
    let mut buffer = [0; 64];
    let deadline = Instant::now() + PATIENCE;
    while answered != [true; 2] {
        if Instant::now() > deadline {
            return false;
        }
        for (socket, peer) in sockets.iter().zip(peers) {
            // Refused by an ICMP message for the one before.
            drop(socket.send_to(b"knock", peer));
        }
        for at in 0..2 {
            while let Some((length, from)) = receive(&sockets[at], &mut buffer, PAUSE / 4) {
                if &buffer[..length] == b"answer" {
                    answered[at] = true;
                } else {
                    peers[at] = from;
                    drop(sockets[at].send_to(b"answer", from));
                }
            }
        }
    }
    true
}

/// Of `count` datagrams of `length` bytes, sent `every` so often to `peer`, how many come, and how long sending took.
pub fn arrive(
    from: &UdpSocket,
    to: &UdpSocket,
    peer: SocketAddr,
    (count, length): (u32, usize),
    every: Duration,
) -> (u32, Duration) {
    to.set_nonblocking(true).expect("a socket of ours");
    let (payload, mut buffer, mut arrived) = (vec![0; length], vec![0; length], 0);
    let started = Instant::now();
    for nth in 0..count {
        thread::sleep((every * nth).saturating_sub(started.elapsed()));
        from.send_to(&payload, peer).unwrap_or_else(|error| panic!("cannot send to {peer}: {error}"));
        while to.recv(&mut buffer).is_ok() {
            arrived += 1;
        }
    }
    let took = started.elapsed();
    to.set_nonblocking(false).expect("a socket of ours");
    while receive(to, &mut buffer, QUIET).is_some() {
        arrived += 1;
    }
    (arrived, took)
}
