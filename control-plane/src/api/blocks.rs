//! Who is blocked: list, block, unblock.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::Block;
use shoal_link::block::BLOCKS_MAX;

use crate::app::App;
use crate::field::FieldError;
use crate::rest::input::Body;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::{ChangeError, now_ms};
use crate::validate::block::{SECONDS_MAX, network, reason};

/// Everybody who is blocked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockList {
    /// By network; what has ended is not among them.
    pub items: Vec<Block>,
}

/// Whom to block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockRequest {
    /// An address or a network, as in `192.0.2.7` or `2001:db8::/32`.
    pub network: String,
    /// Seconds until it ends by itself; none: only when it is taken away.
    #[serde(default)]
    pub seconds: Option<u64>,
    /// For people, up to 200 characters.
    #[serde(default)]
    pub reason: String,
    /// Loopback is meant, if it is in there.
    #[serde(default)]
    pub loopback: bool,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/blocks", "listBlocks", "Lists who is blocked.")
                .gives::<BlockList>(200, "All of them."),
            list,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/blocks",
                "block",
                "Has all nodes serve an address or network nothing, by HTTP or UDP. One that is blocked already is replaced.",
            )
            .body::<BlockRequest>()
            .gives::<Block>(200, "It is blocked.")
            .fails(&[(409, "There are as many as there may be.")]),
            block,
        )
        .add(
            Operation::new(
                Method::DELETE,
                "/api/v1/blocks/{network}",
                "unblock",
                "Takes a block away. The network's slash is written %2F.",
            )
            .gives_nothing(204, "It is not blocked any more.")
            .fails(&[(404, "It is not blocked under this very network."), (422, "That is no network.")]),
            unblock,
        )
}

async fn list(State(app): State<Arc<App>>) -> Result<Json<BlockList>, Problem> {
    Ok(Json(BlockList { items: app.db(|store| store.blocks()).await? }))
}

async fn block(State(app): State<Arc<App>>, Body(request): Body<BlockRequest>) -> Result<Json<Block>, Problem> {
    let block = checked(&request).map_err(|error| Problem::fields(vec![error]))?;
    let stored = block.clone();
    let done = app.change(move |store| store.block(&stored)).await;
    if done.map_err(|error| Problem::change("block", &request.network, error))? {
        return Ok(Json(block));
    }
    let detail =
        format!("{BLOCKS_MAX} networks of this family are blocked already; block larger ones instead, or unblock some");
    Err(Problem::new(StatusCode::CONFLICT, detail))
}

fn checked(request: &BlockRequest) -> Result<Block, FieldError> {
    let since = now_ms() / 1_000;
    if let Some(seconds) = request.seconds
        && !(1..=SECONDS_MAX).contains(&seconds)
    {
        let message = format!("must be from 1 to {SECONDS_MAX}, or none for no end");
        return Err(FieldError::new("seconds", seconds, message));
    }
    Ok(Block {
        network: network(&request.network, request.loopback)?,
        until: request.seconds.map(|seconds| since + seconds),
        reason: reason(&request.reason)?,
        since,
    })
}

async fn unblock(State(app): State<Arc<App>>, Path(text): Path<String>) -> Result<StatusCode, Problem> {
    let network = network(&text, true).map_err(|error| Problem::fields(vec![error]))?;
    match app.change(move |store| store.unblock(network)).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(ChangeError::Missing) => {
            let detail = format!(
                "{network} is not blocked; GET /api/v1/blocks lists what is, and each is taken away as it is there"
            );
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
        Err(error) => Err(Problem::change("block", &text, error)),
    }
}
