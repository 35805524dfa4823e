//! Names and passwords of TURN users, good for a time.

use shoal_link::tenant::DEFAULT;
use shoal_stun::credentials::{MAX_USERNAME, time_limited_password};

/// Name and password of a tenant's user until `expires` (Unix seconds), by one of its secrets.
///
/// # Errors
/// What is wrong with the user.
pub(crate) fn turn(expires: u64, tenant: &str, user: &str, secret: &str) -> Result<(String, String), String> {
    let username = username(expires, tenant, user)?;
    let password = time_limited_password(secret.as_bytes(), &username);
    Ok((username, String::from_utf8_lossy(&password).into_owned()))
}

/// The time-limited name of a tenant's user, as nodes read it.
fn username(expires: u64, tenant: &str, user: &str) -> Result<String, String> {
    if user.is_empty() || user.chars().any(char::is_control) {
        return Err("must have at least one character, and no control characters".to_owned());
    }
    let name = if tenant == DEFAULT {
        // What stands before a colon would be read as the tenant.
        if user.contains(':') {
            return Err(format!("must have no colon in the tenant `{DEFAULT}`, whose names are expiry:user"));
        }
        format!("{expires}:{user}")
    } else {
        format!("{expires}:{tenant}:{user}")
    };
    if name.len() > MAX_USERNAME {
        let most = MAX_USERNAME - (name.len() - user.len());
        return Err(format!("must have at most {most} bytes: a name of this tenant has no room for more"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use shoal_stun::credentials::TimedName;

    use super::*;

    #[test]
    fn nodes_read_names_as_they_were_meant() {
        let longest = "t".repeat(64);
        for (tenant, user) in [("acme", "u"), ("acme", "a:b c"), ("acme", "zoë"), (DEFAULT, "u"), (&longest, ":")] {
            let name = username(1_900_000_000, tenant, user).unwrap();
            let expected = if tenant == DEFAULT { "" } else { tenant };
            assert_eq!(TimedName::parse(&name), Some(TimedName { expires: 1_900_000_000, tenant: expected, user }));
        }
    }

    #[test]
    fn names_that_nodes_would_misread_are_refused() {
        assert!(username(1, "acme", "").is_err());
        assert!(username(1, "acme", "a\nb").is_err() && username(1, "acme", "a\u{85}b").is_err());
        assert!(username(1, DEFAULT, "acme:u").unwrap_err().contains("colon"));
        let longest = "u".repeat(MAX_USERNAME - "1900000000:acme:".len());
        assert_eq!(username(1_900_000_000, "acme", &longest).unwrap().len(), MAX_USERNAME);
        let error = username(1_900_000_000, "acme", &format!("{longest}u")).unwrap_err();
        assert!(error.contains(&longest.len().to_string()), "{error}");
    }
}
