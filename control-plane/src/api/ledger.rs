//! Sums of the usage ledger.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::field::FieldError;
use crate::rest::input::Params;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::{Group, KINDS, LedgerQuery, LedgerRow, kind_name};

const HOUR_S: u64 = 3600;
/// Rows unless asked otherwise.
const ROWS: u32 = 1000;
/// Most rows in an answer.
const MAX_ROWS: u32 = 10_000;
/// Times beyond this (in the year 36812) are a mistake in the unit.
const MAX_TIME_S: u64 = 1 << 40;

/// Sums, one for each combination of what they were grouped by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerReport {
    /// Ordered by the columns grouped by.
    pub items: Vec<LedgerSum>,
    /// Ask for the rest with `?offset=` this; null: this is all.
    pub next: Option<u32>,
}

/// One sum. What was not grouped by is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LedgerSum {
    /// Unix seconds of the hour's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hour: Option<u64>,
    /// Tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Channel; empty for `relay`, which belongs to a tenant alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Session; empty when unknown. For `relay` the TURN user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// `client`, `child`, `upstream` or `relay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Origin; empty for all but `upstream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies, or of what was relayed.
    pub body_bytes: u64,
    /// Bytes of bodies, heads and framing, above TCP.
    pub wire_bytes: u64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LedgerParams {
    /// From the hour of this time on, in Unix seconds.
    #[serde(default)]
    from: Option<u64>,
    /// Up to this time, in Unix seconds; the hour that it is in counts whole.
    #[serde(default)]
    to: Option<u64>,
    /// Of this tenant only.
    #[serde(default)]
    tenant: Option<String>,
    /// Of this channel only; empty: of none, which is what is relayed.
    #[serde(default)]
    channel: Option<String>,
    /// Of this session only.
    #[serde(default)]
    session: Option<String>,
    /// Of this kind only: `client`, `child`, `upstream` or `relay`.
    #[serde(default)]
    kind: Option<String>,
    /// Columns to group by, separated by commas: `hour`, `tenant`, `channel`, `session`, `kind`, `origin`. By default
    /// `channel,kind`; empty: one sum in all.
    #[serde(default)]
    group: Option<String>,
    /// Sums to leave out at the start.
    #[serde(default)]
    offset: u32,
    /// Most sums, up to 10000; by default 1000.
    #[serde(default)]
    limit: Option<u32>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes.add(
        Operation::new(Method::GET, "/api/v1/ledger", "readLedger", "Sums up usage.")
            .query::<LedgerParams>()
            .gives::<LedgerReport>(200, "The sums."),
        read,
    )
}

async fn read(
    State(app): State<Arc<App>>,
    Params(params): Params<LedgerParams>,
) -> Result<Json<LedgerReport>, Problem> {
    let query = query(params).map_err(Problem::parameter)?;
    let (offset, limit) = (query.offset, query.limit);
    let mut rows = app.db(move |store| store.ledger(&LedgerQuery { limit: limit + 1, ..query })).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = if more { offset.checked_add(limit) } else { None };
    Ok(Json(LedgerReport { items: rows.into_iter().map(sum).collect(), next }))
}

fn query(params: LedgerParams) -> Result<LedgerQuery, FieldError> {
    for (field, time) in [("from", params.from), ("to", params.to)] {
        if let Some(time) = time.filter(|time| *time > MAX_TIME_S) {
            return Err(FieldError::new(field, time, "must be in Unix seconds, not milliseconds"));
        }
    }
    let kind = params.kind.map(|name| {
        KINDS
            .into_iter()
            .find(|kind| kind_name(*kind) == name)
            .ok_or_else(|| FieldError::new("kind", name, "must be client, child, upstream or relay"))
    });
    let mut group = Vec::new();
    let names = params.group.as_deref().unwrap_or("channel,kind");
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let found = Group::ALL.into_iter().find(|group| group.name() == name).ok_or_else(|| {
            FieldError::new(
                "group",
                name,
                "must be of hour, tenant, channel, session, kind, origin, with commas between",
            )
        })?;
        if !group.contains(&found) {
            group.push(found);
        }
    }
    let limit = params.limit.unwrap_or(ROWS);
    if !(1..=MAX_ROWS).contains(&limit) {
        return Err(FieldError::new("limit", limit, format!("must be from 1 to {MAX_ROWS}")));
    }
    Ok(LedgerQuery {
        from_hour: params.from.map(|from| from / HOUR_S),
        to_hour: params.to.map(|to| to.div_ceil(HOUR_S)),
        tenant: params.tenant,
        channel: params.channel,
        session: params.session,
        kind: kind.transpose()?,
        group,
        offset: params.offset,
        limit,
    })
}

fn sum(row: LedgerRow) -> LedgerSum {
    LedgerSum {
        hour: row.hour.map(|hour| hour * HOUR_S),
        tenant: row.tenant,
        channel: row.channel,
        session: row.session,
        kind: row.kind,
        origin: row.origin,
        requests: row.requests,
        body_bytes: row.body_bytes,
        wire_bytes: row.wire_bytes,
    }
}
