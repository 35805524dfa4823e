//! Channels, and the version of the snapshot they make up.

use rusqlite::{OptionalExtension, Transaction, params};
use shoal_link::{Channel, Snapshot};

use super::{Store, StoreError, now_ms};
use crate::validate::{MAX_PREFIX, ValidChannel};

/// A channel as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The document.
    pub channel: Channel,
    /// The snapshot version that brought it in; never used twice.
    pub revision: u64,
    /// Unix milliseconds of the change.
    pub updated_ms: u64,
}

/// Why a channel was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// No such channel.
    #[error("there is no such channel")]
    Missing,
    /// There is one of that id.
    #[error("there is a channel of that id")]
    Exists,
    /// Another channel answers to the same URLs.
    #[error("channel `{channel}` answers to host `{host}` and prefix `{prefix}`")]
    Taken {
        /// Empty: any host.
        host: String,
        /// Path prefix.
        prefix: String,
        /// The other channel.
        channel: String,
    },
    /// It was changed meanwhile.
    #[error("the channel is at revision {current}")]
    Stale {
        /// Its revision now.
        current: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Every channel and the version, as of one moment.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (version, documents) = self.read(|db| {
            let transaction = db.unchecked_transaction()?;
            let version: i64 =
                transaction
                    .query_row("SELECT value FROM settings WHERE name = 'snapshot_version'", [], |row| row.get(0))?;
            let mut statement = transaction.prepare_cached("SELECT document FROM channels ORDER BY id")?;
            let documents = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
            Ok((version, documents))
        })?;
        let channels = documents.iter().map(|text| self.parse(text)).collect::<Result<_, _>>()?;
        Ok(Snapshot { version: version.cast_unsigned(), channels, ..Snapshot::default() })
    }

    /// One channel.
    pub fn channel(&self, id: &str) -> Result<Option<Stored>, StoreError> {
        let row = self.read(|db| {
            db.prepare_cached("SELECT document, revision, updated_ms FROM channels WHERE id = ?1")?
                .query_row([id], columns)
                .optional()
        })?;
        row.map(|row| self.stored(row)).transpose()
    }

    /// Up to `limit` channels in the order of their ids, from the one behind `after`; of one tenant, if given.
    pub fn channels(&self, tenant: Option<&str>, after: &str, limit: u32) -> Result<Vec<Stored>, StoreError> {
        let rows = self.read(|db| {
            db.prepare_cached(
                "SELECT document, revision, updated_ms FROM channels
                 WHERE id > ?1 AND (?2 IS NULL OR tenant = ?2) ORDER BY id LIMIT ?3",
            )?
            .query_map(params![after, tenant, limit], columns)?
            .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter().map(|row| self.stored(row)).collect()
    }

    /// The channel that answers to `path` at `host`, as the edge finds it: the longest prefix of one that names the host,
    /// else the longest of one for any host. Without a host, channels for any host come second too.
    pub fn channel_at(&self, host: Option<&str>, path: &str) -> Result<Option<Stored>, StoreError> {
        let ends = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        let prefixes: Vec<&str> = ends.take_while(|at| *at < MAX_PREFIX).filter_map(|at| path.get(..=at)).collect();
        let id: Option<String> = self.read(|db| {
            let mut named = db.prepare_cached(
                "SELECT channel FROM routes WHERE prefix = ?1 AND host <> '' AND (?2 IS NULL OR host = ?2) LIMIT 1",
            )?;
            let mut any = db.prepare_cached("SELECT channel FROM routes WHERE prefix = ?1 AND host = ''")?;
            for prefix in prefixes.iter().rev() {
                let found = named.query_row(params![prefix, host], |row| row.get(0)).optional()?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            for prefix in prefixes.iter().rev() {
                let found = any.query_row([prefix], |row| row.get(0)).optional()?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })?;
        id.map_or(Ok(None), |id| self.channel(&id))
    }

    /// Adds a channel.
    pub fn create_channel(&self, channel: &ValidChannel) -> Result<Stored, ChangeError> {
        self.write(|db| match self.revision(db, &channel.get().id)? {
            Some(_) => Err(ChangeError::Exists),
            None => self.put(db, channel),
        })
    }

    /// Replaces the channel of the same id; if `expected` is given, only when that is its revision.
    pub fn replace_channel(&self, channel: &ValidChannel, expected: Option<u64>) -> Result<Stored, ChangeError> {
        self.write(|db| {
            self.expect(db, &channel.get().id, expected)?;
            self.put(db, channel)
        })
    }

    /// Deletes a channel; its ledger stays.
    pub fn delete_channel(&self, id: &str, expected: Option<u64>) -> Result<(), ChangeError> {
        self.write(|db| {
            self.expect(db, id, expected)?;
            self.next_version(db)?;
            db.execute("DELETE FROM channels WHERE id = ?1", [id]).map_err(|source| self.error(source))?;
            Ok(())
        })
    }

    fn expect(&self, db: &Transaction<'_>, id: &str, expected: Option<u64>) -> Result<(), ChangeError> {
        let current = self.revision(db, id)?.ok_or(ChangeError::Missing)?;
        if expected.is_some_and(|expected| expected != current) {
            return Err(ChangeError::Stale { current });
        }
        Ok(())
    }

    fn revision(&self, db: &Transaction<'_>, id: &str) -> Result<Option<u64>, StoreError> {
        let revision: rusqlite::Result<Option<i64>> =
            db.query_row("SELECT revision FROM channels WHERE id = ?1", [id], |row| row.get(0)).optional();
        Ok(revision.map_err(|source| self.error(source))?.map(i64::cast_unsigned))
    }

    fn put(&self, db: &Transaction<'_>, channel: &ValidChannel) -> Result<Stored, ChangeError> {
        let channel = channel.get();
        let document = serde_json::to_string(channel)
            .map_err(|error| StoreError::corrupt(self.path(), format!("channel {}: {error}", channel.id)))?;
        let revision = self.next_version(db)?;
        let updated_ms = now_ms();
        let write = || -> rusqlite::Result<Option<(String, String)>> {
            db.execute(
                "INSERT INTO channels (id, tenant, revision, updated_ms, document) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (id) DO UPDATE SET tenant = ?2, revision = ?3, updated_ms = ?4, document = ?5",
                params![channel.id, channel.tenant, revision.cast_signed(), updated_ms.cast_signed(), document],
            )?;
            db.execute("DELETE FROM routes WHERE channel = ?1", [&channel.id])?;
            let any = [String::new()];
            for host in if channel.hosts.is_empty() { &any } else { channel.hosts.as_slice() } {
                let other = db
                    .query_row(
                        "SELECT channel FROM routes WHERE prefix = ?1 AND host = ?2",
                        [&channel.prefix, host],
                        |row| row.get::<_, String>(0),
                    )
                    .optional()?;
                if let Some(other) = other {
                    return Ok(Some((host.clone(), other)));
                }
                db.execute(
                    "INSERT INTO routes (prefix, host, channel) VALUES (?1, ?2, ?3)",
                    [&channel.prefix, host, &channel.id],
                )?;
            }
            Ok(None)
        };
        match write().map_err(|source| self.error(source))? {
            None => Ok(Stored { channel: channel.clone(), revision, updated_ms }),
            Some((host, other)) => Err(ChangeError::Taken { host, prefix: channel.prefix.clone(), channel: other }),
        }
    }

    /// Versions follow the clock where they can, so that they also grow when a database is lost or an old one restored:
    /// a node that saw the later ones is then still told of each change.
    fn next_version(&self, db: &Transaction<'_>) -> Result<u64, StoreError> {
        let version: rusqlite::Result<i64> = db.query_row(
            "UPDATE settings SET value = max(value + 1, ?1) WHERE name = 'snapshot_version' RETURNING value",
            [now_ms().cast_signed()],
            |row| row.get(0),
        );
        Ok(version.map_err(|source| self.error(source))?.cast_unsigned())
    }

    fn stored(&self, (document, revision, updated_ms): (String, i64, i64)) -> Result<Stored, StoreError> {
        Ok(Stored {
            channel: self.parse(&document)?,
            revision: revision.cast_unsigned(),
            updated_ms: updated_ms.cast_unsigned(),
        })
    }

    fn parse(&self, document: &str) -> Result<Channel, StoreError> {
        serde_json::from_str(document).map_err(|error| StoreError::corrupt(self.path(), format!("a channel: {error}")))
    }
}

fn columns(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, i64, i64)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}
