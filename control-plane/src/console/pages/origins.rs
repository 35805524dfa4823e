//! The form for a channel's origins.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use shoal_link::Channel;
use shoal_link::channel::Origin;

use super::channels::href;
use crate::access::Role;
use crate::api;
use crate::app::App;
use crate::console::form::Form;
use crate::console::gate::Pages;
use crate::console::page::{Failed, Field, Page, Tab, Wrong, token};
use crate::console::session::Session;
use crate::console::views;
use crate::field::FieldError;
use crate::rest::input::IfMatch;
use crate::rest::problem::Problem;

/// Rows of the form; a channel has no more origins.
const MAX_ROWS: usize = 64;
/// Empty rows at the end of the form.
const SPARE: usize = 2;

pub(super) fn add(pages: Pages) -> Pages {
    pages.page("/console/channels/{id}/origins", Role::Operator, show).form(
        "/console/channels/{id}/origins",
        Role::Operator,
        "changeOrigins",
        save,
    )
}

/// A row as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    id: String,
    url: String,
    order: String,
    weight: String,
}

impl Row {
    fn is_empty(&self) -> bool {
        self.id.is_empty() && self.url.is_empty()
    }
}

async fn show(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
) -> Result<Response, Failed> {
    let stored = views::channel(&app, &id).await?;
    let row = |origin: &Origin| Row {
        id: origin.id.clone(),
        url: origin.url.clone(),
        order: origin.order.to_string(),
        weight: origin.weight.to_string(),
    };
    let rows = stored.document.origins.iter().map(row).collect();
    Ok(page(&session, &id, stored.revision, rows, &Wrong::default()))
}

async fn save(
    State(app): State<Arc<App>>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Extension(form): Extension<Form>,
) -> Result<Response, Failed> {
    let revision = form.get("revision").parse().unwrap_or(0);
    let rows = typed(&form);
    let read = IfMatch::One(vec![revision]);
    let result = match origins(&rows) {
        Ok(new) => api::change_channel(&app, &id, Some(&read), |old| Ok(merge(old, &new))).await,
        Err(errors) => Err(Problem::fields(errors)),
    };
    match result {
        Ok(_) => Ok(Redirect::to(&format!("{}?said=origins", href(&id))).into_response()),
        Err(problem) if problem.status == 404 || problem.status == 503 => Err(problem.into()),
        Err(problem) => Ok(page(&session, &id, revision, rows, &Wrong::new(problem))),
    }
}

/// The rows of a form, without empty ones.
fn typed(form: &Form) -> Vec<Row> {
    let row = |at: usize| {
        let get = |name: &str| form.get(&format!("{name}{at}")).to_owned();
        Row { id: get("id"), url: get("url"), order: get("order"), weight: get("weight") }
    };
    (0..MAX_ROWS).map(row).filter(|row| !row.is_empty()).collect()
}

/// Id, URL, order and weight of an origin.
type Said = (String, String, u16, u16);

/// What the rows say. The rest is checked where the API checks it.
fn origins(rows: &[Row]) -> Result<Vec<Said>, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut number = |at: usize, name: &str, text: &str, default: u16| match text.parse() {
        Ok(number) => number,
        Err(_) if text.is_empty() => default,
        Err(_) => {
            let message = "must be a whole number from 0 to 65535";
            errors.push(FieldError::new(format!("origins[{at}].{name}"), text, message));
            0
        }
    };
    let mut read = Vec::with_capacity(rows.len());
    for (at, Row { id, url, order, weight }) in rows.iter().enumerate() {
        let (order, weight) = (number(at, "order", order, 0), number(at, "weight", weight, 1));
        read.push((id.clone(), url.clone(), order, weight));
    }
    if errors.is_empty() { Ok(read) } else { Err(errors) }
}

