//! Data planes that ever said hello.

use super::engine::{Row, values};
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
        self.merge(|tx| {
            tx.execute(
                "INSERT INTO nodes (node, boot, software, public_url, snapshot, first_seen_ms, last_seen_ms)
                 VALUES ($1, $2, $3, $4, $5, $6, $6)
                 ON CONFLICT (node) DO UPDATE
                 SET boot = $2, software = $3, public_url = $4, snapshot = $5, last_seen_ms = $6",
                &values![node, boot, software, public_url, snapshot, now_ms()],
            )
            .map(|_| ())
        })
    }

    /// Notes what a node serves as it goes.
    pub fn node_gone(&self, node: &str, snapshot: Option<u64>) -> Result<(), StoreError> {
        self.merge(|tx| {
            tx.execute(
                "UPDATE nodes SET snapshot = $2, last_seen_ms = $3 WHERE node = $1",
                &values![node, snapshot, now_ms()],
            )
            .map(|_| ())
        })
    }

    /// Every node, by name.
    pub fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        self.read(|tx| {
            let rows = tx.query(
                "SELECT node, boot, software, public_url, snapshot, first_seen_ms, last_seen_ms
                 FROM nodes ORDER BY node",
                &[],
            )?;
            let node = |row: &Row| {
                Ok(NodeRow {
                    node: row.get(0)?,
                    boot: row.get(1)?,
                    software: row.get(2)?,
                    public_url: row.get(3)?,
                    snapshot: row.get(4)?,
                    first_seen_ms: row.get(5)?,
                    last_seen_ms: row.get(6)?,
                })
            };
            rows.iter().map(node).collect()
        })
    }
}
