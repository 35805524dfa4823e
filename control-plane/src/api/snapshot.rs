//! What nodes are sent.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::{Block, Channel, Tenant};

use super::secrets::Secretive;
use crate::app::App;
use crate::rest::openapi::{Operation, Routes};

/// The newest snapshot as nodes are sent it, but for the secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotView {
    /// Grows with every change.
    pub version: u64,
    /// Every channel; secrets are hidden.
    pub channels: Vec<Channel>,
    /// Every tenant that has rules; secrets are hidden.
    pub tenants: Vec<Tenant>,
    /// Who is blocked.
    pub blocks: Vec<Block>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes.add(
        Operation::new(Method::GET, "/api/v1/snapshot", "readSnapshot", "Reads what nodes are sent now.")
            .gives::<SnapshotView>(200, "The newest snapshot that was published."),
        read,
    )
}

async fn read(State(app): State<Arc<App>>) -> Json<SnapshotView> {
    let snapshot = app.hub.newest().snapshot.clone();
    Json(SnapshotView {
        version: snapshot.version,
        channels: snapshot.channels.into_iter().map(Secretive::hide).collect(),
        tenants: snapshot.tenants.into_iter().map(Secretive::hide).collect(),
        blocks: snapshot.blocks,
    })
}
