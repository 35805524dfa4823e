//! What channels, tenants, apps and rules have in common: list, create, read, replace, patch, delete, each change against the
//! revision that was read.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::secrets::Secretive;
use crate::access::{Role, audit};
use crate::app::App;
use crate::field::FieldError;
use crate::rest::input::{Body, Document, IfMatch, Params, if_match, parse};
use crate::rest::openapi::{BASE, Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::{self, ChangeError, Stored};
use crate::validate::{Check, Valid};

/// Documents on a page unless asked otherwise.
const PAGE: u32 = 100;
/// Most documents on a page.
const MAX_PAGE: u32 = 1000;
/// How often a change without If-Match is tried anew when another one came between.
const ATTEMPTS: usize = 8;

/// What the header is for.
const IF_MATCH: &str = "The ETag as read: change it only if it is still that one.";

/// A document that the API serves.
pub(super) trait Resource: store::Document + Check + Secretive + JsonSchema + Send + Sync + 'static {}

impl<T: store::Document + Check + Secretive + JsonSchema + Send + Sync + 'static> Resource for T {}

/// One page of documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    /// In the order of their ids; secrets are hidden.
    pub items: Vec<T>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Most to list, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// Begin behind this id.
    #[serde(default)]
    after: Option<String>,
    /// Those of this tenant only.
    #[serde(default)]
    tenant: Option<String>,
}

/// How the OpenAPI document speaks of a resource: of operations, their ids and summaries.
pub(super) struct Words {
    /// Path of all.
    pub(super) all: &'static str,
    /// Path of one, with its `{id}`.
    pub(super) one: &'static str,
    pub(super) list: (&'static str, &'static str),
    pub(super) create: (&'static str, &'static str),
    pub(super) read: (&'static str, &'static str),
    pub(super) replace: (&'static str, &'static str),
    /// Its id; it is the same for all.
    pub(super) patch: &'static str,
    pub(super) delete: (&'static str, &'static str),
    /// Why there may be a 404, a 409 and a 412.
    pub(super) missing: &'static str,
    pub(super) taken: &'static str,
    pub(super) stale: &'static str,
}

/// Adds the operations of a resource.
pub(super) fn add<T: Resource>(routes: Routes, words: &Words) -> Routes {
    let Words {
        all, one, list: listing, create: creating, read: reading, replace: replacing, delete: deleting, ..
    } = *words;
    let [missing, taken, stale] = [(404, words.missing), (409, words.taken), (412, words.stale)];
    let of = |method, path, (id, summary)| Operation::new(method, path, id, summary);
    let patching = (words.patch, "Changes some fields (JSON Merge Patch, RFC 7396).");
    routes
        .add(of(Method::GET, all, listing).query::<ListParams>().gives::<Page<T>>(200, "One page."), list::<T>)
        .add(
            of(Method::POST, all, creating)
                .body::<T>()
                .gives::<T>(201, "Created; Location and ETag are set.")
                .fails(&[taken]),
            create::<T>,
        )
        .add(of(Method::GET, one, reading).gives::<T>(200, "As it is; its ETag is set.").fails(&[missing]), read::<T>)
        .add(
            of(Method::PUT, one, replacing)
                .header("If-Match", IF_MATCH)
                .body_at::<T>("id")
                .gives::<T>(200, "Replaced.")
                .gives::<T>(201, "Created.")
                .fails(&[taken, stale]),
            replace::<T>,
        )
        .add(
            of(Method::PATCH, one, patching)
                .header("If-Match", IF_MATCH)
                .body_as::<Value>("application/merge-patch+json")
                .gives::<T>(200, "Changed.")
                .fails(&[missing, taken, stale]),
            patch::<T>,
        )
        .add(
            of(Method::DELETE, one, deleting)
                .header("If-Match", IF_MATCH)
                .gives_nothing(204, "Deleted.")
                .fails(&[missing, stale]),
            delete::<T>,
        )
}

