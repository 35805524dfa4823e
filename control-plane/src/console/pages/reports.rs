//! What players report: regions, refusals, and how their figures agree with the edges'.

use axum::extract::{Extension, RawQuery};
use axum::response::Response;
use maud::html;

use super::query;
use crate::access::Role;
use crate::console::gate::Pages;
use crate::console::page::{Page, Tab};
use crate::console::session::Session;

pub(super) fn add(pages: Pages) -> Pages {
    pages
        .page("/console/regions", Role::Viewer, regions)
        .page("/console/reconciliation", Role::Viewer, reconciliation)
        .page("/console/refusals", Role::Viewer, refusals)
}

async fn regions(session: Extension<Session>, raw: RawQuery) -> Response {
    nothing(session, raw, Tab::Regions, "Regions", "No player reported from any region yet.")
}

async fn reconciliation(session: Extension<Session>, raw: RawQuery) -> Response {
    nothing(session, raw, Tab::Reconciliation, "Reconciliation", "No hour was reconciled yet.")
}

async fn refusals(session: Extension<Session>, raw: RawQuery) -> Response {
    nothing(session, raw, Tab::Refusals, "Refusals", "No refusal was counted yet.")
}

fn nothing(Extension(session): Extension<Session>, raw: RawQuery, tab: Tab, title: &str, text: &str) -> Response {
    let content = html! { div.panel { p.nothing { "No data yet: " (text) } } };
    Page { tab, title, session: &session, query: &query(raw), live: true }.show(&content)
}
