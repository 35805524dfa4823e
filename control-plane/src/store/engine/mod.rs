//! One way to say it to SQLite and to PostgreSQL.
//!
//! Tables and their functions are in `store/*.rs`, one file a subject, and name no engine:
//!
//! ```text
//! impl Store {
//!     /// Counts a view.
//!     pub fn viewed(&self, channel: &str, seconds: u64) -> Result<u64, StoreError> {
//!         self.merge(|tx| {
//!             let row = tx.query_one(
//!                 "INSERT INTO views (channel, seconds) VALUES ($1, $2)
//!                  ON CONFLICT (channel) DO UPDATE SET seconds = views.seconds + excluded.seconds RETURNING seconds",
//!                 &values![channel, seconds],
//!             )?;
//!             row.map_or(Ok(0), |row| row.get(0))
//!         })
//!     }
//!
//!     /// The most viewed.
//!     pub fn views(&self, limit: u32) -> Result<Vec<(String, u64)>, StoreError> {
//!         self.read(|tx| {
//!             let rows = tx.query("SELECT channel, seconds FROM views ORDER BY seconds DESC LIMIT $1", &values![limit])?;
//!             rows.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
//!         })
//!     }
//! }
//! ```
//!
//! and `store/0042_views.sql`, with one line in `migrate::MIGRATIONS`, in SQLite's words, which PostgreSQL is given translated:
//!
//! ```sql
//! CREATE TABLE views (channel TEXT NOT NULL PRIMARY KEY, seconds INTEGER NOT NULL) STRICT;
//! ```
//!
//! | Call | What it promises |
//! |---|---|
//! | `Store::write` | A transaction as if it were alone (PostgreSQL: SERIALIZABLE), so that what it read decides what it writes. On a conflict it runs again: let it have no effects but on the database |
//! | `Store::merge` | A transaction for sums to which many instances add (READ COMMITTED). Others' commits show between its statements: what it read decides nothing, unless the row was locked by an upsert with RETURNING first. May run again, too |
//! | `Store::read` | No transaction: each statement sees the last commit |
//! | `Store::view` | All statements see one moment |
//! | `Store::report` | The same for what may take long; nothing else waits for it |
//!
//! A statement that fails dooms its transaction, also when the error is not passed on.
//!
//! What both engines understand: `$1`, as often and in any order; `ON CONFLICT (key) DO UPDATE SET n = t.n + excluded.n` (name the
//! table: `n` alone is ambiguous to PostgreSQL); `RETURNING`; CASE in place of max(a, b) and greatest; `count`, `sum`, `avg`, `min`,
//! `max`; `EXISTS`; `||`. A parameter that is compared with nothing needs its type said: `CAST($1 AS TEXT) IS NULL`. No AUTOINCREMENT,
//! no `INSERT OR`, no `GLOB`, no `rowid`, no dates: times are Unix milliseconds. Types are TEXT (compared by bytes, without NUL),
//! INTEGER (64 bits), REAL, BLOB; every table is STRICT.

mod postgres;
mod sqlite;
mod tls;
mod value;
mod wire;

use std::sync::Arc;

pub use self::postgres::Postgres;
pub(super) use sqlite::Sqlite;
pub(crate) use value::values;
pub use value::{FromValue, Row, Value};

use super::StoreError;

/// Rows of a statement of [`Tx::batch`]; a few sizes only, for each is a statement to prepare.
const BATCHES: [usize; 4] = [256, 32, 4, 1];
/// What connections call themselves: those of an instance, and those of a backup or restore.
pub(super) const INSTANCE: &str = "shoal-control";
pub(super) const MAINTENANCE: &str = "shoal-control maintenance";
/// Parameters of one statement; PostgreSQL's limit is 65,535.
const PARAMETERS: usize = 32_000;

/// An open database.
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub(super) enum Engine {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// How a transaction that writes is kept from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// As if it were alone.
    Alone,
    /// Each statement sees what others committed before it.
    Merge,
}

impl Engine {
    pub(super) fn name(&self) -> &Arc<str> {
        match self {
            Self::Sqlite(db) => &db.name,
            Self::Postgres(db) => db.name(),
        }
    }

    pub(super) fn write<T, E: From<StoreError>>(
        &self,
        isolation: Isolation,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        match self {
            Self::Sqlite(db) => db.write(work),
            Self::Postgres(db) => db.write(isolation, work),
        }
    }

    /// A transaction that changes the schema, and whose statements may take long.
    pub(super) fn maintain<T, E: From<StoreError>>(
        &self,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        match self {
            Self::Sqlite(db) => db.write(work),
            Self::Postgres(db) => db.maintain(work),
        }
    }

    pub(super) fn read<T>(&self, work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(db) => db.read(work),
            Self::Postgres(db) => db.read(work),
        }
    }

    pub(super) fn view<T>(
        &self,
        long: bool,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self {
            Self::Sqlite(db) => db.view(long, work),
            Self::Postgres(db) => db.view(long, work),
        }
    }
}

