//! Channels, and which of them answers to a URL.

use rusqlite::{OptionalExtension, Transaction, params};
use shoal_link::Channel;

use super::documents::{Document, Row, Stored, Table, Taken, columns};
use super::{Store, StoreError};
use crate::validate::MAX_PREFIX;

impl Document for Channel {
    const NOUN: &'static str = "channel";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Table for Channel {
    const TABLE: &'static str = "channels";

    fn write(&self, db: &Transaction<'_>, row: &Row) -> rusqlite::Result<Result<(), Taken>> {
        db.execute(
            "INSERT INTO channels (id, tenant, revision, updated_ms, document) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET tenant = ?2, revision = ?3, updated_ms = ?4, document = ?5",
            params![self.id, self.tenant, row.revision, row.updated_ms, row.document],
        )?;
        db.execute("DELETE FROM routes WHERE channel = ?1", [&self.id])?;
        let any = [String::new()];
        for host in if self.hosts.is_empty() { &any } else { self.hosts.as_slice() } {
            let other = db
                .query_row("SELECT channel FROM routes WHERE prefix = ?1 AND host = ?2", [&self.prefix, host], |row| {
                    row.get::<_, String>(0)
                })
                .optional()?;
            if let Some(channel) = other {
                return Ok(Err(Taken { host: host.clone(), prefix: self.prefix.clone(), channel }));
            }
            db.execute(
                "INSERT INTO routes (prefix, host, channel) VALUES (?1, ?2, ?3)",
                [&self.prefix, host, &self.id],
            )?;
        }
        Ok(Ok(()))
    }
}

impl Store {
    /// Up to `limit` channels in the order of their ids, from the one behind `after`; of one tenant, if given.
    pub fn channels(&self, tenant: Option<&str>, after: &str, limit: u32) -> Result<Vec<Stored<Channel>>, StoreError> {
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
    pub fn channel_at(&self, host: Option<&str>, path: &str) -> Result<Option<Stored<Channel>>, StoreError> {
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
        id.map_or(Ok(None), |id| self.find(&id))
    }
}
