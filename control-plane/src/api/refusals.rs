//! What conf refused lately.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::conf::refusals::{MINUTES, RefusalSum};
use crate::field::FieldError;
use crate::rest::input::Params;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::now_ms;

/// Refusals of this instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusalList {
    /// Minutes that were summed, the one that runs included.
    pub minutes: u64,
    /// The largest first.
    pub items: Vec<RefusalSum>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RefusalParams {
    /// Of this tenant only.
    #[serde(default)]
    tenant: Option<String>,
    /// Of the last so many minutes, 1 to 15; by default 15.
    #[serde(default)]
    minutes: Option<u64>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes.add(
        Operation::new(
            Method::GET,
            "/api/v1/refusals",
            "listRefusals",
            "What conf refused in the last minutes at this instance, by tenant, app, channel and reason.",
        )
        .query::<RefusalParams>()
        .gives::<RefusalList>(200, "The sums."),
        list,
    )
}

async fn list(
    State(app): State<Arc<App>>,
    Params(RefusalParams { tenant, minutes }): Params<RefusalParams>,
) -> Result<Json<RefusalList>, Problem> {
    let minutes = minutes.unwrap_or(MINUTES);
    if !(1..=MINUTES).contains(&minutes) {
        return Err(Problem::parameter(FieldError::new("minutes", minutes, format!("must be from 1 to {MINUTES}"))));
    }
    let items = app.conf.refusals.sums(tenant.as_deref(), minutes, now_ms() / 1_000);
    Ok(Json(RefusalList { minutes, items }))
}
