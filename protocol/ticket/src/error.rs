//! Why a request, a policy or a wish to sign is refused.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::short::KeyId;

/// Why a request may not pass. Its `Display` is one line for the viewer's side, without any secret in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No signature of any accepted form.
    #[error("no ticket: this channel asks for a signed URL; get one from the service that offers the video")]
    Missing,
    /// A signature that cannot be read.
    #[error("malformed {form} signature: it is cut off, or was altered on its way; get a new signed URL")]
    Malformed {
        /// Name of its profile.
        form: &'static str,
    },
    /// Signed with a key that the channel does not have.
    #[error("the ticket is signed with key `{key}`, which this channel does not know (any more); get a new signed URL")]
    UnknownKey {
        /// The key's name, as in the ticket.
        key: KeyId,
    },
    /// Readable, and wrong.
    #[error(
        "wrong {form} signature: made for another channel or path, with another secret, or altered; \
         get a new signed URL"
    )]
    Signature {
        /// Name of its profile.
        form: &'static str,
    },
    /// Right, and too old.
    #[error("the {form} signature expired {} s ago; get a new signed URL", now.saturating_sub(*expires))]
    Expired {
        /// Name of its profile.
        form: &'static str,
        /// Unix seconds.
        expires: u64,
        /// Unix seconds.
        now: u64,
    },
    /// Right, and for other paths.
    #[error("the ticket covers {prefix}, not this path; get a signed URL for this path")]
    Path {
        /// What it covers.
        prefix: Box<str>,
    },
    /// Right, and for other clients.
    #[error("the ticket is for clients in {network}, not for {client}; get a new signed URL from this network")]
    Network {
        /// Whom it is for.
        network: IpNet,
        /// Who presented it.
        client: IpAddr,
    },
}

impl Refusal {
    /// A label for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed { .. } => "malformed",
            Self::UnknownKey { .. } => "key",
            Self::Signature { .. } => "signature",
            Self::Expired { .. } => "expired",
            Self::Path { .. } => "path",
            Self::Network { .. } => "network",
        }
    }

    /// How far the check came: of several refusals, the one that came furthest tells most.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::Malformed { .. } => 1,
            Self::UnknownKey { .. } => 2,
            Self::Signature { .. } => 3,
            Self::Expired { .. } => 4,
            Self::Path { .. } | Self::Network { .. } => 5,
        }
    }
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PolicyError {
    /// Its key, such as `keys[1].id`.
    pub field: String,
    /// The value, unless it is a secret, and the remedy.
    pub problem: String,
}

impl PolicyError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// Why a URL cannot be signed, or a ticket minted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The policy itself is wrong.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A value that the form cannot carry.
    #[error("{field}: {problem}")]
    Field {
        /// Name of the field of [`crate::Claims`] or [`crate::SignRequest`].
        field: &'static str,
        /// The value and the remedy.
        problem: String,
    },
}

impl SignError {
    pub(crate) fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }
}
