//! The admin API: REST under `/api/v1`, its OpenAPI document, and what monitoring asks for.

mod app_keys;
mod apps;
mod audit;
mod auth;
mod blocks;
mod cache;
mod channels;
mod check;
mod commands;
mod documents;
mod keys;
mod ledger;
mod mint;
mod nodes;
mod passes;
mod peers;
mod prefetch;
mod reconciliation;
mod refusals;
mod relay;
mod reports;
mod rules;
mod secrets;
mod snapshot;
mod status;
mod swarms;
mod switches;
mod tenants;
#[cfg(test)]
mod tests;
pub(crate) mod tokens;
pub(crate) mod users;

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

pub use crate::rest::openapi::BASE;
pub use crate::rest::problem::Problem;
pub use apps::AppPage;
pub use audit::{AuditItem, AuditPage};
pub(crate) use auth::too_weak;
pub use blocks::{BlockList, BlockRequest};
pub use cache::{CacheReport, NodeAnswer};
pub use channels::ChannelPage;
pub(crate) use channels::change_channel;
pub use check::{CheckReport, CheckRequest, CheckStep, ExplainReport, ExplainRequest, ProfileVerdict};
pub use commands::{CommandReport, NodeResult, PurgeRequest};
pub(crate) use commands::{drain_node, purge_now as purge};
pub use keys::KeyList;
pub use ledger::{LedgerReport, LedgerSum};
pub(crate) use mint::mint_urls;
pub use mint::{MintRequest, MintedUrl, MintedUrls};
pub(crate) use nodes::node_list;
pub use nodes::{NodeHealth, NodeList, NodeRefusal, NodeStatus};
pub use passes::{PassKeyList, PassKeyName};
pub use peers::{PeerPage, PeerRegistration, PeerView};
pub use prefetch::PrefetchRequest;
pub(crate) use reconciliation::comparisons;
pub use reconciliation::{BytesOf, ImportList, LogForm, ProviderList, ReconciliationReport, SessionReport};
pub use refusals::RefusalList;
pub use relay::{CredentialRequest, SecretList, TurnCredential};
pub use reports::{ReportSum, ReportSums};
pub use rules::RulePage;
pub use secrets::{HIDDEN, KeyName, NewKey};
pub use snapshot::SnapshotView;
pub(crate) use swarms::swarm_page;
pub use swarms::{Counted, SwarmPage, SwarmPeer, SwarmPeerPage, SwarmView};
pub use switches::{SwitchList, SwitchRequest};
pub use tenants::TenantPage;
pub use tokens::{NewToken, NewTokenView, TokenPage, TokenView};
pub use users::{NewUser, UserChange, UserPage, UserView};

use crate::app::App;
use crate::console;
use crate::rest;
use crate::rest::input::MAX_BODY;
use crate::rest::openapi::{Operation, Routes};

/// The whole HTTP service.
pub fn router(app: Arc<App>) -> Router {
    let routes = routes();
    let door = Arc::new(auth::Door { app: Arc::clone(&app), rules: routes.rules });
    let protected = routes.protected.route_layer(middleware::from_fn_with_state(door, auth::require));
    Router::new()
        .merge(protected)
        .merge(routes.open)
        .merge(console::router(&app))
        .method_not_allowed_fallback(rest::no_method)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&app), measure))
        .fallback(no_route)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}

/// The OpenAPI 3.1 document.
pub fn document() -> Value {
    routes().document(
        "shoal control plane",
        "Channels, keys, signed URLs, tenants, peers, nodes, commands, the usage ledger; users, tokens and the audit log.",
    )
}

fn routes() -> Routes {
    let routes = Routes::new().add(
        Operation::new(Method::GET, "/healthz", "health", "Whether the process runs.").open().gives_as::<String>(
            200,
            "text/plain",
            "It runs.",
        ),
        status::healthz,
    );
    let routes = routes
        .add(
            Operation::new(Method::GET, "/readyz", "readiness", "Whether database and link work.")
                .open()
                .gives_as::<String>(200, "text/plain", "They do.")
                .gives_as::<String>(503, "text/plain", "They do not; the text says which."),
            status::readyz,
        )
        .add(
            Operation::new(Method::GET, "/metrics", "metrics", "Metrics in Prometheus' text format.")
                .open()
                .gives_as::<String>(200, "text/plain", "The metrics."),
            status::metrics,
        )
        .add(
            Operation::new(Method::GET, "/api/v1/openapi.json", "describe", "This document.")
                .open()
                .gives::<Value>(200, "An OpenAPI 3.1 document."),
            describe,
        );
    let routes = channels::add(routes);
    let routes = keys::add(routes);
    let routes = mint::add(routes);
    let routes = peers::add(routes);
    let routes = swarms::add(routes);
    let routes = tenants::add(routes);
    let routes = relay::add(routes);
    let routes = blocks::add(routes);
    let routes = nodes::add(routes);
    let routes = commands::add(routes);
    let routes = prefetch::add(routes);
    let routes = cache::add(routes);
    let routes = ledger::add(routes);
    let routes = reports::add(routes);
    let routes = reconciliation::add(routes);
    let routes = apps::add(routes);
    let routes = app_keys::add(routes);
    let routes = rules::add(routes);
    let routes = switches::add(routes);
    let routes = passes::add(routes);
    let routes = refusals::add(routes);
    let routes = check::add(routes);
    let routes = snapshot::add(routes);
    let routes = tokens::add(routes);
    let routes = users::add(routes);
    audit::add(routes)
}

async fn describe() -> Response {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

pub(crate) async fn measure(State(app): State<Arc<App>>, route: MatchedPath, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let start = Instant::now();
    let response = next.run(request).await;
    // A client may send any word as a method; labels are bounded.
    let method = if KNOWN_METHODS.contains(&method) { method.as_str() } else { "other" };
    app.metrics.request(method, route.as_str(), response.status().as_u16(), start.elapsed().as_secs_f64());
    response
}

const KNOWN_METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

async fn no_route(request: Request) -> Response {
    rest::no_route(&request, "/api/v1/openapi.json")
}
