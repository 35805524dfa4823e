//! Whom nodes serve nothing, on no protocol.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Networks of each family that may be blocked at once: nodes have no more room.
pub const BLOCKS_MAX: usize = 1 << 16;

/// An address or network that is blocked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Whole addresses have the longest prefix, as in `192.0.2.7/32`.
    #[schemars(with = "String")]
    pub network: IpNet,
    /// Unix seconds when it ends by itself; none: only when it is taken away.
    pub until: Option<u64>,
    /// For people.
    pub reason: String,
    /// Unix seconds when it was told last.
    pub since: u64,
}

impl Block {
    /// Whether it holds at this time, in Unix seconds.
    #[must_use]
    pub fn holds(&self, now: u64) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}
