//! How many requests of one client address a shard answers in a second.
//!
//! One word for each of a fixed number of places ([`shoal_packet::rate`]). Addresses that share a place share its rate, which can only make it stricter; a flood
//! from ever new (spoofed) addresses is spread over all places and so over far more than it can fill.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use shoal_packet::rate::{self, BURST_NS};
use shoal_packet::source::Source;

/// Places of a shard: half a megabyte.
const PLACES: usize = 1 << 16;

/// The rates of a shard's clients.
pub(super) struct Rates {
    due_ns: Box<[u64]>,
    interval_ns: u64,
    hasher: RandomState,
}

impl Rates {
    /// `per_second` requests of each address; 0: any number.
    pub(super) fn new(per_second: u32) -> Rates {
        let places = if per_second == 0 { 0 } else { PLACES };
        Rates {
            due_ns: vec![0; places].into(),
            interval_ns: BURST_NS.checked_div(per_second.into()).unwrap_or(0),
            hasher: RandomState::new(),
        }
    }

    /// Whether a request of `client` may be answered at `now_ns`, of any clock that does not go back, which counts as `cost` ordinary
    /// ones. An IPv6 client is its /64.
    pub(super) fn admit(&mut self, client: IpAddr, cost: u32, now_ns: u64) -> bool {
        let place = self.hasher.hash_one(Source::from(client).address) as usize % PLACES;
        let Some(due_ns) = self.due_ns.get_mut(place) else { return true };
        let next = rate::admit(*due_ns, now_ns, self.interval_ns * u64::from(cost), BURST_NS);
        if let Some(next) = next {
            *due_ns = next;
        }
        next.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(rates: &mut Rates, client: &str, now_ns: u64, requests: usize) -> usize {
        let client = client.parse().unwrap();
        (0..requests).filter(|_| rates.admit(client, 1, now_ns)).count()
    }

    #[test]
    fn a_second_of_the_rate_at_once_and_then_the_rate() {
        let mut rates = Rates::new(100);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 0, 1000), 100);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 0, 1), 0);
        assert_eq!(admitted(&mut rates, "192.0.2.1", BURST_NS / 10, 1000), 10);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 5 * BURST_NS, 1000), 100);
    }

    #[test]
    fn what_costs_more_is_had_less_often() {
        let mut rates = Rates::new(100);
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!((0..1000).filter(|_| rates.admit(client, 4, 0)).count(), 25);
    }

    #[test]
    fn others_have_their_own_and_a_network_of_ipv6_has_one() {
        let mut rates = Rates::new(10);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 0, 50), 10);
        assert_eq!(admitted(&mut rates, "192.0.2.2", 0, 50), 10);
        assert_eq!(admitted(&mut rates, "2001:db8::1", 0, 50), 10);
        assert_eq!(admitted(&mut rates, "2001:db8::ffff", 0, 50), 0);
        assert_eq!(admitted(&mut rates, "2001:db8:0:1::1", 0, 50), 10);
    }

    #[test]
    fn zero_is_no_limit() {
        assert_eq!(admitted(&mut Rates::new(0), "192.0.2.1", 0, 100_000), 100_000);
    }
}
