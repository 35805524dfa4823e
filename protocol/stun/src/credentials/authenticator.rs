//! The long-term credential mechanism, server side (RFC 8489 section 9.2.4).

use std::net::SocketAddr;

use super::key::{Key, MAX_REALM, PasswordAlgorithm, time_limited_password};
use super::nonce::{NONCE, Nonces};
use super::tenants::{Tenant, Tenants, TimedName};
use crate::message::{
    AttributeType, Builder, ErrorCode, Integrity, Message, Nonce, PasswordAlgorithmValue, PasswordAlgorithms, Realm,
    Username,
};

/// Bytes of the attributes that a [`Refusal`]'s response needs beyond its ERROR-CODE, at most: REALM, NONCE and
/// PASSWORD-ALGORITHMS.
pub const REFUSAL_ATTRIBUTES: usize = 4 + (MAX_REALM + 1) + 4 + NONCE + 4 + OFFER.len();

/// SHA-256, then MD5; neither has parameters.
const OFFER: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// What a name was proven with, for whoever wants to know it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The name, as it came.
    pub username: Box<str>,
    /// Its key.
    pub key: Key,
}

/// A request whose integrity is right.
#[derive(Debug, Clone)]
pub struct Authenticated<'a> {
    /// The name it was signed with.
    pub username: &'a str,
    /// The name's key: its response is signed with it.
    pub key: Key,
    /// Which HMAC is to protect the response: the better one where the client chose a password algorithm, whatever
    /// protects the request (RFC 8489 section 9.2.4).
    pub integrity: Integrity,
    /// The name's parts.
    pub name: TimedName<'a>,
}

/// Why a request is not taken as anybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no integrity: the usual first request. 401.
    NoCredentials,
    /// Attributes are missing, malformed or contradict one another. 400.
    Malformed,
    /// Someone took password algorithms away from our offer, or put some in. 400.
    BidDown,
    /// The nonce is expired, of another client, or not ours. 438.
    StaleNonce,
    /// Another realm than ours. 401.
    Realm,
    /// The name is not of the form, of no tenant, or only its hash is given. 401.
    UnknownName,
    /// The name is past its time. 401.
    Expired,
    /// The HMAC is wrong. 401.
    Integrity,
}

impl Refusal {
    /// All, for metrics.
    pub const ALL: [Self; 8] = [
        Self::NoCredentials,
        Self::Malformed,
        Self::BidDown,
        Self::StaleNonce,
        Self::Realm,
        Self::UnknownName,
        Self::Expired,
        Self::Integrity,
    ];

    /// A label for metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::Malformed => "malformed_credentials",
            Self::BidDown => "bid_down",
            Self::StaleNonce => "stale_nonce",
            Self::Realm => "realm",
            Self::UnknownName => "unknown_name",
            Self::Expired => "expired_name",
            Self::Integrity => "integrity",
        }
    }

    /// What the response says.
    #[must_use]
    pub const fn error(self) -> ErrorCode<'static> {
        match self {
            Self::Malformed | Self::BidDown => ErrorCode::BAD_REQUEST,
            Self::StaleNonce => ErrorCode::STALE_NONCE,
            _ => ErrorCode::UNAUTHORIZED,
        }
    }
}

/// Checks requests.
#[derive(Debug, Clone)]
pub struct Authenticator {
    realm: Box<str>,
    nonces: Nonces,
    offers_sha256: bool,
}

impl Authenticator {
    /// `realm` has at most [`MAX_REALM`] bytes, what is longer is cut off. `offers_sha256`: whether keys may be made with
    /// SHA-256, which costs 12 bytes in each 401; clients of RFC 5389 pass over the offer. `nonces` must say the same of
    /// password algorithms.
    #[must_use]
    pub fn new(realm: &str, nonces: Nonces, offers_sha256: bool) -> Self {
        let realm = realm.get(..realm.floor_char_boundary(MAX_REALM)).unwrap_or_default().into();
        Self { realm, nonces, offers_sha256 }
    }

