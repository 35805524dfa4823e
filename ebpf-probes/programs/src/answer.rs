//! Plain Binding requests, answered where they came in.
//!
//! The answer is longer than the request, and the room for that is taken in front: there drivers keep some, for headers, while
//! behind a packet there may be none.

use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::programs::XdpContext;
use shoal_packet::binding::{
    self, ATTRIBUTES_MAX, COOKIE, REQUEST, Whose, attribute, attribute_head, attribute_length, attributes,
};
use shoal_packet::shape::STUN_HEADER;
use shoal_probe_maps::{Address, Config, Own, Verdict};

use crate::headers::{Headers, IPV4, IPV6, UDP, at, fold, get, pseudo, set, sum, word};
use crate::limits;

/// Hops that an answer may take.
const HOPS: u8 = 64;

/// Bytes of the addresses of Ethernet, and pairs of bytes that may come before the IP header: two VLAN tags and a type.
const ADDRESSES: usize = 12;
const ETHERTYPES_MAX: usize = 5;

/// UDP and STUN headers, in words.
const REQUEST_WORDS: usize = (UDP + STUN_HEADER) / 4;

/// Answers what is a plain Binding request; everything else passes.
#[inline(always)]
pub fn answer(ctx: &XdpContext, headers: &Headers, own: &Own, config: &Config, now_ns: u64) -> Verdict {
    let payload = usize::from(headers.payload);
    if usize::from(headers.length) != STUN_HEADER || get::<[u8; 4]>(ctx, payload) != Some(REQUEST) {
        return Verdict::Passed;
    }
    if !headers.is_plain || !is_from_one_host(ctx, headers) {
        return Verdict::NotAnswered;
    }
    if !is_intact(ctx, headers) {
        return Verdict::Checksum;
    }
    if !limits::admit_binding(headers, config, now_ns) {
        return Verdict::BindingRate;
    }
    let sent = if headers.is_ipv4 { send::<false>(ctx, headers, own) } else { send::<true>(ctx, headers, own) };
    if sent.is_some() { Verdict::Answered } else { Verdict::NotAnswered }
}

/// Whether somebody sent it who can be answered, and to this host: the kernel would drop what is not.
#[inline(always)]
pub fn is_from_one_host(ctx: &XdpContext, headers: &Headers) -> bool {
    // The first bit on the wire says that it is for many (IEEE 802.3).
    let Some([first, ..]) = get::<[u8; 6]>(ctx, 0) else { return false };
    let [a, b, c, d] = headers.source.words();
    let source = if headers.is_ipv4 {
        // This net, loopback, multicast and beyond.
        !matches!(d.to_ne_bytes()[0], 0 | 127 | 224..)
    } else {
        // Multicast, and the first addresses of all: unspecified, loopback, IPv4's.
        a.to_ne_bytes()[0] != 0xff && a | b | c != 0
    };
    first & 1 == 0 && source && headers.source_port != 0
}

