//! The log of changes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::documents;
use crate::access::audit::{Entry, Outcome};
use crate::access::{Kind, Role};
use crate::app::App;
use crate::field::FieldError;
use crate::rest::input::Params;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::{AuditQuery, AuditRow};

/// One page of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditPage {
    /// The newest first.
    pub items: Vec<AuditItem>,
    /// Ask for the next page with `?before=` this; null: this is the last one.
    pub next: Option<u64>,
}

/// One change, or one attempt at it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditItem {
    /// Grows with each entry.
    pub id: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Who: name of the user or token. Of an attempt to log in that failed, the name that was given.
    pub actor: String,
    /// With what.
    pub kind: Kind,
    /// His role; null: he did not get in.
    pub role: Option<Role>,
    /// From which address, as far as is known.
    pub address: Option<String>,
    /// What: the operation's id in this document, the console's form, or `logIn`.
    pub action: String,
    /// Method and path.
    pub request: String,
    /// What it was done to, as in `channel room1`; empty where the path says it.
    pub target: String,
    /// What came of it.
    pub outcome: Outcome,
    /// The answer's status; null: the entry was written in the change's own transaction, and it is done.
    pub status: Option<u16>,
    /// Revision of the document before.
    pub before: Option<u64>,
    /// Revision of the document after.
    pub after: Option<u64>,
    /// Of documents, each field that changed (`field`, `from`, `to`); else what was sent. Secrets are hidden.
    pub change: Value,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Most entries, 1 to 1000; by default 100.
    #[serde(default)]
    limit: Option<u32>,
    /// Only those older than the entry with this id.
    #[serde(default)]
    before: Option<u64>,
    /// From this moment on, in Unix seconds.
    #[serde(default)]
    from: Option<u64>,
    /// Before this moment, in Unix seconds.
    #[serde(default)]
    to: Option<u64>,
    /// Of this user or token.
    #[serde(default)]
    actor: Option<String>,
    /// This operation, as in `patchChannel`.
    #[serde(default)]
    action: Option<String>,
    /// What it was done to, as in `channel room1`.
    #[serde(default)]
    target: Option<String>,
    /// What came of it: done, refused or failed.
    #[serde(default)]
    outcome: Option<String>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes.add(
        Operation::new(Method::GET, "/api/v1/audit", "listAudit", "Lists who changed what, the newest first.")
            .role(Role::Admin)
            .query::<ListParams>()
            .gives::<AuditPage>(200, "One page."),
        list,
    )
}

async fn list(State(app): State<Arc<App>>, Params(params): Params<ListParams>) -> Result<Json<AuditPage>, Problem> {
    let limit = documents::page(params.limit)?;
    let outcome = params.outcome.map(|text| {
        Outcome::parse(&text)
            .ok_or_else(|| Problem::parameter(FieldError::new("outcome", text, "must be done, refused or failed")))
    });
    let query = AuditQuery {
        before: params.before,
        from_ms: params.from.map(|seconds| seconds.saturating_mul(1_000)),
        to_ms: params.to.map(|seconds| seconds.saturating_mul(1_000)),
        actor: params.actor,
        action: params.action,
        target: params.target,
        outcome: outcome.transpose()?,
        limit: limit + 1,
    };
    let mut found = app.db(move |store| store.audit(&query)).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = if more { found.last().map(|row| row.id) } else { None };
    Ok(Json(AuditPage { items: found.into_iter().map(item).collect(), next }))
}

fn item(AuditRow { id, entry }: AuditRow) -> AuditItem {
    let Entry { at_ms, actor, kind, role, address, action, request, target, outcome, status, before, after, change } =
        entry;
    AuditItem {
        id,
        at_ms,
        actor,
        kind,
        role,
        address: address.map(|address| address.to_string()),
        action,
        request,
        target,
        outcome,
        status,
        before,
        after,
        // What was written as JSON is JSON; anything else is shown as text.
        change: change.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or(Value::String(text))),
    }
}
