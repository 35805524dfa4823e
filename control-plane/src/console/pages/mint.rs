//! Signed URLs for viewers.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use maud::{Markup, html};

use super::channels::href;
use crate::access::{Role, audit};
use crate::api::{self, MintRequest, MintedUrls};
use crate::app::App;
use crate::console::form::Form;
use crate::console::format;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Field, Page, Tab, Wrong, token};
use crate::console::session::Session;
use crate::console::views;
use crate::rest::problem::Problem;

pub(super) fn add(pages: Pages) -> Pages {
    pages.page("/console/channels/{id}/mint", Role::Operator, show).form(
        "/console/channels/{id}/mint",
        Role::Operator,
        "mintUrl",
        mint,
    )
}

async fn show(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Result<Response, Failed> {
    views::channel(&app, &id).await?;
    Ok(page(&session, &id, &Form::default(), &Wrong::default(), None))
}

async fn mint(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Extension(form): Extension<Form>,
) -> Result<Response, Failed> {
    let result = match request(&form) {
        Ok(request) => {
            audit::sent(&serde_json::to_value(&request).unwrap_or_default());
            api::mint_urls(&app, &id, request).await
        }
        Err(problem) => Err(problem),
    };
    match result {
        Ok(minted) => Ok(page(&session, &id, &form, &Wrong::default(), Some(&minted))),
        Err(problem) if problem.status == 404 || problem.status == 503 => Err(problem.into()),
        Err(problem) => Ok(page(&session, &id, &form, &Wrong::new(problem), None)),
    }
}

fn request(form: &Form) -> Result<MintRequest, Problem> {
    let ttl_s = form.given("ttl_s").map(str::parse).transpose();
    let ttl_s = ttl_s.map_err(|_| Problem::field("ttl_s", form.get("ttl_s"), "must be a whole number of seconds"))?;
    let network = form.given("network").map(str::parse).transpose();
    let network =
        network.map_err(|_| Problem::field("network", form.get("network"), "must be a network, as in 192.0.2.0/24"))?;
    Ok(MintRequest {
        path: form.get("path").to_owned(),
        ttl_s,
        session: form.given("session").map(str::to_owned),
        network,
        opens: None,
        client: None,
        profile: None,
        base: None,
    })
}

fn page(session: &Session, id: &str, form: &Form, wrong: &Wrong, minted: Option<&MintedUrls>) -> Response {
    let field = |label: &str, name: &str, help: &str, required: bool| {
        Field { label, name, value: form.get(name), help, required, error: wrong.of(name), ..Field::default() }.show()
    };
    let content = html! {
        (wrong.show())
        @if let Some(minted) = minted { (urls(minted)) }
        div.panel {
            form method="post" action=(format!("{}/mint", href(id))) {
                (token(session))
                (field("Path", "path", "Below the channel's prefix, as in index.m3u8", true))
                (field("Seconds", "ttl_s", "How long it opens; by default as the channel says", false))
                (field("Session", "session", "What usage is counted under; by default a random one", false))
                (field("Network", "network", "Only clients of this network, as in 192.0.2.0/24", false))
                div.actions { button { "Mint" } a.button.plain href=(href(id)) { "Back to the channel" } }
            }
        }
    };
    let title = format!("Mint a URL of channel {id}");
    let page = Page { tab: Tab::Channels, title: &title, session, query: &Form::default(), live: false };
    page.show_as(wrong.status(), &content)
}

fn urls(minted: &MintedUrls) -> Markup {
    html! {
        div.note.good role="status" {
            p { "Good until " (format::utc(minted.expires.saturating_mul(1000))) " UTC, for session " code { (minted.session) } ":" }
            @for url in &minted.urls {
                h3 { (url.profile) }
                @match (&url.url, &url.error) {
                    (Some(url), _) => pre { (url) },
                    (None, error) => p { (error.as_deref().unwrap_or("cannot be signed")) },
                }
            }
        }
    }
}