/// Makes the answer of the request's frame. `None`: there is no room, and nothing was changed (the checks after that fail never, and
/// are for the verifier).
#[inline(always)]
fn send<const IPV6_: bool>(ctx: &XdpContext, headers: &Headers, own: &Own) -> Option<()> {
    let (network, ip) = (usize::from(headers.network), if IPV6_ { IPV6 } else { IPV4 });
    let udp = network + ip;
    // Cookie and transaction id.
    let id = get::<[u32; 4]>(ctx, udp + UDP + 4)?;
    let classic = id[0] != word(COOKIE);
    let count = attributes(classic, own.other_port != 0);
    let added = count * attribute_length(IPV6_);
    let length = UDP + STUN_HEADER + added;
    let behind = (udp + UDP + STUN_HEADER) as i32 - (ctx.data_end() - ctx.data()) as i32;
    // SAFETY: the packet's own context. All pointers into the packet are made anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(added as i32)) } != 0 {
        return None;
    }
    // SAFETY: as above. What is behind the datagram goes, which is always possible.
    if behind < 0 && unsafe { bpf_xdp_adjust_tail(ctx.ctx, behind) } != 0 {
        return None;
    }
    let [a, b, c, d, e, f] = get::<[u16; 6]>(ctx, added)?;
    set(ctx, 0, [d, e, f, a, b, c])?;
    // What follows the addresses: VLAN tags and the type of what comes then.
    for nth in 0..ETHERTYPES_MAX {
        let at = ADDRESSES + nth * 2;
        if at >= network {
            break;
        }
        let half = get::<u16>(ctx, added + at)?;
        set(ctx, at, half)?;
    }
    let ([l0, l1], [t0, t1]) = ((length as u16).to_be_bytes(), ((ip + length) as u16).to_be_bytes());
    let (source, destination) = (headers.destination.0, headers.source.0);
    if IPV6_ {
        set(ctx, network, [word([0x60, 0, 0, 0]), word([l0, l1, 17, HOPS])])?;
        set(ctx, network + 8, source)?;
        set(ctx, network + 24, destination)?;
    } else {
        // Whole, and not to be cut: its number needs to be nothing in particular (RFC 6864).
        let head = [
            word([0x45, 0, t0, t1]),
            word([0, 0, 0x40, 0]),
            word([HOPS, 17, 0, 0]),
            headers.destination.last(),
            headers.source.last(),
        ];
        let [a, b, c, d, e] = head;
        let [s0, s1] = (!fold(sum(a) + sum(b) + sum(c) + sum(d) + sum(e))).to_ne_bytes();
        set(ctx, network, [a, b, word([HOPS, 17, s0, s1]), d, e])?;
    }
    let ([s0, s1], [d0, d1]) = (headers.destination_port.to_be_bytes(), headers.source_port.to_be_bytes());
    let (ports, said) = (word([s0, s1, d0, d1]), word(binding::header(added)));
    let mut total = pseudo(headers, length) + sum(ports) + sum(word([l0, l1, 0, 0])) + sum(said);
    for word in id {
        total += sum(word);
    }
    set(ctx, udp + UDP, [said, id[0], id[1], id[2], id[3]])?;
    for place in 0..ATTRIBUTES_MAX {
        if place == count {
            break;
        }
        let (kind, whose) = attribute(classic, place);
        let (mut address, port) = match whose {
            Whose::Client => (headers.source, headers.source_port),
            Whose::MaskedClient => (headers.source, binding::mask_port(headers.source_port)),
            Whose::Local => (headers.destination, headers.destination_port),
            Whose::Other => (own.other, own.other_port as u16),
        };
        if whose == Whose::MaskedClient {
            address = mask::<IPV6_>(address, &id);
        }
        let [head, family] = attribute_head(kind, IPV6_, port).map(word);
        let [a, b, c, d] = address.words();
        let place = udp + UDP + STUN_HEADER + place * attribute_length(IPV6_);
        total += sum(head) + sum(family) + sum(d);
        if IPV6_ {
            total += sum(a) + sum(b) + sum(c);
            set(ctx, place, [head, family, a, b, c, d])?;
        } else {
            set(ctx, place, [head, family, d])?;
        }
    }
    let checksum = match !fold(total) {
        // Zero would say that there is none (RFC 768).
        0 => 0xffff,
        checksum => checksum,
    };
    let [s0, s1] = checksum.to_ne_bytes();
    set(ctx, udp, [ports, word([l0, l1, s0, s1])])
}

#[inline(always)]
fn mask<const IPV6_: bool>(address: Address, id: &[u32; 4]) -> Address {
    let [a, b, c, d] = address.words();
    if IPV6_ {
        Address::from_words([a ^ id[0], b ^ id[1], c ^ id[2], d ^ id[3]])
    } else {
        Address::from_words([a, b, c, d ^ id[0]])
    }
}

/// Whether the request's checksum is right. One that is to be completed by the device, as on a veth, is not.
#[inline(always)]
fn is_intact(ctx: &XdpContext, headers: &Headers) -> bool {
    let Some(words) = at::<[u32; REQUEST_WORDS]>(ctx, usize::from(headers.payload) - UDP) else { return false };
    // SAFETY (here and below): `at` has checked that so many words lie in the packet.
    let read = |nth: usize| unsafe { words.cast::<u32>().add(nth).read_unaligned() };
    if read(1) & word([0, 0, 0xff, 0xff]) == 0 {
        return headers.is_ipv4;
    }
    let mut total = pseudo(headers, UDP + STUN_HEADER);
    for nth in 0..REQUEST_WORDS {
        total += sum(read(nth));
    }
    fold(total) == 0xffff
}
