//! Documents with revisions, and the snapshot that they make up: each change of one is a new version.

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_link::{Channel, Snapshot, Tenant};

use super::engine::{Row, Tx, values};
use super::{Store, StoreError, blocks, now_ms};
use crate::validate::Valid;

/// The setting that tells snapshots apart.
pub(super) const SNAPSHOT_VERSION: &str = "snapshot_version";

/// What is kept as a document: channels, tenants, apps and rules.
pub trait Document: Clone + Serialize + DeserializeOwned + Table {
    /// What one is called.
    const NOUN: &'static str;

    /// The id.
    fn id(&self) -> &str;
}

/// How a document is kept.
pub trait Table {
    /// The table, which has the columns `id`, `revision`, `updated_ms` and `document`.
    const TABLE: &'static str;
    /// The column with the tenant.
    const TENANT: &'static str = "tenant";
    /// The setting that is moved by each change.
    const VERSION: &'static str = SNAPSHOT_VERSION;

    /// Writes a row, and what else is kept of the document; or says who has that already.
    fn write(&self, tx: &mut Tx<'_>, record: &Record) -> Result<(), ChangeError>;
}

/// What is written beside a document's own fields.
#[derive(Debug)]
pub struct Record {
    pub(super) revision: u64,
    pub(super) updated_ms: u64,
    pub(super) document: String,
}

/// A document as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<T> {
    /// The document.
    pub document: T,
    /// The version that brought it in, of the snapshot or of conf; never used twice.
    pub revision: u64,
    /// Unix milliseconds of the change.
    pub updated_ms: u64,
}

/// URLs that another channel answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Empty: any host.
    pub host: String,
    /// Path prefix.
    pub prefix: String,
    /// The other channel.
    pub channel: String,
}

/// Why a document was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// No such document.
    #[error("there is none of that id")]
    Missing,
    /// There is one of that id.
    #[error("there is one of that id")]
    Exists,
    /// Another channel answers to the same URLs.
    #[error("channel `{}` answers to host `{}` and prefix `{}`", .0.channel, .0.host, .0.prefix)]
    Taken(Taken),
    /// It was changed meanwhile.
    #[error("it is at revision {current}")]
    Stale {
        /// Its revision now.
        current: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Every channel, tenant and block and the version, as of one moment.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (version, channels, tenants, blocks) = self.view(|tx| {
            let mut documents = |table: &str| -> Result<Vec<String>, StoreError> {
                let rows = tx.query(&format!("SELECT document FROM {table} ORDER BY id"), &[])?;
                rows.iter().map(|row| row.get(0)).collect()
            };
            let (channels, tenants) = (documents(Channel::TABLE)?, documents(Tenant::TABLE)?);
            Ok((version(tx)?, channels, tenants, blocks::rows(tx)?))
        })?;
        Ok(Snapshot {
            version,
            channels: channels.iter().map(|text| self.parse(text)).collect::<Result<_, _>>()?,
            tenants: tenants.iter().map(|text| self.parse(text)).collect::<Result<_, _>>()?,
            blocks: self.parse_blocks(&blocks)?,
        })
    }

    /// The newest snapshot's version, without the snapshot.
    pub fn snapshot_version(&self) -> Result<u64, StoreError> {
        self.read(version)
    }

    /// One document.
    pub fn find<T: Document>(&self, id: &str) -> Result<Option<Stored<T>>, StoreError> {
        let sql = format!("SELECT document, revision, updated_ms FROM {} WHERE id = $1", T::TABLE);
        let row = self.read(|tx| tx.query_one(&sql, &values![id]))?;
        row.map(|row| self.stored(&row)).transpose()
    }

    /// Up to `limit` documents in the order of their ids, from the one behind `after`; of one tenant, if given.
    pub fn page<T: Document>(
        &self,
        tenant: Option<&str>,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Stored<T>>, StoreError> {
        let sql = format!(
            "SELECT document, revision, updated_ms FROM {} WHERE id > $1 AND (CAST($2 AS TEXT) IS NULL OR {} = $2)
             ORDER BY id LIMIT $3",
            T::TABLE,
            T::TENANT
        );
        let rows = self.read(|tx| tx.query(&sql, &values![after, tenant, limit]))?;
        rows.iter().map(|row| self.stored(row)).collect()
    }

    /// Adds a document.
    pub fn create<T: Document>(&self, document: &Valid<T>) -> Result<Stored<T>, ChangeError> {
        self.write(|tx| match revision::<T>(tx, document.get().id())? {
            Some(_) => Err(ChangeError::Exists),
            None => self.put(tx, document),
        })
    }

    /// Replaces the document of the same id; if `expected` is given, only when that is its revision.
    pub fn replace<T: Document>(&self, document: &Valid<T>, expected: Option<u64>) -> Result<Stored<T>, ChangeError> {
        self.write(|tx| {
            expect::<T>(tx, document.get().id(), expected)?;
            self.put(tx, document)
        })
    }

    /// Deletes a document; what the ledger has of it stays.
    pub fn delete<T: Document>(&self, id: &str, expected: Option<u64>) -> Result<(), ChangeError> {
        self.write(|tx| {
            expect::<T>(tx, id, expected)?;
            next_version(tx, T::VERSION)?;
            tx.execute(&format!("DELETE FROM {} WHERE id = $1", T::TABLE), &values![id])?;
            Ok(())
        })
    }

    fn put<T: Document>(&self, tx: &mut Tx<'_>, document: &Valid<T>) -> Result<Stored<T>, ChangeError> {
        let document = document.get();
        let text = serde_json::to_string(document)
            .map_err(|error| self.corrupt(format!("{} {}: {error}", T::NOUN, document.id())))?;
        let record = Record { revision: next_version(tx, T::VERSION)?, updated_ms: now_ms(), document: text };
        document.write(tx, &record)?;
        Ok(Stored { document: document.clone(), revision: record.revision, updated_ms: record.updated_ms })
    }

    /// Of a row `document, revision, updated_ms`.
    pub(super) fn stored<T: Document>(&self, row: &Row) -> Result<Stored<T>, StoreError> {
        let text: String = row.get(0)?;
        Ok(Stored { document: self.parse(&text)?, revision: row.get(1)?, updated_ms: row.get(2)? })
    }

    pub(super) fn parse<T: Document>(&self, document: &str) -> Result<T, StoreError> {
        serde_json::from_str(document).map_err(|error| self.corrupt(format!("a {}: {error}", T::NOUN)))
    }
}

