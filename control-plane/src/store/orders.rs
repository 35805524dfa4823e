//! Commands for nodes that are connected to another instance, and their answers.

use super::engine::{Value, values};
use super::{Store, StoreError, now_ms};

/// When an order is forgotten whose instance did not do so.
const KEPT_MS: u64 = 5 * 60_000;

/// A command for nodes of other instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number, above all earlier ones.
    pub number: u64,
    /// How long the answers are waited for.
    pub wait_ms: u64,
    /// The nodes, as JSON.
    pub nodes: String,
    /// The command, as JSON.
    pub command: String,
}

/// What instances look for all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct News {
    /// The newest snapshot's version.
    pub version: u64,
    /// The newest order's number.
    pub order: u64,
}

impl Store {
    /// Whether others changed the snapshot, or want something.
    pub fn news(&self) -> Result<News, StoreError> {
        let rows = self.read(|tx| {
            tx.query("SELECT name, value FROM settings WHERE name IN ('snapshot_version', 'orders')", &[])
        })?;
        let mut news = News::default();
        for row in rows {
            match &*row.get::<String>(0)? {
                "orders" => news.order = row.get(1)?,
                _ => news.version = row.get(1)?,
            }
        }
        Ok(news)
    }

    /// Places an order of `instance`; its number.
    pub fn order(&self, instance: &str, nodes: &str, command: &str, wait_ms: u64) -> Result<u64, StoreError> {
        self.merge(|tx| {
            tx.execute("DELETE FROM orders WHERE made_ms < $1", &values![now_ms().saturating_sub(KEPT_MS)])?;
            // Locks the row: whoever sees an order sees all before it.
            let row = tx.query_one("UPDATE settings SET value = value + 1 WHERE name = 'orders' RETURNING value", &[])?;
            let number: u64 = row.map_or_else(
                || Err(StoreError::corrupt(tx.name(), "the number of orders is gone".to_owned())),
                |row| row.get(0),
            )?;
            tx.execute(
                "INSERT INTO orders (number, instance, made_ms, wait_ms, nodes, command) VALUES ($1, $2, $3, $4, $5, $6)",
                &values![number, instance, now_ms(), wait_ms, nodes, command],
            )?;
            Ok(number)
        })
    }

    /// Up to `limit` orders of other instances, from the one behind `after`.
    pub fn orders(&self, instance: &str, after: u64, limit: u32) -> Result<Vec<Order>, StoreError> {
        self.read(|tx| {
            let rows = tx.query(
                "SELECT number, wait_ms, nodes, command FROM orders
                 WHERE number > $1 AND instance <> $2 ORDER BY number LIMIT $3",
                &values![after, instance, limit],
            )?;
            rows.iter()
                .map(|row| {
                    Ok(Order { number: row.get(0)?, wait_ms: row.get(1)?, nodes: row.get(2)?, command: row.get(3)? })
                })
                .collect()
        })
    }

    /// Notes answers to an order, as JSON by node; false when nobody waits for them any more.
    pub fn answer_order(&self, number: u64, answers: &[(String, String)]) -> Result<bool, StoreError> {
        self.write(|tx| {
            if tx.query_one("SELECT number FROM orders WHERE number = $1", &values![number])?.is_none() {
                return Ok(false);
            }
            let rows: Vec<Value> = answers.iter().flat_map(|(node, answer)| values![number, node, answer]).collect();
            let head = "INSERT INTO order_answers (number, node, answer) VALUES";
            tx.batch(head, 3, "ON CONFLICT (number, node) DO NOTHING", &rows)?;
            Ok(true)
        })
    }

    /// The answers so far.
    pub fn order_answers(&self, number: u64) -> Result<Vec<(String, String)>, StoreError> {
        self.read(|tx| {
            let sql = "SELECT node, answer FROM order_answers WHERE number = $1 ORDER BY node";
            tx.query(sql, &values![number])?.iter().map(|row| Ok((row.get(0)?, row.get(1)?))).collect()
        })
    }

    /// Forgets an order.
    pub fn end_order(&self, number: u64) -> Result<(), StoreError> {
        self.write(|tx| tx.execute("DELETE FROM orders WHERE number = $1", &values![number]).map(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{TestDb, on_each_engine};

    fn orders_are_seen_by_others_and_their_answers_by_us(db: &TestDb) {
        let store = db.open();
        let start = store.news().unwrap();
        let first = store.order("a", "[\"n1\"]", "{}", 500).unwrap();
        let second = store.order("b", "[]", "{}", 500).unwrap();
        assert!(start.order < first && first < second);
        assert_eq!(store.news().unwrap(), News { order: second, ..start });
        assert!(
            store.orders("a", second, 10).unwrap().is_empty() && store.orders("c", start.order, 1).unwrap().len() == 1
        );
        let seen = store.orders("b", start.order, 10).unwrap();
        let expected = Order { number: first, wait_ms: 500, nodes: "[\"n1\"]".to_owned(), command: "{}".to_owned() };
        assert_eq!(seen, [expected]);
        let answer = |node: &str, text: &str| (node.to_owned(), text.to_owned());
        assert!(store.answer_order(first, &[answer("n2", "2"), answer("n1", "1")]).unwrap());
        assert!(store.answer_order(first, &[answer("n1", "again")]).unwrap());
        assert_eq!(store.order_answers(first).unwrap(), [answer("n1", "1"), answer("n2", "2")]);
        store.end_order(first).unwrap();
        assert!(store.order_answers(first).unwrap().is_empty());
        assert!(!store.answer_order(first, &[answer("n1", "late")]).unwrap());
    }

    on_each_engine!(orders_are_seen_by_others_and_their_answers_by_us);
}
