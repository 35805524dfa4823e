//! Who is blocked.

use ipnet::IpNet;
use rusqlite::{Connection, Transaction, params};
use shoal_link::Block;
use shoal_link::block::BLOCKS_MAX;

use super::{ChangeError, Store, StoreError, now_ms};

impl Store {
    /// All that hold now, by network.
    pub fn blocks(&self) -> Result<Vec<Block>, StoreError> {
        let rows = self.read(rows)?;
        self.parse_blocks(&rows)
    }

    /// Adds or replaces one; false: there are as many of its family as there may be.
    pub fn block(&self, block: &Block) -> Result<bool, ChangeError> {
        let document = serde_json::to_string(block)
            .map_err(|error| StoreError::corrupt(self.path(), format!("a block: {error}")))?;
        let (network, ipv6) = (block.network.to_string(), matches!(block.network, IpNet::V6(_)));
        self.write(|db| {
            let put = |db: &Transaction<'_>| -> rusqlite::Result<bool> {
                // What has ended takes no room.
                db.execute("DELETE FROM blocks WHERE until_s <= ?1", [now_s()])?;
                let others: i64 = db.query_row(
                    "SELECT count(*) FROM blocks WHERE ipv6 = ?1 AND network != ?2",
                    params![ipv6, network],
                    |row| row.get(0),
                )?;
                if others >= BLOCKS_MAX as i64 {
                    return Ok(false);
                }
                db.execute(
                    "INSERT INTO blocks (network, ipv6, until_s, document) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (network) DO UPDATE SET until_s = ?3, document = ?4",
                    params![network, ipv6, block.until.map(u64::cast_signed), document],
                )?;
                Ok(true)
            };
            let done = put(db).map_err(|source| self.error(source))?;
            if done {
                self.next_version(db)?;
            }
            Ok(done)
        })
    }

    /// Takes one away; [`ChangeError::Missing`] when there is none.
    pub fn unblock(&self, network: IpNet) -> Result<(), ChangeError> {
        self.write(|db| {
            let gone = db.execute("DELETE FROM blocks WHERE network = ?1", [network.to_string()]);
            if gone.map_err(|source| self.error(source))? == 0 {
                return Err(ChangeError::Missing);
            }
            self.next_version(db)?;
            Ok(())
        })
    }

    pub(super) fn parse_blocks(&self, rows: &[String]) -> Result<Vec<Block>, StoreError> {
        let parse = |text: &String| {
            serde_json::from_str(text).map_err(|error| StoreError::corrupt(self.path(), format!("a block: {error}")))
        };
        rows.iter().map(parse).collect()
    }
}

/// The documents of those that hold.
pub(super) fn rows(db: &Connection) -> rusqlite::Result<Vec<String>> {
    db.prepare_cached("SELECT document FROM blocks WHERE until_s IS NULL OR until_s > ?1 ORDER BY network")?
        .query_map([now_s()], |row| row.get(0))?
        .collect()
}

fn now_s() -> i64 {
    (now_ms() / 1_000).cast_signed()
}
