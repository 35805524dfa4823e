//! How many requests were refused lately, by whom and why.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_conf::Code;

/// Minutes that are remembered, the one that runs included.
pub const MINUTES: u64 = 15;
/// Most different counters of one minute; what comes beyond is counted without app and channel.
const MAX_COUNTERS: usize = 10_000;

/// Whose request was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    tenant: String,
    app: String,
    channel: String,
    code: Code,
}

/// Refusals of the last minutes.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<u64, HashMap<Key, u64>>>);

/// One sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusalSum {
    /// Tenant; empty where no app or channel said which.
    pub tenant: String,
    /// App id; empty when there is no such app, or too many different ones were counted.
    pub app: String,
    /// Channel id; empty when there is no such channel, or too many different ones were counted.
    pub channel: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub requests: u64,
}

impl Refusals {
    /// Counts one, at `now` (Unix seconds). Ids that nobody has are left empty: strangers must not fill the table.
    pub fn count(&self, tenant: &str, app: &str, channel: &str, code: Code, now: u64) {
        let minute = now / 60;
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = minutes.first_entry().filter(|first| first.key() + MINUTES <= minute) {
            first.remove();
        }
        let counters = minutes.entry(minute).or_default();
        let owned = str::to_owned;
        let mut key = Key { tenant: owned(tenant), app: owned(app), channel: owned(channel), code };
        if counters.len() >= MAX_COUNTERS && !counters.contains_key(&key) {
            (key.app, key.channel) = (String::new(), String::new());
            if !counters.contains_key(&key) && counters.len() >= MAX_COUNTERS + Code::ALL.len() {
                key.tenant = String::new();
            }
        }
        *counters.entry(key).or_default() += 1;
    }

    /// The sums of the last `last` minutes, of one tenant if given; the largest first.
    pub fn sums(&self, tenant: Option<&str>, last: u64, now: u64) -> Vec<RefusalSum> {
        let minute = now / 60;
        let minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums: HashMap<&Key, u64> = HashMap::new();
        let recent = minutes.iter().filter(|(at, _)| **at + last > minute);
        for (key, count) in recent.flat_map(|(_, counters)| counters) {
            if tenant.is_none_or(|tenant| key.tenant == tenant) {
                *sums.entry(key).or_default() += count;
            }
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_unstable_by(|(one, count), (other, than)| than.cmp(count).then_with(|| one.cmp(other)));
        let sum = |(key, requests): (&Key, u64)| RefusalSum {
            tenant: key.tenant.clone(),
            app: key.app.clone(),
            channel: key.channel.clone(),
            reason: key.code.as_str().to_owned(),
            requests,
        };
        sums.into_iter().map(sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_summed_and_forgotten() {
        let refusals = Refusals::default();
        for (now, tenant, code) in [
            (0, "acme", Code::Referer),
            (59, "acme", Code::Referer),
            (60, "acme", Code::Address),
            (60, "other", Code::Referer),
        ] {
            refusals.count(tenant, "player", "room1", code, now);
        }
        let reasons = |tenant, last, now| -> Vec<(String, u64)> {
            refusals.sums(tenant, last, now).into_iter().map(|sum| (sum.reason, sum.requests)).collect()
        };
        let (referer, address) = (|n| ("referer".to_owned(), n), |n| ("address".to_owned(), n));
        assert_eq!(reasons(Some("acme"), 2, 60), [referer(2), address(1)]);
        assert_eq!(reasons(Some("acme"), 1, 119), [address(1)]);
        assert_eq!(reasons(None, MINUTES, 119).len(), 3);
        refusals.count("acme", "player", "room1", Code::Package, MINUTES * 60);
        assert_eq!(reasons(Some("acme"), MINUTES, MINUTES * 60), [address(1), ("package".to_owned(), 1)]);
    }

    #[test]
    fn the_table_is_bounded_and_nothing_is_lost() {
        let refusals = Refusals::default();
        for at in 0..MAX_COUNTERS + 5_000 {
            refusals.count(&format!("t{at}"), "a", &format!("c{at}"), Code::Referer, 0);
        }
        let sums = refusals.sums(None, MINUTES, 0);
        assert!(sums.len() <= MAX_COUNTERS + Code::ALL.len() + 1, "{}", sums.len());
        assert_eq!(sums.iter().map(|sum| sum.requests).sum::<u64>(), MAX_COUNTERS as u64 + 5_000);
    }
}
