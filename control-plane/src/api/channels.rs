//! Channels: list, create, read, replace, patch, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shoal_link::Channel;

use super::input::{Body, Document, IfMatch, Params, if_match, parse};
use super::openapi::{Operation, Routes};
use super::problem::Problem;
use super::secrets;
use crate::app::App;
use crate::field::FieldError;
use crate::store::{ChangeError, Stored};
use crate::validate::ValidChannel;

/// Channels on a page unless asked otherwise.
const PAGE: u32 = 100;
/// Most channels on a page.
const MAX_PAGE: u32 = 1000;
/// How often a change without If-Match is tried anew when another one came between.
const ATTEMPTS: usize = 8;

/// One page of channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChannelPage {
    /// In the order of their ids; secrets are hidden.
    pub items: Vec<Channel>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Most channels to list, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// Begin behind this channel id.
    #[serde(default)]
    after: Option<String>,
    /// Channels of this tenant only.
    #[serde(default)]
    tenant: Option<String>,
}

const ONE: &str = "/api/v1/channels/{id}";
const IF_MATCH: &str = "The ETag as read: change the channel only if it is still that one.";

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such channel.");
    let stale = (412, "The channel was changed meanwhile.");
    let taken = (409, "The id, or host and prefix, are another channel's.");
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/channels", "listChannels", "Lists channels.")
                .query::<ListParams>()
                .gives::<ChannelPage>(200, "One page."),
            list,
        )
        .add(
            Operation::new(Method::POST, "/api/v1/channels", "createChannel", "Creates a channel.")
                .body::<Channel>()
                .gives::<Channel>(201, "Created; Location and ETag are set.")
                .fails(&[taken]),
            create,
        )
        .add(
            Operation::new(Method::GET, ONE, "readChannel", "Reads a channel; its secrets are hidden.")
                .gives::<Channel>(200, "The channel; its ETag is set.")
                .fails(&[missing]),
            read,
        )
        .add(
            Operation::new(
                Method::PUT,
                ONE,
                "replaceChannel",
                "Replaces a channel, or creates it. A secret of *** keeps the one that the key of that id has.",
            )
            .header("If-Match", IF_MATCH)
            .body::<Channel>()
            .gives::<Channel>(200, "Replaced.")
            .gives::<Channel>(201, "Created.")
            .fails(&[taken, stale]),
            replace,
        )
        .add(
            Operation::new(Method::PATCH, ONE, "patchChannel", "Changes some fields (JSON Merge Patch, RFC 7396).")
                .header("If-Match", IF_MATCH)
                .body_as::<Value>("application/merge-patch+json")
                .gives::<Channel>(200, "Changed.")
                .fails(&[missing, taken, stale]),
            patch,
        )
        .add(
            Operation::new(Method::DELETE, ONE, "deleteChannel", "Deletes a channel; its ledger stays.")
                .header("If-Match", IF_MATCH)
                .gives_nothing(204, "Deleted.")
                .fails(&[missing, stale]),
            delete,
        )
}

async fn list(State(app): State<Arc<App>>, Params(params): Params<ListParams>) -> Result<Json<ChannelPage>, Problem> {
    let limit = params.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        let error = FieldError::new("limit", limit, format!("must be from 1 to {MAX_PAGE}"));
        return Err(Problem::parameter(error));
    }
    let mut found = app
        .db(move |store| store.channels(params.tenant.as_deref(), &params.after.unwrap_or_default(), limit + 1))
        .await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let items: Vec<Channel> = found.into_iter().map(|stored| secrets::hide(stored.channel)).collect();
    let next = if more { items.last().map(|channel| channel.id.clone()) } else { None };
    Ok(Json(ChannelPage { items, next }))
}

async fn create(State(app): State<Arc<App>>, Body(channel): Body<Channel>) -> Result<Response, Problem> {
    let id = channel.id.clone();
    let valid = check(channel, None)?;
    let stored =
        app.change(move |store| store.create_channel(&valid)).await.map_err(|error| Problem::change(&id, error))?;
    Ok(created(stored))
}

