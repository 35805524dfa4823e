//! What monitoring asks for.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::rest::problem::Problem;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    if let Err(error) = app.db(|store| store.ping()).await {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response();
    }
    if !app.linked() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the link does not listen\n").into_response();
    }
    "ready\n".into_response()
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    app.metrics.peers(app.peers.registrations(Instant::now()));
    app.reports.measure();
    match app.metrics.export() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
