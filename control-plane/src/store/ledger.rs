//! The usage ledger: each batch counted once, sums by hour.

use std::collections::BTreeMap;

use shoal_link::ledger::{Batch, Kind};

use super::engine::{Row, Tx, Value, values};
use super::{Store, StoreError, now_ms};

const HOUR_MS: u64 = 3_600_000;

/// Every kind, in the order that [`Applied::body_bytes`] has.
pub const KINDS: [Kind; 4] = [Kind::Client, Kind::Child, Kind::Upstream, Kind::Relay];

/// What became of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Counted now.
    pub counted: u64,
    /// Counted before.
    pub repeated: u64,
    /// Sequence numbers skipped: what they held was lost at the node.
    pub skipped: u64,
    /// Body bytes counted now, in the order of [`KINDS`].
    pub body_bytes: [u64; KINDS.len()],
}

/// A column that sums can be grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// By the hour.
    Hour,
    /// By tenant.
    Tenant,
    /// By channel.
    Channel,
    /// By session.
    Session,
    /// By kind.
    Kind,
    /// By origin.
    Origin,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Hour, Self::Tenant, Self::Channel, Self::Session, Self::Kind, Self::Origin];

    /// Its name, in SQL and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Tenant => "tenant",
            Self::Channel => "channel",
            Self::Session => "session",
            Self::Kind => "kind",
            Self::Origin => "origin",
        }
    }
}

/// Which sums are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerQuery {
    /// First Unix hour.
    pub from_hour: Option<u64>,
    /// The Unix hour behind the last.
    pub to_hour: Option<u64>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this channel.
    pub channel: Option<String>,
    /// Of this session.
    pub session: Option<String>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// One row for each combination of these; none: one row in all.
    pub group: Vec<Group>,
    /// Rows to leave out at the start.
    pub offset: u32,
    /// Most rows.
    pub limit: u32,
}

/// One sum. A column that was not grouped by is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerRow {
    /// Unix hour.
    pub hour: Option<u64>,
    /// Tenant.
    pub tenant: Option<String>,
    /// Channel; empty for what is relayed.
    pub channel: Option<String>,
    /// Session; empty when unknown. Of what is relayed, the TURN user.
    pub session: Option<String>,
    /// Kind.
    pub kind: Option<String>,
    /// Origin; empty for all but upstream.
    pub origin: Option<String>,
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// Bytes of bodies, heads and framing.
    pub wire_bytes: u64,
}

impl Store {
    /// Counts those of a node's batches that were not counted before. All or none: the sums and the note that they are
    /// counted are one commit, on the disk when this returns. The note is locked first, so that a node that reaches two instances at
    /// once is counted once, too.
    pub fn apply_ledger(&self, node: &str, batches: &[Batch]) -> Result<Applied, StoreError> {
        self.merge(|tx| apply(tx, node, batches))
    }

    /// Sums, ordered by the columns grouped by.
    pub fn ledger(&self, query: &LedgerQuery) -> Result<Vec<LedgerRow>, StoreError> {
        let (sql, values) = select(query);
        self.report(|tx| tx.query(&sql, &values)?.iter().map(|row| sums(row, &query.group)).collect())
    }
}

fn sums(row: &Row, group: &[Group]) -> Result<LedgerRow, StoreError> {
    let mut sums =
        LedgerRow { requests: row.get(0)?, body_bytes: row.get(1)?, wire_bytes: row.get(2)?, ..LedgerRow::default() };
    for (at, group) in (3..).zip(group) {
        match group {
            Group::Hour => sums.hour = row.get(at)?,
            Group::Tenant => sums.tenant = row.get(at)?,
            Group::Channel => sums.channel = row.get(at)?,
            Group::Session => sums.session = row.get(at)?,
            Group::Kind => sums.kind = row.get(at)?,
            Group::Origin => sums.origin = row.get(at)?,
        }
    }
    Ok(sums)
}

