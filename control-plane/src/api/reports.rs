//! Sums of reports, as JSON or CSV.

use std::fmt::Write;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::field::FieldError;
use crate::rest::input::Params;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::{ReportGroup, ReportQuery, ReportRow, ReportStep, now_ms};

/// Rows unless asked otherwise.
const ROWS: u32 = 1000;
/// Most rows in an answer.
const MAX_ROWS: u32 = 10_000;
/// Times beyond this (in the year 36812) are a mistake in the unit.
const MAX_TIME_S: u64 = 1 << 40;
/// What is asked for unless told, by step: a little more than three hours, a week, a year.
const SPANS_S: [(ReportStep, u64); 3] =
    [(ReportStep::Minute, 3 * 3600), (ReportStep::Hour, 7 * 86_400), (ReportStep::Day, 365 * 86_400)];

/// Sums, one for each combination of what they were grouped by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportSums {
    /// Ordered by the columns grouped by.
    pub items: Vec<ReportSum>,
    /// Ask for the rest with `?offset=` this; null: this is all.
    pub next: Option<u32>,
}

/// One sum. What was not grouped by is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReportSum {
    /// Unix seconds of the start of the minute, hour or day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// Tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Region (ISO 3166-2); empty when unknown, `other` beyond the limit of combinations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Provider; empty when unknown, `other` beyond the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isp: Option<String>,
    /// Platform; empty when not told, `other` beyond the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// SDK and version; empty when not told, `other` beyond the limit. `cmcd-1` and `cmcd-2` are players that send CMCD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdk: Option<String>,
    /// Sessions that reported: distinct within each minute, hour or day, and added up over several.
    pub viewers: u64,
    /// Reports.
    pub reports: u64,
    /// Bytes from our edges.
    pub edge_bytes: u64,
    /// Bytes from other CDNs, past our edges.
    pub direct_bytes: u64,
    /// Bytes from peers.
    pub p2p_in_bytes: u64,
    /// Bytes to peers.
    pub p2p_out_bytes: u64,
    /// Share of the bytes that came from peers; null where none came at all.
    pub share_ratio: Option<f64>,
    /// Connections to peers that were made.
    pub connections: u64,
    /// Connections to peers that failed.
    pub connection_failures: u64,
    /// Stalls.
    pub stalls: u64,
    /// Milliseconds that playback stood.
    pub stall_ms: u64,
    /// Milliseconds played.
    pub playing_ms: u64,
    /// Errors.
    pub errors: u64,
    /// Sessions that told their time to the first frame.
    pub first_frames: u64,
    /// Its mean in milliseconds; null without any.
    pub first_frame_mean_ms: Option<f64>,
    /// What half of them were within, from a histogram with bounds up to 10 s.
    pub first_frame_p50_ms: Option<f64>,
    /// What nine of ten were within.
    pub first_frame_p90_ms: Option<f64>,
    /// What 99 of 100 were within.
    pub first_frame_p99_ms: Option<f64>,
}

#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
struct ReportParams {
    /// From the minute, hour or day of this time on, in Unix seconds. By default 3 hours, 7 or 365 days before `to`.
    from: Option<u64>,
    /// Up to this time, in Unix seconds; by default now. The bucket that it is in counts whole.
    to: Option<u64>,
    /// `minute`, `hour` or `day` (UTC); by default `hour`.
    step: Option<String>,
    /// Of this tenant only.
    tenant: Option<String>,
    /// Of this channel only.
    channel: Option<String>,
    /// Of this region only.
    region: Option<String>,
    /// Of this provider only.
    isp: Option<String>,
    /// Of this platform only.
    platform: Option<String>,
    /// Of this SDK only.
    sdk: Option<String>,
    /// Columns to group by, separated by commas: `time`, `tenant`, `channel`, `region`, `isp`, `platform`, `sdk`. By
    /// default `channel`; empty: one sum in all.
    group: Option<String>,
    /// Sums to leave out at the start.
    offset: u32,
    /// Most sums, up to 10000; by default 1000.
    limit: Option<u32>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes.add(
        Operation::new(Method::GET, "/api/v1/reports", "readReports", "Sums up what viewers' SDKs reported.")
            .query::<ReportParams>()
            .header("Accept", "`text/csv` for CSV with a header line.")
            .gives::<ReportSums>(200, "The sums."),
        read,
    )
}

