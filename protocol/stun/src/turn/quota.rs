//! How many allocations a tenant, a user and an address may have.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::credentials::TenantId;

/// Whose an allocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder<'a> {
    /// By the name's secret.
    pub tenant: TenantId,
    /// The name's user.
    pub user: &'a str,
    /// Where the client is.
    pub client: IpAddr,
}

/// Counts allocations. Shards of a node share what it counts, so it answers for all of them.
pub trait Quota {
    /// Counts one more, unless one of the limits is reached: then counts nothing and says false.
    fn acquire(&mut self, holder: &Holder<'_>) -> bool;

    /// Counts one less.
    fn release(&mut self, holder: &Holder<'_>);
}

/// Limits; 0 is none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Of a tenant.
    pub tenant: u32,
    /// Of one user of a tenant.
    pub user: u32,
    /// Of an IPv4 address, or of an IPv6 network of 64 bits.
    pub address: u32,
}

/// A quota for one shard alone. It has an entry for who has an allocation, and for nobody else.
#[derive(Debug)]
pub struct LocalQuota {
    limits: QuotaLimits,
    tenants: BTreeMap<TenantId, u32>,
    users: BTreeMap<(TenantId, Box<str>), u32>,
    addresses: BTreeMap<u128, u32>,
}

impl LocalQuota {
    /// Nobody has anything yet.
    #[must_use]
    pub const fn new(limits: QuotaLimits) -> Self {
        Self { limits, tenants: BTreeMap::new(), users: BTreeMap::new(), addresses: BTreeMap::new() }
    }

    /// Tenants, users and addresses that have something.
    #[cfg(test)]
    pub(super) fn entries(&self) -> [usize; 3] {
        [self.tenants.len(), self.users.len(), self.addresses.len()]
    }
}

/// What counts as one address: hosts get whole IPv6 networks of 64 bits.
#[must_use]
pub fn address_key(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() & !u128::from(u64::MAX),
    }
}

impl Quota for LocalQuota {
    fn acquire(&mut self, holder: &Holder<'_>) -> bool {
        let user = (holder.tenant, Box::from(holder.user));
        let address = address_key(holder.client);
        let free = |count: Option<&u32>, limit| count.copied().unwrap_or(0) < limit;
        let all = free(self.tenants.get(&holder.tenant), self.limits.tenant)
            && free(self.users.get(&user), self.limits.user)
            && free(self.addresses.get(&address), self.limits.address);
        if all {
            *self.tenants.entry(holder.tenant).or_default() += 1;
            *self.users.entry(user).or_default() += 1;
            *self.addresses.entry(address).or_default() += 1;
        }
        all
    }

    fn release(&mut self, holder: &Holder<'_>) {
        less(&mut self.tenants, holder.tenant);
        less(&mut self.users, (holder.tenant, Box::from(holder.user)));
        less(&mut self.addresses, address_key(holder.client));
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    if let std::collections::btree_map::Entry::Occupied(mut entry) = counts.entry(key) {
        match entry.get().checked_sub(1) {
            None | Some(0) => drop(entry.remove()),
            Some(count) => *entry.get_mut() = count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_by_itself_and_nothing_is_left_behind() {
        let mut quota = LocalQuota::new(QuotaLimits { tenant: 3, user: 2, address: 2 });
        let holder = |user, client: &str| Holder { tenant: TenantId(1), user, client: client.parse().unwrap() };
        let (a, b, c) = (holder("a", "192.0.2.1"), holder("b", "2001:db8::1"), holder("c", "2001:db8::2"));
        assert!(quota.acquire(&a) && quota.acquire(&a));
        assert!(!quota.acquire(&a), "user");
        assert!(!quota.acquire(&holder("d", "::ffff:192.0.2.1")), "address");
        assert!(quota.acquire(&b));
        assert!(!quota.acquire(&c), "tenant");
        quota.release(&a);
        assert!(quota.acquire(&c));
        quota.release(&a);
        assert!(!quota.acquire(&holder("d", "2001:db8::ffff")), "the same network");
        quota.release(&b);
        quota.release(&c);
        quota.release(&c);
        assert!(quota.tenants.is_empty() && quota.users.is_empty() && quota.addresses.is_empty());
    }
}
