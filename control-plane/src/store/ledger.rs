//! The usage ledger: each batch counted once, sums by hour.

use rusqlite::types::Value as SqlValue;
use rusqlite::{OptionalExtension, Transaction, params, params_from_iter};
use shoal_link::ledger::{Batch, Kind};

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
    /// counted are one commit, on the disk when this returns.
    pub fn apply_ledger(&self, node: &str, batches: &[Batch]) -> Result<Applied, StoreError> {
        self.write(|db| apply(db, node, batches).map_err(|source| self.error(source)))
    }

    /// Sums, ordered by the columns grouped by.
    pub fn ledger(&self, query: &LedgerQuery) -> Result<Vec<LedgerRow>, StoreError> {
        let (sql, values) = select(query);
        self.report(|db| {
            db.prepare(&sql)?
                .query_map(params_from_iter(values), |row| {
                    let mut sums = LedgerRow {
                        requests: row.get::<_, i64>(0)?.cast_unsigned(),
                        body_bytes: row.get::<_, i64>(1)?.cast_unsigned(),
                        wire_bytes: row.get::<_, i64>(2)?.cast_unsigned(),
                        ..LedgerRow::default()
                    };
                    for (at, group) in (3..).zip(&query.group) {
                        match group {
                            Group::Hour => sums.hour = Some(row.get::<_, i64>(at)?.cast_unsigned()),
                            Group::Tenant => sums.tenant = Some(row.get(at)?),
                            Group::Channel => sums.channel = Some(row.get(at)?),
                            Group::Session => sums.session = Some(row.get(at)?),
                            Group::Kind => sums.kind = Some(row.get(at)?),
                            Group::Origin => sums.origin = Some(row.get(at)?),
                        }
                    }
                    Ok(sums)
                })?
                .collect()
        })
    }
}

fn apply(db: &Transaction<'_>, node: &str, batches: &[Batch]) -> rusqlite::Result<Applied> {
    let mut applied = Applied::default();
    let mut last = db.prepare_cached("SELECT sequence FROM ledger_applied WHERE node = ?1 AND boot = ?2")?;
    let mut note = db.prepare_cached(
        "INSERT INTO ledger_applied (node, boot, sequence, applied_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (node, boot) DO UPDATE SET sequence = ?3, applied_ms = ?4",
    )?;
    let mut add = db.prepare_cached(
        "INSERT INTO ledger (hour, tenant, channel, session, kind, origin, requests, body_bytes, wire_bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (hour, tenant, channel, session, kind, origin) DO UPDATE
         SET requests = requests + ?7, body_bytes = body_bytes + ?8, wire_bytes = wire_bytes + ?9",
    )?;
    for batch in batches {
        let boot = batch.boot.cast_signed();
        let last: Option<i64> = last.query_row(params![node, boot], |row| row.get(0)).optional()?;
        let last = last.map_or(0, i64::cast_unsigned);
        if batch.sequence <= last {
            applied.repeated += 1;
            continue;
        }
        applied.counted += 1;
        applied.skipped = applied.skipped.saturating_add(batch.sequence - last - 1);
        note.execute(params![node, boot, batch.sequence.cast_signed(), now_ms().cast_signed()])?;
        let hour = (batch.start_ms / HOUR_MS).cast_signed();
        for entry in &batch.entries {
            add.execute(params![
                hour,
                entry.tenant,
                entry.channel,
                entry.session,
                kind_name(entry.kind),
                entry.origin,
                entry.requests.cast_signed(),
                entry.body_bytes.cast_signed(),
                entry.wire_bytes.cast_signed(),
            ])?;
            for (kind, bytes) in KINDS.iter().zip(&mut applied.body_bytes) {
                if *kind == entry.kind {
                    *bytes = bytes.saturating_add(entry.body_bytes);
                }
            }
        }
    }
    Ok(applied)
}

fn select(query: &LedgerQuery) -> (String, Vec<SqlValue>) {
    let list = query.group.iter().map(|group| group.name()).collect::<Vec<_>>().join(", ");
    let comma = if list.is_empty() { "" } else { ", " };
    let mut sql = format!("SELECT sum(requests), sum(body_bytes), sum(wire_bytes){comma}{list} FROM ledger WHERE 1");
    let mut values = Vec::new();
    let mut filter = |condition: &str, value: Option<SqlValue>| {
        if let Some(value) = value {
            values.push(value);
            sql.push_str(&format!(" AND {condition} ?{}", values.len()));
        }
    };
    filter("hour >=", query.from_hour.map(|hour| hour.cast_signed().into()));
    filter("hour <", query.to_hour.map(|hour| hour.cast_signed().into()));
    filter("tenant =", query.tenant.clone().map(Into::into));
    filter("channel =", query.channel.clone().map(Into::into));
    filter("session =", query.session.clone().map(Into::into));
    filter("kind =", query.kind.map(|kind| kind_name(kind).to_owned().into()));
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
