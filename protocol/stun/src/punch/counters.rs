//! Why something was not granted or led to nothing, counted.

use std::collections::BTreeMap;

use crate::message::ErrorCode;

macro_rules! reasons {
    ($(#[$of:meta])* $enum:ident: $($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $enum {
            $($(#[$doc])* $name,)*
        }

        impl $enum {
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
    /// Why a datagram led to nothing.
    Dropped:
    /// Not STUN, damaged, or in the classic dialect.
    NotPunch = "not_punch",
    /// Without FINGERPRINT, or with a wrong one.
    Fingerprint = "fingerprint",
    /// A method or class that no peer sends.
    Unexpected = "unexpected",
    /// Its answer would be longer than it is.
    TooShort = "too_short",
    /// The answer to an introduction that is over, or was never made.
    NoIntroduction = "no_introduction",
    /// The caller's buffer is too short.
    NoRoom = "no_room",
}

reasons! {
    /// Why a request was refused.
    Refusal:
    /// An attribute is missing or malformed. 400.
    Malformed = "malformed",
    /// Shorter than [`MIN_REQUEST`](super::MIN_REQUEST). 400.
    TooShort = "too_short",
    /// An attribute that must be understood and is not. 420.
    UnknownAttribute = "unknown_attribute",
    /// No nonce: the usual first request. 401.
    Unproven = "unproven",
    /// The nonce is expired, of another address, or not ours. 438.
    StaleNonce = "stale_nonce",
    /// No such registration at this address. 401.
    Unregistered = "unregistered",
    /// The gate says no. 403.
    Gate = "gate",
    /// The channel is gone. 403.
    Channel = "channel",
    /// The relayed address is on no relay that is known. 403.
    Relay = "relay",
    /// The peer id is somebody else's. 403.
    Taken = "taken",
    /// Too many registrations of one address in a short time. 429.
    RegistrationRate = "registration_rate",
    /// The shard has all the registrations that it may have. 508.
    Full = "full",
    /// The address has all the registrations that it may have. 508.
    AddressFull = "address_full",
    /// The target is not registered in the channel. 404.
    NotFound = "not_found",
    /// The channel wants relayed addresses only, and one of the two has none. 409.
    RelayOnly = "relay_only",
    /// One address is IPv4, the other IPv6. 409.
    Family = "family",
    /// The two NATs let neither in. 409.
    CannotConnect = "cannot_connect",
    /// Too many introductions asked for by a peer. 429.
    PeerRate = "peer_rate",
    /// Too many introductions asked for from an address. 429.
    AddressRate = "address_rate",
    /// Too many introductions to a peer. 429.
    TargetRate = "target_rate",
    /// The shard has all the introductions under way that it may have. 508.
    IntroductionsFull = "introductions_full",
}

impl Refusal {
    /// What the response says.
    #[must_use]
    pub const fn error(self) -> ErrorCode<'static> {
        match self {
            Self::Malformed | Self::TooShort => ErrorCode::BAD_REQUEST,
            Self::UnknownAttribute => ErrorCode::UNKNOWN_ATTRIBUTE,
            Self::Unproven | Self::Unregistered => ErrorCode::UNAUTHORIZED,
            Self::StaleNonce => ErrorCode::STALE_NONCE,
            Self::Gate | Self::Channel | Self::Relay | Self::Taken => ErrorCode::FORBIDDEN,
            Self::NotFound => ErrorCode::NOT_FOUND,
            Self::RelayOnly | Self::Family | Self::CannotConnect => ErrorCode::CONFLICT,
            Self::RegistrationRate | Self::PeerRate | Self::AddressRate | Self::TargetRate => {
                ErrorCode::TOO_MANY_REQUESTS
            }
            Self::Full | Self::AddressFull | Self::IntroductionsFull => ErrorCode::INSUFFICIENT_CAPACITY,
        }
    }

    /// Whether whoever is refused has proven to be at the address it sent from.
    #[must_use]
    pub const fn is_of_proven(self) -> bool {
        !matches!(
            self,
            Self::Malformed
                | Self::TooShort
                | Self::UnknownAttribute
                | Self::Unproven
                | Self::StaleNonce
                | Self::Unregistered
        )
    }
}

/// What was counted since the start. They only grow.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    dropped: [u64; Dropped::ALL.len()],
    refused: [u64; Refusal::ALL.len()],
    gate: BTreeMap<&'static str, u64>,
    /// Registrations made.
    pub registered: u64,
    /// Registrations renewed, or moved to another address.
    pub renewed: u64,
    /// Introductions made.
    pub introductions: u64,
    /// Introduced requests sent, repetitions among them.
    pub introduced: u64,
    /// Introductions that the target has answered.
    pub answered: u64,
    /// Introductions that were over before.
    pub unanswered: u64,
    /// Ends of registrations that nobody was told of, because nobody took them in time.
    pub observations_lost: u64,
}

impl Counters {
    /// Datagrams that led to nothing, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (Dropped, u64)> {
        Dropped::ALL.into_iter().zip(self.dropped)
    }

    /// Requests that were refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().zip(self.refused)
    }

    /// Those that the gate refused, by its reasons.
    pub fn refused_by_gate(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.gate.iter().map(|(reason, count)| (*reason, *count))
    }

    pub(super) fn drop_one(&mut self, dropped: Dropped) -> Dropped {
        if let Some(count) = self.dropped.get_mut(dropped as usize) {
            *count += 1;
        }
        dropped
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        if let Some(count) = self.refused.get_mut(refusal as usize) {
            *count += 1;
        }
    }

    pub(super) fn gate(&mut self, reason: &'static str) {
        *self.gate.entry(reason).or_default() += 1;
    }
}
