//! Many clients with an allocation each, a peer, and the lanes between them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use shoal_stun::message::CHANNELS;
use shoal_sys::net::local_address;
use shoal_sys::udp::{Buffers, ReceiveBatch, SendBatch, own_socket};

use super::dance::{Ask, Client, Step};
use super::lanes::Lane;

/// Allocations at most: relay ports of one address, with some room.
pub const ALLOCATIONS_MAX: usize = 12_000;

/// Clients that ask at the same time.
const ASKING: usize = 128;

/// A request without an answer is sent again after that, [`TRIES`] times in all (RFC 8489 section 6.2.1 waits longer).
const AGAIN: Duration = Duration::from_millis(250);

/// See [`AGAIN`].
const TRIES: u32 = 12;

/// The peer takes what comes of all allocations.
const PEER: Buffers = Buffers { receive: 32 << 20, send: 8 << 20 };

/// A client has one allocation.
const CLIENT: Buffers = Buffers { receive: 8 << 20, send: 8 << 20 };

/// Clients at one address of 127.0.0.0/8: they come from many.
const PER_ADDRESS: usize = 100;

/// Where the server is, and as whom to ask.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its STUN and TURN port.
    pub address: SocketAddr,
    /// A name it knows.
    pub username: String,
    /// And its password.
    pub password: String,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A peer without a relay, the same for all.
    Peer,
    /// Another client, at its relayed address: each packet is relayed twice.
    Pairs,
    /// The same peer without any server: what the generator can do.
    Direct,
}

/// Which way payloads go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From clients to the peer.
    Up,
    /// From the peer to clients.
    Down,
    /// Both.
    Both,
}

/// Clients in the order of their sockets, and a peer's socket behind those.
pub struct Field {
    server: Server,
    clients: Vec<Client>,
    sockets: Vec<OwnedFd>,
    locals: Vec<SocketAddr>,
    received: ReceiveBatch,
}

impl Field {
    /// Opens sockets for so many clients and their peer; asks for nothing.
    ///
    /// # Errors
    /// There are too many, or the kernel has no more.
    pub fn new(server: Server, clients: usize) -> anyhow::Result<Self> {
        anyhow::ensure!((1..=ALLOCATIONS_MAX).contains(&clients), "between 1 and {ALLOCATIONS_MAX} allocations");
        let ip = local_ip(server.address)?;
        let open = |ip, buffers| own_socket(SocketAddr::new(ip, 0), buffers).context("cannot open a socket");
        let clients_at = |n| open(client_ip(ip, std::process::id(), n), CLIENT);
        let mut sockets = (0..clients).map(clients_at).collect::<anyhow::Result<Vec<_>>>()?;
        sockets.push(open(ip, PEER)?);
        let locals = sockets.iter().map(local_address).collect::<io::Result<Vec<_>>>()?;
        let client = |seed| Client::new(&server.username, &server.password, seed as u32);
        Ok(Self {
            clients: (0..clients).map(client).collect(),
            server,
            sockets,
            locals,
            received: ReceiveBatch::new(4),
        })
    }

    /// The clients' addresses.
    pub fn locals(&self) -> &[SocketAddr] {
        &self.locals[..self.clients.len()]
    }

