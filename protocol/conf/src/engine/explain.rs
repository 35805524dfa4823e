//! Why it was decided so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::compiled::{Compiled, hundredth};
use super::{Criterion, Engine, Reason, Subject};
use crate::parameters::{Parameters, Settled};

/// Most rules that an explanation lists.
const MAX_RULES: usize = 1_000;

/// What was decided for a viewer, and what each rule had to do with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// Whether to use P2P.
    pub p2p: bool,
    /// What decided that.
    pub reason: Reason,
    /// The rule that did, if it was one.
    pub rule: Option<String>,
    /// Every parameter.
    pub parameters: Settled,
    /// The tenant's rules: those that hold, the most specific first, then the others by id.
    pub rules: Vec<RuleVerdict>,
    /// How many more there are than are listed.
    pub left_out: usize,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleVerdict {
    /// Its id.
    pub rule: String,
    /// Whether it holds for this viewer.
    pub holds: bool,
    /// Whether it is switched on.
    pub enabled: bool,
    /// What it names.
    pub checks: Vec<Check>,
    /// What it decided: `p2p`, and names of parameters.
    pub decided: Vec<String>,
}

/// One thing that a rule names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What.
    pub criterion: Criterion,
    /// Whether the viewer is among them.
    pub holds: bool,
    /// What the rule asks for, and what the viewer is.
    pub says: String,
}

impl Engine {
    /// As [`Engine::decide`], with the reasons.
    pub fn explain(&self, subject: &Subject<'_>) -> Explanation {
        let decision = self.decide(subject);
        let mut settled = Parameters::default();
        let mut switch_open = self.switched_off(subject).is_none();
        let mut rules = Vec::new();
        for (_, rule) in self.holding(subject) {
            let mut decided: Vec<String> = Vec::new();
            if switch_open && rule.p2p.is_some() {
                switch_open = false;
                decided.push("p2p".to_owned());
            }
            decided.extend(settled.fill(&rule.parameters).into_iter().map(str::to_owned));
            rules.push(verdict(rule, subject, decided));
        }
        let tenant = self.tenants.get(subject.tenant);
        let mut others: Vec<&Compiled> = tenant
            .into_iter()
            .flat_map(|tenant| &tenant.rules)
            .filter(|rule| rule.specificity(subject).is_none())
            .collect();
        others.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        let all = rules.len() + others.len();
        rules.truncate(MAX_RULES);
        let room = MAX_RULES - rules.len();
        rules.extend(others.into_iter().take(room).map(|rule| verdict(rule, subject, Vec::new())));
        Explanation {
            p2p: decision.p2p,
            reason: decision.reason,
            rule: decision.rule.map(|rule| rule.to_string()),
            parameters: decision.parameters,
            left_out: all - rules.len(),
            rules,
        }
    }
}

fn verdict(rule: &Compiled, subject: &Subject<'_>, decided: Vec<String>) -> RuleVerdict {
    let checks = Criterion::ALL.into_iter().filter_map(|criterion| {
        let holds = rule.test(criterion, subject)?.is_some();
        Some(Check { criterion, holds, says: says(rule, criterion, subject) })
    });
    RuleVerdict {
        rule: rule.id.to_string(),
        holds: rule.specificity(subject).is_some(),
        enabled: rule.enabled,
        checks: checks.collect(),
        decided,
    }
}

fn says(rule: &Compiled, criterion: Criterion, subject: &Subject<'_>) -> String {
    let written = &rule.written;
    let known = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("unknown").to_owned();
    let (asked, is) = match criterion {
        Criterion::App => (written.apps.join(", "), subject.app.to_owned()),
        Criterion::Channel => (known(written.channels.as_deref()), subject.channel.to_owned()),
        Criterion::Asset => (known(written.assets.as_deref()), known(subject.asset)),
        Criterion::Platform => (written.platforms.join(", "), known(subject.platform)),
        Criterion::Sdk => {
            let bound = |text: &Option<String>| text.clone().unwrap_or_else(|| "any".to_owned());
            (format!("from {} below {}", bound(&written.sdk.min), bound(&written.sdk.below)), known(subject.sdk))
        }
        Criterion::Region => (written.regions.join(", "), known(Some(subject.region))),
        Criterion::Network => {
            let networks: Vec<String> = written.networks.iter().map(ToString::to_string).collect();
            (networks.join(", "), subject.address.map_or_else(|| "unknown".to_owned(), |address| address.to_string()))
        }
        Criterion::Percentage => {
            let seed = written.seed.as_deref().unwrap_or(&rule.id);
            let place = subject.viewer.map(|viewer| hundredth(seed, viewer) as f64 / 100.0);
            let is = place.map_or_else(|| "unknown".to_owned(), |place| format!("at {place:.2}"));
            (format!("below {}", written.percentage.unwrap_or_default()), is)
        }
        Criterion::Viewers => {
            let (min, max) = (written.viewers.min.unwrap_or(0), written.viewers.max);
            let max = max.map_or_else(|| "any".to_owned(), |max| max.to_string());
            (
                format!("from {min} to {max}"),
                subject.viewers.map_or_else(|| "unknown".to_owned(), |viewers| viewers.to_string()),
            )
        }
        Criterion::Window => {
            let window = &written.window;
            let second = |at: Option<u64>| at.map_or_else(|| "any".to_owned(), |at| at.to_string());
            let daily = window.daily.as_ref();
            let daily = daily.map(|daily| format!(", daily {} to {} UTC", daily.from, daily.to)).unwrap_or_default();
            (format!("from {} to {}{daily}", second(window.from), second(window.to)), second(subject.now))
        }
    };
    format!("asks for {asked}; is {is}")
}
