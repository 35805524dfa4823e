//! API tokens.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::query;
use super::users::{role, role_field};
use crate::access::Role;
use crate::api::{self, NewToken, NewTokenView};
use crate::app::App;
use crate::console::form::{Form, encode};
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Field, Page, ROWS, Tab, Wrong, more, table, token};
use crate::console::session::Session;
use crate::rest::problem::Problem;
use crate::store::{TokenRow, now_ms};

pub(super) fn add(pages: Pages) -> Pages {
    pages
        .page("/console/tokens", Role::Admin, list)
        .form("/console/tokens", Role::Admin, "createToken", create)
        .page("/console/tokens/{name}/delete", Role::Admin, confirm)
        .form("/console/tokens/{name}/delete", Role::Admin, "deleteToken", delete)
}

async fn list(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    page(&app, &session, &query(raw), &Form::default(), &Wrong::default(), None).await
}

async fn create(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Extension(form): Extension<Form>,
) -> Result<Response, Failed> {
    let result = match wanted(&form) {
        Ok(new) => api::tokens::make(&app, &session.actor, new).await,
        Err(problem) => Err(problem),
    };
    match result {
        Ok(made) => page(&app, &session, &Form::default(), &Form::default(), &Wrong::default(), Some(&made)).await,
        Err(problem) if problem.status == 503 => Err(problem.into()),
        Err(problem) => page(&app, &session, &Form::default(), &form, &Wrong::new(problem), None).await,
    }
}

fn wanted(form: &Form) -> Result<NewToken, Problem> {
    let days = form.given("days").map(str::parse).transpose();
    let days =
        days.map_err(|_| Problem::field("days", form.get("days"), "must be a whole number of days, or empty"))?;
    Ok(NewToken { name: form.get("name").to_owned(), role: role(form)?, days })
}

async fn page(
    app: &App,
    session: &Session,
    query: &Form,
    form: &Form,
    wrong: &Wrong,
    made: Option<&NewTokenView>,
) -> Result<Response, Failed> {
    let after = query.get("after").to_owned();
    let mut tokens = app.db(move |store| store.tokens(&after, ROWS + 1)).await?;
    let further = tokens.len() > ROWS as usize;
    tokens.truncate(ROWS as usize);
    let next = if further { tokens.last().map(|row| row.name.clone()) } else { None };
    let field = |label: &str, name: &str, help: &str, required: bool| {
        Field { label, name, value: form.get(name), help, required, error: wrong.of(name), ..Field::default() }.show()
    };
    let content = html! {
        (wrong.show())
        @if let Some(made) = made {
            div.note.good role="status" {
                p { "Token " strong { (made.name) } " is made. Copy it now: it is not shown again." }
                pre { (made.token) }
            }
        }
        div.panel {
            @if tokens.is_empty() { p.nothing { "There are no API tokens; the one in " code { "token_file" } " is always there." } }
            @else { (rows(&tokens)) }
            (more("/console/tokens", "after", next.as_deref()))
        }
        div.panel {
            h2 { "Make a token" }
            form method="post" action="/console/tokens" {
                (token(session))
                (field("Name", "name", "1 to 64 of a-z, 0-9, '-', '_', '.', '@'; as who it stands in the audit log", true))
                (role_field(form.given("role").unwrap_or("viewer"), wrong))
                (field("Days", "days", "After which it is refused, up to 3650; empty: never", false))
                button { "Make" }
            }
        }
    };
    let status = if made.is_some() { StatusCode::CREATED } else { wrong.status() };
    let page = Page { tab: Tab::Tokens, title: "API tokens", session, query, live: false };
    Ok(page.show_as(status, &content))
}

fn rows(tokens: &[TokenRow]) -> Markup {
    let now = now_ms();
    let rows = html! {
        @for row in tokens {
            tr {
                th scope="row" { (row.name) }
                td { (row.role) }
                td.short { (format::moment(row.created_ms, now)) " by " (row.created_by) }
                td.short {
                    @if row.expires_ms.is_some_and(|expires| expires <= now) { span.mark.bad { "expired" } " " }
                    (format::moment_or(row.expires_ms, now, "never"))
                }
                td.short { (format::moment_or(row.last_used_ms, now, "never")) }
                td {
                    a.button.plain.danger.small href=(format!("/console/tokens/{}/delete", encode(&row.name))) {
                        "Delete…" span.hidden { " " (row.name) }
                    }
                }
            }
        }
    };
    let head = [("", "Name"), ("", "Role"), ("", "Made"), ("", "Ends"), ("", "Last used"), ("", "Orders")];
    table("API tokens", &head, &rows)
}

async fn confirm(Extension(session): Extension<Session>, Path(name): Path<String>) -> Response {
    let content = html! {
        div.panel {
            p { "Whoever uses " strong { (name) } " is refused from then on, and its sessions of the console end." }
            form method="post" action=(format!("/console/tokens/{}/delete", encode(&name))) {
                (token(&session))
                div.actions { button.danger { "Delete " (name) } a.button.plain href="/console/tokens" { "Keep it" } }
            }
        }
    };
    let title = format!("Delete token {name}?");
    Page { tab: Tab::Tokens, title: &title, session: &session, query: &Form::default(), live: false }.show(&content)
}

async fn delete(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Response, Failed> {
    api::tokens::remove(&app, name).await?;
    Ok(Redirect::to("/console/tokens?said=token-deleted").into_response())
}