    /// The realm of all names.
    #[must_use]
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Checks a request. `known` is the credential of what the request is about, if that is known: the same name is then
    /// checked by that key alone, even past its time, so that what was begun in time can go on.
    ///
    /// # Errors
    /// What [`refuse`](Self::refuse) is to be called with.
    pub fn authenticate<'m>(
        &self,
        request: &Message<'m>,
        client: SocketAddr,
        unix: u64,
        tenants: &Tenants,
        known: Option<&Credential>,
    ) -> Result<Authenticated<'m>, Refusal> {
        let integrity = request.integrity().ok_or(Refusal::NoCredentials)?;
        let malformed = |_| Refusal::Malformed;
        let username = request.read::<Username<'m>>().map_err(malformed)?;
        let realm = request.read::<Realm<'m>>().map_err(malformed)?.ok_or(Refusal::Malformed)?;
        let nonce = request.read::<Nonce<'m>>().map_err(malformed)?.ok_or(Refusal::Malformed)?;
        if username.is_none() && !request.has(AttributeType::USERHASH) {
            return Err(Refusal::Malformed);
        }
        let chosen = self.algorithm(request, nonce.0)?;
        let algorithm = chosen.unwrap_or(PasswordAlgorithm::Md5);
        // Before the name and its HMAC, which the RFC puts first: they cost most, and who has no nonce has not shown that
        // the address is theirs.
        if !self.nonces.check(nonce.0, client, unix) {
            return Err(Refusal::StaleNonce);
        }
        if realm.0 != &*self.realm {
            return Err(Refusal::Realm);
        }
        // Hashes of names cannot be undone, and there is no list of names: the nonce does not offer them.
        let username = username.ok_or(Refusal::UnknownName)?.0;
        let name = TimedName::parse(username).ok_or(Refusal::UnknownName)?;
        let tenant = tenants.get(name.tenant).ok_or(Refusal::UnknownName)?;
        let known = known.filter(|known| *known.username == *username && known.key.algorithm() == algorithm);
        let key = match known {
            Some(known) if request.verify(integrity, known.key.as_bytes()) => known.key.clone(),
            Some(_) => return Err(Refusal::Integrity),
            None => {
                if unix > name.expires {
                    return Err(Refusal::Expired);
                }
                self.find_key(request, integrity, algorithm, username, tenant).ok_or(Refusal::Integrity)?
            }
        };
        let integrity = if chosen.is_some() { Integrity::Sha256 } else { Integrity::Sha1 };
        Ok(Authenticated { username, key, integrity, name })
    }

    /// Adds to a response of class error what a refused client needs to try again.
    pub fn refuse(&self, response: &mut Builder<'_>, refusal: Refusal, client: SocketAddr, unix: u64) {
        response.add(&refusal.error());
        if refusal.error() == ErrorCode::BAD_REQUEST {
            return;
        }
        let nonce = self.nonces.issue(client, unix);
        response.add(&Realm(&self.realm)).add(&Nonce(std::str::from_utf8(&nonce).unwrap_or_default()));
        if self.offers_sha256 {
            response.add(&PasswordAlgorithms(&OFFER));
        }
    }

    fn find_key(
        &self,
        request: &Message<'_>,
        integrity: Integrity,
        algorithm: PasswordAlgorithm,
        username: &str,
        tenant: &Tenant,
    ) -> Option<Key> {
        tenant.secrets.iter().find_map(|secret| {
            let password = time_limited_password(secret.as_bytes(), username);
            let password = std::str::from_utf8(&password).ok()?;
            let key = Key::long_term(algorithm, username, &self.realm, password);
            request.verify(integrity, key.as_bytes()).then_some(key)
        })
    }

    /// The algorithm that the client chose, if it chose one and nobody tampered with our offer (RFC 8489 section 9.2.4).
    fn algorithm(&self, request: &Message<'_>, nonce: &str) -> Result<Option<PasswordAlgorithm>, Refusal> {
        let offered = request.read::<PasswordAlgorithms<'_>>().map_err(|_| Refusal::Malformed)?;
        let chosen = request.read::<PasswordAlgorithmValue<'_>>().map_err(|_| Refusal::Malformed)?;
        if !self.offers_sha256 || !Nonces::offers_algorithms(nonce) {
            return Ok(None);
        }
        match (offered, chosen) {
            (None, None) => Ok(None),
            (Some(offered), Some(chosen)) if offered.0 == OFFER && chosen.parameters.is_empty() => {
                PasswordAlgorithm::from_number(chosen.number).ok_or(Refusal::BidDown).map(Some)
            }
            _ => Err(Refusal::BidDown),
        }
    }
}
