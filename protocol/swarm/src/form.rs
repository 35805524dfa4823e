//! Shoal's own announce: JSON by POST, which says more than the classic one can.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{InfoHash, PeerId};
use crate::nat::Nat;
use crate::query;
use crate::swarms::{Answer, Chosen, Supply};
use crate::transport::{Transport, Transports};

/// Most peers that one announce may report as failed.
pub const MAX_FAILED: usize = 32;
/// Most transports in a list: each is known once.
pub const MAX_TRANSPORTS: usize = 8;
/// Longest ticket.
pub const MAX_TICKET: usize = 1024;

/// What happens to the announcing peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It comes. The same as `update`: the tracker knows who is new.
    Join,
    /// It is still here.
    #[default]
    Update,
    /// It has all there is now.
    Complete,
    /// It goes.
    Leave,
}

impl From<Event> for query::Event {
    fn from(event: Event) -> Self {
        match event {
            Event::Join | Event::Update => Self::Update,
            Event::Complete => Self::Completed,
            Event::Leave => Self::Stopped,
        }
    }
}

/// An announce: in which swarm a peer is, how it can be reached, what it has, and whom it could not reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Announce {
    /// Which swarm of the pass's channel.
    pub info_hash: InfoHash,
    /// Who; one of its own for each swarm or the same in all.
    pub peer_id: PeerId,
    /// What happens; `update` by default.
    #[serde(default)]
    pub event: Event,
    /// TCP or UDP port that the peer listens on; 0, the default: none.
    #[serde(default)]
    pub port: u16,
    /// Over what it can talk to others. `webrtc` holds while the same peer id is also announced over a WebSocket: offers need one.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub transports: Vec<Transport>,
    /// The NAT in front of it, as it found it; what the punch service knows goes before.
    #[serde(default)]
    pub nat: Nat,
    /// What it has to give.
    #[serde(default)]
    pub supply: Supply,
    /// Peers that it could not connect to, or that failed it; up to 32. They are not told to it again, nor it to them.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub failed: Vec<PeerId>,
    /// How many peers it would like; there is a limit (50 unless configured).
    #[serde(default)]
    pub numwant: Option<u32>,
    /// The slice ticket that it has, to have it renewed in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub ticket: Option<String>,
}

/// What is wrong with an announce that has the right form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Too many at once.
    #[error("has more than {MAX_FAILED} peers; report the newest")]
    Failed,
    /// Too many.
    #[error("has more than {MAX_TRANSPORTS} transports; name each once")]
    Transports,
    /// Too long.
    #[error("has more than {MAX_TICKET} characters; send the ticket as it came")]
    Ticket,
}

impl FormError {
    /// The field that it is about.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Transports => "transports",
            Self::Ticket => "ticket",
        }
    }
}

impl Announce {
    /// Checks the lengths of its lists.
    pub fn check(&self) -> Result<(), FormError> {
        if self.failed.len() > MAX_FAILED {
            return Err(FormError::Failed);
        }
        if self.transports.len() > MAX_TRANSPORTS {
            return Err(FormError::Transports);
        }
        if self.ticket.as_ref().is_some_and(|ticket| ticket.len() > MAX_TICKET) {
            return Err(FormError::Ticket);
        }
        Ok(())
    }
}

/// The answer to an announce.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Reply<'a> {
    /// Announce again after so many milliseconds. It differs a little from answer to answer, so that viewers who came
    /// together do not announce together for ever.
    pub interval_ms: u32,
    /// No sooner than after so many, unless something changed.
    pub min_interval_ms: u32,
    /// Peers of the swarm that have all there is.
    pub complete: u32,
    /// The others.
    pub incomplete: u32,
    /// Over what others can reach this peer now.
    #[schemars(with = "Vec<Transport>")]
    pub transports: Transports,
    /// Peers to connect to, the best first.
    #[schemars(with = "Vec<PeerView<'static>>")]
    pub peers: Views<'a>,
    /// A pass that lasts longer, when less than half of this one's time is left: use it from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<&'a str>,
    /// A slice ticket that lasts longer, when less than half of the given one's time is left: use it from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<&'a str>,
}

/// What a peer has renewed with its announce.
#[derive(Debug, Clone, Copy, Default)]
pub struct Renewed<'a> {
    /// Its pass.
    pub pass: Option<&'a str>,
    /// Its slice ticket.
    pub ticket: Option<&'a str>,
}