fn apply(tx: &mut Tx<'_>, node: &str, batches: &[Batch]) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    let mut boots: BTreeMap<u64, u64> = BTreeMap::new();
    // Summed up and sorted: each row is written once, and by all in the same order, so that nobody waits in a circle.
    let mut rows: BTreeMap<_, [u64; 3]> = BTreeMap::new();
    for batch in batches {
        let last = match boots.entry(batch.boot) {
            std::collections::btree_map::Entry::Occupied(last) => last.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(lock_boot(tx, node, batch.boot)?),
        };
        if batch.sequence <= *last {
            applied.repeated += 1;
            continue;
        }
        applied.counted += 1;
        applied.skipped = applied.skipped.saturating_add(batch.sequence - *last - 1);
        *last = batch.sequence;
        let hour = batch.start_ms / HOUR_MS;
        for entry in &batch.entries {
            let key = (hour, &entry.tenant, &entry.channel, &*entry.session, kind_name(entry.kind), &entry.origin);
            let sums = rows.entry(key).or_default();
            for (sum, more) in sums.iter_mut().zip([entry.requests, entry.body_bytes, entry.wire_bytes]) {
                *sum = sum.saturating_add(more).min(i64::MAX as u64);
            }
            for (kind, bytes) in KINDS.iter().zip(&mut applied.body_bytes) {
                if *kind == entry.kind {
                    *bytes = bytes.saturating_add(entry.body_bytes);
                }
            }
        }
    }
    for (boot, sequence) in boots {
        tx.execute(
            "UPDATE ledger_applied SET sequence = $3 WHERE node = $1 AND boot = $2",
            &values![node, boot, sequence],
        )?;
    }
    let values: Vec<Value> = rows
        .into_iter()
        .flat_map(|((hour, tenant, channel, session, kind, origin), [requests, body_bytes, wire_bytes])| {
            values![hour, tenant, channel, session, kind, origin, requests, body_bytes, wire_bytes]
        })
        .collect();
    tx.batch(
        "INSERT INTO ledger (hour, tenant, channel, session, kind, origin, requests, body_bytes, wire_bytes) VALUES",
        9,
        "ON CONFLICT (hour, tenant, channel, session, kind, origin) DO UPDATE
         SET requests = ledger.requests + excluded.requests, body_bytes = ledger.body_bytes + excluded.body_bytes,
             wire_bytes = ledger.wire_bytes + excluded.wire_bytes",
        &values,
    )?;
    Ok(applied)
}

/// The last batch counted of a boot, which nobody else counts until this transaction ends.
fn lock_boot(tx: &mut Tx<'_>, node: &str, boot: u64) -> Result<u64, StoreError> {
    let row = tx.query_one(
        "INSERT INTO ledger_applied (node, boot, sequence, applied_ms) VALUES ($1, $2, 0, $3)
         ON CONFLICT (node, boot) DO UPDATE SET applied_ms = $3 RETURNING sequence",
        &values![node, boot, now_ms()],
    )?;
    row.map_or(Ok(0), |row| row.get(0))
}

fn select(query: &LedgerQuery) -> (String, Vec<Value>) {
    let list = query.group.iter().map(|group| group.name()).collect::<Vec<_>>().join(", ");
    let comma = if list.is_empty() { "" } else { ", " };
    let mut sql =
        format!("SELECT sum(requests), sum(body_bytes), sum(wire_bytes){comma}{list} FROM ledger WHERE 1 = 1");
    let mut values = Vec::new();
    let mut filter = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            values.push(value);
            sql.push_str(&format!(" AND {condition} ${}", values.len()));
        }
    };
    filter("hour >=", query.from_hour.map(Value::from));
    filter("hour <", query.to_hour.map(Value::from));
    filter("tenant =", query.tenant.as_deref().map(Value::from));
    filter("channel =", query.channel.as_deref().map(Value::from));
    filter("session =", query.session.as_deref().map(Value::from));
    filter("kind =", query.kind.map(|kind| kind_name(kind).into()));
    if list.is_empty() {
        // Without groups SQL would answer one row of nulls over nothing.
        sql.push_str(" HAVING count(*) > 0");
    } else {
        sql.push_str(&format!(" GROUP BY {list} ORDER BY {list}"));
    }
    sql.push_str(&format!(" LIMIT {} OFFSET {}", query.limit, query.offset));
    (sql, values)
}

/// The name of a kind in SQL, in the API and in metrics.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Client => "client",
        Kind::Child => "child",
        Kind::Upstream => "upstream",
        Kind::Relay => "relay",
    }
}
