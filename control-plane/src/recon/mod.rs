//! Reconciliation: what one side says it delivered, against what the other says it got. Like with like:
//!
//! | Pair | The delivering side's figure | The other |
//! |---|---|---|
//! | `upstream` | a CDN's log, of what our nodes asked of it | our ledger's upstream bytes from that CDN's origins |
//! | `direct` | a CDN's log, of what viewers asked of it | what SDKs report as had from that CDN |
//! | `edge` | our ledger's bytes to viewers | what SDKs report as had from our edges |
//!
//! A difference is the other's figure less the delivering side's, as a part of the latter. [`import`] reads logs, [`compare`] is
//! the arithmetic, [`watch`] the metrics; SQL is in `store/reconciliation.rs`.

pub mod compare;
pub mod import;
mod map;
pub mod watch;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::field::FieldError;
use crate::validate::{MAX_ID, check_id};

/// Most origins of a provider.
const MAX_ORIGINS: usize = 256;
/// Most networks of our nodes.
const MAX_EDGES: usize = 256;
/// Least and most that alerts can be set to, in percent.
const PERCENT: std::ops::RangeInclusive<f64> = 0.1..=100.0;

/// Which two figures are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pair {
    /// A CDN's log, of what our nodes asked of it, and our ledger's upstream bytes.
    Upstream,
    /// A CDN's log, of what viewers asked of it, and SDKs' direct bytes.
    Direct,
    /// Our ledger's client bytes, and SDKs' edge bytes.
    Edge,
}

impl Pair {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Upstream, Self::Direct, Self::Edge];

    /// Its name in the API and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Direct => "direct",
            Self::Edge => "edge",
        }
    }
}

/// A CDN whose logs are imported.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// 1 to 64 of `a-z 0-9 - _ .`; the name that SDKs report direct bytes under.
    #[serde(default)]
    pub id: String,
    /// Ids of origins that are this CDN, in whichever channels.
    #[serde(default)]
    pub origins: Vec<String>,
    /// Networks from which our nodes ask it. Requests from there are held against our ledger, others against what SDKs report. Empty:
    /// with origins all requests are our nodes', without any all are viewers'.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub edges: Vec<IpNet>,
    /// Query parameter with the viewer's session, beside `ticket` and CMCD's `sid`; empty: none.
    #[serde(default)]
    pub session_parameter: String,
}

impl Provider {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Err(message) = check_id(&self.id) {
            errors.push(FieldError::new("id", self.id.as_str(), message));
        }
        for (field, len, most) in [("origins", self.origins.len(), MAX_ORIGINS), ("edges", self.edges.len(), MAX_EDGES)]
        {
            if len > most {
                errors.push(FieldError::new(field, len, format!("has more than the {most} allowed; leave some out")));
            }
        }
        for (at, origin) in self.origins.iter().enumerate().take(MAX_ORIGINS) {
            if let Err(message) = check_id(origin) {
                errors.push(FieldError::new(format!("origins[{at}]"), origin.as_str(), message));
            }
        }
        let name = &self.session_parameter;
        if name.len() > MAX_ID || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            let message = format!("must be up to {MAX_ID} of A-Z a-z 0-9 - _ ., as it stands in the query");
            errors.push(FieldError::new("session_parameter", name.as_str(), message));
        }
        errors
    }

    /// Whether a request from there was one of our nodes'.
    #[must_use]
    pub fn is_edge(&self, client: Option<std::net::IpAddr>) -> bool {
        match (client.map(|client| client.to_canonical()), self.edges.is_empty()) {
            (_, true) => !self.origins.is_empty(),
            (Some(client), false) => self.edges.iter().any(|network| network.contains(&client)),
            (None, false) => false,
        }
    }
}

/// From when on a tenant's channels alert.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Percent of difference beyond which an hour alerts.
    pub alert_percent: f64,
    /// Bytes that at least one side must have in the hour for an alert: of little, a little is much.
    pub min_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { alert_percent: 5.0, min_bytes: 64 << 20 }
    }
}

impl Settings {
    /// What is wrong with them.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !PERCENT.contains(&self.alert_percent) {
            let message = format!("must be from {} to {}", PERCENT.start(), PERCENT.end());
            errors.push(FieldError::new("alert_percent", self.alert_percent, message));
        }
        if self.min_bytes > 1 << 50 {
            errors.push(FieldError::new("min_bytes", self.min_bytes, format!("must be at most {}", 1_u64 << 50)));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_follows_from_networks_or_from_origins() {
        let ip = |text: &str| Some(text.parse().unwrap());
        let mut provider = Provider { id: "cdn".to_owned(), ..Provider::default() };
        assert!(!provider.is_edge(ip("192.0.2.1")));
        provider.origins = vec!["main".to_owned()];
        assert!(provider.is_edge(ip("192.0.2.1")) && provider.is_edge(None));
        provider.edges = vec!["192.0.2.0/24".parse().unwrap()];
        assert!(provider.is_edge(ip("192.0.2.1")) && provider.is_edge(ip("::ffff:192.0.2.1")));
        assert!(!provider.is_edge(ip("198.51.100.1")) && !provider.is_edge(None));
    }

    #[test]
    fn documents_are_checked() {
        let bad = Provider {
            id: "CDN".to_owned(),
            origins: vec!["ok".to_owned(), "not ok".to_owned()],
            edges: vec!["192.0.2.0/24".parse().unwrap(); MAX_EDGES + 1],
            session_parameter: "a&b".to_owned(),
        };
        let fields: Vec<String> = bad.check().into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["id", "edges", "origins[1]", "session_parameter"]);
        assert!(Provider { id: "cdn".to_owned(), ..Provider::default() }.check().is_empty());
        assert!(Settings::default().check().is_empty());
        for percent in [0.0, 101.0, f64::NAN] {
            assert_eq!(Settings { alert_percent: percent, ..Settings::default() }.check().len(), 1);
        }
    }
}
