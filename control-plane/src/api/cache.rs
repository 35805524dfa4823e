//! What nodes say of their caches. Nothing is changed by asking.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::inspect::{CacheStat, Explanation, Inspect, ObjectStat, Probe, TOP_MAX, TopBy, TopReport};
use shoal_link::message::{Command, Reply};

use super::commands::{self, OTHER_ANSWER};
use crate::app::App;
use crate::field::FieldError;
use crate::link::Answer;
use crate::rest::input::{Body, Params};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;

/// Objects listed, unless asked otherwise.
const TOP: u32 = 20;
/// Longest URL, and the most bytes of other fields of a request that is explained.
const MAX_PROBE: usize = 16 << 10;

/// What each node answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheReport<T> {
    /// Whether all of them answered.
    pub ok: bool,
    /// By node; empty when none is connected.
    pub results: Vec<NodeAnswer<T>>,
}

/// What one node answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeAnswer<T> {
    /// The node.
    pub node: String,
    /// Its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<T>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TopParams {
    /// Order: `requests`, `bytes` (sent), or `ram` (bytes held); by default `requests`.
    #[serde(default)]
    by: TopBy,
    /// Of this channel only.
    #[serde(default)]
    channel: Option<String>,
    /// Objects of each node, up to 1000; by default 20.
    #[serde(default)]
    limit: Option<u32>,
    /// Only these nodes, with commas between; by default every connected one.
    #[serde(default)]
    nodes: Option<String>,
    /// Milliseconds that nodes have to answer, up to 60000; by default 10000.
    #[serde(default)]
    wait_ms: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StatParams {
    /// Only these nodes, with commas between; by default every connected one.
    #[serde(default)]
    nodes: Option<String>,
    /// Milliseconds that nodes have to answer, up to 60000; by default 10000.
    #[serde(default)]
    wait_ms: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ObjectParams {
    /// A viewer's URL; `/path` alone means any host.
    #[serde(default)]
    url: Option<String>,
    /// In place of a URL: channel id.
    #[serde(default)]
    channel: Option<String>,
    /// And path below the channel's prefix.
    #[serde(default)]
    path: Option<String>,
    /// Only these nodes, with commas between; by default every connected one.
    #[serde(default)]
    nodes: Option<String>,
    /// Milliseconds that nodes have to answer, up to 60000; by default 10000.
    #[serde(default)]
    wait_ms: Option<u32>,
}

pub(super) fn add(routes: Routes) -> Routes {
    let answers = "What every node answered; look at `ok`.";
    let unknown = (404, "There is no such channel or node.");
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/cache/top", "cacheTop", "Objects asked for most, or largest in RAM.")
                .query::<TopParams>()
                .gives::<CacheReport<TopReport>>(200, answers)
                .fails(&[unknown]),
            top,
        )
        .add(
            Operation::new(Method::GET, "/api/v1/cache/stat", "cacheStat", "The caches of nodes, in figures.")
                .query::<StatParams>()
                .gives::<CacheReport<CacheStat>>(200, answers)
                .fails(&[unknown]),
            stat,
        )
        .add(
            Operation::new(Method::GET, "/api/v1/cache/object", "cacheObject", "What is kept of one object.")
                .query::<ObjectParams>()
                .gives::<CacheReport<ObjectStat>>(200, answers)
                .fails(&[unknown, (422, "The object is not named, or not well; the field is.")]),
            object,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/cache/explain",
                "cacheExplain",
                "What would happen to a request, and why; it is not made.",
            )
            .reads()
            .query::<StatParams>()
            .body::<Probe>()
            .gives::<CacheReport<Explanation>>(200, answers)
            .fails(&[unknown]),
            explain,
        )
}

async fn top(
    State(app): State<Arc<App>>,
    Params(params): Params<TopParams>,
) -> Result<Json<CacheReport<TopReport>>, Problem> {
    let TopParams { by, channel, limit, nodes, wait_ms } = params;
    let limit = limit.unwrap_or(TOP);
    if limit == 0 || limit > TOP_MAX {
        return Err(Problem::parameter(FieldError::new("limit", limit, format!("must be 1 to {TOP_MAX}"))));
    }
    if let Some(channel) = &channel {
        commands::must_exist(&app, channel).await?;
    }
    let question = Inspect::Top { by, channel, limit };
    ask(&app, question, nodes, wait_ms, |reply| if let Reply::Top(top) = reply { Some(top) } else { None }).await
}

