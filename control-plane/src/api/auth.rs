//! Who may use the admin API (RFC 6750), and the note of what he changed.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::access::audit::{self, Slot};
use crate::access::login::{self, Denied};
use crate::access::{Actor, Role};
use crate::app::App;
use crate::rest::client;
use crate::rest::openapi::{Rule, Rules};
use crate::rest::problem::Problem;

const ASK: HeaderValue = HeaderValue::from_static("Bearer realm=\"shoal\"");
const WRONG: HeaderValue = HeaderValue::from_static("Bearer realm=\"shoal\", error=\"invalid_token\"");
const WEAK: HeaderValue = HeaderValue::from_static("Bearer realm=\"shoal\", error=\"insufficient_scope\"");

/// What stands before every protected route.
pub(super) struct Door {
    pub(super) app: Arc<App>,
    pub(super) rules: Rules,
}

/// Lets requests with a token through whose role is strong enough for the route, and notes what they change.
pub(super) async fn require(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let app = &*door.app;
    let shown = format!("{} {}", request.method(), request.uri().path());
    let address = client::address(request.extensions(), request.headers(), &app.config.public.trusted_proxies);
    let Some(token) = bearer(request.headers()) else {
        return refuse(
            StatusCode::UNAUTHORIZED,
            ASK,
            "send `Authorization: Bearer …` with the token in token_file, or an API token",
        );
    };
    let actor = match login::token(app, address, token, &shown).await {
        Ok(actor) => actor,
        Err(denied) => return deny(denied),
    };
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    // A route without a rule is none: its path has no such method. An admin is told so.
    let unknown = Rule { action: "", role: Role::Admin, changes: false };
    let rule = door.rules.find(route, request.method()).unwrap_or(unknown);
    let slot = rule.changes.then(|| Slot::new(&actor, address, rule.action, &shown));
    if actor.role < rule.role {
        if let Some(slot) = slot {
            audit::refused(app, &slot, StatusCode::FORBIDDEN).await;
        }
        return refuse(StatusCode::FORBIDDEN, WEAK, &too_weak(&actor, rule.role));
    }
    request.extensions_mut().insert(actor);
    match slot {
        Some(slot) => audit::run(app, slot, next.run(request), Response::status).await,
        None => next.run(request).await,
    }
}

/// What somebody is told who may not.
pub(crate) fn too_weak(actor: &Actor, least: Role) -> String {
    format!("this is for the role {least}; {} has the role {}: ask an admin", actor.name, actor.role)
}

fn deny(denied: Denied) -> Response {
    match denied {
        Denied::Wrong => {
            let detail = "this token is neither the one in token_file (which is read at the start only) nor an API token \
                          that is still good";
            refuse(StatusCode::UNAUTHORIZED, WRONG, detail)
        }
        Denied::Wait(wait) => {
            let seconds = wait.as_secs() + 1;
            let detail = format!("too many wrong tokens came from this address; try again in {seconds} s");
            let mut response = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).into_response();
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            response
        }
        Denied::Store(error) => Problem::from(error).into_response(),
        Denied::Hash(error) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn refuse(status: StatusCode, challenge: HeaderValue, detail: &str) -> Response {
    let mut response = Problem::new(status, detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
