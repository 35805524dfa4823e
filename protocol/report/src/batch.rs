//! A session's reports as an SDK posts them.
//!
//! A report holds what happened in a session since the report before it. Who the session is, is not in here: the pass that
//! comes with the request says it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fields::{Fields, Refused};

/// The version of the schema.
pub const VERSION: u64 = 1;
/// Most reports in a batch.
pub const MAX_REPORTS: usize = 256;
/// The highest sequence number.
pub const MAX_SEQ: u64 = (1 << 53) - 1;
/// Most bytes of traffic that one report may hold: 64 GiB.
pub const MAX_BYTES: u64 = 1 << 36;
/// Most of anything that is counted, in one report.
pub const MAX_COUNT: u64 = 1_000_000;
/// Most milliseconds of anything that is timed, in one report: a day.
pub const MAX_MS: u64 = 86_400_000;
/// The latest time, in Unix milliseconds: in the year 2109.
pub const MAX_TIME_MS: u64 = 1 << 42;
/// Most bytes of platform, SDK, run, event and provider.
pub const MAX_NAME: usize = 64;
/// Most bytes of the asset's name.
pub const MAX_ASSET: usize = 256;
/// Most providers in a report.
pub const MAX_PROVIDERS: usize = 16;
/// Most bytes of fields that are not in the schema, as JSON, in a report and again in the batch around it.
pub const MAX_UNKNOWN: usize = 4096;

/// Reports of one session. Fields that are not listed are kept in the raw record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Batch {
    /// Version of the schema: 1.
    #[schemars(range(min = 1, max = 1))]
    pub v: u64,
    /// A random word of each start of the SDK, where one session can have several starts. Sequence numbers count within it.
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub run: String,
    /// Platform, as in `html5`, `android`; of every report that names none.
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub platform: String,
    /// SDK and its version, as in `shoal-js/1.4.0`; of every report that names none.
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub sdk: String,
    /// Asset within the channel; of every report that names none.
    #[schemars(length(max = 256))]
    #[serde(default)]
    pub asset: String,
    /// The reports.
    #[schemars(length(min = 1, max = 256))]
    pub reports: Vec<Report>,
    /// Fields that are not in the schema: the text of a JSON object, or empty.
    #[schemars(skip)]
    #[serde(default)]
    pub unknown: String,
}

/// What happened in a session since the report before: deltas, not totals. What is not given is 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Number of the report in its session (and run): 1, 2, 3 … A report that is sent again keeps its number.
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub seq: u64,
    /// End of the interval by the viewer's clock, in Unix milliseconds.
    #[schemars(range(max = 4_398_046_511_104_u64))]
    #[serde(default)]
    pub at_ms: u64,
    /// What made the SDK send it, as in `interval`, `start`, `end`, `error`.
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub event: String,
    /// Platform.
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub platform: String,
    /// SDK and its version.
    #[schemars(length(max = 64))]
    #[serde(default)]
    pub sdk: String,
    /// Asset within the channel.
    #[schemars(length(max = 256))]
    #[serde(default)]
    pub asset: String,
    /// Bytes of media from our edges.
    #[schemars(range(max = 68_719_476_736_u64))]
    #[serde(default)]
    pub edge_bytes: u64,
    /// Bytes of media from a CDN of somebody else, past our edges. Where `direct` is given and this is not, its sum.
    #[schemars(range(max = 68_719_476_736_u64))]
    #[serde(default)]
    pub direct_bytes: u64,
    /// Those bytes by the provider's name.
    #[schemars(with = "std::collections::BTreeMap<String, u64>")]
    #[serde(default)]
    pub direct: Vec<Provider>,
    /// Bytes of media from peers.
    #[schemars(range(max = 68_719_476_736_u64))]
    #[serde(default)]
    pub p2p_in_bytes: u64,
    /// Bytes of media to peers.
    #[schemars(range(max = 68_719_476_736_u64))]
    #[serde(default)]
    pub p2p_out_bytes: u64,
    /// Connections to peers that were made.
    #[schemars(range(max = 1_000_000))]
    #[serde(default)]
    pub connections: u64,
    /// Connections to peers that failed.
    #[schemars(range(max = 1_000_000))]
    #[serde(default)]
    pub connection_failures: u64,
    /// Times that playback stopped for want of data.
    #[schemars(range(max = 1_000_000))]
    #[serde(default)]
    pub stalls: u64,
    /// Milliseconds that it stood.
    #[schemars(range(max = 86_400_000))]
    #[serde(default)]
    pub stall_ms: u64,
    /// Errors.
    #[schemars(range(max = 1_000_000))]
    #[serde(default)]
    pub errors: u64,
    /// Milliseconds from load to the first frame; in one report of a session only.
    #[schemars(range(max = 86_400_000))]
    #[serde(default)]
    pub first_frame_ms: Option<u64>,
    /// Milliseconds played.
    #[schemars(range(max = 86_400_000))]
    #[serde(default)]
    pub playing_ms: u64,
    /// Fields that are not in the schema: the text of a JSON object, or empty.
    #[schemars(skip)]
    #[serde(default)]
    pub unknown: String,
}

