//! The highest rate at which nothing is lost.

use std::io;

use serde_json::{Value, json};

use super::engine::{Engine, Load, Pace, Pattern};
use super::report::Outcome;
use super::server::Watched;

/// Halvings of the interval: an answer to within a hundredth of the peak.
const STEPS: usize = 7;

/// How far beyond the peak to look: a window may have left something.
const BEYOND: f64 = 1.2;

/// A rate as tried.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tried {
    rate: f64,
    lost: u64,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The highest rate that lost nothing, in datagrams per second. 0: each did.
    pub loss_free_per_s: f64,
    tried: Vec<Tried>,
    invalid: Option<String>,
}

/// How one rate went.
#[derive(Debug)]
enum Verdict {
    Whole,
    Lost(u64),
    /// It says nothing of the server.
    Invalid(String),
}

/// Halves the interval from nothing to somewhat above `peak`, with a run at each rate.
///
/// # Errors
/// The kernel's, or that something came out other than it went in.
pub fn search(
    engine: &mut Engine<'_>,
    load: &impl Load,
    pattern: Pattern,
    peak: f64,
    server: Watched,
) -> io::Result<Found> {
    halve(peak * BEYOND, |rate| {
        let outcome = engine.run(load, Pattern { pace: Pace::Rate(rate), ..pattern }, server)?;
        match outcome.first_wrong {
            Some(wrong) => Err(io::Error::new(io::ErrorKind::InvalidData, wrong)),
            None => Ok(verdict(&outcome)),
        }
    })
}

fn verdict(outcome: &Outcome) -> Verdict {
    match outcome.invalid() {
        // What the server lost it lost, also when the generator was slow at it.
        Some(why) if outcome.lost == 0 || outcome.not_sent + outcome.own_drops > 0 => Verdict::Invalid(why),
        _ if outcome.is_whole() => Verdict::Whole,
        _ => Verdict::Lost(outcome.lost),
    }
}

fn halve(most: f64, mut run: impl FnMut(f64) -> io::Result<Verdict>) -> io::Result<Found> {
    let (mut low, mut high) = (0.0, most);
    let mut found = Found { loss_free_per_s: 0.0, tried: Vec::new(), invalid: None };
    let mut bound = None;
    for _ in 0..STEPS {
        let rate = (low + high) / 2.0;
        match run(rate)? {
            Verdict::Whole => (low, found.loss_free_per_s) = (rate, rate),
            Verdict::Lost(lost) => {
                (high, bound) = (rate, None);
                found.tried.push(Tried { rate, lost });
                continue;
            }
            // Lower rates may be in reach of the generator.
            Verdict::Invalid(why) => (high, bound) = (rate, Some(why)),
        }
        found.tried.push(Tried { rate, lost: 0 });
    }
    // The rate above the one that was found was not refused by the server.
    found.invalid = bound;
    Ok(found)
}

impl Found {
    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let tried: Vec<Value> =
            self.tried.iter().map(|tried| json!({ "rate": tried.rate, "lost": tried.lost })).collect();
        json!({
            "loss_free_per_s": self.loss_free_per_s,
            "tried": tried,
            "valid": self.invalid.is_none(),
            "invalid_because": self.invalid,
            // What was found was found, and nothing was lost up to where the generator ended.
            "at_least": self.invalid.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rate_without_loss_is_found_to_a_hundredth() {
        for limit in [1.0, 33_000.0, 80_000.0, 119_500.0] {
            let lossy = |rate: f64| if rate > limit { Verdict::Lost(1) } else { Verdict::Whole };
            let found = halve(120_000.0, |rate| Ok(lossy(rate))).unwrap();
            assert!((found.loss_free_per_s - limit).abs() <= 1000.0, "{limit}: {found:?}");
            assert!(found.loss_free_per_s <= limit && found.invalid.is_none());
        }
    }

    #[test]
    fn a_search_that_the_generator_ended_says_so() {
        let slow = |rate: f64| if rate > 50_000.0 { Verdict::Invalid("slow".to_owned()) } else { Verdict::Whole };
        let found = halve(120_000.0, |rate| Ok(slow(rate))).unwrap();
        assert!((49_000.0..=50_000.0).contains(&found.loss_free_per_s));
        assert_eq!(found.invalid.as_deref(), Some("slow"));
        // The server lost something below what the generator could do.
        let both = |rate: f64| if rate > 30_000.0 { Verdict::Lost(1) } else { Verdict::Whole };
        let found = halve(120_000.0, |rate| if rate > 50_000.0 { Ok(slow(rate)) } else { Ok(both(rate)) }).unwrap();
        assert_eq!(found.invalid, None);
    }
}