async fn stat(
    State(app): State<Arc<App>>,
    Params(params): Params<StatParams>,
) -> Result<Json<CacheReport<CacheStat>>, Problem> {
    let StatParams { nodes, wait_ms } = params;
    ask(&app, Inspect::Cache, nodes, wait_ms, |reply| if let Reply::Cache(stat) = reply { Some(*stat) } else { None })
        .await
}

async fn object(
    State(app): State<Arc<App>>,
    Params(params): Params<ObjectParams>,
) -> Result<Json<CacheReport<ObjectStat>>, Problem> {
    let ObjectParams { url, channel, path, nodes, wait_ms } = params;
    let (channel, path) = match (url, channel, path) {
        (Some(url), None, None) => commands::object_of(&app, &url).await?,
        (None, Some(channel), Some(path)) => {
            commands::check_path("path", &path)?;
            commands::must_exist(&app, &channel).await?;
            (channel, path)
        }
        _ => {
            let detail = "name the object by `url`, or by `channel` and `path`";
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
    };
    let question = Inspect::Object { channel, path };
    ask(&app, question, nodes, wait_ms, |reply| if let Reply::Object(stat) = reply { Some(*stat) } else { None }).await
}

async fn explain(
    State(app): State<Arc<App>>,
    Params(params): Params<StatParams>,
    Body(probe): Body<Probe>,
) -> Result<Json<CacheReport<Explanation>>, Problem> {
    let StatParams { nodes, wait_ms } = params;
    check_probe(&probe)?;
    let explanation = |reply| if let Reply::Explanation(explanation) = reply { Some(*explanation) } else { None };
    ask(&app, Inspect::Explain(probe), nodes, wait_ms, explanation).await
}

/// Only its form: what a node would say to it is what is asked.
fn check_probe(probe: &Probe) -> Result<(), Problem> {
    let Probe { url, method, headers, client: _ } = probe;
    let begins = ["http://", "https://", "/"].iter().any(|start| url.starts_with(start));
    if !begins || url.len() > MAX_PROBE || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "must be http://host/path, https://host/path or /path, percent-encoded";
        return Err(Problem::field("url", url.as_str(), message));
    }
    let is_token = |text: &str| {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty() && text.bytes().all(token)
    };
    if !is_token(method) || method.len() > 32 {
        return Err(Problem::field("method", method.as_str(), "must be a method, as in GET"));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    for (at, (name, value)) in headers.iter().enumerate() {
        if !is_token(name) {
            return Err(Problem::field(
                format!("headers[{at}]"),
                name.as_str(),
                "must begin with the name of a header",
            ));
        }
        if bytes > MAX_PROBE || value.bytes().any(|byte| byte.is_ascii_control()) {
            let message = format!("must be one line; all headers together have up to {MAX_PROBE} bytes");
            return Err(Problem::field(format!("headers[{at}]"), value.as_str(), message));
        }
    }
    Ok(())
}

async fn ask<T>(
    app: &App,
    question: Inspect,
    nodes: Option<String>,
    wait_ms: Option<u32>,
    expected: impl Fn(Reply) -> Option<T>,
) -> Result<Json<CacheReport<T>>, Problem> {
    let nodes = nodes.map(|nodes| nodes.split(',').map(str::to_owned).collect());
    gather(app, nodes, Command::Inspect { question }, wait_ms, expected).await.map(Json)
}

/// Has nodes carry out a command, and puts their answers together.
pub(super) async fn gather<T>(
    app: &App,
    nodes: Option<Vec<String>>,
    command: Command,
    wait_ms: Option<u32>,
    expected: impl Fn(Reply) -> Option<T>,
) -> Result<CacheReport<T>, Problem> {
    let answer = |Answer { node, result }: Answer| match result.map(&expected) {
        Ok(Some(answer)) => NodeAnswer { node, answer: Some(answer), error: None },
        Ok(None) => NodeAnswer { node, answer: None, error: Some(OTHER_ANSWER.to_owned()) },
        Err(error) => NodeAnswer { node, answer: None, error: Some(error) },
    };
    let answers = commands::ask(app, nodes, command, wait_ms).await?;
    let results: Vec<NodeAnswer<T>> = answers.into_iter().map(answer).collect();
    Ok(CacheReport { ok: results.iter().all(|result| result.error.is_none()), results })
}
