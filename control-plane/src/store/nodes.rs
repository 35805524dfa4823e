//! Data planes that ever said hello.

use rusqlite::params;

use super::{Store, StoreError, now_ms};

/// What is remembered of a node across restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// Its last run.
    pub boot: u64,
    /// Release of its program.
    pub software: String,
    /// Where viewers reach it.
    pub public_url: Option<String>,
    /// The snapshot it was last known to serve.
    pub snapshot: Option<u64>,
    /// Unix milliseconds of its first hello.
    pub first_seen_ms: u64,
    /// Unix milliseconds of its last hello or good-bye.
    pub last_seen_ms: u64,
}

impl Store {
    /// Notes a hello.
    pub fn node_seen(
        &self,
        node: &str,
        boot: u64,
        software: &str,
        public_url: Option<&str>,
        snapshot: Option<u64>,
    ) -> Result<(), StoreError> {
        self.write(|db| {
            db.execute(
                "INSERT INTO nodes (node, boot, software, public_url, snapshot, first_seen_ms, last_seen_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
                 ON CONFLICT (node) DO UPDATE
                 SET boot = ?2, software = ?3, public_url = ?4, snapshot = ?5, last_seen_ms = ?6",
                params![
                    node,
                    boot.cast_signed(),
                    software,
                    public_url,
                    snapshot.map(u64::cast_signed),
                    now_ms().cast_signed()
                ],
            )
            .map_err(|source| self.error(source))?;
            Ok(())
        })
    }

    /// Notes what a node serves as it goes.
    pub fn node_gone(&self, node: &str, snapshot: Option<u64>) -> Result<(), StoreError> {
        self.write(|db| {
            db.execute(
                "UPDATE nodes SET snapshot = ?2, last_seen_ms = ?3 WHERE node = ?1",
                params![node, snapshot.map(u64::cast_signed), now_ms().cast_signed()],
            )
            .map_err(|source| self.error(source))?;
            Ok(())
        })
    }

    /// Every node, by name.
    pub fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT node, boot, software, public_url, snapshot, first_seen_ms, last_seen_ms
                 FROM nodes ORDER BY node",
            )?
            .query_map([], |row| {
                Ok(NodeRow {
                    node: row.get(0)?,
                    boot: row.get::<_, i64>(1)?.cast_unsigned(),
                    software: row.get(2)?,
                    public_url: row.get(3)?,
                    snapshot: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
                    first_seen_ms: row.get::<_, i64>(5)?.cast_unsigned(),
                    last_seen_ms: row.get::<_, i64>(6)?.cast_unsigned(),
                })
            })?
            .collect()
        })
    }
}
