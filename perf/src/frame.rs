//! Ethernet frames with UDP in them, built and taken apart by smoltcp.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

const ETHERNET: usize = 14;
const UDP: usize = 8;
/// Bytes of a VLAN tag.
pub const VLAN: usize = 4;

/// The hosts at both ends.
const PEER: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
const NODE: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);

/// A datagram in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// From whom.
    pub source: SocketAddr,
    /// To whom, of the same family.
    pub destination: SocketAddr,
    /// What it says.
    pub payload: Vec<u8>,
    /// Numbers of VLANs, the outer one first.
    pub vlans: Vec<u16>,
}

impl Frame {
    /// A frame without a VLAN.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        Self { source, destination, payload: payload.to_vec(), vlans: Vec::new() }
    }

    /// The same in VLANs.
    #[must_use]
    pub fn tagged(mut self, vlans: &[u16]) -> Self {
        self.vlans = vlans.to_vec();
        self
    }

    /// Where the IP header begins.
    #[must_use]
    pub fn network(&self) -> usize {
        ETHERNET + VLAN * self.vlans.len()
    }

    /// Where the UDP header begins.
    #[must_use]
    pub fn transport(&self) -> usize {
        self.network() + if self.source.is_ipv4() { 20 } else { 40 }
    }

    /// As it lies on the wire, with right checksums.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let (source, destination) = (IpAddress::from(self.source.ip()), IpAddress::from(self.destination.ip()));
        let udp = UdpRepr { src_port: self.source.port(), dst_port: self.destination.port() };
        let (at, length) = (self.transport(), UDP + self.payload.len());
        let mut bytes = vec![0; at + length];
        let of_ip = if self.source.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
        let ethernet = EthernetRepr { src_addr: PEER, dst_addr: NODE, ethertype: of_ip };
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
        for (nth, vlan) in self.vlans.iter().enumerate() {
            // Only the innermost says what follows; those before it say that a tag does.
            let (outer, own) = (nth + 1 < self.vlans.len(), ETHERNET - 2 + nth * VLAN);
            let tag: u16 = if outer { 0x88a8 } else { 0x8100 };
            bytes[own..own + 2].copy_from_slice(&tag.to_be_bytes());
            bytes[own + 2..own + 4].copy_from_slice(&vlan.to_be_bytes());
            let ip: u16 = of_ip.into();
            bytes[own + 4..own + 6].copy_from_slice(&ip.to_be_bytes());
        }
        let network = &mut bytes[self.network()..];
        let checksums = ChecksumCapabilities::default();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                let ip =
                    Ipv4Repr { src_addr, dst_addr, next_header: IpProtocol::Udp, payload_len: length, hop_limit: 57 };
                ip.emit(&mut Ipv4Packet::new_unchecked(network), &checksums);
            }
            (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                let ip =
                    Ipv6Repr { src_addr, dst_addr, next_header: IpProtocol::Udp, payload_len: length, hop_limit: 57 };
                ip.emit(&mut Ipv6Packet::new_unchecked(network));
            }
            _ => panic!("{} and {} are of different families", self.source, self.destination),
        }
        let mut packet = UdpPacket::new_unchecked(&mut bytes[at..]);
        let write = |place: &mut [u8]| place.copy_from_slice(&self.payload);
        udp.emit(&mut packet, &source, &destination, self.payload.len(), write, &checksums);
        bytes
    }

    /// Takes a frame apart; panics, and says why, where a length or a checksum is wrong, or it goes elsewhere than to the peer.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let ethernet = EthernetFrame::new_checked(bytes).expect("a frame");
        assert_eq!((ethernet.dst_addr(), ethernet.src_addr()), (PEER, NODE), "it goes back where it came from");
        let (mut at, mut vlans) = (ETHERNET, Vec::new());
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        while matches!(word(at - 2), 0x8100 | 0x88a8) {
            vlans.push(word(at));
            at += VLAN;
        }
        let checksums = ChecksumCapabilities::default();
        let (source, destination, datagram): (IpAddress, IpAddress, &[u8]) = if word(at - 2) == 0x0800 {
            let packet = Ipv4Packet::new_checked(&bytes[at..]).expect("an IPv4 packet");
            let ip = Ipv4Repr::parse(&packet, &checksums).expect("a right IPv4 header");
            assert_eq!((ip.next_header, ip.hop_limit), (IpProtocol::Udp, 64));
            assert_eq!(bytes.len() - at, usize::from(packet.total_len()), "nothing behind it");
            (ip.src_addr.into(), ip.dst_addr.into(), &bytes[at + 20..])
        } else {
            let packet = Ipv6Packet::new_checked(&bytes[at..]).expect("an IPv6 packet");
            let ip = Ipv6Repr::parse(&packet).expect("a right IPv6 header");
            assert_eq!((ip.next_header, ip.hop_limit), (IpProtocol::Udp, 64));
            assert_eq!(bytes.len() - at, 40 + ip.payload_len, "nothing behind it");
            (ip.src_addr.into(), ip.dst_addr.into(), &bytes[at + 40..])
        };
        let packet = UdpPacket::new_checked(datagram).expect("a UDP packet");
        assert_ne!(packet.checksum(), 0, "there is a checksum");
        let udp = UdpRepr::parse(&packet, &source, &destination, &checksums).expect("a right UDP packet");
        Self {
            source: SocketAddr::new(source.into(), udp.src_port),
            destination: SocketAddr::new(destination.into(), udp.dst_port),
            payload: packet.payload().to_vec(),
            vlans,
        }
    }
}
