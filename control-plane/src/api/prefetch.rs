//! Orders to fetch objects ahead.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::message::{Command, Reply};
use shoal_link::prefetch::{PrefetchItem, PrefetchOrder, PrefetchStat};

use super::cache::{self, CacheReport};
use super::commands::{self, MAX_WAIT_MS, WAIT_MS};
use crate::app::App;
use crate::rest::input::{Body, Params};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;

/// Most items of one order.
const MAX_ITEMS: usize = 10_000;
/// Bytes per second of an order, unless asked otherwise: a tenth of a link of 2 Gbit/s.
const RATE: u64 = 25_000_000;
/// A node may take so much longer to say how far it has come than it was told to wait.
const GRACE_MS: u32 = 2_000;

/// What to fetch into caches, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefetchRequest {
    /// Channel id.
    pub channel: String,
    /// Paths below the channel's prefix, without a leading slash, with the allowed query, if any; or viewers' URLs.
    #[serde(default)]
    pub paths: Vec<String>,
    /// The same, each with a range of bytes. At most 10000 of both.
    #[serde(default)]
    pub items: Vec<PrefetchItem>,
    /// Bytes per second on each node; by default 25000000, 0 for no limit. Four objects are fetched at a time in any case.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// The order ends when so many bytes were fetched on a node.
    #[serde(default)]
    pub bytes_max: Option<u64>,
    /// Only these nodes; none: every connected one.
    #[serde(default)]
    pub nodes: Option<Vec<String>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OrderParams {
    /// Milliseconds after which the answer tells how far it has come, up to 60000; by default 10000. The order goes on.
    #[serde(default)]
    wait_ms: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Only these nodes, with commas between; by default every connected one.
    #[serde(default)]
    nodes: Option<String>,
}

pub(super) fn add(routes: Routes) -> Routes {
    let unknown = (404, "There is no such channel or node.");
    let answers = "What every node answered; look at `ok`.";
    routes
        .add(
            Operation::new(Method::POST, "/api/v1/prefetch", "prefetch", "Has nodes fetch objects into their caches.")
                .query::<OrderParams>()
                .body::<PrefetchRequest>()
                .gives::<CacheReport<PrefetchStat>>(200, answers)
                .fails(&[unknown]),
            order,
        )
        .add(
            Operation::new(Method::GET, "/api/v1/prefetch", "listPrefetches", "How far such orders have come.")
                .query::<ListParams>()
                .gives::<CacheReport<Vec<PrefetchStat>>>(200, answers)
                .fails(&[unknown]),
            list,
        )
        .add(
            Operation::new(
                Method::DELETE,
                "/api/v1/nodes/{node}/prefetch/{order}",
                "cancelPrefetch",
                "Stops an order; what it has fetched stays.",
            )
            .gives::<CacheReport<Vec<PrefetchStat>>>(200, "The node's orders after that; look at `ok`.")
            .fails(&[unknown, (422, "That is no number of an order.")]),
            cancel,
        )
}

async fn order(
    State(app): State<Arc<App>>,
    Params(params): Params<OrderParams>,
    Body(request): Body<PrefetchRequest>,
) -> Result<Json<CacheReport<PrefetchStat>>, Problem> {
    let PrefetchRequest { channel, paths, items, bytes_per_second, bytes_max, nodes } = request;
    let count = paths.len() + items.len();
    if count == 0 || count > MAX_ITEMS {
        return Err(Problem::field("paths", count, format!("must be 1 to {MAX_ITEMS} paths and items")));
    }
    commands::must_exist(&app, &channel).await?;
    let whole = |path| PrefetchItem { path, first: 0, last: None };
    let paths = paths.into_iter().map(whole).enumerate().map(|(at, item)| (format!("paths[{at}]"), item));
    let items = items.into_iter().enumerate().map(|(at, item)| (format!("items[{at}].path"), item));
    let mut checked = Vec::with_capacity(count);
    for (field, mut item) in paths.chain(items) {
        item.path = path_of(&app, &channel, &field, item.path).await?;
        if item.last.is_some_and(|last| last < item.first) {
            return Err(Problem::field(field, item.path, "has a last byte before its first one"));
        }
        checked.push(item);
    }
    let wait_ms = params.wait_ms.unwrap_or(WAIT_MS);
    // The node is to answer before it is given up.
    let node_ms = wait_ms.min(MAX_WAIT_MS - GRACE_MS);
    let order = PrefetchOrder {
        channel,
        items: checked,
        bytes_per_second: bytes_per_second.unwrap_or(RATE),
        bytes_max: bytes_max.unwrap_or(u64::MAX),
        wait_ms: node_ms,
    };
    let stat = |reply| if let Reply::Prefetch(stat) = reply { Some(*stat) } else { None };
    let wait_ms = Some(wait_ms.max(node_ms + GRACE_MS));
    let mut report = cache::gather(&app, nodes, Command::Prefetch { order }, wait_ms, stat).await?;
    report.ok &= report.results.iter().flat_map(|result| &result.answer).all(|stat| stat.failed == 0);
    Ok(Json(report))
}

async fn list(
    State(app): State<Arc<App>>,
    Params(ListParams { nodes }): Params<ListParams>,
) -> Result<Json<CacheReport<Vec<PrefetchStat>>>, Problem> {
    let nodes = nodes.map(|nodes| nodes.split(',').map(str::to_owned).collect());
    let list = |reply| if let Reply::Prefetches(list) = reply { Some(list) } else { None };
    cache::gather(&app, nodes, Command::Prefetches { cancel: None }, None, list).await.map(Json)
}

async fn cancel(
    State(app): State<Arc<App>>,
    Path((node, order)): Path<(String, String)>,
) -> Result<Json<CacheReport<Vec<PrefetchStat>>>, Problem> {
    let id = order.parse().map_err(|_| Problem::field("order", order.as_str(), "must be the number of an order"))?;
    let list = |reply| if let Reply::Prefetches(list) = reply { Some(list) } else { None };
    cache::gather(&app, Some(vec![node]), Command::Prefetches { cancel: Some(id) }, None, list).await.map(Json)
}

/// The path below the channel's prefix, of a path or of a viewer's URL.
async fn path_of(app: &App, channel: &str, field: &str, path: String) -> Result<String, Problem> {
    if !["http://", "https://", "/"].iter().any(|start| path.starts_with(start)) {
        commands::check_path(field, &path)?;
        return Ok(path);
    }
    let (found, below) = commands::object_of(app, &path).await?;
    if found != channel {
        return Err(Problem::field(field, path, format!("belongs to channel `{found}`; order it there")));
    }
    Ok(below)
}
