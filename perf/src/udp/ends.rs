//! The ends of lanes: addresses that datagrams leave from and come to, and the sockets behind them.
//!
//! Either each end has a socket, or one socket receives for all clients, each at an address of its own, and frames are sent
//! for all ends. The latter is what one core can offer most by, one by one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use shoal_sys::net::local_address;
use shoal_sys::udp::{Buffers, ReceiveBatch, SendBatch, Train, everywhere_socket, own_socket, queues};

use super::frames::Frames;

/// Clients at most: relay ports of one address, with some room.
pub const CLIENTS_MAX: usize = 12_000;

/// A peer, or a socket for all clients, takes what comes of all allocations.
const MANY: Buffers = Buffers { receive: 32 << 20, send: 8 << 20 };

/// A client has one allocation.
const CLIENT: Buffers = Buffers { receive: 8 << 20, send: 8 << 20 };

/// Clients with a socket each at one address of 127.0.0.0/8.
const PER_ADDRESS: usize = 100;

/// Addresses of 127.0.0.0/8 that a process has for itself, as a power of two.
const BLOCK_BITS: u32 = 14;

/// Such blocks. The first has the address that servers are at, the last has the one that is for broadcasts.
const BLOCKS: u32 = (1 << (24 - BLOCK_BITS)) - 2;

// All clients, the peer, and what ends in zero.
const _: () = assert!(CLIENTS_MAX + 2 < 1 << BLOCK_BITS);

/// Time for a frame to arrive, if frames do at all.
const ARRIVE: Duration = Duration::from_millis(100);

/// Places in `Ends::sockets`, where one is for all clients.
const ALL_CLIENTS: usize = 0;
const PEER: usize = 1;

/// What datagrams are sent by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    /// Each end's socket, by messages of one datagram or of a train.
    Sockets,
    /// Frames, each with one datagram, if the server is on loopback and the kernel lets us; else sockets.
    Frames,
}

/// Clients in their order, and a peer behind them.
pub struct Ends {
    addresses: Vec<SocketAddr>,
    sockets: Vec<OwnedFd>,
    /// Where there is one socket for all clients.
    frames: Option<Frames>,
    runs: u32,
}

impl Ends {
    /// Opens sockets for so many clients of a server, and for their peer.
    ///
    /// # Errors
    /// There are too many, or the kernel has no more.
    pub fn open(server: SocketAddr, clients: usize, sending: Sending) -> anyhow::Result<Self> {
        anyhow::ensure!((1..=CLIENTS_MAX).contains(&clients), "between 1 and {CLIENTS_MAX} clients are possible");
        let ip = local_ip(server)?;
        if sending == Sending::Frames
            && ip == Ipv4Addr::LOCALHOST
            && let Ok(frames) = Frames::open()
            && let Some(ends) = Self::crowd(clients, frames).context("cannot open a socket")?
        {
            return Ok(ends);
        }
        let open = |ip, buffers| own_socket(SocketAddr::new(ip, 0), buffers).context("cannot open a socket");
        let client = |n| open(client_ip(ip, std::process::id(), n), CLIENT);
        let mut sockets = (0..clients).map(client).collect::<anyhow::Result<Vec<_>>>()?;
        sockets.push(open(peer_ip(ip, std::process::id()), MANY)?);
        let addresses = sockets.iter().map(local_address).collect::<io::Result<_>>()?;
        Ok(Self { addresses, sockets, frames: None, runs: 0 })
    }

    /// One socket for all clients. `None`: frames do not arrive, for the kernel takes none from loopback addresses that did not
    /// come by a route, unless `net.ipv4.conf.lo.route_localnet` is set.
    fn crowd(clients: usize, frames: Frames) -> io::Result<Option<Self>> {
        let process = std::process::id();
        let everywhere = everywhere_socket(MANY)?;
        let port = local_address(&everywhere)?.port();
        let peer = own_socket(SocketAddr::from((block(process, 0), 0)), MANY)?;
        let client = |n| SocketAddr::from((block(process, 1 + n as u32), port));
        let addresses = (0..clients).map(client).chain([local_address(&peer)?]).collect();
        let mut ends = Self { addresses, sockets: vec![everywhere, peer], frames: Some(frames), runs: 0 };
        Ok(ends.arrives()?.then_some(ends))
    }

