//! One's own account: the password, and the way out.

use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::html;
use serde_json::Value;

use super::query;
use super::users::password_field;
use crate::access::login::{self, Denied};
use crate::access::{Kind, Role};
use crate::api::{self, UserChange};
use crate::app::App;
use crate::console::form::Form;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Field, Page, Tab, Wrong, token};
use crate::console::session::{self, Session};
use crate::rest::problem::Problem;

pub(super) fn add(pages: Pages) -> Pages {
    pages
        .page("/console/account", Role::Viewer, show)
        .form("/console/account", Role::Viewer, "changeOwnPassword", change)
        .form("/console/logout", Role::Viewer, "logOut", log_out)
}

async fn show(Extension(session): Extension<Session>, raw: RawQuery) -> Response {
    page(&session, &query(raw), &Wrong::default())
}

async fn change(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Extension(form): Extension<Form>,
) -> Result<Response, Failed> {
    match own_password(&app, &session, &form).await {
        Ok(()) => {
            let to = Redirect::to("/console/login?said=password");
            Ok(([(header::SET_COOKIE, session::forget(session::COOKIE))], to).into_response())
        }
        Err(problem) if problem.status == 503 => Err(problem.into()),
        Err(problem) => Ok(page(&session, &Form::default(), &Wrong::new(problem))),
    }
}

async fn own_password(app: &App, session: &Session, form: &Form) -> Result<(), Problem> {
    let name = session.actor.name.as_ref();
    if session.actor.kind != Kind::User {
        return Err(Problem::new(StatusCode::CONFLICT, "a token has no password"));
    }
    let wrong = |message: String| Problem::field("current", Value::Null, message);
    match login::user(app, session.address, name, form.raw("current"), "POST /console/account").await {
        Ok(_) => {}
        Err(Denied::Wrong) => return Err(wrong("is not your password".to_owned())),
        Err(Denied::Wait(wait)) => {
            return Err(wrong(format!("was wrong too often; try again in {} s", wait.as_secs() + 1)));
        }
        Err(Denied::Store(error)) => return Err(error.into()),
        Err(Denied::Hash(error)) => return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    }
    if form.raw("password") != form.raw("again") {
        return Err(Problem::field("again", Value::Null, "must be the same as the new password"));
    }
    let change = UserChange { role: None, password: Some(form.raw("password").to_owned()) };
    api::users::modify(app, name.to_owned(), change).await
}

fn page(session: &Session, query: &Form, wrong: &Wrong) -> Response {
    let current = Field {
        label: "Password now",
        name: "current",
        kind: "password",
        complete: "current-password",
        required: true,
        error: wrong.of("current"),
        ..Field::default()
    };
    let content = html! {
        (wrong.show())
        div.panel {
            p { "You are " strong { (session.actor.name) } " with the role " (session.actor.role) "." }
            @if session.actor.kind == Kind::User {
                h2 { "Change the password" }
                form method="post" action="/console/account" {
                    (token(session))
                    (current.show())
                    (password_field("New password", "password", wrong.of("password"), true))
                    (password_field("New password once more", "again", wrong.of("again"), true))
                    p.soft { "All your sessions end; log in again with the new one." }
                    button { "Change" }
                }
            } @else { p { "This session began with a token." } }
        }
    };
    Page { tab: Tab::Account, title: "Your account", session, query, live: false }.show_as(wrong.status(), &content)
}

async fn log_out(State(app): State<Arc<App>>, Extension(session): Extension<Session>) -> Result<Response, Failed> {
    let hash = Arc::clone(&session.hash);
    app.db(move |store| store.end_session(&hash)).await?;
    let to = Redirect::to("/console/login?said=out");
    Ok(([(header::SET_COOKIE, session::forget(session::COOKIE))], to).into_response())
}
