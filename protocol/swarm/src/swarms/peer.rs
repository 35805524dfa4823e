//! A peer of a swarm, in as few bytes as it goes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::slab::NONE;
use super::{Place, Supply};
use crate::ids::PeerId;
use crate::nat::Nat;
use crate::transport::Mask;

/// Milliseconds of a unit of time in a peer: 32 bits of them are thirteen years.
const TICK_MS: u64 = 100;

/// Peers that a peer has reported and is not told of again; the oldest is forgotten for one more.
pub const MAX_REPORTED: usize = 32;

/// In how many ways peers can be near each other: prefix, ASN, ISP, region.
pub(super) const RINGS: usize = 4;

const V6: u8 = 1;
const COMPLETE: u8 = 1 << 1;
const RELAY_ONLY: u8 = 1 << 2;
const REMOTE: u8 = 1 << 3;

/// Where a peer is in rings of peers that are near each other.
pub(super) type Places = [u32; RINGS];

#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    ip: [u8; 16],
    port: u16,
    pub(super) mask: Mask,
    nat: u8,
    flags: u8,
    failed: Option<Box<Failed>>,
    /// Over which offers reach it; 0: none.
    pub(super) connection: u64,
    pub(super) session: u64,
    newest: u64,
    pub(super) swarm: u32,
    /// Neighbours in the order of announces.
    pub(super) older: u32,
    pub(super) newer: u32,
    seen: u32,
    asn: u32,
    upload_kbps: u32,
    pub(super) next_of_session: u32,
    /// Its place in its swarm's list of peers with its transports.
    pub(super) position: u32,
    isp: u16,
    region: u16,
    pub(super) node: u16,
    count: u16,
    /// How often others were told of it since its own last announce.
    pub(super) handed: u16,
}

/// Hashes of peers that it could not reach.
#[derive(Debug, Clone, Default)]
struct Failed {
    hashes: [u32; MAX_REPORTED],
    next: u8,
}

impl Peer {
    pub(super) fn new(id: PeerId, session: u64, swarm: u32) -> Self {
        Self {
            id,
            ip: [0; 16],
            port: 0,
            mask: Mask(0),
            nat: 0,
            flags: 0,
            failed: None,
            connection: 0,
            session,
            newest: 0,
            swarm,
            older: NONE,
            newer: NONE,
            seen: 0,
            asn: 0,
            upload_kbps: 0,
            next_of_session: NONE,
            position: NONE,
            isp: 0,
            region: 0,
            node: 0,
            count: 0,
            handed: 0,
        }
    }

    /// Something from every part of it.
    pub(super) fn touch(&self) -> u64 {
        u64::from(self.id.0[0])
            ^ u64::from(self.ip[15])
            ^ u64::from(self.seen)
            ^ u64::from(self.handed)
            ^ self.connection
            ^ self.newest
    }

    pub(super) fn set_seen(&mut self, now_ms: u64) {
        self.seen = (now_ms / TICK_MS) as u32;
    }

    pub(super) fn is_over(&self, now_ms: u64, life_ms: u64) -> bool {
        now_ms / TICK_MS >= u64::from(self.seen) + life_ms / TICK_MS
    }

    pub(super) fn seen_ms(&self) -> u64 {
        u64::from(self.seen) * TICK_MS
    }

    pub(super) fn address(&self) -> IpAddr {
        let v6 = Ipv6Addr::from(self.ip);
        if self.flags & V6 != 0 { IpAddr::V6(v6) } else { IpAddr::V4(v6.to_ipv4_mapped().unwrap_or([0; 4].into())) }
    }

