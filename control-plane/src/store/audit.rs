//! The log of changes. Rows are only added, but for the oldest, which go.

use std::sync::Arc;

use super::documents::version;
use super::engine::{Isolation, Row, Tx, Value, values};
use super::{Store, StoreError, now_ms};
use crate::access::audit::{Entry, Outcome, Slot};
use crate::access::{Kind, Role};

/// How long entries are kept.
pub const AUDIT_DAYS: u64 = 400;
/// Most entries that are kept.
pub const MAX_AUDIT: u64 = 1_000_000;
/// So often, in entries, what is too old is taken away.
const PRUNE_EVERY: u64 = 256;

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
        self.merge(|tx| insert(tx, entry))
    }

    /// Entries, the newest first.
    pub fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        let (sql, values) = select(query);
        let rows = self.report(|tx| tx.query(&sql, &values))?;
        rows.iter().map(|row| self.audit_row(row)).collect()
    }

    /// Runs `work` in a transaction, and with it writes the entry of the request that it is made for, if that is not written
    /// yet: both or neither.
    pub(super) fn noted<T, E: From<StoreError>>(
        &self,
        isolation: Isolation,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let Some((slot, entry)) = self.audit.as_deref().and_then(|slot| Some((slot, slot.pending()?))) else {
            return self.engine.write(isolation, work);
        };
        let result = self.engine.write(isolation, &mut |tx| {
            let result = work(tx)?;
            let after = if slot.has_revision() { Some(version(tx)?) } else { None };
            insert(tx, &Entry { after, ..entry.clone() })?;
            Ok::<_, E>(result)
        })?;
        slot.is_written();
        Ok(result)
    }

    fn audit_row(&self, row: &Row) -> Result<AuditRow, StoreError> {
        let text = |at: usize| row.get::<String>(at);
        let (kind, outcome) = (text(3)?, text(9)?);
        let unknown = |word: &str| self.corrupt(format!("an audit entry with `{word}`"));
        let entry = Entry {
            at_ms: row.get(1)?,
            actor: row.get(2)?,
            kind: Kind::parse(&kind).ok_or_else(|| unknown(&kind))?,
            role: row.get::<Option<String>>(4)?.map(|role| self.role(&role)).transpose()?,
            address: row.get::<Option<String>>(5)?.and_then(|address| address.parse().ok()),
            action: row.get(6)?,
            request: row.get(7)?,
            target: row.get(8)?,
            outcome: Outcome::parse(&outcome).ok_or_else(|| unknown(&outcome))?,
            status: row.get(10)?,
            before: row.get(11)?,
            after: row.get(12)?,
            change: row.get(13)?,
        };
        Ok(AuditRow { id: row.get(0)?, entry })
    }
}

fn insert(tx: &mut Tx<'_>, entry: &Entry) -> Result<(), StoreError> {
    // The row is locked until the transaction ends: no number is skipped, and none is seen before an earlier one.
    let row = tx.query_one("UPDATE settings SET value = value + 1 WHERE name = 'audit_id' RETURNING value", &[])?;
    let missing = StoreError::corrupt(tx.name(), "the number of the last audit entry is gone".to_owned());
    let id: u64 = row.ok_or(missing)?.get(0)?;
    tx.execute(
        "INSERT INTO audit (id, at_ms, actor, kind, role, address, action, request, target, outcome, status, before, after,
                            change)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        &values![
            id,
            entry.at_ms,
            &entry.actor,
            entry.kind.name(),
            entry.role.map(Role::name),
            entry.address.map(|address| address.to_string()),
            &entry.action,
            &entry.request,
            &entry.target,
            entry.outcome.name(),
            entry.status,
            entry.before,
            entry.after,
            entry.change.as_deref(),
        ],
    )?;
    if id.is_multiple_of(PRUNE_EVERY) {
        let oldest = now_ms().saturating_sub(AUDIT_DAYS * DAY_MS);
        let sql = "DELETE FROM audit WHERE at_ms < $1 OR id <= $2";
        tx.execute(sql, &values![oldest, id.saturating_sub(MAX_AUDIT)])?;
    }
    Ok(())
}

fn select(query: &AuditQuery) -> (String, Vec<Value>) {
    let mut sql =
        "SELECT id, at_ms, actor, kind, role, address, action, request, target, outcome, status, before, after, \
                   change FROM audit WHERE 1 = 1"
            .to_owned();
    let mut values = Vec::new();
    let mut filter = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            values.push(value);
            sql.push_str(&format!(" AND {condition} ${}", values.len()));
        }
    };
    // Times and numbers beyond what is stored match as the largest one would.
    let number = |number: Option<u64>| number.map(|number| i64::try_from(number).unwrap_or(i64::MAX).into());
    filter("id <", number(query.before));
    filter("at_ms >=", number(query.from_ms));
    filter("at_ms <", number(query.to_ms));
    filter("actor =", query.actor.as_deref().map(Into::into));
    filter("action =", query.action.as_deref().map(Into::into));
    filter("target =", query.target.as_deref().map(Into::into));
    filter("outcome =", query.outcome.map(|outcome| outcome.name().into()));
    sql.push_str(&format!(" ORDER BY id DESC LIMIT {}", query.limit));
    (sql, values)
}