async fn read(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Params(params): Params<ReportParams>,
) -> Result<Response, Problem> {
    let query = query(params, now_ms() / 1000).map_err(Problem::parameter)?;
    let (offset, limit, group) = (query.offset, query.limit, query.group.clone());
    let mut rows = app.db(move |store| store.reports(&ReportQuery { limit: limit + 1, ..query })).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = if more { offset.checked_add(limit) } else { None };
    let items: Vec<ReportSum> = rows.into_iter().map(sum).collect();
    if wants_csv(&headers) {
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
        return Ok(([kind], csv(&items, &group)).into_response());
    }
    Ok(Json(ReportSums { items, next }).into_response())
}

fn wants_csv(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = accepted.split(',').next().unwrap_or_default().split(';').next().unwrap_or_default();
    first.trim().eq_ignore_ascii_case("text/csv")
}

fn query(params: ReportParams, now_s: u64) -> Result<ReportQuery, FieldError> {
    for (field, time) in [("from", params.from), ("to", params.to)] {
        if let Some(time) = time.filter(|time| *time > MAX_TIME_S) {
            return Err(FieldError::new(field, time, "must be in Unix seconds, not milliseconds"));
        }
    }
    let step = match params.step.as_deref() {
        None => ReportStep::default(),
        Some(name) => ReportStep::ALL
            .into_iter()
            .find(|step| step.name() == name)
            .ok_or_else(|| FieldError::new("step", name, "must be minute, hour or day"))?,
    };
    let mut group = Vec::new();
    let names = params.group.as_deref().unwrap_or("channel");
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let found = ReportGroup::ALL.into_iter().find(|group| group.name() == name).ok_or_else(|| {
            let help = "must be of time, tenant, channel, region, isp, platform, sdk, with commas between";
            FieldError::new("group", name, help)
        })?;
        if !group.contains(&found) {
            group.push(found);
        }
    }
    let limit = params.limit.unwrap_or(ROWS);
    if !(1..=MAX_ROWS).contains(&limit) {
        return Err(FieldError::new("limit", limit, format!("must be from 1 to {MAX_ROWS}")));
    }
    let to_s = params.to.unwrap_or(now_s + 1);
    let span = SPANS_S.into_iter().find(|(other, _)| *other == step).map_or(0, |(_, span)| span);
    let filters = [
        (ReportGroup::Tenant, params.tenant),
        (ReportGroup::Channel, params.channel),
        (ReportGroup::Region, params.region),
        (ReportGroup::Isp, params.isp),
        (ReportGroup::Platform, params.platform),
        (ReportGroup::Sdk, params.sdk),
    ];
    Ok(ReportQuery {
        step,
        from_s: params.from.unwrap_or(to_s.saturating_sub(span)),
        to_s,
        filters: filters.into_iter().filter_map(|(group, value)| Some((group, value?))).collect(),
        group,
        offset: params.offset,
        limit,
    })
}

fn sum(row: ReportRow) -> ReportSum {
    let sums = &row.sums;
    let mean = (sums.first_frames > 0).then(|| sums.first_frame_ms as f64 / sums.first_frames as f64);
    let mut result = ReportSum {
        time: row.time_s,
        viewers: sums.viewers,
        reports: sums.reports,
        edge_bytes: sums.edge_bytes,
        direct_bytes: sums.direct_bytes,
        p2p_in_bytes: sums.p2p_in_bytes,
        p2p_out_bytes: sums.p2p_out_bytes,
        share_ratio: sums.share_ratio(),
        connections: sums.connections,
        connection_failures: sums.connection_failures,
        stalls: sums.stalls,
        stall_ms: sums.stall_ms,
        playing_ms: sums.playing_ms,
        errors: sums.errors,
        first_frames: sums.first_frames,
        first_frame_mean_ms: mean,
        first_frame_p50_ms: sums.first_frame_within(0.5),
        first_frame_p90_ms: sums.first_frame_within(0.9),
        first_frame_p99_ms: sums.first_frame_within(0.99),
        ..ReportSum::default()
    };
    for (name, value) in row.names {
        let place = match name {
            "tenant" => &mut result.tenant,
            "channel" => &mut result.channel,
            "region" => &mut result.region,
            "isp" => &mut result.isp,
            "platform" => &mut result.platform,
            _ => &mut result.sdk,
        };
        *place = Some(value);
    }
    result
}

