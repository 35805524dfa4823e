//! What a channel asks of a signed URL.

use std::fmt::{Debug, Formatter, Result as FmtResult};

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
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// 1 to 16 of `a-z A-Z 0-9 - _`.
    pub id: String,
    /// The secret; as given, in UTF-8. At least 16 bytes, or 6 where a third-party profile is accepted.
    #[schemars(extend("writeOnly" = true))]
    pub secret: String,
}

impl Debug for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A form of signed URL (docs/ticket.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "profile", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Profile {
    /// Shoal's own: HMAC-SHA-256 over channel, path prefix, expiry, session and optional client network.
    Shoal,
    /// `?txSecret=H&txTime=T`, T an expiry in hex: md5(key + stream name + T).
    TencentLive {
        /// Query parameter of the digest.
        #[serde(default = "tx_secret")]
        signature_param: String,
        /// Query parameter of the time.
        #[serde(default = "tx_time")]
        time_param: String,
    },
    /// `?sign=ts-rand-uid-H`: md5(uri-ts-rand-uid-key).
    TencentA {
        /// Query parameter that holds it all.
        #[serde(default = "sign")]
        param: String,
        /// What the time in the URL means.
        #[serde(default)]
        time: TimeMeaning,
        /// Seconds from `issued` to expiry; by default the policy's.
        #[serde(default)]
        ttl_s: Option<u32>,
    },
    /// `/YYYYMMDDHHMM/H/path`, in UTC+8: md5(key + time + path).
    TencentB {
        /// What the time in the URL means.
        #[serde(default)]
        time: TimeMeaning,
        /// Seconds from `issued` to expiry; by default the policy's.
        #[serde(default)]
        ttl_s: Option<u32>,
    },
    /// `/H/hextime/path`: md5(key + path + hextime), or in another order.
    TencentC {
        /// The order of the hashed fields.
        #[serde(default)]
        order: FieldOrder,
        /// What the time in the URL means.
        #[serde(default)]
        time: TimeMeaning,
        /// Seconds from `issued` to expiry; by default the policy's.
        #[serde(default)]
        ttl_s: Option<u32>,
    },
    /// `?sign=H&t=ts`: md5(key + path + ts).
    TencentD {
        /// Query parameter of the digest.
        #[serde(default = "sign")]
        signature_param: String,
        /// Query parameter of the time.
        #[serde(default = "t")]
        time_param: String,
        /// How the time is written.
        #[serde(default)]
        time_format: TimeFormat,
        /// What the time in the URL means.
        #[serde(default)]
        time: TimeMeaning,
        /// Seconds from `issued` to expiry; by default the policy's.
        #[serde(default)]
        ttl_s: Option<u32>,
    },
    /// `?auth_key=ts-rand-uid-H`: md5(uri-ts-rand-uid-key).
    AliyunA {
        /// Query parameter that holds it all.
        #[serde(default = "auth_key")]
        param: String,
        /// What the time in the URL means.
        #[serde(default)]
        time: TimeMeaning,
        /// Seconds from `issued` to expiry; by default the policy's.
        #[serde(default)]
        ttl_s: Option<u32>,
    },
    /// `/YYYYMMDDHHMM/H/path`, in UTC+8: md5(key + time + path).
    AliyunB {
        /// What the time in the URL means.
        #[serde(default)]
        time: TimeMeaning,
        /// Seconds from `issued` to expiry; by default the policy's.
        #[serde(default)]
        ttl_s: Option<u32>,
    },
    /// `/H/hextime/path` or `?KEY1=H&KEY2=hextime`: md5(key + path + hextime).
    AliyunC {
        /// Query parameter of the digest.
        #[serde(default = "key1")]
        signature_param: String,
        /// Query parameter of the time.
        #[serde(default = "key2")]
        time_param: String,
        /// What the time in the URL means.
        #[serde(default)]
        time: TimeMeaning,
        /// Seconds from `issued` to expiry; by default the policy's.
        #[serde(default)]
        ttl_s: Option<u32>,
    },
    /// nginx's `secure_link`: `?md5=B&expires=E`, E a decimal expiry, B the base64url of the raw md5 of `expression`.
    NginxSecureLink {
        /// As in `secure_link_md5`, with `$secret` for the key: `$secure_link_expires$uri$remote_addr $secret`.
        /// Known: `$secret`, `$secure_link_expires`, `$uri`, `$remote_addr`, `$arg_NAME`; also as `${name}`.
        expression: String,
        /// Query parameter of the digest.
        #[serde(default = "md5")]
        signature_param: String,
        /// Query parameter of the expiry.
        #[serde(default = "expires")]
        expires_param: String,
    },
}

/// What the time in a signed URL means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum TimeMeaning {
    /// When it was signed: it lives for the TTL from then.
    #[default]
    Issued,
    /// When it expires.
    Expiry,
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum TimeFormat {
    /// Unix seconds in decimal.
    #[default]
    Decimal,
    /// Unix seconds in hex.
    Hex,
}

/// The order in which tencent-c hashes its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum FieldOrder {
    /// key + path + time.
    #[default]
    PathTime,
    /// key + time + path.
    TimePath,
}