/// What the form does not show of an origin stays as it is.
fn merge(old: &Channel, new: &[(String, String, u16, u16)]) -> Channel {
    let origin = |(id, url, order, weight): &(String, String, u16, u16)| {
        let known = old.origins.iter().find(|origin| origin.id == *id).cloned();
        let base = known.unwrap_or_else(|| Origin {
            id: id.clone(),
            url: String::new(),
            order: 0,
            weight: 1,
            host: None,
            range: true,
            health_path: None,
            health_interval_ms: HEALTH_MS,
        });
        Origin { url: url.clone(), order: *order, weight: *weight, ..base }
    };
    Channel { origins: new.iter().map(origin).collect(), ..old.clone() }
}

/// Of an origin that is new: as when the API is not told.
const HEALTH_MS: u32 = 5_000;

fn page(session: &Session, id: &str, revision: u64, mut rows: Vec<Row>, wrong: &Wrong) -> Response {
    rows.extend(std::iter::repeat_n(Row::default(), SPARE));
    rows.truncate(MAX_ROWS);
    let content = html! {
        (wrong.show())
        div.panel {
            p { "Lower orders are asked first; origins of one order share by weight, and one of weight 0 is not asked. An origin whose id and URL are
                 emptied is taken away. Viewers notice nothing: what is being fetched is fetched to its end." }
            form method="post" action=(format!("{}/origins", href(id))) {
                (token(session))
                input type="hidden" name="revision" value=(revision);
                @for (at, row) in rows.iter().enumerate() { (fields(at, row, wrong)) }
                div.actions { button { "Save" } a.button.plain href=(href(id)) { "Cancel" } }
            }
        }
    };
    let title = format!("Origins of channel {id}");
    let page = Page { tab: Tab::Channels, title: &title, session, query: &Form::default(), live: false };
    page.show_as(wrong.status(), &content)
}

fn fields(at: usize, row: &Row, wrong: &Wrong) -> Markup {
    let field = |label: &str, name: &str, value: &str, class: &str| {
        let (own, api) = (format!("{name}{at}"), format!("origins[{at}].{name}"));
        // What is wrong with the list as a whole is said at its first row.
        let error = wrong.of(&api).or_else(|| wrong.of("origins").filter(|_| at == 0 && name == "url"));
        Field { label, name: &own, value, class, error, ..Field::default() }.show()
    };
    html! {
        fieldset {
            legend { "Origin " (at + 1) @if row.is_empty() { " (new)" } }
            div.row {
                (field("Id", "id", &row.id, "field"))
                (field("URL", "url", &row.url, "field wide"))
                (field("Order", "order", &row.order, "field"))
                (field("Weight", "weight", &row.weight, "field"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<Row> {
        typed(&Form::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn rows_become_origins_and_what_the_form_does_not_show_stays() {
        let old: Channel = serde_json::from_value(serde_json::json!({
            "id": "a", "prefix": "/a/",
            "origins": [{"id": "main", "url": "http://a.test/", "host": "x.test", "range": false}, {"id": "gone", "url": "http://b.test/"}],
        }))
        .unwrap();
        let typed =
            rows("id0=main&url0=http://c.test/&order0=2&weight0=&id1=&url1=&id2=new&url2=file:/srv&order2=&weight2=7");
        let new = merge(&old, &origins(&typed).unwrap());
        assert_eq!(new.origins.len(), 2);
        let main = &new.origins[0];
        assert_eq!(
            (&*main.url, main.order, main.weight, main.host.as_deref(), main.range),
            ("http://c.test/", 2, 1, Some("x.test"), false)
        );
        let parsed: Origin = serde_json::from_str(r#"{"id": "new", "url": "file:/srv", "weight": 7}"#).unwrap();
        assert_eq!(new.origins[1], parsed, "its defaults are the API's");
        assert_eq!((new.id, new.prefix), (old.id, old.prefix));
    }

    #[test]
    fn numbers_that_are_none_are_named_by_their_row() {
        let errors = origins(&rows("id0=a&url0=x&order0=first&weight0=70000")).unwrap_err();
        let fields: Vec<&str> = errors.iter().map(|error| &*error.field).collect();
        assert_eq!(fields, ["origins[0].order", "origins[0].weight"]);
    }
}
