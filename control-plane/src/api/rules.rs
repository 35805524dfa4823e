//! Rules: list, create, read, replace, patch, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoal_conf::Rule;

use super::documents::{self, IF_MATCH};
use super::secrets::Secretive;
use crate::app::App as Shared;
use crate::rest::input::Params;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;

/// One page of rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RulePage {
    /// In the order of their ids.
    pub items: Vec<Rule>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Most rules to list, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// Begin behind this rule id.
    #[serde(default)]
    after: Option<String>,
    /// Rules of this tenant only.
    #[serde(default)]
    tenant: Option<String>,
}

const ALL: &str = "/api/v1/rules";
const ONE: &str = "/api/v1/rules/{id}";

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such rule.");
    let stale = (412, "The rule was changed meanwhile.");
    let taken = (409, "There is such a rule.");
    routes
        .add(
            Operation::new(Method::GET, ALL, "listRules", "Lists P2P rules.")
                .query::<ListParams>()
                .gives::<RulePage>(200, "One page."),
            list,
        )
        .add(
            Operation::new(Method::POST, ALL, "createRule", "Creates a rule.")
                .body::<Rule>()
                .gives::<Rule>(201, "Created; Location and ETag are set.")
                .fails(&[taken]),
            documents::create::<Rule>,
        )
        .add(
            Operation::new(Method::GET, ONE, "readRule", "Reads a rule.")
                .gives::<Rule>(200, "The rule; its ETag is set.")
                .fails(&[missing]),
            documents::read::<Rule>,
        )
        .add(
            Operation::new(Method::PUT, ONE, "replaceRule", "Replaces a rule, or creates it.")
                .header("If-Match", IF_MATCH)
                .body_at::<Rule>("id")
                .gives::<Rule>(200, "Replaced.")
                .gives::<Rule>(201, "Created.")
                .fails(&[taken, stale]),
            documents::replace::<Rule>,
        )
        .add(
            Operation::new(Method::PATCH, ONE, "patchRule", "Changes some fields (JSON Merge Patch, RFC 7396).")
                .header("If-Match", IF_MATCH)
                .body_as::<Value>("application/merge-patch+json")
                .gives::<Rule>(200, "Changed.")
                .fails(&[missing, stale]),
            documents::patch::<Rule>,
        )
        .add(
            Operation::new(Method::DELETE, ONE, "deleteRule", "Deletes a rule.")
                .header("If-Match", IF_MATCH)
                .gives_nothing(204, "Deleted.")
                .fails(&[missing, stale]),
            documents::delete::<Rule>,
        )
}

async fn list(State(app): State<Arc<Shared>>, Params(params): Params<ListParams>) -> Result<Json<RulePage>, Problem> {
    let limit = documents::page(params.limit)?;
    let after = params.after.unwrap_or_default();
    let mut found = app.db(move |store| store.conf_page::<Rule>(params.tenant.as_deref(), &after, limit + 1)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let items: Vec<Rule> = found.into_iter().map(|stored| stored.document.hide()).collect();
    let next = if more { items.last().map(|rule| rule.id.clone()) } else { None };
    Ok(Json(RulePage { items, next }))
}
