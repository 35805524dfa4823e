//! The hot path: finding out where a payload goes. Nothing here allocates or copies a payload.

use std::net::SocketAddr;

use super::allocation::Allocation;
use super::requests::KNOWN;
use super::{Dropped, FiveTuple, Quota, RelayId, Server, Transport};
use crate::message::{
    AttributeType, Builder, CHANNEL_DATA_HEADER, ChannelData, Class, Data, DontFragment, Family, HEADER, Icmp, Message,
    Method, TransactionId, XorPeerAddress, channel_data_header,
};

/// Bytes that go in front of a payload at most: a Data indication's header, XOR-PEER-ADDRESS with an IPv6 address, and the
/// head of DATA.
pub const MAX_HEAD: usize = HEADER + 24 + 4;

/// Bytes of a UDP payload at most.
const MAX_DATAGRAM: usize = 65_507;

/// A payload for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToPeer<'d> {
    /// Send it from here.
    pub relay: RelayId,
    /// To here.
    pub peer: SocketAddr,
    /// What; a part of the datagram that came in.
    pub data: &'d [u8],
    /// With the DF bit.
    pub dont_fragment: bool,
}

/// Payloads for one peer that came in one train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainToPeer<'d> {
    /// Send them from here.
    pub relay: RelayId,
    /// To here.
    pub peer: SocketAddr,
    /// How many they are.
    pub segments: usize,
    /// Bytes of each payload; the last may have fewer.
    pub payload: usize,
    /// The part of the train that they came in, from its front.
    pub datagrams: &'d [u8],
    /// Bytes of each datagram in it; the last may have fewer.
    pub stride: usize,
}

impl<'d> TrainToPeer<'d> {
    /// The payloads, one after the other.
    pub fn payloads(&self) -> impl Iterator<Item = &'d [u8]> + use<'d> {
        self.datagrams.chunks(self.stride.max(1)).filter_map(ChannelData::parse).map(|message| message.data)
    }
}

/// Where the payload of a peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToClient {
    /// Send to its client, from its server address.
    pub flow: FiveTuple,
    framing: Framing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Channel(u16),
    /// With the next transaction id.
    Indication {
        peer: SocketAddr,
        id: u64,
    },
}

/// What goes in front of a payload and behind it.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    bytes: [u8; MAX_HEAD],
    length: u8,
    padding: u8,
}

impl Head {
    /// In front.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Behind: up to three zeros, none for ChannelData over UDP.
    #[must_use]
    pub fn padding(&self) -> &'static [u8] {
        ZEROS.get(..usize::from(self.padding)).unwrap_or_default()
    }
}

static ZEROS: [u8; 3] = [0; 3];

impl ToClient {
    /// Whether the peer has a channel: then the head is the same for payloads of the same length, and there is no padding
    /// over UDP.
    #[must_use]
    pub const fn is_channel(&self) -> bool {
        matches!(self.framing, Framing::Channel(_))
    }

    /// What to put around a payload of `length` bytes, once for each payload: every Data indication has a transaction id of
    /// its own.
    #[inline]
    pub fn head(&mut self, length: u16) -> Head {
        let pad = (length.wrapping_neg() % 4) as u8;
        let mut bytes = [0; MAX_HEAD];
        match &mut self.framing {
            Framing::Channel(number) => {
                for (place, byte) in bytes.iter_mut().zip(channel_data_header(*number, length)) {
                    *place = byte;
                }
                let padding = if self.flow.transport == Transport::Tcp { pad } else { 0 };
                Head { bytes, length: CHANNEL_DATA_HEADER as u8, padding }
            }
            Framing::Indication { peer, id } => {
                *id = id.wrapping_add(1);
                let mut message = indication(&mut bytes, *id);
                let in_front = message.add(&XorPeerAddress(*peer)).finish().unwrap_or(HEADER);
                let body = (in_front - HEADER + 4 + usize::from(length) + usize::from(pad)) as u16;
                if let Some(place) = bytes.get_mut(2..4) {
                    place.copy_from_slice(&body.to_be_bytes());
                }
                let ([k0, k1], [l0, l1]) = (AttributeType::DATA.0.to_be_bytes(), length.to_be_bytes());
                if let Some(place) = bytes.get_mut(in_front..in_front + 4) {
                    place.copy_from_slice(&[k0, k1, l0, l1]);
                }
                Head { bytes, length: (in_front + 4) as u8, padding: pad }
            }
        }
    }
}

