//! Documents with revisions, and the snapshot that they make up: each change of one is a new version.

use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_link::{Channel, Snapshot, Tenant};

use super::{Store, StoreError, blocks, now_ms};
use crate::validate::Valid;

/// What is kept as a document: channels and tenants.
pub trait Document: Clone + Serialize + DeserializeOwned + Table {
    /// What one is called.
    const NOUN: &'static str;

    /// The id.
    fn id(&self) -> &str;
}

/// How this engine keeps a document.
pub trait Table {
    /// The table, which has the columns `id`, `revision`, `updated_ms` and `document`.
    const TABLE: &'static str;

    /// Writes a row, and what else is kept of the document; or says who has that already.
    fn write(&self, db: &Transaction<'_>, row: &Row) -> rusqlite::Result<Result<(), Taken>>;
}

/// What is written beside a document's own fields.
#[derive(Debug)]
pub struct Row {
    pub(super) revision: i64,
    pub(super) updated_ms: i64,
    pub(super) document: String,
}

/// A document as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<T> {
    /// The document.
    pub document: T,
    /// The snapshot version that brought it in; never used twice.
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
        let (version, channels, tenants, blocks) = self.read(|db| {
            let transaction = db.unchecked_transaction()?;
            let version: i64 =
                transaction
                    .query_row("SELECT value FROM settings WHERE name = 'snapshot_version'", [], |row| row.get(0))?;
            let [channels, tenants] = [Channel::TABLE, Tenant::TABLE].map(|table| {
                let mut statement = transaction.prepare_cached(&format!("SELECT document FROM {table} ORDER BY id"))?;
                statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()
            });
            Ok((version, channels?, tenants?, blocks::rows(&transaction)?))
        })?;
        Ok(Snapshot {
            version: version.cast_unsigned(),
            channels: channels.iter().map(|text| self.parse(text)).collect::<Result<_, _>>()?,
            tenants: tenants.iter().map(|text| self.parse(text)).collect::<Result<_, _>>()?,
            blocks: self.parse_blocks(&blocks)?,
        })
    }

    /// One document.
    pub fn find<T: Document>(&self, id: &str) -> Result<Option<Stored<T>>, StoreError> {
        let sql = format!("SELECT document, revision, updated_ms FROM {} WHERE id = ?1", T::TABLE);
        let row = self.read(|db| db.prepare_cached(&sql)?.query_row([id], columns).optional())?;
        row.map(|row| self.stored(row)).transpose()
    }

    /// Adds a document.
    pub fn create<T: Document>(&self, document: &Valid<T>) -> Result<Stored<T>, ChangeError> {
        self.write(|db| match self.revision::<T>(db, document.get().id())? {
            Some(_) => Err(ChangeError::Exists),
            None => self.put(db, document),
        })
    }

    /// Replaces the document of the same id; if `expected` is given, only when that is its revision.
    pub fn replace<T: Document>(&self, document: &Valid<T>, expected: Option<u64>) -> Result<Stored<T>, ChangeError> {
        self.write(|db| {
            self.expect::<T>(db, document.get().id(), expected)?;
            self.put(db, document)
        })
    }

    /// Deletes a document; what the ledger has of it stays.
    pub fn delete<T: Document>(&self, id: &str, expected: Option<u64>) -> Result<(), ChangeError> {
        self.write(|db| {
            self.expect::<T>(db, id, expected)?;
            self.next_version(db)?;
            db.execute(&format!("DELETE FROM {} WHERE id = ?1", T::TABLE), [id])
                .map_err(|source| self.error(source))?;
            Ok(())
        })
    }

    fn expect<T: Document>(&self, db: &Transaction<'_>, id: &str, expected: Option<u64>) -> Result<(), ChangeError> {
        let current = self.revision::<T>(db, id)?.ok_or(ChangeError::Missing)?;
        if expected.is_some_and(|expected| expected != current) {
            return Err(ChangeError::Stale { current });
        }
        Ok(())
    }

    fn revision<T: Document>(&self, db: &Transaction<'_>, id: &str) -> Result<Option<u64>, StoreError> {
        let sql = format!("SELECT revision FROM {} WHERE id = ?1", T::TABLE);
        let revision: rusqlite::Result<Option<i64>> = db.query_row(&sql, [id], |row| row.get(0)).optional();
        Ok(revision.map_err(|source| self.error(source))?.map(i64::cast_unsigned))
    }

    fn put<T: Document>(&self, db: &Transaction<'_>, document: &Valid<T>) -> Result<Stored<T>, ChangeError> {
        let document = document.get();
        let text = serde_json::to_string(document)
            .map_err(|error| StoreError::corrupt(self.path(), format!("{} {}: {error}", T::NOUN, document.id())))?;
        let revision = self.next_version(db)?;
        let updated_ms = now_ms();
        let row = Row { revision: revision.cast_signed(), updated_ms: updated_ms.cast_signed(), document: text };
        let written = document.write(db, &row).map_err(|source| self.error(source))?;
        written.map_err(ChangeError::Taken)?;
        Ok(Stored { document: document.clone(), revision, updated_ms })
    }

    /// Versions follow the clock where they can, so that they also grow when a database is lost or an old one restored:
    /// a node that saw the later ones is then still told of each change.
    pub(super) fn next_version(&self, db: &Transaction<'_>) -> Result<u64, StoreError> {
        let version: rusqlite::Result<i64> = db.query_row(
            "UPDATE settings SET value = max(value + 1, ?1) WHERE name = 'snapshot_version' RETURNING value",
            params![now_ms().cast_signed()],
            |row| row.get(0),
        );
        Ok(version.map_err(|source| self.error(source))?.cast_unsigned())
    }

    pub(super) fn stored<T: Document>(
        &self,
        (document, revision, updated_ms): (String, i64, i64),
    ) -> Result<Stored<T>, StoreError> {
        Ok(Stored {
            document: self.parse(&document)?,
            revision: revision.cast_unsigned(),
            updated_ms: updated_ms.cast_unsigned(),
        })
    }

    fn parse<T: Document>(&self, document: &str) -> Result<T, StoreError> {
        serde_json::from_str(document)
            .map_err(|error| StoreError::corrupt(self.path(), format!("a {}: {error}", T::NOUN)))
    }
}

/// Of a row `document, revision, updated_ms`.
pub(super) fn columns(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, i64, i64)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}
