//! Reading the sums of reports.

use super::engine::{Row, Tx, Value, values};
use super::{Store, StoreError};
use crate::report::measures::{COLUMNS, NAMES, Sums};

/// Length of the buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReportStep {
    /// A minute.
    Minute,
    /// An hour.
    #[default]
    Hour,
    /// A day, UTC.
    Day,
}

impl ReportStep {
    /// All of them, in the store's order.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// Its length.
    pub fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }
}

/// A column that sums can be grouped and filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportGroup {
    /// By the bucket.
    Time,
    /// By tenant.
    Tenant,
    /// By channel.
    Channel,
    /// By region.
    Region,
    /// By provider.
    Isp,
    /// By platform.
    Platform,
    /// By SDK and its version.
    Sdk,
}

impl ReportGroup {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Time, Self::Tenant, Self::Channel, Self::Region, Self::Isp, Self::Platform, Self::Sdk];

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Tenant => "tenant",
            Self::Channel => "channel",
            Self::Region => "region",
            Self::Isp => "isp",
            Self::Platform => "platform",
            Self::Sdk => "sdk",
        }
    }

    fn column(self) -> &'static str {
        match self {
            Self::Time => "bucket",
            other => other.name(),
        }
    }
}

/// Which sums are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportQuery {
    /// Length of the buckets.
    pub step: ReportStep,
    /// From the bucket of this time on, in Unix seconds.
    pub from_s: u64,
    /// Up to this time, in Unix seconds; the bucket that it is in counts whole.
    pub to_s: u64,
    /// Of these only; a time is no filter.
    pub filters: Vec<(ReportGroup, String)>,
    /// One row for each combination of these; none: one row in all.
    pub group: Vec<ReportGroup>,
    /// Rows to leave out at the start.
    pub offset: u32,
    /// Most rows.
    pub limit: u32,
}

/// One sum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportRow {
    /// Unix seconds of the bucket's start, when grouped by time.
    pub time_s: Option<u64>,
    /// The other columns grouped by, in the query's order.
    pub names: Vec<(&'static str, String)>,
    /// The sums. Viewers are distinct within a bucket; over several buckets they add up.
    pub sums: Sums,
}

/// What a session reported in an hour.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportedUsage {
    /// Unix hour.
    pub hour: u64,
    /// Tenant.
    pub tenant: String,
    /// Channel.
    pub channel: String,
    /// Session, or the provider's name.
    pub name: String,
    /// Bytes from our edges; 0 for a provider.
    pub edge_bytes: u64,
    /// Bytes from other CDNs.
    pub direct_bytes: u64,
    /// Bytes from peers; 0 for a provider.
    pub p2p_in_bytes: u64,
}

impl Store {
    /// Sums of reports, ordered by the columns grouped by.
    pub fn reports(&self, query: &ReportQuery) -> Result<Vec<ReportRow>, StoreError> {
        let (sql, values) = select(query);
        self.report(|tx| tx.query(&sql, &values)?.iter().map(|row| read(row, query)).collect())
    }

    /// What sessions of a channel reported in hours `from` to before `to`, by hour and session, at most `limit`, from `offset`.
    pub fn reported_usage(
        &self,
        (from, to): (u64, u64),
        tenant: &str,
        channel: &str,
        (offset, limit): (u32, u32),
    ) -> Result<Vec<ReportedUsage>, StoreError> {
        let columns = "hour, tenant, channel, session, edge_bytes, direct_bytes, p2p_in_bytes";
        let sql = hours(columns, "report_usage", "session");
        self.report(|tx| usage(tx, &sql, &values![from, to, tenant, channel, limit, offset]))
    }

    /// What sessions of a channel reported of each provider, alike; the name is empty where none was told.
    pub fn reported_providers(
        &self,
        (from, to): (u64, u64),
        tenant: &str,
        channel: &str,
        (offset, limit): (u32, u32),
    ) -> Result<Vec<ReportedUsage>, StoreError> {
        let columns = "hour, tenant, channel, provider, 0, direct_bytes, 0";
        let sql = hours(columns, "report_providers", "provider");
        self.report(|tx| usage(tx, &sql, &values![from, to, tenant, channel, limit, offset]))
    }
}

fn hours(columns: &str, table: &str, last: &str) -> String {
    format!(
        "SELECT {columns} FROM {table} WHERE hour >= $1 AND hour < $2 AND tenant = $3 AND channel = $4
         ORDER BY hour, {last} LIMIT $5 OFFSET $6"
    )
}

fn usage(tx: &mut Tx<'_>, sql: &str, values: &[Value]) -> Result<Vec<ReportedUsage>, StoreError> {
    let row = |row: &Row| {
        Ok(ReportedUsage {
            hour: row.get(0)?,
            tenant: row.get(1)?,
            channel: row.get(2)?,
            name: row.get(3)?,
            edge_bytes: row.get(4)?,
            direct_bytes: row.get(5)?,
            p2p_in_bytes: row.get(6)?,
        })
    };
    tx.query(sql, values)?.iter().map(row).collect()
}

fn select(query: &ReportQuery) -> (String, Vec<Value>) {
    let sums = NAMES.map(|name| format!("sum({name})")).join(", ");
    let list = query.group.iter().map(|group| group.column()).collect::<Vec<_>>().join(", ");
    let comma = if list.is_empty() { "" } else { ", " };
    let length = query.step.seconds();
    let step = ReportStep::ALL.iter().position(|step| *step == query.step).unwrap_or(0);
    let mut values = values![step as i64, query.from_s / length, query.to_s.div_ceil(length)].to_vec();
    let mut sql =
        format!("SELECT {sums}{comma}{list} FROM report_rollups WHERE step = $1 AND bucket >= $2 AND bucket < $3");
    for (group, value) in query.filters.iter().filter(|(group, _)| *group != ReportGroup::Time) {
        values.push(Value::from(value));
        sql.push_str(&format!(" AND {} = ${}", group.column(), values.len()));
    }
    if list.is_empty() {
        // Without groups SQL would answer one row of nulls over nothing.
        sql.push_str(" HAVING count(*) > 0");
    } else {
        sql.push_str(&format!(" GROUP BY {list} ORDER BY {list}"));
    }
    sql.push_str(&format!(" LIMIT {} OFFSET {}", query.limit, query.offset));
    (sql, values)
}

fn read(row: &Row, query: &ReportQuery) -> Result<ReportRow, StoreError> {
    let mut columns = [0; COLUMNS];
    for (at, column) in columns.iter_mut().enumerate() {
        *column = row.get(at)?;
    }
    let mut result = ReportRow { sums: Sums::from_columns(columns), ..ReportRow::default() };
    for (at, group) in (COLUMNS..).zip(&query.group) {
        match group {
            ReportGroup::Time => result.time_s = Some(row.get::<u64>(at)? * query.step.seconds()),
            other => result.names.push((other.name(), row.get(at)?)),
        }
    }
    Ok(result)
}
