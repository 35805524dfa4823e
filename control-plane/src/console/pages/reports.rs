//! What players report: by region, and against what the edges and CDNs delivered; and what conf refused.

use std::cmp::Ordering;
use std::sync::Arc;

use axum::extract::{Extension, RawQuery, State};
use axum::response::Response;
use maud::{Markup, html};

use super::channels::href;
use super::query;
use crate::access::Role;
use crate::api;
use crate::app::App;
use crate::conf::refusals::MINUTES;
use crate::console::form::{Form, encode};
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Page, Tab, table};
use crate::console::session::Session;
use crate::console::views::{self, Place};
use crate::recon::Pair;
use crate::recon::compare::{Comparison, explain};
use crate::rest::problem::Problem;
use crate::store::{FiguresQuery, now_ms};

/// Rows of the pages.
const MAX_ROWS: usize = 200;
/// Sessions that explain a difference.
const MAX_SESSIONS: usize = 50;
/// Hours that are compared.
const HOURS: u64 = 24;
const HOUR_S: u64 = 3_600;

pub(super) fn add(pages: Pages) -> Pages {
    pages
        .page("/console/regions", Role::Viewer, regions)
        .page("/console/reconciliation", Role::Viewer, reconciliation)
        .page("/console/reconciliation/sessions", Role::Viewer, sessions)
        .page("/console/refusals", Role::Viewer, refusals)
}

async fn regions(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let (places, more) = views::places(&app).await?;
    let content = html! {
        p.soft { "What players reported in the last day, by region and provider, the most bytes first. A viewer counts once in each hour." }
        div.panel {
            @if places.is_empty() { p.nothing { "No data yet: no player reported." } } @else { (place_rows(&places)) }
            @if more { p.soft { "There are more; the API has them." } }
        }
    };
    let query = query(raw);
    Ok(Page { tab: Tab::Regions, title: "Regions", session: &session, query: &query, live: true }.show(&content))
}

fn place_rows(places: &[Place]) -> Markup {
    let named = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    let ratio =
        |part: u64, all: u64| if all == 0 { "–".to_owned() } else { format::percent(part as f64 / all as f64) };
    let rows = html! {
        @for Place { region, isp, sums } in places {
            @let tried = sums.connections.saturating_add(sums.connection_failures);
            tr {
                th scope="row" { (named(region)) }
                td.short { (named(isp)) }
                td.number { (format::count(sums.viewers)) }
                td.number { (sums.share_ratio().map_or("–".to_owned(), format::percent)) }
                td.number { (format::bytes(sums.p2p_in_bytes as f64)) }
                td.number { (format::bytes(sums.edge_bytes as f64)) }
                td.number { (format::bytes(sums.direct_bytes as f64)) }
                td.number { (format::count(sums.stalls)) }
                td.number { (ratio(sums.connection_failures, tried)) }
            }
        }
    };
    let head = [
        ("", "Region"),
        ("", "Provider"),
        ("number", "Viewer hours"),
        ("number", "Share ratio"),
        ("number", "From peers"),
        ("number", "From edges"),
        ("number", "From CDNs"),
        ("number", "Stalls"),
        ("number", "Failed connections"),
    ];
    table("Regions and providers", &head, &rows)
}

async fn reconciliation(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let now = now_ms() / 1_000;
    let to_hour = now.div_ceil(HOUR_S);
    let figures = FiguresQuery { from_hour: to_hour.saturating_sub(HOURS), to_hour, ..FiguresQuery::default() };
    let (mut found, mut more) = api::comparisons(&app, figures, now).await?;
    found.sort_by(worst_first);
    let alerts = found.iter().filter(|comparison| comparison.alert).count();
    more |= found.len() > MAX_ROWS;
    found.truncate(MAX_ROWS);
    let content = html! {
        @if alerts > 0 { div.note.bad { p { (alerts) " difference(s) of the last day are larger than is allowed." } } }
        p.soft { "What was delivered in the last day against what was counted, by channel and hour (UTC); alerts and the largest differences first." }
        div.panel {
            @if found.is_empty() { p.nothing { "No data yet: nothing was delivered or counted in the last day." } } @else { (compared(&found)) }
            @if more { p.soft { "There are more; the API has them." } }
        }
    };
    let query = query(raw);
    let page = Page { tab: Tab::Reconciliation, title: "Reconciliation", session: &session, query: &query, live: true };
    Ok(page.show(&content))
}

fn worst_first(one: &Comparison, other: &Comparison) -> Ordering {
    let size = |comparison: &Comparison| comparison.difference_percent.abs();
    other.alert.cmp(&one.alert).then_with(|| size(other).total_cmp(&size(one))).then_with(|| other.hour.cmp(&one.hour))
}