/// The way to the database inside a transaction, or for reading.
pub struct Tx<'a> {
    link: Link<'a>,
    name: &'a Arc<str>,
    /// The first statement that failed.
    failed: Option<StoreError>,
}

enum Link<'a> {
    Sqlite(&'a rusqlite::Connection),
    Postgres(&'a mut postgres::Session),
}

impl<'a> Tx<'a> {
    fn new(link: Link<'a>, name: &'a Arc<str>) -> Self {
        Self { link, name, failed: None }
    }

    /// Runs a statement; how many rows it changed.
    pub fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        let result = match &mut self.link {
            Link::Sqlite(db) => sqlite::execute(db, self.name, sql, values),
            Link::Postgres(session) => session.execute(self.name, sql, values),
        };
        self.note(result)
    }

    /// All rows of a query; say LIMIT, or be sure that there are few.
    pub fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        self.visit(sql, values, &mut |row| {
            rows.push(row);
            Ok::<_, StoreError>(true)
        })?;
        Ok(rows)
    }

    /// The first row of a query.
    pub fn query_one(&mut self, sql: &str, values: &[Value]) -> Result<Option<Row>, StoreError> {
        let mut first = None;
        // To the end, for RETURNING changes rows as it goes.
        self.visit(sql, values, &mut |row| {
            first.get_or_insert(row);
            Ok::<_, StoreError>(true)
        })?;
        Ok(first)
    }

    /// Takes the rows of a query one by one, however many there are.
    pub fn each<E: From<StoreError>>(
        &mut self,
        sql: &str,
        values: &[Value],
        mut work: impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        self.visit(sql, values, &mut |row| work(row).map(|()| true))
    }

    /// Runs `INSERT INTO t (a, b) VALUES ($1, $2) …` for many rows at once: `head` up to and with `VALUES`, `tail` what follows,
    /// such as `ON CONFLICT (a) DO UPDATE SET b = t.b + excluded.b`; `values` row by row, `columns` of each. No two rows may have
    /// the same key when there is a DO UPDATE: add them up before. How many rows changed.
    pub fn batch(&mut self, head: &str, columns: usize, tail: &str, values: &[Value]) -> Result<u64, StoreError> {
        let columns = columns.max(1);
        let one_by_one = matches!(self.link, Link::Sqlite(_));
        let mut changed = 0;
        let mut rest = values;
        while rest.len() >= columns {
            let rows = rest.len() / columns;
            let fits = |size: &usize| *size <= rows && size * columns <= PARAMETERS && !(one_by_one && *size > 1);
            let size = BATCHES.into_iter().find(fits).unwrap_or(1);
            let (now, later) = rest.split_at(size * columns);
            changed += self.execute(&multi_row(head, columns, size, tail), now)?;
            rest = later;
        }
        Ok(changed)
    }

    /// Runs statements of SQLite's dialect that have neither parameters nor results, as migrations are.
    pub(super) fn script(&mut self, sql: &str) -> Result<(), StoreError> {
        let result = match &mut self.link {
            Link::Sqlite(db) => sqlite::script(db, self.name, sql),
            Link::Postgres(session) => session.script(self.name, &super::dialect::for_postgres(sql)),
        };
        self.note(result)
    }

    /// Whether it speaks to PostgreSQL.
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self.link, Link::Postgres(_))
    }

    /// The database, for errors.
    pub(super) fn name(&self) -> &str {
        self.name
    }

    fn visit<E: From<StoreError>>(
        &mut self,
        sql: &str,
        values: &[Value],
        each: &mut dyn FnMut(Row) -> Result<bool, E>,
    ) -> Result<(), E> {
        // What the caller's own work returns is its affair; only statements doom the transaction.
        let mut own = None;
        let mut guarded = |row: Row| match each(row) {
            Ok(more) => Ok(more),
            Err(error) => {
                own = Some(error);
                Ok::<_, StoreError>(false)
            }
        };
        let result = match &mut self.link {
            Link::Sqlite(db) => sqlite::query(db, self.name, sql, values, &mut guarded),
            Link::Postgres(session) => session.query(self.name, sql, values, &mut guarded),
        };
        self.note(result)?;
        own.map_or(Ok(()), Err)
    }

    fn note<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        result
    }
}

fn multi_row(head: &str, columns: usize, rows: usize, tail: &str) -> String {
    use std::fmt::Write;
    let mut sql = String::with_capacity(head.len() + tail.len() + rows * columns * 6 + 2);
    sql.push_str(head);
    for at in 0..rows * columns {
        let before = match (at == 0, at % columns == 0) {
            (true, _) => " (",
            (false, true) => "), (",
            (false, false) => ", ",
        };
        // Writing to a String does not fail.
        let _ = write!(sql, "{before}${}", at + 1);
    }
    sql.push_str(") ");
    sql.push_str(tail);
    sql
}
