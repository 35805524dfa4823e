//! What players report: regions, refusals, and how their figures agree with the edges'.

use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::response::Response;
use maud::html;

use super::query;
use crate::access::Role;
use crate::app::App;
use crate::conf::refusals::MINUTES;
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Page, Tab, table};
use crate::console::session::Session;
use crate::store::now_ms;

/// Rows of the page.
const MAX_REFUSALS: usize = 200;

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

async fn refusals(State(app): State<Arc<App>>, session: Extension<Session>, raw: RawQuery) -> Response {
    let mut sums = app.conf.refusals.sums(None, MINUTES, now_ms() / 1_000);
    let left_out = sums.len().saturating_sub(MAX_REFUSALS);
    sums.truncate(MAX_REFUSALS);
    let named = |text: &str| if text.is_empty() { "–".to_owned() } else { text.to_owned() };
    let rows = html! {
        @for sum in &sums {
            tr {
                th scope="row" { code { (sum.reason) } }
                td.number { (format::count(sum.requests)) }
                td.short { (named(&sum.channel)) }
                td.short { (named(&sum.app)) }
                td.short { (named(&sum.tenant)) }
            }
        }
    };
    let head = [("", "Reason"), ("number", "Requests"), ("", "Channel"), ("", "App"), ("", "Tenant")];
    let content = html! {
        p.soft { "What conf of this instance refused in the last " (MINUTES) " minutes, the most first. What nodes refuse is in their metrics." }
        div.panel {
            @if sums.is_empty() { p.nothing { "Nothing was refused." } } @else { (table("Refusals", &head, &rows)) }
            @if left_out > 0 { p.soft { (left_out) " more are left out; the API has them." } }
        }
    };
    Page { tab: Tab::Refusals, title: "Refusals", session: &session, query: &query(raw), live: true }.show(&content)
}

fn nothing(Extension(session): Extension<Session>, raw: RawQuery, tab: Tab, title: &str, text: &str) -> Response {
    let content = html! { div.panel { p.nothing { "No data yet: " (text) } } };
    Page { tab, title, session: &session, query: &query(raw), live: true }.show(&content)
}
