//! Swarms: how many peers each channel has, and behind what NATs.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use maud::{Markup, html};

use super::query;
use crate::access::Role;
use crate::api::{self, Counted, SwarmView};
use crate::app::App;
use crate::console::chart::{Chart, Series, Shape};
use crate::console::form::encode;
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Page, ROWS, Tab, more, table};
use crate::console::session::Session;
use crate::console::views::{self, Swarm};

pub(super) fn add(pages: Pages) -> Pages {
    pages.page("/console/swarms", Role::Viewer, list).page("/console/swarms/{id}", Role::Viewer, one)
}

/// The tracker's swarms, of all channels or of one.
fn tracked(swarms: &[SwarmView]) -> Markup {
    let mix = |counts: &[Counted]| {
        let there = counts.iter().filter(|count| count.peers > 0);
        let name = |count: &Counted| if count.name.is_empty() { "unknown".to_owned() } else { count.name.clone() };
        let text: Vec<String> =
            there.map(|count| format!("{} {}", name(count), format::count(count.peers.into()))).collect();
        if text.is_empty() { "–".to_owned() } else { text.join(", ") }
    };
    let rows = html! {
        @for swarm in swarms {
            tr {
                th scope="row" { a href=(format!("/console/swarms/{}", encode(&swarm.channel))) { (swarm.channel) } }
                td.number { (format::count(u64::from(swarm.complete) + u64::from(swarm.incomplete))) }
                td.number { (format::count(swarm.complete.into())) }
                td.short { (mix(&swarm.transports)) }
                td.short { (mix(&swarm.nats)) }
                td.long { (mix(&swarm.regions)) }
                td { code { (swarm.info_hash) } }
            }
        }
    };
    let head = [
        ("", "Channel"),
        ("number", "Peers"),
        ("number", "Complete"),
        ("", "Transports"),
        ("", "NATs"),
        ("", "Regions"),
        ("", "Info hash"),
    ];
    html! {
        @if swarms.is_empty() { p.nothing { "No peer announces to the tracker of this instance now." } }
        @else { (table("Swarms of the tracker", &head, &rows)) }
    }
}

async fn list(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let query = query(raw);
    let known = api::swarm_page(&app, Some(ROWS), query.given("swarm"), None, None).await?;
    let (channels, next) = views::channels(&app, query.get("after").to_owned(), ROWS).await?;
    let punching: Vec<Swarm> = channels.iter().map(|channel| views::swarm(&app, channel)).collect();
    let rows = html! {
        @for (channel, swarm) in channels.iter().zip(&punching) {
            tr {
                th scope="row" { a href=(format!("/console/swarms/{}", encode(&channel.id))) { (channel.id) } }
                td.number { (peers(swarm)) }
                td.long { (mix(swarm)) }
            }
        }
    };
    let content = html! {
        div.panel {
            h2 { "At the tracker" }
            (tracked(&known.items))
            (more("/console/swarms", "swarm", known.next.as_deref()))
        }
        div.panel {
            h2 { "Registered for punching, by channel" }
            @if channels.is_empty() { p.nothing { "There is no channel yet." } }
            @else { (table("Swarms", &[("", "Channel"), ("number", "Peers"), ("", "How their NATs map")], &rows)) }
            (more("/console/swarms", "after", next.as_deref()))
        }
    };
    let page = Page { tab: Tab::Swarms, title: "Swarms", session: &session, query: &query, live: true };
    Ok(page.show(&content))
}

fn peers(swarm: &Swarm) -> String {
    let count = format::count(swarm.peers as u64);
    if swarm.more { format!("over {count}") } else { count }
}

fn mix(swarm: &Swarm) -> Markup {
    let there: Vec<String> =
        swarm.mappings.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    html! { @if there.is_empty() { span.soft { "no peers now" } } @else { (there.join(", ")) } }
}

async fn one(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let channel = views::channel(&app, &id).await?.document;
    let swarm = views::swarm(&app, &channel);
    let tenant = Some(channel.tenant.as_str());
    let swarms = api::swarm_page(&app, Some(ROWS), None, tenant, Some(&id)).await?;
    let chart = |id, title, counts: &[(&'static str, usize)]| {
        let any = swarm.peers > 0;
        let values = counts.iter().map(|(_, count)| any.then_some(*count as f64)).collect();
        let labels = counts.iter().map(|(name, _)| (*name).to_owned()).collect();
        let series = vec![Series { name: "Peers", values }];
        Chart { id, title, shape: Shape::Bar, unit: format::plain, axis: "NAT", labels, series }.render()
    };
    let content = html! {
        div.panel { h2 { "At the tracker" } (tracked(&swarms.items)) }
        p { (peers(&swarm)) " peer(s) are registered for punching." }
        div.columns {
            div.panel { (chart("mapping", "How NATs map", &swarm.mappings)) }
            div.panel { (chart("filtering", "How NATs filter", &swarm.filterings)) }
        }
        p.pages { a href=(format!("/console/channels/{}", encode(&id))) { "The channel" } }
    };
    let (title, query) = (format!("Swarm of channel {id}"), query(raw));
    let page = Page { tab: Tab::Swarms, title: &title, session: &session, query: &query, live: true };
    Ok(page.show(&content))
}