/// Bytes from one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// The provider's or the origin's name.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

impl Batch {
    /// Reads a body. All of it is good, or it is refused with the first field that is not.
    pub fn parse(body: &[u8]) -> Result<Self, Refused> {
        let value = serde_json::from_slice(body)
            .map_err(|error| Refused::new("", "json", format!("the body is not JSON: {error}")))?;
        let mut fields = Fields::new(String::new(), value)?;
        match fields.number("v", 0, u64::MAX)? {
            Some(VERSION) => {}
            other => {
                let given = other.map_or("is missing".to_owned(), |v| format!("is {v}"));
                return Err(Refused::new("v", "version", format!("{given}; this service knows version {VERSION}")));
            }
        }
        let reports = match fields.take("reports") {
            Some(Value::Array(reports)) if (1..=MAX_REPORTS).contains(&reports.len()) => reports,
            Some(Value::Array(reports)) => {
                let message = format!("has {} reports; send from 1 to {MAX_REPORTS} at a time", reports.len());
                return Err(Refused::new("reports", "range", message));
            }
            _ => return Err(Refused::new("reports", "type", "must be an array of reports")),
        };
        let reports = reports.into_iter().enumerate();
        Ok(Self {
            v: VERSION,
            reports: reports.map(|(at, value)| report(at, value)).collect::<Result<_, _>>()?,
            run: fields.text("run", MAX_NAME)?.unwrap_or_default(),
            platform: fields.text("platform", MAX_NAME)?.unwrap_or_default(),
            sdk: fields.text("sdk", MAX_NAME)?.unwrap_or_default(),
            asset: fields.text("asset", MAX_ASSET)?.unwrap_or_default(),
            unknown: fields.rest(MAX_UNKNOWN)?,
        })
    }
}

fn report(at: usize, value: Value) -> Result<Report, Refused> {
    let mut fields = Fields::new(format!("reports[{at}]."), value)?;
    let Some(seq) = fields.number("seq", 1, MAX_SEQ)? else {
        let message = "is missing; number a session's reports 1, 2, 3 …";
        return Err(Refused::new(fields.at("seq"), "missing", message));
    };
    let direct = providers(&mut fields)?;
    let sum = direct.iter().fold(0, |sum: u64, provider| sum.saturating_add(provider.bytes));
    let direct_bytes = fields.number("direct_bytes", 0, MAX_BYTES)?.unwrap_or(sum);
    if sum > direct_bytes || direct_bytes > MAX_BYTES {
        let message = format!("has {sum} bytes in all, more than direct_bytes or the {MAX_BYTES} that are allowed");
        return Err(Refused::new(fields.at("direct"), "range", message));
    }
    let mut number = |name, most| fields.number(name, 0, most).map(Option::unwrap_or_default);
    let mut report = Report {
        seq,
        at_ms: number("at_ms", MAX_TIME_MS)?,
        edge_bytes: number("edge_bytes", MAX_BYTES)?,
        direct_bytes,
        direct,
        p2p_in_bytes: number("p2p_in_bytes", MAX_BYTES)?,
        p2p_out_bytes: number("p2p_out_bytes", MAX_BYTES)?,
        connections: number("connections", MAX_COUNT)?,
        connection_failures: number("connection_failures", MAX_COUNT)?,
        stalls: number("stalls", MAX_COUNT)?,
        stall_ms: number("stall_ms", MAX_MS)?,
        errors: number("errors", MAX_COUNT)?,
        playing_ms: number("playing_ms", MAX_MS)?,
        ..Report::default()
    };
    report.first_frame_ms = fields.number("first_frame_ms", 0, MAX_MS)?;
    report.event = fields.text("event", MAX_NAME)?.unwrap_or_default();
    report.platform = fields.text("platform", MAX_NAME)?.unwrap_or_default();
    report.sdk = fields.text("sdk", MAX_NAME)?.unwrap_or_default();
    report.asset = fields.text("asset", MAX_ASSET)?.unwrap_or_default();
    report.unknown = fields.rest(MAX_UNKNOWN)?;
    Ok(report)
}

