//! What is live.

use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::response::Response;
use maud::{Markup, html};

use super::query;
use crate::access::Role;
use crate::app::App;
use crate::console::chart::{Chart, Series, Shape};
use crate::console::form::encode;
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Page, Tab, card, table};
use crate::console::session::Session;
use crate::console::views::{self, Alert, Overview, Reported, Served};
use crate::report::measures::Sums;

pub(super) fn add(pages: Pages) -> Pages {
    pages.page("/console", Role::Viewer, overview)
}

async fn overview(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let view = views::overview(&app).await?;
    let query = query(raw);
    let page = Page { tab: Tab::Overview, title: "Overview", session: &session, query: &query, live: true };
    Ok(page.show(&content(&view)))
}

fn content(view: &Overview) -> Markup {
    let now = view.hours.last().map(|(_, served)| *served).unwrap_or_default();
    html! {
        (alerts(&view.alerts))
        dl.cards {
            (card("Channels on", Some(view.channels_on.to_string()), &off(view.channels_off)))
            (card("Nodes connected", Some(format!("{} of {}", view.nodes_connected, view.nodes)), ""))
            (card("Connections", Some(format::count(view.connections)), "of viewers at the edges"))
            (card("Viewers", Some(format::count(view.viewers)), "announced to the tracker"))
            (card("Peers", Some(format::count(view.peers as u64)), "registered for punching"))
            (card("Served this hour", Some(format::bytes(now.client as f64)), "to viewers by the edges"))
            (card("From cache, last day", view.day.cached().map(format::percent), "of what viewers got"))
            (sharing_cards(view.reported.as_ref()))
        }
        div.panel { (bandwidth("bandwidth", "Bandwidth of the edges, by hour (UTC)", &view.hours)) }
        div.panel { (sharing(view.reported.as_ref())) }
        div.panel {
            h2 { "Live now" }
            @if view.live.is_empty() { p.nothing { "No viewer announces to the tracker of this instance now." } }
            @else { (live(&view.live)) }
        }
        div.panel {
            h2 { "Channels with the most traffic of the last day" }
            @if view.top.is_empty() { p.nothing { "No usage came from any node yet." } }
            @else { (top(&view.top)) }
        }
    }
}

fn off(count: usize) -> String {
    if count == 0 { "none is off".to_owned() } else { format!("{count} off") }
}

pub(super) fn alerts(alerts: &[Alert]) -> Markup {
    html! {
        @if !alerts.is_empty() {
            section aria-label="Alerts" {
                ul.alerts {
                    @for Alert { bad, text, href } in alerts {
                        li class=(if *bad { "note bad" } else { "note warn" }) {
                            span class=(if *bad { "mark bad" } else { "mark warn" }) { (if *bad { "alert" } else { "note" }) }
                            " " a href=(href) { (text) }
                        }
                    }
                }
            }
        }
    }
}

/// What players reported of the last day, in two figures.
pub(super) fn sharing_cards(reported: Option<&Reported>) -> Markup {
    let all = reported.map(|reported| &reported.all);
    html! {
        (card("Bandwidth saved", all.and_then(Sums::share_ratio).map(format::percent), "P2P ÷ (P2P + edge + direct), last day"))
        (card("From peers", all.map(|sums| format::bytes(sums.p2p_in_bytes as f64)), "as players reported, last day"))
    }
}

/// The share of bytes that came from peers, over hours.
pub(super) fn sharing(reported: Option<&Reported>) -> Markup {
    let hours = reported.map_or(&[][..], |reported| &reported.hours);
    let labels = hours.iter().map(|(hour, _)| format::hour(*hour)).collect();
    let values = hours.iter().map(|(_, sums)| sums.share_ratio()).collect();
    let series = vec![Series { name: "Share of peers", values }];
    let title = "Share of bytes from peers, by hour (UTC)";
    Chart { id: "sharing", title, shape: Shape::Line, unit: format::percent, axis: "Hour", labels, series }.render()
}

/// To viewers and from origins over hours.
pub(super) fn bandwidth(id: &str, title: &str, hours: &[(u64, Served)]) -> Markup {
    let any = hours.iter().any(|(_, served)| *served != Served::default());
    let values = |pick: fn(&Served) -> u64| {
        hours.iter().map(|(_, served)| any.then(|| views::rate_of_hour(pick(served)))).collect()
    };
    let mut series = vec![
        Series { name: "To viewers", values: values(|served| served.client) },
        Series { name: "From origins", values: values(|served| served.upstream) },
    ];
    if hours.iter().any(|(_, served)| served.relay > 0) {
        series.push(Series { name: "Relayed", values: values(|served| served.relay) });
    }
    let labels = hours.iter().map(|(hour, _)| format::hour(*hour)).collect();
    Chart { id, title, shape: Shape::Area, unit: format::rate, axis: "Hour", labels, series }.render()
}

fn live(channels: &[(String, u64)]) -> Markup {
    let rows = html! {
        @for (channel, viewers) in channels {
            tr {
                th scope="row" { a href=(format!("/console/channels/{}", encode(channel))) { (channel) } }
                td.number { (format::count(*viewers)) }
            }
        }
    };
    table("Channels with the most viewers", &[("", "Channel"), ("number", "Viewers")], &rows)
}

fn top(channels: &[(String, Served)]) -> Markup {
    let rows = html! {
        @for (channel, served) in channels {
            tr {
                th scope="row" { a href=(format!("/console/channels/{}", encode(channel))) { (channel) } }
                td.number { (format::bytes(served.client as f64)) }
                td.number { (format::bytes(served.upstream as f64)) }
                td.number { (served.cached().map_or("–".to_owned(), format::percent)) }
            }
        }
    };
    let head = [("", "Channel"), ("number", "To viewers"), ("number", "From origins"), ("number", "From cache")];
    table("Channels with the most traffic", &head, &rows)
}
