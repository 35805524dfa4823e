//! Who may do what: roles, tokens, users, sessions of the console, and the log of what they did.
//!
//! | Who | Proves it with | Role |
//! |---|---|---|
//! | the operator of this host | the token in `token_file` | admin |
//! | a program | an API token, made by an admin | the token's |
//! | a person | name and password, at the console | the user's |
//!
//! The API takes tokens and no cookies; the console takes a session's cookie and no tokens (but at its log-in). So a page of
//! somebody else can never have a browser change something through the API.

pub(crate) mod attempts;
pub mod audit;
mod diff;
pub(crate) mod login;
pub(crate) mod password;
mod role;
pub(crate) mod secret;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use role::{NoRole, Role};

use attempts::Attempts;

/// Failed attempts that are noted at once, and how many more each second: the log must not be filled by strangers. The rest
/// is counted in the metrics alone.
const NOTED_AT_ONCE: u32 = 100;
const NOTED_PER_SECOND: u32 = 1;

/// Most characters of the name of a user or a token.
pub(crate) const MAX_NAME: usize = 64;

/// Who may use the console, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// Seconds after which a session of the console ends that nobody uses.
    pub session_idle_s: u32,
    /// Seconds after which every session of the console ends.
    pub session_max_s: u32,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self { session_idle_s: 1_800, session_max_s: 43_200 }
    }
}

/// What somebody proved to be one with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The token in `token_file`.
    TokenFile,
    /// An API token.
    Token,
    /// A user's password.
    User,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::TokenFile, Self::Token, Self::User];

    /// Its name in the API and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenFile => "token_file",
            Self::Token => "token",
            Self::User => "user",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text)
    }
}

/// Somebody who got in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// With what.
    pub kind: Kind,
    /// Name of the user or token; of the file's token, `token_file`.
    pub name: Arc<str>,
    /// What he may do.
    pub role: Role,
}

impl Actor {
    /// Who has the token in `token_file`.
    pub(crate) fn token_file() -> Self {
        Self { kind: Kind::TokenFile, name: Kind::TokenFile.name().into(), role: Role::Admin }
    }
}

/// What all attempts to get in share.
#[derive(Debug)]
pub struct Access {
    attempts: Mutex<Attempts>,
    noted: Mutex<Budget>,
}

impl Access {
    pub(crate) fn new() -> Self {
        Self {
            attempts: Mutex::new(Attempts::new()),
            noted: Mutex::new(Budget { left: NOTED_AT_ONCE, since: Instant::now() }),
        }
    }

    pub(crate) fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more failed attempt is to be noted.
    pub(crate) fn may_note(&self, now: Instant) -> bool {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }
}

/// A bucket of [`NOTED_AT_ONCE`] tokens.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds > 0 {
            let fresh = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(NOTED_PER_SECOND);
            self.left = self.left.saturating_add(fresh).min(NOTED_AT_ONCE);
            self.since += Duration::from_secs(seconds);
        }
        self.left.checked_sub(1).inspect(|left| self.left = *left).is_some()
    }
}

/// Says what is wrong with the name of a user or token, if anything.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.@".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) || name.bytes().all(|byte| byte == b'.') {
        return Err("must be 1 to 64 of a-z, 0-9, '-', '_', '.', '@', and not dots alone");
    }
    if name == Kind::TokenFile.name() {
        return Err("is what the operator's own token is called; choose another");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_fill_the_log() {
        let start = Instant::now();
        let mut budget = Budget { left: NOTED_AT_ONCE, since: start };
        let taken = |budget: &mut Budget, now| (0..10_000).filter(|_| budget.take(now)).count() as u32;
        assert_eq!(taken(&mut budget, start), NOTED_AT_ONCE);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(3_500)), 3 * NOTED_PER_SECOND);
        assert_eq!(taken(&mut budget, start + Duration::from_millis(4_000)), NOTED_PER_SECOND);
        assert_eq!(taken(&mut budget, start + Duration::from_secs(1 << 40)), NOTED_AT_ONCE);
    }

    #[test]
    fn names_are_plain() {
        for name in ["a", "ops-1", "alice@example.com", "x_y.z"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "A", "a b", "..", "ü", "<script>", "token_file", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
