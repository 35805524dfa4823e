//! The usage ledger: what was delivered, aggregated before it travels.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a flow of bytes was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Sent to a viewer over HTTP.
    Client,
    /// Sent to a shoal node that has this one as a parent.
    Child,
    /// Fetched from an origin.
    Upstream,
    /// Relayed between peers.
    Relay,
}

/// One sum over one flush interval. Entries of the same key in different batches add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Tenant id.
    pub tenant: Arc<str>,
    /// Channel id; empty for `Relay`.
    pub channel: Arc<str>,
    /// Session id from the ticket, the user of the TURN name for `Relay`; empty when the channel asks for none, or when detail was
    /// shed.
    pub session: Box<str>,
    /// What the bytes were for.
    pub kind: Kind,
    /// Origin id for `Upstream`, else empty.
    pub origin: Arc<str>,
    /// Requests answered (or made upstream); datagrams for `Relay`.
    pub requests: u64,
    /// Bytes of bodies (payload), as handed to or received from the kernel.
    pub body_bytes: u64,
    /// Bodies and heads and framing, above TCP or UDP; for `Relay` between the client and the node.
    pub wire_bytes: u64,
}

/// One flush of one node. `(node, boot, sequence)` identifies it for ever: the receiver counts each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Random, new at each start of the data plane.
    pub boot: u64,
    /// 1, 2, 3 … within a boot.
    pub sequence: u64,
    /// Unix milliseconds of the start of the interval.
    pub start_ms: u64,
    /// Unix milliseconds of its end.
    pub end_ms: u64,
    /// The sums; never empty.
    pub entries: Vec<Entry>,
}
