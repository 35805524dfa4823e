//! Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers, UDP.

use aya_ebpf::programs::XdpContext;
use shoal_probe_maps::{Address, Verdict};

pub const ETHERNET: usize = 14;
const VLAN: usize = 4;
/// Tags that are followed: 802.1ad with 802.1Q in it.
const VLANS_MAX: usize = 2;
pub const IPV4: usize = 20;
pub const IPV6: usize = 40;
/// Extension headers that are followed.
const EXTENSIONS_MAX: usize = 4;
pub const UDP: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];

const PROTOCOL_UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// What is known of a UDP packet. Of a datagram in fragments that is the first one: the others have no ports, and nobody can say whose
/// they are.
pub struct Headers {
    /// IPv4-mapped, if `is_ipv4`.
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    /// Bytes of UDP's payload, by its header.
    pub length: u16,
    /// Where in the frame the IP header begins, and where UDP's payload would.
    pub network: u16,
    pub payload: u16,
    pub is_ipv4: bool,
    /// Without options and extension headers.
    pub is_plain: bool,
    /// The first fragment of a datagram.
    pub is_fragment: bool,
    /// The frame holds the packet, and the packet the datagram.
    pub lengths_agree: bool,
}

/// A part of the packet, if it is there.
#[inline(always)]
pub fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}

/// So many bytes of the packet, looked for once. Good until the packet's ends are moved.
pub struct Window<const BYTES: usize>(*mut u8);

impl<const BYTES: usize> Window<BYTES> {
    #[inline(always)]
    pub fn at(ctx: &XdpContext, offset: usize) -> Option<Self> {
        at::<[u8; BYTES]>(ctx, offset).map(|place| Self(place.cast()))
    }

    /// A number from there. The check is done by the compiler.
    #[inline(always)]
    pub fn get<T: Copy + Default>(&self, offset: usize) -> T {
        if offset + size_of::<T>() > BYTES {
            return T::default();
        }
        // SAFETY: it lies in the window, and that in the packet; every bit pattern is a number.
        unsafe { self.0.add(offset).cast::<T>().read_unaligned() }
    }

    /// Writes a number there. As above.
    #[inline(always)]
    pub fn set<T>(&self, offset: usize, value: T) {
        if offset + size_of::<T>() <= BYTES {
            // SAFETY: as above.
            unsafe { self.0.add(offset).cast::<T>().write_unaligned(value) };
        }
    }
}

/// A number, or an array of some, as it lies in the packet.
#[inline(always)]
pub fn get<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    // SAFETY: `at` has checked that it lies in the packet; every bit pattern is a number.
    at::<T>(ctx, offset).map(|place| unsafe { place.read_unaligned() })
}

#[inline(always)]
fn be16(ctx: &XdpContext, offset: usize) -> Option<u16> {
    get::<u16>(ctx, offset).map(u16::from_be)
}

impl Headers {
    /// UDP by IPv4 without tags, options and fragments, if the frame is that.
    #[inline(always)]
    pub fn plain_ipv4(ctx: &XdpContext) -> Option<Self> {
        const FIRST: u8 = 0x40 | (IPV4 / 4) as u8;
        let frame = Window::<{ ETHERNET + IPV4 + UDP }>::at(ctx, 0)?;
        let byte = |offset: usize| frame.get::<u8>(offset);
        let half = |offset: usize| u16::from_be(frame.get(offset));
        let is_plain = half(ETHERNET - 2) == ETHERTYPE_IPV4
            && byte(ETHERNET) == FIRST
            && half(ETHERNET + 6) & 0x3fff == 0
            && byte(ETHERNET + 9) == PROTOCOL_UDP;
        if !is_plain {
            return None;
        }
        let (total, length) = (usize::from(half(ETHERNET + 2)), usize::from(half(ETHERNET + IPV4 + 4)));
        Some(Self {
            source: Address::v4(frame.get(ETHERNET + 12)),
            destination: Address::v4(frame.get(ETHERNET + 16)),
            source_port: half(ETHERNET + IPV4),
            destination_port: half(ETHERNET + IPV4 + 2),
            length: length.wrapping_sub(UDP) as u16,
            network: ETHERNET as u16,
            payload: (ETHERNET + IPV4 + UDP) as u16,
            is_ipv4: true,
            is_plain: true,
            is_fragment: false,
            lengths_agree: length >= UDP && IPV4 + length <= total && ETHERNET + total <= ctx.data_end() - ctx.data(),
        })
    }

