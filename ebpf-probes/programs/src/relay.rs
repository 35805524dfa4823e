//! Datagrams of bound channels, sent on to the other end of the channel from here (RFC 8656 section 12).
//!
//! The payload stays where it is. In front of it there are new headers of Ethernet, IP and UDP, the head of ChannelData comes or
//! goes, and the checksum is changed by what differs (RFC 1624). DSCP, ECN and hops are those of the packet that came, and so
//! is the fragmentation field between IPv4 and IPv4 (RFC 8656 section 14); across, it is not to be fragmented.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use shoal_packet::shape::CHANNEL_HEADER;
use shoal_probe_maps::{Config, NextHop, Own, RelayKey, RelayPath, Verdict};

use crate::headers::{ETHERNET, Headers, IPV4, IPV6, UDP, Window, fold, get, pseudo, set, sum, word, words};
use crate::{OUT, RELAY, RELAY_USAGE, next_hop};

/// A frame of Ethernet has so many bytes at least, without its checksum.
const FRAME_MIN: i32 = 60;

/// Second word of an IPv4 header that is not to be fragmented; then its number needs to be nothing in particular (RFC 6864).
const DONT_FRAGMENT: u32 = word([0, 0, 0x40, 0]);

/// What of the IP header of the packet that came goes into the one that leaves.
struct Carried {
    /// DSCP and ECN.
    class: u8,
    /// With this hop taken.
    hops: u8,
    /// Identification, and whether it is not to be fragmented: what came is no fragment.
    fragmentation: u32,
}

/// Sends a datagram on, if it is of a bound channel; `number` is its channel, or the relay's port that it came to. `None`: there is
/// no such channel (any more).
#[inline(always)]
pub fn relay(
    ctx: &XdpContext,
    headers: &Headers,
    own: &Own,
    number: u16,
    config: &Config,
    now_ns: u64,
) -> Option<Verdict> {
    let key = RelayKey { address: headers.source, port: headers.source_port, number, own: own.number };
    // SAFETY: user space replaces an entry whole, and the kernel keeps a replaced one until nobody reads it.
    let path = unsafe { RELAY.get(key) }?;
    if path.expires_ns <= now_ns || path.generation != config.generation {
        return None;
    }
    let to_peer = path.channel == 0;
    let cut = if to_peer { CHANNEL_HEADER } else { 0 };
    let length = usize::from(headers.length).wrapping_sub(cut);
    let Some(carried) = carried(ctx, headers).filter(|carried| carried.hops > 0) else {
        return Some(Verdict::NotRelayed);
    };
    if to_peer && !is_exact(ctx, headers) {
        return Some(Verdict::NotRelayed);
    }
    let to_ipv4 = path.destination.is_v4();
    let Some(checksum) = checksum(ctx, headers, path, length as u16, to_ipv4) else {
        return Some(Verdict::NotRelayed);
    };
    let head = if to_peer { 0 } else { CHANNEL_HEADER };
    let total = if to_ipv4 { IPV4 } else { IPV6 } + UDP + head + length;
    let hop = match next_hop::find(ctx, config, path, to_ipv4, now_ns) {
        Ok(hop) => hop,
        Err(verdict) => return Some(verdict),
    };
    if total > hop.mtu as usize {
        return Some(Verdict::TooLong);
    }
    let same = hop.interface == next_hop::ingress(ctx);
    if !same && OUT.get_ifindex(hop.interface).is_none() {
        return Some(Verdict::NoNextHop);
    }
    let payload = usize::from(headers.payload) + cut;
    let moved = (payload - ETHERNET - UDP - head) as i32 - if to_ipv4 { IPV4 } else { IPV6 } as i32;
    // SAFETY: the packet's own context. All pointers into the packet are made anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, moved) } != 0 {
        return Some(Verdict::NotRelayed);
    }
    let datagram = Datagram { path, carried, length: (UDP + head + length) as u16, checksum };
    let written = if to_ipv4 { datagram.ipv4(ctx, hop) } else { datagram.ipv6(ctx, hop) };
    if written.is_none() {
        // Cannot be: there is room for the headers in front of the payload, by the lengths that were checked. For the verifier.
        return Some(Verdict::Lost);
    }
    let short = FRAME_MIN - (ctx.data_end() - ctx.data()) as i32;
    if short > 0 {
        // SAFETY: as above. Without room there it is for the device to do.
        let _ = unsafe { bpf_xdp_adjust_tail(ctx.ctx, short) };
    }
    count(config, path.place, to_peer, length as u64);
    if same {
        return Some(Verdict::Relayed);
    }
    match OUT.redirect(hop.interface, 0) {
        Ok(_) => Some(Verdict::Redirected),
        // The interface went away this moment.
        Err(_) => Some(Verdict::Lost),
    }
}

/// Whether ChannelData is as long as its datagram: user space takes some with padding, too.
#[inline(always)]
fn is_exact(ctx: &XdpContext, headers: &Headers) -> bool {
    let said = get::<u16>(ctx, usize::from(headers.payload) + 2).map(u16::from_be);
    said.is_some_and(|said| usize::from(said) + CHANNEL_HEADER == usize::from(headers.length))
}

