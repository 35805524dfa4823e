//! Orders to fetch objects ahead, and how far they have come.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to fetch into the cache, in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchOrder {
    /// Channel id.
    pub channel: String,
    /// What of it.
    pub items: Vec<PrefetchItem>,
    /// Bytes per second of the whole order; 0: as fast as a few fetches at a time are.
    pub bytes_per_second: u64,
    /// The order ends when so many bytes were fetched.
    pub bytes_max: u64,
    /// Milliseconds after which the node answers, finished or not; the order goes on.
    pub wait_ms: u32,
}

/// One object, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefetchItem {
    /// Path below the channel's prefix, without a leading slash, with the allowed query, if any; or a viewer's URL.
    pub path: String,
    /// The first byte.
    #[serde(default)]
    pub first: u64,
    /// The last byte; none: to the end.
    #[serde(default)]
    pub last: Option<u64>,
}

/// How far an order has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PrefetchStat {
    /// Names the order on its node, until that restarts.
    pub id: u64,
    /// Channel id.
    pub channel: String,
    /// Whether it is over.
    pub state: PrefetchState,
    /// Items ordered.
    pub items: u64,
    /// Items that are in the cache now.
    pub fetched: u64,
    /// Items that could not be had.
    pub failed: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Why the first of those that failed did.
    pub errors: Vec<String>,
}

/// What an order is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefetchState {
    /// Another one is carried out first.
    Waiting,
    /// It is carried out.
    Running,
    /// Every item was tried.
    Done,
    /// It was cancelled, or its limit of bytes was reached.
    Stopped,
}
