//! What is measured, and what is to be reached.

use super::super::table::Target;
use super::servers::Kind;

/// Runs of one kind, and the lines of the table that come of them.
pub(super) struct Case {
    /// For the generator.
    pub(super) words: &'static str,
    pub(super) pace: Pace,
    /// With whom the data plane is compared.
    pub(super) peers: &'static [Kind],
    pub(super) lines: &'static [Line],
}

/// How a run is paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As fast as it goes.
    Peak,
    /// At this share of the first peer's peak, in percent; its figure is what is added to the same without a server.
    Share(u32),
    /// At rates that are tried.
    Search,
    /// Once through, not for a time.
    Once,
}

/// A figure of a run.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// Where in the generator's report.
    pub(super) figure: &'static str,
    pub(super) unit: &'static str,
    pub(super) target: Target,
    /// Only a server's first run says it: memory that is kept for the next does not grow again.
    pub(super) first: bool,
}

impl Case {
    /// Whether the generator sends trains.
    pub(super) fn has_trains(&self) -> bool {
        self.words.contains(" --train ")
    }
}

const COTURN: &[Kind] = &[Kind::Coturn];
const BOTH: &[Kind] = &[Kind::Coturn, Kind::TurnServer];

const PACKETS: &str = "packets_per_s";
const COST: &str = "server_cpu_us_per_packet";
const LOSS_FREE: &str = "search.loss_free_per_s";

const fn line(name: &'static str, figure: &'static str, unit: &'static str, target: Target) -> Line {
    Line { name, figure, unit, target, first: false }
}

const fn packets(name: &'static str, target: Target) -> Line {
    line(name, PACKETS, "packets/s", target)
}

const fn cost(name: &'static str) -> Line {
    line(name, COST, "µs/packet", Target::None)
}

const fn loss_free(name: &'static str, target: Target) -> Line {
    line(name, LOSS_FREE, "packets/s", target)
}

/// The targets; where it names none there is none. A name ends in `-gso` where the generator sends trains.
pub(super) const CASES: &[Case] = &[
    Case {
        words: "relay -n 1 --payload 160 --train 64 --window 256",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[packets("relay-1-gso", Target::RatioAtLeast(4.0)), cost("relay-1-gso-cpu")],
    },
    Case {
        words: "relay -n 1 --payload 160 --train 64 --window 256 --direction down",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[packets("relay-1-gso-down", Target::RatioAtLeast(4.0))],
    },
    Case {
        words: "relay -n 4 --payload 160 --train 16 --window 256 --direction both",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[packets("relay-4-gso", Target::RatioAtLeast(4.0))],
    },
    Case {
        words: "relay -n 1 --payload 1200 --train 32 --window 256",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[line("relay-1-gso-1200", "bytes_per_s", "bytes/s", Target::RatioAtLeast(4.0))],
    },
    Case {
        words: "relay -n 1 --payload 160",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[packets("relay-1", Target::None), cost("relay-1-cpu")],
    },
    Case {
        words: "relay -n 50 --payload 160",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[packets("relay-50", Target::RatioAtLeast(1.6)), cost("relay-50-cpu")],
    },
    Case {
        words: "relay -n 50 --payload 160 --train 8 --window 384",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[packets("relay-50-gso", Target::RatioAtLeast(1.6))],
    },
    Case {
        words: "relay -n 50 --payload 160 --direction both",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[packets("relay-50-both", Target::RatioAtLeast(1.6))],
    },
    // Four datagrams of each allocation under way; with the usual window most would have none, and the window be the bottleneck.
    Case {
        words: "relay -n 1000 --payload 160 --window 4096",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[packets("relay-1000", Target::RatioAtLeast(1.6)), cost("relay-1000-cpu")],
    },
    // Never two of one allocation: the worst that there is.
    Case {
        words: "relay -n 1000 --payload 160",
        pace: Pace::Peak,
        peers: COTURN,
        lines: &[packets("relay-1000-w192", Target::None)],
    },
    Case {
        words: "relay -n 50 --payload 160 --to pairs",
        pace: Pace::Peak,
        peers: BOTH,
        lines: &[packets("pairs-50", Target::RatioAtLeast(1.6))],
    },
    Case {
        words: "binding -n 64",
        pace: Pace::Peak,
        peers: BOTH,
        lines: &[line("binding", PACKETS, "responses/s", Target::RatioAtLeast(2.0)), cost("binding-cpu")],
    },
    Case {
        words: "allocate -n 2000",
        pace: Pace::Once,
        peers: BOTH,
        lines: &[
            line("allocate", "allocations_per_s", "allocations/s", Target::None),
            Line { first: true, ..line("memory", "bytes_per_allocation", "bytes/allocation", Target::AtMost(2048.0)) },
        ],
    },
    Case {
        words: "relay -n 50 --payload 160",
        pace: Pace::Share(50),
        peers: COTURN,
        lines: &[line("p99-added", "latency_us.p99", "µs", Target::None)],
    },
    Case {
        words: "relay -n 1 --payload 160 --train 64 --window 256",
        pace: Pace::Search,
        peers: COTURN,
        lines: &[loss_free("loss-free-1-gso", Target::RatioAtLeast(3.0))],
    },
    Case {
        words: "relay -n 1 --payload 160",
        pace: Pace::Search,
        peers: COTURN,
        lines: &[loss_free("loss-free-1", Target::None)],
    },
    Case {
        words: "relay -n 50 --payload 160 --train 8 --window 384",
        pace: Pace::Search,
        peers: COTURN,
        lines: &[loss_free("loss-free-50-gso", Target::RatioAtLeast(1.3))],
    },
    Case {
        words: "relay -n 50 --payload 160",
        pace: Pace::Search,
        peers: COTURN,
        lines: &[loss_free("loss-free-50", Target::RatioAtLeast(1.3))],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_line_has_a_name_of_its_own_and_every_case_a_peer() {
        let names: Vec<&str> = CASES.iter().flat_map(|case| case.lines).map(|line| line.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(CASES.iter().all(|case| !case.lines.is_empty() && !case.peers.is_empty()));
        // The share is of the first peer's peak, and turn-server does not do everything.
        assert!(CASES.iter().all(|case| case.peers.first() == Some(&Kind::Coturn)));
    }
}
