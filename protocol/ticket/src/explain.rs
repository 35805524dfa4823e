//! Why a request's signature is right or wrong, for whoever has to find out. Neither a secret nor the right signature is told.

use crate::error::Refusal;
use crate::form::{Explained, KEY_SIGN, Place};
use crate::path::path_signature;
use crate::policy::Profile;
use crate::query::{cookie, param};
use crate::ticket::{Request, describe, verify};
use crate::verifier::{PARAMETER, Presented, Verifier};
use crate::{KeyId, ticket::Known};

/// A profile of the channel, and what the request shows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Name of the profile.
    pub form: &'static str,
    /// What is hashed, with `{key}` for the key, if it could be read.
    pub hashed: Option<String>,
    /// The signature that came, if it could be read. Of shoal's own ticket what it says.
    pub given: Option<String>,
    /// Unix seconds, if it could be read.
    pub expires: Option<u64>,
    /// Id of the key that it is right with.
    pub key: Option<String>,
    /// Why it is refused, if it is.
    pub refused: Option<Refusal>,
}

impl Verifier {
    /// Every profile of the policy on its own, shoal's first.
    pub fn explain(&self, presented: &Presented<'_>) -> Vec<Tried> {
        let Presented { path, query, cookie: cookies, header, client, now } = *presented;
        let shapes =
            |found: &crate::PathSignature<'_>| self.forms.iter().any(|form| form.path_shape() == Some(found.shape));
        let in_path = path_signature(path).filter(shapes);
        let bare = in_path.map_or(path, |found| found.rest);
        let mut tried = Vec::new();
        let tickets = [
            query.and_then(|query| param(query, PARAMETER)),
            header.map(str::trim_ascii),
            cookies.and_then(|field| cookie(field, PARAMETER)),
        ];
        for text in tickets.into_iter().flatten() {
            let request = Request { path: Some(bare), client, now, skew: self.skew };
            let find_key = |id: &KeyId| self.keys.iter().find(|key| key.id == *id).map(|key| &key.mac);
            let mut known = Known::default();
            let refused = verify(text, &request, find_key, &mut known).err();
            let said = describe(text);
            let right = known.is(text);
            tried.push(Tried {
                form: Profile::Shoal.name(),
                hashed: said
                    .as_ref()
                    .map(|_| format!("HMAC-SHA-256({KEY_SIGN}, channel {}, what it says)", self.channel)),
                key: said.as_ref().filter(|_| right).map(|(key, ..)| key.to_string()),
                expires: said.as_ref().map(|(.., expires)| *expires),
                given: said.map(|(key, says, _)| format!("key `{key}`, {says}")),
                refused,
            });
        }
        if tried.is_empty() {
            tried.push(Tried::missing(Profile::Shoal.name()));
        }
        let place = Place { path, in_path, query: query.unwrap_or_default(), client };
        for form in &self.forms {
            let Some(Explained { hashed, given, expires }) = form.explain(&place) else {
                tried.push(Tried::missing(form.profile.name()));
                continue;
            };
            let verify = |secrets: &mut dyn Iterator<Item = &[u8]>| form.verify(&place, secrets, now, self.skew);
            let right = |secret: &[u8]| {
                let outcome = verify(&mut std::iter::once(secret));
                matches!(outcome, Some(Ok(_) | Err(Refusal::Expired { .. })))
            };
            let key = self.keys.iter().find(|key| right(&key.secret)).map(|key| key.id.to_string());
            let refused = verify(&mut self.keys.iter().map(|key| &*key.secret)).and_then(Result::err);
            tried.push(Tried { form: form.profile.name(), hashed, given, expires, key, refused });
        }
        tried
    }
}

impl Tried {
    fn missing(form: &'static str) -> Self {
        Self { form, hashed: None, given: None, expires: None, key: None, refused: Some(Refusal::Missing) }
    }
}