/// A peer to connect to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PeerView<'a> {
    /// Who.
    pub peer_id: PeerId,
    /// Where it listens; left out when it wants no address told: then `shoal-udp` with a relay, or `webrtc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<SocketAddr>,
    /// What both of you have.
    #[schemars(with = "Vec<Transport>")]
    pub transports: Transports,
    /// The NAT in front of it.
    pub nat: Nat,
    /// The node that introduces it (docs/punch.md), if it is registered at one.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub node: &'a str,
    /// What it has to give.
    pub supply: Supply,
}

/// Names of nodes by their number.
pub type NodeName<'a> = &'a (dyn Fn(u16) -> &'a str + 'a);

/// The peers of an answer, written as [`PeerView`]s.
pub struct Views<'a> {
    peers: &'a [Chosen],
    node: NodeName<'a>,
}

impl std::fmt::Debug for Views<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.peers.fmt(f)
    }
}

impl Serialize for Views<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.peers.iter().map(|peer| PeerView {
            peer_id: peer.id,
            address: peer.address,
            transports: peer.transports,
            nat: peer.nat,
            node: (self.node)(peer.node),
            supply: peer.supply,
        }))
    }
}

/// Appends the answer to an announce.
pub fn reply<'a>(answer: &'a Answer, node: NodeName<'a>, renewed: Renewed<'a>, out: &mut Vec<u8>) {
    let reply = Reply {
        interval_ms: answer.interval_ms,
        min_interval_ms: answer.interval_ms / 2,
        complete: answer.complete,
        incomplete: answer.incomplete,
        transports: answer.registered,
        peers: Views { peers: &answer.peers, node },
        pass: renewed.pass,
        ticket: renewed.ticket,
    };
    // Writing into memory does not fail, and every key is a string.
    let _ = serde_json::to_writer(out, &reply);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_announce_is_typed_and_unknown_keys_are_refused() {
        let id = "00112233445566778899aabbccddeeff00112233";
        let least = json!({"info_hash": id, "peer_id": id});
        let found: Announce = serde_json::from_value(least.clone()).unwrap();
        assert_eq!((found.event, found.port, found.transports.len()), (Event::Update, 0, 0));
        let all = json!({
            "info_hash": id, "peer_id": id, "event": "leave", "port": 5000, "transports": ["shoal-udp", "tcp", "webrtc"],
            "nat": {"mapping": "endpoint_independent", "filtering": "address_dependent", "predictable": false},
            "supply": {"upload_kbps": 8000, "newest": 17, "count": 12}, "failed": [id], "numwant": 8, "ticket": "old"
        });
        let found: Announce = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(&found).unwrap(), all);
        found.check().unwrap();
        for (key, value) in [
            ("ip", json!("192.0.2.1")),
            ("peer_id", json!("short")),
            ("port", json!(65_536)),
            ("transports", json!(["udp"])),
            ("event", json!("started")),
            ("nat", json!({"kind": "Symmetric"})),
        ] {
            let mut wrong = least.clone();
            wrong[key] = value;
            assert!(serde_json::from_value::<Announce>(wrong).is_err(), "{key}");
        }
        let long = Announce { ticket: Some("t".repeat(MAX_TICKET + 1)), ..found.clone() };
        assert_eq!(long.check(), Err(FormError::Ticket));
        let many = Announce { failed: vec![found.peer_id; MAX_FAILED + 1], ..found };
        assert_eq!(many.check(), Err(FormError::Failed));
    }

    #[test]
    fn an_answer_names_nodes_and_leaves_out_what_is_not_to_be_told() {
        let peer = Chosen { node: 1, ..Chosen::of(PeerId([7; 20])) };
        let open = Chosen { address: Some("192.0.2.1:80".parse().unwrap()), ..Chosen::of(PeerId([8; 20])) };
        let answer = Answer { interval_ms: 15_900, interval_s: 16, peers: vec![peer, open], ..Answer::default() };
        let renewed = Renewed { pass: Some("longer"), ticket: Some("later") };
        let mut out = Vec::new();
        reply(&answer, &|number| if number == 1 { "edge1" } else { "" }, renewed, &mut out);
        let found: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let nat = json!({"mapping": "unknown", "filtering": "unknown", "predictable": false});
        let supply = json!({"upload_kbps": 0, "newest": 0, "count": 0});
        assert_eq!(
            found,
            json!({
                "interval_ms": 15_900, "min_interval_ms": 7_950, "complete": 0, "incomplete": 0, "transports": [],
                "pass": "longer", "ticket": "later", "peers": [
                    {"peer_id": "07".repeat(20), "transports": [], "nat": nat, "node": "edge1", "supply": supply},
                    {"peer_id": "08".repeat(20), "address": "192.0.2.1:80", "transports": [], "nat": nat, "supply": supply},
                ]
            })
        );
    }
}
