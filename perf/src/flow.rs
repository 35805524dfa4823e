//! Flows: what one run asks for side by side, each with its own URLs, connections and pace.

use serde::Deserialize;

/// One flow of requests. A run has one or more of them, and reports each by itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// What it is called in the report.
    #[serde(default = "load")]
    pub name: String,
    /// URLs of one server. Where one has `{}`, a number of eight digits below `numbers` is asked for.
    pub urls: Vec<String>,
    /// Connections.
    pub connections: usize,
    /// Requests per second on schedule (open loop); without it, each connection asks again as soon as it has its answer.
    #[serde(default)]
    pub rate: Option<f64>,
    /// Body bytes that every response must have; without it, each URL's first answer sets its length.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Status that every response must have.
    #[serde(default = "ok")]
    pub status: u16,
    /// How many numbers there are for `{}`.
    #[serde(default = "one")]
    pub numbers: u32,
    /// URLs and numbers at random, evenly, instead of in turn.
    #[serde(default)]
    pub random: bool,
}

/// Why a flow cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// Nobody would ask.
    #[error("flow `{0}` has no connections; at least one is needed")]
    NoConnections(String),
    /// Not a pace.
    #[error("flow `{0}` has rate {1}; it must be a positive number of requests per second")]
    Rate(String, f64),
    /// More numbers than digits, or none.
    #[error("flow `{0}` has {1} numbers; between 1 and 100000000 are possible")]
    Numbers(String, u32),
}

impl Flow {
    /// Whether the figures make sense.
    ///
    /// # Errors
    /// Which of them does not.
    pub fn check(&self) -> Result<(), FlowError> {
        let name = || self.name.clone();
        if self.connections == 0 {
            return Err(FlowError::NoConnections(name()));
        }
        if let Some(rate) = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return Err(FlowError::Rate(name(), rate));
        }
        if !(1..=100_000_000).contains(&self.numbers) {
            return Err(FlowError::Numbers(name(), self.numbers));
        }
        Ok(())
    }
}

/// The order in which a flow asks for its things.
#[derive(Debug, Clone)]
pub enum Order {
    /// One after the other, and again from the start.
    Turn(u64),
    /// At random, from this state on.
    Random(u64),
}

impl Order {
    /// The next of `count` things; 0 when there is at most one.
    pub fn next(&mut self, count: u64) -> u64 {
        if count <= 1 {
            return 0;
        }
        match self {
            Order::Turn(next) => {
                let this = *next % count;
                *next += 1;
                this
            }
            Order::Random(state) => {
                // SplitMix64 (Steele, Lea, Flood 2014).
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = *state;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (mixed ^ (mixed >> 31)) % count
            }
        }
    }
}

fn load() -> String {
    "load".to_owned()
}

fn ok() -> u16 {
    200
}

fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(json: &str) -> Flow {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let flow = flow(r#"{"urls": ["http://127.0.0.1:1/"], "connections": 4}"#);
        assert_eq!((flow.name.as_str(), flow.status, flow.numbers, flow.random), ("load", 200, 1, false));
        assert!(flow.check().is_ok());
        assert!(serde_json::from_str::<Flow>(r#"{"urls": [], "connections": 4, "rates": 1}"#).is_err());
    }

    #[test]
    fn figures_that_make_no_sense_are_refused() {
        assert!(matches!(flow(r#"{"urls": [], "connections": 0}"#).check(), Err(FlowError::NoConnections(_))));
        for rate in ["0", "-1"] {
            let flow = flow(&format!(r#"{{"urls": [], "connections": 1, "rate": {rate}}}"#));
            assert!(matches!(flow.check(), Err(FlowError::Rate(..))));
        }
        let flow = flow(r#"{"urls": [], "connections": 1, "numbers": 100000001}"#);
        assert!(matches!(flow.check(), Err(FlowError::Numbers(..))));
    }

    #[test]
    fn turns_repeat_and_random_reaches_everything() {
        let mut turn = Order::Turn(0);
        assert_eq!((0..5).map(|_| turn.next(3)).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
        let (mut random, mut seen) = (Order::Random(1), [0; 10]);
        for _ in 0..10_000 {
            seen[random.next(10) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }
}