    /// Whether a frame from a client comes to the peer.
    fn arrives(&mut self) -> io::Result<bool> {
        self.send(0, self.addresses[self.peer()], b"arrives?")?;
        let mut received = ReceiveBatch::new(1);
        let start = Instant::now();
        while start.elapsed() < ARRIVE {
            if received.receive(&self.sockets[PEER])? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Addresses of the clients.
    pub fn clients(&self) -> &[SocketAddr] {
        &self.addresses[..self.peer()]
    }

    /// The peer, which is the last end.
    pub fn peer(&self) -> usize {
        self.addresses.len() - 1
    }

    /// The address of an end.
    pub fn address(&self, end: usize) -> SocketAddr {
        self.addresses[end]
    }

    /// What is sent by.
    pub fn sending(&self) -> Sending {
        if self.frames.is_some() { Sending::Frames } else { Sending::Sockets }
    }

    /// Sends one datagram at once. What the kernel has no room for is lost.
    ///
    /// # Errors
    /// The device's.
    pub fn send(&mut self, from: usize, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        if self.frames.is_some() {
            if let Some(payload) = self.frame(from, to, datagram.len()) {
                payload.copy_from_slice(datagram);
            }
            return self.send_frames().map(drop);
        }
        let mut batch = SendBatch::default();
        batch.push(to, [datagram], datagram.len());
        batch.send(&self.sockets[from]);
        Ok(())
    }

    /// Where the payload of a frame for the next [`send_frames`](Self::send_frames) is written. `None`: it is too long, there
    /// is no room for one more, or nothing is sent by frames.
    pub(super) fn frame(&mut self, from: usize, to: SocketAddr, len: usize) -> Option<&mut [u8]> {
        // There are frames only if all ends are on IPv4.
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (self.addresses[from], to) else { return None };
        self.frames.as_mut()?.datagram(from, to, len)
    }

    /// Sends what was written. How many datagrams the device did not take.
    pub(super) fn send_frames(&mut self) -> io::Result<u64> {
        self.frames.as_mut().map_or(Ok(0), Frames::send)
    }

    /// The sockets that ends receive by.
    pub(super) fn sockets(&self) -> &[OwnedFd] {
        &self.sockets
    }

    /// The place of an end's socket among them.
    pub(super) fn socket(&self, end: usize) -> usize {
        match self.frames {
            None => end,
            Some(_) if end == self.peer() => PEER,
            Some(_) => ALL_CLIENTS,
        }
    }

    /// The end that a train came to, at one of the sockets; `None` when there is nobody at that address.
    pub(super) fn end(&self, socket: usize, train: &Train<'_>) -> Option<usize> {
        match (&self.frames, socket) {
            (None, _) => Some(socket),
            (Some(_), PEER) => Some(self.peer()),
            (Some(_), _) => {
                let SocketAddr::V4(first) = self.addresses.first()? else { return None };
                let place = train.destination()?.to_bits().checked_sub(first.ip().to_bits())? as usize;
                Some(place).filter(|place| *place < self.peer())
            }
        }
    }

    /// Datagrams that were dropped at the sockets since they were opened.
    pub(super) fn drops(&self) -> io::Result<u64> {
        self.sockets.iter().try_fold(0, |sum, socket| Ok(sum + u64::from(queues(socket)?.drops)))
    }

    /// Another number for each run over these ends.
    pub(super) fn next_run(&mut self) -> u32 {
        self.runs += 1;
        self.runs
    }
}

/// A process's own address of 127.0.0.0/8: other ones than those before it, whose five-tuples a server may still remember.
fn block(process: u32, place: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(127 << 24 | (1 + process % BLOCKS) << BLOCK_BITS | (1 + place))
}

/// Where a client with a socket of its own is.
fn client_ip(ip: IpAddr, process: u32, client: usize) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => block(process, 1 + (client / PER_ADDRESS) as u32).into(),
        other => other,
    }
}

/// Where the peer is: not where a server relays from, if that can be helped, for servers guard their own address.
fn peer_ip(ip: IpAddr, process: u32) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => block(process, 0).into(),
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

    const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

    #[test]
    fn clients_of_two_processes_have_other_addresses() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let of = |process| (0..CLIENTS_MAX).map(move |n| client_ip(ip, process, n)).collect::<Vec<_>>();
        let (mut first, second) = (of(1000), of(1001));
        assert!(first.iter().all(|ip| ip.is_loopback() && !second.contains(ip)));
        assert_eq!(first[0], first[PER_ADDRESS - 1]);
        first.dedup();
        assert_eq!(first.len(), CLIENTS_MAX / PER_ADDRESS);
        assert!(!first.contains(&peer_ip(ip, 1000)) && peer_ip(ip, 1000) != ip);
        let other: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!((client_ip(other, 1, 500), peer_ip(other, 1)), (other, other));
    }

    #[test]
    fn the_blocks_of_all_processes_are_within_loopback() {
        for process in [0, 1, BLOCKS - 1, BLOCKS, u32::MAX] {
            for place in [0, 1 + CLIENTS_MAX as u32] {
                let address = block(process, place);
                assert!(address.is_loopback() && address.octets()[1..] != [255; 3], "{address}");
                assert!(address > Ipv4Addr::new(127, 0, 63, 255), "{address}");
            }
        }
    }

    #[test]
    fn too_many_clients_are_refused() {
        assert!(Ends::open(SERVER, CLIENTS_MAX + 1, Sending::Sockets).is_err());
        assert!(Ends::open(SERVER, 0, Sending::Frames).is_err());
    }

    #[test]
    fn one_by_one_is_possible_everywhere() {
        // By frames or not, as the system lets us.
        for sending in [Sending::Frames, Sending::Sockets] {
            let mut ends = Ends::open(SERVER, 3, sending).unwrap();
            assert!(sending == Sending::Frames || ends.sending() == Sending::Sockets);
            let mut received = ReceiveBatch::new(4);
            for (from, to) in [(0, 3), (3, 1), (3, 2)] {
                ends.send(from, ends.address(to), b"hello").unwrap();
                let socket = ends.socket(to);
                let start = Instant::now();
                while received.receive(&ends.sockets()[socket]).unwrap() == 0 {
                    assert!(start.elapsed() < Duration::from_secs(10));
                }
                let train = received.trains().next().unwrap();
                assert_eq!((ends.end(socket, &train), train.source()), (Some(to), ends.address(from)));
                assert!(train.datagrams().eq([b"hello"]));
            }
        }
    }
}
