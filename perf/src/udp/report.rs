//! What a run measured, and whether it says anything of the server.

use std::fmt;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::engine::Pace;
use super::server::Used;
use crate::report::{GENERATOR_FULL, SERVER_FREE};

/// Longest latency told apart, in nanoseconds.
const MAX_LATENCY_NS: u64 = 10_000_000_000;

/// Share of the rate asked for that a generator must have sent.
const KEPT: f64 = 0.98;

/// Counts, times and latencies of one run.
#[derive(Debug, Clone)]
pub struct Outcome {
    pace: Pace,
    /// Measured.
    pub seconds: f64,
    /// Datagrams sent in all of the run, warm-up included.
    pub sent: u64,
    /// Those of them that came, each once.
    pub received: u64,
    /// Those that never came.
    pub lost: u64,
    /// Sent while measuring.
    pub sent_measured: u64,
    /// Came while measuring.
    pub received_measured: u64,
    /// Came after one that was sent later.
    pub reordered: u64,
    /// Came too late to be told from duplicates.
    pub late: u64,
    /// Came twice.
    pub duplicates: u64,
    /// Were of an earlier run.
    pub stale: u64,
    /// Came damaged, twice, in the wrong place or from the wrong source, or were never sent.
    pub wrong: u64,
    /// What the first of these was.
    pub first_wrong: Option<String>,
    /// How often nothing came for so long that all in flight was given up.
    pub stalls: u64,
    /// Refused by the generator's own kernel.
    pub not_sent: u64,
    /// Dropped at the generator's own sockets.
    pub own_drops: u64,
    /// The share of the time in which the generator had something to do.
    pub generator_busy: f64,
    /// What the server used while measuring.
    pub used: Used,
    /// Nanoseconds, at a rate: from when it was due.
    latency_ns: Latencies,
}

/// Thousands of counters, which a message of a test need not show.
#[derive(Clone)]
struct Latencies(Option<Histogram<u32>>);

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of them", self.0.as_ref().map_or(0, Histogram::len))
    }
}

