//! Purges: nodes forget what they have of a channel.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};

use super::channels::href;
use crate::access::{Role, audit};
use crate::api::{self, CommandReport, PurgeRequest};
use crate::app::App;
use crate::console::form::Form;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Field, Page, Tab, Wrong, table, token};
use crate::console::session::Session;
use crate::console::views;
use crate::rest::problem::Problem;

/// What can be purged: the word in the form, and its name.
const SCOPES: [(&str, &str); 4] = [
    ("object", "One object, by its path"),
    ("prefix", "All whose path starts so"),
    ("tag", "All that the origin gave a tag"),
    ("channel", "All objects of the channel"),
];

pub(super) fn add(pages: Pages) -> Pages {
    pages.page("/console/channels/{id}/purge", Role::Operator, show).form(
        "/console/channels/{id}/purge",
        Role::Operator,
        "purge",
        purge,
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

async fn purge(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Extension(form): Extension<Form>,
) -> Result<Response, Failed> {
    let result = match request(&id, &form) {
        Ok(request) => {
            audit::sent(&serde_json::to_value(&request).unwrap_or_default());
            api::purge(&app, request).await
        }
        Err(problem) => Err(problem),
    };
    match result {
        Ok(report) => Ok(page(&session, &id, &Form::default(), &Wrong::default(), Some(&report))),
        Err(problem) if problem.status == 404 || problem.status == 503 => Err(problem.into()),
        Err(problem) => Ok(page(&session, &id, &form, &Wrong::new(problem), None)),
    }
}

fn request(id: &str, form: &Form) -> Result<PurgeRequest, Problem> {
    let channel = id.to_owned();
    let what = form.get("what").to_owned();
    match form.get("scope") {
        "object" | "prefix" | "tag" if what.is_empty() => {
            Err(Problem::field("what", what, "must say which: a path below the channel's prefix, or a tag"))
        }
        "object" => Ok(PurgeRequest::Object { channel, path: what, nodes: None }),
        "prefix" => Ok(PurgeRequest::Prefix { channel, path: what, nodes: None }),
        "tag" => Ok(PurgeRequest::Tag { channel, tag: what, nodes: None }),
        "channel" if form.get("sure") != "yes" => {
            Err(Problem::field("sure", form.get("sure"), "must be ticked to purge all objects of a channel"))
        }
        "channel" => Ok(PurgeRequest::Channel { channel, nodes: None }),
        other => Err(Problem::field("scope", other, "must be one of the choices")),
    }
}

fn page(session: &Session, id: &str, form: &Form, wrong: &Wrong, report: Option<&CommandReport>) -> Response {
    let scope = form.given("scope").unwrap_or("object");
    let error = wrong.of("what").or(wrong.of("path")).or(wrong.of("tag"));
    let help = "The path below the channel's prefix without a leading slash, its start, or the tag";
    let content = html! {
        (wrong.show())
        @if let Some(report) = report { (answers(report)) }
        div.panel {
            p { "What is purged is fetched from the origins again when somebody asks for it." }
            form method="post" action=(format!("{}/purge", href(id))) {
                (token(session))
                fieldset {
                    legend { "What to purge" }
                    @for (word, name) in SCOPES {
                        label.choice { input type="radio" name="scope" value=(word) checked[word == scope]; " " (name) }
                    }
                }
                (Field { label: "Path or tag", name: "what", value: form.get("what"), help, error, ..Field::default() }.show())
                div.field {
                    label.choice { input type="checkbox" name="sure" value="yes"; " I mean all objects of the channel, if that is chosen" }
                    @if let Some(text) = wrong.of("sure") { p.error { (text) } }
                }
                div.actions { button.danger { "Purge" } a.button.plain href=(href(id)) { "Back to the channel" } }
            }
        }
    };
    let title = format!("Purge channel {id}");
    let page = Page { tab: Tab::Channels, title: &title, session, query: &Form::default(), live: false };
    let failed = report.is_some_and(|report| !report.ok);
    page.show_as(if failed { StatusCode::BAD_GATEWAY } else { wrong.status() }, &content)
}

/// What nodes answered to a command.
pub(super) fn answers(report: &CommandReport) -> Markup {
    let rows = html! {
        @for result in &report.results {
            tr {
                th scope="row" { (result.node) }
                td {
                    @match (&result.error, result.count) {
                        (Some(error), _) => { span.mark.bad { "not done" } " " (error) },
                        (None, Some(count)) => { span.mark.good { "done" } " " (count) " object(s) in RAM" },
                        (None, None) => span.mark.good { "done" },
                    }
                }
            }
        }
    };
    html! {
        div class=(if report.ok { "note good" } else { "note bad" }) role="status" {
            @if report.results.is_empty() { p { "No node is connected, so there was nothing to do." } } @else {
                p { (if report.ok { "Every node did it." } else { "Not every node did it." }) }
                (table("What nodes answered", &[("", "Node"), ("", "Answer")], &rows))
            }
        }
    }
}
