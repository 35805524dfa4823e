//! What a channel asks of a signed URL.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which signatures a channel accepts, and with which keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TicketPolicy {
    /// Accepted forms, tried in order. Shoal's own ticket is always accepted.
    #[serde(default)]
    pub profiles: Vec<Profile>,
    /// Keys accepted; the first is the one that signs. At least one.
    pub keys: Vec<Key>,
    /// Clock skew tolerated, in seconds.
    #[serde(default = "default_skew")]
    pub skew_s: u32,
    /// Seconds that a minted ticket lives, and that a profile without an expiry of its own (timestamp forms) does.
    #[serde(default = "default_ttl")]
    pub ttl_s: u32,
    /// Add the viewer's ticket to the URIs of .m3u8 and .mpd.
    #[serde(default = "yes")]
    pub rewrite_playlists: bool,
}

/// A secret with a name, so that keys can be rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// 1 to 16 of `a-z A-Z 0-9 - _`.
    pub id: String,
    /// The secret; as given, in UTF-8.
    pub secret: String,
}

/// A form of signed URL (shared/WIRE.md, docs/ticket.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "profile", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Profile {
    /// Shoal's own: HMAC-SHA-256 over channel, path prefix, expiry, session and optional client network.
    Shoal,
}

fn default_skew() -> u32 {
    5
}

fn default_ttl() -> u32 {
    300
}

fn yes() -> bool {
    true
}
