//! Keys of a channel: list, add, rotate, remove.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::Channel;
use shoal_ticket::{Key, TicketPolicy};

use super::documents::{check, modify, must_find};
use super::secrets::{KeyName, NewKey};
use crate::access::Role;
use crate::app::App;
use crate::rest::input::Body;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::validate::Valid;

/// The keys of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyList {
    /// In order; the first one signs, all are accepted.
    pub keys: Vec<KeyName>,
}

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such channel or key.");
    let conflict = (409, "The channel asks for no ticket, or has such a key, or this is its last one.");
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/channels/{id}/keys", "listKeys", "Lists the ids of a channel's keys.")
                .role(Role::Admin)
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
            .role(Role::Admin)
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
            .role(Role::Admin)
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
            .role(Role::Admin)
            .gives_nothing(204, "Removed.")
            .fails(&[missing, conflict]),
            remove,
        )
}

async fn list(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<KeyList>, Problem> {
    let channel = must_find::<Channel>(&app, &id).await?.document;
    Ok(Json(named(channel.access.ticket.map(|ticket| ticket.keys).unwrap_or_default())))
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
    let fresh = new.fill()?;
    let key = Key { id: fresh.id.clone(), secret: fresh.secret.clone() };
    modify(app, id, None, |old| change(old, |ticket| put(&mut ticket.keys, &key, signing, "channel", id))).await?;
    Ok((StatusCode::CREATED, Json(fresh.name(signing))))
}

async fn remove(State(app): State<Arc<App>>, Path((id, key)): Path<(String, String)>) -> Result<StatusCode, Problem> {
    modify(&app, &id, None, |old| {
        change(old, |ticket| {
            take(&mut ticket.keys, &key, "channel", &id)?;
            if ticket.keys.is_empty() {
                let detail =
                    format!("`{key}` is the last key of channel `{id}`; rotate first, or remove access.ticket");
                return Err(Problem::new(StatusCode::CONFLICT, detail));
            }
            Ok(())
        })
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Keys by their names; the first one signs.
pub(super) fn named(keys: Vec<Key>) -> KeyList {
    let named = |(at, key): (usize, Key)| KeyName { id: key.id, signing: at == 0, secret: None };
    KeyList { keys: keys.into_iter().enumerate().map(named).collect() }
}

/// Adds a key of a channel or an app, as the first one where it is to sign.
pub(super) fn put(keys: &mut Vec<Key>, key: &Key, signing: bool, noun: &str, id: &str) -> Result<(), Problem> {
    if keys.iter().any(|old| old.id == key.id) {
        let detail = format!("{noun} `{id}` has a key `{}` already; choose another id", key.id);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    keys.insert(if signing { 0 } else { keys.len() }, key.clone());
    Ok(())
}

/// Removes a key of a channel or an app.
pub(super) fn take(keys: &mut Vec<Key>, key: &str, noun: &str, id: &str) -> Result<(), Problem> {
    let at = keys.iter().position(|old| old.id == key).ok_or_else(|| {
        let detail = format!("{noun} `{id}` has no key `{key}`; GET /api/v1/{noun}s/{id}/keys lists them");
        Problem::new(StatusCode::NOT_FOUND, detail)
    })?;
    keys.remove(at);
    Ok(())
}

fn change(
    old: &Channel,
    edit: impl FnOnce(&mut TicketPolicy) -> Result<(), Problem>,
) -> Result<Valid<Channel>, Problem> {
    let mut channel = old.clone();
    let Some(ticket) = &mut channel.access.ticket else {
        let detail = format!("channel `{}` asks for no ticket; give it access.ticket with a first key", old.id);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    edit(ticket)?;
    check(channel, Some(old))
}
