//! Why a snapshot cannot be served.

use shoal_link::access::AccessError;

/// A field of a channel or tenant that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{id}`: {field} `{value}`: {remedy}")]
pub struct RoutesError {
    /// `channel` or `tenant`.
    pub kind: &'static str,
    /// Its id, as given.
    pub id: String,
    /// The field, such as `origins[1].url`.
    pub field: String,
    /// Its value; empty where that would give a secret away.
    pub value: String,
    /// What is wrong with it and what to write instead.
    pub remedy: String,
}

impl RoutesError {
    pub(super) fn new(channel: &str, field: impl Into<String>, value: &str, remedy: impl Into<String>) -> Self {
        FieldError::new(field, value, remedy).of(channel)
    }

    pub(super) fn tenant(tenant: &str, field: impl Into<String>, value: &str, remedy: impl Into<String>) -> Self {
        Self { kind: "tenant", ..Self::new(tenant, field, value, remedy) }
    }

    pub(super) fn blocks(value: &str, remedy: impl Into<String>) -> Self {
        Self { kind: "list", ..Self::new("blocks", "network", value, remedy) }
    }
}

/// The same while the channel is known to the caller.
#[derive(Debug)]
pub(super) struct FieldError {
    pub(super) field: String,
    pub(super) value: String,
    pub(super) remedy: String,
}

impl From<AccessError> for FieldError {
    fn from(error: AccessError) -> Self {
        Self { field: error.field, value: error.value, remedy: error.remedy.to_owned() }
    }
}

impl FieldError {
    pub(super) fn new(field: impl Into<String>, value: &str, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.to_owned(), remedy: remedy.into() }
    }

    pub(super) fn of(self, channel: &str) -> RoutesError {
        RoutesError {
            kind: "channel",
            id: channel.to_owned(),
            field: self.field,
            value: self.value,
            remedy: self.remedy,
        }
    }
}
