//! Frames, taken apart.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket, checksum,
};

use crate::{Datagram, IPV4, Link};

/// Why nothing came of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// It holds no UDP datagram, or not plainly, or lengths contradict each other.
    Malformed,
    /// A checksum is wrong.
    Checksum,
    /// It comes from nobody who can be answered.
    Source,
}

impl FrameError {
    /// A label for metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "frame_malformed",
            Self::Checksum => "frame_checksum",
            Self::Source => "frame_source",
        }
    }
}

impl From<smoltcp::wire::Error> for FrameError {
    fn from(_: smoltcp::wire::Error) -> Self {
        Self::Malformed
    }
}

/// Takes a frame apart.
///
/// # Errors
/// What is wrong with it.
pub fn parse(frame: &[u8]) -> Result<Datagram<'_>, FrameError> {
    let ethernet = EthernetFrame::new_checked(frame)?;
    let link = Link { own: ethernet.dst_addr().0, other: ethernet.src_addr().0 };
    require(ethernet.dst_addr().is_unicast(), FrameError::Malformed)?;
    require(ethernet.src_addr().is_unicast(), FrameError::Source)?;
    let (source, destination, segment): (IpAddress, IpAddress, _) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload())?;
            let whole = !ip.more_frags() && ip.frag_offset() == 0;
            let plain = ip.version() == 4 && usize::from(ip.header_len()) == IPV4;
            require(whole && plain && ip.next_header() == IpProtocol::Udp, FrameError::Malformed)?;
            require(ip.verify_checksum(), FrameError::Checksum)?;
            (ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload())?;
            require(ip.version() == 6 && ip.next_header() == IpProtocol::Udp, FrameError::Malformed)?;
            (ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
        }
        _ => return Err(FrameError::Malformed),
    };
    let udp = UdpPacket::new_checked(segment)?;
    require(udp.dst_port() != 0, FrameError::Malformed)?;
    let datagram = Datagram {
        link,
        source: SocketAddr::new(source.into(), udp.src_port()),
        destination: SocketAddr::new(destination.into(), udp.dst_port()),
        payload: udp.payload(),
    };
    require(can_be_answered(datagram.source), FrameError::Source)?;
    require(is_intact(&udp, &source, &destination, segment), FrameError::Checksum)?;
    Ok(datagram)
}

/// Whether UDP's checksum is right, or one that the kernel takes for right: none, of IPv4; or one that the sender has left to its device,
/// which a virtual one has left to nobody, for such a frame has never been on a wire. Then it is that of the pseudo header alone.
fn is_intact(udp: &UdpPacket<&[u8]>, source: &IpAddress, destination: &IpAddress, segment: &[u8]) -> bool {
    let said = udp.checksum();
    if said == 0 {
        return matches!(source, IpAddress::Ipv4(_));
    }
    let pseudo = checksum::pseudo_header(source, destination, IpProtocol::Udp, udp.len().into());
    let of_all = |length: u16| checksum::data(segment.get(..usize::from(length)).unwrap_or_default());
    said == pseudo || checksum::combine(&[pseudo, of_all(udp.len())]) == !0
}

/// The kernel would take nothing from others.
fn can_be_answered(source: SocketAddr) -> bool {
    let ip = match source.ip() {
        // This net, loopback, multicast and beyond.
        IpAddr::V4(ip) => !matches!(ip.octets()[0], 0 | 127 | 224..),
        // An address of one link needs its interface beside it, to be answered.
        IpAddr::V6(ip) => !(is_first(ip) || ip.is_multicast() || ip.is_unicast_link_local()),
    };
    ip && source.port() != 0
}

/// Of the first addresses of all: unspecified, loopback, IPv4's.
fn is_first(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, ..] = ip.segments();
    [a, b, c, d, e] == [0; 5]
}

fn require(holds: bool, error: FrameError) -> Result<(), FrameError> {
    holds.then_some(()).ok_or(error)
}

#[cfg(test)]
mod tests;
