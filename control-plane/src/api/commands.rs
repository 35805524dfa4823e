//! What an operator asks of running data planes: purge and drain.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_http::caching::is_tag;
use shoal_link::Channel;
use shoal_link::message::{Command, PurgeScope, Reply};

use super::documents::must_find;
use crate::access::audit;
use crate::app::App;
use crate::field::FieldError;
use crate::link::Answer;
use crate::orders;
use crate::rest::input::{Body, Params};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;

/// How long nodes have to answer, unless asked otherwise.
pub(super) const WAIT_MS: u32 = 10_000;
/// The longest wait.
pub(super) const MAX_WAIT_MS: u32 = 60_000;
/// Longest path.
const MAX_PATH: usize = 8192;
/// Said of a node that answers something else than was asked.
pub(super) const OTHER_ANSWER: &str =
    "its answer is to another question; run the same release on control plane and nodes";

/// Which cached objects to forget, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "scope", rename_all = "snake_case", deny_unknown_fields)]
pub enum PurgeRequest {
    /// The object behind a viewer's URL.
    Url {
        /// The URL; signatures in its query are ignored. `/path` alone means any host.
        url: String,
        /// Only these nodes; none: every connected one.
        #[serde(default)]
        nodes: Option<Vec<String>>,
    },
    /// One object.
    Object {
        /// Channel id.
        channel: String,
        /// Path below the channel's prefix, without a leading slash; with the allowed query, if any.
        path: String,
        /// Only these nodes; none: every connected one.
        #[serde(default)]
        nodes: Option<Vec<String>>,
    },
    /// All objects of a channel whose path starts so.
    Prefix {
        /// Channel id.
        channel: String,
        /// Start of the path below the channel's prefix, without a leading slash.
        path: String,
        /// Only these nodes; none: every connected one.
        #[serde(default)]
        nodes: Option<Vec<String>>,
    },
    /// All objects of a channel that its origin gave this tag, in Surrogate-Key or Cache-Tag.
    Tag {
        /// Channel id.
        channel: String,
        /// The tag: visible ASCII without commas, up to 256 bytes.
        tag: String,
        /// Only these nodes; none: every connected one.
        #[serde(default)]
        nodes: Option<Vec<String>>,
    },
    /// All objects of a channel.
    Channel {
        /// Channel id.
        channel: String,
        /// Only these nodes; none: every connected one.
        #[serde(default)]
        nodes: Option<Vec<String>>,
    },
    /// Everything.
    All {
        /// Only these nodes; none: every connected one.
        #[serde(default)]
        nodes: Option<Vec<String>>,
    },
}

/// What every node answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandReport {
    /// Whether all of them did it.
    pub ok: bool,
    /// By node; empty when none is connected.
    pub results: Vec<NodeResult>,
}

/// What one node answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeResult {
    /// The node.
    pub node: String,
    /// Objects purged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Why it did not do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitParams {
    /// Milliseconds that nodes have to answer, up to 60000; by default 10000.
    #[serde(default)]
    wait_ms: Option<u32>,
}

pub(super) fn add(routes: Routes) -> Routes {
    let unknown = (404, "There is no such channel or node.");
    routes
        .add(
            Operation::new(Method::POST, "/api/v1/purge", "purge", "Has nodes forget cached objects.")
                .query::<WaitParams>()
                .body::<PurgeRequest>()
                .gives::<CommandReport>(200, "What every node answered; look at `ok`.")
                .fails(&[unknown]),
            purge,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/nodes/{node}/drain",
                "drainNode",
                "Has a node take no more viewers, finish what runs, and exit.",
            )
            .query::<WaitParams>()
            .gives::<CommandReport>(200, "What the node answered; look at `ok`.")
            .fails(&[unknown]),
            drain,
        )
}

async fn purge(
    State(app): State<Arc<App>>,
    Params(params): Params<WaitParams>,
    Body(request): Body<PurgeRequest>,
) -> Result<Json<CommandReport>, Problem> {
    purge_within(&app, request, params.wait_ms).await.map(Json)
}

/// Purges, and waits for nodes as long as is usual; for the console.
pub(crate) async fn purge_now(app: &App, request: PurgeRequest) -> Result<CommandReport, Problem> {
    purge_within(app, request, None).await
}

async fn purge_within(app: &App, request: PurgeRequest, wait_ms: Option<u32>) -> Result<CommandReport, Problem> {
    let (scope, nodes) = match request {
        PurgeRequest::Url { url, nodes } => {
            let (channel, path) = object_of(app, &url).await?;
            (PurgeScope::Object { channel, path }, nodes)
        }
        PurgeRequest::Object { channel, path, nodes } => {
            check_path("path", &path)?;
            (PurgeScope::Object { channel, path }, nodes)
        }
        PurgeRequest::Prefix { channel, path, nodes } => {
            check_path("path", &path)?;
            (PurgeScope::Prefix { channel, path }, nodes)
        }
        PurgeRequest::Tag { channel, tag, nodes } => {
            if !is_tag(&tag) {
                let message = "must be visible ASCII without commas, of 1 to 256 bytes, as the origin sends it";
                return Err(Problem::field("tag", tag.as_str(), message));
            }
            (PurgeScope::Tag { channel, tag }, nodes)
        }
        PurgeRequest::Channel { channel, nodes } => (PurgeScope::Channel { channel }, nodes),
        PurgeRequest::All { nodes } => (PurgeScope::All, nodes),
    };
    match &scope {
        PurgeScope::Object { channel, .. }
        | PurgeScope::Prefix { channel, .. }
        | PurgeScope::Tag { channel, .. }
        | PurgeScope::Channel { channel } => {
            must_exist(app, channel).await?;
        }
        PurgeScope::All => {}
    }
    run(app, nodes, Command::Purge { scope }, wait_ms).await
}

