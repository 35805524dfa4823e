//! Connections per client address, counted over all shards without a lock.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counters in each row; two rows make 512 KiB.
const ROW: usize = 1 << 16;

/// A count-min sketch with two rows. It never counts too few; it counts too many for an address that shares both of its
/// counters with others, which with 10,000 open connections happens to one address in 50 by a few connections.
pub struct AddressCounts {
    seed: u64,
    rows: [Box<[AtomicU32]>; 2],
}

impl AddressCounts {
    /// Nobody is connected.
    pub fn new(seed: u64) -> AddressCounts {
        let row = || (0..ROW).map(|_| AtomicU32::new(0)).collect();
        AddressCounts { seed, rows: [row(), row()] }
    }

    /// Counts a connection of `address`, unless there are `most` already. An IPv6 client is its /64.
    pub fn enter(&self, address: IpAddr, most: u32) -> bool {
        let places = self.places(address);
        let mut counts = [0; 2];
        for ((row, place), count) in self.rows.iter().zip(places).zip(&mut counts) {
            *count = row[place].fetch_add(1, Ordering::Relaxed);
        }
        let admitted = counts.into_iter().min().is_some_and(|before| before < most);
        if !admitted {
            self.leave(address);
        }
        admitted
    }

    /// The connection is gone.
    pub fn leave(&self, address: IpAddr) {
        for (row, place) in self.rows.iter().zip(self.places(address)) {
            row[place].fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn places(&self, address: IpAddr) -> [usize; 2] {
        let hash = match address.to_canonical() {
            IpAddr::V4(v4) => shoal_packet::hash_key(self.seed, &v4.octets()),
            IpAddr::V6(v6) => shoal_packet::hash_key(self.seed, &v6.octets()[..8]),
        };
        [hash as usize % ROW, (hash >> 32) as usize % ROW]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_held_to_its_limit_and_gets_places_back() {
        let counts = AddressCounts::new(3);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        assert!((0..10).all(|_| counts.enter(client, 10)));
        assert!(!counts.enter(client, 10));
        assert!(counts.enter("192.0.2.2".parse().unwrap(), 10));
        counts.leave(client);
        assert!(counts.enter(client, 10));
        assert!(!counts.enter(client, 10));
    }

    #[test]
    fn a_v6_client_is_its_network() {
        let counts = AddressCounts::new(3);
        assert!(counts.enter("2001:db8::1".parse().unwrap(), 1));
        assert!(!counts.enter("2001:db8::2".parse().unwrap(), 1));
        assert!(counts.enter("2001:db8:0:1::1".parse().unwrap(), 1));
    }

    #[test]
    fn collisions_refuse_next_to_nobody() {
        let counts = AddressCounts::new(9);
        let refused = (0..10_000u32).filter(|&n| !counts.enter(IpAddr::from(n.to_be_bytes()), 2)).count();
        assert!(refused < 20, "{refused}");
    }
}
