//! Sums of reports: duplicates dropped, sums added and the spool's position moved in one transaction.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::engine::{Tx, Value, values};
use super::{Store, StoreError};
use crate::report::entry::Entry;
use crate::report::measures::{COLUMNS, NAMES};
use crate::report::spool::Position;
use crate::report::tally::{HourKey, Known, RolledUp, STEP_MS, Session, SessionId, Tally, sessions};
use crate::report::window::Window;

/// A sum stays below twice this, whatever is reported: what a session makes up must not stop the others' sums.
const CAP: u64 = 1 << 53;
/// When a session was last seen is kept to this many milliseconds, so that its index changes seldom.
const SEEN_MS: u64 = 600_000;
/// Sessions asked for at a time, in sizes of which each is a statement to prepare.
const ASKED: [usize; 3] = [256, 16, 1];

/// What to roll up.
pub(crate) struct RollUp<'a> {
    /// Whose spool.
    pub(crate) instance: &'a str,
    /// Where the entries begin in it, and where they end.
    pub(crate) from: Position,
    pub(crate) to: Position,
    pub(crate) entries: &'a [Entry],
    /// Most rows for each bucket and channel.
    pub(crate) combinations: usize,
}

/// Where an instance's spool is rolled up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    pub(crate) position: Position,
    /// The newest report.
    pub(crate) newest_ms: u64,
}

/// What is forgotten for its age: everything before these.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ages {
    /// Sessions last seen before, in Unix milliseconds.
    pub(crate) sessions_ms: u64,
    /// The first minute and the first hour that are kept.
    pub(crate) minute: u64,
    pub(crate) hour: u64,
    /// The first hour of usage by session that is kept.
    pub(crate) usage_hour: u64,
}

/// Rows that were forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Forgotten {
    pub(crate) sessions: u64,
    pub(crate) minutes: u64,
    pub(crate) hours: u64,
    pub(crate) usage: u64,
}

impl Store {
    /// Where an instance's spool is rolled up to.
    pub(crate) fn report_progress(&self, instance: &str) -> Result<Progress, StoreError> {
        self.read(|tx| progress(tx, instance))
    }

    /// The newest report of all instances, in Unix milliseconds.
    pub(crate) fn newest_report_ms(&self) -> Result<Option<u64>, StoreError> {
        self.read(|tx| {
            let row = tx.query_one("SELECT newest_ms FROM report_spools ORDER BY newest_ms DESC LIMIT 1", &[])?;
            row.map(|row| row.get(0)).transpose()
        })
    }

    /// Adds entries, those reports of them that were not counted before, and moves the position. None: the position is not
    /// where the entries begin, and nothing was done.
    pub(crate) fn roll_up(&self, batch: &RollUp<'_>, known: &mut Known) -> Result<Option<RolledUp>, StoreError> {
        let result = self.merge(|tx| {
            // Held to the end: other instances wait here, so that what is read of sessions decides.
            tx.execute("UPDATE report_turn SET turn = turn + 1 WHERE id = 1", &[])?;
            let before = progress(tx, batch.instance)?;
            if before.position != batch.from {
                return Ok(None);
            }
            let asked: Vec<SessionId> = sessions(batch.entries).into_iter().collect();
            let mut tally = Tally::new(load(tx, &asked)?);
            batch.entries.iter().for_each(|entry| tally.add(entry));
            let mut rolled = tally.rolled;
            save_sessions(tx, &tally)?;
            for (step, rows) in tally.steps.into_iter().enumerate() {
                let (rows, folded) = known.fold(step, rows, batch.combinations, |key| {
                    dimensions(tx, step, key.bucket, &key.tenant, &key.channel, batch.combinations)
                })?;
                rolled.folded += folded;
                let mut values = Vec::with_capacity(rows.len() * (8 + COLUMNS));
                for (key, sums) in rows {
                    values.extend(values![step as i64, key.bucket, &key.tenant, &key.channel]);
                    values.extend(key.dimensions.iter().map(Value::from));
                    values.extend(sums.columns().map(|sum| Value::from(sum.min(CAP))));
                }
                let (head, tail) = &*ROWS;
                tx.batch(head, 8 + COLUMNS, tail, &values)?;
            }
            let columns = ["edge_bytes", "direct_bytes", "p2p_in_bytes"];
            save_hours(tx, "report_usage", "session", &columns, tally.usage.into_iter())?;
            let providers = tally.providers.into_iter().map(|(key, bytes)| (key, [bytes]));
            save_hours(tx, "report_providers", "provider", &["direct_bytes"], providers)?;
            tx.execute(
                "INSERT INTO report_spools (instance, segment, position, newest_ms) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (instance) DO UPDATE
                 SET segment = excluded.segment, position = excluded.position, newest_ms = excluded.newest_ms",
                &values![batch.instance, batch.to.segment, batch.to.offset, tally.newest_ms.max(before.newest_ms)],
            )?;
            Ok::<_, StoreError>(Some(rolled))
        });
        if result.is_err() {
            // It may know rows that are not there.
            *known = Known::default();
        }
        result
    }