async fn list<T: Resource>(
    State(app): State<Arc<App>>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<T>>, Problem> {
    let limit = page(params.limit)?;
    let after = params.after.unwrap_or_default();
    let mut found = app.db(move |store| store.page::<T>(params.tenant.as_deref(), &after, limit + 1)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let items: Vec<T> = found.into_iter().map(|stored| stored.document.hide()).collect();
    let next = if more { items.last().map(|last| last.id().to_owned()) } else { None };
    Ok(Json(Page { items, next }))
}

async fn create<T: Resource>(State(app): State<Arc<App>>, Body(document): Body<T>) -> Result<Response, Problem> {
    let id = document.id().to_owned();
    let valid = check(document, None)?;
    note(None, Some(valid.get()));
    let stored = app.change(move |store| store.create(&valid)).await.map_err(|error| changed::<T>(&id, error))?;
    Ok(created(stored))
}

async fn read<T: Resource>(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Problem> {
    Ok(answer(StatusCode::OK, must_find::<T>(&app, &id).await?))
}

async fn replace<T: Resource>(
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
    let document: T = parse(&document)?;
    same_id(&document, &id)?;
    for _ in 0..ATTEMPTS {
        let Some(old) = find::<T>(&app, &id).await? else {
            if wanted.is_some() {
                let noun = T::NOUN;
                let detail = format!("there is no {noun} `{id}` that could match; leave If-Match out to create it");
                return Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail));
            }
            let valid = check(document.clone(), None)?;
            note(None, Some(valid.get()));
            match app.change(move |store| store.create(&valid)).await {
                Err(ChangeError::Exists) => continue,
                result => return result.map(created).map_err(|error| changed::<T>(&id, error)),
            }
        };
        precondition(&id, wanted.as_ref(), &old)?;
        let valid = check(document.clone(), Some(&old.document))?;
        note(Some(&old), Some(valid.get()));
        match app.change(move |store| store.replace(&valid, Some(old.revision))).await {
            Err(ChangeError::Stale { .. } | ChangeError::Missing) => {}
            result => {
                return result.map(|stored| answer(StatusCode::OK, stored)).map_err(|error| changed::<T>(&id, error));
            }
        }
    }
    Err(contended::<T>(&id))
}

async fn patch<T: Resource>(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Document(patch): Document,
) -> Result<Response, Problem> {
    let wanted = if_match(&headers)?;
    if !patch.is_object() {
        return Err(Problem::field("", patch, "must be a JSON object with the fields to change"));
    }
    let stored = modify(&app, &id, wanted.as_ref(), |old: &T| {
        let mut document = serde_json::to_value(old.clone().hide())
            .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        merge(&mut document, &patch);
        let document: T = parse(&document)?;
        same_id(&document, &id)?;
        check(document, Some(old))
    })
    .await?;
    Ok(answer(StatusCode::OK, stored))
}

async fn delete<T: Resource>(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let wanted = if_match(&headers)?;
    for _ in 0..ATTEMPTS {
        let old = must_find::<T>(&app, &id).await?;
        precondition(&id, wanted.as_ref(), &old)?;
        note(Some(&old), None);
        let name = id.clone();
        match app.change(move |store| store.delete::<T>(&name, Some(old.revision))).await {
            Err(ChangeError::Stale { .. }) => {}
            result => {
                return result.map(|()| StatusCode::NO_CONTENT).map_err(|error| changed::<T>(&id, error));
            }
        }
    }
    Err(contended::<T>(&id))
}

/// Changes a document as it is now; again, when another change came between.
pub(super) async fn modify<T: Resource>(
    app: &App,
    id: &str,
    wanted: Option<&IfMatch>,
    change: impl Fn(&T) -> Result<Valid<T>, Problem>,
) -> Result<Stored<T>, Problem> {
    for _ in 0..ATTEMPTS {
        let old = must_find::<T>(app, id).await?;
        precondition(id, wanted, &old)?;
        let valid = change(&old.document)?;
        note(Some(&old), Some(valid.get()));
        match app.change(move |store| store.replace(&valid, Some(old.revision))).await {
            Err(ChangeError::Stale { .. }) => {}
            result => return result.map_err(|error| changed::<T>(id, error)),
        }
    }
    Err(contended::<T>(id))
}

/// A document as stored, or 404.
pub(super) async fn must_find<T: Resource>(app: &App, id: &str) -> Result<Stored<T>, Problem> {
    find(app, id).await?.ok_or_else(|| Problem::missing(T::NOUN, id))
}

/// The door: everything behind it relies on a valid document.
pub(super) fn check<T: Resource>(mut document: T, old: Option<&T>) -> Result<Valid<T>, Problem> {
    document.keep(old).map_err(Problem::fields)?;
    may_change_secrets(&document, old)?;
    Valid::new(document).map_err(Problem::fields)
}

/// Keys and secrets are an admin's, also inside of a document that an operator may change.
fn may_change_secrets<T: Resource>(document: &T, old: Option<&T>) -> Result<(), Problem> {
    let weak = audit::current().and_then(|slot| slot.role()).is_some_and(|role| role < Role::Admin);
    if !weak || document.clone().same_secrets(old) {
        return Ok(());
    }
    let detail = format!("only an admin may change keys and secrets; leave those of the {} as they are (***)", T::NOUN);
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

/// Tells the audit log what changes, without secrets.
fn note<T: Resource>(old: Option<&Stored<T>>, new: Option<&T>) {
    let Some(id) = new.or(old.map(|old| &old.document)).map(|document| document.id().to_owned()) else { return };
    if audit::current().is_none() {
        return;
    }
    let plain = |document: &T| serde_json::to_value(document.clone().hide()).unwrap_or_default();
    let before = old.map(|old| (old.revision, plain(&old.document)));
    let after = new.map(plain);
    audit::document(T::NOUN, &id, before.as_ref().map(|(revision, value)| (*revision, value)), after.as_ref());
}

/// How many a page may have.
pub(super) fn page(limit: Option<u32>) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        let error = FieldError::new("limit", limit, format!("must be from 1 to {MAX_PAGE}"));
        return Err(Problem::parameter(error));
    }
    Ok(limit)
}

