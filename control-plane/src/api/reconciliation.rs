//! Reconciliation: CDNs, imports of their logs, comparisons, and the sessions that explain them.

use std::sync::Arc;

use axum::Json;
use axum::body::Body as RawBody;
use axum::extract::{Path, State};
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::app::App;
use crate::field::FieldError;
use crate::recon::compare::{Comparison, Figures, SessionDifference, explain};
use crate::recon::import::{ImportError, ImportReport, Importer, Reading};
use crate::recon::{Pair, Provider, Settings};
use crate::rest::input::{Body, Params};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::{FiguresQuery, MAX_FIGURES, Store, StoreError, StoredImport, now_ms};
use crate::validate::check_id;
use shoal_report::logs::{Format, LogFormat, Measure};

const HOUR_S: u64 = 3600;
/// Times beyond this (in the year 36812) are a mistake in the unit.
const MAX_TIME_S: u64 = 1 << 40;
/// Most hours of one question.
const MAX_HOURS: u64 = 31 * 24;
/// Hours asked about unless said otherwise.
const HOURS: u64 = 24;
/// Most comparisons in an answer.
const MAX_ITEMS: usize = 10_000;
/// Most sessions in an answer.
const MAX_SESSIONS: u32 = 1_000;
/// Sessions unless asked otherwise.
const SESSIONS: u32 = 20;
/// Imports listed.
const IMPORTS: u32 = 1_000;
/// Most CDNs.
const MAX_PROVIDERS: u64 = 256;
/// Pieces of a body that wait to be read.
const PIECES: usize = 16;
/// How long a body may be silent.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// CDNs whose logs are imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderList {
    /// By id.
    pub items: Vec<Provider>,
}

/// Imports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportList {
    /// The newest first; at most 1000.
    pub items: Vec<ImportReport>,
}

/// Comparisons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReconciliationReport {
    /// By pair, hour and channel.
    pub items: Vec<Comparison>,
    /// Whether there are more than are given: ask for less time, or one channel.
    pub truncated: bool,
}

/// The sessions behind a difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionReport {
    /// Those with the largest differences, the largest first.
    pub items: Vec<SessionDifference>,
}

/// Form of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogForm {
    /// nginx: `combined`, or what `log_format` says.
    Nginx,
    /// W3C extended, with `#Fields`.
    W3c,
    /// Tencent Cloud CDN.
    Tencent,
    /// Alibaba Cloud CDN.
    Aliyun,
}

