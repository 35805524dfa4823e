//! What players say of their playback with each request for a slice (CMCD, CTA-5004), summed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest id of a session or of content that is told on: CTA-5004 allows 64 characters.
pub const CMCD_ID_MAX: usize = 64;

/// Sums over a few seconds of the requests of one viewer that carried CMCD. All but `tenant`, `channel`, `session`, `requests`
/// and `bytes` is the viewer's own word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Playback {
    /// Tenant id.
    pub tenant: Arc<str>,
    /// Channel id.
    pub channel: Arc<str>,
    /// Session of its ticket; empty without one.
    pub session: Box<str>,
    /// The session that the player names (`sid`); empty when it names none.
    pub sid: Box<str>,
    /// What it plays (`cid`), as it said last.
    pub cid: Option<Box<str>>,
    /// Streaming format (`sf`), as it said last: `d` DASH, `h` HLS, `s` Smooth Streaming, `o` another.
    pub sf: Option<Box<str>>,
    /// Stream type (`st`), as it said last: `v` on demand, `l` live.
    pub st: Option<Box<str>>,
    /// Unix milliseconds of the first of these requests.
    pub start_ms: u64,
    /// Unix milliseconds of the last.
    pub end_ms: u64,
    /// Requests with CMCD.
    pub requests: u64,
    /// Bytes of bodies that they were sent.
    pub bytes: u64,
    /// Requests that say that the buffer had run empty (`bs`).
    pub starved: u64,
    /// Requests that were urgent: at the start, after a seek, or with an empty buffer (`su`).
    pub startup: u64,
    /// Least length of the buffer (`bl`), milliseconds.
    pub buffer_min_ms: Option<u64>,
    /// Sum of the encoded bitrates of what was asked for (`br`), kbit/s.
    pub bitrate_sum_kbps: u64,
    /// Requests that said it.
    pub bitrate_count: u64,
    /// The highest of them.
    pub bitrate_max_kbps: u64,
    /// Throughput as the player measured it (`mtp`), kbit/s, as it said last.
    pub throughput_kbps: Option<u64>,
}
