//! Which parts of the address space have anything on the block list: bits that say nothing, or all, save the look-up in it.

use std::collections::BTreeSet;
use std::ops::Range;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use shoal_packet::source::{GATE_V4_ALL, GATE_V4_SOME, GATE_V4_WORDS, GATE_V6_BITS, gate_v4, gate_v6};

/// Networks that are blocked, and the bits that follow from them.
pub(crate) struct Gate {
    networks: BTreeSet<IpNet>,
    seed: u64,
    /// Pairs of bits of IPv4 by /24, in words.
    v4: Vec<u64>,
    /// Bits of IPv6 by the hash of a /32, in words.
    v6: Vec<u64>,
}

/// Words that may have changed.
pub(crate) enum Changed {
    V4(Range<u32>),
    V6(u32),
    /// Networks so short that all of IPv6 has to be looked up.
    AllV6,
}

impl Gate {
    pub(crate) fn new(seed: u64) -> Self {
        Self { networks: BTreeSet::new(), seed, v4: Vec::new(), v6: vec![0; (GATE_V6_BITS / 64) as usize] }
    }

    /// A word of IPv4.
    pub(crate) fn v4(&self, word: u32) -> u64 {
        self.v4.get(word as usize).copied().unwrap_or(0)
    }

    /// A word of IPv6.
    pub(crate) fn v6(&self, word: u32) -> u64 {
        self.v6.get(word as usize).copied().unwrap_or(0)
    }

    /// Whether there are IPv6 networks shorter than a /32.
    pub(crate) fn has_short_v6(&self) -> bool {
        self.networks.iter().any(|network| matches!(network, IpNet::V6(v6) if v6.prefix_len() < 32))
    }

    /// Adds a network.
    pub(crate) fn add(&mut self, network: IpNet) -> Changed {
        self.networks.insert(network);
        match network {
            IpNet::V4(v4) => {
                // Four megabytes, for who blocks somebody.
                self.v4.resize(GATE_V4_WORDS as usize, 0);
                set(&mut self.v4, networks(v4), bits(v4));
                Changed::V4(words(v4))
            }
            IpNet::V6(v6) if v6.prefix_len() < 32 => Changed::AllV6,
            IpNet::V6(v6) => {
                let (word, bit) = self.place(v6);
                self.v6[word as usize] |= bit;
                Changed::V6(word)
            }
        }
    }

    /// Takes one away.
    pub(crate) fn remove(&mut self, network: IpNet) -> Changed {
        self.networks.remove(&network);
        match network {
            IpNet::V4(v4) => {
                let gone = networks(v4);
                clear(&mut self.v4, gone.clone());
                for other in &self.networks {
                    let IpNet::V4(other) = other else { continue };
                    let of_other = networks(*other);
                    set(&mut self.v4, of_other.start.max(gone.start)..of_other.end.min(gone.end), bits(*other));
                }
                Changed::V4(words(v4))
            }
            IpNet::V6(v6) if v6.prefix_len() < 32 => Changed::AllV6,
            IpNet::V6(v6) => {
                let (word, bit) = self.place(v6);
                let stays = self.networks.iter().any(|other| match other {
                    IpNet::V6(other) => other.prefix_len() >= 32 && self.place(*other) == (word, bit),
                    IpNet::V4(_) => false,
                });
                if !stays {
                    self.v6[word as usize] &= !bit;
                }
                Changed::V6(word)
            }
        }
    }

    fn place(&self, network: Ipv6Net) -> (u32, u64) {
        let [a, b, c, d, ..] = network.network().octets();
        gate_v6(self.seed, [a, b, c, d])
    }
}

/// The /24s that have a part of it.
fn networks(network: Ipv4Net) -> Range<u32> {
    let (first, last) = (network.network().to_bits() >> 8, network.broadcast().to_bits() >> 8);
    first..last + 1
}

/// What is to be said of each of them.
fn bits(network: Ipv4Net) -> u64 {
    if network.prefix_len() <= 24 { GATE_V4_ALL } else { GATE_V4_SOME }
}

fn words(network: Ipv4Net) -> Range<u32> {
    let word = |address: std::net::Ipv4Addr| gate_v4(address.octets()).0;
    word(network.network())..word(network.broadcast()) + 1
}

