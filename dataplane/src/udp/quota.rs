//! How many allocations a tenant, a user and an address may have, on all shards of the node together.

use std::sync::Arc;

use shoal_stun::turn::{Holder, Quota, address_key};

use crate::counts::Counts;
use crate::routes::RelayTenants;

/// One shard's end of it.
pub(super) struct NodeQuota {
    counts: Arc<Counts>,
    tenants: Arc<RelayTenants>,
    per_address: u32,
}

impl NodeQuota {
    pub(super) fn new(counts: Arc<Counts>, tenants: Arc<RelayTenants>, per_address: u32) -> Self {
        Self { counts, tenants, per_address }
    }

    /// Takes other limits, from the next allocation on.
    pub(super) fn set_tenants(&mut self, tenants: Arc<RelayTenants>) {
        self.tenants = tenants;
    }
}

/// What is counted for an allocation: of its tenant, of its user, of its address.
fn keys(holder: &Holder<'_>) -> [Vec<u8>; 3] {
    let tenant = holder.tenant.0.to_be_bytes();
    [
        [b"t", &tenant[..]].concat(),
        [b"u", &tenant[..], holder.user.as_bytes()].concat(),
        [b"a", &address_key(holder.client).to_be_bytes()[..]].concat(),
    ]
}

impl Quota for NodeQuota {
    fn acquire(&mut self, holder: &Holder<'_>) -> bool {
        let rules = self.tenants.rules(holder.tenant);
        let limits =
            [rules.map_or(0, |rules| rules.allocations), rules.map_or(0, |r| r.allocations_per_user), self.per_address];
        let keys = keys(holder);
        for (at, (key, limit)) in keys.iter().zip(limits).enumerate() {
            if !self.counts.enter(key, if limit == 0 { u32::MAX } else { limit }) {
                keys[..at].iter().for_each(|key| self.counts.leave(key));
                return false;
            }
        }
        true
    }

    fn release(&mut self, holder: &Holder<'_>) {
        keys(holder).iter().for_each(|key| self.counts.leave(key));
    }
}
