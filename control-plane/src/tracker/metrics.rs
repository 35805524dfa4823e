//! What the tracker counts: its own table, and counters that cost an announce one addition.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use shoal_swarm::swarms::{Done, Refusal};

use crate::metrics::Declared;
use crate::pass::PassError;

/// The doors that announces come in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// The classic query.
    Http,
    /// JSON by POST.
    Json,
    /// WebTorrent's WebSocket.
    WebSocket,
}

/// What became of an announce or a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Taken in.
    Done(Done),
    /// Refused by the swarms.
    Refused(Refusal),
    /// Without a pass that is good.
    Pass(PassError),
    /// Without a pass, where nobody may be.
    Closed,
    /// Not understood.
    Malformed,
    /// One connection has too many peers.
    Connection,
}

impl Outcome {
    const LABELS: [&'static str; 17] = [
        "joined",
        "updated",
        "left",
        "absent",
        "taken",
        "peers",
        "swarm_peers",
        "swarms",
        "channel_swarms",
        "session",
        "pass_malformed",
        "pass_key",
        "pass_signature",
        "pass_expired",
        "closed",
        "malformed",
        "connection",
    ];

    fn index(self) -> usize {
        match self {
            Self::Done(Done::Joined) => 0,
            Self::Done(Done::Updated) => 1,
            Self::Done(Done::Left) => 2,
            Self::Done(Done::Absent) => 3,
            Self::Refused(Refusal::Taken) => 4,
            Self::Refused(Refusal::Peers) => 5,
            Self::Refused(Refusal::SwarmPeers) => 6,
            Self::Refused(Refusal::Swarms) => 7,
            Self::Refused(Refusal::ChannelSwarms) => 8,
            Self::Refused(Refusal::Session) => 9,
            Self::Pass(PassError::Malformed) => 10,
            Self::Pass(PassError::Key) => 11,
            Self::Pass(PassError::Signature) => 12,
            Self::Pass(PassError::Expired) => 13,
            Self::Closed => 14,
            Self::Malformed => 15,
            Self::Connection => 16,
        }
    }
}

/// Why a message for a connection was not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Too many wait for it already.
    Queue,
    /// It is gone.
    Gone,
    /// Nobody of that id is in the swarm, or the sender is not.
    Stranger,
    /// Longer than an offer or answer may be.
    Long,
    /// More offers than are passed on.
    Many,
    /// No address may leave, and it has no other.
    NoRelay,
}

impl Dropped {
    const LABELS: [&'static str; 6] = ["queue", "gone", "stranger", "long", "many", "no_relay"];
}

macro_rules! declare {
    ($($ident:ident = $name:literal, $labels:expr, $help:literal;)*) => {
        $(const $ident: Declared = Declared { name: $name, help: $help, labels: &$labels };)*
        /// The tracker's metrics.
        pub const TABLE: &[Declared] = &[$($ident),*];
    };
}

declare! {
    ANNOUNCES = "shoal_tracker_announces_total", ["door", "result"],
        "Announces by door (http, json, websocket) and result, which is what became of the peer or why it was refused.";
    SCRAPES = "shoal_tracker_scrapes_total", ["door"], "Scrapes answered, by door.";
    RELAYED = "shoal_tracker_relayed_total", ["kind"], "Offers and answers passed on to a connection.";
    DROPPED = "shoal_tracker_dropped_total", ["reason"], "Messages to connections that were not passed on, by reason.";
    EXPIRED = "shoal_tracker_expired_total", [], "Peers that were silent for too long.";
    PEERS = "shoal_tracker_peers", [], "Peers in all swarms.";
    SWARMS = "shoal_tracker_swarms", [], "Swarms with a peer.";
    CONNECTIONS = "shoal_tracker_connections", [], "WebSocket connections.";
    REFUSED = "shoal_tracker_connections_refused_total", [], "WebSocket connections refused at the limit.";
    BYTES = "shoal_tracker_memory_bytes", [], "Bytes that swarms and peers take, by the sizes of their tables.";
}

/// The tracker's counters.
pub(crate) struct Counters {
    announces: [[IntCounter; Outcome::LABELS.len()]; 3],
    scrapes: [IntCounter; 3],
    pub(super) offers: IntCounter,
    pub(super) answers: IntCounter,
    dropped: [IntCounter; Dropped::LABELS.len()],
    pub(super) expired: IntCounter,
    pub(super) peers: IntGauge,
    pub(super) swarms: IntGauge,
    pub(super) connections: IntGauge,
    pub(super) refused: IntCounter,
    pub(super) bytes: IntGauge,
}

const DOORS: [&str; 3] = ["http", "json", "websocket"];

impl Counters {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let many = |declared: &Declared| -> Result<IntCounterVec, prometheus::Error> {
            let counter = IntCounterVec::new(Opts::new(declared.name, declared.help), declared.labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let one = |declared: &Declared| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(declared.name, declared.help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |declared: &Declared| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(declared.name, declared.help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let (announces, scrapes) = (many(&ANNOUNCES)?, many(&SCRAPES)?);
        let (relayed, dropped) = (many(&RELAYED)?, many(&DROPPED)?);
        Ok(Self {
            announces: DOORS.map(|door| Outcome::LABELS.map(|result| announces.with_label_values(&[door, result]))),
            scrapes: DOORS.map(|door| scrapes.with_label_values(&[door])),
            offers: relayed.with_label_values(&["offer"]),
            answers: relayed.with_label_values(&["answer"]),
            dropped: Dropped::LABELS.map(|reason| dropped.with_label_values(&[reason])),
            expired: one(&EXPIRED)?,
            peers: gauge(&PEERS)?,
            swarms: gauge(&SWARMS)?,
            connections: gauge(&CONNECTIONS)?,
            refused: one(&REFUSED)?,
            bytes: gauge(&BYTES)?,
        })
    }

    /// An announce came in.
    pub(crate) fn announced(&self, door: Door, outcome: Outcome) {
        self.announces[door as usize][outcome.index()].inc();
    }

    /// A scrape was answered.
    pub(crate) fn scraped(&self, door: Door) {
        self.scrapes[door as usize].inc();
    }

    /// A message was not passed on.
    pub(crate) fn dropped(&self, reason: Dropped) {
        self.dropped[reason as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    #[test]
    fn the_table_is_what_is_exported_and_every_label_is_its_own() {
        let registry = Registry::new();
        let counters = Counters::new(&registry).unwrap();
        for refusal in Refusal::ALL {
            counters.announced(Door::Json, Outcome::Refused(refusal));
            assert_eq!(Outcome::LABELS[Outcome::Refused(refusal).index()], refusal.reason());
        }
        for error in [PassError::Malformed, PassError::Key, PassError::Signature, PassError::Expired] {
            assert_eq!(Outcome::LABELS[Outcome::Pass(error).index()], format!("pass_{}", error.reason()));
        }
        counters.dropped(Dropped::NoRelay);
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for declared in TABLE {
            assert!(text.contains(&format!("# HELP {} {}\n", declared.name, declared.help)), "{}", declared.name);
        }
        assert_eq!(text.matches("# HELP ").count(), TABLE.len());
        assert!(text.contains("shoal_tracker_announces_total{door=\"json\",result=\"session\"} 1"));
        assert!(text.contains("shoal_tracker_dropped_total{reason=\"no_relay\"} 1"));
    }
}
