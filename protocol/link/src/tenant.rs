//! Tenants, as far as nodes need to know them: whose users may have traffic relayed, and to whom.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tenant of channels and of TURN names that give none.
pub const DEFAULT: &str = "default";

/// One customer. Its channels name it by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Unique name: 1 to 64 of `a-z 0-9 - _ .`. Names of TURN users without a tenant are those of the tenant `default`.
    pub id: String,
    /// What its users may have relayed (TURN).
    #[serde(default)]
    pub relay: RelayPolicy,
}

/// Who may use the relay in a tenant's name, to whom, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub struct RelayPolicy {
    /// What passwords of time-limited names (`expiry:tenant:user`) are made with, as by coturn's `use-auth-secret`. The first
    /// one signs, all are accepted; at most 4. None: nothing is relayed in this tenant's name.
    pub secrets: Vec<RelaySecret>,
    /// Networks that its users may reach although they are private, loopback or the like; the node's own addresses stay closed.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<IpNet>,
    /// Networks that they may not reach although they are public.
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<IpNet>,
    /// Allocations at once on each node; 0: no limit but the node's own.
    pub allocations: u32,
    /// The same for each user.
    pub allocations_per_user: u32,
    /// Peers in its channels are told no address of one another but relayed ones.
    pub only: bool,
}

/// A secret with a name, by which it is rotated.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelaySecret {
    /// 1 to 16 of `a-z A-Z 0-9 - _`, unique within the tenant.
    pub id: String,
    /// At least 16 characters of printable ASCII.
    #[schemars(extend("writeOnly" = true))]
    pub secret: String,
}

impl std::fmt::Debug for RelaySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelaySecret").field("id", &self.id).finish_non_exhaustive()
    }
}
