//! Why something was not relayed or not granted, counted.

use crate::credentials::Refusal;
use crate::message::ErrorCode;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a datagram led to nothing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Dropped {
            $($(#[$doc])* $name,)*
        }

        impl Dropped {
            /// All, for metrics.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$name),*];

            /// A label for metrics.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

reasons! {
    /// Neither STUN nor ChannelData.
    NotTurn = "not_turn",
    /// STUN or ChannelData whose framing or attributes are broken.
    Malformed = "malformed",
    /// FINGERPRINT is wrong.
    Fingerprint = "fingerprint",
    /// A response, or a method or class that no client sends.
    Unexpected = "unexpected",
    /// An indication with an attribute that must be understood and is not.
    UnknownAttribute = "unknown_attribute",
    /// The five-tuple has no allocation.
    NoAllocation = "no_allocation",
    /// The relay socket's allocation is gone.
    NoRelay = "no_relay",
    /// The channel is not bound.
    NoChannel = "no_channel",
    /// The peer has no permission.
    NoPermission = "no_permission",
    /// No relay address of the peer's family.
    PeerFamily = "peer_family",
    /// One of our own addresses, and no relay port.
    OwnAddress = "own_address",
    /// Longer than what fits into a datagram with what goes in front.
    TooLong = "too_long",
    /// An ICMP error that is not passed on.
    Icmp = "icmp",
    /// The caller's buffer is too short.
    NoRoom = "no_room",
}

/// Error codes that are sent, for counting.
const CODES: [ErrorCode<'static>; 13] = [
    ErrorCode::BAD_REQUEST,
    ErrorCode::UNAUTHORIZED,
    ErrorCode::FORBIDDEN,
    ErrorCode::UNKNOWN_ATTRIBUTE,
    ErrorCode::ALLOCATION_MISMATCH,
    ErrorCode::STALE_NONCE,
    ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED,
    ErrorCode::WRONG_CREDENTIALS,
    ErrorCode::UNSUPPORTED_TRANSPORT,
    ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH,
    ErrorCode::ALLOCATION_QUOTA_REACHED,
    ErrorCode::SERVER_ERROR,
    ErrorCode::INSUFFICIENT_CAPACITY,
];

/// What was counted since the start. They only grow.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    dropped: [u64; Dropped::ALL.len()],
    refused: [u64; Refusal::ALL.len()],
    errors: [u64; CODES.len()],
    /// Allocations made.
    pub allocations: u64,
    /// Requests granted, of any method.
    pub granted: u64,
}

impl Counters {
    /// Datagrams that led to nothing, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (Dropped, u64)> {
        Dropped::ALL.into_iter().zip(self.dropped)
    }

    /// Requests that were taken as nobody's, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().zip(self.refused)
    }

    /// Error responses, by code.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorCode<'static>, u64)> {
        CODES.into_iter().zip(self.errors)
    }

    pub(super) fn drop_one(&mut self, dropped: Dropped) -> Dropped {
        if let Some(count) = self.dropped.get_mut(dropped as usize) {
            *count += 1;
        }
        dropped
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        let at = Refusal::ALL.iter().position(|one| *one == refusal);
        if let Some(count) = at.and_then(|at| self.refused.get_mut(at)) {
            *count += 1;
        }
    }

    pub(super) fn error(&mut self, error: ErrorCode<'_>) {
        let at = CODES.iter().position(|one| one.code == error.code);
        if let Some(count) = at.and_then(|at| self.errors.get_mut(at)) {
            *count += 1;
        }
    }
}
