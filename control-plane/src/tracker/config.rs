//! The `[tracker]` section.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest interval: what is silent for two of them is gone.
const MAX_INTERVAL_S: u32 = 3600;
/// Grace beyond two missed intervals, for what is on its way.
const GRACE_MS: u64 = 8_000;

/// The tracker: who is told of whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tracking {
    /// Seconds from announce to announce, 1 to 3600. A peer that misses two is gone eight seconds later.
    pub interval_s: u32,
    /// Tenant in whose name everybody may announce without a pass, at `/announce`, `/scrape` and by WebSocket at `/`, in the
    /// channel `open`. Empty: nobody may.
    pub open: String,
    /// URL of Redis or Valkey, as in `redis://:PASSWORD@HOST:6379`, over which several instances tell each other of their peers and
    /// of signatures that were used. Empty: this instance knows its own ones.
    pub redis: String,
    /// Peers at most in an answer.
    pub told: u32,
    /// Peers at most; beyond, nobody may join.
    pub peers: u32,
    /// Peers at most in one swarm; beyond, nobody may join it.
    pub peers_per_swarm: u32,
    /// Swarms at most; beyond, no other one may begin.
    pub swarms: u32,
    /// Swarms at most in one channel; beyond, no other one may begin there.
    pub swarms_per_channel: u32,
    /// WebSocket connections at most; beyond, 503.
    pub connections: u32,
    /// Peers at most that one connection may announce; beyond, its announces are refused.
    pub peers_per_connection: u32,
    /// Offers of an announce that are passed on, up to 64; the others are dropped.
    pub offers: u32,
    /// Bytes of an offer or answer at most; a longer one is dropped.
    pub sdp_bytes: u32,
    /// Messages that wait for one connection to take them at most; beyond, the newest are dropped.
    pub queue: u32,
}

impl Default for Tracking {
    fn default() -> Self {
        Self {
            interval_s: 16,
            open: String::new(),
            redis: String::new(),
            told: 50,
            peers: 4_000_000,
            peers_per_swarm: 2_000_000,
            swarms: 1_000_000,
            swarms_per_channel: 200_000,
            connections: 131_072,
            peers_per_connection: 1_024,
            offers: 16,
            sdp_bytes: 16_384,
            queue: 256,
        }
    }
}

impl Tracking {
    /// How each shard behaves.
    pub(super) fn shard(&self) -> shoal_swarm::swarms::Config {
        let interval_ms = self.interval_s.clamp(1, MAX_INTERVAL_S) * 1000;
        shoal_swarm::swarms::Config {
            interval_ms,
            life_ms: 2 * u64::from(interval_ms) + GRACE_MS,
            told: self.told as usize,
            peers: self.peers as usize,
            peers_per_swarm: self.peers_per_swarm as usize,
            swarms: self.swarms as usize,
            swarms_per_channel: self.swarms_per_channel as usize,
            ..shoal_swarm::swarms::Config::default()
        }
    }
}
