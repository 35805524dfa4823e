//! `POST /v1/reports` and `POST /v1/cmcd`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_report::cmcd::{self, Event};
use shoal_report::{Batch, Refused};

use super::AppendError;
use super::entry::{Entry, Source};
use crate::app::App;
use crate::field::FieldError;
use crate::pass::{MAX_PASS, Pass, PassError, PassKeys};
use crate::rest::client;
use crate::rest::input;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::now_ms;

/// Seconds after which an SDK may try again when too much waits.
const BUSY_AGAIN: HeaderValue = HeaderValue::from_static("2");

/// What was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// Reports that are on the disk now. Those that were counted before are in this number, and do not count again.
    pub accepted: usize,
}

/// The parameters of both.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it describes the query; the pass is read by hand, from two places")]
struct PassParams {
    /// The viewer's pass, where no Authorization header can be sent.
    pass: Option<String>,
}

const PASS_HEADER: (&str, &str) = ("Authorization", "`Bearer` and the pass that conf gave.");
const FAILURES: [(u16, &str); 3] = [
    (401, "No pass, or one that is not good; ask conf for another."),
    (429, "Too much waits to be written: send the same again after Retry-After seconds."),
    (503, "The disk is full or fails: send the same again after Retry-After seconds."),
];

/// Adds the routes.
pub(crate) fn add(routes: Routes) -> Routes {
    let routes = routes.add(
        Operation::new(Method::POST, "/v1/reports", "report", "Takes reports of one session.")
            .open()
            .query::<PassParams>()
            .header(PASS_HEADER.0, PASS_HEADER.1)
            .body::<Batch>()
            .gives::<Accepted>(202, "They are on the disk, and will be counted once.")
            .fails(&FAILURES),
        reports,
    );
    routes.add(
        Operation::new(Method::POST, "/v1/cmcd", "reportCmcd", "Takes a player's CMCD events, one dictionary a line.")
            .open()
            .query::<PassParams>()
            .header(PASS_HEADER.0, PASS_HEADER.1)
            .body_as::<String>(cmcd::MEDIA_TYPE)
            .gives::<Accepted>(202, "They are on the disk, and will be counted once.")
            .fails(&FAILURES),
        events,
    )
}

async fn reports(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (mut entry, kind, body) = begin(&app, request).await?;
    // Pages that go away send text/plain by sendBeacon: anything else would ask for a preflight.
    if !matches!(kind.as_str(), "application/json" | "text/plain") {
        return Err(media_type(&kind, "application/json"));
    }
    let batch = Batch::parse(&body).map_err(|error| refused(&app, &error))?;
    entry.source = Source::Sdk;
    entry.stream = batch.run;
    entry.platform = batch.platform;
    entry.sdk = batch.sdk;
    entry.asset = batch.asset;
    entry.unknown = batch.unknown;
    entry.reports = batch.reports;
    accept(&app, &[entry]).await
}

async fn events(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let (mut shared, kind, body) = begin(&app, request).await?;
    let json = match kind.as_str() {
        "application/cmcd" | "text/plain" => false,
        "application/json" => true,
        other => return Err(media_type(other, cmcd::MEDIA_TYPE)),
    };
    let events = cmcd::events(&body, json).map_err(|error| refused(&app, &error))?;
    shared.source = Source::Cmcd;
    shared.sdk = "cmcd-2".to_owned();
    accept(&app, &by_session(&shared, events)).await
}

/// One entry for each of the sessions, in the order in which they come.
fn by_session(shared: &Entry, events: Vec<Event>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for Event { sid, report } in events {
        match entries.iter_mut().find(|entry| entry.stream == sid) {
            Some(entry) => entry.reports.push(report),
            None => entries.push(Entry { stream: sid, reports: vec![report], ..shared.clone() }),
        }
    }
    entries
}

/// Who sends, from where; the body's media type, in lower case, and the body.
async fn begin(app: &Arc<App>, request: Request) -> Result<(Entry, String, Bytes), Problem> {
    let received_ms = now_ms();
    let pass = verify(&app.passes(), request.headers(), request.uri(), received_ms / 1000).inspect_err(|_| {
        app.reports.metrics.refused("pass");
    })?;
    let address = client::address(request.extensions(), request.headers(), &app.config.public.trusted_proxies);
    let place = address.map(|address| app.places.place(address)).unwrap_or_default();
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = given.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let body = input::bytes(request, &()).await?;
    let entry = Entry {
        received_ms,
        tenant: pass.tenant,
        app: pass.app,
        channel: pass.channel,
        session: pass.session,
        region: place.region,
        isp: place.isp,
        ..Entry::default()
    };
    Ok((entry, kind, body))
}

