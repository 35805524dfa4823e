//! Where frames go to: back the way by which others came.

use std::net::{IpAddr, SocketAddr};

use shoal_packet::hash_words;

use crate::Link;

/// How long a way is believed after the last frame that came by it.
pub const LIFE_MS: u64 = 60_000;

/// Ways that are kept; a power of two.
const PLACES: usize = 1 << 15;

/// A way to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Of ours, by the kernel's number.
    pub interface: u32,
    /// Both ends of it.
    pub link: Link,
}

/// The ways by which frames came lately, by their senders. Each sender has one place; two that share it take it from one another with each
/// frame, and a flood from ever new ones displaces everybody, until they are heard again. Who has no place is sent to by the kernel.
#[derive(Debug)]
pub struct NextHops {
    places: Box<[Option<Known>]>,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    who: SocketAddr,
    hop: Hop,
    until_ms: u64,
}

impl NextHops {
    /// None; `seed` is random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { places: vec![None; PLACES].into(), seed }
    }

    /// A frame of theirs came that way.
    pub fn learn(&mut self, who: SocketAddr, hop: Hop, now_ms: u64) {
        let place = self.place(who);
        self.places[place] = Some(Known { who, hop, until_ms: now_ms + LIFE_MS });
    }

    /// The way to somebody, if it is known.
    #[must_use]
    pub fn get(&self, who: SocketAddr, now_ms: u64) -> Option<Hop> {
        let known = self.places[self.place(who)].as_ref()?;
        (known.who == who && now_ms < known.until_ms).then_some(known.hop)
    }

    fn place(&self, who: SocketAddr) -> usize {
        let address = match who.ip() {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        hash_words(self.seed, &[(address >> 64) as u64, address as u64, who.port().into()]) as usize % PLACES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(interface: u32) -> Hop {
        Hop { interface, link: Link { own: [2; 6], other: [4; 6] } }
    }

    #[test]
    fn a_way_is_the_last_one_and_believed_for_a_minute() {
        let mut hops = NextHops::new(7);
        let [one, other]: [SocketAddr; 2] = ["192.0.2.1:1", "[2001:db8::1]:1"].map(|text| text.parse().unwrap());
        assert_eq!(hops.get(one, 0), None);
        hops.learn(one, hop(1), 0);
        hops.learn(other, hop(2), 10);
        assert_eq!((hops.get(one, LIFE_MS - 1), hops.get(other, LIFE_MS)), (Some(hop(1)), Some(hop(2))));
        assert_eq!(hops.get(one, LIFE_MS), None);
        hops.learn(one, hop(3), LIFE_MS);
        assert_eq!(hops.get(one, 2 * LIFE_MS - 1), Some(hop(3)));
        // Another port is somebody else, behind another NAT it may be.
        assert_eq!(hops.get("192.0.2.1:2".parse().unwrap(), LIFE_MS), None);
    }

    #[test]
    fn a_flood_displaces_and_is_displaced() {
        let mut hops = NextHops::new(7);
        let who: SocketAddr = "192.0.2.1:1".parse().unwrap();
        hops.learn(who, hop(1), 0);
        for nth in 0..20 * PLACES as u32 {
            hops.learn((nth.to_be_bytes(), 9).into(), hop(2), 0);
        }
        assert_eq!(hops.get(who, 0), None);
        hops.learn(who, hop(1), 1);
        assert_eq!(hops.get(who, 1), Some(hop(1)));
    }
}
