//! What the control plane remembers, in SQLite.
//!
//! All SQL is in this module, behind functions whose arguments and results name no engine, so that another engine can
//! stand behind the same functions and pass the same tests. They block: call them from a blocking task.

mod audit;
mod blocks;
mod channels;
mod documents;
mod error;
mod ledger;
mod migrate;
mod nodes;
mod sessions;
mod tenants;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod users;

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use audit::{AUDIT_DAYS, AuditQuery, AuditRow, MAX_AUDIT};
pub use documents::{ChangeError, Document, Stored, Taken};
pub use error::{StoreError, StoreErrorKind};
pub use ledger::{Applied, Group, KINDS, LedgerQuery, LedgerRow, kind_name};
pub use nodes::NodeRow;
pub use sessions::{MAX_SESSIONS, SessionRow};
pub use tokens::{MAX_TOKENS, TokenRow};
pub use users::{AccessError, MAX_USERS, UserRow};

use crate::access::audit::Slot;

/// Name of the database inside the state folder.
pub const FILE_NAME: &str = "control.sqlite3";

/// How long a statement waits for another process that holds the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// The database. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// On whose behalf it changes: see [`Store::audited`].
    audit: Option<Arc<Slot>>,
}

struct Inner {
    path: PathBuf,
    /// One writer: SQLite has no more.
    writer: Mutex<Connection>,
    /// Reads see the last commit (WAL) and wait for no writer.
    reader: Mutex<Connection>,
    /// Sums of the ledger may take long; nothing else waits for them.
    reports: Mutex<Connection>,
}

impl Store {
    /// Opens the database in `state_dir`, creates both when missing (for this user only), and brings its schema up to
    /// this release.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE_NAME);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(|source| StoreError::io(state_dir, &source))?;
        // Made before SQLite opens it: keys are in here, and SQLite would leave it readable for all.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::io(&path, &source))?;
        let open = || -> rusqlite::Result<[Connection; 3]> {
            let writer = connect(&path)?;
            // FULL: an acknowledged ledger batch survives a power cut.
            writer.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
            let [reader, reports] = [connect(&path)?, connect(&path)?];
            for db in [&reader, &reports] {
                db.execute_batch("PRAGMA query_only = ON;")?;
            }
            Ok([writer, reader, reports])
        };
        let [mut writer, reader, reports] = open().map_err(|source| StoreError::sqlite(&path, &source))?;
        migrate::migrate(&mut writer, &path)?;
        let [writer, reader, reports] = [writer, reader, reports].map(Mutex::new);
        Ok(Self { inner: Arc::new(Inner { path, writer, reader, reports }), audit: None })
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Proves that the database answers.
    pub fn ping(&self) -> Result<(), StoreError> {
        self.read(|db| db.query_row("SELECT count(*) FROM settings", [], |row| row.get::<_, i64>(0))).map(|_| ())
    }

    /// Runs `work` in a transaction that is rolled back when it fails.
    fn write<T, E: From<StoreError>>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut db = lock(&self.inner.writer);
        let transaction =
            db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|source| self.error(source))?;
        let result = work(&transaction)?;
        let noted = self.note(&transaction)?;
        transaction.commit().map_err(|source| self.error(source))?;
        if let Some(slot) = noted {
            slot.is_written();
        }
        Ok(result)
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&lock(&self.inner.reader)).map_err(|source| self.error(source))
    }

    /// As [`Store::read`], for what may take long.
    fn report<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&lock(&self.inner.reports)).map_err(|source| self.error(source))
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::sqlite(&self.inner.path, &source)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    Ok(db)
}

/// A panic elsewhere rolled its transaction back; the connection is as good as before.
fn lock(db: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    db.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What tests do to the engine behind the functions.
#[cfg(test)]
impl Store {
    /// From now on there is no room for another page.
    pub(crate) fn fill_up(&self) {
        lock(&self.inner.writer).pragma_update(None, "max_page_count", 1).unwrap();
    }

    /// There is room again.
    pub(crate) fn empty_again(&self) {
        lock(&self.inner.writer).pragma_update(None, "max_page_count", 1_000_000).unwrap();
    }

    fn pretend_newer(&self) {
        lock(&self.inner.writer).pragma_update(None, "user_version", 1_000).unwrap();
    }
}