async fn find<T: Resource>(app: &App, id: &str) -> Result<Option<Stored<T>>, Problem> {
    let id = id.to_owned();
    Ok(app.db(move |store| store.find(&id)).await?)
}

fn precondition<T: Resource>(id: &str, wanted: Option<&IfMatch>, old: &Stored<T>) -> Result<(), Problem> {
    match wanted {
        Some(wanted) if !wanted.matches(old.revision) => Err(Problem::stale(T::NOUN, id, old.revision)),
        _ => Ok(()),
    }
}

fn same_id<T: Resource>(document: &T, id: &str) -> Result<(), Problem> {
    if document.id() == id {
        return Ok(());
    }
    let noun = T::NOUN;
    let message = format!("must be `{id}`, as in the path; to rename a {noun}, create the new one and delete the old");
    Err(Problem::field("id", document.id(), message))
}

fn changed<T: Resource>(id: &str, error: ChangeError) -> Problem {
    Problem::change(T::NOUN, id, error)
}

fn contended<T: Resource>(id: &str) -> Problem {
    let detail = format!("{} `{id}` is being changed by others all the time; try again", T::NOUN);
    Problem::new(StatusCode::CONFLICT, detail)
}

fn created<T: Resource>(stored: Stored<T>) -> Response {
    let location = format!("{BASE}/{}s/{}", T::NOUN, stored.document.id());
    let mut response = answer(StatusCode::CREATED, stored);
    // An id is visible ASCII.
    if let Ok(location) = location.parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn answer<T: Resource>(status: StatusCode, stored: Stored<T>) -> Response {
    let etag = format!("\"{}\"", stored.revision);
    (status, [(header::ETAG, etag)], Json(stored.document.hide())).into_response()
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