impl Outcome {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            seconds: 0.0,
            sent: 0,
            received: 0,
            lost: 0,
            sent_measured: 0,
            received_measured: 0,
            reordered: 0,
            late: 0,
            duplicates: 0,
            stale: 0,
            wrong: 0,
            first_wrong: None,
            stalls: 0,
            not_sent: 0,
            own_drops: 0,
            generator_busy: 0.0,
            used: Used::default(),
            // The bounds are right, so there is one.
            latency_ns: Latencies(Histogram::new_with_max(MAX_LATENCY_NS, 3).ok()),
        }
    }

    pub(super) fn latency(&mut self, ns: u64) {
        if let Some(latency) = &mut self.latency_ns.0 {
            latency.saturating_record(ns);
        }
    }

    pub(super) fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.wrong += 1;
        self.first_wrong.get_or_insert_with(what);
    }

    /// Datagrams that came, per second.
    #[must_use]
    pub fn per_s(&self) -> f64 {
        self.received_measured as f64 / self.seconds.max(1e-9)
    }

    /// Whether all that was sent came.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.lost == 0 && self.not_sent == 0
    }

    /// A quantile of the latencies, in microseconds.
    #[must_use]
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latency_ns.0.as_ref().map_or(0.0, |latency| latency.value_at_quantile(quantile) as f64 / 1e3)
    }

    /// Why the figures are no measure of the server, if so.
    #[must_use]
    pub fn invalid(&self) -> Option<String> {
        self.unusable().or_else(|| self.bound())
    }

    /// Whether nothing is wrong with them, but that the server might have done more.
    #[must_use]
    pub fn is_at_least(&self) -> bool {
        self.unusable().is_none() && self.bound().is_some()
    }

    fn unusable(&self) -> Option<String> {
        if self.received_measured == 0 {
            return Some("nothing came".to_owned());
        }
        if self.wrong > 0 {
            return Some(format!("{} datagrams were wrong", self.wrong));
        }
        if self.not_sent + self.own_drops > 0 {
            let (refused, dropped) = (self.not_sent, self.own_drops);
            return Some(format!(
                "the load generator could not send {refused} datagrams and dropped {dropped} that came"
            ));
        }
        let Pace::Rate(rate) = self.pace else { return None };
        let sent = self.sent_measured as f64 / self.seconds.max(1e-9);
        (sent < KEPT * rate).then(|| format!("the load generator sent {sent:.0} datagrams/s of {rate:.0} asked"))
    }

    /// In a window the server is to be what is full. One that looks for work while it has none is so if the generator is not.
    fn bound(&self) -> Option<String> {
        let (Pace::Window(_), Some(server)) = (self.pace, self.used.busy) else { return None };
        let full = self.generator_busy >= GENERATOR_FULL;
        let bound = server < SERVER_FREE || self.used.spins && full;
        let busy = |share: f64| format!("{:.0} %", share * 100.0);
        bound.then(|| {
            format!(
                "{} was the bottleneck (the load generator {} busy, the server's core {})",
                if full { "the load generator" } else { "the window" },
                busy(self.generator_busy),
                busy(server)
            )
        })
    }

    /// Everything as JSON; `len` are the payload's bytes.
    #[must_use]
    pub fn to_json(&self, len: usize) -> Value {
        let invalid = self.invalid();
        let (window, rate) = match self.pace {
            Pace::Window(window) => (Some(window), None),
            Pace::Rate(rate) => (None, Some(rate)),
        };
        let cost = |ns: u64| ns as f64 / 1e3 / self.received_measured.max(1) as f64;
        json!({
            "window": window,
            "rate_asked": rate,
            "seconds": self.seconds,
            "packets_per_s": self.per_s(),
            "bytes_per_s": self.per_s() * len as f64,
            "sent": self.sent,
            "received": self.received,
            "lost": self.lost,
            "reordered": self.reordered,
            "late": self.late,
            "duplicates": self.duplicates,
            "stale": self.stale,
            "wrong": self.wrong,
            "first_wrong": self.first_wrong,
            "stalls": self.stalls,
            "latency_us": rate.map(|_| json!({
                "p50": self.latency_us(0.5),
                "p90": self.latency_us(0.9),
                "p99": self.latency_us(0.99),
                "p999": self.latency_us(0.999),
                "max": self.latency_us(1.0),
            })),
            "server_cpu_us_per_packet": self.used.cpu_ns.map(cost),
            "server_busy": self.used.busy,
            "generator_busy": self.generator_busy,
            "valid": invalid.is_none(),
            "invalid_because": invalid,
            "at_least": self.is_at_least(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(pace: Pace) -> Outcome {
        let mut outcome = Outcome::new(pace);
        outcome.seconds = 2.0;
        outcome.sent_measured = 200;
        outcome.received_measured = 200;
        outcome.generator_busy = 0.5;
        outcome.used = Used { cpu_ns: Some(400_000), busy: Some(0.99), spins: false };
        outcome
    }

    #[test]
    fn a_report_adds_up() {
        let mut outcome = outcome(Pace::Rate(100.0));
        (1..=100).for_each(|us| outcome.latency(us * 1000));
        let report = outcome.to_json(160);
        assert_eq!((&report["packets_per_s"], &report["bytes_per_s"]), (&json!(100.0), &json!(16_000.0)));
        assert_eq!(report["server_cpu_us_per_packet"], 2.0);
        assert_eq!(report["valid"], true);
        assert!((outcome.latency_us(0.99) - 99.0).abs() < 0.1);
    }

    #[test]
    fn a_run_that_did_not_fill_the_server_is_invalid_and_says_what_stood_in_the_way() {
        let with = |generator_busy, server| {
            let used = Used { busy: Some(server), ..Used::default() };
            Outcome { generator_busy, used, ..outcome(Pace::Window(8)) }.invalid()
        };
        assert_eq!(with(0.5, 0.95), None);
        assert_eq!(with(0.99, 0.95), None);
        assert!(with(0.99, 0.8).unwrap().starts_with("the load generator was the bottleneck"));
        assert!(with(0.5, 0.8).unwrap().starts_with("the window was the bottleneck"));
    }

    #[test]
    fn a_server_that_spins_is_full_if_the_generator_is_not() {
        let with = |generator_busy| {
            let used = Used { busy: Some(1.0), spins: true, ..Used::default() };
            Outcome { generator_busy, used, ..outcome(Pace::Window(8)) }
        };
        assert_eq!(with(0.9).invalid(), None);
        assert!(with(0.99).invalid().unwrap().starts_with("the load generator was the bottleneck"));
        assert!(with(0.99).is_at_least() && !with(0.9).is_at_least());
        assert!(!Outcome { wrong: 1, ..with(0.99) }.is_at_least());
        assert_eq!(with(0.99).to_json(1)["at_least"], true);
    }

    #[test]
    fn missed_rates_own_losses_wrong_datagrams_and_silence_are_invalid() {
        let good = outcome(Pace::Rate(100.0));
        assert_eq!(good.invalid(), None);
        assert!(outcome(Pace::Rate(103.0)).invalid().is_some());
        assert!(Outcome { not_sent: 1, ..good.clone() }.invalid().is_some());
        assert!(Outcome { own_drops: 1, ..good.clone() }.invalid().is_some());
        assert!(Outcome { received_measured: 0, ..good.clone() }.invalid().is_some());
        let mut wrong = good;
        wrong.wrong(|| "damaged".to_owned());
        wrong.wrong(|| "again".to_owned());
        assert!(wrong.invalid().is_some());
        assert_eq!(wrong.first_wrong.as_deref(), Some("damaged"));
    }
}
