//! Sessions of the console: in the store, so that every instance knows them.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};
use crate::access::{Kind, Role};

/// Most sessions of one user or token; the longest unused ends for a new one.
pub const MAX_SESSIONS: u32 = 16;

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// With what it began.
    pub kind: Kind,
    /// Name of the user or token; of the file's token, its hash.
    pub name: String,
    /// The role that the user or token has now; none: there is no such one any more.
    pub role: Option<Role>,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds of the last request, to the minute.
    pub used_ms: u64,
    /// Unix milliseconds at which it ends in any case.
    pub expires_ms: u64,
}

impl Store {
    /// Begins a session, and notes the log-in. Takes away what has ended.
    pub fn begin_session(
        &self,
        hash: &str,
        kind: Kind,
        name: &str,
        now_ms: u64,
        expires_ms: u64,
    ) -> Result<(), StoreError> {
        let now = now_ms.cast_signed();
        self.write(|db| {
            let begin = || -> rusqlite::Result<()> {
                db.execute("DELETE FROM sessions WHERE expires_ms <= ?1", [now])?;
                db.execute(
                    "DELETE FROM sessions WHERE hash IN (
                         SELECT hash FROM sessions WHERE kind = ?1 AND name = ?2
                         ORDER BY used_ms DESC, hash LIMIT 1000 OFFSET ?3)",
                    params![kind.name(), name, MAX_SESSIONS - 1],
                )?;
                db.execute(
                    "INSERT INTO sessions (hash, kind, name, created_ms, used_ms, expires_ms)
                     VALUES (?1, ?2, ?3, ?4, ?4, ?5)",
                    params![hash, kind.name(), name, now, expires_ms.cast_signed()],
                )?;
                if kind == Kind::User {
                    db.execute("UPDATE users SET last_used_ms = ?2 WHERE name = ?1", params![name, now])?;
                }
                Ok(())
            };
            begin().map_err(|source| self.error(source))
        })
    }

    /// The session with this hash, ended or not.
    pub fn session(&self, hash: &str) -> Result<Option<SessionRow>, StoreError> {
        let row = self.read(|db| {
            db.prepare_cached(
                "SELECT s.kind, s.name, s.created_ms, s.used_ms, s.expires_ms, u.role, t.role, t.expires_ms
                 FROM sessions s
                 LEFT JOIN users u ON s.kind = 'user' AND u.name = s.name
                 LEFT JOIN tokens t ON s.kind = 'token' AND t.name = s.name
                 WHERE s.hash = ?1",
            )?
            .query_row([hash], |row| {
                let times: [i64; 3] = [row.get(2)?, row.get(3)?, row.get(4)?];
                let roles: [Option<String>; 2] = [row.get(5)?, row.get(6)?];
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, times, roles, row.get::<_, Option<i64>>(7)?))
            })
            .optional()
        })?;
        let Some((kind, name, [created, used, expires], [user, token], token_expires)) = row else { return Ok(None) };
        let Some(kind) = Kind::parse(&kind) else {
            return Err(StoreError::corrupt(self.path(), format!("a session of kind `{kind}`")));
        };
        let role = match kind {
            Kind::TokenFile => Some(Role::Admin),
            Kind::User | Kind::Token => user.or(token).map(|role| self.role(&role)).transpose()?,
        };
        // A token's session ends with the token.
        let expires = token_expires.map_or(expires, |token| token.min(expires));
        Ok(Some(SessionRow {
            kind,
            name,
            role,
            created_ms: created.cast_unsigned(),
            used_ms: used.cast_unsigned(),
            expires_ms: expires.cast_unsigned(),
        }))
    }

    /// Notes that a session is used.
    pub fn session_used(&self, hash: &str, now_ms: u64) -> Result<(), StoreError> {
        self.write(|db| {
            db.execute("UPDATE sessions SET used_ms = ?2 WHERE hash = ?1", params![hash, now_ms.cast_signed()])
                .map_err(|source| self.error(source))?;
            Ok(())
        })
    }

    /// Ends a session.
    pub fn end_session(&self, hash: &str) -> Result<(), StoreError> {
        self.write(|db| {
            db.execute("DELETE FROM sessions WHERE hash = ?1", [hash]).map_err(|source| self.error(source))?;
            Ok(())
        })
    }
}
