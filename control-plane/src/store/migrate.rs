//! Numbered, embedded schema changes. A table tells which a database has had; in SQLite also `user_version`, which earlier
//! releases look at.

use super::engine::{Tx, values};
use super::{StoreError, StoreErrorKind, now_ms};

/// Applied in the order of their numbers. Never edit one that was released. They are in SQLite's words: see `dialect`.
const MIGRATIONS: &[(u32, &str)] = &[
    (1, include_str!("0001_initial.sql")),
    (2, include_str!("0002_tenants.sql")),
    (3, include_str!("0003_blocks.sql")),
];

/// Of the lock that makes instances which start together migrate one after the other; no other program should use it.
const LOCK: i64 = 0x7368_6F61_6C00_0001;

/// Number of this release's schema.
pub(super) fn newest() -> u32 {
    MIGRATIONS.iter().map(|(number, _)| *number).max().unwrap_or(0)
}

/// Names of all tables but the one that migrations are noted in; those that others refer to come first.
#[cfg_attr(not(test), expect(dead_code, reason = "for backup"))]
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    let lines = MIGRATIONS.iter().flat_map(|(_, sql)| sql.lines());
    lines.filter_map(|line| line.strip_prefix("CREATE TABLE ")).filter_map(|rest| rest.split([' ', '(']).next())
}

/// Brings the schema up to this release, inside a transaction.
pub(super) fn migrate(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    if tx.is_postgres() {
        tx.query("SELECT pg_advisory_xact_lock($1)", &values![LOCK])?;
    }
    tx.script(
        "CREATE TABLE IF NOT EXISTS migrations (number INTEGER NOT NULL PRIMARY KEY, applied_ms INTEGER NOT NULL) STRICT;",
    )?;
    let rows = tx.query("SELECT number FROM migrations", &[])?;
    let mut done = rows.iter().map(|row| row.get(0)).collect::<Result<Vec<u32>, _>>()?;
    if !tx.is_postgres() {
        let version = tx.query_one("SELECT user_version FROM pragma_user_version", &[])?;
        let version: u32 = version.map_or(Ok(0), |row| row.get(0))?;
        // Releases before the table had them all, up to this.
        if done.is_empty() {
            for number in 1..=version.min(newest()) {
                note(tx, number)?;
                done.push(number);
            }
        }
        done.extend((version > newest()).then_some(version));
    }
    if let Some(unknown) = done.iter().find(|number| MIGRATIONS.iter().all(|(known, _)| known != *number)) {
        return Err(StoreError {
            kind: StoreErrorKind::Newer,
            path: tx.name().to_owned(),
            message: format!("its schema has number {unknown}, this release knows up to {}", newest()),
        });
    }
    let mut missing: Vec<_> = MIGRATIONS.iter().filter(|(number, _)| !done.contains(number)).collect();
    missing.sort_unstable_by_key(|(number, _)| *number);
    let changed = !missing.is_empty();
    for (number, sql) in missing {
        tx.script(sql)?;
        note(tx, *number)?;
    }
    if changed && !tx.is_postgres() {
        tx.script(&format!("PRAGMA user_version = {}", newest()))?;
    }
    Ok(())
}

fn note(tx: &mut Tx<'_>, number: u32) -> Result<(), StoreError> {
    tx.execute("INSERT INTO migrations (number, applied_ms) VALUES ($1, $2)", &values![number, now_ms()]).map(|_| ())
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
        assert_eq!(tables().count(), all, "begin a line with CREATE TABLE name (");
    }
}
