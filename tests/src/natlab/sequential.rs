//! A symmetric NAT for UDP over IPv4 that hands out its ports in order, as many carriers' do and Linux's does not.
//!
//! It sits on a TUN device between two routes of its namespace: what comes from inside is routed into the device, and
//! so is what is for the public address, which is nobody's; what it writes is routed on by the kernel.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use smoltcp::phy::{self, Device, Medium, RxToken, TunTapInterface, TxToken};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, UdpPacket};

use super::namespace::Namespace;

/// The TUN device.
pub(super) const DEVICE: &str = "tun";

/// The port of the first mapping: far from both ends, so that no test comes around.
pub const FIRST_PORT: u16 = 30_000;

/// How long the thread may not see that it should end.
const LOOK: Duration = Duration::from_millis(50);

/// Mappings that one NAT makes; what is beyond is dropped.
const MAX_MAPPINGS: usize = 16_384;

/// Which way a packet goes, and what is to be written into it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rewrite {
    source: SocketAddrV4,
    destination: SocketAddrV4,
}

/// The table of mappings, without any packets.
#[derive(Debug)]
pub(super) struct Mappings {
    public: Ipv4Addr,
    next: u16,
    step: i16,
    /// Public ports by the client's and the destination's address and port.
    ports: HashMap<(SocketAddrV4, SocketAddrV4), u16>,
    /// Who has a port, and who may write to it.
    owners: HashMap<u16, (SocketAddrV4, SocketAddrV4)>,
}

impl Mappings {
    pub(super) fn new(public: Ipv4Addr, step: i16) -> Self {
        Self { public, next: FIRST_PORT, step, ports: HashMap::new(), owners: HashMap::new() }
    }

    /// What becomes of a packet; nothing when it is dropped.
    fn translate(&mut self, source: SocketAddrV4, destination: SocketAddrV4) -> Option<Rewrite> {
        if *destination.ip() == self.public {
            let (client, peer) = *self.owners.get(&destination.port())?;
            return (peer == source).then_some(Rewrite { source, destination: client });
        }
        let port = match self.ports.get(&(source, destination)) {
            Some(port) => *port,
            None => self.map(source, destination)?,
        };
        Some(Rewrite { source: SocketAddrV4::new(self.public, port), destination })
    }

    fn map(&mut self, client: SocketAddrV4, peer: SocketAddrV4) -> Option<u16> {
        if self.ports.len() >= MAX_MAPPINGS {
            return None;
        }
        let port = self.next;
        self.next = self.next.wrapping_add_signed(self.step);
        if let Some(former) = self.owners.insert(port, (client, peer)) {
            self.ports.remove(&former);
        }
        self.ports.insert((client, peer), port);
        Some(port)
    }

    /// The packet as it goes on; nothing when it is dropped.
    fn forward(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let seen = Ipv4Packet::new_checked(packet).ok()?;
        // The device has IPv6 of its own, which says who is there.
        let is_udp = seen.version() == 4 && seen.next_header() == IpProtocol::Udp;
        if !is_udp || seen.more_frags() || seen.frag_offset() != 0 {
            return None;
        }
        let (from, to) = (seen.src_addr(), seen.dst_addr());
        let datagram = UdpPacket::new_checked(seen.payload()).ok()?;
        if !datagram.verify_checksum(&IpAddress::Ipv4(from), &IpAddress::Ipv4(to)) {
            return None;
        }
        let (source, destination) =
            (SocketAddrV4::new(from, datagram.src_port()), SocketAddrV4::new(to, datagram.dst_port()));
        let Rewrite { source, destination } = self.translate(source, destination)?;

        let mut bytes = packet[..usize::from(seen.total_len())].to_vec();
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
        packet.set_src_addr(*source.ip());
        packet.set_dst_addr(*destination.ip());
        packet.fill_checksum();
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        datagram.set_src_port(source.port());
        datagram.set_dst_port(destination.port());
        datagram.fill_checksum(&IpAddress::Ipv4(*source.ip()), &IpAddress::Ipv4(*destination.ip()));
        Some(bytes)
    }
}

/// The NAT at work; ends when dropped.
#[derive(Debug)]
pub(super) struct Sequential {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sequential {
    /// Makes the device in `namespace`, and translates what is routed into it.
    pub(super) fn start(namespace: &Namespace, mappings: Mappings) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        // The device belongs to the thread that made it, and to the namespace of that thread.
        let thread = namespace.within(|| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || match TunTapInterface::new(DEVICE, Medium::Ip) {
                Ok(device) => {
                    drop(ready.send(Ok(())));
                    run(device, mappings, &stop);
                }
                Err(error) => drop(ready.send(Err(format!("cannot make a TUN device: {error}")))),
            })
        });
        let made = is_ready.recv().unwrap_or_else(|_| Err("the thread of the TUN device panicked".to_owned()));
        let sequential = Self { stop, thread: Some(thread) };
        made.map(|()| sequential)
    }
}

impl Drop for Sequential {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            println!("the sequential NAT panicked");
        }
    }
}