/// What bytes are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BytesOf {
    /// Bodies.
    Body,
    /// Heads and bodies.
    Wire,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ImportParams {
    /// The CDN's id, as in its document if there is one; 1 to 64 of `a-z 0-9 - _ .`.
    provider: String,
    /// The log's form.
    format: LogForm,
    /// nginx's `log_format`, without quotes around it; by default `combined`.
    #[serde(default)]
    log_format: Option<String>,
    /// Host of lines that name none.
    #[serde(default)]
    host: Option<String>,
    /// Zone of times that name none, as in `+08:00`; by default UTC, for Tencent `+08:00`. Not for W3C, which is UTC.
    #[serde(default)]
    zone: Option<String>,
    /// What the log's bytes are of, if not what the form says.
    #[serde(default)]
    bytes: Option<BytesOf>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Of this CDN only.
    #[serde(default)]
    provider: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CompareParams {
    /// From the hour of this time on, in Unix seconds; by default a day before `to`.
    #[serde(default)]
    from: Option<u64>,
    /// Up to this time, in Unix seconds, by default now; the hour that it is in counts whole.
    #[serde(default)]
    to: Option<u64>,
    /// Of this tenant only.
    #[serde(default)]
    tenant: Option<String>,
    /// Of this channel only.
    #[serde(default)]
    channel: Option<String>,
    /// Of this pair only.
    #[serde(default)]
    pair: Option<Pair>,
    /// Only those that alert.
    #[serde(default)]
    alerts: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SessionParams {
    /// Which figures.
    pair: Pair,
    /// The CDN's id; not for `edge`.
    #[serde(default)]
    provider: Option<String>,
    /// Most sessions, up to 1000; by default 20.
    #[serde(default)]
    limit: Option<u32>,
}

pub(super) fn add(routes: Routes) -> Routes {
    let import = "Counts a CDN's access log, sent as it is (up to 4 GiB, 4194304 lines, 40 days). All of it counts, or nothing; what \
                  was counted before does not count again.";
    routes
        .add(
            Operation::new(Method::POST, "/api/v1/reconciliation/logs", "importLog", import)
                .query::<ImportParams>()
                .body_as::<String>("text/plain")
                .gives::<ImportReport>(200, "These very bytes were counted before; what came of it then.")
                .gives::<ImportReport>(201, "What came of it.")
                .fails(&[
                    (408, "The log stopped coming."),
                    (409, "Another import of this CDN came in between."),
                    (429, "Another import is under way."),
                ]),
            import_log,
        )
        .add(
            Operation::new(Method::GET, "/api/v1/reconciliation/logs", "listImports", "Lists imported logs.")
                .query::<ListParams>()
                .gives::<ImportList>(200, "The imports."),
            list_imports,
        )
        .add(
            Operation::new(
                Method::DELETE,
                "/api/v1/reconciliation/logs/{provider}/{digest}",
                "deleteImport",
                "Takes an import back.",
            )
            .gives_nothing(204, "It does not count any more.")
            .fails(&[(404, "There is no such import.")]),
            delete_import,
        )
        .add(
            Operation::new(Method::GET, "/api/v1/reconciliation/providers", "listProviders", "Lists CDNs.")
                .gives::<ProviderList>(200, "The CDNs."),
            list_providers,
        )
        .add(
            Operation::new(
                Method::PUT,
                "/api/v1/reconciliation/providers/{id}",
                "putProvider",
                "Says which origins are a CDN, and from where our nodes ask it.",
            )
            .body::<Provider>()
            .gives::<Provider>(200, "It holds from now on; what was imported stays as it was counted.")
            .fails(&[(409, "There are as many CDNs as there may be.")]),
            put_provider,
        )
        .add(
            Operation::new(
                Method::DELETE,
                "/api/v1/reconciliation/providers/{id}",
                "deleteProvider",
                "Forgets a CDN; its imports stay.",
            )
            .gives_nothing(204, "It is forgotten.")
            .fails(&[(404, "There is no such CDN.")]),
            delete_provider,
        )
        .add(
            Operation::new(
                Method::GET,
                "/api/v1/reconciliation/settings/{tenant}",
                "readReconciliationSettings",
                "From which difference on a tenant's channels alert.",
            )
            .gives::<Settings>(200, "The settings.")
            .fails(&[(422, "That is no tenant's id.")]),
            read_settings,
        )
        .add(
            Operation::new(
                Method::PUT,
                "/api/v1/reconciliation/settings/{tenant}",
                "putReconciliationSettings",
                "Says from which difference on a tenant's channels alert.",
            )
            .body::<Settings>()
            .gives::<Settings>(200, "They hold from now on."),
            put_settings,
        )
        .add(
            Operation::new(
                Method::GET,
                "/api/v1/reconciliation",
                "reconcile",
                "Compares what was delivered with what was counted, by channel and hour.",
            )
            .query::<CompareParams>()
            .gives::<ReconciliationReport>(200, "The comparisons."),
            compare,
        )
        .add(
            Operation::new(
                Method::GET,
                "/api/v1/reconciliation/{channel}/{hour}/sessions",
                "explainDifference",
                "The sessions that explain most of a difference; the hour by any Unix second in it.",
            )
            .query::<SessionParams>()
            .gives::<SessionReport>(200, "The sessions."),
            sessions,
        )
}

async fn import_log(
    State(app): State<Arc<App>>,
    Params(params): Params<ImportParams>,
    request: Request<RawBody>,
) -> Result<Response, Problem> {
    let reading = reading(&params).map_err(Problem::parameter)?;
    check_id(&params.provider)
        .map_err(|message| Problem::parameter(FieldError::new("provider", params.provider.as_str(), message)))?;
    let Ok(_place) = app.imports.try_acquire() else {
        let detail = "another log is imported at this moment; try again when it is done";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
    };
    let (pieces, receiver) = mpsc::channel(PIECES);
    let id = params.provider;
    let work = app.db(move |store| Ok(import(store, &id, reading, receiver)));
    let (sent, done) = tokio::join!(send(request.into_body(), pieces), work);
    sent?;
    let (report, stored) = done?.map_err(refused)?;
    Ok((if stored { StatusCode::CREATED } else { StatusCode::OK }, Json(report)).into_response())
}

/// A piece of a log, or its end. Without an end the log is broken off.
enum Piece {
    Bytes(bytes::Bytes),
    End,
}

async fn send(body: RawBody, pieces: mpsc::Sender<Piece>) -> Result<(), Problem> {
    let mut body = std::pin::pin!(body);
    loop {
        let frame = std::future::poll_fn(|cx| http_body::poll(body.as_mut(), cx));
        let frame = tokio::time::timeout(SILENCE, frame).await.map_err(|_| {
            let detail = format!("nothing of the log came for {} s; nothing of it is counted", SILENCE.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        })?;
        let piece = match frame {
            None => Piece::End,
            Some(Ok(bytes)) => Piece::Bytes(bytes),
            Some(Err(error)) => {
                let detail = format!("the log broke off ({error}); nothing of it is counted");
                return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
            }
        };
        let end = matches!(piece, Piece::End);
        // The reader has ended early when it found something to refuse; that is the answer.
        if pieces.send(piece).await.is_err() || end {
            return Ok(());
        }
    }
}

fn import(
    store: &Store,
    id: &str,
    reading: Reading,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<(ImportReport, bool), ImportError> {
    let provider = store.recon_provider(id)?.unwrap_or_else(|| Provider { id: id.to_owned(), ..Provider::default() });
    let mut importer = Importer::new(store, &provider, reading)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => importer.read(&bytes)?,
            Some(Piece::End) => break,
            None => return Err(ImportError::BrokenOff),
        }
    }
    let imported = importer.finish(now_ms())?;
    match store.recon_import(&imported)? {
        StoredImport::New => Ok((imported.report, true)),
        StoredImport::Before(report) => Ok((*report, false)),
        StoredImport::Raced => Err(ImportError::Raced),
    }
}

fn refused(error: ImportError) -> Problem {
    let status = match &error {
        ImportError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ImportError::Foreign { .. } => return Problem::field("", serde_json::Value::Null, error.to_string()),
        ImportError::Raced => StatusCode::CONFLICT,
        ImportError::BrokenOff => StatusCode::BAD_REQUEST,
        ImportError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.to_string())
}

fn reading(params: &ImportParams) -> Result<Reading, FieldError> {
    let format = match (params.format, &params.log_format) {
        (LogForm::Nginx, None) => Format::Nginx(LogFormat::default()),
        (LogForm::Nginx, Some(text)) => Format::Nginx(
            LogFormat::compile(text)
                .map_err(|error| FieldError::new("log_format", text.as_str(), error.to_string()))?,
        ),
        (_, Some(text)) => return Err(FieldError::new("log_format", text.as_str(), "is for nginx only; leave it out")),
        (LogForm::W3c, None) => Format::W3c,
        (LogForm::Tencent, None) => Format::Tencent,
        (LogForm::Aliyun, None) => Format::Aliyun,
    };
    let zone = params.zone.as_ref().map(|text| {
        text.parse()
            .map_err(|error: shoal_report::logs::ZoneError| FieldError::new("zone", text.as_str(), error.to_string()))
    });
    let measure = params.bytes.map(|bytes| match bytes {
        BytesOf::Body => Measure::Body,
        BytesOf::Wire => Measure::Wire,
    });
    Ok(Reading { format, host: params.host.clone(), zone: zone.transpose()?, measure })
}

async fn list_imports(
    State(app): State<Arc<App>>,
    Params(params): Params<ListParams>,
) -> Result<Json<ImportList>, Problem> {
    Ok(Json(ImportList { items: app.db(move |store| store.recon_imports(params.provider.as_deref(), IMPORTS)).await? }))
}

async fn delete_import(
    State(app): State<Arc<App>>,
    Path((provider, digest)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    if app.db(move |store| store.recon_delete_import(&provider, &digest)).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let detail = "there is no such import; GET /api/v1/reconciliation/logs lists them";
    Err(Problem::new(StatusCode::NOT_FOUND, detail))
}

async fn list_providers(State(app): State<Arc<App>>) -> Result<Json<ProviderList>, Problem> {
    Ok(Json(ProviderList { items: app.db(|store| store.recon_providers()).await? }))
}

async fn put_provider(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Body(mut provider): Body<Provider>,
) -> Result<Json<Provider>, Problem> {
    if !provider.id.is_empty() && provider.id != id {
        return Err(Problem::field("id", provider.id, "is not the one in the path; leave it out"));
    }
    provider.id = id;
    let errors = provider.check();
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    let stored = provider.clone();
    if app.db(move |store| store.recon_put_provider(&stored, MAX_PROVIDERS)).await? {
        return Ok(Json(provider));
    }
    let detail = format!("there are {MAX_PROVIDERS} CDNs already; delete one that is no longer used");
    Err(Problem::new(StatusCode::CONFLICT, detail))
}

async fn delete_provider(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    if app.db(move |store| store.recon_delete_provider(&id)).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let detail = "there is no such CDN; GET /api/v1/reconciliation/providers lists them";
    Err(Problem::new(StatusCode::NOT_FOUND, detail))
}

async fn read_settings(State(app): State<Arc<App>>, Path(tenant): Path<String>) -> Result<Json<Settings>, Problem> {
    let tenant = tenant_id(tenant)?;
    Ok(Json(app.db(move |store| store.recon_settings(&tenant)).await?))
}

async fn put_settings(
    State(app): State<Arc<App>>,
    Path(tenant): Path<String>,
    Body(settings): Body<Settings>,
) -> Result<Json<Settings>, Problem> {
    let tenant = tenant_id(tenant)?;
    let errors = settings.check();
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    app.db(move |store| store.recon_set(&tenant, &settings)).await?;
    Ok(Json(settings))
}

fn tenant_id(tenant: String) -> Result<String, Problem> {
    match check_id(&tenant) {
        Ok(()) => Ok(tenant),
        Err(message) => Err(Problem::field("tenant", tenant, message)),
    }
}

async fn compare(
    State(app): State<Arc<App>>,
    Params(params): Params<CompareParams>,
) -> Result<Json<ReconciliationReport>, Problem> {
    let now = now_ms() / 1000;
    let (from_hour, to_hour) = hours(&params, now).map_err(Problem::parameter)?;
    let query = FiguresQuery { from_hour, to_hour, tenant: params.tenant, channel: params.channel };
    let (mut items, mut truncated) = comparisons(&app, query, now).await?;
    items.retain(|comparison| params.pair.is_none_or(|pair| comparison.pair == pair));
    items.retain(|comparison| !params.alerts || comparison.alert);
    truncated |= items.len() > MAX_ITEMS;
    items.truncate(MAX_ITEMS);
    Ok(Json(ReconciliationReport { items, truncated }))
}

/// Compares, and says whether there are more figures than were read; also for the console. `now` in Unix seconds.
pub(crate) async fn comparisons(
    app: &App,
    query: FiguresQuery,
    now: u64,
) -> Result<(Vec<Comparison>, bool), StoreError> {
    let (figures, settings) =
        app.db(move |store| Ok((store.recon_figures(&query)?, store.recon_all_settings()?))).await?;
    let truncated = figures.len() >= MAX_FIGURES;
    let of = |tenant: &str| settings.get(tenant).copied().unwrap_or_default();
    let compare = |figures: Figures| {
        let settings = of(&figures.tenant);
        figures.compare(&settings, now)
    };
    Ok((figures.into_iter().map(compare).collect(), truncated))
}

fn hours(params: &CompareParams, now: u64) -> Result<(u64, u64), FieldError> {
    for (field, time) in [("from", params.from), ("to", params.to)] {
        if let Some(time) = time.filter(|time| *time > MAX_TIME_S) {
            return Err(FieldError::new(field, time, "must be in Unix seconds, not milliseconds"));
        }
    }
    let to = params.to.unwrap_or(now).div_ceil(HOUR_S);
    let from = params.from.map_or(to.saturating_sub(HOURS), |from| from / HOUR_S);
    if to.saturating_sub(from) > MAX_HOURS {
        let message = format!("is more than {} days before `to`; ask for less", MAX_HOURS / 24);
        return Err(FieldError::new("from", from * HOUR_S, message));
    }
    Ok((from, to))
}

async fn sessions(
    State(app): State<Arc<App>>,
    Path((channel, hour)): Path<(String, String)>,
    Params(params): Params<SessionParams>,
) -> Result<Json<SessionReport>, Problem> {
    let time = hour.parse::<u64>().ok().filter(|time| *time <= MAX_TIME_S);
    let hour = time
        .map(|time| time / HOUR_S)
        .ok_or_else(|| Problem::parameter(FieldError::new("hour", hour, "must be a time in Unix seconds")))?;
    let limit = params.limit.unwrap_or(SESSIONS);
    if !(1..=MAX_SESSIONS).contains(&limit) {
        let message = format!("must be from 1 to {MAX_SESSIONS}");
        return Err(Problem::parameter(FieldError::new("limit", limit, message)));
    }
    let provider = match (params.pair, params.provider) {
        (Pair::Edge, None) => String::new(),
        (Pair::Edge, Some(provider)) => {
            let message = "is not for the pair `edge`; leave it out";
            return Err(Problem::parameter(FieldError::new("provider", provider, message)));
        }
        (_, Some(provider)) => provider,
        (_, None) => {
            let message = "must say which CDN; GET /api/v1/reconciliation has it with each comparison";
            return Err(Problem::parameter(FieldError::new("provider", serde_json::Value::Null, message)));
        }
    };
    let sides = app.db(move |store| store.recon_sessions(params.pair, &provider, &channel, hour)).await?;
    Ok(Json(SessionReport { items: explain(sides, limit as usize) }))
}

mod http_body {
    //! The next bytes of a body.

    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::{Body, HttpBody};
    use bytes::Bytes;

    pub(super) fn poll(body: Pin<&mut Body>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
        match body.poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            // Trailers are no bytes.
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame.into_data().unwrap_or_default()))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn a_log_that_breaks_off_leaves_nothing() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let reading = Reading { format: Format::Tencent, host: None, zone: None, measure: None };
        let line = "20180501100000 192.0.2.1 h /a 518 22 2 206 NULL 12 \"UA\" \"-\" GET HTTP/1.1 hit\n";
        let run = |end: bool| {
            let (sender, receiver) = mpsc::channel(4);
            sender.try_send(Piece::Bytes(line.into())).unwrap();
            if end {
                sender.try_send(Piece::End).unwrap();
            }
            drop(sender);
            import(&store, "cdn", reading.clone(), receiver)
        };
        assert!(matches!(run(false), Err(ImportError::BrokenOff)));
        assert!(store.recon_imports(None, 10).unwrap().is_empty());
        let (report, stored) = run(true).unwrap();
        assert!(stored && report.unmapped == 1 && store.recon_imports(None, 10).unwrap() == [report]);
    }
}
