//! Attempts to get in, each later the more of them failed: by address and by account.
//!
//! An attempt counts as failed from its start, so that a thousand at once are a thousand; one that gets in takes its own
//! count back. In memory: each instance counts for itself.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Most addresses, and most accounts, that are remembered; beyond that the longest unused is forgotten.
pub(crate) const MAX_ENTRIES: usize = 1 << 16;
/// After so long without an attempt all is forgotten.
pub(crate) const FORGET: Duration = Duration::from_secs(3600);
/// The first delay; it doubles with each failure.
pub(crate) const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Failures of an address that cost nothing.
pub(crate) const FREE_OF_ADDRESS: u32 = 10;
/// The longest delay of an address.
pub(crate) const MAX_DELAY_OF_ADDRESS: Duration = Duration::from_secs(900);
/// Failures of an account that cost nothing.
pub(crate) const FREE_OF_ACCOUNT: u32 = 5;
/// The longest delay of an account; short, so that others cannot keep its owner out.
pub(crate) const MAX_DELAY_OF_ACCOUNT: Duration = Duration::from_secs(30);
/// Bytes of an account's name that tell it from others.
const MAX_NAME: usize = 64;

/// Who has tried.
#[derive(Debug)]
pub(crate) struct Attempts {
    addresses: Table<IpAddr>,
    accounts: Table<String>,
}

/// Too many failures: when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Duration);

impl Attempts {
    pub(crate) fn new() -> Self {
        Self {
            addresses: Table::new(FREE_OF_ADDRESS, MAX_DELAY_OF_ADDRESS),
            accounts: Table::new(FREE_OF_ACCOUNT, MAX_DELAY_OF_ACCOUNT),
        }
    }

    /// An attempt begins, from an address (none is unknown) for an account, if it names one. It counts as failed until
    /// [`Attempts::got_in`].
    pub(crate) fn begin(&mut self, address: Option<IpAddr>, account: Option<&str>, now: Instant) -> Result<(), Wait> {
        let address = address.map(block_of);
        let account = account.map(name_of);
        let waits = [
            address.and_then(|address| self.addresses.wait(&address, now)),
            account.as_ref().and_then(|account| self.accounts.wait(account, now)),
        ];
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Err(Wait(wait));
        }
        if let Some(address) = address {
            self.addresses.fail(address, now);
        }
        if let Some(account) = account {
            self.accounts.fail(account, now);
        }
        Ok(())
    }

    /// The attempt got in: the account begins anew, its address has one failure less (others may sit there, too).
    pub(crate) fn got_in(&mut self, address: Option<IpAddr>, account: Option<&str>) {
        if let Some(address) = address {
            self.addresses.take_back(&block_of(address));
        }
        if let Some(account) = account {
            self.accounts.forget(&name_of(account));
        }
    }
}

/// One customer may have a /64 of IPv6 (RFC 6177), so that is one.
fn block_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    }
}

fn name_of(account: &str) -> String {
    account.chars().take(MAX_NAME).collect()
}

/// Failures by key, bounded.
#[derive(Debug)]
struct Table<K> {
    free: u32,
    most: Duration,
    entries: HashMap<K, Entry>,
    /// By the number of the last use: the first is the longest unused.
    order: BTreeMap<u64, K>,
    uses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    failures: u32,
    last: Instant,
    used: u64,
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn new(free: u32, most: Duration) -> Self {
        Self { free, most, entries: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    /// How long to wait, if at all.
    fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        let end = entry.last + self.delay(entry.failures)?;
        end.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    fn delay(&self, failures: u32) -> Option<Duration> {
        let beyond = failures.checked_sub(self.free)?;
        let factor = 1_u32.checked_shl(beyond.min(31)).unwrap_or(u32::MAX);
        Some(FIRST_DELAY.saturating_mul(factor).min(self.most))
    }

    fn fail(&mut self, key: K, now: Instant) {
        let old = self.entries.get(&key).copied();
        let fresh = old.filter(|entry| now.saturating_duration_since(entry.last) < FORGET);
        if let Some(entry) = old {
            self.order.remove(&entry.used);
        }
        self.uses += 1;
        let failures = fresh.map_or(0, |entry| entry.failures).saturating_add(1);
        self.entries.insert(key.clone(), Entry { failures, last: now, used: self.uses });
        self.order.insert(self.uses, key);
        if self.entries.len() > MAX_ENTRIES
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }

    fn take_back(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.failures = entry.failures.saturating_sub(1);
            if entry.failures == 0 {
                self.forget(key);
            }
        }
    }

    fn forget(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
        }
    }
}
