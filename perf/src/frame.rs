//! Ethernet frames with UDP in them, built and taken apart by smoltcp.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};
use thiserror::Error;

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
    /// To whom, of the same family: else the frame says nothing.
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
            // Nothing can be sent so; the frame has no IP header.
            _ => {}
        }
        let mut packet = UdpPacket::new_unchecked(&mut bytes[at..]);
        let write = |place: &mut [u8]| place.copy_from_slice(&self.payload);
        udp.emit(&mut packet, &source, &destination, self.payload.len(), write, &checksums);
        bytes
    }

    /// Takes a frame apart that came back: it must go where the request came from, with right lengths and checksums and nothing
    /// behind it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let ethernet = EthernetFrame::new_checked(bytes)?;
        check((ethernet.dst_addr(), ethernet.src_addr()) == (PEER, NODE), "it goes elsewhere")?;
        let word = |at: usize| bytes.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]));
        let (mut at, mut vlans) = (ETHERNET, Vec::new());
        while matches!(word(at - 2), 0x8100 | 0x88a8) {
            vlans.push(word(at));
            at += VLAN;
        }
        let checksums = ChecksumCapabilities::default();
        let packet = bytes.get(at..).unwrap_or_default();
        let (next, hops, header, length, ends): (_, _, _, _, (IpAddress, IpAddress)) = if word(at - 2) == 0x0800 {
            let packet = Ipv4Packet::new_checked(packet)?;
            let ip = Ipv4Repr::parse(&packet, &checksums)?;
            (ip.next_header, ip.hop_limit, 20, 20 + ip.payload_len, (ip.src_addr.into(), ip.dst_addr.into()))
        } else {
            let packet = Ipv6Packet::new_checked(packet)?;
            let ip = Ipv6Repr::parse(&packet)?;
            (ip.next_header, ip.hop_limit, 40, 40 + ip.payload_len, (ip.src_addr.into(), ip.dst_addr.into()))
        };
        check((next, hops) == (IpProtocol::Udp, 64), "it is no UDP, or has not 64 hops to go")?;
        check(packet.len() == length, "something is behind it")?;
        let (source, destination) = ends;
        let packet = UdpPacket::new_checked(&packet[header..])?;
        check(packet.checksum() != 0, "it has no checksum")?;
        let udp = UdpRepr::parse(&packet, &source, &destination, &checksums)?;
        Ok(Self {
            source: SocketAddr::new(source.into(), udp.src_port),
            destination: SocketAddr::new(destination.into(), udp.dst_port),
            payload: packet.payload().to_vec(),
            vlans,
        })
    }
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A length or a checksum.
    #[error("a length or a checksum is wrong")]
    Malformed,
    /// Something else.
    #[error("{0}")]
    Wrong(&'static str),
}

impl From<smoltcp::wire::Error> for FrameError {
    fn from(_: smoltcp::wire::Error) -> Self {
        Self::Malformed
    }
}

fn check(holds: bool, wrong: &'static str) -> Result<(), FrameError> {
    holds.then_some(()).ok_or(FrameError::Wrong(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_what_is_parsed_once_it_is_turned_round() {
        for (source, destination) in [("192.0.2.1:9", "192.0.2.2:3478"), ("[2001:db8::1]:9", "[2001:db8::2]:3478")] {
            let frame = Frame::new(source.parse().unwrap(), destination.parse().unwrap(), b"hello").tagged(&[7, 8]);
            let mut bytes = frame.bytes();
            assert_eq!(Frame::parse(&bytes), Err(FrameError::Wrong("it goes elsewhere")));
            let (one, other) = bytes.split_at_mut(6);
            one.swap_with_slice(&mut other[..6]);
            assert_eq!(Frame::parse(&bytes), Err(FrameError::Wrong("it is no UDP, or has not 64 hops to go")));
            let hops = frame.network() + if frame.source.is_ipv4() { 8 } else { 7 };
            bytes[hops] = 64;
            if frame.source.is_ipv4() {
                let network = frame.network();
                Ipv4Packet::new_unchecked(&mut bytes[network..]).fill_checksum();
            }
            assert_eq!(Frame::parse(&bytes), Ok(frame.clone()));
            bytes.push(0);
            assert_eq!(Frame::parse(&bytes), Err(FrameError::Wrong("something is behind it")));
            bytes.pop();
            *bytes.last_mut().unwrap() ^= 1;
            assert_eq!(Frame::parse(&bytes), Err(FrameError::Malformed));
        }
    }
}