async fn read(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Problem> {
    let stored = find(&app, &id).await?.ok_or_else(|| Problem::no_channel(&id))?;
    Ok(answer(StatusCode::OK, stored))
}

async fn replace(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Document(mut document): Document,
) -> Result<Response, Problem> {
    let wanted = if_match(&headers)?;
    // The path says it already.
    if let Value::Object(fields) = &mut document {
        fields.entry("id").or_insert_with(|| Value::String(id.clone()));
    }
    let channel: Channel = parse(&document)?;
    same_id(&channel, &id)?;
    for _ in 0..ATTEMPTS {
        let Some(old) = find(&app, &id).await? else {
            if wanted.is_some() {
                let detail = format!("there is no channel `{id}` that could match; leave If-Match out to create it");
                return Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail));
            }
            let valid = check(channel.clone(), None)?;
            match app.change(move |store| store.create_channel(&valid)).await {
                Err(ChangeError::Exists) => continue,
                result => return result.map(created).map_err(|error| Problem::change(&id, error)),
            }
        };
        precondition(&id, wanted.as_ref(), &old)?;
        let valid = check(channel.clone(), Some(&old.channel))?;
        match app.change(move |store| store.replace_channel(&valid, Some(old.revision))).await {
            Err(ChangeError::Stale { .. } | ChangeError::Missing) => {}
            result => {
                return result
                    .map(|stored| answer(StatusCode::OK, stored))
                    .map_err(|error| Problem::change(&id, error));
            }
        }
    }
    Err(contended(&id))
}

async fn patch(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Document(patch): Document,
) -> Result<Response, Problem> {
    let wanted = if_match(&headers)?;
    if !patch.is_object() {
        return Err(Problem::field("", patch, "must be a JSON object with the fields to change"));
    }
    let stored = modify(&app, &id, wanted.as_ref(), |old| {
        let hidden = secrets::hide(old.clone());
        let mut document = serde_json::to_value(hidden)
            .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        merge(&mut document, &patch);
        let channel: Channel = parse(&document)?;
        same_id(&channel, &id)?;
        check(channel, Some(old))
    })
    .await?;
    Ok(answer(StatusCode::OK, stored))
}

async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let wanted = if_match(&headers)?;
    for _ in 0..ATTEMPTS {
        let old = find(&app, &id).await?.ok_or_else(|| Problem::no_channel(&id))?;
        precondition(&id, wanted.as_ref(), &old)?;
        let name = id.clone();
        match app.change(move |store| store.delete_channel(&name, Some(old.revision))).await {
            Err(ChangeError::Stale { .. }) => {}
            result => {
                return result.map(|()| StatusCode::NO_CONTENT).map_err(|error| Problem::change(&id, error));
            }
        }
    }
    Err(contended(&id))
}

/// Changes a channel as it is now; again, when another change came between.
pub(super) async fn modify(
    app: &App,
    id: &str,
    wanted: Option<&IfMatch>,
    change: impl Fn(&Channel) -> Result<ValidChannel, Problem>,
) -> Result<Stored, Problem> {
    for _ in 0..ATTEMPTS {
        let old = find(app, id).await?.ok_or_else(|| Problem::no_channel(id))?;
        precondition(id, wanted, &old)?;
        let valid = change(&old.channel)?;
        match app.change(move |store| store.replace_channel(&valid, Some(old.revision))).await {
            Err(ChangeError::Stale { .. }) => {}
            result => return result.map_err(|error| Problem::change(id, error)),
        }
    }
    Err(contended(id))
}

/// A channel as stored.
pub(super) async fn find(app: &App, id: &str) -> Result<Option<Stored>, Problem> {
    let id = id.to_owned();
    Ok(app.db(move |store| store.channel(&id)).await?)
}

/// The door: everything behind it relies on a valid channel.
pub(super) fn check(mut channel: Channel, old: Option<&Channel>) -> Result<ValidChannel, Problem> {
    secrets::keep(&mut channel, old).map_err(Problem::fields)?;
    ValidChannel::new(channel).map_err(Problem::fields)
}

fn precondition(id: &str, wanted: Option<&IfMatch>, old: &Stored) -> Result<(), Problem> {
    match wanted {
        Some(wanted) if !wanted.matches(old.revision) => Err(Problem::stale(id, old.revision)),
        _ => Ok(()),
    }
}

fn same_id(channel: &Channel, id: &str) -> Result<(), Problem> {
    if channel.id == id {
        return Ok(());
    }
    let message = format!("must be `{id}`, as in the path; to rename a channel, create the new one and delete the old");
    Err(Problem::field("id", channel.id.as_str(), message))
}

fn contended(id: &str) -> Problem {
    Problem::new(StatusCode::CONFLICT, format!("channel `{id}` is being changed by others all the time; try again"))
}

fn created(stored: Stored) -> Response {
    let location = format!("/api/v1/channels/{}", stored.channel.id);
    let mut response = answer(StatusCode::CREATED, stored);
    // An id is visible ASCII.
    if let Ok(location) = location.parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn answer(status: StatusCode, stored: Stored) -> Response {
    let etag = format!("\"{}\"", stored.revision);
    (status, [(header::ETAG, etag)], Json(secrets::hide(stored.channel))).into_response()
}

/// RFC 7396 section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                merge(target.entry(name).or_insert(Value::Null), value);
            }
        }
    }
}
