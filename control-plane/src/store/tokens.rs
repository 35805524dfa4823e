//! Tokens of the admin API.

use super::engine::{Row, values};
use super::users::{count, end_sessions};
use super::{AccessError, Store, StoreError};
use crate::access::{Kind, Role};

/// Most tokens.
pub const MAX_TOKENS: u32 = 1_000;

const COLUMNS: &str = "name, role, created_by, created_ms, expires_ms, last_used_ms";

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
        let sql = format!("SELECT {COLUMNS} FROM tokens WHERE name > $1 ORDER BY name LIMIT $2");
        let rows = self.read(|tx| tx.query(&sql, &values![after, limit]))?;
        rows.iter().map(|row| self.token_row(row)).collect()
    }

    /// The token with this hash, expired or not.
    pub fn token_of(&self, hash: &str) -> Result<Option<TokenRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM tokens WHERE hash = $1");
        let row = self.read(|tx| tx.query_one(&sql, &values![hash]))?;
        row.map(|row| self.token_row(&row)).transpose()
    }

    /// Adds a token.
    pub fn create_token(&self, token: &TokenRow, hash: &str) -> Result<(), AccessError> {
        self.write(|tx| {
            if tx.query_one("SELECT 1 FROM tokens WHERE name = $1", &values![&token.name])?.is_some() {
                return Err(AccessError::Exists);
            }
            if count(tx, "SELECT count(*) FROM tokens")? >= MAX_TOKENS {
                return Err(AccessError::Full);
            }
            tx.execute(
                "INSERT INTO tokens (name, role, hash, created_by, created_ms, expires_ms)
                 VALUES ($1, $2, $3, $4, $5, $6)",
                &values![&token.name, token.role.name(), hash, &token.created_by, token.created_ms, token.expires_ms],
            )?;
            Ok(())
        })
    }

    /// Deletes a token: it is refused from now on, and so are sessions of the console that began with it.
    pub fn delete_token(&self, name: &str) -> Result<(), AccessError> {
        self.write(|tx| {
            if tx.execute("DELETE FROM tokens WHERE name = $1", &values![name])? == 0 {
                return Err(AccessError::Missing);
            }
            Ok(end_sessions(tx, Kind::Token, name)?)
        })
    }

    /// Notes that a token was used.
    pub fn token_used(&self, name: &str, now_ms: u64) -> Result<(), StoreError> {
        self.merge(|tx| {
            tx.execute("UPDATE tokens SET last_used_ms = $2 WHERE name = $1", &values![name, now_ms]).map(|_| ())
        })
    }

    fn token_row(&self, row: &Row) -> Result<TokenRow, StoreError> {
        Ok(TokenRow {
            name: row.get(0)?,
            role: self.role(&row.get::<String>(1)?)?,
            created_by: row.get(2)?,
            created_ms: row.get(3)?,
            expires_ms: row.get(4)?,
            last_used_ms: row.get(5)?,
        })
    }
}
