//! What stands before every page: a session, a role that is strong enough, and for forms their token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::handler::Handler;
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use super::form::{Form, MAX_FORM, encode};
use super::page::{self, Failed};
use super::session::{self, Session};
use crate::access::Role;
use crate::access::audit::{self, Slot};
use crate::app::App;
use crate::rest::client;
use crate::rest::problem::Problem;

/// Longest time for a form to arrive.
const FORM_WAIT: Duration = Duration::from_secs(10);

/// Pages and forms, each with the least role that may use it.
pub(super) struct Pages {
    pub(super) router: Router<Arc<App>>,
    pub(super) rules: Rules,
}

/// By path: the role for the page, and the role and name for the form.
pub(super) type Rules = HashMap<&'static str, Rule>;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rule {
    page: Option<Role>,
    form: Option<(Role, &'static str)>,
}

impl Pages {
    pub(super) fn new() -> Self {
        Self { router: Router::new(), rules: HashMap::new() }
    }

    /// A page.
    pub(super) fn page<H, T>(mut self, path: &'static str, role: Role, handler: H) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        self.router = self.router.route(path, get(handler));
        self.rules.entry(path).or_default().page = Some(role);
        self
    }

    /// A form, and what its use is called in the audit log.
    pub(super) fn form<H, T>(mut self, path: &'static str, role: Role, action: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        self.router = self.router.route(path, post(handler));
        self.rules.entry(path).or_default().form = Some((role, action));
        self
    }
}

/// What stands before every page.
pub(super) struct Gate {
    pub(super) app: Arc<App>,
    pub(super) rules: Rules,
}

pub(super) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let result = enter(&gate, request, next).await;
    result.unwrap_or_else(Failed::into_response)
}

async fn enter(gate: &Gate, mut request: Request, next: Next) -> Result<Response, Failed> {
    let app = &*gate.app;
    let address = client::address(request.extensions(), request.headers(), &app.config.public.trusted_proxies);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let Some(session) = session::find(app, request.headers(), address).await? else {
        let back = request.uri().path_and_query().map_or("/console", |target| target.as_str());
        // A form without a session is not remembered: what it was to do must be seen again first.
        let target = if reads {
            format!("/console/login?next={}", encode(back))
        } else {
            "/console/login?said=ended".to_owned()
        };
        return Ok(Redirect::to(&target).into_response());
    };
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let rule = gate.rules.get(route).copied().unwrap_or_default();
    let least = match (reads, rule) {
        (true, Rule { page: Some(role), .. }) | (false, Rule { form: Some((role, _)), .. }) => role,
        // The router answers that its path has no such method.
        _ => return Ok(next.run(request).await),
    };
    let shown = format!("{} {}", request.method(), request.uri().path());
    let slot = match rule.form {
        Some((_, action)) if !reads => Some(Slot::new(&session.actor, address, action, &shown)),
        _ => None,
    };
    if !session.may(least) {
        if let Some(slot) = slot {
            audit::refused(app, &slot, StatusCode::FORBIDDEN).await;
        }
        return Err(Problem::new(StatusCode::FORBIDDEN, crate::api::too_weak(&session.actor, least)).into());
    }
    if let Some(slot) = slot {
        let form = match read_form(&mut request).await {
            Ok(form) if !session::has_token(form.get(page::FORM_TOKEN), &session.form_token) => Err(foreign()),
            other => other,
        };
        let form = match form {
            Ok(form) => form,
            Err(problem) => {
                let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::FORBIDDEN);
                audit::refused(app, &slot, status).await;
                return Err(problem.into());
            }
        };
        request.extensions_mut().insert(form);
        request.extensions_mut().insert(session);
        return Ok(audit::run(app, slot, next.run(request), Response::status).await);
    }
    request.extensions_mut().insert::<Session>(session);
    Ok(next.run(request).await)
}

/// The form of a request that a page of ours sent.
pub(super) async fn read_form(request: &mut Request) -> Result<Form, Problem> {
    if !session::is_ours(request.headers(), request.uri()) {
        return Err(foreign());
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this takes the console's own forms only"));
    }
    let body = std::mem::replace(request.body_mut(), Body::empty());
    let late = || Problem::new(StatusCode::REQUEST_TIMEOUT, "the form did not arrive in time; send it again");
    let large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a form has at most {MAX_FORM} bytes; write less"));
    let bytes = tokio::time::timeout(FORM_WAIT, to_bytes(body, MAX_FORM)).await.map_err(|_| late())?;
    Form::parse(&bytes.map_err(|_| large())?).ok_or_else(large)
}

/// A form of somebody else's page, or of an earlier session.
pub(super) fn foreign() -> Problem {
    let detail = "this form was not sent by a page of this session; nothing was changed: go back, reload the page, and try again \
                  (behind a proxy, see that it passes the Host header on)";
    Problem::new(StatusCode::FORBIDDEN, detail)
}
