//! Tenants that have rules.

use rusqlite::{Transaction, params};
use shoal_link::Tenant;

use super::documents::{Document, Row, Stored, Table, Taken, columns};
use super::{Store, StoreError};

impl Document for Tenant {
    const NOUN: &'static str = "tenant";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Table for Tenant {
    const TABLE: &'static str = "tenants";

    fn write(&self, db: &Transaction<'_>, row: &Row) -> rusqlite::Result<Result<(), Taken>> {
        db.execute(
            "INSERT INTO tenants (id, revision, updated_ms, document) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET revision = ?2, updated_ms = ?3, document = ?4",
            params![self.id, row.revision, row.updated_ms, row.document],
        )?;
        Ok(Ok(()))
    }
}

impl Store {
    /// Up to `limit` tenants in the order of their ids, from the one behind `after`.
    pub fn tenants(&self, after: &str, limit: u32) -> Result<Vec<Stored<Tenant>>, StoreError> {
        let rows = self.read(|db| {
            db.prepare_cached("SELECT document, revision, updated_ms FROM tenants WHERE id > ?1 ORDER BY id LIMIT ?2")?
                .query_map(params![after, limit], columns)?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter().map(|row| self.stored(row)).collect()
    }
}
