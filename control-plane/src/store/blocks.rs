//! Who is blocked.

use ipnet::IpNet;
use shoal_link::Block;
use shoal_link::block::BLOCKS_MAX;

use super::documents::{SNAPSHOT_VERSION, next_version};
use super::engine::{Tx, values};
use super::{ChangeError, Store, StoreError, now_ms};

impl Store {
    /// All that hold now, by network.
    pub fn blocks(&self) -> Result<Vec<Block>, StoreError> {
        let rows = self.read(rows)?;
        self.parse_blocks(&rows)
    }

    /// Adds or replaces one; false: there are as many of its family as there may be.
    pub fn block(&self, block: &Block) -> Result<bool, ChangeError> {
        let document = serde_json::to_string(block).map_err(|error| self.corrupt(format!("a block: {error}")))?;
        let (network, ipv6) = (block.network.to_string(), matches!(block.network, IpNet::V6(_)));
        self.write(|tx| {
            // What has ended takes no room.
            tx.execute("DELETE FROM blocks WHERE until_s <= $1", &values![now_s()])?;
            let others = tx
                .query_one("SELECT count(*) FROM blocks WHERE ipv6 = $1 AND network <> $2", &values![ipv6, &network])?;
            if others.map_or(Ok(0), |row| row.get::<u64>(0))? >= BLOCKS_MAX as u64 {
                return Ok(false);
            }
            tx.execute(
                "INSERT INTO blocks (network, ipv6, until_s, document) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (network) DO UPDATE SET until_s = $3, document = $4",
                &values![&network, ipv6, block.until, &document],
            )?;
            next_version(tx, SNAPSHOT_VERSION)?;
            Ok(true)
        })
    }

    /// Takes one away; [`ChangeError::Missing`] when there is none.
    pub fn unblock(&self, network: IpNet) -> Result<(), ChangeError> {
        self.write(|tx| {
            if tx.execute("DELETE FROM blocks WHERE network = $1", &values![network.to_string()])? == 0 {
                return Err(ChangeError::Missing);
            }
            next_version(tx, SNAPSHOT_VERSION)?;
            Ok(())
        })
    }

    pub(super) fn parse_blocks(&self, rows: &[String]) -> Result<Vec<Block>, StoreError> {
        let parse =
            |text: &String| serde_json::from_str(text).map_err(|error| self.corrupt(format!("a block: {error}")));
        rows.iter().map(parse).collect()
    }
}

/// The documents of those that hold.
pub(super) fn rows(tx: &mut Tx<'_>) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT document FROM blocks WHERE until_s IS NULL OR until_s > $1 ORDER BY network";
    tx.query(sql, &values![now_s()])?.iter().map(|row| row.get(0)).collect()
}

fn now_s() -> u64 {
    now_ms() / 1_000
}
