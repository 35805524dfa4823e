//! Keys of an app: list, add, rotate, remove.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use shoal_conf::App;
use shoal_conf::app::SignatureUse;
use shoal_ticket::Key;

use super::documents::{check, modify, must_find};
use super::keys::{self, KeyList};
use super::secrets::{KeyName, NewKey};
use crate::access::Role;
use crate::app::App as Shared;
use crate::rest::input::Body;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such app or key.");
    let conflict = (409, "The app has such a key, or asks for signatures and this is its last one.");
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/apps/{id}/keys", "listAppKeys", "Lists the ids of an app's keys.")
                .role(Role::Admin)
                .gives::<KeyList>(200, "The keys.")
                .fails(&[missing]),
            list,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/apps/{id}/keys",
                "addAppKey",
                "Adds a key that is accepted; it is the first one only if there is none.",
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
                "/api/v1/apps/{id}/keys/rotate",
                "rotateAppKeys",
                "Adds a key as the first one; the older ones are still accepted.",
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
                "/api/v1/apps/{id}/keys/{key}",
                "removeAppKey",
                "Removes a key: what it signs is refused from now on.",
            )
            .role(Role::Admin)
            .gives_nothing(204, "Removed.")
            .fails(&[missing, conflict]),
            remove,
        )
}

async fn list(State(app): State<Arc<Shared>>, Path(id): Path<String>) -> Result<Json<KeyList>, Problem> {
    Ok(Json(keys::named(must_find::<App>(&app, &id).await?.document.keys)))
}

async fn add_key(
    State(app): State<Arc<Shared>>,
    Path(id): Path<String>,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, Json<KeyName>), Problem> {
    insert(&app, &id, new, false).await
}

async fn rotate(
    State(app): State<Arc<Shared>>,
    Path(id): Path<String>,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, Json<KeyName>), Problem> {
    insert(&app, &id, new, true).await
}

async fn insert(app: &Shared, id: &str, new: NewKey, signing: bool) -> Result<(StatusCode, Json<KeyName>), Problem> {
    let fresh = new.fill()?;
    let key = Key { id: fresh.id.clone(), secret: fresh.secret.clone() };
    let stored = modify(app, id, None, |old: &App| {
        let mut changed = old.clone();
        keys::put(&mut changed.keys, &key, signing, "app", id)?;
        check(changed, Some(old))
    })
    .await?;
    let signing = stored.document.keys.first().is_some_and(|first| first.id == key.id);
    Ok((StatusCode::CREATED, Json(fresh.name(signing))))
}

async fn remove(
    State(app): State<Arc<Shared>>,
    Path((id, key)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    modify(&app, &id, None, |old: &App| {
        let mut changed = old.clone();
        keys::take(&mut changed.keys, &key, "app", &id)?;
        if changed.keys.is_empty() && changed.access.signature == SignatureUse::Required {
            let detail = format!("`{key}` is the last key of app `{id}`, which asks for signatures; rotate first");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        check(changed, Some(old))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
