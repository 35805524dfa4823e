//! What the admin API and the public one have in common: routes that describe themselves, typed input, errors.

pub(crate) mod client;
pub(crate) mod input;
pub(crate) mod openapi;
pub(crate) mod problem;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use problem::Problem;

/// Answers a method that its path does not have.
pub(crate) async fn no_method() -> Response {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method; see the Allow header").into_response()
}

/// Answers a path that is not there; `document` is where the ones that are stand.
pub(crate) fn no_route(request: &Request, document: &str) -> Response {
    let detail = format!("there is nothing at {}; {document} lists every path", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, detail).into_response()
}
