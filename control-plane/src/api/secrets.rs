//! Secrets of keys go in and never come out.

use std::collections::HashMap;

use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::{Channel, Tenant};

use crate::field::FieldError;
use crate::rest::problem::Problem;
use crate::token::random_hex;

/// What stands in place of a secret in answers. Sent back for a key that is there, it keeps that key's secret; so a
/// channel or tenant can be read, changed and replaced without knowing its secrets.
pub const HIDDEN: &str = "***";

/// Hexadecimal digits of an id that was left to us.
const RANDOM_ID: usize = 8;

/// A key or a tenant's secret to add.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewKey {
    /// Id, new in this channel or tenant: 1 to 16 of `a-z A-Z 0-9 - _`. None: a random one.
    pub id: Option<String>,
    /// The secret. None: a random one, which the answer tells.
    pub secret: Option<String>,
}

/// A key or a tenant's secret, by its id alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyName {
    /// Id.
    pub id: String,
    /// Whether it is the one that signs.
    pub signing: bool,
    /// Its secret; only in the answer to the request that made it, and only if that left the choice to us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A [`NewKey`] whose gaps are filled in.
pub(super) struct Fresh {
    pub(super) id: String,
    pub(super) secret: String,
    told: Option<String>,
}

impl NewKey {
    /// Chooses what was left to us.
    pub(super) fn fill(self) -> Result<Fresh, Problem> {
        let random = || {
            random_hex().map_err(|error| {
                let detail = format!("/dev/urandom: {error}; give id and secret yourself");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
            })
        };
        let id = match self.id {
            Some(id) => id,
            None => random()?.chars().take(RANDOM_ID).collect(),
        };
        let (secret, told) = match self.secret {
            Some(secret) => (secret, None),
            None => random().map(|secret| (secret.clone(), Some(secret)))?,
        };
        Ok(Fresh { id, secret, told })
    }
}

impl Fresh {
    /// What the answer tells of it.
    pub(super) fn name(self, signing: bool) -> KeyName {
        KeyName { id: self.id, signing, secret: self.told }
    }
}

/// A secret in a document: the field it is in, its id, and itself.
type Place<'a> = (String, &'a str, &'a mut String);

/// What has secrets that answers do not tell.
pub(super) trait Secretive: Clone {
    /// All of them.
    fn secrets(&mut self) -> Vec<Place<'_>>;

    /// Replaces every secret by [`HIDDEN`].
    fn hide(mut self) -> Self {
        for (_, _, secret) in self.secrets() {
            HIDDEN.clone_into(secret);
        }
        self
    }

    /// Whether it has the same secrets under the same ids as `old`, in the same order; without one, whether it has none.
    fn same_secrets(mut self, old: Option<&Self>) -> bool {
        let mut old = old.cloned();
        let own = |(_, id, secret): Place<'_>| (id.to_owned(), secret.clone());
        let before: Vec<_> = old.iter_mut().flat_map(Self::secrets).map(own).collect();
        let after: Vec<_> = self.secrets().into_iter().map(own).collect();
        before == after
    }

    /// Fills in the secrets of `old` where this says [`HIDDEN`].
    fn keep(&mut self, old: Option<&Self>) -> Result<(), Vec<FieldError>> {
        let mut old = old.cloned();
        let known: HashMap<&str, &str> =
            old.iter_mut().flat_map(Self::secrets).map(|(_, id, secret)| (id, secret.as_str())).collect();
        let mut errors = Vec::new();
        for (field, id, secret) in self.secrets().into_iter().filter(|(_, _, secret)| *secret == HIDDEN) {
            match known.get(id) {
                Some(known) => (*known).clone_into(secret),
                None => errors.push(FieldError::new(
                    field,
                    HIDDEN,
                    format!("keeps the secret of that id, and there is none `{id}` yet; write the secret"),
                )),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

impl Secretive for Channel {
    fn secrets(&mut self) -> Vec<Place<'_>> {
        let keys = self.access.ticket.iter_mut().flat_map(|ticket| &mut ticket.keys);
        keys.enumerate()
            .map(|(at, key)| (format!("access.ticket.keys[{at}].secret"), &*key.id, &mut key.secret))
            .collect()
    }
}

impl Secretive for shoal_conf::App {
    fn secrets(&mut self) -> Vec<Place<'_>> {
        let keys = self.keys.iter_mut().enumerate();
        keys.map(|(at, key)| (format!("keys[{at}].secret"), &*key.id, &mut key.secret)).collect()
    }
}

impl Secretive for shoal_conf::Rule {
    fn secrets(&mut self) -> Vec<Place<'_>> {
        Vec::new()
    }
}

impl Secretive for Tenant {
    fn secrets(&mut self) -> Vec<Place<'_>> {
        let secrets = self.relay.secrets.iter_mut();
        secrets
            .enumerate()
            .map(|(at, entry)| (format!("relay.secrets[{at}].secret"), &*entry.id, &mut entry.secret))
            .collect()
    }
}
