//! Many clients with an allocation each, a peer, and the lanes between them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use shoal_stun::message::CHANNELS;
use shoal_sys::udp::ReceiveBatch;

use super::dance::{Ask, Client, Step};
use super::ends::{Ends, Sending};
use super::lanes::Lane;

/// Clients that ask at the same time.
const ASKING: usize = 128;

/// A request without an answer is sent again after that, [`TRIES`] times in all (RFC 8489 section 6.2.1 waits longer).
const AGAIN: Duration = Duration::from_millis(250);

/// See [`AGAIN`].
const TRIES: u32 = 12;

/// Answers taken at once from the socket of one client, and from that of all.
const ANSWERS: [usize; 2] = [4, ASKING];

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

/// Clients, and what they know of the server.
pub struct Field {
    server: Server,
    clients: Vec<Client>,
    /// What came of the last answer to each, until it is looked at.
    steps: Vec<Step>,
    ends: Ends,
    received: ReceiveBatch,
}

impl Field {
    /// Opens sockets for so many clients and their peer; asks for nothing.
    ///
    /// # Errors
    /// There are too many, or the kernel has no more.
    pub fn new(server: Server, clients: usize, sending: Sending) -> anyhow::Result<Self> {
        let ends = Ends::open(server.address, clients, sending)?;
        let client = |seed| Client::new(&server.username, &server.password, seed as u32);
        let [one, all] = ANSWERS;
        Ok(Self {
            clients: (0..clients).map(client).collect(),
            server,
            steps: vec![Step::Other; clients],
            received: ReceiveBatch::new(if ends.sending() == Sending::Frames { all } else { one }),
            ends,
        })
    }

    /// Where lanes begin and end.
    pub fn ends(&mut self) -> &mut Ends {
        &mut self.ends
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
                let request = field.clients[n].request(ask);
                field.send(n, &request)?;
                open.push((n, ask, Instant::now(), 1));
            }
            Ok::<_, anyhow::Error>(())
        };
        for _ in 0..ASKING {
            next(self, &mut open)?;
        }
        let mut place = 0;
        while !open.is_empty() {
            place %= open.len();
            let (n, ask, since, tries) = open[place];
            // Where one socket is that of all clients, one look at it is one for all.
            if place == 0 || self.ends.sending() == Sending::Sockets {
                self.receive(n)?;
            }
            let step = std::mem::replace(&mut self.steps[n], Step::Other);
            if step == Step::Granted {
                open.swap_remove(place);
                next(self, &mut open)?;
                continue;
            }
            let late = since.elapsed() > AGAIN;
            anyhow::ensure!(!late || tries < TRIES, "client {n}: {ask:?} was not granted in {:?}", AGAIN * TRIES);
            if step == Step::Again || late {
                let client = &mut self.clients[n];
                let request = if step == Step::Again { client.request(ask) } else { client.repeat(ask) };
                self.send(n, &request)?;
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
        let peer = self.ends.peer();
        let server = self.server.address;
        let mut lanes = Vec::new();
        for n in 0..self.clients.len() {
            let (mine, others) = (self.ends.address(n), self.other_end(n, shape)?);
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

    fn relayed(&self, n: usize) -> anyhow::Result<SocketAddr> {
        let client = self.clients.get(n).with_context(|| format!("client {n} has no partner"))?;
        client.relayed().with_context(|| format!("client {n} has no allocation"))
    }

    fn other_end(&self, n: usize, shape: Shape) -> anyhow::Result<SocketAddr> {
        match shape {
            Shape::Peer | Shape::Direct => Ok(self.ends.address(self.ends.peer())),
            Shape::Pairs => self.relayed(n ^ 1),
        }
    }

    /// What is lost on the way is sent again.
    fn send(&mut self, n: usize, request: &[u8]) -> anyhow::Result<()> {
        Ok(self.ends.send(n, self.server.address, request)?)
    }

    /// Takes what has come to the socket of client `n`.
    fn receive(&mut self, n: usize) -> anyhow::Result<()> {
        let socket = self.ends.socket(n);
        self.received.receive(&self.ends.sockets()[socket])?;
        for train in self.received.trains() {
            let Some(n) = self.ends.end(socket, &train) else { continue };
            let (Some(client), Some(last)) = (self.clients.get_mut(n), self.steps.get_mut(n)) else { continue };
            for datagram in train.datagrams() {
                match client.handle(datagram).with_context(|| format!("client {n}"))? {
                    Step::Other => {}
                    step => *last = step,
                }
            }
        }
        Ok(())
    }
}

/// Each client's channel is another, so that what comes to the wrong one is seen.
fn channel(client: usize) -> u16 {
    let many = usize::from(CHANNELS.end() - CHANNELS.start()) + 1;
    CHANNELS.start() + (client % many) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(clients: usize) -> Field {
        let server =
            Server { address: "127.0.0.1:9".parse().unwrap(), username: String::new(), password: String::new() };
        Field::new(server, clients, Sending::Sockets).unwrap()
    }

    #[test]
    fn direct_lanes_lead_from_each_client_to_the_peer_and_back() {
        let field = field(3);
        let up = field.lanes(Shape::Direct, Direction::Up).unwrap();
        assert!(
            up.iter().enumerate().all(|(n, lane)| (lane.from, lane.at, lane.source) == (n, 3, field.ends.address(n)))
        );
        let down = field.lanes(Shape::Direct, Direction::Down).unwrap();
        assert!(
            down.iter().enumerate().all(|(n, lane)| (lane.from, lane.at, lane.to) == (3, n, field.ends.address(n)))
        );
        assert_eq!(field.lanes(Shape::Direct, Direction::Both).unwrap().len(), 6);
    }

    #[test]
    fn without_allocations_there_are_no_lanes_through_a_server() {
        assert!(field(2).lanes(Shape::Peer, Direction::Up).is_err());
        assert!(field(3).lanes(Shape::Pairs, Direction::Up).is_err());
    }
}
