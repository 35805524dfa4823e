//! The log of changes.

use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use super::query;
use crate::access::Role;
use crate::access::audit::{Entry, Outcome};
use crate::app::App;
use crate::console::form::{Form, encode};
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Field, Page, ROWS, Tab, more, table};
use crate::console::session::Session;
use crate::store::{AuditQuery, AuditRow};

/// Fields of a change that are shown in the list; the API tells all.
const SHOWN: usize = 8;

pub(super) fn add(pages: Pages) -> Pages {
    pages.page("/console/audit", Role::Admin, list)
}

async fn list(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let query = query(raw);
    let wanted = AuditQuery {
        before: query.given("before").and_then(|text| text.parse().ok()),
        actor: query.given("actor").map(str::to_owned),
        action: query.given("action").map(str::to_owned),
        outcome: query.given("outcome").and_then(Outcome::parse),
        limit: ROWS + 1,
        ..AuditQuery::default()
    };
    let mut found = app.db(move |store| store.audit(&wanted)).await?;
    let further = found.len() > ROWS as usize;
    found.truncate(ROWS as usize);
    let next = if further { found.last().map(|row| row.id.to_string()) } else { None };
    let content = html! {
        (filter(&query))
        div.panel {
            @if found.is_empty() { p.nothing { "There is no such entry." } } @else { (rows(&found)) }
            (more(&format!("/console/audit{}", kept(&query)), "before", next.as_deref()))
        }
    };
    Ok(Page { tab: Tab::Audit, title: "Audit log", session: &session, query: &query, live: false }.show(&content))
}

/// The filter, for the next page.
fn kept(query: &Form) -> String {
    let mut text = String::new();
    for name in ["actor", "action", "outcome"] {
        if let Some(value) = query.given(name) {
            text.push(if text.is_empty() { '?' } else { '&' });
            text.push_str(&format!("{name}={}", encode(value)));
        }
    }
    text
}

fn filter(query: &Form) -> Markup {
    let field = |label: &str, name: &str| Field { label, name, value: query.get(name), ..Field::default() }.show();
    html! {
        form.panel.inline method="get" action="/console/audit" {
            (field("Who", "actor"))
            (field("Action", "action"))
            div.field {
                label for="f-outcome" { "Outcome" }
                select id="f-outcome" name="outcome" {
                    option value="" { "any" }
                    @for outcome in Outcome::ALL {
                        option value=(outcome.name()) selected[query.get("outcome") == outcome.name()] { (outcome.name()) }
                    }
                }
            }
            div.actions { button { "Show" } a.button.plain href="/console/audit" { "All" } }
        }
    }
}

fn rows(found: &[AuditRow]) -> Markup {
    let rows = html! {
        @for AuditRow { entry, .. } in found {
            tr {
                td.short { (format::utc(entry.at_ms)) }
                th scope="row" { (who(entry)) }
                td.long {
                    (entry.action)
                    @if !entry.target.is_empty() { br; (entry.target) }
                    br; small.soft { code { (entry.request) } @if let Some(address) = entry.address { " from " (address) } }
                }
                td { (outcome(entry)) }
                td.long { (change(entry)) }
            }
        }
    };
    let head = [("", "Time (UTC)"), ("", "Who"), ("", "What"), ("", "Outcome"), ("", "Change")];
    table("Changes", &head, &rows)
}

fn who(entry: &Entry) -> Markup {
    html! {
        (if entry.actor.is_empty() { "unknown" } else { entry.actor.as_str() })
        br; small.soft { (entry.kind.name()) @if let Some(role) = entry.role { ", " (role) } }
    }
}

fn outcome(entry: &Entry) -> Markup {
    let class = match entry.outcome {
        Outcome::Done => "mark good",
        Outcome::Refused => "mark warn",
        Outcome::Failed => "mark bad",
    };
    html! {
        span class=(class) { (entry.outcome.name()) }
        @if let Some(status) = entry.status { " " (status) }
    }
}

/// The fields that changed, or what was sent.
fn change(entry: &Entry) -> Markup {
    let change = entry.change.as_deref().map(serde_json::from_str::<Value>);
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    html! {
        @if let (Some(before), Some(after)) = (entry.before, entry.after) { small.soft { "revision " (before) " → " (after) } br; }
        @match change {
            Some(Ok(Value::Array(fields))) => {
                @for field in fields.iter().take(SHOWN) {
                    @match (field.get("field").and_then(Value::as_str), field.get("from"), field.get("to")) {
                        (Some(name), Some(from), Some(to)) => { code { (name) } ": " (plain(from)) " → " (plain(to)) },
                        (Some(name), None, Some(to)) => { code { (name) } ": " (plain(to)) },
                        (Some(name), Some(from), None) => { code { (name) } ": " del { (plain(from)) } },
                        _ => { (field.to_string()) },
                    }
                    br;
                }
                @if fields.len() > SHOWN { small.soft { "and " (fields.len() - SHOWN) " more" } }
            },
            Some(Ok(Value::Object(fields))) => {
                @for (name, value) in fields.iter().take(SHOWN) { code { (name) } ": " (plain(value)) br; }
            },
            Some(Ok(other)) => { (plain(&other)) },
            _ => {},
        }
    }
}
