//! What an SDK asks conf, as query or JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_conf::rule::MAX_ASSET;

use crate::field::FieldError;
use crate::validate::MAX_ID;

/// Longest URL.
const MAX_URL: usize = 4096;
/// Longest viewer id, package or version.
const MAX_TEXT: usize = 256;
/// Longest session: a ticket carries no more.
pub(crate) const MAX_SESSION: usize = shoal_ticket::MAX_SESSION;

/// What an SDK asks: the app, and what is to be played by channel, asset or URL.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub struct ConfRequest {
    /// App id.
    pub app: String,
    /// Channel id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Path of what is played, below the channel's prefix and without a query; without `channel`: `CHANNEL/PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asset: Option<String>,
    /// In place of both: the URL that is played.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `html5`, `android`, `ios`, `flash` or another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Version of the SDK, as in `2.10.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdk: Option<String>,
    /// What stays the same for a viewer between sessions; rules for a percentage of viewers go by it, else by the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub viewer: Option<String>,
    /// Session id, 1 to 32 of `A-Z a-z 0-9 . _ -`; without one conf chooses, and keeps that of the pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Android package or iOS bundle id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// The pass that conf or the tracker gave last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
    /// `KEY.TIMESTAMP.NONCE.SIGNATURE`, unless it is in the header X-Shoal-Signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// A channel, and a path below its prefix.
    Channel(&'a str, Option<&'a str>),
    /// A URL: host without port, and path.
    Url(&'a str, &'a str),
}

impl ConfRequest {
    /// What is signed: every parameter that was sent but `signature` and `pass`, by name.
    pub fn signed(&self) -> Vec<(&str, &str)> {
        let optional = [
            ("asset", &self.asset),
            ("channel", &self.channel),
            ("package", &self.package),
            ("platform", &self.platform),
            ("sdk", &self.sdk),
            ("session", &self.session),
            ("url", &self.url),
            ("viewer", &self.viewer),
        ];
        let sent = optional.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        std::iter::once(("app", self.app.as_str())).chain(sent).collect()
    }

    /// The first parameter that cannot be meant.
    pub fn check(&self) -> Result<Wanted<'_>, FieldError> {
        if self.app.is_empty() || self.app.len() > MAX_ID {
            return Err(FieldError::new("app", self.app.as_str(), "must be an app's id; each request names one"));
        }
        for (name, value) in self.signed() {
            let most = match name {
                "url" => MAX_URL,
                "asset" => MAX_ASSET,
                _ => MAX_TEXT,
            };
            if value.len() > most || value.chars().any(char::is_control) {
                return Err(FieldError::new(name, value, format!("must be one line of at most {most} bytes")));
            }
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let good = |session: &str| (1..=MAX_SESSION).contains(&session.len()) && session.bytes().all(allowed);
        if let Some(session) = self.session.as_deref().filter(|session| !good(session)) {
            return Err(FieldError::new("session", session, "must be 1 to 32 of A-Z a-z 0-9 . _ -"));
        }
        match (self.channel.as_deref(), self.asset.as_deref(), self.url.as_deref()) {
            (None, None, Some(url)) => split_url(url).map(|(host, path)| Wanted::Url(host, path)).ok_or_else(|| {
                FieldError::new("url", url, "must be http://host/path or https://host/path, percent-encoded")
            }),
            (Some(channel), asset, None) => Ok(Wanted::Channel(
                channel,
                asset.map(|asset| asset.trim_start_matches('/')).filter(|asset| !asset.is_empty()),
            )),
            (None, Some(asset), None) => match asset.trim_start_matches('/').split_once('/') {
                Some((channel, path)) if !path.is_empty() => Ok(Wanted::Channel(channel, Some(path))),
                _ => Err(FieldError::new("asset", asset, "must be CHANNEL/PATH where no channel is given")),
            },
            _ => {
                let message =
                    "must be given: name a channel, a channel and an asset, CHANNEL/PATH as asset, or a url alone";
                Err(FieldError::new("channel", self.channel.clone(), message))
            }
        }
    }
}

/// Host without port, and path without query, of an absolute URL.
pub(crate) fn split_url(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let rest = rest.split(['?', '#']).next()?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let good = !authority.is_empty() && !authority.contains('@') && rest.bytes().all(|byte| byte.is_ascii_graphic());
    good.then_some((authority, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: serde_json::Value) -> ConfRequest {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn each_way_to_name_something_works_and_mixtures_do_not() {
        use serde_json::json;
        for (given, wanted) in [
            (json!({"channel": "room1"}), Wanted::Channel("room1", None)),
            (json!({"channel": "room1", "asset": "/a/b.m3u8"}), Wanted::Channel("room1", Some("a/b.m3u8"))),
            (json!({"channel": "room1", "asset": ""}), Wanted::Channel("room1", None)),
            (json!({"asset": "vod/a/b.m3u8"}), Wanted::Channel("vod", Some("a/b.m3u8"))),
            (json!({"url": "https://h.test:8443/vod/a?x=1#y"}), Wanted::Url("h.test:8443", "/vod/a")),
            (json!({"url": "http://h.test"}), Wanted::Url("h.test", "/")),
        ] {
            let mut given = given;
            given["app"] = json!("player");
            assert_eq!(request(given.clone()).check(), Ok(wanted), "{given}");
        }
        for (given, field) in [
            (json!({"app": "", "channel": "room1"}), "app"),
            (json!({"app": "a"}), "channel"),
            (json!({"app": "a", "channel": "c", "url": "http://h/"}), "channel"),
            (json!({"app": "a", "asset": "vod"}), "asset"),
            (json!({"app": "a", "url": "ftp://h/"}), "url"),
            (json!({"app": "a", "url": "http://u@h/"}), "url"),
            (json!({"app": "a", "channel": "c", "viewer": "a\nb"}), "viewer"),
            (json!({"app": "a", "channel": "c", "package": "x".repeat(257)}), "package"),
            (json!({"app": "a", "channel": "c", "session": "a b"}), "session"),
            (json!({"app": "a", "channel": "c", "session": "s".repeat(33)}), "session"),
        ] {
            assert_eq!(request(given.clone()).check().unwrap_err().field, field, "{given}");
        }
    }

    #[test]
    fn what_is_signed_is_in_order_and_leaves_out_what_was_not_sent() {
        let given = ConfRequest {
            app: "player".to_owned(),
            channel: Some("room1".to_owned()),
            viewer: Some(String::new()),
            pass: Some("p".to_owned()),
            signature: Some("s".to_owned()),
            ..ConfRequest::default()
        };
        assert_eq!(given.signed(), [("app", "player"), ("channel", "room1"), ("viewer", "")]);
        let all = serde_json::json!({"app": "", "asset": "", "channel": "", "package": "", "platform": "", "sdk": "",
            "session": "", "url": "", "viewer": ""});
        let all = request(all);
        let names: Vec<&str> = all.signed().into_iter().map(|(name, _)| name).collect();
        assert!(names.is_sorted() && names.len() == 9);
    }
}
