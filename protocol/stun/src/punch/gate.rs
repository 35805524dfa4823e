//! Who may register, which the caller knows.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The caller's channels, tickets and relays.
pub trait Gate {
    /// Whether a peer may register in a channel. Asked when a registration is made or moved, and when a renewal brings a ticket.
    ///
    /// # Errors
    /// It may not, or there is no such channel.
    fn admit(&self, channel: &str, ticket: Option<&str>, client: IpAddr, unix: u64) -> Result<Admission, Refused>;

    /// What a channel that was admitted to allows now. Asked with each renewal and introduction.
    fn standing(&self, channel: &str) -> Standing;

    /// Whether an address may be told as a peer's relayed one: it is on a relay that is known, such as the node's own.
    /// Peers send their checks there, so it must be nobody else's.
    fn is_relay(&self, address: SocketAddr) -> bool;
}

/// What was found out about who registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Whose channel it is.
    pub tenant: Arc<str>,
    /// The ticket's session, if it names one: what comes from the same session is from the same peer.
    pub session: Option<Box<str>>,
    /// The last Unix second of the ticket; none: it is not what ends the registration.
    pub expires_unix: Option<u64>,
}

/// Why not: a label for metrics and the reason phrase, some words long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// What a channel allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Peers are introduced to one another.
    Open,
    /// Peers are told relayed addresses of one another, and no others.
    RelayOnly,
    /// It is not served any more.
    Gone,
}