    pub(super) fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address(), self.port)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn set_address(&mut self, address: IpAddr, port: u16) {
        let (octets, flag) = match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), 0),
            IpAddr::V6(v6) => (v6.octets(), V6),
        };
        (self.ip, self.port) = (octets, port);
        self.flags = self.flags & !V6 | flag;
    }

    fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }

    pub(super) fn set_complete(&mut self, on: bool) {
        self.set(COMPLETE, on);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.flags & COMPLETE != 0
    }

    pub(super) fn set_relay_only(&mut self, on: bool) {
        self.set(RELAY_ONLY, on);
    }

    pub(super) fn is_relay_only(&self) -> bool {
        self.flags & RELAY_ONLY != 0
    }

    pub(super) fn set_remote(&mut self, on: bool) {
        self.set(REMOTE, on);
    }

    pub(super) fn is_remote(&self) -> bool {
        self.flags & REMOTE != 0
    }

    pub(super) fn nat(&self) -> Nat {
        Nat::unpack(self.nat)
    }

    pub(super) fn set_nat(&mut self, nat: Nat) {
        self.nat = nat.pack();
    }

    pub(super) fn supply(&self) -> Supply {
        Supply { upload_kbps: self.upload_kbps, newest: self.newest, count: self.count }
    }

    pub(super) fn set_supply(&mut self, supply: Supply) {
        Supply { upload_kbps: self.upload_kbps, newest: self.newest, count: self.count } = supply;
    }

    pub(super) fn place(&self) -> Place {
        Place { asn: self.asn, isp: self.isp, region: self.region }
    }

    pub(super) fn set_place(&mut self, place: Place) {
        Place { asn: self.asn, isp: self.isp, region: self.region } = place;
    }

    /// What a ring's peers have in common; none where it is not known.
    pub(super) fn near(&self, ring: usize) -> Option<u64> {
        match ring {
            0 => Some(prefix(self.flags & V6 != 0, &self.ip)),
            1 => Some(u64::from(self.asn)).filter(|asn| *asn != 0),
            2 => Some(u64::from(self.isp)).filter(|isp| *isp != 0),
            _ => Some(u64::from(self.region)).filter(|region| *region != 0),
        }
    }

    /// How near another peer is: 4 is the same network, 0 is anywhere.
    pub(super) fn nearness(&self, other: &Self) -> u8 {
        let ring = (0..RINGS).find(|ring| self.near(*ring).is_some_and(|near| other.near(*ring) == Some(near)));
        ring.map_or(0, |ring| (RINGS - ring) as u8)
    }

    /// How much it has to give, from 0 to 7: twice as much is one more, from 512 kbit/s on, and one more if it has all.
    pub(super) fn supplies(&self) -> u8 {
        let rate = (self.upload_kbps / 256).checked_ilog2().unwrap_or(0).min(6) as u8;
        rate + u8::from(self.is_complete() || self.count > 0)
    }

    pub(super) fn report(&mut self, hash: u32) {
        let failed = self.failed.get_or_insert_default();
        if failed.hashes.contains(&hash) {
            return;
        }
        let next = usize::from(failed.next) % MAX_REPORTED;
        failed.hashes[next] = hash;
        failed.next = (next + 1) as u8;
    }

    pub(super) fn has_reported(&self, hash: u32) -> bool {
        self.failed.as_ref().is_some_and(|failed| failed.hashes.contains(&hash))
    }

    pub(super) fn reported(&self) -> usize {
        self.failed.as_ref().map_or(0, |failed| failed.hashes.iter().filter(|hash| **hash != 0).count())
    }
}

/// /24 of IPv4, /48 of IPv6.
fn prefix(v6: bool, ip: &[u8; 16]) -> u64 {
    let taken = if v6 { &ip[..6] } else { &ip[12..15] };
    taken.iter().fold(u64::from(v6), |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_small() {
        assert!(size_of::<Peer>() <= 120, "{}", size_of::<Peer>());
    }

    #[test]
    fn addresses_stay_what_they_are() {
        let mut peer = Peer::new(PeerId([0; 20]), 0, 0);
        for text in ["192.0.2.1", "2001:db8::1", "::ffff:1.2.3.4", "255.255.255.255", "::"] {
            let address: IpAddr = text.parse().unwrap();
            peer.set_address(address, 7);
            assert_eq!(peer.socket(), SocketAddr::new(address, 7));
        }
    }

    #[test]
    fn nearness_is_by_prefix_then_provider_then_region() {
        let peer = |address: &str, asn, isp, region| {
            let mut peer = Peer::new(PeerId([0; 20]), 0, 0);
            peer.set_address(address.parse().unwrap(), 7);
            peer.set_place(Place { asn, isp, region });
            peer
        };
        let me = peer("192.0.2.1", 1, 2, 3);
        assert_eq!(me.nearness(&peer("192.0.2.200", 9, 9, 9)), 4);
        assert_eq!(me.nearness(&peer("192.0.3.1", 1, 9, 9)), 3);
        assert_eq!(me.nearness(&peer("192.0.3.1", 9, 2, 9)), 2);
        assert_eq!(me.nearness(&peer("192.0.3.1", 9, 9, 3)), 1);
        assert_eq!(me.nearness(&peer("192.0.3.1", 0, 0, 0)), 0);
        assert_eq!(peer("1.1.1.1", 0, 0, 0).nearness(&peer("2.2.2.2", 0, 0, 0)), 0, "unknown is not the same");
        assert_eq!(peer("2001:db8:0:1::1", 0, 0, 0).nearness(&peer("2001:db8:0:2::1", 0, 0, 0)), 4);
    }

    #[test]
    fn supply_counts_by_its_order_of_magnitude() {
        let with = |upload_kbps, count| {
            let mut peer = Peer::new(PeerId([0; 20]), 0, 0);
            peer.set_supply(Supply { upload_kbps, newest: 9, count });
            peer.supplies()
        };
        assert_eq!([with(0, 0), with(511, 0), with(512, 0), with(1_024, 1), with(u32::MAX, 9)], [0, 0, 1, 3, 7]);
    }
}