/// Versions follow the clock where they can, so that they also grow when a database is lost or an old one restored: a node that
/// saw the later ones is then still told of each change. The row is locked until the transaction ends, so that versions become
/// visible in their order.
pub(super) fn next_version(tx: &mut Tx<'_>, name: &str) -> Result<u64, StoreError> {
    let row = tx.query_one(
        "UPDATE settings SET value = CASE WHEN value + 1 > $1 THEN value + 1 ELSE $1 END
         WHERE name = $2 RETURNING value",
        &values![now_ms(), name],
    )?;
    version_of(tx, row.as_ref())
}

/// The newest snapshot's version.
pub(super) fn version(tx: &mut Tx<'_>) -> Result<u64, StoreError> {
    let row = tx.query_one("SELECT value FROM settings WHERE name = 'snapshot_version'", &[])?;
    version_of(tx, row.as_ref())
}

fn version_of(tx: &Tx<'_>, row: Option<&Row>) -> Result<u64, StoreError> {
    let missing = || StoreError::corrupt(tx.name(), "the snapshot's version is gone".to_owned());
    row.ok_or_else(missing)?.get(0)
}

fn expect<T: Document>(tx: &mut Tx<'_>, id: &str, expected: Option<u64>) -> Result<(), ChangeError> {
    let current = revision::<T>(tx, id)?.ok_or(ChangeError::Missing)?;
    if expected.is_some_and(|expected| expected != current) {
        return Err(ChangeError::Stale { current });
    }
    Ok(())
}

fn revision<T: Document>(tx: &mut Tx<'_>, id: &str) -> Result<Option<u64>, StoreError> {
    let row = tx.query_one(&format!("SELECT revision FROM {} WHERE id = $1", T::TABLE), &values![id])?;
    row.map(|row| row.get(0)).transpose()
}
