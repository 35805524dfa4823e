//! Data planes that ever said hello, and at which instance of the control plane they are.

use super::engine::{Row, Value, values};
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
    /// Unix milliseconds of its last sign of life, by the clock of the instance that had it.
    pub last_seen_ms: u64,
    /// The instance that it was last connected to.
    pub instance: String,
    /// What it said of itself there, as JSON; none since it has gone.
    pub live: Option<String>,
}

/// A node that is connected to this instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeSeen {
    /// Its name.
    pub node: String,
    /// This run of it.
    pub boot: u64,
    /// Release of its program.
    pub software: String,
    /// Where viewers reach it.
    pub public_url: Option<String>,
    /// The snapshot it serves.
    pub snapshot: Option<u64>,
    /// What it said of itself, as JSON.
    pub live: String,
}

const COLUMNS: &str = "INSERT INTO nodes (node, boot, software, public_url, snapshot, first_seen_ms, last_seen_ms, live, instance, connection) VALUES";

const UPDATE: &str = "ON CONFLICT (node) DO UPDATE
    SET boot = excluded.boot, software = excluded.software, public_url = excluded.public_url, snapshot = excluded.snapshot,
        last_seen_ms = excluded.last_seen_ms, live = excluded.live";

impl Store {
    /// Notes that a node connected to `instance`. The number of the connection: from now on only this one speaks for the node.
    pub fn node_joined(&self, instance: &str, seen: &NodeSeen) -> Result<u64, StoreError> {
        let sql = format!(
            "{COLUMNS} ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) {UPDATE},
                 instance = excluded.instance, connection = nodes.connection + 1
             RETURNING connection"
        );
        let row = self.merge(|tx| tx.query_one(&sql, &columns(instance, seen, 1)))?;
        row.map_or(Ok(1), |row| row.get(0))
    }

    /// Notes that nodes are still connected to `instance`, each with the number of its connection, and how they are. Those that have
    /// connected elsewhere since are left as they are.
    pub fn nodes_alive(&self, instance: &str, nodes: &[(NodeSeen, u64)]) -> Result<(), StoreError> {
        let tail =
            format!("{UPDATE} WHERE nodes.instance = excluded.instance AND nodes.connection = excluded.connection");
        let rows: Vec<Value> =
            nodes.iter().flat_map(|(seen, connection)| columns(instance, seen, *connection)).collect();
        self.merge(|tx| tx.batch(COLUMNS, 10, &tail, &rows)).map(|_| ())
    }

    /// Notes what a node serves as it goes, unless it has connected elsewhere.
    pub fn node_gone(
        &self,
        node: &str,
        instance: &str,
        connection: u64,
        snapshot: Option<u64>,
    ) -> Result<(), StoreError> {
        self.merge(|tx| {
            tx.execute(
                "UPDATE nodes SET snapshot = $4, last_seen_ms = $5, live = NULL
                 WHERE node = $1 AND instance = $2 AND connection = $3",
                &values![node, instance, connection, snapshot, now_ms()],
            )
            .map(|_| ())
        })
    }

    /// Every node, by name.
    pub fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        self.read(|tx| {
            let rows = tx.query(
                "SELECT node, boot, software, public_url, snapshot, first_seen_ms, last_seen_ms, instance, live
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
                    instance: row.get(7)?,
                    live: row.get(8)?,
                })
            };
            rows.iter().map(node).collect()
        })
    }
}

fn columns(instance: &str, seen: &NodeSeen, connection: u64) -> [Value; 10] {
    let now = now_ms();
    values![
        &seen.node,
        seen.boot,
        &seen.software,
        seen.public_url.as_deref(),
        seen.snapshot,
        now,
        now,
        &seen.live,
        instance,
        connection
    ]
}
