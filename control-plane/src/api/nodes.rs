//! Data planes: who they are, how they are, what they serve.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::node::{Endpoints, Health};

use crate::app::App;
use crate::link::{Live, Seen};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::NodeRow;

/// Every node that ever connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeList {
    /// Version of the newest snapshot: what nodes should serve.
    pub snapshot: u64,
    /// By name.
    pub items: Vec<NodeStatus>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// The instance of the control plane that it is connected to.
    pub instance: Option<String>,
    /// Its last run, as hexadecimal digits.
    pub boot: String,
    /// Release of its program.
    pub software: String,
    /// Where viewers reach it.
    pub public_url: Option<String>,
    /// Where it stands, as it says; null while it is away.
    pub region: Option<String>,
    /// Where viewers reach it otherwise; null while it is away.
    pub endpoints: Option<Endpoints>,
    /// Version of the snapshot that it serves, as far as is known.
    pub snapshot: Option<u64>,
    /// The snapshot that it would not apply, if the last one was such.
    pub refused: Option<NodeRefusal>,
    /// How it was at its last report on this connection.
    pub health: Option<NodeHealth>,
    /// Unix milliseconds of the connection's start.
    pub connected_ms: Option<u64>,
    /// Unix milliseconds of its first connection ever.
    pub first_seen_ms: u64,
    /// Unix milliseconds of its last sign of life that is known.
    pub last_seen_ms: u64,
}

/// A snapshot that a node would not apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeRefusal {
    /// Its version.
    pub version: u64,
    /// The node's own words.
    pub reason: String,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeHealth {
    /// Unix milliseconds of the report.
    pub at_ms: u64,
    /// Its own words.
    #[serde(flatten)]
    pub health: Health,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes.add(
        Operation::new(Method::GET, "/api/v1/nodes", "listNodes", "Lists data planes, connected or not.")
            .gives::<NodeList>(200, "The nodes."),
        list,
    )
}

async fn list(State(app): State<Arc<App>>) -> Result<Json<NodeList>, Problem> {
    node_list(&app).await.map(Json)
}

/// Every node, by name; also for the console.
pub(crate) async fn node_list(app: &App) -> Result<NodeList, Problem> {
    let rows = app.db(|store| store.nodes()).await?;
    let (mut live, others, own) = (app.hub.nodes(), app.instances.others(), &*app.instances.id);
    let mut items: BTreeMap<String, NodeStatus> = BTreeMap::new();
    for row in rows {
        let here = live.remove(&row.node).map(|live| (own, live));
        let there = || others.get(&row.node).map(|node| (&*node.instance, node.live.clone()));
        let status = status(&row, here.or_else(there));
        items.insert(row.node, status);
    }
    // A node whose hello could not be written down is there all the same.
    for (node, live) in live {
        let row = NodeRow {
            node: node.clone(),
            boot: live.boot,
            software: live.software.clone(),
            public_url: live.public_url.clone(),
            snapshot: live.snapshot,
            first_seen_ms: live.connected_ms,
            last_seen_ms: live.connected_ms,
            instance: String::new(),
            live: None,
        };
        items.insert(node, status(&row, Some((own, live))));
    }
    Ok(NodeList { snapshot: app.hub.newest().snapshot.version, items: items.into_values().collect() })
}

fn status(row: &NodeRow, live: Option<(&str, Live)>) -> NodeStatus {
    let mut status = NodeStatus {
        node: row.node.clone(),
        connected: live.is_some(),
        instance: live.as_ref().map(|(instance, _)| (*instance).to_owned()),
        boot: format!("{:016x}", row.boot),
        software: row.software.clone(),
        public_url: row.public_url.clone(),
        region: None,
        endpoints: None,
        snapshot: row.snapshot,
        refused: None,
        health: None,
        connected_ms: None,
        first_seen_ms: row.first_seen_ms,
        last_seen_ms: row.last_seen_ms,
    };
    if let Some((_, live)) = live {
        status.boot = format!("{:016x}", live.boot);
        status.software = live.software;
        status.public_url = live.public_url;
        status.region = live.region;
        status.endpoints = Some(live.endpoints);
        status.snapshot = live.snapshot;
        status.refused = live.refused.map(|refused| NodeRefusal { version: refused.version, reason: refused.reason });
        status.connected_ms = Some(live.connected_ms);
        status.last_seen_ms = live.health.as_ref().map_or(row.last_seen_ms, |seen| seen.at_ms);
        status.health = live.health.map(|Seen { at_ms, health }| NodeHealth { at_ms, health });
    }
    status
}
