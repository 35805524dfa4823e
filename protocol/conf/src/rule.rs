//! P2P rules, as documents: for whom, and what.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::tenant::DEFAULT;

use crate::glob::{Glob, MAX_PATTERN};
use crate::parameters::Parameters;
use crate::version::Version;
use crate::wrong::{MAX_ID, Wrong, bounded, check_id};

/// Most entries of a list of a rule.
pub const MAX_LIST: usize = 256;
/// Longest asset path.
pub const MAX_ASSET: usize = 1024;
/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;

/// For whom P2P is switched on or off, or works with other parameters. What is left out holds for all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique name: 1 to 64 of `a-z 0-9 - _ .`.
    pub id: String,
    /// Whose viewers it is for.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// Off: as if it were not there.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Only in these apps.
    #[serde(default)]
    pub apps: Vec<String>,
    /// Only in these channels: an id, in which `*` stands for any characters.
    #[serde(default)]
    pub channels: Option<String>,
    /// Only for these assets: a path below the channel's prefix, in which `*` stands for any characters, slashes included.
    #[serde(default)]
    pub assets: Option<String>,
    /// Only on these platforms, as SDKs name theirs: `html5`, `android`, `ios`, `flash`.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// Only with these versions of the SDK.
    #[serde(default)]
    pub sdk: SdkRange,
    /// Only in these countries (ISO 3166-1, `DE`) or their subdivisions (ISO 3166-2, `DE-BE`).
    #[serde(default)]
    pub regions: Vec<String>,
    /// Only from these networks.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub networks: Vec<IpNet>,
    /// Only for so many percent of the viewers, always the same ones; hundredths count.
    #[serde(default)]
    pub percentage: Option<f64>,
    /// What decides, together with the viewer, who is among them: rules of the same seed take the same viewers, the fewer of them
    /// being among the more. By default the rule's id.
    #[serde(default)]
    pub seed: Option<String>,
    /// Only while so many watch the channel.
    #[serde(default)]
    pub viewers: ViewerRange,
    /// Only at these times.
    #[serde(default)]
    pub window: Window,
    /// Switches P2P on or off.
    #[serde(default)]
    pub p2p: Option<bool>,
    /// Parameters that it sets.
    #[serde(default)]
    pub parameters: Parameters,
}

/// Versions of the SDK, as in `2.10.1`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SdkRange {
    /// This one and later ones.
    pub min: Option<String>,
    /// Earlier ones than this.
    pub below: Option<String>,
}

/// Numbers of viewers of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ViewerRange {
    /// So many or more.
    pub min: Option<u64>,
    /// So many or fewer.
    pub max: Option<u64>,
}

/// Times.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    /// From this Unix second on.
    pub from: Option<u64>,
    /// Before this Unix second.
    pub to: Option<u64>,
    /// And each day only at these hours.
    pub daily: Option<Daily>,
}

/// Hours of each day, in UTC. From 22:00 to 06:00 goes over midnight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Daily {
    /// From this minute on: `HH:MM`.
    pub from: String,
    /// Before this minute: `HH:MM`; `24:00` is the day's end.
    pub to: String,
}

/// What is switched off, whatever rules say: a tenant's P2P, a channel's, or that of one asset.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Tenant id.
    pub tenant: String,
    /// Channel id; none: all of the tenant's.
    #[serde(default)]
    pub channel: Option<String>,
    /// Path below the channel's prefix; none: all of the channel's.
    #[serde(default)]
    pub asset: Option<String>,
}

impl Switch {
    /// Every rule that is broken.
    pub fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        check_id("tenant", &self.tenant, &mut wrong);
        if let Some(channel) = &self.channel {
            check_id("channel", channel, &mut wrong);
        }
        if let Some(asset) = &self.asset {
            if self.channel.is_none() {
                wrong.push(Wrong::new("asset", asset.as_str(), "has no channel; name the channel that it is in"));
            }
            if asset.is_empty() || asset.len() > MAX_ASSET || asset.starts_with('/') {
                let message = format!("must be a path below the channel's prefix, of 1 to {MAX_ASSET} bytes");
                wrong.push(Wrong::new("asset", asset.as_str(), message));
            }
        }
        wrong
    }
}

