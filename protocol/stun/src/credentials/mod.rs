//! Who may use the relay: long-term credentials (RFC 8489 section 9.2) with time-limited names.
//!
//! A name is `timestamp:user` or `timestamp:tenant:user`, good until that Unix second; its password is the base64 of
//! HMAC-SHA1(secret, name), as in coturn's REST API. So whoever shares a tenant's secret hands out credentials, and the
//! server keeps no list of users. Requests without them are refused by [`Authenticator`] with a nonce that any shard or
//! process with the same key knows again.
//!
//! A key made from a password costs five hash blocks. It is kept where a request that needs it again is found: in the
//! allocation ([`crate::turn`]), so there is no cache of keys to bound.

mod authenticator;
mod key;
mod nonce;
mod tenants;
#[cfg(test)]
mod tests;

pub use authenticator::{Authenticated, Authenticator, Credential, REFUSAL_ATTRIBUTES, Refusal};
pub use key::{Key, MAX_REALM, PASSWORD, PasswordAlgorithm, time_limited_password, user_hash};
pub use nonce::{NONCE, NonceKey, Nonces};
pub use tenants::{MAX_SECRETS, MAX_USERNAME, PeerRules, Secret, Tenant, TenantId, Tenants, TenantsError, TimedName};
