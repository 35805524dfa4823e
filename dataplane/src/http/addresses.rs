//! Connections per client address, over all shards.

use std::net::IpAddr;

use crate::counts::Counts;

/// Counts them.
pub struct AddressCounts(Counts);

impl AddressCounts {
    /// Nobody is connected.
    pub fn new(seed: u64) -> AddressCounts {
        AddressCounts(Counts::new(seed))
    }

    /// Counts a connection of `address`, unless there are `most` already. An IPv6 client is its /64.
    pub fn enter(&self, address: IpAddr, most: u32) -> bool {
        with_key(address, |key| self.0.enter(key, most))
    }

    /// The connection is gone.
    pub fn leave(&self, address: IpAddr) {
        with_key(address, |key| self.0.leave(key));
    }
}

fn with_key<R>(address: IpAddr, act: impl FnOnce(&[u8]) -> R) -> R {
    match address.to_canonical() {
        IpAddr::V4(v4) => act(&v4.octets()),
        IpAddr::V6(v6) => act(&v6.octets()[..8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v6_client_is_its_network() {
        let counts = AddressCounts::new(3);
        assert!(counts.enter("2001:db8::1".parse().unwrap(), 1));
        assert!(!counts.enter("2001:db8::2".parse().unwrap(), 1));
        assert!(counts.enter("2001:db8:0:1::1".parse().unwrap(), 1));
    }

    #[test]
    fn an_address_gets_its_places_back() {
        let counts = AddressCounts::new(3);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(counts.enter(client, 1));
        assert!(!counts.enter("::ffff:192.0.2.1".parse().unwrap(), 1));
        counts.leave(client);
        assert!(counts.enter(client, 1));
    }
}
