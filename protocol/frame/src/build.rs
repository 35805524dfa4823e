//! Frames, put together.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};

use crate::{ETHERNET, IPV4, IPV6, Link, UDP};

/// Hops that a packet may take.
const HOPS: u8 = 64;

/// A datagram to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'p> {
    /// By whom.
    pub link: Link,
    /// From whom.
    pub source: SocketAddr,
    /// To whom, of the same family.
    pub destination: SocketAddr,
    /// What, in parts.
    pub parts: &'p [&'p [u8]],
    /// The number of an IPv4 packet, another one for each: it may be cut on its way, since who sends so does not hear what the path
    /// takes.
    pub number: u16,
}

/// Bytes of the frame for so many of a datagram.
#[must_use]
pub fn length(ipv4: bool, payload: usize) -> usize {
    ETHERNET + if ipv4 { IPV4 } else { IPV6 } + UDP + payload
}

/// Writes the frame, with right checksums, to `frame`, which has the [`length`] for the parts. False: it has not, or the addresses are of two
/// families, or the payload is longer than UDP's; nothing of use is there then.
#[must_use]
pub fn build(datagram: &Outgoing<'_>, frame: &mut [u8]) -> bool {
    let Outgoing { link, source, destination, parts, number } = *datagram;
    let payload: usize = parts.iter().map(|part| part.len()).sum();
    let ipv4 = source.is_ipv4();
    if payload > usize::from(u16::MAX) - IPV4 - UDP || frame.len() != length(ipv4, payload) {
        return false;
    }
    let ethertype = if ipv4 { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    let ethernet =
        EthernetRepr { src_addr: EthernetAddress(link.own), dst_addr: EthernetAddress(link.other), ethertype };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..ETHERNET]));
    let (network, checksums) = (&mut frame[ETHERNET..], ChecksumCapabilities::default());
    let (next_header, payload_len, hop_limit) = (IpProtocol::Udp, UDP + payload, HOPS);
    let segment = match (source.ip(), destination.ip()) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let (head, segment) = network.split_at_mut(IPV4);
            let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            let mut head = Ipv4Packet::new_unchecked(head);
            ip.emit(&mut head, &checksums);
            head.set_dont_frag(false);
            head.set_ident(number);
            head.fill_checksum();
            segment
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let (head, segment) = network.split_at_mut(IPV6);
            let ip = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
            ip.emit(&mut Ipv6Packet::new_unchecked(head));
            segment
        }
        _ => return false,
    };
    let udp = UdpRepr { src_port: source.port(), dst_port: destination.port() };
    let write = |mut place: &mut [u8]| {
        for part in parts {
            let (here, behind) = place.split_at_mut(part.len());
            here.copy_from_slice(part);
            place = behind;
        }
    };
    let (from, to) = (IpAddress::from(source.ip()), IpAddress::from(destination.ip()));
    udp.emit(&mut UdpPacket::new_unchecked(segment), &from, &to, payload, write, &checksums);
    true
}
