//! Peers that are registered for punching, as nodes tell of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::Channel;
use shoal_link::observation::Behaviour;

use super::documents::{self, must_find};
use crate::access::Role;
use crate::app::App;
use crate::field::FieldError;
use crate::peers::{NoPeerId, Peer, PeerId, Registration};
use crate::rest::input::Params;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;

/// One page of a channel's peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerPage {
    /// In the order of their ids.
    pub items: Vec<PeerView>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

/// A peer that is registered somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerView {
    /// Its id: 40 hexadecimal digits.
    pub peer: String,
    /// Where; the longest-standing first.
    pub registrations: Vec<PeerRegistration>,
}

/// A peer's registration at one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerRegistration {
    /// The node.
    pub node: String,
    /// The peer's address and port, as the node sees it.
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// How the NAT between them maps.
    pub mapping: Behaviour,
    /// How it filters.
    pub filtering: Behaviour,
    /// Whether ports of new mappings can be told beforehand.
    pub predictable: bool,
    /// Unix milliseconds at which the node first told of it.
    pub since_ms: u64,
    /// Unix milliseconds at which the node last told of it: it does when something changes.
    pub told_ms: u64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Most peers to list, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// Begin behind this peer id.
    #[serde(default)]
    after: Option<String>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .add(
            Operation::new(
                Method::GET,
                "/api/v1/channels/{id}/peers",
                "listPeers",
                "Lists the peers of a channel that are registered at nodes, with their addresses: personal data.",
            )
            .role(Role::Operator)
            .query::<ListParams>()
            .gives::<PeerPage>(200, "One page.")
            .fails(&[(404, "There is no such channel.")]),
            list,
        )
        .add(
            Operation::new(
                Method::GET,
                "/api/v1/channels/{id}/peers/{peer}",
                "readPeer",
                "Tells where a peer of a channel is registered.",
            )
            .role(Role::Operator)
            .gives::<PeerView>(200, "The peer.")
            .fails(&[(404, "There is no such channel, or no such peer is registered in it.")]),
            read,
        )
}

async fn list(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Params(params): Params<ListParams>,
) -> Result<Json<PeerPage>, Problem> {
    let limit = documents::page(params.limit)? as usize;
    let after = params.after.map(|text| {
        text.parse().map_err(|error: NoPeerId| Problem::parameter(FieldError::new("after", text, error.to_string())))
    });
    let after = after.transpose()?;
    let channel = must_find::<Channel>(&app, &id).await?.document;
    let mut found = app.peers.list(Instant::now(), &channel.tenant, &id, after, limit + 1);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = if more { found.last().map(|peer| peer.id.to_string()) } else { None };
    Ok(Json(PeerPage { items: found.into_iter().map(view).collect(), next }))
}

async fn read(
    State(app): State<Arc<App>>,
    Path((id, peer)): Path<(String, String)>,
) -> Result<Json<PeerView>, Problem> {
    let channel = must_find::<Channel>(&app, &id).await?.document;
    // What is no peer id is registered nowhere, either.
    let found = peer.parse::<PeerId>().ok();
    let found = found.and_then(|peer| app.peers.find(Instant::now(), &channel.tenant, &id, peer));
    let found = found.ok_or_else(|| {
        let detail =
            format!("no peer `{peer}` is registered in channel `{id}`; GET /api/v1/channels/{id}/peers lists them");
        Problem::new(StatusCode::NOT_FOUND, detail)
    })?;
    Ok(Json(view(found)))
}

fn view(peer: Peer) -> PeerView {
    let registration = |of: Registration| PeerRegistration {
        node: of.node.as_ref().to_owned(),
        address: of.address,
        mapping: of.mapping,
        filtering: of.filtering,
        predictable: of.predictable,
        since_ms: of.since_ms,
        told_ms: of.told_ms,
    };
    PeerView { peer: peer.id.to_string(), registrations: peer.registrations.into_iter().map(registration).collect() }
}
