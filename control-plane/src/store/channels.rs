//! Channels, and which of them answers to a URL.

use shoal_link::Channel;

use super::documents::{ChangeError, Document, Record, Stored, Table, Taken};
use super::engine::{Tx, values};
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

    fn write(&self, tx: &mut Tx<'_>, record: &Record) -> Result<(), ChangeError> {
        tx.execute(
            "INSERT INTO channels (id, tenant, revision, updated_ms, document) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET tenant = $2, revision = $3, updated_ms = $4, document = $5",
            &values![&*self.id, &*self.tenant, record.revision, record.updated_ms, &record.document],
        )?;
        tx.execute("DELETE FROM routes WHERE channel = $1", &values![&*self.id])?;
        let any = [String::new()];
        for host in if self.hosts.is_empty() { &any } else { self.hosts.as_slice() } {
            let route = values![&*self.prefix, host];
            if let Some(other) = tx.query_one("SELECT channel FROM routes WHERE prefix = $1 AND host = $2", &route)? {
                let taken = Taken { host: host.clone(), prefix: self.prefix.clone(), channel: other.get(0)? };
                return Err(ChangeError::Taken(taken));
            }
            tx.execute(
                "INSERT INTO routes (prefix, host, channel) VALUES ($1, $2, $3)",
                &values![&*self.prefix, host, &*self.id],
            )?;
        }
        Ok(())
    }
}

impl Store {
    /// The channel that answers to `path` at `host`, as the edge finds it: the longest prefix of one that names the host,
    /// else the longest of one for any host. Without a host, channels for any host come second too.
    pub fn channel_at(&self, host: Option<&str>, path: &str) -> Result<Option<Stored<Channel>>, StoreError> {
        let ends = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        let prefixes: Vec<&str> = ends.take_while(|at| *at < MAX_PREFIX).filter_map(|at| path.get(..=at)).collect();
        let id: Option<String> = self.read(|tx| {
            for prefix in prefixes.iter().rev() {
                let named = "SELECT channel FROM routes
                     WHERE prefix = $1 AND host <> '' AND (CAST($2 AS TEXT) IS NULL OR host = $2) LIMIT 1";
                if let Some(found) = tx.query_one(named, &values![*prefix, host])? {
                    return found.get(0).map(Some);
                }
            }
            for prefix in prefixes.iter().rev() {
                let any = "SELECT channel FROM routes WHERE prefix = $1 AND host = ''";
                if let Some(found) = tx.query_one(any, &values![*prefix])? {
                    return found.get(0).map(Some);
                }
            }
            Ok(None)
        })?;
        id.map_or(Ok(None), |id| self.find(&id))
    }
}