fn providers(fields: &mut Fields) -> Result<Vec<Provider>, Refused> {
    let Some(value) = fields.take("direct") else { return Ok(Vec::new()) };
    let Value::Object(map) = &value else {
        return Err(Refused::new(fields.at("direct"), "type", "must be an object of provider: bytes"));
    };
    if map.len() > MAX_PROVIDERS {
        let message = format!("has {} providers; at most {MAX_PROVIDERS} are allowed", map.len());
        return Err(Refused::new(fields.at("direct"), "range", message));
    }
    if let Some(name) = map.keys().find(|name| name.len() > MAX_NAME || name.chars().any(char::is_control)) {
        let message = format!("has a name of {} bytes; at most {MAX_NAME}, no control characters", name.len());
        return Err(Refused::new(fields.at("direct"), "range", message));
    }
    let names: Vec<String> = map.keys().cloned().collect();
    let mut inner = Fields::new(fields.at("direct."), value)?;
    let bytes = |name: String| {
        let bytes = inner.number(&name, 0, MAX_BYTES)?.unwrap_or_default();
        Ok(Provider { name, bytes })
    };
    names.into_iter().map(bytes).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(body: Value) -> Refused {
        Batch::parse(body.to_string().as_bytes()).unwrap_err()
    }

    #[test]
    fn a_batch_is_read_with_what_is_unknown_kept() {
        let body = json!({
            "v": 1, "run": "k3", "platform": "html5", "sdk": "shoal-js/1.4.0", "asset": "main", "trace": "t",
            "reports": [
                {"seq": 1, "at_ms": 1_700_000_000_000_u64, "event": "start", "first_frame_ms": 820, "edge_bytes": 1000},
                {"seq": 2, "direct": {"cdn-b": 5, "cdn-a": 7}, "p2p_in_bytes": 9.0, "mood": {"good": true}, "errors": null,
                 "platform": "tv", "battery": 0.5},
            ],
        });
        let batch = Batch::parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(
            (batch.run.as_str(), batch.platform.as_str(), batch.sdk.as_str()),
            ("k3", "html5", "shoal-js/1.4.0")
        );
        assert_eq!(batch.unknown, r#"{"trace":"t"}"#);
        let first = Report {
            seq: 1,
            at_ms: 1_700_000_000_000,
            event: "start".into(),
            first_frame_ms: Some(820),
            edge_bytes: 1000,
            ..Report::default()
        };
        assert_eq!(batch.reports[0], first);
        let second = &batch.reports[1];
        assert_eq!((second.direct_bytes, second.p2p_in_bytes, second.platform.as_str()), (12, 9, "tv"));
        assert_eq!(second.direct.len(), 2);
        assert_eq!(second.unknown, r#"{"battery":0.5,"mood":{"good":true}}"#);
    }

    #[test]
    fn every_number_has_bounds_and_is_named() {
        for (name, most) in [
            ("edge_bytes", MAX_BYTES),
            ("direct_bytes", MAX_BYTES),
            ("p2p_in_bytes", MAX_BYTES),
            ("p2p_out_bytes", MAX_BYTES),
            ("connections", MAX_COUNT),
            ("connection_failures", MAX_COUNT),
            ("stalls", MAX_COUNT),
            ("stall_ms", MAX_MS),
            ("errors", MAX_COUNT),
            ("first_frame_ms", MAX_MS),
            ("playing_ms", MAX_MS),
            ("at_ms", MAX_TIME_MS),
            ("seq", MAX_SEQ),
        ] {
            let body = |value: Value| {
                let mut report = json!({"seq": 1});
                report[name] = value;
                json!({"v": 1, "reports": [{"seq": 1}, report]})
            };
            assert!(Batch::parse(body(json!(most)).to_string().as_bytes()).is_ok(), "{name}");
            for bad in [json!(most + 1), json!(-1), json!(1.5), json!("1"), json!([1]), json!(1e300)] {
                let error = refused(body(bad.clone()));
                assert_eq!(error.field, format!("reports[1].{name}"), "{bad}");
                assert!(error.message.contains(&most.to_string()), "{error}");
            }
        }
        for (name, most) in [("event", MAX_NAME), ("platform", MAX_NAME), ("sdk", MAX_NAME), ("asset", MAX_ASSET)] {
            for bad in [json!("x".repeat(most + 1)), json!("a\u{0}"), json!(1)] {
                assert_eq!(
                    refused(json!({"v": 1, "reports": [{"seq": 1, name: bad}]})).field,
                    format!("reports[0].{name}")
                );
            }
        }
    }

    #[test]
    fn what_is_no_batch_is_refused_with_its_reason() {
        for (body, field, reason) in [
            (json!([]), "", "type"),
            (json!({"reports": [{"seq": 1}]}), "v", "version"),
            (json!({"v": 2, "reports": [{"seq": 1}]}), "v", "version"),
            (json!({"v": 1}), "reports", "type"),
            (json!({"v": 1, "reports": []}), "reports", "range"),
            (json!({"v": 1, "reports": vec![json!({"seq": 1}); MAX_REPORTS + 1]}), "reports", "range"),
            (json!({"v": 1, "reports": [7]}), "reports[0]", "type"),
            (json!({"v": 1, "reports": [{}]}), "reports[0].seq", "missing"),
            (json!({"v": 1, "reports": [{"seq": 0}]}), "reports[0].seq", "range"),
            (json!({"v": 1, "run": "r".repeat(65), "reports": [{"seq": 1}]}), "run", "range"),
            (json!({"v": 1, "reports": [{"seq": 1, "direct": 5}]}), "reports[0].direct", "type"),
            (json!({"v": 1, "reports": [{"seq": 1, "direct": {"a": -1}}]}), "reports[0].direct.a", "range"),
            (
                json!({"v": 1, "reports": [{"seq": 1, "direct_bytes": 1, "direct": {"a": 2}}]}),
                "reports[0].direct",
                "range",
            ),
            (json!({"v": 1, "reports": [{"seq": 1, "x": "y".repeat(5000)}]}), "reports[0]", "unknown_fields"),
            (json!({"v": 1, "x": "y".repeat(5000), "reports": [{"seq": 1}]}), "", "unknown_fields"),
        ] {
            let error = refused(body);
            assert_eq!((error.field.as_str(), error.reason), (field, reason), "{error}");
        }
        assert_eq!(Batch::parse(b"{").unwrap_err().reason, "json");
        assert_eq!(Batch::parse("[".repeat(100_000).as_bytes()).unwrap_err().reason, "json");
    }

    #[test]
    fn the_schema_asks_for_what_is_needed_and_takes_what_is_unknown() {
        let schema = schemars::schema_for!(Batch).to_value();
        assert_eq!(schema["required"], json!(["v", "reports"]));
        assert_eq!(schema["$defs"]["Report"]["required"], json!(["seq"]));
        assert!(schema["properties"].get("unknown").is_none());
        assert!(schema.get("additionalProperties").is_none(), "unknown fields are allowed");
    }

    #[test]
    fn the_share_ratio_is_of_all_that_came() {
        assert_eq!(crate::share_ratio(75, 20, 5), Some(0.75));
        assert_eq!(crate::share_ratio(0, 0, 0), None);
        assert!((crate::share_ratio(u64::MAX, u64::MAX, 0).unwrap() - 0.5).abs() < 1e-9);
    }
}