    /// Makes the clients in `range` ask, [`ASKING`] at a time. How long it took.
    ///
    /// # Errors
    /// One of them was refused, or got no answer.
    pub fn ask(
        &mut self,
        range: std::ops::Range<usize>,
        what: impl Fn(&Self, usize) -> anyhow::Result<Ask>,
    ) -> anyhow::Result<Duration> {
        let asks = range.clone().map(|n| what(self, n)).collect::<anyhow::Result<Vec<_>>>()?;
        let start = Instant::now();
        let mut waiting = range.clone().zip(asks);
        // Who waits, for what, since when, and for which time.
        let mut open: Vec<(usize, Ask, Instant, u32)> = Vec::with_capacity(ASKING);
        let mut next = |field: &mut Self, open: &mut Vec<_>| {
            if let Some((n, ask)) = waiting.next() {
                field.send(n, ask);
                open.push((n, ask, Instant::now(), 1));
            }
        };
        for _ in 0..ASKING {
            next(self, &mut open);
        }
        let mut place = 0;
        while !open.is_empty() {
            place %= open.len();
            let (n, ask, since, tries) = open[place];
            let step = self.take(n).with_context(|| format!("client {n}"))?;
            if step == Step::Granted {
                open.swap_remove(place);
                next(self, &mut open);
                continue;
            }
            let late = since.elapsed() > AGAIN;
            anyhow::ensure!(!late || tries < TRIES, "client {n}: {ask:?} was not granted in {:?}", AGAIN * TRIES);
            if step == Step::Again || late {
                self.send(n, ask);
                open[place] = (n, ask, Instant::now(), tries + 1);
            }
            place += 1;
        }
        Ok(start.elapsed())
    }

    /// Allocations for the clients in `range`. How long it took.
    ///
    /// # Errors
    /// As [`Field::ask`].
    pub fn allocate(&mut self, range: std::ops::Range<usize>) -> anyhow::Result<Duration> {
        self.ask(range, |_, _| Ok(Ask::Allocate))
    }

    /// A permission and a channel for each client in `range` that has an allocation. How long it took.
    ///
    /// # Errors
    /// As [`Field::ask`].
    pub fn bind(&mut self, range: std::ops::Range<usize>, shape: Shape) -> anyhow::Result<Duration> {
        let permitted = self.ask(range.clone(), |field, n| Ok(Ask::Permit(field.other_end(n, shape)?)))?;
        Ok(permitted + self.ask(range, |field, n| Ok(Ask::Bind(channel(n), field.other_end(n, shape)?)))?)
    }

    /// The lanes between all clients and their other ends.
    ///
    /// # Errors
    /// A client has no allocation, or its partner has none.
    pub fn lanes(&self, shape: Shape, direction: Direction) -> anyhow::Result<Vec<Lane>> {
        let peer = self.clients.len();
        let server = self.server.address;
        let mut lanes = Vec::new();
        for n in 0..self.clients.len() {
            let (mine, others) = (self.locals[n], self.other_end(n, shape)?);
            let (up, down) = match shape {
                Shape::Direct => (
                    Lane { from: n, to: others, out: None, at: peer, into: None, source: mine },
                    Lane { from: peer, to: mine, out: None, at: n, into: None, source: others },
                ),
                Shape::Peer => {
                    let relayed = self.relayed(n)?;
                    let channel = Some(channel(n));
                    (
                        Lane { from: n, to: server, out: channel, at: peer, into: None, source: relayed },
                        Lane { from: peer, to: relayed, out: None, at: n, into: channel, source: server },
                    )
                }
                Shape::Pairs => {
                    let to = n ^ 1;
                    let (out, into) = (Some(channel(n)), Some(channel(to)));
                    let up = Lane { from: n, to: server, out, at: to, into, source: server };
                    (up, up)
                }
            };
            // Of pairs each is the other's peer, so their ways up are all there are.
            if shape == Shape::Pairs || direction != Direction::Down {
                lanes.push(up);
            }
            if shape != Shape::Pairs && direction != Direction::Up {
                lanes.push(down);
            }
        }
        Ok(lanes)
    }

    /// Ends the allocations of the clients in `range`.
    ///
    /// # Errors
    /// As [`Field::ask`].
    pub fn release(&mut self, range: std::ops::Range<usize>) -> anyhow::Result<()> {
        self.ask(range, |_, _| Ok(Ask::Release)).map(drop)
    }