fn verify(keys: &PassKeys, headers: &HeaderMap, uri: &Uri, now_s: u64) -> Result<Pass, Problem> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer =
        bearer.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let in_query = || uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("pass="));
    let unauthorized = |detail: String| Problem::new(StatusCode::UNAUTHORIZED, detail);
    let text = bearer.map(|(_, pass)| pass.trim()).or_else(in_query).ok_or_else(|| {
        unauthorized(
            "there is no pass; send `Authorization: Bearer` and the pass that conf gave, or `?pass=`".to_owned(),
        )
    })?;
    if text.len() > MAX_PASS {
        return Err(unauthorized(PassError::Malformed.to_string()));
    }
    keys.verify(text, now_s).map_err(|error| unauthorized(error.to_string()))
}

fn refused(app: &App, error: &Refused) -> Problem {
    app.reports.metrics.refused(match error.reason {
        known @ ("json" | "type" | "range" | "version") => known,
        // Missing fields, CMCD that is none, too much that is unknown.
        _ => "range",
    });
    if error.reason == "json" {
        return Problem::new(StatusCode::BAD_REQUEST, error.message.clone());
    }
    Problem::fields(vec![FieldError::new(error.field.clone(), serde_json::Value::Null, error.message.clone())])
}

fn media_type(given: &str, wanted: &str) -> Problem {
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("Content-Type is `{given}`; send `Content-Type: {wanted}`"),
    )
}

async fn accept(app: &Arc<App>, entries: &[Entry]) -> Result<Response, Problem> {
    for entry in entries {
        // Of several, those before one that fails are kept; sent again, they are not counted again.
        if let Err(error) = app.reports.accept(entry).await {
            return Ok(unavailable(error));
        }
    }
    let accepted = entries.iter().map(|entry| entry.reports.len()).sum();
    Ok((StatusCode::ACCEPTED, Json(Accepted { accepted })).into_response())
}

fn unavailable(error: AppendError) -> Response {
    match error {
        AppendError::Busy => {
            let mut response = Problem::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()).into_response();
            response.headers_mut().insert(header::RETRY_AFTER, BUSY_AGAIN);
            response
        }
        // It comes with Retry-After.
        AppendError::Full | AppendError::Failed => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_report::Report;

    use super::*;
    use crate::pass::KEY_BYTES;

    fn keys() -> PassKeys {
        PassKeys::new(vec![(1, [7; KEY_BYTES])])
    }

    #[test]
    fn the_pass_is_taken_from_header_or_query() {
        let pass = Pass {
            tenant: "acme".into(),
            app: "".into(),
            channel: "room".into(),
            session: "s".into(),
            expires: 100,
            relay_only: false,
        };
        let text = keys().mint(&pass).unwrap();
        let bearer = |value: String| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            headers
        };
        let plain: Uri = "/v1/reports".parse().unwrap();
        let query: Uri = format!("/v1/reports?a=1&pass={text}").parse().unwrap();
        assert_eq!(verify(&keys(), &bearer(format!("Bearer {text}")), &plain, 99).unwrap(), pass);
        assert_eq!(verify(&keys(), &bearer(format!("bearer  {text} ")), &plain, 99).unwrap(), pass);
        assert_eq!(verify(&keys(), &HeaderMap::new(), &query, 99).unwrap(), pass);
        for (headers, uri, now) in [
            (HeaderMap::new(), &plain, 99),
            (bearer(format!("Bearer {text}")), &plain, 100),
            (bearer(format!("Basic {text}")), &plain, 99),
            (bearer("Bearer ".to_owned() + &"A".repeat(10_000)), &plain, 99),
            (bearer("Bearer x".to_owned()), &query, 99),
        ] {
            assert_eq!(verify(&keys(), &headers, uri, now).unwrap_err().status, 401);
        }
    }

    #[test]
    fn events_of_several_sessions_are_several_entries() {
        let event = |sid: &str, seq| Event { sid: sid.into(), report: Report { seq, ..Report::default() } };
        let entries = by_session(&Entry::default(), vec![event("a", 1), event("b", 1), event("a", 2)]);
        let found: Vec<_> = entries.iter().map(|entry| (entry.stream.as_str(), entry.reports.len())).collect();
        assert_eq!(found, [("a", 2), ("b", 1)]);
    }
}