async fn drain(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Params(params): Params<WaitParams>,
) -> Result<Json<CommandReport>, Problem> {
    run(&app, Some(vec![node]), Command::Drain, params.wait_ms).await.map(Json)
}

/// Has a node drain; for the console.
pub(crate) async fn drain_node(app: &App, node: String) -> Result<CommandReport, Problem> {
    run(app, Some(vec![node]), Command::Drain, None).await
}

async fn run(
    app: &App,
    nodes: Option<Vec<String>>,
    command: Command,
    wait_ms: Option<u32>,
) -> Result<CommandReport, Problem> {
    let result = |Answer { node, result }: Answer| match result {
        Ok(Reply::Count(count)) => NodeResult { node, count: Some(count), error: None },
        Ok(_) => NodeResult { node, count: None, error: Some(OTHER_ANSWER.to_owned()) },
        Err(error) => NodeResult { node, count: None, error: Some(error) },
    };
    let results: Vec<NodeResult> = ask(app, nodes, command, wait_ms).await?.into_iter().map(result).collect();
    Ok(CommandReport { ok: results.iter().all(|result| result.error.is_none()), results })
}

/// Has the nodes named, or all connected, carry out a command.
pub(super) async fn ask(
    app: &App,
    nodes: Option<Vec<String>>,
    command: Command,
    wait_ms: Option<u32>,
) -> Result<Vec<Answer>, Problem> {
    let wait = wait_ms.unwrap_or(WAIT_MS);
    if wait > MAX_WAIT_MS {
        let error = FieldError::new("wait_ms", wait, format!("must be at most {MAX_WAIT_MS}"));
        return Err(Problem::parameter(error));
    }
    // Named twice, asked once.
    let nodes: Option<Vec<String>> =
        nodes.map(|nodes| nodes.into_iter().collect::<BTreeSet<_>>().into_iter().collect());
    if let Some(named) = &nodes {
        let live = app.hub.nodes();
        if named.iter().any(|node| !live.contains_key(node)) {
            let known: BTreeSet<String> =
                app.db(|store| store.nodes()).await?.into_iter().map(|row| row.node).collect();
            if let Some(node) = named.iter().find(|node| !live.contains_key(*node) && !known.contains(*node)) {
                let detail = format!("no node `{node}` ever connected; GET /api/v1/nodes lists them");
                return Err(Problem::new(StatusCode::NOT_FOUND, detail));
            }
        }
    }
    // What nodes answer belongs into the audit log: its entry waits for that.
    let answers = orders::command(app, nodes.as_deref(), &command, Duration::from_millis(wait.into()));
    Ok(audit::aside(answers).await?)
}

pub(super) async fn must_exist(app: &App, channel: &str) -> Result<(), Problem> {
    must_find::<Channel>(app, channel).await.map(|_| ())
}

pub(super) fn check_path(field: &str, path: &str) -> Result<(), Problem> {
    let clean = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if path.starts_with('/') || path.len() > MAX_PATH || !clean {
        let message = "must be a percent-encoded path below the channel's prefix, without a leading slash";
        return Err(Problem::field(field, path, message));
    }
    Ok(())
}

/// Channel and path of the object that a viewer's URL means.
pub(super) async fn object_of(app: &App, url: &str) -> Result<(String, String), Problem> {
    let wrong = |message: &str| Problem::field("url", url, message);
    let after_scheme = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let (host, target) = match after_scheme {
        Some(rest) => {
            let (authority, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (Some(host_of(authority)), target)
        }
        None => (None, url),
    };
    if !target.starts_with('/') {
        return Err(wrong("must be http://host/path, https://host/path or /path"));
    }
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let to_find = path.to_owned();
    let channel = app
        .db(move |store| store.channel_at(host.as_deref(), &to_find))
        .await?
        .ok_or_else(|| wrong("belongs to no channel; GET /api/v1/channels lists their hosts and prefixes"))?
        .document;
    let mut object = path.get(channel.prefix.len()..).unwrap_or_default().to_owned();
    let allowed = query.split('&').filter(|pair| channel.cache.keeps(pair.split('=').next().unwrap_or_default()));
    for (at, pair) in allowed.enumerate() {
        object.push(if at == 0 { '?' } else { '&' });
        object.push_str(pair);
    }
    check_path("url", &object)?;
    Ok((channel.id, object))
}

fn host_of(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.to_ascii_lowercase()
}
