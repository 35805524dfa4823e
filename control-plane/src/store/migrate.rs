//! Numbered, embedded schema changes; `user_version` tells how many a file has had.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{StoreError, StoreErrorKind};

/// Each brings the schema from its index to the next. Never edit one that was released.
const MIGRATIONS: &[&str] = &[
    include_str!("0001_initial.sql"),
    include_str!("0002_tenants.sql"),
    include_str!("0003_blocks.sql"),
    include_str!("0008_access.sql"),
];

/// Brings the schema up to this release, all or nothing.
pub(super) fn migrate(db: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source: rusqlite::Error| StoreError::sqlite(path, &source);
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let done: u32 =
        transaction.query_row("SELECT user_version FROM pragma_user_version", [], |row| row.get(0)).map_err(failed)?;
    let Some(missing) = MIGRATIONS.get(done as usize..) else {
        return Err(StoreError {
            kind: StoreErrorKind::Newer,
            path: path.display().to_string(),
            message: format!("its schema is number {done}, this release knows up to {}", MIGRATIONS.len()),
        });
    };
    if missing.is_empty() {
        return Ok(());
    }
    for migration in missing {
        transaction.execute_batch(migration).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64).map_err(failed)?;
    transaction.commit().map_err(failed)
}
