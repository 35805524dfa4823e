//! Tenants that have rules.

use shoal_link::Tenant;

use super::documents::{ChangeError, Document, Record, Table};
use super::engine::{Tx, values};

impl Document for Tenant {
    const NOUN: &'static str = "tenant";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Table for Tenant {
    const TABLE: &'static str = "tenants";
    const TENANT: &'static str = "id";

    fn write(&self, tx: &mut Tx<'_>, record: &Record) -> Result<(), ChangeError> {
        tx.execute(
            "INSERT INTO tenants (id, revision, updated_ms, document) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO UPDATE SET revision = $2, updated_ms = $3, document = $4",
            &values![&*self.id, record.revision, record.updated_ms, &record.document],
        )?;
        Ok(())
    }
}