impl Rule {
    /// Every rule of documents that is broken.
    pub fn check(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        check_id("id", &self.id, &mut wrong);
        check_id("tenant", &self.tenant, &mut wrong);
        let lists = [
            ("apps", self.apps.len()),
            ("platforms", self.platforms.len()),
            ("regions", self.regions.len()),
            ("networks", self.networks.len()),
        ];
        for (field, len) in lists {
            bounded(field, len, MAX_LIST, &mut wrong);
        }
        for (at, app) in self.apps.iter().enumerate() {
            check_id(&format!("apps[{at}]"), app, &mut wrong);
        }
        for (field, pattern) in [("channels", &self.channels), ("assets", &self.assets)] {
            if let Some(pattern) = pattern.as_ref().filter(|pattern| Glob::new(pattern).is_none()) {
                let message = format!("must be 1 to {MAX_PATTERN} bytes; leave it out for all");
                wrong.push(Wrong::new(field, pattern.as_str(), message));
            }
        }
        for (at, platform) in self.platforms.iter().enumerate() {
            let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
            if !(1..=MAX_ID).contains(&platform.len()) || !platform.bytes().all(allowed) {
                let message = "must be 1 to 64 of a-z, 0-9, '-', '_', '.', as in html5";
                wrong.push(Wrong::new(format!("platforms[{at}]"), platform.as_str(), message));
            }
        }
        self.check_sdk(&mut wrong);
        for (at, region) in self.regions.iter().enumerate().filter(|(_, region)| !is_region(region)) {
            let message = "must be a country such as DE, or a subdivision such as DE-BE";
            wrong.push(Wrong::new(format!("regions[{at}]"), region.as_str(), message));
        }
        for (at, net) in self.networks.iter().enumerate().filter(|(_, net)| net.addr() != net.network()) {
            let message = format!("has bits set behind its prefix length; write {}", net.trunc());
            wrong.push(Wrong::new(format!("networks[{at}]"), net.to_string(), message));
        }
        if let Some(percentage) = self.percentage.filter(|percentage| !(0.0..=100.0).contains(percentage)) {
            wrong.push(Wrong::new("percentage", percentage.to_string(), "must be from 0 to 100"));
        }
        if let Some(seed) = self.seed.as_ref().filter(|seed| seed.len() > MAX_ID) {
            wrong.push(Wrong::new("seed", seed.as_str(), format!("must have at most {MAX_ID} bytes")));
        }
        if let ViewerRange { min: Some(min), max: Some(max) } = self.viewers
            && min > max
        {
            wrong.push(Wrong::new("viewers.max", max.to_string(), "is below viewers.min: the rule would never hold"));
        }
        self.check_window(&mut wrong);
        self.parameters.check(&mut wrong);
        wrong
    }

    fn check_sdk(&self, wrong: &mut Vec<Wrong>) {
        let SdkRange { min, below } = &self.sdk;
        for (field, text) in [("sdk.min", min), ("sdk.below", below)] {
            if let Some(text) = text.as_ref().filter(|text| Version::parse(text).is_none()) {
                wrong.push(Wrong::new(field, text.as_str(), "must be up to four numbers with dots, as in 2.10.1"));
            }
        }
        let version = |text: &Option<String>| text.as_deref().and_then(Version::parse);
        if let (Some(min), Some(below)) = (version(min), version(below))
            && min >= below
        {
            let message = "is not above sdk.min: the rule would never hold";
            wrong.push(Wrong::new("sdk.below", self.sdk.below.clone().unwrap_or_default(), message));
        }
    }

    fn check_window(&self, wrong: &mut Vec<Wrong>) {
        let Window { from, to, daily } = &self.window;
        if let (Some(from), Some(to)) = (from, to)
            && from >= to
        {
            wrong.push(Wrong::new("window.to", to.to_string(), "is not after window.from: the rule would never hold"));
        }
        let Some(Daily { from, to }) = daily else { return };
        for (field, text) in [("window.daily.from", from), ("window.daily.to", to)] {
            if minute(text).is_none() {
                wrong.push(Wrong::new(field, text.as_str(), "must be HH:MM in UTC, from 00:00 to 24:00"));
            }
        }
        if minute(from).is_some() && minute(from) == minute(to) {
            let message = "is window.daily.from: the rule would never hold; leave both out for the whole day";
            wrong.push(Wrong::new("window.daily.to", to.as_str(), message));
        }
    }
}