    /// Forgets what is older than `ages`, at most `most` sessions, and as many buckets of channels.
    pub(crate) fn forget_reports(&self, ages: &Ages, most: u32) -> Result<Forgotten, StoreError> {
        self.merge(|tx| {
            tx.execute("UPDATE report_turn SET turn = turn + 1 WHERE id = 1", &[])?;
            let old = tx.query(
                "SELECT id FROM report_sessions WHERE seen_ms < $1 ORDER BY seen_ms LIMIT $2",
                &values![ages.sessions_ms, most],
            )?;
            let mut forgotten = Forgotten { sessions: old.len() as u64, ..Forgotten::default() };
            for row in old {
                let id: Vec<u8> = row.get(0)?;
                tx.execute("DELETE FROM report_sessions WHERE id = $1", &values![id])?;
            }
            for (step, first, rows) in [(0, ages.minute, &mut forgotten.minutes), (1, ages.hour, &mut forgotten.hours)]
            {
                let old = tx.query(
                    "SELECT DISTINCT bucket, tenant, channel FROM report_rollups WHERE step = $1 AND bucket < $2
                     ORDER BY bucket, tenant, channel LIMIT $3",
                    &values![step, first, most],
                )?;
                for row in old {
                    let (bucket, tenant, channel): (u64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    *rows += tx.execute(
                        "DELETE FROM report_rollups WHERE step = $1 AND bucket = $2 AND tenant = $3 AND channel = $4",
                        &values![step, bucket, tenant, channel],
                    )?;
                }
            }
            for (table, last) in [("report_usage", "session"), ("report_providers", "provider")] {
                let old = tx.query(
                    &format!(
                        "SELECT hour, tenant, channel, {last} FROM {table} WHERE hour < $1
                         ORDER BY hour, tenant, channel, {last} LIMIT $2"
                    ),
                    &values![ages.usage_hour, most],
                )?;
                for row in old {
                    let (hour, tenant): (u64, String) = (row.get(0)?, row.get(1)?);
                    let (channel, name): (String, String) = (row.get(2)?, row.get(3)?);
                    forgotten.usage += tx.execute(
                        &format!(
                            "DELETE FROM {table} WHERE hour = $1 AND tenant = $2 AND channel = $3 AND {last} = $4"
                        ),
                        &values![hour, tenant, channel, name],
                    )?;
                }
            }
            Ok::<_, StoreError>(forgotten)
        })
    }
}

/// What stands before and behind the values of rows.
static ROWS: LazyLock<(String, String)> = LazyLock::new(|| {
    let key = "step, bucket, tenant, channel, region, isp, platform, sdk";
    let head = format!("INSERT INTO report_rollups ({key}, {}) VALUES", NAMES.join(", "));
    (head, format!("ON CONFLICT ({key}) DO UPDATE SET {}", added("report_rollups", &NAMES)))
});

/// The assignments that add new values to columns, up to the cap.
fn added(table: &str, columns: &[&str]) -> String {
    let one = |column: &&str| {
        format!(
            "{column} = CASE WHEN {table}.{column} >= {CAP} THEN {table}.{column} ELSE {table}.{column} + excluded.{column} END"
        )
    };
    columns.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn progress(tx: &mut Tx<'_>, instance: &str) -> Result<Progress, StoreError> {
    let row =
        tx.query_one("SELECT segment, position, newest_ms FROM report_spools WHERE instance = $1", &values![instance])?;
    row.map_or(Ok(Progress::default()), |row| {
        let position = Position { segment: row.get(0)?, offset: row.get(1)? };
        Ok(Progress { position, newest_ms: row.get(2)? })
    })
}

fn load(tx: &mut Tx<'_>, asked: &[SessionId]) -> Result<HashMap<SessionId, Session>, StoreError> {
    let mut found = HashMap::with_capacity(asked.len());
    let mut rest = asked;
    while !rest.is_empty() {
        let size = ASKED.into_iter().find(|size| *size <= rest.len()).unwrap_or(1);
        let (now, later) = rest.split_at(size.min(rest.len()));
        rest = later;
        let places = (1..=now.len()).map(|at| format!("${at}")).collect::<Vec<_>>().join(", ");
        let sql = format!("SELECT id, seen_ms, streams, state FROM report_sessions WHERE id IN ({places})");
        let ids: Vec<Value> = now.iter().map(|id| Value::from(id.as_slice())).collect();
        for row in tx.query(&sql, &ids)? {
            let (id, state): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(3)?);
            let Ok(id) = SessionId::try_from(id.as_slice()) else { continue };
            // A state of another form tells nothing: the session begins anew.
            let window = Window::from_bytes(&state).unwrap_or_default();
            found.insert(id, Session { window, streams: row.get(2)?, seen_ms: row.get(1)? });
        }
    }
    Ok(found)
}

fn save_sessions(tx: &mut Tx<'_>, tally: &Tally) -> Result<(), StoreError> {
    let mut values = Vec::with_capacity(tally.sessions.len() * 4);
    for (id, session) in &tally.sessions {
        let seen_ms = session.seen_ms / SEEN_MS * SEEN_MS;
        values.extend(values![id.as_slice(), seen_ms, session.streams, session.window.to_bytes()]);
    }
    tx.batch(
        "INSERT INTO report_sessions (id, seen_ms, streams, state) VALUES",
        4,
        "ON CONFLICT (id) DO UPDATE SET seen_ms = excluded.seen_ms, streams = excluded.streams, state = excluded.state",
        &values,
    )?;
    Ok(())
}

fn save_hours<const N: usize>(
    tx: &mut Tx<'_>,
    table: &str,
    last: &str,
    columns: &[&str; N],
    rows: impl Iterator<Item = (HourKey, [u64; N])>,
) -> Result<(), StoreError> {
    let mut values = Vec::new();
    for ((hour, tenant, channel, name), sums) in rows {
        values.extend(values![hour, &tenant, &channel, &name]);
        values.extend(sums.map(|sum| Value::from(sum.min(CAP))));
    }
    let key = format!("hour, tenant, channel, {last}");
    let head = format!("INSERT INTO {table} ({key}, {}) VALUES", columns.join(", "));
    let tail = format!("ON CONFLICT ({key}) DO UPDATE SET {}", added(table, columns));
    tx.batch(&head, 4 + N, &tail, &values)?;
    Ok(())
}

fn dimensions(
    tx: &mut Tx<'_>,
    step: usize,
    bucket: u64,
    tenant: &str,
    channel: &str,
    most: usize,
) -> Result<Vec<[Arc<str>; 4]>, StoreError> {
    let rows = tx.query(
        "SELECT region, isp, platform, sdk FROM report_rollups
         WHERE step = $1 AND bucket = $2 AND tenant = $3 AND channel = $4 LIMIT $5",
        &values![step as i64, bucket, tenant, channel, most as i64],
    )?;
    rows.iter().map(|row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])).collect()
}

// A sum of a batch and one at the cap fit a 64-bit integer.
const _: () = assert!(CAP * 2 < i64::MAX as u64);
const _: () = assert!(STEP_MS[0] < STEP_MS[1] && STEP_MS[1] < STEP_MS[2]);
