//! Channels as the control plane keeps them and the data plane serves them.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_ticket::TicketPolicy;

use crate::block::Block;
use crate::tenant::{DEFAULT, Tenant};

/// All that a data plane serves. Replaced whole and atomically; `version` only grows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Grows with every change at the control plane.
    pub version: u64,
    /// Every channel, in no particular order.
    pub channels: Vec<Channel>,
    /// Tenants that have rules; one that only channels name has none.
    #[serde(default)]
    pub tenants: Vec<Tenant>,
    /// Who is blocked. Nodes see by themselves when that ends.
    #[serde(default)]
    pub blocks: Vec<Block>,
}

/// One live room, VOD library or any other tree of URLs with the same origins and rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Unique name: 1 to 64 of `a-z 0-9 - _ .`.
    pub id: String,
    /// Who pays for it; same alphabet as `id`.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// Host names it answers to, lower case, without port. Empty: any host.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Path prefix of whole segments, with a slash at both ends: `/room1/`. What follows it is asked of the origin.
    pub prefix: String,
    /// Where the bytes come from; at least one.
    pub origins: Vec<Origin>,
    /// What may be kept, and for how long.
    #[serde(default)]
    pub cache: CachePolicy,
    /// What passes between viewers and origins besides the objects.
    #[serde(default)]
    pub forward: ForwardPolicy,
    /// How much viewers may take of it.
    #[serde(default)]
    pub limits: LimitPolicy,
    /// Cross-origin rules for browsers.
    #[serde(default)]
    pub cors: CorsPolicy,
    /// Anti-leech: who may fetch.
    #[serde(default)]
    pub access: AccessPolicy,
    /// What is learnt of playback.
    #[serde(default)]
    pub telemetry: TelemetryPolicy,
    /// Off: every request is answered 403 `channel is switched off`.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// One source of a channel's bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Unique within the channel; same alphabet as a channel id. Labels metrics and the ledger.
    pub id: String,
    /// `http://host[:port][/base/]`, the same with `https`, or `file:/absolute/folder`.
    pub url: String,
    /// Lower orders are tried first.
    #[serde(default)]
    pub order: u16,
    /// Share among healthy origins of the same order; 0 takes it out.
    #[serde(default = "one")]
    pub weight: u16,
    /// Host header to send, and with `https` the name that the certificate must have; by default the URL's authority.
    #[serde(default)]
    pub host: Option<String>,
    /// Ask for byte ranges. Off: only whole bodies are asked for.
    #[serde(default = "yes")]
    pub range: bool,
    /// Path (below the URL) that a health check GETs; none: passive health only.
    #[serde(default)]
    pub health_path: Option<String>,
    /// Milliseconds between health checks.
    #[serde(default = "five_seconds")]
    pub health_interval_ms: u32,
}

/// How long things may be kept when the origin does not say, and what makes two URLs one object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CachePolicy {
    /// Milliseconds a response without Cache-Control, Expires stays fresh, if its status lets it be kept at all.
    pub default_ttl_ms: u32,
    /// Such a response with Last-Modified stays fresh for a tenth of the time since then, if that is longer, but at most for so
    /// many milliseconds (RFC 9111 section 4.2.2). 0: Last-Modified says nothing. Not for .m3u8 and .mpd.
    pub heuristic_ttl_max_ms: u32,
    /// The same for .m3u8 and .mpd.
    pub playlist_ttl_ms: u32,
    /// The same for a 404, 410 or another error that may be kept without a word of the origin (RFC 9110 section 15.1).
    pub negative_ttl_ms: u32,
    /// Milliseconds a stale object may still be served while its origins fail (RFC 5861 section 4).
    pub stale_if_error_ms: u32,
    /// Viewers may have an object asked for again at its origin, with `Cache-Control: no-cache`, `max-age=0` or
    /// `Pragma: no-cache`. Off: the edge decides, and a reload costs the origin nothing.
    pub client_revalidation: bool,
    /// Query parameters that belong to the cache key and go to the origin; all others do neither. `*` for all, but for those of
    /// tickets and `CMCD`.
    pub query_allow: Vec<String>,
}

/// What of a viewer's request reaches the origin, and what of an origin's odd answers reaches the viewer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ForwardPolicy {
    /// Request headers that go to the origin; `*` for all end-to-end ones but tickets and CMCD. A response that varies on one of them is
    /// kept once for each of its values; what is not in the list an origin cannot choose by.
    pub headers: Vec<String>,
    /// Pass POST, PUT, DELETE, PATCH and unknown methods to an origin, once; its success throws away what is kept of the URL
    /// (RFC 9111 section 4.4). Off: 405.
    pub unsafe_methods: bool,
    /// Bytes that the body of such a request may have.
    pub body_bytes_max: u32,
    /// Hand on an origin's own 408, 429 or 5xx when no origin answers better and nothing stale may be served. Off: a 502 of the edge.
    pub server_errors: bool,
    /// Redirects of an origin that are followed for one request, as long as they lead to the host of one of the channel's origins
    /// (one of weight 0 is only led to); what is found is kept under the URL that was asked for. 0, and any other redirect: the
    /// viewer gets it.
    pub redirects: u8,
    /// When an origin has not answered within the time in which this percentage of its last answers began, the next origin is
    /// asked as well, and the first answer counts. 0: only an origin that fails is followed by another.
    pub hedge_percentile: u8,
    /// Percentage of a channel's questions to its origins that may be asked twice so.
    pub hedge_budget_percent: u8,
}

