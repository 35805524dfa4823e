//! Nodes: how they are, and the order to drain.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use shoal_link::node::XdpMode;

use super::purge::answers;
use super::query;
use crate::access::Role;
use crate::api::{self, NodeHealth, NodeList, NodeStatus};
use crate::app::App;
use crate::console::form::{Form, encode};
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Page, Tab, table, token};
use crate::console::session::Session;
use crate::console::views;
use crate::store::now_ms;

pub(super) fn add(pages: Pages) -> Pages {
    pages.page("/console/nodes", Role::Viewer, list).page("/console/nodes/{node}/drain", Role::Operator, confirm).form(
        "/console/nodes/{node}/drain",
        Role::Operator,
        "drainNode",
        drain,
    )
}

async fn list(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let nodes = views::nodes(&app).await?;
    let query = query(raw);
    let content = html! {
        div.panel {
            @if nodes.items.is_empty() {
                p.nothing { "No node ever connected. A node is told of this control plane by " code { "link.control" } " in its configuration." }
            } @else { (rows(&session, &nodes)) }
        }
    };
    let page = Page { tab: Tab::Nodes, title: "Nodes", session: &session, query: &query, live: true };
    Ok(page.show(&content))
}

fn rows(session: &Session, nodes: &NodeList) -> Markup {
    let now = now_ms();
    let rows = html! {
        @for node in &nodes.items {
            @let health = node.health.as_ref();
            tr {
                th scope="row" {
                    (node.node)
                    @if let Some(region) = &node.region { br; small.soft { (region) } }
                    @if let Some(url) = &node.public_url { br; small.soft { (url) } }
                }
                td { (state(node)) }
                td.number { (health.map_or("–".to_owned(), |health| format::count(health.health.connections))) }
                td.number { (health.map_or("–".to_owned(), busy)) }
                td.number { (health.map_or("–".to_owned(), |health| format::bytes(health.health.cache_bytes as f64))) }
                td.number { (health.map_or("–".to_owned(), hits)) }
                td.number { (health.map_or("–".to_owned(), |health| format::count(refused(health)))) }
                td.short { (health.map_or("–".to_owned(), xdp)) }
                td.short { (snapshot(node, nodes.snapshot)) br; small.soft { (node.software) } }
                td.short { (format::moment(node.last_seen_ms, now)) }
                @if session.may(Role::Operator) {
                    td {
                        @if node.connected && !health.is_some_and(|health| health.health.draining) {
                            a.button.plain.danger.small href=(format!("/console/nodes/{}/drain", encode(&node.node))) {
                                "Drain…" span.hidden { " " (node.node) }
                            }
                        }
                    }
                }
            }
        }
    };
    let mut head = vec![
        ("", "Node"),
        ("", "State"),
        ("number", "Connections"),
        ("number", "Busiest shard"),
        ("number", "RAM cache"),
        ("number", "Cache hits"),
        ("number", "Refused"),
        ("", "XDP"),
        ("", "Snapshot, release"),
        ("", "Last sign of life"),
    ];
    if session.may(Role::Operator) {
        head.push(("", "Orders"));
    }
    table("Nodes", &head, &rows)
}

fn state(node: &NodeStatus) -> Markup {
    let draining = node.health.as_ref().is_some_and(|health| health.health.draining);
    html! {
        @if !node.connected { span.mark.bad { "away" } }
        @else if draining { span.mark.warn { "draining" } }
        @else { span.mark.good { "connected" } }
        @if let Some(refused) = &node.refused {
            " " span.mark.bad { "refuses" } " snapshot " (refused.version) ": " (refused.reason)
        }
    }
}

fn busy(health: &NodeHealth) -> String {
    format::percent(f64::from(health.health.busy_permille) / 1000.0)
}

/// The part of requests that were answered from RAM or disk.
fn hits(health: &NodeHealth) -> String {
    let health = &health.health;
    let hits = health.ram_hits.saturating_add(health.disk_hits);
    let all = hits.saturating_add(health.misses);
    if all == 0 { "–".to_owned() } else { format::percent(hits as f64 / all as f64) }
}

fn refused(health: &NodeHealth) -> u64 {
    health.health.refusals.values().fold(0, |sum, count| sum.saturating_add(*count))
}

fn xdp(health: &NodeHealth) -> String {
    let xdp = health.health.xdp;
    let mode = match xdp.mode {
        XdpMode::Off => return "off".to_owned(),
        XdpMode::Unavailable => "unavailable",
        XdpMode::Generic => "generic",
        XdpMode::Native => "native",
        XdpMode::Offloaded => "offloaded",
        XdpMode::Mixed => "mixed",
    };
    format!("{mode}, {} dropped", format::count(xdp.dropped))
}

fn snapshot(node: &NodeStatus, newest: u64) -> Markup {
    html! {
        @match node.snapshot {
            Some(version) if version == newest => "newest",
            Some(version) => { span.mark.warn { "behind" } " " (version) },
            None => "none",
        }
    }
}

async fn confirm(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(name): Path<String>,
) -> Result<Response, Failed> {
    let node = views::node(&app, &name).await?;
    Ok(ask(
        &session,
        &name,
        StatusCode::OK,
        &html! {
            p { "It takes no more viewers, finishes what runs, and exits. Only its service manager starts it again." }
            @if let Some(health) = &node.health { p { "It has " (format::count(health.health.connections)) " connection(s) now." } }
        },
    ))
}

async fn drain(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(name): Path<String>,
) -> Result<Response, Failed> {
    let report = api::drain_node(&app, name.clone()).await?;
    if report.ok {
        return Ok(Redirect::to("/console/nodes?said=drain").into_response());
    }
    Ok(ask(&session, &name, StatusCode::BAD_GATEWAY, &answers(&report)))
}

fn ask(session: &Session, name: &str, status: StatusCode, what: &Markup) -> Response {
    let content = html! {
        div.panel {
            (what)
            form method="post" action=(format!("/console/nodes/{}/drain", encode(name))) {
                (token(session))
                div.actions { button.danger { "Drain " (name) } a.button.plain href="/console/nodes" { "Leave it as it is" } }
            }
        }
    };
    let title = format!("Drain node {name}?");
    let page = Page { tab: Tab::Nodes, title: &title, session, query: &Form::default(), live: false };
    page.show_as(status, &content)
}