    /// Duplicates of the sockets, for an engine.
    ///
    /// # Errors
    /// The kernel has no more descriptors.
    pub fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.sockets.iter().map(OwnedFd::try_clone).collect()
    }

    fn relayed(&self, n: usize) -> anyhow::Result<SocketAddr> {
        let client = self.clients.get(n).with_context(|| format!("client {n} has no partner"))?;
        client.relayed().with_context(|| format!("client {n} has no allocation"))
    }

    fn other_end(&self, n: usize, shape: Shape) -> anyhow::Result<SocketAddr> {
        match shape {
            Shape::Peer | Shape::Direct => Ok(self.locals[self.clients.len()]),
            Shape::Pairs => self.relayed(n ^ 1),
        }
    }

    fn send(&mut self, n: usize, ask: Ask) {
        let request = self.clients[n].request(ask);
        let mut batch = SendBatch::default();
        batch.push(self.server.address, [&request[..]], request.len());
        // What the kernel does not take is sent again, like what is lost.
        batch.send(&self.sockets[n]);
    }

    fn take(&mut self, n: usize) -> anyhow::Result<Step> {
        self.received.receive(&self.sockets[n])?;
        let mut step = Step::Other;
        for datagram in self.received.trains().flat_map(|train| train.datagrams()) {
            match self.clients[n].handle(datagram)? {
                Step::Other => {}
                answer => step = answer,
            }
        }
        Ok(step)
    }
}

/// Each client's channel is another, so that what comes to the wrong one is seen.
fn channel(client: usize) -> u16 {
    let many = usize::from(CHANNELS.end() - CHANNELS.start()) + 1;
    CHANNELS.start() + (client % many) as u16
}

/// On loopback each process has other addresses than those before it, whose five-tuples a server may still remember.
fn client_ip(ip: IpAddr, process: u32, client: usize) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => {
            let address = process.wrapping_mul(251).wrapping_add((client / PER_ADDRESS) as u32);
            Ipv4Addr::new(127, 1 + (address >> 8 & 0x7f) as u8, address as u8, 1).into()
        }
        other => other,
    }
}

/// The address of ours from which the server is reached.
fn local_ip(server: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let probe = std::net::UdpSocket::bind((any, 0))?;
    probe.connect(server)?;
    Ok(probe.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(clients: usize) -> Field {
        let server =
            Server { address: "127.0.0.1:9".parse().unwrap(), username: String::new(), password: String::new() };
        Field::new(server, clients).unwrap()
    }

    #[test]
    fn direct_lanes_lead_from_each_client_to_the_peer_and_back() {
        let field = field(3);
        let up = field.lanes(Shape::Direct, Direction::Up).unwrap();
        assert!(up.iter().enumerate().all(|(n, lane)| (lane.from, lane.at, lane.source) == (n, 3, field.locals[n])));
        let down = field.lanes(Shape::Direct, Direction::Down).unwrap();
        assert!(down.iter().enumerate().all(|(n, lane)| (lane.from, lane.at, lane.to) == (3, n, field.locals[n])));
        assert_eq!(field.lanes(Shape::Direct, Direction::Both).unwrap().len(), 6);
    }

    #[test]
    fn without_allocations_there_are_no_lanes_through_a_server() {
        assert!(field(2).lanes(Shape::Peer, Direction::Up).is_err());
        assert!(field(3).lanes(Shape::Pairs, Direction::Up).is_err());
    }

    #[test]
    fn clients_of_two_processes_have_other_addresses() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let of = |process| (0..ALLOCATIONS_MAX).map(move |n| client_ip(ip, process, n)).collect::<Vec<_>>();
        let (mut first, second) = (of(1000), of(1001));
        assert!(first.iter().all(|ip| ip.is_loopback() && !second.contains(ip)));
        assert_eq!(first[0], first[PER_ADDRESS - 1]);
        first.dedup();
        assert_eq!(first.len(), ALLOCATIONS_MAX / PER_ADDRESS);
        let other: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(client_ip(other, 1, 500), other);
    }

    #[test]
    fn too_many_clients_are_refused() {
        let server =
            Server { address: "127.0.0.1:9".parse().unwrap(), username: String::new(), password: String::new() };
        assert!(Field::new(server.clone(), ALLOCATIONS_MAX + 1).is_err());
        assert!(Field::new(server, 0).is_err());
    }
}
