//! A rule, prepared.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::{Criterion, Subject};
use crate::glob::Glob;
use crate::parameters::Parameters;
use crate::rule::{Rule, ViewerRange, minute};
use crate::version::Version;

/// How specific a rule is for a viewer: the rank of each criterion, the most specific criterion first; 0 for what it does not name.
pub(super) type Specificity = [u16; Criterion::ALL.len()];

/// Hundredths of a percent in all.
const WHOLE: u64 = 10_000;
const DAY_S: u64 = 86_400;

#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) id: Arc<str>,
    pub(super) enabled: bool,
    pub(super) p2p: Option<bool>,
    pub(super) parameters: Parameters,
    /// As it was written, for explanations.
    pub(super) written: Rule,
    apps: HashSet<Box<str>>,
    channels: Option<Pattern>,
    assets: Option<Pattern>,
    platforms: HashSet<Box<str>>,
    min: Bound,
    below: Bound,
    seed: Arc<str>,
    /// Hundredths of a percent.
    share: Option<u64>,
    daily: Option<Option<(u16, u16)>>,
}

/// A pattern, if it can be one.
type Pattern = Option<Glob>;
/// A bound, if there is one, and its version, if it can be read.
type Bound = Option<Option<Version>>;

impl Compiled {
    pub(super) fn new(rule: &Rule) -> Self {
        let pattern = |text: &Option<String>| text.as_deref().map(Glob::new);
        let version = |text: &Option<String>| text.as_deref().map(Version::parse);
        let set = |list: &[String]| list.iter().map(|text| text.as_str().into()).collect();
        let id: Arc<str> = rule.id.as_str().into();
        Self {
            enabled: rule.enabled,
            p2p: rule.p2p,
            parameters: rule.parameters.clone(),
            written: rule.clone(),
            apps: set(&rule.apps),
            channels: pattern(&rule.channels),
            assets: pattern(&rule.assets),
            platforms: set(&rule.platforms),
            min: version(&rule.sdk.min),
            below: version(&rule.sdk.below),
            seed: rule.seed.as_deref().map_or_else(|| Arc::clone(&id), Arc::from),
            share: rule.percentage.map(|percentage| (percentage.clamp(0.0, 100.0) * 100.0).round() as u64),
            daily: rule.window.daily.as_ref().map(|daily| minute(&daily.from).zip(minute(&daily.to))),
            id,
        }
    }

    /// The one channel that it is for, if there is one.
    pub(super) fn only_channel(&self) -> Option<&str> {
        self.channels.as_ref()?.as_ref()?.exact()
    }

    /// Whether it holds for a viewer, and how specific it is then.
    pub(super) fn specificity(&self, subject: &Subject<'_>) -> Option<Specificity> {
        if !self.enabled {
            return None;
        }
        let mut specificity = Specificity::default();
        for (rank, criterion) in specificity.iter_mut().rev().zip(Criterion::ALL) {
            if let Some(tested) = self.test(criterion, subject) {
                *rank = tested?;
            }
        }
        Some(specificity)
    }

    /// None: it does not name that. Some(None): it names it, and the viewer is not among them. Else how specific it is there, from 1.
    pub(super) fn test(&self, criterion: Criterion, subject: &Subject<'_>) -> Option<Option<u16>> {
        let if_named = |named: bool, holds: bool| named.then_some(holds.then_some(1));
        match criterion {
            Criterion::App => if_named(!self.apps.is_empty(), self.apps.contains(subject.app)),
            Criterion::Channel => self.channels.as_ref().map(|glob| rank(glob, Some(subject.channel))),
            Criterion::Asset => self.assets.as_ref().map(|glob| rank(glob, subject.asset)),
            Criterion::Platform => if_named(
                !self.platforms.is_empty(),
                subject.platform.is_some_and(|platform| self.platforms.contains(platform)),
            ),
            Criterion::Sdk => self.test_sdk(subject.sdk),
            Criterion::Region => {
                let regions = &self.written.regions;
                let named = |name: &str| !name.is_empty() && regions.iter().any(|region| region == name);
                (!regions.is_empty()).then(|| match (named(subject.region), named(subject.country)) {
                    (true, _) if subject.region.contains('-') => Some(2),
                    (true, _) | (_, true) => Some(1),
                    _ => None,
                })
            }
            Criterion::Network => {
                let networks = &self.written.networks;
                (!networks.is_empty()).then(|| longest(networks, subject.address?))
            }
            Criterion::Percentage => {
                self.share.map(|share| (hundredth(&self.seed, subject.viewer?) < share).then_some(1))
            }
            Criterion::Viewers => {
                let ViewerRange { min, max } = self.written.viewers;
                let within = |viewers| min.is_none_or(|min| viewers >= min) && max.is_none_or(|max| viewers <= max);
                if_named(min.is_some() || max.is_some(), subject.viewers.is_some_and(within))
            }
            Criterion::Window => self.test_window(subject.now),
        }
    }

    fn test_sdk(&self, sdk: Option<&str>) -> Option<Option<u16>> {
        let bounds = u16::from(self.min.is_some()) + u16::from(self.below.is_some());
        (bounds > 0).then(|| {
            let sdk = Version::parse(sdk?)?;
            let above = self.min.is_none_or(|min| min.is_some_and(|min| sdk >= min));
            let under = self.below.is_none_or(|below| below.is_some_and(|below| sdk < below));
            (above && under).then_some(bounds)
        })
    }

    fn test_window(&self, now: Option<u64>) -> Option<Option<u16>> {
        let window = &self.written.window;
        let named = window.from.is_some() || window.to.is_some() || self.daily.is_some();
        named.then(|| {
            let now = now?;
            let minute = (now % DAY_S / 60) as u16;
            let in_day = match self.daily {
                None => true,
                Some(None) => false,
                Some(Some((from, to))) if from <= to => (from..to).contains(&minute),
                Some(Some((from, to))) => minute >= from || minute < to,
            };
            let within = window.from.is_none_or(|from| now >= from) && window.to.is_none_or(|to| now < to);
            (within && in_day).then_some(1)
        })
    }
}

fn rank(pattern: &Pattern, text: Option<&str>) -> Option<u16> {
    let (glob, text) = pattern.as_ref().zip(text)?;
    glob.matches(text).then(|| glob.rank() + 1)
}

/// The longest prefix that the address is in.
fn longest(networks: &[IpNet], address: IpAddr) -> Option<u16> {
    let address = address.to_canonical();
    let within = networks.iter().filter(|net| net.contains(&address));
    within.map(|net| u16::from(net.prefix_len()) + 1).max()
}

/// Where a viewer stands among all, from 0 to 9999: always the same for a seed.
pub(super) fn hundredth(seed: &str, viewer: &str) -> u64 {
    let hash = Sha256::new().chain_update(seed).chain_update([0]).chain_update(viewer).finalize();
    let high = hash.iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    ((u128::from(high) * u128::from(WHOLE)) >> 64) as u64
}
