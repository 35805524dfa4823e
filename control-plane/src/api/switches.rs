//! P2P switched off, whatever rules say: of a tenant, a channel, an asset.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_conf::Switch;

use crate::app::App;
use crate::rest::input::Body;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::ChangeError;
use crate::validate::named;

/// What is switched off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SwitchList {
    /// By tenant, channel, asset.
    pub off: Vec<Switch>,
}

/// What to switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SwitchRequest {
    /// Tenant id.
    pub tenant: String,
    /// Channel id; none: all of the tenant's.
    #[serde(default)]
    pub channel: Option<String>,
    /// Path below the channel's prefix; none: all of the channel's.
    #[serde(default)]
    pub asset: Option<String>,
    /// Off: no viewer of it uses P2P, whatever rules say. On: rules decide again.
    pub p2p: bool,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/switches", "listSwitches", "Lists whose P2P is switched off.")
                .gives::<SwitchList>(200, "What is switched off."),
            list,
        )
        .add(
            Operation::new(Method::POST, "/api/v1/switches", "switchP2p", "Switches P2P off, or on again.")
                .body::<SwitchRequest>()
                .gives_nothing(204, "Switched; it is as asked for, whatever it was before.")
                .fails(&[(409, "Too many things are switched off.")]),
            switch,
        )
}

async fn list(State(app): State<Arc<App>>) -> Result<Json<SwitchList>, Problem> {
    Ok(Json(SwitchList { off: app.db(|store| store.switches()).await? }))
}

async fn switch(State(app): State<Arc<App>>, Body(request): Body<SwitchRequest>) -> Result<StatusCode, Problem> {
    let SwitchRequest { tenant, channel, asset, p2p } = request;
    let switch = Switch { tenant, channel, asset };
    let wrong = switch.check();
    if !wrong.is_empty() {
        return Err(Problem::fields(named(wrong)));
    }
    match app.change(move |store| store.switch(&switch, p2p)).await {
        Ok(true) => Ok(StatusCode::NO_CONTENT),
        Ok(false) => {
            let detail = "too many things are switched off; switch a whole tenant or channel off, or write a rule";
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        Err(ChangeError::Store(error)) => Err(error.into()),
        Err(other) => Err(Problem::new(StatusCode::CONFLICT, other.to_string())),
    }
}