impl Profile {
    /// Its name in configurations, metrics and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Shoal => "shoal",
            Self::TencentLive { .. } => "tencent-live",
            Self::TencentA { .. } => "tencent-a",
            Self::TencentB { .. } => "tencent-b",
            Self::TencentC { .. } => "tencent-c",
            Self::TencentD { .. } => "tencent-d",
            Self::AliyunA { .. } => "aliyun-a",
            Self::AliyunB { .. } => "aliyun-b",
            Self::AliyunC { .. } => "aliyun-c",
            Self::NginxSecureLink { .. } => "nginx-secure-link",
        }
    }

    /// Its query parameters, with the setting that names each. None for what stands in the path.
    pub(crate) fn params(&self) -> [Option<(&'static str, &str)>; 2] {
        match self {
            Self::Shoal | Self::TencentB { .. } | Self::TencentC { .. } | Self::AliyunB { .. } => [None, None],
            Self::TencentA { param, .. } | Self::AliyunA { param, .. } => [Some(("param", param)), None],
            Self::TencentLive { signature_param, time_param }
            | Self::TencentD { signature_param, time_param, .. }
            | Self::AliyunC { signature_param, time_param, .. } => {
                [Some(("signature_param", signature_param)), Some(("time_param", time_param))]
            }
            Self::NginxSecureLink { signature_param, expires_param, .. } => {
                [Some(("signature_param", signature_param)), Some(("expires_param", expires_param))]
            }
        }
    }

    /// Seconds that are added to the time in the URL to get its expiry.
    pub(crate) fn lifetime(&self, policy_ttl_s: u32) -> u64 {
        match self.timing() {
            Some((TimeMeaning::Issued, ttl_s)) => u64::from(ttl_s.unwrap_or(policy_ttl_s)),
            Some((TimeMeaning::Expiry, _)) | None => 0,
        }
    }

    /// A TTL of its own.
    pub(crate) fn ttl_s(&self) -> Option<u32> {
        self.timing().and_then(|(_, ttl_s)| ttl_s)
    }

    /// `None` where the time is always an expiry.
    fn timing(&self) -> Option<(TimeMeaning, Option<u32>)> {
        match self {
            Self::TencentA { time, ttl_s, .. }
            | Self::TencentB { time, ttl_s }
            | Self::TencentC { time, ttl_s, .. }
            | Self::TencentD { time, ttl_s, .. }
            | Self::AliyunA { time, ttl_s, .. }
            | Self::AliyunB { time, ttl_s }
            | Self::AliyunC { time, ttl_s, .. } => Some((*time, *ttl_s)),
            Self::Shoal | Self::TencentLive { .. } | Self::NginxSecureLink { .. } => None,
        }
    }
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

fn tx_secret() -> String {
    "txSecret".to_owned()
}

fn tx_time() -> String {
    "txTime".to_owned()
}

fn sign() -> String {
    "sign".to_owned()
}

fn t() -> String {
    "t".to_owned()
}

fn auth_key() -> String {
    "auth_key".to_owned()
}

fn key1() -> String {
    "KEY1".to_owned()
}

fn key2() -> String {
    "KEY2".to_owned()
}

fn md5() -> String {
    "md5".to_owned()
}

fn expires() -> String {
    "expires".to_owned()
}
