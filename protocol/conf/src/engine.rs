//! Which rules hold for a viewer, and which of them decides.
//!
//! Of the rules that hold, **the most specific one wins**, for the switch and for each parameter on its own. Two rules are compared
//! by what they name, in the order of [`Criterion`], the last first: a rule with a window wins over one without, whatever else the
//! two name; of two with (or without) a window the one that names numbers of viewers wins; and so on down to the app. Among what
//! both name, more is more specific for
//!
//! - channels and assets: an id or path without a star, then the pattern with more characters that stand for themselves;
//! - SDK versions: both bounds, then one;
//! - regions: a subdivision, then a country; networks: the longer prefix; in both the entry that the viewer is in counts.
//!
//! What is still equal is decided by the rule's id, the earlier one in the order of bytes.

mod compiled;
mod explain;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::parameters::{Parameters, Settled};
use crate::rule::{Rule, Switch};

use compiled::{Compiled, Specificity};

pub use explain::{Check, Explanation, RuleVerdict};

/// What a rule may name, the least specific first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// `apps`.
    App,
    /// `channels`.
    Channel,
    /// `assets`.
    Asset,
    /// `platforms`.
    Platform,
    /// `sdk`.
    Sdk,
    /// `regions`.
    Region,
    /// `networks`.
    Network,
    /// `percentage`.
    Percentage,
    /// `viewers`.
    Viewers,
    /// `window`.
    Window,
}

impl Criterion {
    /// All of them, the least specific first.
    pub const ALL: [Self; 10] = [
        Self::App,
        Self::Channel,
        Self::Asset,
        Self::Platform,
        Self::Sdk,
        Self::Region,
        Self::Network,
        Self::Percentage,
        Self::Viewers,
        Self::Window,
    ];
}

/// For whom it is to be decided. What is not known holds no rule that names it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Tenant of the channel.
    pub tenant: &'a str,
    /// App id.
    pub app: &'a str,
    /// Channel id.
    pub channel: &'a str,
    /// Path below the channel's prefix.
    pub asset: Option<&'a str>,
    /// As the SDK names it; in lower case.
    pub platform: Option<&'a str>,
    /// Version of the SDK.
    pub sdk: Option<&'a str>,
    /// ISO 3166-1; may be empty.
    pub country: &'a str,
    /// ISO 3166-2, or the country; may be empty.
    pub region: &'a str,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// What stays the same for a viewer: its id, or its session.
    pub viewer: Option<&'a str>,
    /// Viewers of the channel now.
    pub viewers: Option<u64>,
    /// Unix seconds; none: rules with a window do not hold.
    pub now: Option<u64>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Whether to use P2P.
    pub p2p: bool,
    /// What decided that.
    pub reason: Reason,
    /// The rule that did, if it was one.
    pub rule: Option<Arc<str>>,
    /// Every parameter.
    pub parameters: Settled,
}

/// What decided whether to use P2P.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The tenant's P2P is switched off.
    SwitchTenant,
    /// The channel's P2P is switched off.
    SwitchChannel,
    /// The asset's P2P is switched off.
    SwitchAsset,
    /// A rule.
    Rule,
    /// No rule says anything: it is on.
    Default,
}

/// All rules and switches, prepared. Immutable: a change makes another one.
#[derive(Debug, Default)]
pub struct Engine {
    tenants: HashMap<Box<str>, TenantRules>,
    off: HashSet<Switch>,
}

/// A tenant's rules, found by channel where they name one without a star.
#[derive(Debug, Default)]
struct TenantRules {
    rules: Vec<Compiled>,
    by_channel: HashMap<Box<str>, Vec<u32>>,
    others: Vec<u32>,
}

impl Engine {
    /// Prepares rules, and what is switched off. A rule that was never checked and has a field that cannot be read holds for nobody.
    pub fn new<'r>(rules: impl IntoIterator<Item = &'r Rule>, off: impl IntoIterator<Item = Switch>) -> Self {
        let mut engine = Self { tenants: HashMap::new(), off: off.into_iter().collect() };
        for rule in rules {
            let tenant = engine.tenants.entry(rule.tenant.as_str().into()).or_default();
            let compiled = Compiled::new(rule);
            let at = tenant.rules.len() as u32;
            match compiled.only_channel() {
                Some(channel) => tenant.by_channel.entry(channel.into()).or_default().push(at),
                None => tenant.others.push(at),
            }
            tenant.rules.push(compiled);
        }
        engine
    }

    /// What holds for a viewer.
    pub fn decide(&self, subject: &Subject<'_>) -> Decision {
        let (mut settled, mut switch) = (Parameters::default(), None);
        for (_, rule) in self.holding(subject) {
            settled.fill(&rule.parameters);
            if let (None, Some(p2p)) = (&switch, rule.p2p) {
                switch = Some((p2p, Arc::clone(&rule.id)));
            }
        }
        let parameters = settled.settle();
        match (self.switched_off(subject), switch) {
            (Some(reason), _) => Decision { p2p: false, reason, rule: None, parameters },
            (None, Some((p2p, rule))) => Decision { p2p, reason: Reason::Rule, rule: Some(rule), parameters },
            (None, None) => Decision { p2p: true, reason: Reason::Default, rule: None, parameters },
        }
    }

    /// The rules that hold, the most specific first.
    fn holding(&self, subject: &Subject<'_>) -> Vec<(Specificity, &Compiled)> {
        let Some(tenant) = self.tenants.get(subject.tenant) else { return Vec::new() };
        let of_channel = tenant.by_channel.get(subject.channel).into_iter().flatten();
        let candidates = of_channel.chain(&tenant.others).filter_map(|at| tenant.rules.get(*at as usize));
        let mut holding: Vec<_> = candidates.filter_map(|rule| Some((rule.specificity(subject)?, rule))).collect();
        holding.sort_unstable_by(|(one, rule), (other, than)| other.cmp(one).then_with(|| rule.id.cmp(&than.id)));
        holding
    }

    fn switched_off(&self, subject: &Subject<'_>) -> Option<Reason> {
        if self.off.is_empty() {
            return None;
        }
        let switch = |channel: Option<&str>, asset: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            let switch = Switch { tenant: subject.tenant.to_owned(), channel: owned(channel), asset: owned(asset) };
            self.off.contains(&switch)
        };
        let channel = Some(subject.channel);
        match subject.asset {
            _ if switch(None, None) => Some(Reason::SwitchTenant),
            _ if switch(channel, None) => Some(Reason::SwitchChannel),
            Some(asset) if switch(channel, Some(asset)) => Some(Reason::SwitchAsset),
            _ => None,
        }
    }
}
