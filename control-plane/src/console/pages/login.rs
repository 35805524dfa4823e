//! The log-in: by name and password, or by a token.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use maud::html;

use super::query;
use crate::access::audit::{self, Slot};
use crate::access::login::{self, Denied};
use crate::access::{Actor, secret};
use crate::app::App;
use crate::console::form::Form;
use crate::console::gate::{foreign, read_form};
use crate::console::page::{FORM_TOKEN, Failed, Field, bare};
use crate::console::session;
use crate::rest::client;

/// What it is called in the audit log.
const ACTION: &str = "logIn";
const SHOWN: &str = "POST /console/login";
/// Longest way back that is kept.
const MAX_NEXT: usize = 512;

/// The only page before a session.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new().route("/console/login", get(show).post(enter))
}

async fn show(State(app): State<Arc<App>>, headers: HeaderMap, raw: RawQuery) -> Result<Response, Failed> {
    let query = query(raw);
    if session::find(&app, &headers, None).await?.is_some() {
        return Ok(Redirect::to(next(&query)).into_response());
    }
    page(&app, &headers, StatusCode::OK, &query, None)
}

async fn enter(State(app): State<Arc<App>>, mut request: Request) -> Result<Response, Failed> {
    let headers = request.headers().clone();
    let address = client::address(request.extensions(), &headers, &app.config.public.trusted_proxies);
    let form = read_form(&mut request).await?;
    let visitor = session::cookie(&headers, session::LOGIN_COOKIE).unwrap_or_default();
    if !secret::is_id(visitor) || !session::has_token(form.get(FORM_TOKEN), &secret::form_token(visitor)) {
        return Err(foreign().into());
    }
    let result = match form.given("token") {
        Some(token) => login::token(&app, address, token.as_bytes(), SHOWN).await,
        None => login::user(&app, address, form.get("name"), form.raw("password"), SHOWN).await,
    };
    match result {
        Ok(actor) => admit(&app, &actor, address, &headers, next(&form)).await,
        Err(Denied::Wrong) => page(
            &app,
            &headers,
            StatusCode::UNAUTHORIZED,
            &form,
            Some(
                "That is not right: there is no such name with such a password, or no such token. Try again; an admin can set another password.",
            ),
        ),
        Err(Denied::Wait(wait)) => {
            let seconds = wait.as_secs() + 1;
            let text = format!("Too many attempts failed. Try again in {seconds} s.");
            let mut response = page(&app, &headers, StatusCode::TOO_MANY_REQUESTS, &form, Some(&text))?;
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            Ok(response)
        }
        Err(Denied::Store(error)) => Err(error.into()),
        Err(Denied::Hash(error)) => {
            page(&app, &headers, StatusCode::SERVICE_UNAVAILABLE, &form, Some(&error.to_string()))
        }
    }
}

/// Begins the session; another id than any that the browser brought.
async fn admit(
    app: &App,
    actor: &Actor,
    address: Option<std::net::IpAddr>,
    headers: &HeaderMap,
    next: &str,
) -> Result<Response, Failed> {
    let slot = Slot::new(actor, address, ACTION, SHOWN);
    let begun = session::begin(app, actor, session::is_https(headers));
    let status = |result: &Result<HeaderValue, _>| {
        if result.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    };
    let cookie = audit::run(app, slot, begun, status).await?;
    let mut response = Redirect::to(next).into_response();
    response.headers_mut().append(header::SET_COOKIE, cookie);
    response.headers_mut().append(header::SET_COOKIE, session::forget(session::LOGIN_COOKIE));
    Ok(response)
}

/// Where to go then: a page of the console, and nowhere else.
fn next(form: &Form) -> &str {
    let next = form.get("next");
    let inside = next == "/console" || next.starts_with("/console/") || next.starts_with("/console?");
    let plain = next.len() <= MAX_NEXT && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if inside && plain && !next.starts_with("/console/login") { next } else { "/console" }
}

fn page(
    app: &App,
    headers: &HeaderMap,
    status: StatusCode,
    form: &Form,
    wrong: Option<&str>,
) -> Result<Response, Failed> {
    let (visitor, cookie) = session::visitor(app, headers, session::is_https(headers))?;
    let hidden = html! {
        input type="hidden" name=(FORM_TOKEN) value=(secret::form_token(&visitor));
        input type="hidden" name="next" value=(next(form));
    };
    let name = Field {
        label: "Name",
        name: "name",
        value: form.get("name"),
        complete: "username",
        required: true,
        ..Field::default()
    };
    let password = Field {
        label: "Password",
        name: "password",
        kind: "password",
        complete: "current-password",
        required: true,
        ..Field::default()
    };
    let token = Field {
        label: "Token",
        name: "token",
        kind: "password",
        help: "The line in the control plane's token_file, or an API token",
        required: true,
        ..Field::default()
    };
    let content = html! {
        @if let Some(text) = wrong { div.note.bad role="alert" { p { (text) } } }
        div.panel {
            form method="post" action="/console/login" {
                (hidden)
                (name.show())
                (password.show())
                button { "Log in" }
            }
        }
        div.panel {
            h2 { "Or with a token" }
            form method="post" action="/console/login" {
                (hidden)
                (token.show())
                button.plain { "Log in with the token" }
            }
        }
    };
    let mut response = bare(status, "Log in", form, &content);
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_leads_nowhere_else() {
        let to = |text: &str| next(&Form::parse(format!("next={text}").as_bytes()).unwrap()).to_owned();
        assert_eq!(to("/console/channels?after=a"), "/console/channels?after=a");
        for evil in [
            "",
            "//evil.test",
            "https://evil.test",
            "/console/%0d%0aSet-Cookie:a",
            "/consoles",
            "/console/login",
            "/console\\@x",
        ] {
            assert_eq!(to(evil), "/console", "{evil}");
        }
    }
}
