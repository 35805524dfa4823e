//! Tenants: list, create, read, replace, patch, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoal_link::Tenant;

use super::documents::{self, IF_MATCH};
use super::secrets::Secretive;
use crate::app::App;
use crate::rest::input::Params;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;

/// One page of tenants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TenantPage {
    /// Those that have rules, in the order of their ids; secrets are hidden.
    pub items: Vec<Tenant>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Most tenants to list, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// Begin behind this tenant id.
    #[serde(default)]
    after: Option<String>,
}

const ONE: &str = "/api/v1/tenants/{id}";

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such tenant.");
    let stale = (412, "The tenant was changed meanwhile.");
    let taken = (409, "There is such a tenant.");
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/tenants", "listTenants", "Lists tenants that have rules.")
                .query::<ListParams>()
                .gives::<TenantPage>(200, "One page."),
            list,
        )
        .add(
            Operation::new(Method::POST, "/api/v1/tenants", "createTenant", "Gives a tenant rules.")
                .body::<Tenant>()
                .gives::<Tenant>(201, "Created; Location and ETag are set.")
                .fails(&[taken]),
            documents::create::<Tenant>,
        )
        .add(
            Operation::new(Method::GET, ONE, "readTenant", "Reads a tenant; its secrets are hidden.")
                .gives::<Tenant>(200, "The tenant; its ETag is set.")
                .fails(&[missing]),
            documents::read::<Tenant>,
        )
        .add(
            Operation::new(
                Method::PUT,
                ONE,
                "replaceTenant",
                "Replaces a tenant, or creates it. A secret of *** keeps the one that is there under that id.",
            )
            .header("If-Match", IF_MATCH)
            .body_at::<Tenant>("id")
            .gives::<Tenant>(200, "Replaced.")
            .gives::<Tenant>(201, "Created.")
            .fails(&[stale]),
            documents::replace::<Tenant>,
        )
        .add(
            Operation::new(Method::PATCH, ONE, "patchTenant", "Changes some fields (JSON Merge Patch, RFC 7396).")
                .header("If-Match", IF_MATCH)
                .body_as::<Value>("application/merge-patch+json")
                .gives::<Tenant>(200, "Changed.")
                .fails(&[missing, stale]),
            documents::patch::<Tenant>,
        )
        .add(
            Operation::new(
                Method::DELETE,
                ONE,
                "deleteTenant",
                "Takes a tenant's rules away: nothing is relayed in its name. Its channels and its ledger stay.",
            )
            .header("If-Match", IF_MATCH)
            .gives_nothing(204, "Deleted.")
            .fails(&[missing, stale]),
            documents::delete::<Tenant>,
        )
}

async fn list(State(app): State<Arc<App>>, Params(params): Params<ListParams>) -> Result<Json<TenantPage>, Problem> {
    let limit = documents::page(params.limit)?;
    let mut found = app.db(move |store| store.tenants(&params.after.unwrap_or_default(), limit + 1)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let items: Vec<Tenant> = found.into_iter().map(|stored| stored.document.hide()).collect();
    let next = if more { items.last().map(|tenant| tenant.id.clone()) } else { None };
    Ok(Json(TenantPage { items, next }))
}