fn set(words: &mut [u64], mut networks: Range<u32>, bits: u64) {
    networks.all(|network| with_place(words, network, |word, shift| *word |= bits << shift));
}

fn clear(words: &mut [u64], mut networks: Range<u32>) {
    networks.all(|network| with_place(words, network, |word, shift| *word &= !(GATE_V4_ALL << shift)));
}

/// Whether there is such a place, too.
fn with_place(words: &mut [u64], network: u32, change: impl FnOnce(&mut u64, u32)) -> bool {
    let (word, shift) = gate_v4((network << 8).to_be_bytes());
    words.get_mut(word as usize).map(|word| change(word, shift)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn is_open(gate: &Gate, address: &str) -> bool {
        match address.parse().unwrap() {
            std::net::IpAddr::V4(v4) => {
                let (word, shift) = gate_v4(v4.octets());
                gate.v4(word) >> shift & GATE_V4_SOME != 0
            }
            std::net::IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.octets();
                let (word, bit) = gate_v6(gate.seed, [a, b, c, d]);
                gate.v6(word) & bit != 0
            }
        }
    }

    #[test]
    fn what_is_blocked_as_a_whole_is_said_to_be() {
        let all = |gate: &Gate, address: &str| {
            let (word, shift) = gate_v4(address.parse::<std::net::Ipv4Addr>().unwrap().octets());
            gate.v4(word) >> shift & GATE_V4_ALL == GATE_V4_ALL
        };
        let mut gate = Gate::new(1);
        for blocked in ["192.0.2.0/24", "198.51.100.0/25", "10.0.0.0/15"] {
            gate.add(net(blocked));
        }
        assert!(all(&gate, "192.0.2.77") && all(&gate, "10.1.255.1"));
        assert!(!all(&gate, "198.51.100.1") && !all(&gate, "192.0.3.1") && !all(&gate, "10.2.0.0"));
        gate.add(net("192.0.2.1/32"));
        assert!(all(&gate, "192.0.2.77"));
        gate.remove(net("192.0.2.0/24"));
        assert!(is_open(&gate, "192.0.2.77") && !all(&gate, "192.0.2.1"), "a part of it is blocked still");
        gate.add(net("192.0.0.0/16"));
        gate.remove(net("192.0.2.1/32"));
        assert!(all(&gate, "192.0.2.1"));
    }

    #[test]
    fn a_bit_is_set_as_long_as_any_network_needs_it() {
        let mut gate = Gate::new(1);
        for blocked in ["192.0.2.1/32", "192.0.0.0/16", "10.0.0.0/8", "2001:db8:7::/48", "2001:db8:8::/48"] {
            gate.add(net(blocked));
        }
        for inside in ["192.0.2.200", "192.0.255.1", "10.255.255.255", "10.0.0.0", "2001:db8::1"] {
            assert!(is_open(&gate, inside), "{inside}");
        }
        for outside in ["192.1.0.0", "191.255.255.255", "11.0.0.0", "9.255.255.255", "2001:db9::1"] {
            assert!(!is_open(&gate, outside), "{outside}");
        }
        gate.remove(net("192.0.0.0/16"));
        assert!(is_open(&gate, "192.0.2.1") && !is_open(&gate, "192.0.3.1"));
        gate.remove(net("192.0.2.1/32"));
        assert!(!is_open(&gate, "192.0.2.1"));
        gate.remove(net("2001:db8:7::/48"));
        assert!(is_open(&gate, "2001:db8:7::1"), "the other one is there");
        gate.remove(net("2001:db8:8::/48"));
        assert!(!is_open(&gate, "2001:db8:7::1"));
        assert!(!gate.has_short_v6());
        gate.add(net("2000::/3"));
        assert!(gate.has_short_v6());
    }

    #[test]
    fn the_whole_of_it_can_be_blocked() {
        let mut gate = Gate::new(1);
        let Changed::V4(words) = gate.add(net("0.0.0.0/0")) else { panic!("it is of IPv4") };
        assert_eq!(words, 0..GATE_V4_WORDS);
        assert!(words.clone().all(|word| gate.v4(word) == u64::MAX));
        gate.remove(net("0.0.0.0/0"));
        assert!(words.into_iter().all(|word| gate.v4(word) == 0));
    }
}
