//! Apps: list, create, read, replace, patch, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoal_conf::App;

use super::documents::{self, IF_MATCH};
use super::secrets::Secretive;
use crate::app::App as Shared;
use crate::rest::input::Params;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;

/// One page of apps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppPage {
    /// In the order of their ids; secrets are hidden.
    pub items: Vec<App>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Most apps to list, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// Begin behind this app id.
    #[serde(default)]
    after: Option<String>,
    /// Apps of this tenant only.
    #[serde(default)]
    tenant: Option<String>,
}

const ALL: &str = "/api/v1/apps";
const ONE: &str = "/api/v1/apps/{id}";

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such app.");
    let stale = (412, "The app was changed meanwhile.");
    let taken = (409, "There is such an app.");
    routes
        .add(
            Operation::new(Method::GET, ALL, "listApps", "Lists apps.")
                .query::<ListParams>()
                .gives::<AppPage>(200, "One page."),
            list,
        )
        .add(
            Operation::new(Method::POST, ALL, "createApp", "Creates an app.")
                .body::<App>()
                .gives::<App>(201, "Created; Location and ETag are set.")
                .fails(&[taken]),
            documents::create::<App>,
        )
        .add(
            Operation::new(Method::GET, ONE, "readApp", "Reads an app; its secrets are hidden.")
                .gives::<App>(200, "The app; its ETag is set.")
                .fails(&[missing]),
            documents::read::<App>,
        )
        .add(
            Operation::new(
                Method::PUT,
                ONE,
                "replaceApp",
                "Replaces an app, or creates it. A secret of *** keeps the one of that id.",
            )
            .header("If-Match", IF_MATCH)
            .body_at::<App>("id")
            .gives::<App>(200, "Replaced.")
            .gives::<App>(201, "Created.")
            .fails(&[taken, stale]),
            documents::replace::<App>,
        )
        .add(
            Operation::new(Method::PATCH, ONE, "patchApp", "Changes some fields (JSON Merge Patch, RFC 7396).")
                .header("If-Match", IF_MATCH)
                .body_as::<Value>("application/merge-patch+json")
                .gives::<App>(200, "Changed.")
                .fails(&[missing, stale]),
            documents::patch::<App>,
        )
        .add(
            Operation::new(Method::DELETE, ONE, "deleteApp", "Deletes an app: nobody can ask in its name any more.")
                .header("If-Match", IF_MATCH)
                .gives_nothing(204, "Deleted.")
                .fails(&[missing, stale]),
            documents::delete::<App>,
        )
}

async fn list(State(app): State<Arc<Shared>>, Params(params): Params<ListParams>) -> Result<Json<AppPage>, Problem> {
    let limit = documents::page(params.limit)?;
    let after = params.after.unwrap_or_default();
    let mut found = app.db(move |store| store.conf_page::<App>(params.tenant.as_deref(), &after, limit + 1)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let items: Vec<App> = found.into_iter().map(|stored| stored.document.hide()).collect();
    let next = if more { items.last().map(|app| app.id.clone()) } else { None };
    Ok(Json(AppPage { items, next }))
}
