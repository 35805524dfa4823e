//! Tokens of the admin API.

use rusqlite::{OptionalExtension, Row, params};

use super::users::end_sessions;
use super::{AccessError, Store, StoreError};
use crate::access::{Kind, Role};

/// Most tokens.
pub const MAX_TOKENS: u32 = 1_000;

/// A token, without itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Who made it.
    pub created_by: String,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds from which on it is refused.
    pub expires_ms: Option<u64>,
    /// Unix milliseconds of its last use, to the minute.
    pub last_used_ms: Option<u64>,
}

impl Store {
    /// Up to `limit` tokens by name, from the one behind `after`.
    pub fn tokens(&self, after: &str, limit: u32) -> Result<Vec<TokenRow>, StoreError> {
        let rows = self.read(|db| {
            db.prepare_cached(
                "SELECT name, role, created_by, created_ms, expires_ms, last_used_ms FROM tokens
                 WHERE name > ?1 ORDER BY name LIMIT ?2",
            )?
            .query_map(params![after, limit], columns)?
            .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter().map(|row| self.token_row(row)).collect()
    }

    /// The token with this hash, expired or not.
    pub fn token_of(&self, hash: &str) -> Result<Option<TokenRow>, StoreError> {
        let row = self.read(|db| {
            db.prepare_cached(
                "SELECT name, role, created_by, created_ms, expires_ms, last_used_ms FROM tokens WHERE hash = ?1",
            )?
            .query_row([hash], columns)
            .optional()
        })?;
        row.map(|row| self.token_row(row)).transpose()
    }

    /// Adds a token.
    pub fn create_token(&self, token: &TokenRow, hash: &str) -> Result<(), AccessError> {
        self.write(|db| {
            let create = || -> rusqlite::Result<Result<(), AccessError>> {
                let known: i64 =
                    db.query_row("SELECT count(*) FROM tokens WHERE name = ?1", [&token.name], |row| row.get(0))?;
                let count: i64 = db.query_row("SELECT count(*) FROM tokens", [], |row| row.get(0))?;
                if known > 0 || count >= i64::from(MAX_TOKENS) {
                    return Ok(Err(if known > 0 { AccessError::Exists } else { AccessError::Full }));
                }
                db.execute(
                    "INSERT INTO tokens (name, role, hash, created_by, created_ms, expires_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        token.name,
                        token.role.name(),
                        hash,
                        token.created_by,
                        token.created_ms.cast_signed(),
                        token.expires_ms.map(u64::cast_signed),
                    ],
                )?;
                Ok(Ok(()))
            };
            create().map_err(|source| AccessError::Store(self.error(source)))?
        })
    }

    /// Deletes a token: it is refused from now on, and so are sessions of the console that began with it.
    pub fn delete_token(&self, name: &str) -> Result<(), AccessError> {
        self.write(|db| {
            let delete = || -> rusqlite::Result<usize> {
                end_sessions(db, Kind::Token, name)?;
                db.execute("DELETE FROM tokens WHERE name = ?1", [name])
            };
            match delete().map_err(|source| self.error(source))? {
                0 => Err(AccessError::Missing),
                _ => Ok(()),
            }
        })
    }

    /// Notes that a token was used.
    pub fn token_used(&self, name: &str, now_ms: u64) -> Result<(), StoreError> {
        self.write(|db| {
            db.execute("UPDATE tokens SET last_used_ms = ?2 WHERE name = ?1", params![name, now_ms.cast_signed()])
                .map_err(|source| self.error(source))?;
            Ok(())
        })
    }

    fn token_row(&self, (name, role, created_by, created, expires, used): Columns) -> Result<TokenRow, StoreError> {
        Ok(TokenRow {
            name,
            role: self.role(&role)?,
            created_by,
            created_ms: created.cast_unsigned(),
            expires_ms: expires.map(i64::cast_unsigned),
            last_used_ms: used.map(i64::cast_unsigned),
        })
    }
}

type Columns = (String, String, String, i64, Option<i64>, Option<i64>);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
}
