//! What a run measured.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// A generator at least this busy, with a server core below [`SERVER_FREE`], was the bottleneck.
pub const GENERATOR_FULL: f64 = 0.97;
/// See [`GENERATOR_FULL`].
pub const SERVER_FREE: f64 = 0.90;

/// Longest latency told apart, in microseconds.
const MAX_LATENCY_US: u64 = 60_000_000;

/// Counts and latencies of one run, after the warm-up.
#[derive(Debug)]
pub struct Tally {
    /// Responses that were right.
    pub requests: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Responses that were wrong, and connections that broke.
    pub errors: u64,
    /// What the first of these was.
    pub first_error: Option<String>,
    /// Nanosecond latencies would say more than they know: microseconds, three digits.
    latency_us: Histogram<u32>,
}

/// How busy the two cores were; what is not known is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cores {
    /// The share of time in which the generator had something to do.
    pub generator: Option<f64>,
    /// The server's.
    pub server: Option<f64>,
    /// The longest that the generator did not look whether there is something to do. In the open loop all that was due
    /// meanwhile is late, whatever the server did.
    pub longest_turn: Option<Duration>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            requests: 0,
            body_bytes: 0,
            errors: 0,
            first_error: None,
            latency_us: Histogram::new_with_max(MAX_LATENCY_US, 3)?,
        })
    }

    /// Counts one right response.
    pub fn response(&mut self, body_bytes: u64, latency: Duration) {
        self.requests += 1;
        self.body_bytes += body_bytes;
        self.latency(latency);
    }

    fn latency(&mut self, latency: Duration) {
        self.latency_us.saturating_record(latency.as_micros().min(u128::from(MAX_LATENCY_US)) as u64);
    }

    /// Notes the latency so far of a request whose answer did not come.
    pub fn unanswered(&mut self, latency: Duration) {
        self.latency(latency);
    }

    /// Counts one wrong response or broken connection.
    pub fn error(&mut self, what: impl FnOnce() -> String) {
        self.errors += 1;
        self.first_error.get_or_insert_with(what);
    }

    /// Everything as JSON; `rate` is the one asked for (`None`: as fast as it goes).
    pub fn report(&self, elapsed: Duration, connections: usize, rate: Option<f64>, cores: Cores) -> Value {
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let per_s = self.requests as f64 / seconds;
        let invalid = self.invalid(per_s, rate, cores);
        json!({
            "mode": if rate.is_some() { "open" } else { "closed" },
            "connections": connections,
            "rate_asked": rate,
            "seconds": seconds,
            "requests": self.requests,
            "requests_per_s": per_s,
            "body_bytes": self.body_bytes,
            "bytes_per_s": self.body_bytes as f64 / seconds,
            "errors": self.errors,
            "first_error": self.first_error,
            "latency_us": {
                "mean": self.latency_us.mean(),
                "p50": self.latency_us.value_at_quantile(0.5),
                "p90": self.latency_us.value_at_quantile(0.9),
                "p99": self.latency_us.value_at_quantile(0.99),
                "p999": self.latency_us.value_at_quantile(0.999),
                "max": self.latency_us.max(),
            },
            "generator_busy": cores.generator,
            "generator_longest_turn_us": cores.longest_turn.map(|turn| turn.as_micros() as u64),
            "server_busy": cores.server,
            "valid": invalid.is_none(),
            "invalid_because": invalid,
        })
    }

    /// Why the figures say nothing of the server, if so.
    fn invalid(&self, per_s: f64, rate: Option<f64>, cores: Cores) -> Option<String> {
        if self.requests == 0 {
            return Some("no request was answered".to_owned());
        }
        if self.errors > 0 {
            return Some(format!("{} responses were wrong", self.errors));
        }
        if let Some(rate) = rate {
            // Whether generator and server kept up shows in what got done.
            if per_s < 0.98 * rate {
                return Some(format!("{per_s:.0} requests/s done of {rate:.0} asked"));
            }
            // What it saw late may have been its own lateness.
            let full = cores.generator.filter(|&generator| generator >= GENERATOR_FULL);
            return full.map(|busy| format!("the load generator was {:.0} % busy", busy * 100.0));
        }
        match (cores.generator, cores.server) {
            (Some(generator), Some(server)) if generator >= GENERATOR_FULL && server < SERVER_FREE => Some(format!(
                "the load generator was the bottleneck ({:.0} % busy, the server's core {:.0} %)",
                generator * 100.0,
                server * 100.0
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        let mut tally = Tally::new().unwrap();
        for us in 1..=100 {
            tally.response(10, Duration::from_micros(us));
        }
        tally
    }

    #[test]
    fn a_report_adds_up() {
        let report = tally().report(Duration::from_secs(2), 4, None, Cores::default());
        assert_eq!(report["requests_per_s"], 50.0);
        assert_eq!(report["body_bytes"], 1000);
        assert_eq!(report["latency_us"]["p99"], 99);
        assert_eq!(report["valid"], true);
    }

    #[test]
    fn a_run_bound_by_the_generator_is_invalid() {
        let second = Duration::from_secs(1);
        let cores = |generator, server| Cores { generator: Some(generator), server: Some(server), longest_turn: None };
        assert_eq!(tally().report(second, 1, None, cores(0.98, 0.80))["valid"], false);
        assert_eq!(tally().report(second, 1, None, cores(0.98, 0.95))["valid"], true);
        assert_eq!(tally().report(second, 1, None, cores(0.90, 0.80))["valid"], true);
    }

    #[test]
    fn errors_no_answers_and_missed_rates_are_invalid() {
        let second = Duration::from_secs(1);
        let mut wrong = tally();
        wrong.error(|| "status 500".to_owned());
        assert_eq!(wrong.report(second, 1, None, Cores::default())["first_error"], "status 500");
        assert_eq!(wrong.report(second, 1, None, Cores::default())["valid"], false);
        assert_eq!(Tally::new().unwrap().report(second, 1, None, Cores::default())["valid"], false);
        assert_eq!(tally().report(second, 1, Some(200.0), Cores::default())["valid"], false);
        assert_eq!(tally().report(second, 1, Some(100.0), Cores::default())["valid"], true);
        let full = Cores { generator: Some(0.99), server: Some(1.0), longest_turn: None };
        assert_eq!(tally().report(second, 1, Some(100.0), full)["valid"], false);
    }
}
