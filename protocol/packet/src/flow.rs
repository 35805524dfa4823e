//! Whose a UDP flow is: a client's by the hash of its five-tuple, a peer's by the relay's port.

use core::net::SocketAddr;

use crate::{hash_five_tuple, hash_ipv4, hash_ipv6, owner};

/// IP's number for UDP.
const UDP: u8 = 17;

/// The shards of a node that clients' flows are shared out to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    /// Of the hash: random, so that nobody outside can choose a shard.
    pub seed: u64,
    /// How many there are.
    pub shards: u32,
}

impl Owners {
    /// The owner of a flow of IPv4, addresses in network order, ports as numbers.
    #[must_use]
    #[inline]
    pub const fn of_ipv4(self, (source, port): ([u8; 4], u16), (own, own_port): ([u8; 4], u16)) -> u32 {
        owner(hash_ipv4(self.seed, source, own, port, own_port, UDP), self.shards)
    }

    /// [`of_ipv4`](Self::of_ipv4) for a flow of IPv6.
    #[must_use]
    #[inline]
    pub const fn of_ipv6(self, (source, port): ([u8; 16], u16), (own, own_port): ([u8; 16], u16)) -> u32 {
        owner(hash_ipv6(self.seed, source, own, port, own_port, UDP), self.shards)
    }

    /// The same as user space sees it.
    #[must_use]
    pub fn of(self, source: SocketAddr, own: SocketAddr) -> u32 {
        owner(hash_five_tuple(self.seed, source, own, UDP), self.shards)
    }
}

/// How relay ports are divided among shards: as many for each, one shard's after the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayPorts {
    /// The first shard's first one.
    pub first: u32,
    /// Of each shard. 0: there are none.
    pub each: u32,
}

impl RelayPorts {
    /// The shard that relays from a port. It may be one that does not exist: some ports at the end may be nobody's.
    #[must_use]
    #[inline]
    pub const fn shard(self, port: u16) -> Option<u32> {
        let port = port as u32;
        if self.each == 0 || port < self.first { None } else { Some((port - self.first) / self.each) }
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn user_space_and_programs_name_the_same_owner() {
        let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
        let (v4, own_v4) = ([198, 51, 100, 7], [192, 0, 2, 1]);
        let (v6, own_v6) = ([0x26; 16], [0x2a; 16]);
        let mut seen = [[0; 3]; 2];
        for port in 1..=3_000 {
            let owners = Owners { seed: u64::from(port % 7), shards: 3 };
            let four = owners.of_ipv4((v4, port), (own_v4, 3478));
            assert_eq!(owners.of(at(v4.into(), port), at(own_v4.into(), 3478)), four);
            let six = owners.of_ipv6((v6, port), (own_v6, 3478));
            assert_eq!(owners.of(at(v6.into(), port), at(own_v6.into(), 3478)), six);
            seen[0][four as usize] += 1;
            seen[1][six as usize] += 1;
        }
        // A thousand each; the bound is seven standard deviations.
        assert!(seen.iter().flatten().all(|share| (820..=1_180).contains(share)), "{seen:?}");
    }

    #[test]
    fn relay_ports_are_shards_in_their_order() {
        let ports = RelayPorts { first: 50_000, each: 10 };
        assert_eq!(
            [49_999, 50_000, 50_009, 50_010, 50_029].map(|port| ports.shard(port)),
            [None, Some(0), Some(0), Some(1), Some(2)]
        );
        assert_eq!(RelayPorts::default().shard(50_000), None);
    }
}
