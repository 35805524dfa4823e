//! What nodes learn of peers, for the tracker: which of them are registered for punching, where, and behind what kind of NAT.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a NAT maps or filters (RFC 4787 sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// Nobody knows.
    #[default]
    Unknown,
    /// The same for all destinations.
    EndpointIndependent,
    /// By the destination's address.
    AddressDependent,
    /// By its address and port.
    AddressAndPortDependent,
}

/// A peer that is registered at a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Tenant id.
    pub tenant: String,
    /// Channel id.
    pub channel: String,
    /// 20 bytes, in 40 hexadecimal digits.
    pub peer: String,
    /// As the node sees it.
    pub address: SocketAddr,
    /// Of the NAT between them, as the peer found it.
    pub mapping: Behaviour,
    /// The same.
    pub filtering: Behaviour,
    /// Whether ports of new mappings can be told beforehand.
    pub predictable: bool,
    /// False when the registration has ended: the rest is as it was last.
    pub registered: bool,
}
