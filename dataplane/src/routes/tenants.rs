//! Tenants whose users may have traffic relayed, as the relay wants them.

use std::collections::HashMap;
use std::sync::Arc;

use shoal_link::tenant::{DEFAULT, Tenant as Raw};
use shoal_stun::credentials::{MAX_SECRETS, PeerRules, Secret, Tenant, TenantId, Tenants};

use super::RoutesError;

/// All of them. Replaced whole, with the snapshot.
#[derive(Debug, Default)]
pub struct RelayTenants {
    /// By the names that clients give.
    pub names: Arc<Tenants>,
    /// Those that are, or were in a snapshot before: what they began is counted until it ends.
    rules: HashMap<TenantId, TenantRules>,
    ids: HashMap<Arc<str>, TenantId>,
}

/// What else is to be known of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRules {
    /// Its id at the control plane.
    pub id: Arc<str>,
    /// Allocations on this node; 0: any number.
    pub allocations: u32,
    /// Of each of its users; 0: any number.
    pub allocations_per_user: u32,
    /// Peers in its channels are told no address of one another but relayed ones.
    pub relay_only: bool,
}

impl RelayTenants {
    /// Prepares the tenants of a snapshot. Those that were there before keep their numbers.
    pub(super) fn compile(raw: &[Raw], previous: Option<&Arc<RelayTenants>>) -> Result<RelayTenants, RoutesError> {
        let mut all = match previous {
            Some(before) => RelayTenants { ids: before.ids.clone(), rules: before.rules.clone(), ..Self::default() },
            None => RelayTenants::default(),
        };
        let mut names = Vec::new();
        for Raw { id, relay } in raw {
            let next = TenantId(all.ids.len() as u32);
            let known: Arc<str> = id.as_str().into();
            let number = *all.ids.entry(known.clone()).or_insert(next);
            let rules = TenantRules {
                id: known,
                allocations: relay.allocations,
                allocations_per_user: relay.allocations_per_user,
                relay_only: relay.only,
            };
            all.rules.insert(number, rules);
            if relay.secrets.is_empty() {
                continue;
            }
            if relay.secrets.len() > MAX_SECRETS {
                let remedy = format!("there are more than {MAX_SECRETS}; remove the oldest");
                return Err(RoutesError::tenant(id, "relay.secrets", "", remedy));
            }
            let secrets = relay.secrets.iter().map(|one| Secret::new(one.secret.as_bytes())).collect();
            let peers = PeerRules { allow: relay.allow.clone(), deny: relay.deny.clone() };
            let tenant = Tenant { name: id.clone(), id: number, secrets, peers };
            if id == DEFAULT {
                // Names that give no tenant are its users', too.
                names.push(Tenant { name: String::new(), ..tenant.clone() });
            }
            names.push(tenant);
        }
        let names = Tenants::new(names).map_err(|error| RoutesError::tenant("", "tenants", "", error.to_string()))?;
        Ok(RelayTenants { names: Arc::new(names), ..all })
    }

    /// The rules of a tenant of this id, if it has any.
    pub fn of(&self, id: &str) -> Option<&TenantRules> {
        self.rules(*self.ids.get(id)?)
    }

    /// The rules of a tenant that an allocation has named.
    pub fn rules(&self, id: TenantId) -> Option<&TenantRules> {
        self.rules.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(id: &str, secrets: &[&str]) -> Raw {
        let secrets: Vec<_> = secrets.iter().map(|s| serde_json::json!({"id": *s, "secret": *s})).collect();
        serde_json::from_value(serde_json::json!({"id": id, "relay": {"secrets": secrets, "allocations": 7}})).unwrap()
    }

    #[test]
    fn names_and_numbers() {
        let first = Arc::new(RelayTenants::compile(&[raw("a", &["x"]), raw(DEFAULT, &["y", "z"])], None).unwrap());
        let id = |tenants: &RelayTenants, name: &str| tenants.names.get(name).map(|tenant| tenant.id);
        assert_eq!(id(&first, ""), id(&first, DEFAULT));
        assert_ne!(id(&first, "a"), id(&first, DEFAULT));
        let second =
            RelayTenants::compile(&[raw("b", &["x"]), raw(DEFAULT, &["y"]), raw("c", &[])], Some(&first)).unwrap();
        assert_eq!(id(&first, ""), id(&second, ""), "numbers stay");
        assert_eq!(id(&second, "a"), None, "who is gone gets nothing");
        assert_eq!(id(&second, "c"), None, "without a secret there is nothing to prove");
        let gone = id(&first, "a").unwrap();
        assert_ne!(id(&second, "b"), Some(gone), "and no number is given twice");
        assert_eq!(second.rules(gone).map(|rules| &*rules.id), Some("a"), "but what it began is still counted");
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        let error = RelayTenants::compile(&[raw("a", &["1", "2", "3", "4", "5"])], None).unwrap_err();
        assert!(error.to_string().contains("tenant `a`: relay.secrets"), "{error}");
        let error = RelayTenants::compile(&[raw("a", &["x"]), raw("a", &["y"])], None).unwrap_err();
        assert!(error.to_string().contains("tenant `a` is there twice"), "{error}");
    }
}
