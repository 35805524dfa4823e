//! Tenants: whose secret a name's password is made with, and what their users may do.

use std::fmt;

use ipnet::IpNet;
use thiserror::Error;

/// Secrets of a tenant at most: each wrong password costs as many keys.
pub const MAX_SECRETS: usize = 4;
/// Bytes of a time-limited name at most.
pub const MAX_USERNAME: usize = 128;

/// A tenant's number, chosen by the caller and the same in all shards; it comes back in quotas and usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// What passwords are made with.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Of at least one byte; coturn takes its bytes as they are in its configuration.
    #[must_use]
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Which peers a tenant's users may reach beyond the public Internet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerRules {
    /// Networks that are allowed although they are private, loopback or the like. The server's own addresses are
    /// not opened by them.
    pub allow: Vec<IpNet>,
    /// Networks that are refused although they are public.
    pub deny: Vec<IpNet>,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// What names carry; empty for the one that names without a tenant belong to.
    pub name: String,
    /// Comes back in quotas and usage.
    pub id: TenantId,
    /// All are good: the new one and, while it is rotated, the old. 1 to [`MAX_SECRETS`].
    pub secrets: Vec<Secret>,
    /// Whom its users may reach.
    pub peers: PeerRules,
}

/// Why tenants are refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TenantsError {
    /// No secret, too many, or an empty one.
    #[error("tenant `{0}`: give 1 to {MAX_SECRETS} secrets, none of them empty")]
    Secrets(String),
    /// Two of one name.
    #[error("tenant `{0}` is there twice: give each a name of its own")]
    Twice(String),
    /// A name that cannot be in a username.
    #[error("tenant `{0}`: its name is longer than 64 bytes or has a colon in it")]
    Name(String),
}

/// All tenants of a node. Replaced whole when they change.
#[derive(Debug, Clone, Default)]
pub struct Tenants {
    /// Sorted by name.
    tenants: Vec<Tenant>,
}

impl Tenants {
    /// Checks them.
    ///
    /// # Errors
    /// The tenant that is wrong, and the remedy.
    pub fn new(mut tenants: Vec<Tenant>) -> Result<Self, TenantsError> {
        tenants.sort_by(|a, b| a.name.cmp(&b.name));
        for tenant in &tenants {
            if tenant.name.len() > 64 || tenant.name.contains(':') {
                return Err(TenantsError::Name(tenant.name.clone()));
            }
            let empty = tenant.secrets.iter().any(|secret| secret.as_bytes().is_empty());
            if empty || tenant.secrets.is_empty() || tenant.secrets.len() > MAX_SECRETS {
                return Err(TenantsError::Secrets(tenant.name.clone()));
            }
        }
        if let Some([a, _]) = tenants.array_windows().find(|[a, b]| a.name == b.name) {
            return Err(TenantsError::Twice(a.name.clone()));
        }
        Ok(Self { tenants })
    }

    /// The tenant of this name; the empty one is the default tenant's.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tenant> {
        let at = self.tenants.binary_search_by(|tenant| tenant.name.as_str().cmp(name)).ok()?;
        self.tenants.get(at)
    }
}

/// A time-limited name, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedName<'a> {
    /// Unix seconds; good up to and including this one.
    pub expires: u64,
    /// Empty: the default tenant.
    pub tenant: &'a str,
    /// Whatever the service that hands names out calls its user; may be empty.
    pub user: &'a str,
}

impl<'a> TimedName<'a> {
    /// Reads `timestamp`, `timestamp:user` or `timestamp:tenant:user`.
    #[must_use]
    pub fn parse(name: &'a str) -> Option<Self> {
        if name.len() > MAX_USERNAME {
            return None;
        }
        let (expires, rest) = name.split_once(':').unwrap_or((name, ""));
        let (tenant, user) = rest.split_once(':').unwrap_or(("", rest));
        let digits = !expires.is_empty() && expires.bytes().all(|byte| byte.is_ascii_digit());
        Some(Self { expires: expires.parse().ok().filter(|_| digits)?, tenant, user })
    }
}
