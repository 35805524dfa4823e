//! Who asks: tokens of the API, passwords and tokens at the console's log-in.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::attempts::Wait;
use super::password::{self, HashError};
use super::{Actor, Kind, audit, secret};
use crate::app::App;
use crate::store::{StoreError, now_ms};

/// A token's last use is written down at most so often.
const USED_EVERY_MS: u64 = 60_000;

/// Why somebody does not get in.
#[derive(Debug)]
pub(crate) enum Denied {
    /// Nobody has such a name and password, or such a token.
    Wrong,
    /// Too many failed attempts.
    Wait(Duration),
    /// The database failed.
    Store(StoreError),
    /// The password could not be hashed.
    Hash(HashError),
}

impl From<StoreError> for Denied {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whose token it is. One that is right is taken however many were wrong: nobody can guess it, and others behind the same
/// address must not keep its owner out.
pub(crate) async fn token(app: &App, address: Option<IpAddr>, token: &[u8], request: &str) -> Result<Actor, Denied> {
    if app.token.is(token) {
        return Ok(Actor::token_file());
    }
    let given = std::str::from_utf8(token).ok().filter(|text| secret::is_token(text));
    if let Some(given) = given {
        let (hash, now) = (secret::hash(given), now_ms());
        let found = app.db(move |store| store.token_of(&hash)).await?;
        if let Some(row) = found.filter(|row| row.expires_ms.is_none_or(|expires| now < expires)) {
            if row.last_used_ms.is_none_or(|used| used.saturating_add(USED_EVERY_MS) <= now) {
                let name = row.name.clone();
                // A database that cannot write must not keep anybody from reading; it is counted and logged.
                let _ = app.db(move |store| store.token_used(&name, now)).await;
            }
            return Ok(Actor { kind: Kind::Token, name: row.name.into(), role: row.role });
        }
    }
    if let Err(Wait(wait)) = app.access.attempts().begin(address, None, Instant::now()) {
        app.metrics.attempt_failed("limited");
        return Err(Denied::Wait(wait));
    }
    audit::failed_attempt(app, Kind::Token, "", address, request).await;
    Err(Denied::Wrong)
}

/// Whose name and password they are. Names that nobody has are treated as others are.
pub(crate) async fn user(
    app: &App,
    address: Option<IpAddr>,
    name: &str,
    password: &str,
    request: &str,
) -> Result<Actor, Denied> {
    if let Err(Wait(wait)) = app.access.attempts().begin(address, Some(name), Instant::now()) {
        app.metrics.attempt_failed("limited");
        return Err(Denied::Wait(wait));
    }
    let asked = name.to_owned();
    let found = app.db(move |store| store.user_with_password(&asked)).await?;
    let (row, stored) = found.unzip();
    let right = password::verify(password.to_owned(), stored).await.map_err(Denied::Hash)?;
    match row {
        Some(row) if right => {
            app.access.attempts().got_in(address, Some(name));
            Ok(Actor { kind: Kind::User, name: row.name.into(), role: row.role })
        }
        _ => {
            audit::failed_attempt(app, Kind::User, name, address, request).await;
            Err(Denied::Wrong)
        }
    }
}
