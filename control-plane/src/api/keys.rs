//! Keys of a channel: list, add, rotate, remove.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::Channel;
use shoal_ticket::{Key, TicketPolicy};

use super::channels::{check, find, modify};
use super::input::Body;
use super::openapi::{Operation, Routes};
use super::problem::Problem;
use crate::app::App;
use crate::token::random_hex;

/// The keys of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyList {
    /// In order; the first one signs, all are accepted.
    pub keys: Vec<KeyName>,
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyName {
    /// Id.
    pub id: String,
    /// Whether it is the one that signs.
    pub signing: bool,
    /// Its secret; only in the answer to the request that made it, and only if that left the choice to us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A key to add.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewKey {
    /// Id, new in this channel: 1 to 16 of `a-z A-Z 0-9 - _`. None: a random one.
    pub id: Option<String>,
    /// The secret. None: a random one, which the answer tells.
    pub secret: Option<String>,
}

/// Hexadecimal digits of an id that was left to us.
const RANDOM_ID: usize = 8;

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such channel or key.");
    let conflict = (409, "The channel asks for no ticket, or has such a key, or this is its last one.");
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/channels/{id}/keys", "listKeys", "Lists the ids of a channel's keys.")
                .gives::<KeyList>(200, "The keys.")
                .fails(&[missing]),
            list,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/channels/{id}/keys",
                "addKey",
                "Adds a key that is accepted, and does not sign yet.",
            )
            .body::<NewKey>()
            .gives::<KeyName>(201, "Added.")
            .fails(&[missing, conflict]),
            add_key,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/channels/{id}/keys/rotate",
                "rotateKeys",
                "Adds a key and signs with it from now on; the older ones are still accepted.",
            )
            .body::<NewKey>()
            .gives::<KeyName>(201, "Rotated.")
            .fails(&[missing, conflict]),
            rotate,
        )
        .add(
            Operation::new(
                Method::DELETE,
                "/api/v1/channels/{id}/keys/{key}",
                "removeKey",
                "Removes a key: what it signed is refused from now on.",
            )
            .gives_nothing(204, "Removed.")
            .fails(&[missing, conflict]),
            remove,
        )
}

async fn list(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<KeyList>, Problem> {
    let stored = find(&app, &id).await?.ok_or_else(|| Problem::no_channel(&id))?;
    let keys = stored.channel.access.ticket.map(|ticket| ticket.keys).unwrap_or_default();
    let named = |(at, key): (usize, Key)| KeyName { id: key.id, signing: at == 0, secret: None };
    Ok(Json(KeyList { keys: keys.into_iter().enumerate().map(named).collect() }))
}

async fn add_key(
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
    let random = || {
        random_hex().map_err(|error| {
            let detail = format!("/dev/urandom: {error}; give id and secret yourself");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
        })
    };
    let key_id = match new.id {
        Some(key_id) => key_id,
        None => random()?.chars().take(RANDOM_ID).collect(),
    };
    let (secret, told) = match new.secret {
        Some(secret) => (secret, None),
        None => random().map(|secret| (secret.clone(), Some(secret)))?,
    };
    let key = Key { id: key_id, secret };
    modify(app, id, None, |old| {
        change(old, |ticket| {
            if ticket.keys.iter().any(|old| old.id == key.id) {
                let detail = format!("channel `{id}` has a key `{}` already; choose another id", key.id);
                return Err(Problem::new(StatusCode::CONFLICT, detail));
            }
            let at = if signing { 0 } else { ticket.keys.len() };
            ticket.keys.insert(at, key.clone());
            Ok(())
        })
    })
    .await?;
    Ok((StatusCode::CREATED, Json(KeyName { id: key.id, signing, secret: told })))
}

async fn remove(State(app): State<Arc<App>>, Path((id, key)): Path<(String, String)>) -> Result<StatusCode, Problem> {
    modify(&app, &id, None, |old| {
        change(old, |ticket| {
            let at = ticket.keys.iter().position(|old| old.id == key).ok_or_else(|| {
                let detail = format!("channel `{id}` has no key `{key}`; GET /api/v1/channels/{id}/keys lists them");
                Problem::new(StatusCode::NOT_FOUND, detail)
            })?;
            if ticket.keys.len() == 1 {
                let detail =
                    format!("`{key}` is the last key of channel `{id}`; rotate first, or remove access.ticket");
                return Err(Problem::new(StatusCode::CONFLICT, detail));
            }
            ticket.keys.remove(at);
            Ok(())
        })
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn change(
    old: &Channel,
    edit: impl FnOnce(&mut TicketPolicy) -> Result<(), Problem>,
) -> Result<crate::validate::ValidChannel, Problem> {
    let mut channel = old.clone();
    let Some(ticket) = &mut channel.access.ticket else {
        let detail = format!("channel `{}` asks for no ticket; give it access.ticket with a first key", old.id);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    edit(ticket)?;
    check(channel, Some(old))
}
