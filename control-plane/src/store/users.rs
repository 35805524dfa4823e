//! Users of the console.

use rusqlite::{Connection, OptionalExtension, Row, params};

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
        let rows = self.read(|db| {
            db.prepare_cached(
                "SELECT name, role, created_ms, last_used_ms FROM users WHERE name > ?1 ORDER BY name LIMIT ?2",
            )?
            .query_map(params![after, limit], user)?
            .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter().map(|row| self.user_row(row)).collect()
    }

    /// A user and the string to check the password with.
    pub fn user_with_password(&self, name: &str) -> Result<Option<(UserRow, String)>, StoreError> {
        let found = self.read(|db| {
            db.prepare_cached("SELECT name, role, created_ms, last_used_ms, password FROM users WHERE name = ?1")?
                .query_row([name], |row| Ok((user(row)?, row.get(4)?)))
                .optional()
        })?;
        found.map(|(row, password)| Ok((self.user_row(row)?, password))).transpose()
    }

    /// Adds a user.
    pub fn create_user(&self, name: &str, role: Role, password: &str) -> Result<UserRow, AccessError> {
        let created_ms = now_ms();
        self.write(|db| {
            if self.role_of(db, name)?.is_some() {
                return Err(AccessError::Exists);
            }
            let create = || -> rusqlite::Result<bool> {
                let count: i64 = db.query_row("SELECT count(*) FROM users", [], |row| row.get(0))?;
                if count >= i64::from(MAX_USERS) {
                    return Ok(false);
                }
                db.execute(
                    "INSERT INTO users (name, role, password, created_ms) VALUES (?1, ?2, ?3, ?4)",
                    params![name, role.name(), password, created_ms.cast_signed()],
                )?;
                Ok(true)
            };
            if !create().map_err(|source| self.error(source))? {
                return Err(AccessError::Full);
            }
            Ok(UserRow { name: name.to_owned(), role, created_ms, last_used_ms: None })
        })
    }

    /// Changes role or password; another password ends the user's sessions.
    pub fn change_user(&self, name: &str, role: Option<Role>, password: Option<&str>) -> Result<(), AccessError> {
        self.write(|db| {
            let old = self.role_of(db, name)?.ok_or(AccessError::Missing)?;
            let role = role.unwrap_or(old);
            self.keep_an_admin(db, name, old, Some(role))?;
            let change = || -> rusqlite::Result<()> {
                db.execute("UPDATE users SET role = ?2 WHERE name = ?1", params![name, role.name()])?;
                if let Some(password) = password {
                    db.execute("UPDATE users SET password = ?2 WHERE name = ?1", params![name, password])?;
                    end_sessions(db, Kind::User, name)?;
                }
                Ok(())
            };
            change().map_err(|source| AccessError::Store(self.error(source)))
        })
    }

    /// Deletes a user, and ends his sessions.
    pub fn delete_user(&self, name: &str) -> Result<(), AccessError> {
        self.write(|db| {
            let old = self.role_of(db, name)?.ok_or(AccessError::Missing)?;
            self.keep_an_admin(db, name, old, None)?;
            let delete = || -> rusqlite::Result<()> {
                db.execute("DELETE FROM users WHERE name = ?1", [name])?;
                end_sessions(db, Kind::User, name)
            };
            delete().map_err(|source| AccessError::Store(self.error(source)))
        })
    }

    /// The last admin stays one. Without any there would be the token file alone.
    fn keep_an_admin(&self, db: &Connection, name: &str, old: Role, new: Option<Role>) -> Result<(), AccessError> {
        if old != Role::Admin || new == Some(Role::Admin) {
            return Ok(());
        }
        let others = db.query_row(
            "SELECT count(*) FROM users WHERE role = ?1 AND name <> ?2",
            params![Role::Admin.name(), name],
            |row| row.get::<_, i64>(0),
        );
        if others.map_err(|source| self.error(source))? == 0 { Err(AccessError::LastAdmin) } else { Ok(()) }
    }

    fn role_of(&self, db: &Connection, name: &str) -> Result<Option<Role>, StoreError> {
        let role = db.query_row("SELECT role FROM users WHERE name = ?1", [name], |row| row.get::<_, String>(0));
        role.optional().map_err(|source| self.error(source))?.map(|role| self.role(&role)).transpose()
    }

    pub(super) fn role(&self, text: &str) -> Result<Role, StoreError> {
        text.parse().map_err(|error| StoreError::corrupt(self.path(), format!("role `{text}`: {error}")))
    }

    fn user_row(&self, (name, role, created, used): Columns) -> Result<UserRow, StoreError> {
        Ok(UserRow {
            name,
            role: self.role(&role)?,
            created_ms: created.cast_unsigned(),
            last_used_ms: used.map(i64::cast_unsigned),
        })
    }
}

type Columns = (String, String, i64, Option<i64>);

fn user(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

/// Ends every session of a user or token.
pub(super) fn end_sessions(db: &Connection, kind: Kind, name: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM sessions WHERE kind = ?1 AND name = ?2", params![kind.name(), name]).map(|_| ())
}
