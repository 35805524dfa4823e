//! Channels: the list, one of them, and its switch.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use shoal_link::Channel;

use super::overview::{bandwidth, sharing, sharing_cards};
use super::query;
use crate::access::Role;
use crate::api;
use crate::app::App;
use crate::console::form::{Form, encode};
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Page, ROWS, Tab, more, table, token};
use crate::console::session::Session;
use crate::console::views::{self, Swarm};
use crate::store::{Stored, now_ms};

pub(super) fn add(pages: Pages) -> Pages {
    pages
        .page("/console/channels", Role::Viewer, list)
        .page("/console/channels/{id}", Role::Viewer, one)
        .page("/console/channels/{id}/off", Role::Operator, confirm_off)
        .form("/console/channels/{id}/off", Role::Operator, "switchChannelOff", switch_off)
        .form("/console/channels/{id}/on", Role::Operator, "switchChannelOn", switch_on)
}

/// Where a channel's page is.
pub(super) fn href(id: &str) -> String {
    format!("/console/channels/{}", encode(id))
}

async fn list(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let query = query(raw);
    let (channels, next) = views::channels(&app, query.get("after").to_owned(), ROWS).await?;
    let rows = html! {
        @for channel in &channels {
            tr {
                th scope="row" { a href=(href(&channel.id)) { (channel.id) } }
                td { (state(channel)) }
                td.number { (format::count(views::viewers(&app, channel))) }
                td.short { (channel.tenant) }
                td { code { (channel.prefix) } }
                td.number { (channel.origins.len()) }
                td { (if channel.access.ticket.is_some() { "ticket" } else { "open" }) }
            }
        }
    };
    let head = [
        ("", "Channel"),
        ("", "State"),
        ("number", "Viewers"),
        ("", "Tenant"),
        ("", "Prefix"),
        ("number", "Origins"),
        ("", "Access"),
    ];
    let content = html! {
        div.panel {
            @if channels.is_empty() {
                p.nothing { "There is no channel here. Make one with " code { "shoalctl channels apply -f FILE" } " or the API." }
            } @else { (table("Channels", &head, &rows)) }
            (more("/console/channels", "after", next.as_deref()))
        }
    };
    let page = Page { tab: Tab::Channels, title: "Channels", session: &session, query: &query, live: false };
    Ok(page.show(&content))
}

fn state(channel: &Channel) -> Markup {
    html! { @if channel.enabled { span.mark.good { "on" } } @else { span.mark.warn { "off" } } }
}

async fn one(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let stored = views::channel(&app, &id).await?;
    let hours = views::served(&app, Some(&id)).await?;
    let reported = views::reported(&app, Some(&id)).await?;
    let swarm = views::swarm(&app, &stored.document);
    let query = query(raw);
    let title = format!("Channel {id}");
    let content = html! {
        (actions(&session, &stored.document))
        div.columns {
            div.panel { h2 { "Now" } (facts(&stored, &swarm, views::viewers(&app, &stored.document))) }
            div.panel { h2 { "Origins" } (origins(&session, &stored.document)) }
        }
        dl.cards { (sharing_cards(reported.as_ref())) }
        div.panel { (bandwidth("bandwidth", "Bandwidth by hour (UTC)", &hours)) }
        div.panel { (sharing(reported.as_ref())) }
    };
    let page = Page { tab: Tab::Channels, title: &title, session: &session, query: &query, live: false };
    Ok(page.show(&content))
}

fn actions(session: &Session, channel: &Channel) -> Markup {
    let path = href(&channel.id);
    html! {
        @if session.may(Role::Operator) {
            div.panel.actions {
                @if channel.enabled {
                    a.button.plain.danger href=(format!("{path}/off")) { "Switch off…" }
                } @else {
                    form method="post" action=(format!("{path}/on")) { (token(session)) button { "Switch on" } }
                }
                a.button.plain href=(format!("{path}/origins")) { "Edit origins" }
                a.button.plain href=(format!("{path}/purge")) { "Purge" }
                @if channel.access.ticket.is_some() { a.button.plain href=(format!("{path}/mint")) { "Mint a URL" } }
            }
        }
    }
}

fn facts(stored: &Stored<Channel>, swarm: &Swarm, viewers: u64) -> Markup {
    let Stored { document: channel, revision, updated_ms } = stored;
    let hosts = if channel.hosts.is_empty() { "any host".to_owned() } else { channel.hosts.join(", ") };
    html! {
        dl.facts {
            dt { "State" } dd { (state(channel)) }
            dt { "Tenant" } dd { (channel.tenant) }
            dt { "Answers to" } dd { (hosts) ", " code { (channel.prefix) } }
            dt { "Access" } dd {
                @match &channel.access.ticket {
                    Some(ticket) => { "by ticket, with " (ticket.keys.len()) " key(s)" },
                    None => { "open: plain URLs work" },
                }
            }
            dt { "Viewers" } dd { (format::count(viewers)) " announce to the tracker of this instance" }
            dt { "Peers" } dd { (swarm.peers) @if swarm.more { " or more" } " registered for punching" }
            dt { "Changed" } dd { (format::moment(*updated_ms, now_ms())) ", revision " (revision) }
        }
    }
}

fn origins(session: &Session, channel: &Channel) -> Markup {
    let rows = html! {
        @for origin in &channel.origins {
            tr {
                th scope="row" { (origin.id) }
                td.long { code { (origin.url) } }
                td.number { (origin.order) }
                td.number { (origin.weight) }
            }
        }
    };
    html! {
        (table("Origins", &[("", "Origin"), ("", "URL"), ("number", "Order"), ("number", "Weight")], &rows))
        @if session.may(Role::Operator) { p.pages { a href=(format!("{}/origins", href(&channel.id))) { "Edit" } } }
    }
}

async fn confirm_off(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Result<Response, Failed> {
    views::channel(&app, &id).await?;
    let content = html! {
        div.panel {
            p { "Every request for " strong { (id) } " will be answered 403 until it is switched on again. Viewers who watch it now lose it." }
            form method="post" action=(format!("{}/off", href(&id))) {
                (token(&session))
                div.actions { button.danger { "Switch " (id) " off" } a.button.plain href=(href(&id)) { "Leave it on" } }
            }
        }
    };
    let title = format!("Switch channel {id} off?");
    let page = Page { tab: Tab::Channels, title: &title, session: &session, query: &Form::default(), live: false };
    Ok(page.show(&content))
}

async fn switch_off(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Failed> {
    switch(&app, &id, false).await
}

async fn switch_on(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, Failed> {
    switch(&app, &id, true).await
}

async fn switch(app: &App, id: &str, on: bool) -> Result<Response, Failed> {
    api::change_channel(app, id, None, |old| Ok(Channel { enabled: on, ..old.clone() })).await?;
    let said = if on { "on" } else { "off" };
    Ok(Redirect::to(&format!("{}?said={said}", href(id))).into_response())
}
