//! API tokens: list, make, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::documents;
use crate::access::{self, Actor, Role, audit, secret};
use crate::app::App;
use crate::rest::input::{Body, Params};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::{AccessError, MAX_TOKENS, TokenRow, now_ms};

/// Longest life of a token: ten years.
pub(crate) const MAX_DAYS: u32 = 3_650;
const DAY_MS: u64 = 86_400_000;

/// One page of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenPage {
    /// By name.
    pub items: Vec<TokenView>,
    /// Ask for the next page with `?after=` this; null: this is the last one.
    pub next: Option<String>,
}

/// A token, without itself: only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenView {
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Who made it.
    pub created_by: String,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds from which on it is refused; null: never.
    pub expires_ms: Option<u64>,
    /// Unix milliseconds of its last use, to the minute.
    pub last_used_ms: Option<u64>,
}

/// A token to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is to be called: 1 to 64 of `a-z 0-9 - _ . @`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Days until it is refused, up to 3650; none: never.
    #[serde(default)]
    pub days: Option<u32>,
}

/// A new token. It is shown here and never again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewTokenView {
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Unix milliseconds from which on it is refused; null: never.
    pub expires_ms: Option<u64>,
    /// The token itself, for `Authorization: Bearer …`.
    pub token: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// Most to list, 1 to 1000; by default 100.
    #[serde(default)]
    pub(super) limit: Option<u32>,
    /// Begin behind this name.
    #[serde(default)]
    pub(super) after: Option<String>,
}

pub(super) fn add(routes: Routes) -> Routes {
    let conflict = (409, "There is a token of that name, or there are as many as there may be.");
    routes
        .add(
            Operation::new(Method::GET, "/api/v1/tokens", "listTokens", "Lists API tokens, without themselves.")
                .role(Role::Admin)
                .query::<ListParams>()
                .gives::<TokenPage>(200, "One page."),
            list,
        )
        .add(
            Operation::new(Method::POST, "/api/v1/tokens", "createToken", "Makes an API token.")
                .role(Role::Admin)
                .body::<NewToken>()
                .gives::<NewTokenView>(201, "Made; it is shown here and never again.")
                .fails(&[conflict]),
            create,
        )
        .add(
            Operation::new(
                Method::DELETE,
                "/api/v1/tokens/{name}",
                "deleteToken",
                "Deletes an API token: it is refused from now on.",
            )
            .role(Role::Admin)
            .gives_nothing(204, "Deleted.")
            .fails(&[(404, "There is no such token.")]),
            delete,
        )
}

async fn list(State(app): State<Arc<App>>, Params(params): Params<ListParams>) -> Result<Json<TokenPage>, Problem> {
    let limit = documents::page(params.limit)?;
    let after = params.after.unwrap_or_default();
    let mut found = app.db(move |store| store.tokens(&after, limit + 1)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = if more { found.last().map(|row| row.name.clone()) } else { None };
    Ok(Json(TokenPage { items: found.into_iter().map(view).collect(), next }))
}

async fn create(
    State(app): State<Arc<App>>,
    Extension(actor): Extension<Actor>,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<NewTokenView>), Problem> {
    make(&app, &actor, new).await.map(|made| (StatusCode::CREATED, Json(made)))
}

async fn delete(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    remove(&app, name).await.map(|()| StatusCode::NO_CONTENT)
}

/// Makes a token; also for the console.
pub(crate) async fn make(app: &App, actor: &Actor, new: NewToken) -> Result<NewTokenView, Problem> {
    access::check_name(&new.name).map_err(|message| Problem::field("name", new.name.as_str(), message))?;
    if let Some(days) = new.days
        && !(1..=MAX_DAYS).contains(&days)
    {
        return Err(Problem::field("days", days, format!("must be from 1 to {MAX_DAYS}, or none for no end")));
    }
    let token = secret::new_token().map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("/dev/urandom: {error}; check that it is there"))
    })?;
    let now = now_ms();
    let row = TokenRow {
        name: new.name,
        role: new.role,
        created_by: actor.name.as_ref().to_owned(),
        created_ms: now,
        expires_ms: new.days.map(|days| now + u64::from(days) * DAY_MS),
        last_used_ms: None,
    };
    audit::target("token", &row.name);
    let (stored, hash) = (row.clone(), secret::hash(&token));
    let made = app.change_access(move |store| store.create_token(&stored, &hash)).await;
    made.map_err(|error| problem("token", &row.name, MAX_TOKENS, error))?;
    Ok(NewTokenView { name: row.name, role: row.role, expires_ms: row.expires_ms, token })
}

/// Deletes a token; also for the console.
pub(crate) async fn remove(app: &App, name: String) -> Result<(), Problem> {
    audit::target("token", &name);
    let gone = name.clone();
    let done = app.change_access(move |store| store.delete_token(&gone)).await;
    done.map_err(|error| problem("token", &name, MAX_TOKENS, error))
}

fn view(row: TokenRow) -> TokenView {
    TokenView {
        name: row.name,
        role: row.role,
        created_by: row.created_by,
        created_ms: row.created_ms,
        expires_ms: row.expires_ms,
        last_used_ms: row.last_used_ms,
    }
}

/// An answer to a failed change of a user or token.
pub(super) fn problem(noun: &str, name: &str, most: u32, error: AccessError) -> Problem {
    match error {
        AccessError::Missing => Problem::missing(noun, name),
        AccessError::Exists => Problem {
            errors: vec![crate::field::FieldError::new("name", name, "is taken; choose another")],
            ..Problem::new(StatusCode::CONFLICT, format!("there is a {noun} `{name}` already"))
        },
        AccessError::Full => {
            let detail = format!("there are {most} {noun}s, and there may be no more; delete some that nobody uses");
            Problem::new(StatusCode::CONFLICT, detail)
        }
        AccessError::LastAdmin => {
            let detail = format!("`{name}` is the last admin; make another user one first");
            Problem::new(StatusCode::CONFLICT, detail)
        }
        AccessError::Store(error) => error.into(),
    }
}
