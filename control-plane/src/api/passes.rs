//! The keys that viewers' passes are signed with.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::Role;
use crate::app::App;
use crate::conf::{key_overlap_ms, random_key};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::{ChangeError, PassKey};

/// The keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassKeyList {
    /// The newest first. It signs from three seconds after it was made, when every instance has learned it.
    pub keys: Vec<PassKeyName>,
}

/// A key, without itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassKeyName {
    /// Its number, as in passes.
    pub number: u32,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds at which it is no longer accepted; null for the newest.
    pub accepted_until_ms: Option<u64>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/pass-keys", "listPassKeys", "Lists the keys of viewers' passes.").role(Role::Admin)
                .gives::<PassKeyList>(200, "The keys, without their secrets."),
            list,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/pass-keys/rotate",
                "rotatePassKeys",
                "Makes a key that signs passes from now on. The older ones are accepted until their last pass has expired.",
            ).role(Role::Admin)
            .gives::<PassKeyName>(201, "The new key, without its secret."),
            rotate,
        )
}

async fn list(State(app): State<Arc<App>>) -> Result<Json<PassKeyList>, Problem> {
    let documents = app.db(|store| store.conf_documents()).await?;
    Ok(Json(PassKeyList { keys: documents.keys.iter().map(name).collect() }))
}

async fn rotate(State(app): State<Arc<App>>) -> Result<(StatusCode, Json<PassKeyName>), Problem> {
    let key = random_key().map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("/dev/urandom: {error}; check that it is there"))
    })?;
    let overlap = key_overlap_ms(&app.config.conf);
    let made = app.change(move |store| store.rotate_pass_keys(&key, overlap)).await;
    let made = made.map_err(|error| match error {
        ChangeError::Store(error) => error.into(),
        other => Problem::new(StatusCode::CONFLICT, other.to_string()),
    })?;
    Ok((StatusCode::CREATED, Json(name(&made))))
}

fn name(key: &PassKey) -> PassKeyName {
    PassKeyName { number: key.number, created_ms: key.created_ms, accepted_until_ms: key.drop_ms }
}
