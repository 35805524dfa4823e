//! Sessions of the console: in the store, so that every instance knows them.

use super::engine::{Row, values};
use super::{Store, StoreError};
use crate::access::{Kind, Role};

/// Most sessions of one user or token; the longest unused end for a new one.
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
        self.write(|tx| {
            tx.execute("DELETE FROM sessions WHERE expires_ms <= $1", &values![now_ms])?;
            let sql = "SELECT hash FROM sessions WHERE kind = $1 AND name = $2 ORDER BY used_ms DESC, hash";
            let rows = tx.query(sql, &values![kind.name(), name])?;
            for row in rows.iter().skip(MAX_SESSIONS as usize - 1) {
                tx.execute("DELETE FROM sessions WHERE hash = $1", &values![row.get::<String>(0)?])?;
            }
            tx.execute(
                "INSERT INTO sessions (hash, kind, name, created_ms, used_ms, expires_ms)
                 VALUES ($1, $2, $3, $4, $4, $5)",
                &values![hash, kind.name(), name, now_ms, expires_ms],
            )?;
            if kind == Kind::User {
                tx.execute("UPDATE users SET last_used_ms = $2 WHERE name = $1", &values![name, now_ms])?;
            }
            Ok(())
        })
    }

    /// The session with this hash, ended or not.
    pub fn session(&self, hash: &str) -> Result<Option<SessionRow>, StoreError> {
        let sql = "SELECT s.kind, s.name, s.created_ms, s.used_ms, s.expires_ms, u.role, t.role, t.expires_ms
                   FROM sessions s
                   LEFT JOIN users u ON s.kind = 'user' AND u.name = s.name
                   LEFT JOIN tokens t ON s.kind = 'token' AND t.name = s.name
                   WHERE s.hash = $1";
        let row = self.read(|tx| tx.query_one(sql, &values![hash]))?;
        row.map(|row| self.session_row(&row)).transpose()
    }

    /// Notes that a session is used.
    pub fn session_used(&self, hash: &str, now_ms: u64) -> Result<(), StoreError> {
        self.merge(|tx| {
            tx.execute("UPDATE sessions SET used_ms = $2 WHERE hash = $1", &values![hash, now_ms]).map(|_| ())
        })
    }

    /// Ends a session.
    pub fn end_session(&self, hash: &str) -> Result<(), StoreError> {
        self.write(|tx| tx.execute("DELETE FROM sessions WHERE hash = $1", &values![hash]).map(|_| ()))
    }

    fn session_row(&self, row: &Row) -> Result<SessionRow, StoreError> {
        let kind: String = row.get(0)?;
        let kind = Kind::parse(&kind).ok_or_else(|| self.corrupt(format!("a session of kind `{kind}`")))?;
        let role = match kind {
            Kind::TokenFile => Some(Role::Admin),
            Kind::User => row.get::<Option<String>>(5)?.map(|role| self.role(&role)).transpose()?,
            Kind::Token => row.get::<Option<String>>(6)?.map(|role| self.role(&role)).transpose()?,
        };
        let expires: u64 = row.get(4)?;
        Ok(SessionRow {
            kind,
            name: row.get(1)?,
            role,
            created_ms: row.get(2)?,
            used_ms: row.get(3)?,
            // A token's session ends with the token.
            expires_ms: row.get::<Option<u64>>(7)?.map_or(expires, |token| token.min(expires)),
        })
    }
}
