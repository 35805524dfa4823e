//! Channels: list, create, read, replace, patch, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoal_link::Channel;

use super::documents::{self, IF_MATCH};
use super::secrets::Secretive;
use crate::app::App;
use crate::rest::input::{IfMatch, Params};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::Stored;

/// One page of channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelPage {
    /// In the order of their ids; secrets are hidden.
    pub items: Vec<Channel>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Most channels to list, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// Begin behind this channel id.
    #[serde(default)]
    after: Option<String>,
    /// Channels of this tenant only.
    #[serde(default)]
    tenant: Option<String>,
}

const ONE: &str = "/api/v1/channels/{id}";

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such channel.");
    let stale = (412, "The channel was changed meanwhile.");
    let taken = (409, "The id, or host and prefix, are another channel's.");
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/channels", "listChannels", "Lists channels.")
                .query::<ListParams>()
                .gives::<ChannelPage>(200, "One page."),
            list,
        )
        .add(
            Operation::new(Method::POST, "/api/v1/channels", "createChannel", "Creates a channel.")
                .body::<Channel>()
                .gives::<Channel>(201, "Created; Location and ETag are set.")
                .fails(&[taken]),
            documents::create::<Channel>,
        )
        .add(
            Operation::new(Method::GET, ONE, "readChannel", "Reads a channel; its secrets are hidden.")
                .gives::<Channel>(200, "The channel; its ETag is set.")
                .fails(&[missing]),
            documents::read::<Channel>,
        )
        .add(
            Operation::new(
                Method::PUT,
                ONE,
                "replaceChannel",
                "Replaces a channel, or creates it. A secret of *** keeps the one that the key of that id has.",
            )
            .header("If-Match", IF_MATCH)
            .body_at::<Channel>("id")
            .gives::<Channel>(200, "Replaced.")
            .gives::<Channel>(201, "Created.")
            .fails(&[taken, stale]),
            documents::replace::<Channel>,
        )
        .add(
            Operation::new(Method::PATCH, ONE, "patchChannel", "Changes some fields (JSON Merge Patch, RFC 7396).")
                .header("If-Match", IF_MATCH)
                .body_as::<Value>("application/merge-patch+json")
                .gives::<Channel>(200, "Changed.")
                .fails(&[missing, taken, stale]),
            documents::patch::<Channel>,
        )
        .add(
            Operation::new(Method::DELETE, ONE, "deleteChannel", "Deletes a channel; its ledger stays.")
                .header("If-Match", IF_MATCH)
                .gives_nothing(204, "Deleted.")
                .fails(&[missing, stale]),
            documents::delete::<Channel>,
        )
}

/// Changes a channel, if it is at a revision that `wanted` names; for the console, where secrets stay as they are.
pub(crate) async fn change_channel(
    app: &App,
    id: &str,
    wanted: Option<&IfMatch>,
    change: impl Fn(&Channel) -> Result<Channel, Problem>,
) -> Result<Stored<Channel>, Problem> {
    documents::modify(app, id, wanted, |old| documents::check(change(old)?, Some(old))).await
}

async fn list(State(app): State<Arc<App>>, Params(params): Params<ListParams>) -> Result<Json<ChannelPage>, Problem> {
    let limit = documents::page(params.limit)?;
    let mut found = app
        .db(move |store| store.channels(params.tenant.as_deref(), &params.after.unwrap_or_default(), limit + 1))
        .await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let items: Vec<Channel> = found.into_iter().map(|stored| stored.document.hide()).collect();
    let next = if more { items.last().map(|channel| channel.id.clone()) } else { None };
    Ok(Json(ChannelPage { items, next }))
}
