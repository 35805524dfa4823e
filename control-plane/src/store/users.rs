//! Users of the console.

use super::engine::{Row, Tx, values};
use super::{Store, StoreError, now_ms};
use crate::access::{Kind, Role};

/// Most users.
pub const MAX_USERS: u32 = 1_000;

/// A user, without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// The name.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds of the last log-in.
    pub last_used_ms: Option<u64>,
}

/// Why a user or token was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is none of that name.
    #[error("there is none of that name")]
    Missing,
    /// There is one of that name.
    #[error("there is one of that name")]
    Exists,
    /// There would be no admin left.
    #[error("there would be no admin left")]
    LastAdmin,
    /// There are as many as there may be.
    #[error("there are as many as there may be")]
    Full,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Up to `limit` users by name, from the one behind `after`.
    pub fn users(&self, after: &str, limit: u32) -> Result<Vec<UserRow>, StoreError> {
        self.read(|tx| {
            let sql = "SELECT name, role, created_ms, last_used_ms FROM users WHERE name > $1 ORDER BY name LIMIT $2";
            tx.query(sql, &values![after, limit])?.iter().map(|row| self.user_row(row)).collect()
        })
    }

    /// A user and the string to check the password with.
    pub fn user_with_password(&self, name: &str) -> Result<Option<(UserRow, String)>, StoreError> {
        let sql = "SELECT name, role, created_ms, last_used_ms, password FROM users WHERE name = $1";
        let row = self.read(|tx| tx.query_one(sql, &values![name]))?;
        row.map(|row| Ok((self.user_row(&row)?, row.get(4)?))).transpose()
    }

    /// Adds a user.
    pub fn create_user(&self, name: &str, role: Role, password: &str) -> Result<UserRow, AccessError> {
        let created_ms = now_ms();
        self.write(|tx| {
            if self.role_of(tx, name)?.is_some() {
                return Err(AccessError::Exists);
            }
            if count(tx, "SELECT count(*) FROM users")? >= MAX_USERS {
                return Err(AccessError::Full);
            }
            tx.execute(
                "INSERT INTO users (name, role, password, created_ms) VALUES ($1, $2, $3, $4)",
                &values![name, role.name(), password, created_ms],
            )?;
            Ok(UserRow { name: name.to_owned(), role, created_ms, last_used_ms: None })
        })
    }

    /// Changes role or password; another password ends the user's sessions.
    pub fn change_user(&self, name: &str, role: Option<Role>, password: Option<&str>) -> Result<(), AccessError> {
        self.write(|tx| {
            let old = self.role_of(tx, name)?.ok_or(AccessError::Missing)?;
            let role = role.unwrap_or(old);
            keep_an_admin(tx, name, old, Some(role))?;
            tx.execute("UPDATE users SET role = $2 WHERE name = $1", &values![name, role.name()])?;
            if let Some(password) = password {
                tx.execute("UPDATE users SET password = $2 WHERE name = $1", &values![name, password])?;
                end_sessions(tx, Kind::User, name)?;
            }
            Ok(())
        })
    }

    /// Deletes a user, and ends his sessions.
    pub fn delete_user(&self, name: &str) -> Result<(), AccessError> {
        self.write(|tx| {
            let old = self.role_of(tx, name)?.ok_or(AccessError::Missing)?;
            keep_an_admin(tx, name, old, None)?;
            tx.execute("DELETE FROM users WHERE name = $1", &values![name])?;
            Ok(end_sessions(tx, Kind::User, name)?)
        })
    }

    fn role_of(&self, tx: &mut Tx<'_>, name: &str) -> Result<Option<Role>, StoreError> {
        let row = tx.query_one("SELECT role FROM users WHERE name = $1", &values![name])?;
        row.map(|row| self.role(&row.get::<String>(0)?)).transpose()
    }

    pub(super) fn role(&self, text: &str) -> Result<Role, StoreError> {
        text.parse().map_err(|error| self.corrupt(format!("role `{text}`: {error}")))
    }

    fn user_row(&self, row: &Row) -> Result<UserRow, StoreError> {
        Ok(UserRow {
            name: row.get(0)?,
            role: self.role(&row.get::<String>(1)?)?,
            created_ms: row.get(2)?,
            last_used_ms: row.get(3)?,
        })
    }
}

/// The last admin stays one. Without any there would be the token file alone.
fn keep_an_admin(tx: &mut Tx<'_>, name: &str, old: Role, new: Option<Role>) -> Result<(), AccessError> {
    if old != Role::Admin || new == Some(Role::Admin) {
        return Ok(());
    }
    let sql = "SELECT count(*) FROM users WHERE role = $1 AND name <> $2";
    let others = tx.query_one(sql, &values![Role::Admin.name(), name])?;
    match others.map_or(Ok(0), |row| row.get::<u64>(0))? {
        0 => Err(AccessError::LastAdmin),
        _ => Ok(()),
    }
}

/// The number that a statement counts.
pub(super) fn count(tx: &mut Tx<'_>, sql: &str) -> Result<u32, StoreError> {
    tx.query_one(sql, &[])?.map_or(Ok(0), |row| row.get(0))
}

/// Ends every session of a user or token.
pub(super) fn end_sessions(tx: &mut Tx<'_>, kind: Kind, name: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM sessions WHERE kind = $1 AND name = $2", &values![kind.name(), name]).map(|_| ())
}