fn run(mut device: TunTapInterface, mut mappings: Mappings, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        phy::wait(device.as_raw_fd(), Some(LOOK)).expect("the device is ours");
        while let Some((packet, answer)) = device.receive(Instant::ZERO) {
            if let Some(bytes) = packet.consume(|packet| mappings.forward(packet)) {
                answer.consume(bytes.len(), |buffer| buffer.copy_from_slice(&bytes));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Ipv4Repr, UdpRepr};

    use super::*;

    const PUBLIC: Ipv4Addr = Ipv4Addr::new(20, 0, 1, 1);

    fn at(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), port)
    }

    fn public(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(PUBLIC, port)
    }

    #[test]
    fn each_destination_has_the_next_port() {
        for step in [1, 2, -3] {
            let mut nat = Mappings::new(PUBLIC, step);
            for (nth, peer) in [at(8, 1), at(8, 2), at(9, 1), at(8, 1)].into_iter().enumerate() {
                let port = FIRST_PORT.wrapping_add_signed(step * (nth % 3) as i16);
                let expected = Rewrite { source: public(port), destination: peer };
                assert_eq!(nat.translate(at(2, 5000), peer), Some(expected), "step {step}");
            }
        }
    }

    #[test]
    fn only_the_destination_may_answer() {
        let mut nat = Mappings::new(PUBLIC, 1);
        let (client, peer) = (at(2, 5000), at(8, 1));
        assert_eq!(nat.translate(peer, public(FIRST_PORT)), None, "nobody asked");
        nat.translate(client, peer);
        let expected = Rewrite { source: peer, destination: client };
        assert_eq!(nat.translate(peer, public(FIRST_PORT)), Some(expected));
        assert_eq!(nat.translate(at(8, 2), public(FIRST_PORT)), None, "another port");
        assert_eq!(nat.translate(at(9, 1), public(FIRST_PORT)), None, "another address");
    }

    #[test]
    fn a_port_that_comes_round_has_one_owner() {
        let mut nat = Mappings::new(PUBLIC, i16::MIN);
        let rewrites: Vec<_> = (1..=3).filter_map(|port| nat.translate(at(2, 5000), at(8, port))).collect();
        assert_eq!(rewrites[0].source, rewrites[2].source, "two steps of half the range");
        assert_eq!(nat.translate(at(8, 1), public(FIRST_PORT)), None);
        assert!(nat.translate(at(8, 3), public(FIRST_PORT)).is_some());
    }

    #[test]
    fn packets_are_rewritten_with_good_checksums() {
        let mut nat = Mappings::new(PUBLIC, 1);
        let (client, peer) = (at(2, 5000), at(8, 53));
        let packet = packet(client, peer, b"hello");
        let sent = nat.forward(&packet).unwrap();
        let (ip, sums) = (Ipv4Packet::new_checked(&sent[..]).unwrap(), ChecksumCapabilities::default());
        let header = Ipv4Repr::parse(&ip, &sums).unwrap();
        assert_eq!((header.src_addr, header.dst_addr), (PUBLIC, *peer.ip()));
        let datagram = UdpPacket::new_checked(ip.payload()).unwrap();
        let ports = UdpRepr::parse(&datagram, &header.src_addr.into(), &header.dst_addr.into(), &sums).unwrap();
        assert_eq!((ports.src_port, ports.dst_port, datagram.payload()), (FIRST_PORT, 53, &b"hello"[..]));
    }

    #[test]
    fn what_is_no_whole_datagram_is_dropped() {
        let mut nat = Mappings::new(PUBLIC, 1);
        let good = packet(at(2, 5000), at(8, 53), b"hello");
        for (what, spoil) in [
            ("version", &(|bytes: &mut Vec<u8>| bytes[0] = 0x65) as &dyn Fn(&mut Vec<u8>)),
            ("TCP", &|bytes| bytes[9] = 6),
            ("a fragment", &|bytes| bytes[6] = 0x20),
            ("cut", &|bytes| bytes.truncate(30)),
            ("checksum", &|bytes| bytes[32] ^= 1),
        ] {
            let mut bytes = good.clone();
            spoil(&mut bytes);
            assert_eq!(nat.forward(&bytes), None, "{what}");
        }
        assert!(nat.forward(&good).is_some());
    }

    fn packet(source: SocketAddrV4, destination: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let udp = UdpRepr { src_port: source.port(), dst_port: destination.port() };
        let length = udp.header_len() + payload.len();
        let ip = Ipv4Repr {
            src_addr: *source.ip(),
            dst_addr: *destination.ip(),
            next_header: IpProtocol::Udp,
            payload_len: length,
            hop_limit: 64,
        };
        let sums = ChecksumCapabilities::default();
        let mut bytes = vec![0; ip.buffer_len() + length];
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
        ip.emit(&mut packet, &sums);
        let (from, to) = (ip.src_addr.into(), ip.dst_addr.into());
        let fill = |buffer: &mut [u8]| buffer.copy_from_slice(payload);
        udp.emit(&mut UdpPacket::new_unchecked(packet.payload_mut()), &from, &to, payload.len(), fill, &sums);
        bytes
    }
}
