//! Questions about a data plane's cache, and what it answers. Nothing is changed by them.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most objects that one answer lists.
pub const TOP_MAX: u32 = 1000;

/// What an operator wants to know about a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Inspect {
    /// The objects at the top of an order.
    Top {
        /// Which order.
        by: TopBy,
        /// Of this channel only.
        channel: Option<String>,
        /// How many, up to [`TOP_MAX`].
        limit: u32,
    },
    /// The cache as a whole.
    Cache,
    /// One object.
    Object {
        /// Channel id.
        channel: String,
        /// Path below the channel's prefix, without a leading slash; with the allowed query, if any.
        path: String,
    },
    /// What would happen to a request.
    Explain(Probe),
}

/// An order of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum TopBy {
    /// Requests answered lately.
    #[default]
    Requests,
    /// Body bytes sent lately.
    Bytes,
    /// Bytes held in the RAM tier.
    Ram,
}

/// A request that is not made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// As a viewer has it: `http://host/path?query`, `https://…`, or `/path` for no host in particular.
    pub url: String,
    /// The method.
    #[serde(default = "get")]
    pub method: String,
    /// Header fields that the viewer would send, as name and value.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The viewer's address, for rules and tickets that look at it; by default 127.0.0.1.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub client: Option<IpAddr>,
}

/// The answer to [`Inspect::Top`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopReport {
    /// Seconds that requests and bytes were counted for.
    pub seconds: u64,
    /// The first one first.
    pub objects: Vec<TopObject>,
}

/// One object of many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TopObject {
    /// Channel id.
    pub channel: String,
    /// Path below the channel's prefix, with the allowed query.
    pub path: String,
    /// Requests answered in the time of the report; an estimate where there are many.
    pub requests: u64,
    /// Body bytes sent for them.
    pub bytes: u64,
    /// Bytes of it in the RAM tier.
    pub ram_bytes: u64,
}

/// The answer to [`Inspect::Cache`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheStat {
    /// Seconds since the process started, which counts go back to.
    pub uptime_s: u64,
    /// Objects known.
    pub objects: u64,
    /// Blocks in the RAM tier.
    pub ram_blocks: u64,
    /// Bytes in the RAM tier.
    pub ram_bytes: u64,
    /// Bytes that the RAM tier may have.
    pub ram_capacity_bytes: u64,
    /// Blocks on the disk tier.
    pub disk_blocks: u64,
    /// Bytes that the disk tier may have; 0 without one.
    pub disk_capacity_bytes: u64,
    /// Objects evicted to make room.
    pub evicted_objects: u64,
    /// Objects purged.
    pub purged_objects: u64,
    /// Requests by where their answer came from.
    pub requests: Vec<RequestStat>,
    /// Thousandths of them that needed no origin before the first byte; none before the first request.
    pub hit_permille: Option<u16>,
    /// Body bytes sent to viewers.
    pub viewer_bytes: u64,
    /// Bytes received from origins and parents.
    pub origin_bytes: u64,
    /// By shard.
    pub shards: Vec<ShardStat>,
}

/// Requests of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestStat {
    /// `hit`, `disk`, `miss`, `stale`, `revalidated`, `coalesced`, `bypass`; `none` for refusals and the like.
    pub cache: String,
    /// How many.
    pub requests: u64,
}

/// One shard's part of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShardStat {
    /// Objects known.
    pub objects: u64,
    /// Blocks in the RAM tier.
    pub ram_blocks: u64,
    /// Bytes in the RAM tier.
    pub ram_bytes: u64,
    /// Bytes of other shards' blocks at hand.
    pub front_bytes: u64,
    /// Blocks on the disk tier.
    pub disk_blocks: u64,
    /// Fetches under way.
    pub flights: u64,
}

/// The answer to [`Inspect::Object`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectStat {
    /// Channel id.
    pub channel: String,
    /// Path below the channel's prefix, with the allowed query.
    pub path: String,
    /// The shard that owns it.
    pub shard: u32,
    /// What is kept of it in RAM; more than one where the origin varies its answers.
    pub variants: Vec<VariantStat>,
    /// What the disk tier has under the name, where RAM has nothing.
    pub on_disk: Option<VariantStat>,
    /// Questions to its origins under way.
    pub fetching: u32,
    /// For so many milliseconds more each request fetches for itself: the origin has said that answers are not to be shared.
    pub pass_ms: u64,
}

/// One version of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VariantStat {
    /// Status that the origin answered with.
    pub status: u16,
    /// Bytes of the whole, when known.
    pub total_bytes: Option<u64>,
    /// ETag.
    pub etag: Option<String>,
    /// Last-Modified, in Unix seconds.
    pub last_modified: Option<u64>,
    /// Content-Type.
    pub content_type: Option<String>,
    /// Cache-Control as the origin sent it.
    pub cache_control: Option<String>,
    /// The request header lines it was chosen by, where it was chosen by any.
    pub selected_by: Vec<String>,
    /// Surrogate keys.
    pub tags: Vec<String>,
    /// Seconds since the origin made or confirmed it.
    pub age_s: u64,
    /// Milliseconds that it stays fresh; negative when it is not any more.
    pub fresh_ms: i64,
    /// Which header of the origin, or which key of the channel, said so.
    pub fresh_by: String,
    /// Milliseconds beyond its freshness in which it is served while a newer one is fetched.
    pub stale_while_revalidate_ms: u64,
    /// Milliseconds beyond its freshness in which it is served while its origins fail.
    pub stale_if_error_ms: u64,
    /// Blocks in RAM, those that fill included.
    pub ram_blocks: u32,
    /// Bytes in RAM.
    pub ram_bytes: u64,
    /// Blocks on disk, as far as they were looked for.
    pub disk_blocks: u32,
    /// Fetches under way that fill it.
    pub flights: u32,
}

/// The answer to [`Inspect::Explain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// `hit`, `disk`, `miss`, `stale`, `revalidated`, `coalesced`, `bypass` as in metrics; `pass` for a method that goes to the
    /// origin; `answered` for one that needs no object; `refused`.
    pub verdict: String,
    /// Status of a refusal.
    pub status: Option<u16>,
    /// How it came to that, step by step.
    pub steps: Vec<Step>,
    /// What is kept of the object.
    pub object: Option<ObjectStat>,
    /// Parents and origins in the order in which they would be asked now. Among equals the order is drawn by weight each time.
    pub sources: Vec<SourceStat>,
}

/// One step of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// `request`, `route`, `access`, `ticket`, `key`, `cache`, `source` …
    pub what: String,
    /// What came of it, and why.
    pub says: String,
}

/// A parent or an origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceStat {
    /// Its id.
    pub id: String,
    /// Its URL.
    pub url: String,
    /// It is a parent: another node.
    pub parent: bool,
    /// It is not known to fail.
    pub up: bool,
}

fn get() -> String {
    "GET".to_owned()
}