/// RFC 4180, with a header line; null is empty.
fn csv(items: &[ReportSum], group: &[ReportGroup]) -> String {
    const SUMS: [&str; 18] = [
        "viewers",
        "reports",
        "edge_bytes",
        "direct_bytes",
        "p2p_in_bytes",
        "p2p_out_bytes",
        "share_ratio",
        "connections",
        "connection_failures",
        "stalls",
        "stall_ms",
        "playing_ms",
        "errors",
        "first_frames",
        "first_frame_mean_ms",
        "first_frame_p50_ms",
        "first_frame_p90_ms",
        "first_frame_p99_ms",
    ];
    let columns: Vec<&str> = group.iter().map(|group| group.name()).chain(SUMS).collect();
    let mut text = columns.join(",");
    text.push_str("\r\n");
    for item in items {
        let item = serde_json::to_value(item).unwrap_or_default();
        for (at, column) in columns.iter().enumerate() {
            text.push_str(if at == 0 { "" } else { "," });
            match item.get(column) {
                None | Some(serde_json::Value::Null) => {}
                Some(serde_json::Value::String(value)) => text.push_str(&quoted(value)),
                // Writing to a String does not fail.
                Some(value) => drop(write!(text, "{value}")),
            }
        }
        text.push_str("\r\n");
    }
    text
}

/// In quotes where it needs them. SDKs name themselves, and a spreadsheet takes `=`, `+`, `-` and `@` at the start for a
/// formula: such a text gets an apostrophe in front.
fn quoted(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::measures::Sums;

    #[test]
    fn parameters_become_a_query_or_are_named() {
        let query_of = |params| query(params, 1_000_000);
        let all = query_of(ReportParams::default()).unwrap();
        assert_eq!((all.step, all.to_s, all.from_s), (ReportStep::Hour, 1_000_001, 1_000_001 - 7 * 86_400));
        assert_eq!(all.group, [ReportGroup::Channel]);
        let params = ReportParams {
            step: Some("minute".into()),
            group: Some("time, isp,time".into()),
            sdk: Some(String::new()),
            ..ReportParams::default()
        };
        let some = query_of(params).unwrap();
        assert_eq!(some.group, [ReportGroup::Time, ReportGroup::Isp]);
        assert_eq!(some.filters, [(ReportGroup::Sdk, String::new())]);
        for (params, field) in [
            (ReportParams { step: Some("week".into()), ..ReportParams::default() }, "step"),
            (ReportParams { group: Some("session".into()), ..ReportParams::default() }, "group"),
            (ReportParams { from: Some(1_700_000_000_000), ..ReportParams::default() }, "from"),
            (ReportParams { limit: Some(0), ..ReportParams::default() }, "limit"),
        ] {
            assert_eq!(query_of(params).unwrap_err().field, field);
        }
    }

    #[test]
    fn csv_quotes_what_it_must_and_disarms_formulas() {
        let row = ReportRow {
            time_s: Some(60),
            names: vec![("sdk", "=a,\"b\"".to_owned())],
            sums: Sums { viewers: 2, p2p_in_bytes: 3, edge_bytes: 1, ..Sums::default() },
        };
        let text = csv(&[sum(row)], &[ReportGroup::Time, ReportGroup::Sdk]);
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(lines[0].split(',').count(), 20);
        assert_eq!(lines[1], "60,\"'=a,\"\"b\"\"\",2,0,1,0,3,0,0.75,0,0,0,0,0,0,0,,,,");
        let mut headers = HeaderMap::new();
        assert!(!wants_csv(&headers));
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/csv;q=0.9, */*"));
        assert!(wants_csv(&headers));
    }
}
