//! Sources of packets as numbers, and their places in tables of rates: each place has one word, and those that share a place
//! share its rate, which can only make it stricter. A flood from ever new addresses is spread over all places.

use core::net::IpAddr;

/// A source and its network: the address and the /24 of IPv4, the /64 and the /48 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Below 2^32 for IPv4; there are no networks of IPv6.
    pub address: u64,
    /// Of the same kind.
    pub network: u64,
}

impl Source {
    /// An IPv4 source.
    #[must_use]
    #[inline]
    pub const fn v4(address: [u8; 4]) -> Self {
        let address = u32::from_be_bytes(address);
        Self { address: address as u64, network: (address >> 8) as u64 }
    }

    /// An IPv6 source, by the first half of its address.
    #[must_use]
    #[inline]
    pub const fn v6(network: [u8; 8]) -> Self {
        let network = u64::from_be_bytes(network);
        Self { address: network, network: network >> 16 << 16 }
    }
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::v6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// The place of a number, below `places`, a power of two. Not of the strength of [`hash_words`](crate::hash_words), which is what an
/// owner is found by: here it is only to be spread, and unknown to who does not know the seed, and each packet needs several.
#[must_use]
#[inline]
pub const fn place(seed: u64, number: u64, places: u32) -> u32 {
    // Multiply-shift: for any two numbers, few odd multipliers make them meet. Then once more, for numbers that differ only above.
    let x = number.wrapping_mul(seed | 1);
    let x = (x ^ (x >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 32) as u32 & (places - 1)
}

/// Words of the gate of the IPv4 block list: two bits for each /24.
pub const GATE_V4_WORDS: u32 = 1 << 19;
/// The lower of the two bits: some of the /24 is blocked.
pub const GATE_V4_SOME: u64 = 1;
/// Both bits: all of it is.
pub const GATE_V4_ALL: u64 = 3;

/// Bits of the gate of the IPv6 block list: one for the hash of each /32.
pub const GATE_V6_BITS: u32 = 1 << 16;

/// Where the gate's bits of an IPv4 address are: their word, and by how much they are shifted in there. If they are clear, nothing of
/// that /24 is blocked.
#[must_use]
#[inline]
pub const fn gate_v4(address: [u8; 4]) -> (u32, u32) {
    let address = u32::from_be_bytes(address);
    (address >> 13, (address >> 8 & 31) * 2)
}

/// The gate's word and bit for the first four bytes of an IPv6 address. If it is clear, nothing of that /32 is blocked by a network of it.
#[must_use]
#[inline]
pub const fn gate_v6(seed: u64, first: [u8; 4]) -> (u32, u64) {
    let place = place(seed, u32::from_be_bytes(first) as u64, GATE_V6_BITS);
    (place >> 6, 1 << (place & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ip: &str) -> Source {
        ip.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn networks_are_shared_and_families_apart() {
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1").network, of("192.0.2.255").network);
        assert_ne!(of("192.0.2.1").network, of("192.0.3.1").network);
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:1"));
        assert_ne!(of("2001:db8:0:1::1").address, of("2001:db8::1").address);
        assert_eq!(of("2001:db8:0:1::1").network, of("2001:db8::1").network);
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn places_are_all_used() {
        let mut used = [0u8; 64];
        (0..64 * 64).for_each(|number| used[place(7, number, 64) as usize] += 1);
        assert!(used.iter().all(|count| (24..=120).contains(count)), "{used:?}");
    }
}
