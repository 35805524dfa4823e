//! The arithmetic of a comparison.

use std::cmp::Reverse;
use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Pair, Settings};

/// Seconds after an hour's end before it alerts: until then reports and usage of it still come.
pub const SETTLE_S: u64 = 900;
/// Difference of something to nothing.
const ALL: f64 = 100.0;

/// Two figures of one channel and hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Which ones.
    pub pair: Pair,
    /// Unix hour.
    pub hour: u64,
    /// Tenant id.
    pub tenant: String,
    /// Channel id.
    pub channel: String,
    /// The CDN; empty for [`Pair::Edge`].
    pub provider: String,
    /// Bytes by the delivering side's count.
    pub delivered: u64,
    /// Bytes by the other side's count.
    pub counted: u64,
}

/// What came of comparing them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Which figures.
    pub pair: Pair,
    /// Unix seconds of the hour's start, in UTC.
    pub hour: u64,
    /// Tenant id.
    pub tenant: String,
    /// Channel id.
    pub channel: String,
    /// The CDN; empty for `edge`.
    pub provider: String,
    /// Bytes by the delivering side's count: the CDN's log, or for `edge` our ledger.
    pub delivered_bytes: u64,
    /// Bytes by the other side's count: our ledger for `upstream`, SDKs' reports otherwise.
    pub counted_bytes: u64,
    /// The second less the first, in percent of the first; 100 where the first is nothing.
    pub difference_percent: f64,
    /// Whether it is more than the tenant's settings allow, and the hour is over for a quarter of an hour.
    pub alert: bool,
}

impl Figures {
    /// The difference in percent of what was delivered.
    #[must_use]
    pub fn difference_percent(&self) -> f64 {
        match (self.delivered, self.counted) {
            (0, 0) => 0.0,
            (0, _) => ALL,
            (delivered, counted) => (counted as f64 - delivered as f64) / delivered as f64 * 100.0,
        }
    }

    /// Compares them; `now` in Unix seconds.
    #[must_use]
    pub fn compare(self, settings: &Settings, now: u64) -> Comparison {
        let difference_percent = self.difference_percent();
        let settled = now >= (self.hour + 1) * 3600 + SETTLE_S;
        let enough = self.delivered.max(self.counted) >= settings.min_bytes;
        Comparison {
            pair: self.pair,
            hour: self.hour * 3600,
            tenant: self.tenant,
            channel: self.channel,
            provider: self.provider,
            delivered_bytes: self.delivered,
            counted_bytes: self.counted,
            difference_percent,
            alert: settled && enough && difference_percent.abs() > settings.alert_percent,
        }
    }
}

/// A session's part of a difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionDifference {
    /// Session id; empty: all that named none.
    pub session: String,
    /// Bytes by the delivering side's count.
    pub delivered_bytes: u64,
    /// Bytes by the other side's count.
    pub counted_bytes: u64,
    /// The second less the first.
    pub difference_bytes: i64,
    /// What it is of the sum of all sessions' differences, whatever their signs, in percent.
    pub share_percent: f64,
}

/// The sessions that explain most of a difference, the largest first; `sides` are delivered and counted bytes.
#[must_use]
pub fn explain(sides: HashMap<String, [u64; 2]>, limit: usize) -> Vec<SessionDifference> {
    let difference = |[delivered, counted]: [u64; 2]| counted.cast_signed().saturating_sub(delivered.cast_signed());
    let all: u128 = sides.values().map(|sides| u128::from(difference(*sides).unsigned_abs())).sum();
    let mut sorted: Vec<(String, [u64; 2])> = sides.into_iter().filter(|(_, sides)| difference(*sides) != 0).collect();
    sorted.sort_by(|a, b| {
        Reverse(difference(a.1).unsigned_abs())
            .cmp(&Reverse(difference(b.1).unsigned_abs()))
            .then_with(|| a.0.cmp(&b.0))
    });
    sorted.truncate(limit);
    let row = |(session, sides): (String, [u64; 2])| {
        let difference_bytes = difference(sides);
        let share_percent = difference_bytes.unsigned_abs() as f64 / all.max(1) as f64 * 100.0;
        let [delivered_bytes, counted_bytes] = sides;
        SessionDifference { session, delivered_bytes, counted_bytes, difference_bytes, share_percent }
    };
    sorted.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(delivered: u64, counted: u64) -> Figures {
        Figures {
            pair: Pair::Edge,
            hour: 100,
            tenant: "t".to_owned(),
            channel: "c".to_owned(),
            provider: String::new(),
            delivered,
            counted,
        }
    }

    #[test]
    fn an_alert_takes_difference_volume_and_a_settled_hour() {
        let settings = Settings { alert_percent: 5.0, min_bytes: 1000 };
        let settled = 101 * 3600 + SETTLE_S;
        let alert = |delivered, counted, now| figures(delivered, counted).compare(&settings, now).alert;
        assert!(alert(10_000, 9_400, settled) && alert(10_000, 10_600, settled) && alert(0, 1_000, settled));
        assert!(!alert(10_000, 9_500, settled), "exactly five percent is within");
        assert!(!alert(10_000, 9_400, settled - 1), "it may still come");
        assert!(!alert(999, 0, settled) && !alert(0, 0, settled));
        let whole = figures(200, 150).compare(&settings, 0);
        assert_eq!((whole.difference_percent, whole.hour), (-25.0, 360_000));
        assert_eq!(figures(0, 7).difference_percent(), 100.0);
    }

    #[test]
    fn the_largest_differences_come_first_whatever_their_sign() {
        let sides = [("a", [100, 90]), ("b", [0, 50]), ("c", [10, 10]), ("d", [40, 0])];
        let sides = || sides.iter().map(|(session, sides)| ((*session).to_owned(), *sides)).collect();
        let rows = explain(sides(), 10);
        let found: Vec<_> = rows.iter().map(|row| (&*row.session, row.difference_bytes, row.share_percent)).collect();
        assert_eq!(found, [("b", 50, 50.0), ("d", -40, 40.0), ("a", -10, 10.0)]);
        assert_eq!(explain(sides(), 1).len(), 1);
        assert!(explain(HashMap::new(), 1).is_empty());
    }
}