/// `None`: it has options, extension headers or VLAN tags.
#[inline(always)]
fn carried(ctx: &XdpContext, headers: &Headers) -> Option<Carried> {
    if !headers.is_plain || usize::from(headers.network) != ETHERNET {
        return None;
    }
    if headers.is_ipv4 {
        let [first, fragmentation, hops] = get::<[u32; 3]>(ctx, ETHERNET)?;
        let hops = hops.to_ne_bytes()[0].saturating_sub(1);
        return Some(Carried { class: first.to_ne_bytes()[1], hops, fragmentation });
    }
    let [first, second] = get::<[u32; 2]>(ctx, ETHERNET)?;
    let [a, b, ..] = first.to_ne_bytes();
    let hops = second.to_ne_bytes()[3].saturating_sub(1);
    Some(Carried { class: a << 4 | b >> 4, hops, fragmentation: DONT_FRAGMENT })
}

/// The checksum of what leaves. `None`: there is none to be changed, where there must be one; or it is still to be completed by a device
/// (on a virtual interface), for then it is the bare sum of the pseudo header.
#[inline(always)]
fn checksum(ctx: &XdpContext, headers: &Headers, path: &RelayPath, length: u16, to_ipv4: bool) -> Option<u16> {
    let old = get::<u16>(ctx, usize::from(headers.payload) - 2)?;
    if old == 0 {
        return (headers.is_ipv4 && to_ipv4).then_some(0);
    }
    if old == fold(pseudo(headers, UDP + usize::from(headers.length))) {
        return None;
    }
    // The head of ChannelData has the payload's length: it is new, or gone.
    let said = if path.channel == 0 { !length.to_be() } else { length.to_be() };
    match !fold(u64::from(!old) + u64::from(path.sum) + u64::from(said)) {
        // Zero would say that there is none (RFC 768).
        0 => Some(0xffff),
        checksum => Some(checksum),
    }
}

/// What leaves, but for the payload.
struct Datagram<'p> {
    path: &'p RelayPath,
    carried: Carried,
    /// Of UDP, with its header.
    length: u16,
    checksum: u16,
}

impl Datagram<'_> {
    #[inline(always)]
    fn ipv4(&self, ctx: &XdpContext, hop: &NextHop) -> Option<()> {
        let [t0, t1] = (IPV4 as u16 + self.length).to_be_bytes();
        let (source, destination) = (self.path.source.last(), self.path.destination.last());
        let first = word([0x45, self.carried.class, t0, t1]);
        let second = self.carried.fragmentation;
        let third = word([self.carried.hops, 17, 0, 0]);
        let total = sum(first) + sum(second) + sum(third) + sum(source) + sum(destination);
        let [s0, s1] = (!fold(total)).to_ne_bytes();
        let frame = Window::<{ ETHERNET + IPV4 + UDP }>::at(ctx, 0)?;
        frame.set(0, words(&hop.macs));
        frame.set(ETHERNET - 2, 0x0800_u16.to_be());
        frame.set(ETHERNET, [first, second, word([self.carried.hops, 17, s0, s1]), source, destination]);
        frame.set(ETHERNET + IPV4, self.udp());
        self.head(ctx, ETHERNET + IPV4 + UDP)
    }

    #[inline(always)]
    fn ipv6(&self, ctx: &XdpContext, hop: &NextHop) -> Option<()> {
        let [l0, l1] = self.length.to_be_bytes();
        let class = self.carried.class;
        let frame = Window::<{ ETHERNET + IPV6 + UDP }>::at(ctx, 0)?;
        frame.set(0, words(&hop.macs));
        frame.set(ETHERNET - 2, 0x86dd_u16.to_be());
        frame.set(ETHERNET, [word([0x60 | class >> 4, class << 4, 0, 0]), word([l0, l1, 17, self.carried.hops])]);
        frame.set(ETHERNET + 8, words(&self.path.source.0));
        frame.set(ETHERNET + 24, words(&self.path.destination.0));
        frame.set(ETHERNET + IPV6, self.udp());
        self.head(ctx, ETHERNET + IPV6 + UDP)
    }

    /// The header of UDP.
    #[inline(always)]
    fn udp(&self) -> [u16; 4] {
        [self.path.source_port, self.path.destination_port, self.length.to_be(), self.checksum]
    }

    /// The head of ChannelData, to a client.
    #[inline(always)]
    fn head(&self, ctx: &XdpContext, at: usize) -> Option<()> {
        if self.path.channel == 0 {
            return Some(());
        }
        let said = self.length.wrapping_sub((UDP + CHANNEL_HEADER) as u16);
        set(ctx, at, [self.path.channel, said.to_be()])
    }
}

#[inline(always)]
fn count(config: &Config, place: u32, to_peer: bool, bytes: u64) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(usage) = RELAY_USAGE.get_ptr_mut(cpu * config.channels + place) else { return };
    // SAFETY: the map's own memory; only this CPU writes there, and its words are read whole.
    let usage = unsafe { &mut *usage };
    if to_peer {
        usage.datagrams[0] += 1;
        usage.bytes[0] += bytes;
    } else {
        usage.datagrams[1] += 1;
        usage.bytes[1] += bytes;
    }
}