/// How much viewers may take of a channel on each node; 0 is no limit. Nodes that have this one as a parent are not limited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub struct LimitPolicy {
    /// Requests per second; a second's worth may come at once. Those beyond get 429 with Retry-After.
    pub requests_per_second: u32,
    /// Body bytes per second of all responses together; a second's worth may go out at once. Beyond that responses wait for their
    /// turn, and new requests get 503 with Retry-After while more than a second's worth waits.
    pub bytes_per_second: u64,
    /// Body bytes per second of each response, sent evenly by the kernel (SO_MAX_PACING_RATE).
    pub response_bytes_per_second: u64,
    /// The first bytes of each response go out as fast as they can: what a player needs to start.
    pub response_burst_bytes: u64,
}

/// Cross-origin answers (Fetch standard, CORS protocol).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CorsPolicy {
    /// Off: no CORS header is sent and a preflight gets 204 without any.
    pub enabled: bool,
    /// Origins allowed, `*` for all. `https://*.example.com` covers sub-domains.
    pub allow_origins: Vec<String>,
    /// Response headers that scripts may read.
    pub expose_headers: Vec<String>,
    /// Request headers allowed beyond the safelisted ones; `*` echoes what is asked.
    pub allow_headers: Vec<String>,
    /// Seconds a preflight's answer may be kept.
    pub max_age_s: u32,
    /// Answer with the caller's own origin and `Access-Control-Allow-Credentials: true`.
    pub allow_credentials: bool,
    /// Send Timing-Allow-Origin for the same origins.
    pub timing: bool,
}

/// Who may fetch. All rules must agree; an empty rule agrees with everybody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub struct AccessPolicy {
    /// Signed URLs; none: no ticket is asked for.
    pub ticket: Option<TicketPolicy>,
    /// On the host of Referer, or of Origin when there is no Referer. `*.example.com` covers sub-domains.
    pub referer: NameRule,
    /// On User-Agent; a pattern is a case-insensitive substring.
    pub user_agent: NameRule,
    /// On the client's address.
    pub address: AddressRule,
}

/// What is learnt of playback from requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryPolicy {
    /// Read what players send with their requests as CMCD (CTA-5004): the query's `CMCD` or the headers `CMCD-Object`,
    /// `CMCD-Request`, `CMCD-Session`, `CMCD-Status`. Sums of it go to the control plane. It is never part of a cache key, and
    /// goes to the origin only where `cache.query_allow` or `forward.headers` name it.
    pub cmcd: bool,
}

impl Default for TelemetryPolicy {
    fn default() -> Self {
        Self { cmcd: true }
    }
}

/// Allow and deny lists of patterns. Deny wins; an empty allow list allows all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub struct NameRule {
    /// Only these, when not empty.
    pub allow: Vec<String>,
    /// Never these.
    pub deny: Vec<String>,
    /// Whether a request without the header passes a non-empty allow list.
    pub allow_missing: bool,
}

/// Allow and deny lists of networks. The longest match decides, deny at equal length; an empty allow list allows all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub struct AddressRule {
    /// Only these, when not empty.
    #[schemars(with = "Vec<String>")]
    pub allow: Vec<IpNet>,
    /// Never these.
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<IpNet>,
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self {
            default_ttl_ms: 60_000,
            heuristic_ttl_max_ms: 0,
            playlist_ttl_ms: 1_000,
            negative_ttl_ms: 1_000,
            stale_if_error_ms: 60_000,
            client_revalidation: false,
            query_allow: Vec::new(),
        }
    }
}

/// CMCD in a query (CTA-5004).
const CMCD_PARAMETER: &str = "CMCD";

impl CachePolicy {
    /// Whether the query parameter of this name belongs to the cache key and goes to the origin.
    #[must_use]
    pub fn keeps(&self, name: &str) -> bool {
        // CMCD differs with every request: within a key it would make every request a miss.
        self.query_allow.iter().any(|allow| allow == name || (allow == "*" && name != CMCD_PARAMETER))
    }
}

impl Default for ForwardPolicy {
    fn default() -> Self {
        Self {
            headers: Vec::new(),
            unsafe_methods: false,
            body_bytes_max: 1 << 20,
            server_errors: false,
            redirects: 0,
            hedge_percentile: 0,
            hedge_budget_percent: 5,
        }
    }
}

impl Default for CorsPolicy {
    fn default() -> Self {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            enabled: true,
            allow_origins: list(&["*"]),
            expose_headers: list(&[
                "Content-Length",
                "Content-Range",
                "Accept-Ranges",
                "Age",
                "Date",
                "ETag",
                "Server-Timing",
            ]),
            allow_headers: list(&["*"]),
            max_age_s: 86_400,
            allow_credentials: false,
            timing: true,
        }
    }
}

fn default_tenant() -> String {
    DEFAULT.to_owned()
}

fn yes() -> bool {
    true
}

fn one() -> u16 {
    1
}

fn five_seconds() -> u32 {
    5_000
}