/// Begins a Data indication. Its id need only be unlike the client's others.
fn indication(out: &mut [u8], id: u64) -> Builder<'_> {
    let [a, b, c, d, e, f, g, h] = id.to_be_bytes();
    let id = TransactionId::new([b's', b'h', b'o', b'l', a, b, c, d, e, f, g, h]);
    Builder::new(out, Method::DATA, Class::Indication, id)
}

impl<Q: Quota> Server<Q> {
    /// Resolves the longest run from the front of `datagrams` that is ChannelData to one peer in payloads of one length,
    /// but for a shorter last one. `segment` is the length of each datagram but the last. `None` when the first datagram is
    /// nothing of the kind: then [`handle_client`](Self::handle_client) says what becomes of it.
    pub fn handle_client_train<'d>(
        &mut self,
        now_ms: u64,
        flow: &FiveTuple,
        datagrams: &'d [u8],
        segment: usize,
    ) -> Option<TrainToPeer<'d>> {
        let mut pieces = datagrams.chunks(segment.max(1));
        let first = pieces.next()?;
        let ChannelData { channel, data } = ChannelData::parse(first)?;
        let (relay, peer, allocation) = self.channel(now_ms, flow, channel).ok()?;
        let (mut segments, mut taken, mut bytes) = (1, first.len(), data.len());
        if !data.is_empty() {
            for piece in pieces {
                let Some(next) = ChannelData::parse(piece) else { break };
                if next.channel != channel || next.data.len() > data.len() || next.data.is_empty() {
                    break;
                }
                segments += 1;
                taken += piece.len();
                bytes += next.data.len();
                if next.data.len() < data.len() {
                    break;
                }
            }
        }
        allocation.usage.sent += segments as u64;
        allocation.usage.sent_bytes += bytes as u64;
        allocation.usage.framing_bytes += (segments * CHANNEL_DATA_HEADER) as u64;
        let datagrams = datagrams.get(..taken)?;
        Some(TrainToPeer { relay, peer, segments, payload: data.len(), datagrams, stride: segment })
    }

    /// Says where datagrams go that came from one peer to one relay: `segments` of them with `bytes` bytes in all.
    ///
    /// # Errors
    /// Why they go nowhere; they are counted.
    pub fn handle_peer(
        &mut self,
        now_ms: u64,
        relay: RelayId,
        peer: SocketAddr,
        segments: usize,
        bytes: usize,
    ) -> Result<ToClient, Dropped> {
        self.forward_from_peer(now_ms, relay, peer, segments, bytes).map_err(|dropped| self.counters.drop_one(dropped))
    }

    /// Writes to `out`, of [`super::MAX_REPLY`] bytes, the indication of an ICMP error that came for what a relay sent to a
    /// peer: gives the client's five-tuple and the length.
    ///
    /// # Errors
    /// Why it is not passed on; it is counted.
    pub fn handle_icmp(
        &mut self,
        now_ms: u64,
        relay: RelayId,
        peer: SocketAddr,
        icmp: Icmp,
        out: &mut [u8],
    ) -> Result<(FiveTuple, usize), Dropped> {
        self.icmp(now_ms, relay, peer, icmp, out).map_err(|dropped| self.counters.drop_one(dropped))
    }

    fn icmp(
        &mut self,
        now_ms: u64,
        relay: RelayId,
        peer: SocketAddr,
        icmp: Icmp,
        out: &mut [u8],
    ) -> Result<(FiveTuple, usize), Dropped> {
        // Unreachable and time exceeded, in both families, and packet too big (RFC 8656 section 11.5); with the next hop's
        // MTU and no other data (section 18.13).
        let (known, mtu) = match (relay.family(), icmp.kind) {
            (Family::Ipv4, 3) => (true, icmp.code == 4),
            (Family::Ipv6, 2) => (true, true),
            (Family::Ipv4, 11) | (Family::Ipv6, 1 | 3) => (true, false),
            _ => (false, false),
        };
        if !known {
            return Err(Dropped::Icmp);
        }
        let icmp = if mtu { icmp } else { Icmp { data: [0; 4], ..icmp } };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.indications = self.indications.wrapping_add(1);
        let id = self.indications;
        let allocation = self.allocation_of(now_ms, relay)?;
        if !allocation.permits(peer.ip(), now_ms) && allocation.channel_of(peer, now_ms).is_none() {
            return Err(Dropped::NoPermission);
        }
        let length = indication(out, id).add(&XorPeerAddress(peer)).add(&icmp).finish().map_err(|_| Dropped::NoRoom)?;
        Ok((allocation.flow, length))
    }

    fn forward_from_peer(
        &mut self,
        now_ms: u64,
        relay: RelayId,
        peer: SocketAddr,
        segments: usize,
        bytes: usize,
    ) -> Result<ToClient, Dropped> {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // In a train each is shorter than the whole, and a train is no longer than a datagram.
        if segments <= 1 && bytes > MAX_DATAGRAM - MAX_HEAD - 3 {
            return Err(Dropped::TooLong);
        }
        if Family::of(&peer.ip()) != relay.family() {
            return Err(Dropped::PeerFamily);
        }
        if !self.is_peer(peer) {
            return Err(Dropped::OwnAddress);
        }
        let id = self.indications;
        let allocation = self.allocation_of(now_ms, relay)?;
        let framing = match allocation.channel_of(peer, now_ms) {
            Some(number) => Framing::Channel(number),
            None if allocation.permits(peer.ip(), now_ms) => Framing::Indication { peer, id },
            None => return Err(Dropped::NoPermission),
        };
        allocation.usage.received += segments as u64;
        allocation.usage.received_bytes += bytes as u64;
        let head = match framing {
            Framing::Channel(_) => CHANNEL_DATA_HEADER,
            Framing::Indication { peer, .. } => HEADER + address_attribute(peer) + 4,
        };
        allocation.usage.framing_bytes += (segments * head) as u64;
        let to = ToClient { flow: allocation.flow, framing };
        if !to.is_channel() {
            self.indications = self.indications.wrapping_add(segments as u64);
        }
        Ok(to)
    }

    pub(super) fn forward_channel_data<'d>(
        &mut self,
        now_ms: u64,
        flow: &FiveTuple,
        datagram: &'d [u8],
    ) -> Result<ToPeer<'d>, Dropped> {
        let ChannelData { channel, data } = ChannelData::parse(datagram).ok_or(Dropped::Malformed)?;
        let (relay, peer, allocation) = self.channel(now_ms, flow, channel)?;
        allocation.usage.sent += 1;
        allocation.usage.sent_bytes += data.len() as u64;
        allocation.usage.framing_bytes += CHANNEL_DATA_HEADER as u64;
        Ok(ToPeer { relay, peer, data, dont_fragment: false })
    }

    pub(super) fn forward_send<'d>(
        &mut self,
        now_ms: u64,
        flow: &FiveTuple,
        message: &Message<'d>,
    ) -> Result<ToPeer<'d>, Dropped> {
        if message.unknown_required(KNOWN).next().is_some() {
            return Err(Dropped::UnknownAttribute);
        }
        let malformed = |_| Dropped::Malformed;
        let peer = message.read::<XorPeerAddress>().map_err(malformed)?.ok_or(Dropped::Malformed)?.0;
        let data = message.read::<Data<'d>>().map_err(malformed)?.ok_or(Dropped::Malformed)?.0;
        let dont_fragment = message.read::<DontFragment>().map_err(malformed)?.is_some();
        // IPv4 in IPv6's clothes would find an IPv4 permission and an IPv6 relay.
        if peer.ip() != peer.ip().to_canonical() {
            return Err(Dropped::PeerFamily);
        }
        if !self.is_peer(peer) {
            return Err(Dropped::OwnAddress);
        }
        let slot = self.table.find(flow).ok_or(Dropped::NoAllocation)?;
        let family = Family::of(&peer.ip());
        let relay = self.table.relay(slot, family).ok_or(Dropped::NoAllocation)?;
        let allocation = live(self.table.get_mut(slot), now_ms).ok_or(Dropped::NoAllocation)?;
        if !allocation.permits(peer.ip(), now_ms) && allocation.channel_of(peer, now_ms).is_none() {
            return Err(Dropped::NoPermission);
        }
        if allocation.expires(family) <= now_ms {
            return Err(Dropped::PeerFamily);
        }
        allocation.usage.sent += 1;
        allocation.usage.sent_bytes += data.len() as u64;
        allocation.usage.framing_bytes += (HEADER + address_attribute(peer) + 4) as u64;
        Ok(ToPeer { relay, peer, data, dont_fragment: dont_fragment && heeds_dont_fragment(flow, family) })
    }

    /// A bound channel of a five-tuple's allocation.
    #[inline]
    fn channel(
        &mut self,
        now_ms: u64,
        flow: &FiveTuple,
        number: u16,
    ) -> Result<(RelayId, SocketAddr, &mut Allocation), Dropped> {
        let slot = self.table.find(flow).ok_or(Dropped::NoAllocation)?;
        let allocation = live(self.table.get(slot), now_ms).ok_or(Dropped::NoAllocation)?;
        let peer = allocation.channel(number, now_ms).ok_or(Dropped::NoChannel)?.peer();
        let family = Family::of(&peer.ip());
        if allocation.expires(family) <= now_ms {
            return Err(Dropped::NoChannel);
        }
        let relay = self.table.relay(slot, family).ok_or(Dropped::NoAllocation)?;
        Ok((relay, peer, self.table.get_mut(slot).ok_or(Dropped::NoAllocation)?))
    }

    fn allocation_of(&mut self, now_ms: u64, relay: RelayId) -> Result<&mut Allocation, Dropped> {
        let slot = self.table.find_relay(relay).ok_or(Dropped::NoRelay)?;
        let allocation = self.table.get_mut(slot).ok_or(Dropped::NoRelay)?;
        if allocation.expires(relay.family()) <= now_ms {
            return Err(Dropped::NoRelay);
        }
        Ok(allocation)
    }

    /// Whether a transport address may be a peer as far as the node's own are concerned: of the addresses that it relays
    /// from, only relay ports are. Others never get a permission.
    #[inline]
    fn is_peer(&self, peer: SocketAddr) -> bool {
        peer.port() != 0 && (!self.own.relays.contains(&peer.ip()) || self.own.ports.contains(&peer.port()))
    }
}

/// Bytes of XOR-PEER-ADDRESS with this peer.
const fn address_attribute(peer: SocketAddr) -> usize {
    if peer.is_ipv4() { 4 + 8 } else { 4 + 20 }
}

/// What has expired is not there, swept or not.
fn live<A: std::ops::Deref<Target = Allocation>>(allocation: Option<A>, now_ms: u64) -> Option<A> {
    allocation.filter(|allocation| allocation.is_live(now_ms))
}

/// Between families, and from IPv6, DONT-FRAGMENT is ignored (RFC 8656 section 13), but not if it came by TCP (section 15).
fn heeds_dont_fragment(flow: &FiveTuple, peer: Family) -> bool {
    flow.transport == Transport::Tcp || flow.client.ip().to_canonical().is_ipv4() && peer == Family::Ipv4
}
