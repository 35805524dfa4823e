//! SQLite: one file, one writer, readers that wait for nobody.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Error, ErrorCode, ToSql, TransactionBehavior, params_from_iter};

use super::{Link, Row, Tx, Value};
use crate::store::{StoreError, StoreErrorKind};

/// How long a statement waits for another process that holds the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Statements kept prepared on each connection.
const PREPARED: usize = 128;

/// An open file.
pub(crate) struct Sqlite {
    pub(super) name: Arc<str>,
    /// One writer: SQLite has no more.
    writer: Mutex<Connection>,
    /// Reads see the last commit (WAL) and wait for no writer.
    reader: Mutex<Connection>,
    /// What takes long; nothing else waits for it.
    reports: Mutex<Connection>,
}

impl Sqlite {
    /// Opens a file, creates it and its folder when missing (for this user only).
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| StoreError::io(&folder.display().to_string(), &source))?;
        let name: Arc<str> = path.display().to_string().into();
        // Made before SQLite opens it: keys are in here, and SQLite would leave it readable for all.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::io(&name, &source))?;
        let open = || -> rusqlite::Result<[Connection; 3]> {
            let writer = connect(path)?;
            write_ahead(&writer)?;
            // FULL: an acknowledged ledger batch survives a power cut.
            writer.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
            let [reader, reports] = [connect(path)?, connect(path)?];
            for db in [&reader, &reports] {
                db.execute_batch("PRAGMA query_only = ON;")?;
            }
            Ok([writer, reader, reports])
        };
        let [writer, reader, reports] = open().map_err(|source| error(&name, &source))?.map(Mutex::new);
        Ok(Self { name, writer, reader, reports })
    }

    /// A transaction that is rolled back when `work`, or any statement of it, fails.
    pub(super) fn write<T, E: From<StoreError>>(
        &self,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |source: Error| E::from(error(&self.name, &source));
        let mut db = lock(&self.writer);
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let mut tx = Tx::new(Link::Sqlite(&transaction), &self.name);
        let result = work(&mut tx)?;
        if let Some(error) = tx.failed.take() {
            return Err(error.into());
        }
        transaction.commit().map_err(failed)?;
        Ok(result)
    }

    /// Statements without a transaction around them.
    pub(super) fn read<T>(&self, work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        work(&mut Tx::new(Link::Sqlite(&lock(&self.reader)), &self.name))
    }

    /// Statements that see one moment; on the connection for what takes long, if `long`.
    pub(super) fn view<T>(
        &self,
        long: bool,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut db = lock(if long { &self.reports } else { &self.reader });
        let transaction = db.transaction().map_err(|source| error(&self.name, &source))?;
        work(&mut Tx::new(Link::Sqlite(&transaction), &self.name))
    }

    /// What tests do to the engine.
    #[cfg(test)]
    pub(crate) fn pragma(&self, name: &str, value: i64) {
        lock(&self.writer).pragma_update(None, name, value).unwrap();
    }
}

/// Runs a statement; how many rows it changed.
pub(super) fn execute(db: &Connection, name: &str, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
    let run = || db.prepare_cached(&numbered(sql))?.execute(params_from_iter(values));
    run().map(|rows| rows as u64).map_err(|source| error(name, &source))
}

/// Runs a query, and `each` with every row until it says stop.
pub(super) fn query<E: From<StoreError>>(
    db: &Connection,
    name: &Arc<str>,
    sql: &str,
    values: &[Value],
    each: &mut dyn FnMut(Row) -> Result<bool, E>,
) -> Result<(), E> {
    let failed = |source: Error| E::from(error(name, &source));
    let mut statement = db.prepare_cached(&numbered(sql)).map_err(failed)?;
    let columns = statement.column_count();
    let mut rows = statement.query(params_from_iter(values)).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let values = (0..columns).map(|at| row.get_ref(at).map(value)).collect::<rusqlite::Result<_>>();
        if !each(Row { values: values.map_err(failed)?, name: Arc::clone(name) })? {
            break;
        }
    }
    Ok(())
}

/// Runs statements without parameters or results.
pub(super) fn script(db: &Connection, name: &str, sql: &str) -> Result<(), StoreError> {
    db.execute_batch(sql).map_err(|source| error(name, &source))
}

pub(super) fn error(name: &str, source: &Error) -> StoreError {
    let kind = match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreErrorKind::Full,
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => StoreErrorKind::Permission,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreErrorKind::Busy,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Io,
    };
    StoreError { kind, path: name.to_owned(), message: source.to_string() }
}

/// Turns the write-ahead log on. SQLite itself does not wait here for others that open a new file at the same moment: its busy
/// timeout is for locks that can be waited for without a deadlock, and the switch takes one while it holds another.
fn write_ahead(db: &Connection) -> rusqlite::Result<()> {
    let until = Instant::now() + BUSY_TIMEOUT;
    loop {
        match db.execute_batch("PRAGMA journal_mode = WAL;") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(PREPARED);
    Ok(db)
}

/// A panic elsewhere rolled its transaction back; the connection is as good as before.
fn lock(db: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    db.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `$1` is a name to SQLite, and gets the number of its first appearance; `?1` has the number that it says.
fn numbered(sql: &str) -> String {
    let mut result = String::with_capacity(sql.len());
    let mut quoted = false;
    for character in sql.chars() {
        quoted ^= character == '\'';
        result.push(if character == '$' && !quoted { '?' } else { character });
    }
    result
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Float(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_owned()),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Float(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_the_numbers_that_they_say() {
        assert_eq!(numbered("SELECT $2, '$1', $10"), "SELECT ?2, '$1', ?10");
    }
}
