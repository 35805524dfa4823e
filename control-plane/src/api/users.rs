//! Users of the console: list, add, change, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::documents;
use super::tokens::{ListParams, problem};
use crate::access::{self, Role, audit, password};
use crate::app::App;
use crate::rest::input::{Body, Params};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::{MAX_USERS, UserRow};

/// One page of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserPage {
    /// By name.
    pub items: Vec<UserView>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

/// A user of the console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserView {
    /// The name.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds of the last log-in.
    pub last_used_ms: Option<u64>,
}

/// A user to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The name: 1 to 64 of `a-z 0-9 - _ . @`.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// 12 characters to 256 bytes.
    pub password: String,
}

/// What to change of a user; what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UserChange {
    /// What he may do from now on.
    pub role: Option<Role>,
    /// Another password; it ends his sessions.
    pub password: Option<String>,
}

const ONE: &str = "/api/v1/users/{name}";

pub(super) fn add(routes: Routes) -> Routes {
    let missing = (404, "There is no such user.");
    let last = (409, "There would be no admin left.");
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/users", "listUsers", "Lists the users of the console.")
                .role(Role::Admin)
                .query::<ListParams>()
                .gives::<UserPage>(200, "One page."),
            list,
        )
        .add(
            Operation::new(Method::POST, "/api/v1/users", "createUser", "Adds a user of the console.")
                .role(Role::Admin)
                .body::<NewUser>()
                .gives::<UserView>(201, "Added.")
                .fails(&[(409, "There is a user of that name, or there are as many as there may be.")]),
            create,
        )
        .add(
            Operation::new(Method::PATCH, ONE, "changeUser", "Changes a user's role or password.")
                .role(Role::Admin)
                .body::<UserChange>()
                .gives::<UserView>(200, "Changed.")
                .fails(&[missing, last]),
            change,
        )
        .add(
            Operation::new(Method::DELETE, ONE, "deleteUser", "Deletes a user, and ends his sessions.")
                .role(Role::Admin)
                .gives_nothing(204, "Deleted.")
                .fails(&[missing, last]),
            delete,
        )
}

async fn list(State(app): State<Arc<App>>, Params(params): Params<ListParams>) -> Result<Json<UserPage>, Problem> {
    let limit = documents::page(params.limit)?;
    let after = params.after.unwrap_or_default();
    let mut found = app.db(move |store| store.users(&after, limit + 1)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = if more { found.last().map(|row| row.name.clone()) } else { None };
    Ok(Json(UserPage { items: found.into_iter().map(view).collect(), next }))
}

async fn create(
    State(app): State<Arc<App>>,
    Body(new): Body<NewUser>,
) -> Result<(StatusCode, Json<UserView>), Problem> {
    make(&app, new).await.map(|row| (StatusCode::CREATED, Json(view(row))))
}

async fn change(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Body(change): Body<UserChange>,
) -> Result<Json<UserView>, Problem> {
    modify(&app, name.clone(), change).await?;
    let found = app.db(move |store| Ok(store.user_with_password(&name)?.ok_or(name))).await?;
    found.map(|(row, _)| Json(view(row))).map_err(|name| Problem::missing("user", &name))
}

async fn delete(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    remove(&app, name).await.map(|()| StatusCode::NO_CONTENT)
}

/// Adds a user; also for the console.
pub(crate) async fn make(app: &App, new: NewUser) -> Result<UserRow, Problem> {
    access::check_name(&new.name).map_err(|message| Problem::field("name", new.name.as_str(), message))?;
    let hash = hash(&new.name, new.password).await?;
    audit::target("user", &new.name);
    let (name, role) = (new.name.clone(), new.role);
    let made = app.change_access(move |store| store.create_user(&name, role, &hash)).await;
    made.map_err(|error| problem("user", &new.name, MAX_USERS, error))
}

/// Changes role or password; also for the console.
pub(crate) async fn modify(app: &App, name: String, change: UserChange) -> Result<(), Problem> {
    let hash = match change.password {
        Some(password) => Some(hash(&name, password).await?),
        None => None,
    };
    audit::target("user", &name);
    let of = name.clone();
    let done = app.change_access(move |store| store.change_user(&of, change.role, hash.as_deref())).await;
    done.map_err(|error| problem("user", &name, MAX_USERS, error))
}

/// Deletes a user; also for the console.
pub(crate) async fn remove(app: &App, name: String) -> Result<(), Problem> {
    audit::target("user", &name);
    let gone = name.clone();
    let done = app.change_access(move |store| store.delete_user(&gone)).await;
    done.map_err(|error| problem("user", &name, MAX_USERS, error))
}

async fn hash(user: &str, given: String) -> Result<String, Problem> {
    password::check(user, &given).map_err(|error| Problem::field("password", Value::Null, error.to_string()))?;
    let failed = |error: password::HashError| Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    password::hash(given).await.map_err(failed)
}

fn view(row: UserRow) -> UserView {
    UserView { name: row.name, role: row.role, created_ms: row.created_ms, last_used_ms: row.last_used_ms }
}
