//! Tenants.

use std::collections::HashSet;

use ipnet::IpNet;
use serde_json::Value;
use shoal_link::Tenant;
use shoal_link::tenant::{RelayPolicy, RelaySecret};
use shoal_stun::credentials::MAX_SECRETS;

use super::{Check, Errors, bounded, check_id, check_net};
use crate::field::FieldError;

/// Most networks in a list of the relay's: each new permission of a client is held against all of them.
const MAX_NETWORKS: usize = 256;
/// Longest id of a secret.
const MAX_SECRET_ID: usize = 16;
/// Shortest secret: one credential is enough to guess a shorter one without asking anybody.
const MIN_SECRET: usize = 16;
/// Longest secret.
const MAX_SECRET: usize = 256;

impl Check for Tenant {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let Self { id, relay } = self;
        if let Err(message) = check_id(id) {
            errors.push(FieldError::new("id", id.as_str(), message));
        }
        check_relay(relay, &mut errors);
        errors
    }
}

fn check_relay(relay: &RelayPolicy, errors: &mut Errors) {
    let RelayPolicy { secrets, allow, deny, allocations: _, allocations_per_user: _, only: _ } = relay;
    check_secrets(secrets, errors);
    check_networks("relay.allow", allow, errors);
    check_networks("relay.deny", deny, errors);
}

fn check_secrets(secrets: &[RelaySecret], errors: &mut Errors) {
    if !bounded("relay.secrets", secrets.len(), MAX_SECRETS, errors) {
        return;
    }
    let mut seen = HashSet::new();
    for (at, RelaySecret { id, secret }) in secrets.iter().enumerate() {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let field = format!("relay.secrets[{at}].id");
        if id.is_empty() || id.len() > MAX_SECRET_ID || !id.bytes().all(allowed) {
            errors.push(FieldError::new(field, id.as_str(), "must be 1 to 16 of a-z, A-Z, 0-9, '-', '_'"));
        } else if !seen.insert(id) {
            let message = "is the id of an earlier secret too; ids are unique in a tenant";
            errors.push(FieldError::new(field, id.as_str(), message));
        }
        let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if !(MIN_SECRET..=MAX_SECRET).contains(&secret.len()) || !secret.bytes().all(printable) {
            let message =
                format!("must be {MIN_SECRET} to {MAX_SECRET} characters of printable ASCII, better 32 random ones");
            errors.push(FieldError::new(format!("relay.secrets[{at}].secret"), Value::Null, message));
        }
    }
}

fn check_networks(field: &str, networks: &[IpNet], errors: &mut Errors) {
    if !bounded(field, networks.len(), MAX_NETWORKS, errors) {
        return;
    }
    for (at, net) in networks.iter().enumerate() {
        if let Err(message) = check_net(net) {
            errors.push(FieldError::new(format!("{field}[{at}]"), net.to_string(), message));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::Valid;

    fn tenant(relay: Value) -> Tenant {
        serde_json::from_value(json!({"id": "acme", "relay": relay})).unwrap()
    }

    /// The fields that are wrong with a tenant of these rules.
    fn wrong(relay: Value) -> Vec<String> {
        Valid::new(tenant(relay)).err().into_iter().flatten().map(|error| error.field).collect()
    }

    fn secret(id: &str, secret: &str) -> Value {
        json!({"id": id, "secret": secret})
    }

    #[test]
    fn good_rules_pass() {
        let full: Vec<Value> = (0..MAX_SECRETS).map(|n| secret(&format!("k-{n}_X"), &"~ ".repeat(8))).collect();
        for relay in [
            json!({}),
            json!({"secrets": full, "allocations": 0, "allocations_per_user": u32::MAX}),
            json!({"secrets": [secret("0123456789abcdef", &"s".repeat(MAX_SECRET))]}),
            json!({"allow": ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"], "deny": vec!["0.0.0.0/0"; MAX_NETWORKS]}),
        ] {
            assert_eq!(wrong(relay.clone()), Vec::<String>::new(), "{relay}");
        }
    }

    #[test]
    fn bad_rules_are_named() {
        let good = "sixteen-letters!";
        for (relay, fields) in [
            (json!({"secrets": vec![secret("a", good); MAX_SECRETS + 1]}), vec!["relay.secrets"]),
            (json!({"secrets": [secret("a", good), secret("a", good)]}), vec!["relay.secrets[1].id"]),
            (json!({"secrets": [secret("", good)]}), vec!["relay.secrets[0].id"]),
            (json!({"secrets": [secret("a.b", good)]}), vec!["relay.secrets[0].id"]),
            (json!({"secrets": [secret("a:b", good)]}), vec!["relay.secrets[0].id"]),
            (json!({"secrets": [secret(&"a".repeat(17), good)]}), vec!["relay.secrets[0].id"]),
            (json!({"secrets": [secret("a", &good[1..])]}), vec!["relay.secrets[0].secret"]),
            (json!({"secrets": [secret("a", "sixteen-letters\n")]}), vec!["relay.secrets[0].secret"]),
            (json!({"secrets": [secret("a", "sixteen-létters!")]}), vec!["relay.secrets[0].secret"]),
            (json!({"secrets": [secret("a", &"s".repeat(MAX_SECRET + 1))]}), vec!["relay.secrets[0].secret"]),
            (json!({"allow": ["10.0.0.1/8"], "deny": ["::/0", "fe80::1/10"]}), vec!["relay.allow[0]", "relay.deny[1]"]),
            (json!({"allow": vec!["::/0"; MAX_NETWORKS + 1]}), vec!["relay.allow"]),
        ] {
            assert_eq!(wrong(relay.clone()), fields, "{relay}");
        }
        for id in ["", "Acme", "a:b", "a b", "..", &"a".repeat(65)] {
            let errors = Valid::new(Tenant { id: id.to_owned(), ..tenant(json!({})) }).unwrap_err();
            assert_eq!(errors[0].field, "id", "{id}");
        }
    }

    #[test]
    fn a_secret_is_never_repeated() {
        let errors = Valid::new(tenant(json!({"secrets": [secret("a", "tiny-secret")]}))).unwrap_err();
        assert!(!serde_json::to_string(&errors).unwrap().contains("tiny-secret"));
    }
}