    /// What the frame is, if that is UDP; else the verdict.
    #[inline(always)]
    pub fn parse(ctx: &XdpContext) -> Result<Self, Verdict> {
        let mut network = ETHERNET;
        let mut ethertype = be16(ctx, ETHERNET - 2).ok_or(Verdict::Untouched)?;
        for _ in 0..VLANS_MAX {
            if ethertype != ETHERTYPES_VLAN[0] && ethertype != ETHERTYPES_VLAN[1] {
                break;
            }
            ethertype = be16(ctx, network + 2).ok_or(Verdict::Untouched)?;
            network += VLAN;
        }
        match ethertype {
            ETHERTYPE_IPV4 => Self::ipv4(ctx, network),
            ETHERTYPE_IPV6 => Self::ipv6(ctx, network),
            _ => Err(Verdict::Untouched),
        }
    }

    #[inline(always)]
    fn ipv4(ctx: &XdpContext, network: usize) -> Result<Self, Verdict> {
        let ip = at::<[u8; IPV4]>(ctx, network).ok_or(Verdict::Untouched)?.cast::<u8>();
        // SAFETY (here and below): `at` has checked that all of the header lies in the packet.
        let byte = |offset: usize| unsafe { *ip.add(offset) };
        // SAFETY: as above.
        let half = |offset: usize| u16::from_be(unsafe { ip.add(offset).cast::<u16>().read_unaligned() });
        // SAFETY: as above.
        let word = |offset: usize| unsafe { ip.add(offset).cast::<u32>().read_unaligned() };
        let header = usize::from(byte(0) & 0x0f) * 4;
        if byte(0) >> 4 != 4 || header < IPV4 || byte(9) != PROTOCOL_UDP {
            return Err(Verdict::Untouched);
        }
        let flags = half(6);
        if flags & 0x1fff != 0 {
            return Err(Verdict::Untouched);
        }
        let total = usize::from(half(2));
        let headers = Self {
            source: Address::v4(word(12)),
            destination: Address::v4(word(16)),
            source_port: 0,
            destination_port: 0,
            length: 0,
            network: network as u16,
            payload: 0,
            is_ipv4: true,
            is_plain: header == IPV4,
            is_fragment: flags & 0x2000 != 0,
            lengths_agree: total >= header,
        };
        headers.udp(ctx, network + header, total.wrapping_sub(header))
    }

    #[inline(always)]
    fn ipv6(ctx: &XdpContext, network: usize) -> Result<Self, Verdict> {
        let ip = at::<[u8; IPV6]>(ctx, network).ok_or(Verdict::Untouched)?.cast::<u8>();
        // SAFETY (here and below): `at` has checked that all of the header lies in the packet.
        let byte = |offset: usize| unsafe { *ip.add(offset) };
        // SAFETY: as above.
        let address = |offset: usize| Address(unsafe { ip.add(offset).cast::<[u64; 2]>().read_unaligned() });
        if byte(0) >> 4 != 6 {
            return Err(Verdict::Untouched);
        }
        let all = usize::from(u16::from_be_bytes([byte(4), byte(5)])) + IPV6;
        let (source, destination) = (address(8), address(24));
        let (mut next, mut before, mut is_fragment) = (byte(6), IPV6, false);
        let mut seen = 0;
        for _ in 0..=EXTENSIONS_MAX {
            if next == PROTOCOL_UDP {
                break;
            }
            if seen == EXTENSIONS_MAX {
                return Err(Verdict::Headers);
            }
            seen += 1;
            let [following, length, high, low] = get::<[u8; 4]>(ctx, network + before).ok_or(Verdict::Untouched)?;
            match next {
                HOP_BY_HOP | ROUTING | DESTINATION => before += (usize::from(length) + 1) * 8,
                FRAGMENT => {
                    let offset = u16::from_be_bytes([high, low]);
                    if offset >> 3 != 0 {
                        return Err(Verdict::Untouched);
                    }
                    // An atomic fragment (RFC 6946) is whole.
                    is_fragment |= offset & 1 != 0;
                    before += 8;
                }
                _ => return Err(Verdict::Untouched),
            }
            next = following;
        }
        let headers = Self {
            source,
            destination,
            source_port: 0,
            destination_port: 0,
            length: 0,
            network: network as u16,
            payload: 0,
            is_ipv4: false,
            is_plain: seen == 0,
            is_fragment,
            lengths_agree: all >= before,
        };
        headers.udp(ctx, network + before, all.wrapping_sub(before))
    }

