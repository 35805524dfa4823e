//! What players, SDKs and CDNs ask: conf, tracker, reports; under `/v1` on a listener of its own.
//!
//! Scripts of any page may ask (CORS): what keeps others out is the pass, the app's key and its rules, never a cookie.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, Method, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tower_http::cors::{Any, CorsLayer};

use crate::api::measure;
use crate::app::App;
use crate::conf::public as conf;
use crate::report;
use crate::rest;
use crate::rest::input::MAX_BODY;
use crate::rest::openapi::{Operation, Routes};
use crate::tls::Tls;
use crate::tracker;

/// Port of the public API unless configured.
pub const DEFAULT_PORT: u16 = 9092;

/// Where the document is.
const DOCUMENT: &str = "/v1/openapi.json";
/// How long a browser may keep the answer to a preflight.
const PREFLIGHT_AGE_S: u64 = 86_400;

/// The API for players, SDKs and CDNs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Public {
    /// Address and port of conf, tracker and reports.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Base URL at which viewers reach it, as in `https://api.example.com`; what conf tells them. Empty: `http://` and the
    /// Host header of each request.
    pub url: String,
    /// Networks of proxies and load balancers whose X-Forwarded-For is believed.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// Most connections at a time; more wait in the kernel's queue.
    pub connections: u32,
    /// Its certificate.
    pub tls: Tls,
}

impl Default for Public {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
            url: String::new(),
            trusted_proxies: Vec::new(),
            connections: 65_536,
            tls: Tls::default(),
        }
    }
}

impl Public {
    /// Of URLs that lead here directly.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_on() { "https" } else { "http" }
    }
}

/// The whole service.
pub(crate) fn router(app: Arc<App>) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::OPTIONS])
        .allow_headers(Any)
        .expose_headers([header::ETAG, header::RETRY_AFTER, header::DATE])
        .max_age(std::time::Duration::from_secs(PREFLIGHT_AGE_S));
    let routes = routes();
    Router::new()
        .merge(routes.open)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), measure))
        .merge(routes.bare)
        .method_not_allowed_fallback(rest::no_method)
        .fallback(no_route)
        .layer(cors)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}

/// The OpenAPI 3.1 document.
pub fn document() -> Value {
    routes().document("shoal public API", "Conf, tracker and reports, for players, SDKs and CDNs.")
}

fn routes() -> Routes {
    let routes = Routes::new().add(
        Operation::new(Method::GET, DOCUMENT, "describe", "This document.")
            .open()
            .gives::<Value>(200, "An OpenAPI 3.1 document."),
        describe,
    );
    let routes = report::ingest::add(routes);
    let routes = tracker::add(routes);
    conf::add(routes)
}

async fn describe() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")),
    ];
    (headers, TEXT.as_str()).into_response()
}

async fn no_route(request: Request) -> Response {
    rest::no_route(&request, DOCUMENT)
}
