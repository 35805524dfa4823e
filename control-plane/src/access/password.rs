//! Passwords: argon2id (RFC 9106), stored as PHC strings with their parameters.

use std::sync::LazyLock;

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

/// KiB of memory, passes and lanes: what OWASP's password storage cheat sheet names first for argon2id; some 20 ms.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const _: () = assert!(MEMORY_KIB >= Params::MIN_M_COST);

/// Fewest characters of a password: long ones need no other rule (NIST SP 800-63B section 3.1.1.2).
pub(crate) const MIN_CHARS: usize = 12;
/// Most bytes of a password: longer ones would only cost time.
pub(crate) const MAX_BYTES: usize = 256;
/// Most passwords hashed at a time, each on a thread of its own: more wait.
const AT_ONCE: usize = 2;

/// Why a password cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("must have at least {MIN_CHARS} characters")]
    Short,
    #[error("must have at most {MAX_BYTES} bytes")]
    Long,
    #[error("must not be the user's name")]
    Name,
}

/// The hash could not be computed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the password cannot be hashed: {0}; check the memory of this host, and try again")]
pub(crate) struct HashError(String);

/// Whether a password may be one.
pub(crate) fn check(user: &str, password: &str) -> Result<(), Unfit> {
    if password.chars().count() < MIN_CHARS {
        return Err(Unfit::Short);
    }
    if password.len() > MAX_BYTES {
        return Err(Unfit::Long);
    }
    if password.eq_ignore_ascii_case(user) {
        return Err(Unfit::Name);
    }
    Ok(())
}

/// The string to store.
pub(crate) async fn hash(password: String) -> Result<String, HashError> {
    blocking(move || match argon2()?.hash_password(password.as_bytes()) {
        Ok(hash) => Ok(hash.to_string()),
        Err(error) => Err(HashError(error.to_string())),
    })
    .await
}

/// Whether it is the password of this stored string. Without one (there is no such user) it takes as long and is wrong.
pub(crate) async fn verify(password: String, stored: Option<String>) -> Result<bool, HashError> {
    /// Of random bytes that nobody knows; made at the first need.
    static NOBODY: LazyLock<Option<String>> = LazyLock::new(|| {
        let random = crate::token::random_hex().ok()?;
        Some(argon2().ok()?.hash_password(random.as_bytes()).ok()?.to_string())
    });
    // A longer one is nobody's.
    let fits = password.len() <= MAX_BYTES;
    blocking(move || {
        let known = stored.is_some();
        let Some(hash) = stored.or_else(|| NOBODY.clone()) else {
            return Err(HashError("no random bytes from /dev/urandom".to_owned()));
        };
        let password = if fits { password.as_bytes() } else { b"" };
        Ok(argon2()?.verify_password(password, hash.as_str()).is_ok() && known && fits)
    })
    .await
}

fn argon2() -> Result<Argon2<'static>, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| HashError(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HashError> + Send + 'static,
) -> Result<T, HashError> {
    static ROOM: Semaphore = Semaphore::const_new(AT_ONCE);
    let failed = |error: String| HashError(error);
    let _place = ROOM.acquire().await.map_err(|error| failed(error.to_string()))?;
    tokio::task::spawn_blocking(work).await.map_err(|error| failed(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_password_verifies_and_its_parameters_are_stored_with_it() {
        let stored = hash("correct horse battery".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert!(verify("correct horse battery".to_owned(), Some(stored.clone())).await.unwrap());
        for wrong in ["", "correct horse batterY", &"x".repeat(MAX_BYTES + 1)] {
            assert!(!verify(wrong.to_owned(), Some(stored.clone())).await.unwrap());
        }
        assert!(!verify("correct horse battery".to_owned(), None).await.unwrap(), "there is no such user");
        assert!(!verify("x".to_owned(), Some("nonsense".to_owned())).await.unwrap());
        assert_ne!(stored, hash("correct horse battery".to_owned()).await.unwrap(), "salted");
    }

    #[test]
    fn passwords_have_a_least_and_a_greatest_length() {
        assert_eq!(check("a", "elevenchars"), Err(Unfit::Short));
        assert_eq!(check("a", "twelve chars"), Ok(()));
        assert_eq!(check("a", &"x".repeat(MAX_BYTES + 1)), Err(Unfit::Long));
        assert_eq!(check("some.body.here", "Some.Body.Here"), Err(Unfit::Name));
    }
}