/// What a pair compares, for people.
fn pair_name(pair: Pair) -> &'static str {
    match pair {
        Pair::Upstream => "CDN's log and our upstream bytes",
        Pair::Direct => "CDN's log and players' direct bytes",
        Pair::Edge => "our client bytes and players' edge bytes",
    }
}

fn compared(found: &[Comparison]) -> Markup {
    let rows = html! {
        @for comparison in found {
            @let why = format!("/console/reconciliation/sessions?pair={}&channel={}&provider={}&hour={}", comparison.pair.name(),
                encode(&comparison.channel), encode(&comparison.provider), comparison.hour);
            tr {
                th scope="row" { a href=(href(&comparison.channel)) { (comparison.channel) } }
                td.short { (format::utc(comparison.hour.saturating_mul(1_000))) }
                td { (pair_name(comparison.pair)) @if !comparison.provider.is_empty() { " (" (comparison.provider) ")" } }
                td.number { (format::bytes(comparison.delivered_bytes as f64)) }
                td.number { (format::bytes(comparison.counted_bytes as f64)) }
                td.number { (format!("{:+.1}\u{202f}%", comparison.difference_percent)) }
                td { @if comparison.alert { span.mark.bad { "alert" } } @else { span.mark.good { "ok" } } }
                td.short { a href=(why) { "Sessions" span.hidden { " of " (comparison.channel) } } }
            }
        }
    };
    let head = [
        ("", "Channel"),
        ("", "Hour (UTC)"),
        ("", "Compared"),
        ("number", "Delivered"),
        ("number", "Counted"),
        ("number", "Difference"),
        ("", "Mark"),
        ("", "Why"),
    ];
    table("Comparisons", &head, &rows)
}

async fn sessions(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    raw: RawQuery,
) -> Result<Response, Failed> {
    let query = query(raw);
    let pair = Pair::ALL.into_iter().find(|pair| pair.name() == query.get("pair"));
    let pair = pair.ok_or_else(|| Problem::field("pair", query.get("pair"), "must be upstream, direct or edge"))?;
    let wrong = |_| Problem::field("hour", query.get("hour"), "must be a time in Unix seconds");
    let hour = query.get("hour").parse::<u64>().map_err(wrong)? / HOUR_S;
    let (provider, channel) = (query.get("provider").to_owned(), query.get("channel").to_owned());
    let (of, at) = (provider.clone(), channel.clone());
    let sides = app.db(move |store| store.recon_sessions(pair, &of, &at, hour)).await?;
    let found = explain(sides, MAX_SESSIONS);
    let rows = html! {
        @for difference in &found {
            tr {
                th scope="row" { @if difference.session.is_empty() { "those that named none" } @else { code { (difference.session) } } }
                td.number { (format::bytes(difference.delivered_bytes as f64)) }
                td.number { (format::bytes(difference.counted_bytes as f64)) }
                td.number { (format::bytes(difference.difference_bytes as f64)) }
                td.number { (format!("{:.1}\u{202f}%", difference.share_percent)) }
            }
        }
    };
    let head = [
        ("", "Session"),
        ("number", "Delivered"),
        ("number", "Counted"),
        ("number", "Difference"),
        ("number", "Of all of it"),
    ];
    let content = html! {
        p.soft { "Channel " (channel) ", hour from " (format::utc(hour.saturating_mul(HOUR_S * 1_000))) " UTC: " (pair_name(pair))
            @if !provider.is_empty() { " (" (provider) ")" } "." }
        div.panel {
            @if found.is_empty() { p.nothing { "No session explains a difference." } } @else { (table("Sessions", &head, &rows)) }
        }
        p.pages { a href="/console/reconciliation" { "All comparisons" } }
    };
    let title = "Sessions behind a difference";
    let page = Page { tab: Tab::Reconciliation, title, session: &session, query: &Form::default(), live: false };
    Ok(page.show(&content))
}

async fn refusals(State(app): State<Arc<App>>, session: Extension<Session>, raw: RawQuery) -> Response {
    let mut sums = app.conf.refusals.sums(None, MINUTES, now_ms() / 1_000);
    let left_out = sums.len().saturating_sub(MAX_ROWS);
    sums.truncate(MAX_ROWS);
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
        p.soft { "What conf of this instance refused in the last " (MINUTES) " minutes, the most first. What nodes refuse is with the nodes." }
        div.panel {
            @if sums.is_empty() { p.nothing { "Nothing was refused." } } @else { (table("Refusals", &head, &rows)) }
            @if left_out > 0 { p.soft { (left_out) " more are left out; the API has them." } }
        }
    };
    Page { tab: Tab::Refusals, title: "Refusals", session: &session, query: &query(raw), live: true }.show(&content)
}
