//! What the control plane remembers: in SQLite, or in PostgreSQL.
//!
//! All SQL is in this module, behind functions whose arguments and results name no engine; both engines pass the same tests.
//! How to write a table's functions is told in [`engine`]. They block: call them from a blocking task.

mod audit;
mod backup;
mod blocks;
mod channels;
mod conf;
mod config;
mod dialect;
mod documents;
pub mod engine;
mod error;
mod ledger;
mod migrate;
mod nodes;
mod orders;
mod reconciliation;
mod rollup_query;
mod rollups;
mod sessions;
mod tenants;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
mod tokens;
mod users;

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub use audit::{AUDIT_DAYS, AuditQuery, AuditRow, MAX_AUDIT};
pub use backup::{BackupError, Summary};
pub use conf::{ConfDocuments, PassKey};
pub use config::Database;
pub use documents::{ChangeError, Document, Stored, Taken};
use engine::{Engine, Isolation, Postgres, Sqlite, Tx};
pub use error::{StoreError, StoreErrorKind};
pub use ledger::{Applied, Group, KINDS, LedgerQuery, LedgerRow, kind_name};
pub use nodes::{NodeRow, NodeSeen};
pub use orders::{News, Order};
pub use reconciliation::{FiguresQuery, MAX_FIGURES, Seen, Stored as StoredImport};
pub use sessions::{MAX_SESSIONS, SessionRow};
pub use tokens::{MAX_TOKENS, TokenRow};
pub use users::{AccessError, MAX_USERS, UserRow};

use crate::access::audit::Slot;
pub use rollup_query::{ReportGroup, ReportQuery, ReportRow, ReportStep, ReportedUsage};
pub(crate) use rollups::{Ages, RollUp};

/// Name of SQLite's file inside the state folder.
pub const FILE_NAME: &str = "control.sqlite3";

/// The database. Clones share it.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
    /// On whose behalf it changes: see [`Store::audited`].
    audit: Option<Arc<Slot>>,
}

impl Store {
    /// Opens the database that is configured, creates what is missing of SQLite's file and folder (for this user only), and
    /// brings the schema up to this release. It blocks, and may not be called from async code.
    pub fn start(config: &Database, state_dir: &Path) -> Result<Self, StoreError> {
        if config.url.is_empty() { Self::open(state_dir) } else { Self::connect(config) }
    }

    /// SQLite in `state_dir`.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::migrated(Engine::Sqlite(Sqlite::open(&state_dir.join(FILE_NAME))?))
    }

    fn connect(config: &Database) -> Result<Self, StoreError> {
        Self::migrated(Engine::Postgres(Postgres::open(config, engine::INSTANCE)?))
    }

    fn migrated(engine: Engine) -> Result<Self, StoreError> {
        engine.maintain(&mut migrate::migrate)?;
        Ok(Self { engine: Arc::new(engine), audit: None })
    }

    /// As it is, whatever release it is of.
    fn existing(config: &Database, state_dir: &Path) -> Result<Self, StoreError> {
        let engine = if config.url.is_empty() {
            Engine::Sqlite(Sqlite::open(&state_dir.join(FILE_NAME))?)
        } else {
            Engine::Postgres(Postgres::open(config, engine::MAINTENANCE)?)
        };
        Ok(Self { engine: Arc::new(engine), audit: None })
    }

    /// Checks what is configured without connecting.
    pub fn check(config: &Database) -> Result<(), StoreError> {
        if config.url.is_empty() { Ok(()) } else { Postgres::check(config) }
    }

    /// Which database it is: SQLite's file, or the server's URL without the password.
    pub fn name(&self) -> &str {
        self.engine.name()
    }

    /// Whether other instances may use it at the same time.
    pub fn is_shared(&self) -> bool {
        matches!(*self.engine, Engine::Postgres(_))
    }

    /// Proves that the database answers.
    pub fn ping(&self) -> Result<(), StoreError> {
        self.read(|tx| tx.query_one("SELECT count(*) FROM settings", &[])).map(|_| ())
    }

    /// Runs `work` in a transaction as if it were alone, rolled back when it fails. It may run more than once.
    pub fn write<T, E: From<StoreError>>(&self, mut work: impl FnMut(&mut Tx<'_>) -> Result<T, E>) -> Result<T, E> {
        self.noted(Isolation::Alone, &mut work)
    }

    /// Runs `work`, which adds to sums that others add to as well, in a transaction that is rolled back when it fails. It may run
    /// more than once, and sees between its statements what others commit.
    pub fn merge<T, E: From<StoreError>>(&self, mut work: impl FnMut(&mut Tx<'_>) -> Result<T, E>) -> Result<T, E> {
        self.noted(Isolation::Merge, &mut work)
    }

    /// Reads; each statement sees the last commit.
    pub fn read<T>(&self, mut work: impl FnMut(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.engine.read(&mut work)
    }

    /// Reads; all statements see one moment.
    pub fn view<T>(&self, mut work: impl FnMut(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.engine.view(false, &mut work)
    }

    /// As [`Store::view`], for what may take long.
    pub fn report<T>(&self, mut work: impl FnMut(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.engine.view(true, &mut work)
    }

    /// What is stored is not what it should be.
    pub(crate) fn corrupt(&self, message: String) -> StoreError {
        StoreError::corrupt(self.name(), message)
    }
}

/// Unix milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What tests do to SQLite behind the functions.
#[cfg(test)]
impl Store {
    /// From now on there is no room for another page.
    pub(crate) fn fill_up(&self) {
        self.pragma("max_page_count", 1);
    }

    /// There is room again.
    pub(crate) fn empty_again(&self) {
        self.pragma("max_page_count", 1_000_000);
    }

    fn pragma(&self, name: &str, value: i64) {
        match &*self.engine {
            Engine::Sqlite(db) => db.pragma(name, value),
            Engine::Postgres(_) => panic!("SQLite's alone"),
        }
    }
}
