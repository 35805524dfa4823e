//! The console: web pages for people, on the admin listener under `/console`, made on the server.
//!
//! What a page needs is gathered by one function of [`views`] with bounded queries, and written by one function of [`pages`];
//! figures become SVG in [`chart`]. All that changes something is a form that POSTs with the session's token, and does what the
//! admin API does, by the same functions, under the same roles and into the same audit log.

mod assets;
mod chart;
mod form;
mod format;
mod gate;
mod page;
mod pages;
mod session;
#[cfg(test)]
mod tests;
mod views;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{Redirect, Response};
use axum::routing::get;

use crate::app::App;

/// Everything a page may do: nothing inline, nothing from elsewhere, in no frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     frame-ancestors 'none'; base-uri 'none'",
);

/// Every page, and `/`, which leads to them.
pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    let pages = pages::all();
    let gate = Arc::new(gate::Gate { app: Arc::clone(app), rules: pages.rules });
    let behind = pages.router.route_layer(middleware::from_fn_with_state(gate, gate::pass));
    Router::new()
        .merge(behind)
        .merge(pages::login::routes())
        .route("/console/assets/{name}", get(assets::serve))
        .layer(middleware::from_fn(harden))
        .route("/", get(async || Redirect::to("/console")))
}

/// What every answer says to the browser.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    // Not `no-referrer`: browsers would send forms with `Origin: null`.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