/// `DE` or `DE-BE`.
fn is_region(text: &str) -> bool {
    let (country, subdivision) = text.split_once('-').map_or((text, None), |(country, rest)| (country, Some(rest)));
    let upper = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
    country.len() == 2
        && country.bytes().all(|byte| byte.is_ascii_uppercase())
        && subdivision.is_none_or(|text| (1..=3).contains(&text.len()) && text.bytes().all(upper))
}

/// Minutes since midnight of `HH:MM`.
pub(crate) fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |text: &str| {
        (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u16>().ok())?
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= DAY_MINUTES).then_some(hours * 60 + minutes)
}

fn default_tenant() -> String {
    DEFAULT.to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(mut rule: Value) -> Vec<String> {
        rule["id"] = json!("r");
        let rule: Rule = serde_json::from_value(rule).unwrap();
        rule.check().into_iter().map(|wrong| wrong.field).collect()
    }

    #[test]
    fn good_rules_pass_and_bad_ones_are_named() {
        for (rule, fields) in [
            (json!({}), vec![]),
            (
                json!({"apps": ["a"], "channels": "room*", "assets": "vod/*.mp4", "platforms": ["html5"],
                       "sdk": {"min": "1", "below": "2.0"}, "regions": ["DE", "DE-BE"], "networks": ["10.0.0.0/8"],
                       "percentage": 0.01, "viewers": {"min": 2, "max": 2}, "p2p": false,
                       "window": {"from": 1, "to": 2, "daily": {"from": "22:00", "to": "06:00"}},
                       "parameters": {"peers_max": 3}}),
                vec![],
            ),
            (json!({"tenant": "A", "apps": [""]}), vec!["tenant", "apps[0]"]),
            (json!({"channels": "", "assets": "a".repeat(257)}), vec!["channels", "assets"]),
            (json!({"platforms": ["HTML5"], "sdk": {"min": "x"}}), vec!["platforms[0]", "sdk.min"]),
            (json!({"sdk": {"min": "2", "below": "2.0"}}), vec!["sdk.below"]),
            (json!({"regions": ["de", "DEU", "DE-"]}), vec!["regions[0]", "regions[1]", "regions[2]"]),
            (json!({"networks": ["10.0.0.1/8"], "percentage": 100.1}), vec!["networks[0]", "percentage"]),
            (json!({"viewers": {"min": 2, "max": 1}, "seed": "s".repeat(65)}), vec!["seed", "viewers.max"]),
            (json!({"window": {"from": 2, "to": 2}}), vec!["window.to"]),
            (
                json!({"window": {"daily": {"from": "6:00", "to": "24:01"}}}),
                vec!["window.daily.from", "window.daily.to"],
            ),
            (json!({"window": {"daily": {"from": "06:00", "to": "06:00"}}}), vec!["window.daily.to"]),
            (json!({"parameters": {"interval_s": 1}}), vec!["parameters.interval_s"]),
        ] {
            assert_eq!(wrong(rule.clone()), fields, "{rule}");
        }
        assert!(serde_json::from_value::<Rule>(json!({"id": "r", "colour": "red"})).is_err());
    }

    #[test]
    fn switches_name_what_they_switch() {
        let wrong = |switch: Value| serde_json::from_value::<Switch>(switch).unwrap().check().len();
        assert_eq!(wrong(json!({"tenant": "acme"})), 0);
        assert_eq!(wrong(json!({"tenant": "acme", "channel": "room1", "asset": "a/b"})), 0);
        assert_eq!(wrong(json!({"tenant": "acme", "asset": "a/b"})), 1);
        assert_eq!(wrong(json!({"tenant": "acme", "channel": "room1", "asset": "/a"})), 1);
    }
}
