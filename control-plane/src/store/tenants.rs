//! Tenants that have rules.

use shoal_link::Tenant;

use super::documents::{ChangeError, Document, Record, Stored, Table};
use super::engine::{Tx, values};
use super::{Store, StoreError};

impl Document for Tenant {
    const NOUN: &'static str = "tenant";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Table for Tenant {
    const TABLE: &'static str = "tenants";

    fn write(&self, tx: &mut Tx<'_>, record: &Record) -> Result<(), ChangeError> {
        tx.execute(
            "INSERT INTO tenants (id, revision, updated_ms, document) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO UPDATE SET revision = $2, updated_ms = $3, document = $4",
            &values![&*self.id, record.revision, record.updated_ms, &record.document],
        )?;
        Ok(())
    }
}

impl Store {
    /// Up to `limit` tenants in the order of their ids, from the one behind `after`.
    pub fn tenants(&self, after: &str, limit: u32) -> Result<Vec<Stored<Tenant>>, StoreError> {
        let rows = self.read(|tx| {
            let sql = "SELECT document, revision, updated_ms FROM tenants WHERE id > $1 ORDER BY id LIMIT $2";
            tx.query(sql, &values![after, limit])
        })?;
        rows.iter().map(|row| self.stored(row)).collect()
    }
}
