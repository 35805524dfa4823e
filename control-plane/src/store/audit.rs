//! The log of changes. Rows are only added, but for the oldest, which go.

use std::sync::Arc;

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::{Store, StoreError, now_ms};
use crate::access::Kind;
use crate::access::audit::{Entry, Outcome, Slot};

/// How long entries are kept.
pub const AUDIT_DAYS: u64 = 400;
/// Most entries that are kept.
pub const MAX_AUDIT: u64 = 1_000_000;
/// So often, in entries, what is too old is taken away.
const PRUNE_EVERY: i64 = 256;

const DAY_MS: u64 = 86_400_000;

/// Which entries are asked for; the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only those older than this entry.
    pub before: Option<u64>,
    /// From this moment on, in Unix milliseconds.
    pub from_ms: Option<u64>,
    /// Before this moment.
    pub to_ms: Option<u64>,
    /// Of this user or token.
    pub actor: Option<String>,
    /// This operation.
    pub action: Option<String>,
    /// What it was done to.
    pub target: Option<String>,
    /// What came of it.
    pub outcome: Option<Outcome>,
    /// Most entries.
    pub limit: u32,
}

/// An entry and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Grows with each entry.
    pub id: u64,
    /// The entry.
    pub entry: Entry,
}

impl Store {
    /// The same store on behalf of a request: its first change is committed together with the slot's entry.
    pub(crate) fn audited(&self, slot: Arc<Slot>) -> Self {
        Self { audit: Some(slot), ..self.clone() }
    }

    /// Adds an entry by itself.
    pub(crate) fn add_audit(&self, entry: &Entry) -> Result<(), StoreError> {
        self.write(|db| insert(db, entry).map_err(|source| self.error(source)))
    }

    /// Entries, the newest first.
    pub fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        let (sql, values) = select(query);
        let rows = self.report(|db| {
            db.prepare(&sql)?.query_map(params_from_iter(values), columns)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter().map(|row| row.ok_or_else(|| StoreError::corrupt(self.path(), "an audit entry".into()))).collect()
    }

    /// Writes the entry of the request that this change is made for, if it is not written yet.
    pub(super) fn note(&self, db: &Connection) -> Result<Option<&Slot>, StoreError> {
        let Some(slot) = self.audit.as_deref() else { return Ok(None) };
        let Some(mut entry) = slot.pending() else { return Ok(None) };
        let mut write = || -> rusqlite::Result<()> {
            if slot.has_revision() {
                let version: i64 =
                    db.query_row("SELECT value FROM settings WHERE name = 'snapshot_version'", [], |row| row.get(0))?;
                entry.after = Some(version.cast_unsigned());
            }
            insert(db, &entry)
        };
        write().map_err(|source| self.error(source))?;
        Ok(Some(slot))
    }
}

fn insert(db: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let id: i64 = db.query_row(
        "INSERT INTO audit (at_ms, actor, kind, role, address, action, request, target, outcome, status, before, after,
                            change)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) RETURNING id",
        params![
            entry.at_ms.cast_signed(),
            entry.actor,
            entry.kind.name(),
            entry.role.map(crate::access::Role::name),
            entry.address.map(|address| address.to_string()),
            entry.action,
            entry.request,
            entry.target,
            entry.outcome.name(),
            entry.status,
            entry.before.map(u64::cast_signed),
            entry.after.map(u64::cast_signed),
            entry.change,
        ],
        |row| row.get(0),
    )?;
    if id % PRUNE_EVERY == 0 {
        let oldest = now_ms().saturating_sub(AUDIT_DAYS * DAY_MS);
        db.execute(
            "DELETE FROM audit WHERE at_ms < ?1 OR id <= ?2",
            params![oldest.cast_signed(), id - MAX_AUDIT.cast_signed()],
        )?;
    }
    Ok(())
}

fn select(query: &AuditQuery) -> (String, Vec<SqlValue>) {
    let mut sql = "SELECT id, at_ms, actor, kind, role, address, action, request, target, outcome, status, before, after, \
                   change FROM audit WHERE 1 = 1"
        .to_owned();
    let mut values = Vec::new();
    let mut filter = |condition: &str, value: Option<SqlValue>| {
        if let Some(value) = value {
            values.push(value);
            sql.push_str(&format!(" AND {condition} ?{}", values.len()));
        }
    };
    filter("id <", query.before.map(|id| i64::try_from(id).unwrap_or(i64::MAX).into()));
    filter("at_ms >=", query.from_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX).into()));
    filter("at_ms <", query.to_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX).into()));
    filter("actor =", query.actor.clone().map(Into::into));
    filter("action =", query.action.clone().map(Into::into));
    filter("target =", query.target.clone().map(Into::into));
    filter("outcome =", query.outcome.map(|outcome| outcome.name().to_owned().into()));
    sql.push_str(&format!(" ORDER BY id DESC LIMIT {}", query.limit));
    (sql, values)
}

/// None: words that this release does not know.
fn columns(row: &Row<'_>) -> rusqlite::Result<Option<AuditRow>> {
    let text = |at: usize| row.get::<_, Option<String>>(at);
    let number = |at: usize| row.get::<_, Option<i64>>(at);
    let (kind, role, address, outcome) = (text(3)?, text(4)?, text(5)?, text(9)?);
    let (Some(kind), Some(outcome)) =
        (kind.as_deref().and_then(Kind::parse), outcome.as_deref().and_then(Outcome::parse))
    else {
        return Ok(None);
    };
    let entry = Entry {
        at_ms: number(1)?.unwrap_or(0).cast_unsigned(),
        actor: text(2)?.unwrap_or_default(),
        kind,
        role: role.and_then(|role| role.parse().ok()),
        address: address.and_then(|address| address.parse().ok()),
        action: text(6)?.unwrap_or_default(),
        request: text(7)?.unwrap_or_default(),
        target: text(8)?.unwrap_or_default(),
        outcome,
        status: number(10)?.and_then(|status| status.try_into().ok()),
        before: number(11)?.map(i64::cast_unsigned),
        after: number(12)?.map(i64::cast_unsigned),
        change: text(13)?,
    };
    Ok(Some(AuditRow { id: number(0)?.unwrap_or(0).cast_unsigned(), entry }))
}
