//! Who may use the admin API (RFC 6750).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::rest::problem::Problem;

const ASK: HeaderValue = HeaderValue::from_static("Bearer realm=\"shoal\"");
const WRONG: HeaderValue = HeaderValue::from_static("Bearer realm=\"shoal\", error=\"invalid_token\"");

/// Lets requests with the operator's token through.
pub(super) async fn require_token(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match bearer(request.headers()) {
        Some(token) if app.token.is(token) => next.run(request).await,
        Some(_) => refuse(WRONG, "this token is not the one in token_file; a token is read at the start only"),
        None => refuse(ASK, "send `Authorization: Bearer …` with the token in token_file"),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn refuse(challenge: HeaderValue, detail: &str) -> Response {
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}
