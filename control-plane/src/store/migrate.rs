//! Numbered, embedded schema changes. A table tells which a database has had; in SQLite also `user_version`, which earlier
//! releases look at.

use super::engine::{Tx, values};
use super::{StoreError, StoreErrorKind, now_ms};

/// Applied in the order of their numbers. Never edit one that was released. They are in SQLite's words: see `dialect`.
const MIGRATIONS: &[(u32, &str)] = &[
    (1, include_str!("0001_initial.sql")),
    (2, include_str!("0002_tenants.sql")),
    (3, include_str!("0003_blocks.sql")),
    (4, include_str!("0004_nodes.sql")),
    (5, include_str!("0005_conf.sql")),
    (6, include_str!("0006_reports.sql")),
    (7, include_str!("0007_reconciliation.sql")),
    (8, include_str!("0008_access.sql")),
    (9, include_str!("0009_orders.sql")),
];

/// Of the lock that makes instances which start together migrate one after the other; no other program should use it.
const LOCK: i64 = 0x7368_6F61_6C00_0001;

/// Number of this release's schema.
pub(super) fn newest() -> u32 {
    MIGRATIONS.iter().map(|(number, _)| *number).max().unwrap_or(0)
}

/// All that this release knows.
pub(super) fn numbers() -> Vec<u32> {
    MIGRATIONS.iter().map(|(number, _)| *number).collect()
}

/// Names of the tables that these migrations make, but for the one that they are noted in; those that others refer to come first.
pub(super) fn tables(done: &[u32]) -> Vec<&'static str> {
    let mut done: Vec<_> = MIGRATIONS.iter().filter(|(number, _)| done.contains(number)).collect();
    done.sort_unstable_by_key(|(number, _)| *number);
    let lines = done.into_iter().flat_map(|(_, sql)| sql.lines());
    let names = lines.filter_map(|line| line.strip_prefix("CREATE TABLE "));
    names.filter_map(|rest| rest.split([' ', '(']).next()).collect()
}

/// Brings the schema up to this release, inside a transaction.
pub(super) fn migrate(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    lock(tx)?;
    let mut done = done(tx)?;
    apply(tx, &mut done, &numbers())
}

/// Until the transaction ends, nobody else migrates.
pub(super) fn lock(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    if tx.is_postgres() {
        tx.query("SELECT pg_advisory_xact_lock($1)", &values![LOCK])?;
    }
    tx.script(
        "CREATE TABLE IF NOT EXISTS migrations (number INTEGER NOT NULL PRIMARY KEY, applied_ms INTEGER NOT NULL) STRICT;",
    )
}

/// Which a database has had. Fails when a later release's are among them.
pub(super) fn done(tx: &mut Tx<'_>) -> Result<Vec<u32>, StoreError> {
    let sql = if tx.is_postgres() {
        "SELECT count(*) FROM information_schema.tables
         WHERE CAST(table_schema AS TEXT) = CAST(current_schema() AS TEXT) AND CAST(table_name AS TEXT) = 'migrations'"
    } else {
        "SELECT count(*) FROM sqlite_master WHERE name = 'migrations'"
    };
    let noted = tx.query_one(sql, &[])?.map_or(Ok(false), |row| row.get(0))?;
    let rows = if noted { tx.query("SELECT number FROM migrations ORDER BY number", &[])? } else { Vec::new() };
    let mut done = rows.iter().map(|row| row.get(0)).collect::<Result<Vec<u32>, _>>()?;
    if !tx.is_postgres() {
        let version = tx.query_one("SELECT user_version FROM pragma_user_version", &[])?;
        let version: u32 = version.map_or(Ok(0), |row| row.get(0))?;
        // Releases before the table had them all, up to this.
        if done.is_empty() {
            done.extend(1..=version.min(newest()));
        }
        done.extend((version > newest()).then_some(version));
    }
    match done.iter().find(|number| !numbers().contains(number)) {
        None => Ok(done),
        Some(unknown) => Err(StoreError {
            kind: StoreErrorKind::Newer,
            path: tx.name().to_owned(),
            message: format!("its schema has number {unknown}, this release knows up to {}", newest()),
        }),
    }
}

/// Applies those of `wanted` that are not `done`, and notes all.
pub(super) fn apply(tx: &mut Tx<'_>, done: &mut Vec<u32>, wanted: &[u32]) -> Result<(), StoreError> {
    let mut missing: Vec<_> =
        MIGRATIONS.iter().filter(|(number, _)| wanted.contains(number) && !done.contains(number)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort_unstable_by_key(|(number, _)| *number);
    for (number, sql) in missing {
        tx.script(sql)?;
        done.push(*number);
    }
    for number in &*done {
        note(tx, *number)?;
    }
    if !tx.is_postgres() {
        let version = done.iter().max().copied().unwrap_or(0);
        tx.script(&format!("PRAGMA user_version = {version}"))?;
    }
    Ok(())
}

fn note(tx: &mut Tx<'_>, number: u32) -> Result<(), StoreError> {
    let sql = "INSERT INTO migrations (number, applied_ms) VALUES ($1, $2) ON CONFLICT (number) DO NOTHING";
    tx.execute(sql, &values![number, now_ms()]).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_once_and_tables_are_found() {
        let mut numbers: Vec<u32> = MIGRATIONS.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), MIGRATIONS.len());
        let all = MIGRATIONS.iter().map(|(_, sql)| sql.matches("CREATE TABLE").count()).sum::<usize>();
        assert_eq!(tables(&numbers).len(), all, "begin a line with CREATE TABLE name (");
    }
}
