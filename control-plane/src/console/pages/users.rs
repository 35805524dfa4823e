//! Users of the console.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::query;
use crate::access::Role;
use crate::api::{self, NewUser, UserChange};
use crate::app::App;
use crate::console::form::{Form, encode};
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Field, Page, ROWS, Tab, Wrong, more, table, token};
use crate::console::session::Session;
use crate::rest::problem::Problem;
use crate::store::{UserRow, now_ms};

/// What is said of passwords.
pub(super) const PASSWORD_HELP: &str = "12 characters or more";

pub(super) fn add(pages: Pages) -> Pages {
    pages
        .page("/console/users", Role::Admin, list)
        .form("/console/users", Role::Admin, "createUser", create)
        .page("/console/users/{name}", Role::Admin, one)
        .form("/console/users/{name}", Role::Admin, "changeUser", change)
        .form("/console/users/{name}/delete", Role::Admin, "deleteUser", delete)
}

fn href(name: &str) -> String {
    format!("/console/users/{}", encode(name))
}

async fn list(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    page(&app, &session, &query(raw), &Form::default(), &Wrong::default()).await
}

async fn create(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Extension(form): Extension<Form>,
) -> Result<Response, Failed> {
    let result = match role(&form) {
        Ok(role) => {
            let new = NewUser { name: form.get("name").to_owned(), role, password: form.raw("password").to_owned() };
            api::users::make(&app, new).await
        }
        Err(problem) => Err(problem),
    };
    match result {
        Ok(_) => Ok(Redirect::to("/console/users?said=user-added").into_response()),
        Err(problem) if problem.status == 503 => Err(problem.into()),
        Err(problem) => page(&app, &session, &Form::default(), &form, &Wrong::new(problem)).await,
    }
}

/// The role that a form says.
pub(super) fn role(form: &Form) -> Result<Role, Problem> {
    let text = form.get("role");
    text.parse().map_err(|error: crate::access::NoRole| Problem::field("role", text, error.to_string()))
}

async fn page(app: &App, session: &Session, query: &Form, form: &Form, wrong: &Wrong) -> Result<Response, Failed> {
    let after = query.get("after").to_owned();
    let mut users = app.db(move |store| store.users(&after, ROWS + 1)).await?;
    let further = users.len() > ROWS as usize;
    users.truncate(ROWS as usize);
    let next = if further { users.last().map(|row| row.name.clone()) } else { None };
    let name = Field {
        label: "Name",
        name: "name",
        value: form.get("name"),
        help: "1 to 64 of a-z, 0-9, '-', '_', '.', '@'",
        required: true,
        error: wrong.of("name"),
        ..Field::default()
    };
    let content = html! {
        (wrong.show())
        div.panel {
            @if users.is_empty() { p.nothing { "There are no users yet: only tokens open the console." } } @else { (rows(&users)) }
            (more("/console/users", "after", next.as_deref()))
        }
        div.panel {
            h2 { "Add a user" }
            form method="post" action="/console/users" {
                (token(session))
                (name.show())
                (role_field(form.given("role").unwrap_or("viewer"), wrong))
                (password_field("Password", "password", wrong.of("password"), true))
                button { "Add" }
            }
        }
    };
    let page = Page { tab: Tab::Users, title: "Users", session, query, live: false };
    Ok(page.show_as(wrong.status(), &content))
}

fn rows(users: &[UserRow]) -> Markup {
    let now = now_ms();
    let rows = html! {
        @for user in users {
            tr {
                th scope="row" { a href=(href(&user.name)) { (user.name) } }
                td { (user.role) }
                td.short { (format::moment(user.created_ms, now)) }
                td.short { (format::moment_or(user.last_used_ms, now, "never")) }
            }
        }
    };
    table("Users", &[("", "Name"), ("", "Role"), ("", "Added"), ("", "Last log-in")], &rows)
}

/// A choice of roles.
pub(super) fn role_field(chosen: &str, wrong: &Wrong) -> Markup {
    let about =
        [(Role::Viewer, "looks"), (Role::Operator, "changes channels, commands nodes"), (Role::Admin, "all of it")];
    html! {
        fieldset {
            legend { "Role" }
            @for (role, what) in about {
                label.choice {
                    input type="radio" name="role" value=(role) checked[role.name() == chosen]; " " (role) span.soft { " – " (what) }
                }
            }
            @if let Some(text) = wrong.of("role") { p.error { (text) } }
        }
    }
}

pub(super) fn password_field(label: &str, name: &str, error: Option<&str>, required: bool) -> Markup {
    let complete = "new-password";
    Field { label, name, kind: "password", help: PASSWORD_HELP, complete, required, error, ..Field::default() }.show()
}

async fn one(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(name): Path<String>,
) -> Result<Response, Failed> {
    user(&app, &session, &name, &Wrong::default()).await
}

async fn change(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(name): Path<String>,
    Extension(form): Extension<Form>,
) -> Result<Response, Failed> {
    let result = match role(&form) {
        Ok(role) => {
            let password = Some(form.raw("password").to_owned()).filter(|password| !password.is_empty());
            api::users::modify(&app, name.clone(), UserChange { role: Some(role), password }).await
        }
        Err(problem) => Err(problem),
    };
    after(&app, &session, &name, result, "user-changed").await
}

async fn delete(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(name): Path<String>,
    Extension(form): Extension<Form>,
) -> Result<Response, Failed> {
    let result = if form.get("sure") == "yes" {
        api::users::remove(&app, name.clone()).await
    } else {
        Err(Problem::field("sure", form.get("sure"), "must be ticked to delete the user"))
    };
    after(&app, &session, &name, result, "user-deleted").await
}

async fn after(
    app: &App,
    session: &Session,
    name: &str,
    result: Result<(), Problem>,
    said: &str,
) -> Result<Response, Failed> {
    match result {
        Ok(()) => Ok(Redirect::to(&format!("/console/users?said={said}")).into_response()),
        Err(problem) if problem.status == 404 || problem.status == 503 => Err(problem.into()),
        Err(problem) => user(app, session, name, &Wrong::new(problem)).await,
    }
}

async fn user(app: &App, session: &Session, name: &str, wrong: &Wrong) -> Result<Response, Failed> {
    let asked = name.to_owned();
    let found = app.db(move |store| store.user_with_password(&asked)).await?;
    let (row, _) = found.ok_or_else(|| Problem::missing("user", name))?;
    let content = html! {
        (wrong.show())
        div.columns {
            div.panel {
                h2 { "Change" }
                form method="post" action=(href(name)) {
                    (token(session))
                    (role_field(row.role.name(), wrong))
                    (password_field("New password (empty: as it is)", "password", wrong.of("password"), false))
                    p.help.soft { "A new password ends the user's sessions." }
                    div.actions { button { "Save" } a.button.plain href="/console/users" { "Cancel" } }
                }
            }
            div.panel {
                h2 { "Delete" }
                form method="post" action=(format!("{}/delete", href(name))) {
                    (token(session))
                    div.field {
                        label.choice { input type="checkbox" name="sure" value="yes" required; " Delete " (name) " and end the sessions" }
                        @if let Some(text) = wrong.of("sure") { p.error { (text) } }
                    }
                    button.danger { "Delete " (name) }
                }
            }
        }
    };
    let title = format!("User {name}");
    let page = Page { tab: Tab::Users, title: &title, session, query: &Form::default(), live: false };
    Ok(page.show_as(wrong.status(), &content))
}