    /// The rest of it. `rest` are the bytes of the packet behind the IP headers, if `lengths_agree`.
    #[inline(always)]
    fn udp(mut self, ctx: &XdpContext, at: usize, rest: usize) -> Result<Self, Verdict> {
        self.payload = (at + UDP) as u16;
        // Not even ports: nobody's.
        let [source, destination, length, _] = get::<[u16; 4]>(ctx, at).ok_or(Verdict::Untouched)?;
        self.source_port = u16::from_be(source);
        self.destination_port = u16::from_be(destination);
        let length = usize::from(u16::from_be(length));
        let frame = ctx.data_end() - ctx.data();
        // The whole datagram is in the packet, the packet in the frame, which may have padding.
        self.lengths_agree &= length >= UDP && (self.is_fragment || length <= rest && at + rest <= frame);
        self.length = length.wrapping_sub(UDP) as u16;
        Ok(self)
    }

    /// Whether the checksum of an IPv4 header is right, where it has no options.
    #[inline(always)]
    pub fn is_header_intact(&self, ctx: &XdpContext) -> bool {
        if !self.is_ipv4 || !self.is_plain {
            return true;
        }
        match get::<[u32; IPV4 / 4]>(ctx, self.network.into()) {
            Some([a, b, c, d, e]) => fold(sum(a) + sum(b) + sum(c) + sum(d) + sum(e)) == 0xffff,
            None => true,
        }
    }
}

/// A word of what a checksum is of (RFC 1071), to be added to others.
#[inline(always)]
pub fn sum(word: u32) -> u64 {
    word.into()
}

/// A sum of fewer than 2^16 words as one of 16 bits; as the words lay in memory, so does it.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// Four bytes as a word that lies in memory like them.
#[inline(always)]
pub const fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// Words of a map, read one by one: what is copied from there into the packet or into another map might overlap, for all that the
/// compiler knows, and it would make that a loop over bytes.
#[inline(always)]
pub fn words<T: Copy, const N: usize>(place: &[T; N]) -> [T; N] {
    // SAFETY: a reference to what is read.
    core::array::from_fn(|nth| unsafe { (&raw const place[nth]).read_volatile() })
}

/// Writes to the packet, where there is room.
#[inline(always)]
pub fn set<T>(ctx: &XdpContext, offset: usize, value: T) -> Option<()> {
    // SAFETY: `at` has checked that it lies in the packet.
    at::<T>(ctx, offset).map(|place| unsafe { place.write_unaligned(value) })
}

/// The sum of the pseudo header of a UDP packet of this length; it is the same in both directions.
#[inline(always)]
pub fn pseudo(headers: &Headers, length: usize) -> u64 {
    let [l0, l1] = (length as u16).to_be_bytes();
    let total = sum(word([l0, l1, 0, 17]));
    if headers.is_ipv4 {
        return total + sum(headers.source.last()) + sum(headers.destination.last());
    }
    // Not by iterators: they would have the words written to the stack.
    let ([a, b], [c, d]) = (headers.source.0, headers.destination.0);
    let low = |word: u64| word & 0xffff_ffff;
    total + low(a) + (a >> 32) + low(b) + (b >> 32) + low(c) + (c >> 32) + low(d) + (d >> 32)
}
