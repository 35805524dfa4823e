//! Who may have traffic relayed: a tenant's secrets, and the credentials that are made with them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::Tenant;
use shoal_link::tenant::RelaySecret;

use super::documents::{check, modify, must_find};
use super::mint::MAX_TTL_S;
use super::secrets::{KeyName, NewKey};
use crate::access::Role;
use crate::app::App;
use crate::conf::credentials;
use crate::rest::input::Body;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::now_ms;
use crate::token::random_hex;

/// Seconds that a credential lives, unless asked otherwise.
const TTL_S: u32 = 86_400;
/// Hexadecimal digits of a user that was left to us.
const RANDOM_USER: usize = 16;

/// The secrets of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretList {
    /// In order; the first one signs, all are accepted.
    pub secrets: Vec<KeyName>,
}

/// For whom, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialRequest {
    /// The user that usage is counted under, without control characters, and for the tenant `default` without a colon. With
    /// all that stands before it the name has at most 128 bytes. None: a random one.
    pub user: Option<String>,
    /// Seconds that new allocations can be made with it; by default 86400. What was begun in time can go on.
    pub ttl_s: Option<u32>,
}

/// What a TURN client is configured with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TurnCredential {
    /// `expiry:tenant:user`, or `expiry:user` for the tenant `default`; the expiry in Unix seconds.
    pub username: String,
    /// The base64 of HMAC-SHA1(secret, username), as in coturn's REST API.
    pub password: String,
    /// Seconds that it lives.
    pub ttl: u32,
}

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such tenant or secret.");
    let conflict = (409, "The tenant has such a secret.");
    routes
        .add(
            Operation::new(
                Method::GET,
                "/api/v1/tenants/{id}/secrets",
                "listSecrets",
                "Lists the ids of a tenant's secrets.",
            )
            .role(Role::Admin)
            .gives::<SecretList>(200, "The secrets.")
            .fails(&[missing]),
            list,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/tenants/{id}/secrets",
                "addSecret",
                "Adds a secret that is accepted; it signs only if it is the first one.",
            )
            .role(Role::Admin)
            .body::<NewKey>()
            .gives::<KeyName>(201, "Added.")
            .fails(&[missing, conflict]),
            add_secret,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/tenants/{id}/secrets/rotate",
                "rotateSecrets",
                "Adds a secret and signs with it from now on; the older ones are still accepted.",
            )
            .role(Role::Admin)
            .body::<NewKey>()
            .gives::<KeyName>(201, "Rotated.")
            .fails(&[missing, conflict]),
            rotate,
        )
        .add(
            Operation::new(
                Method::DELETE,
                "/api/v1/tenants/{id}/secrets/{secret}",
                "removeSecret",
                "Removes a secret: no allocation is made with what it signed. Without any, nothing is relayed.",
            )
            .role(Role::Admin)
            .gives_nothing(204, "Removed.")
            .fails(&[missing]),
            remove,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/tenants/{id}/credentials",
                "mintCredential",
                "Makes name and password of a TURN user, good for a time.",
            )
            .body::<CredentialRequest>()
            .gives::<TurnCredential>(200, "Name and password.")
            .fails(&[(404, "There is no such tenant."), (409, "The tenant has no secret.")]),
            mint,
        )
}

async fn list(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<SecretList>, Problem> {
    let secrets = must_find::<Tenant>(&app, &id).await?.document.relay.secrets;
    let named = |(at, secret): (usize, RelaySecret)| KeyName { id: secret.id, signing: at == 0, secret: None };
    Ok(Json(SecretList { secrets: secrets.into_iter().enumerate().map(named).collect() }))
}

async fn add_secret(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, Json<KeyName>), Problem> {
    insert(&app, &id, new, false).await
}

async fn rotate(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, Json<KeyName>), Problem> {
    insert(&app, &id, new, true).await
}

async fn insert(app: &App, id: &str, new: NewKey, signing: bool) -> Result<(StatusCode, Json<KeyName>), Problem> {
    let fresh = new.fill()?;
    let secret = RelaySecret { id: fresh.id.clone(), secret: fresh.secret.clone() };
    let stored = modify(app, id, None, |old: &Tenant| {
        let mut tenant = old.clone();
        let secrets = &mut tenant.relay.secrets;
        if secrets.iter().any(|old| old.id == secret.id) {
            let detail = format!("tenant `{id}` has a secret `{}` already; choose another id", secret.id);
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        let at = if signing { 0 } else { secrets.len() };
        secrets.insert(at, secret.clone());
        check(tenant, Some(old))
    })
    .await?;
    let signing = stored.document.relay.secrets.first().is_some_and(|first| first.id == secret.id);
    Ok((StatusCode::CREATED, Json(fresh.name(signing))))
}

async fn remove(
    State(app): State<Arc<App>>,
    Path((id, secret)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    modify(&app, &id, None, |old: &Tenant| {
        let mut tenant = old.clone();
        let secrets = &mut tenant.relay.secrets;
        let at = secrets.iter().position(|old| old.id == secret).ok_or_else(|| {
            let detail = format!("tenant `{id}` has no secret `{secret}`; GET /api/v1/tenants/{id}/secrets lists them");
            Problem::new(StatusCode::NOT_FOUND, detail)
        })?;
        secrets.remove(at);
        check(tenant, Some(old))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn mint(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Body(request): Body<CredentialRequest>,
) -> Result<Json<TurnCredential>, Problem> {
    let tenant = must_find::<Tenant>(&app, &id).await?.document;
    let Some(signing) = tenant.relay.secrets.first() else {
        let detail = format!("tenant `{id}` has no secret; POST /api/v1/tenants/{id}/secrets gives it one");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let ttl = request.ttl_s.unwrap_or(TTL_S);
    if !(1..=MAX_TTL_S).contains(&ttl) {
        return Err(Problem::field("ttl_s", ttl, format!("must be from 1 to {MAX_TTL_S} seconds")));
    }
    let user = match request.user {
        Some(user) => user,
        None => random_hex().map(|digits| digits.chars().take(RANDOM_USER).collect()).map_err(|error| {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("/dev/urandom: {error}; give a user yourself"))
        })?,
    };
    let (username, password) = credentials::turn(now_ms() / 1000 + u64::from(ttl), &id, &user, &signing.secret)
        .map_err(|message| Problem::field("user", user.as_str(), message))?;
    Ok(Json(TurnCredential { username, password, ttl }))
}
