//! How often something may be done: the generic cell rate algorithm, whose whole memory is the time at which all that was let
//! through would have passed at the agreed rate.

use std::net::IpAddr;

use crate::turn::address_key;

/// Places for addresses, 128 KiB for each rate.
const PLACES: usize = 1 << 14;

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many in a second; 0: any number.
    pub per_second: u32,
    /// So many at once after a rest, at least 1.
    pub burst: u32,
}

impl Rate {
    fn interval_us(self) -> u64 {
        1_000_000_u64.checked_div(self.per_second.into()).unwrap_or(0)
    }

    /// Whether one more may pass at `now_ms`.
    pub(super) fn allows(self, due_us: u64, now_ms: u64) -> bool {
        let ahead = due_us.saturating_sub(now_ms.saturating_mul(1_000));
        ahead <= self.interval_us() * u64::from(self.burst.saturating_sub(1))
    }

    /// One more has passed.
    pub(super) fn take(self, due_us: &mut u64, now_ms: u64) {
        *due_us = (*due_us).max(now_ms.saturating_mul(1_000)) + self.interval_us();
    }
}

/// The rates of addresses, an IPv6 one being its /64: a word for each of a fixed number of places. Addresses that share a
/// place share its rate, which can only make it stricter.
#[derive(Debug)]
pub(super) struct AddressRates {
    rate: Rate,
    seed: u64,
    due_us: Box<[u64]>,
}

impl AddressRates {
    pub(super) fn new(rate: Rate, seed: u64) -> Self {
        let places = if rate.per_second == 0 { 0 } else { PLACES };
        Self { rate, seed, due_us: vec![0; places].into() }
    }

    /// Lets one more pass, unless it is too many.
    pub(super) fn admit(&mut self, client: IpAddr, now_ms: u64) -> bool {
        let key = address_key(client);
        let place = shoal_packet::hash_words(self.seed, &[(key >> 64) as u64, key as u64]) as usize % PLACES;
        let Some(due_us) = self.due_us.get_mut(place) else { return true };
        let allowed = self.rate.allows(*due_us, now_ms);
        if allowed {
            self.rate.take(due_us, now_ms);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(rates: &mut AddressRates, client: &str, now_ms: u64) -> usize {
        let client = client.parse().unwrap();
        (0..1_000).filter(|_| rates.admit(client, now_ms)).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut rates = AddressRates::new(Rate { per_second: 10, burst: 4 }, 1);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 5_000), 4);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 5_099), 0);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 5_100), 1);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 5_350), 2);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 60_000), 4);
        assert_eq!(admitted(&mut rates, "192.0.2.2", 60_000), 4, "others have their own");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_zero_is_no_limit() {
        let mut rates = AddressRates::new(Rate { per_second: 1, burst: 3 }, 2);
        assert_eq!(admitted(&mut rates, "2001:db8::1", 0), 3);
        assert_eq!(admitted(&mut rates, "2001:db8::ffff", 0), 0);
        assert_eq!(admitted(&mut rates, "::ffff:192.0.2.1", 0), 3);
        assert_eq!(admitted(&mut rates, "192.0.2.1", 0), 0, "however it is written");
        assert_eq!(admitted(&mut AddressRates::new(Rate { per_second: 0, burst: 0 }, 3), "192.0.2.1", 0), 1_000);
    }
}
