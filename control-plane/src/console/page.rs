//! What all pages have in common: head, navigation, messages, fields of forms, tables.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::assets;
use super::form::{Form, encode};
use super::session::Session;
use crate::access::Role;
use crate::rest::problem::Problem;
use crate::store::StoreError;

/// The field with the form's token.
pub(super) const FORM_TOKEN: &str = "form_token";
/// Rows on a page of a list.
pub(super) const ROWS: u32 = 50;
/// Seconds after which a page's live part is asked for again.
const REFRESH_S: u32 = 10;

/// Where somebody is in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Channels,
    Regions,
    Nodes,
    Swarms,
    Reconciliation,
    Refusals,
    Audit,
    Users,
    Tokens,
    Account,
}

const TABS: [(Tab, &str, &str, Role); 10] = [
    (Tab::Overview, "Overview", "/console", Role::Viewer),
    (Tab::Channels, "Channels", "/console/channels", Role::Viewer),
    (Tab::Regions, "Regions", "/console/regions", Role::Viewer),
    (Tab::Nodes, "Nodes", "/console/nodes", Role::Viewer),
    (Tab::Swarms, "Swarms", "/console/swarms", Role::Viewer),
    (Tab::Reconciliation, "Reconciliation", "/console/reconciliation", Role::Viewer),
    (Tab::Refusals, "Refusals", "/console/refusals", Role::Viewer),
    (Tab::Audit, "Audit log", "/console/audit", Role::Admin),
    (Tab::Users, "Users", "/console/users", Role::Admin),
    (Tab::Tokens, "Tokens", "/console/tokens", Role::Admin),
];

/// What is said at the top of the next page: by a word in the URL, so that nobody can put words of his own there.
const SAYINGS: [(&str, &str); 12] = [
    ("on", "The channel is switched on."),
    ("off", "The channel is switched off."),
    ("origins", "The origins are saved; nodes have them within a second."),
    ("user-added", "The user is added."),
    ("user-changed", "The user is changed."),
    ("user-deleted", "The user is deleted, and the sessions are ended."),
    ("token-deleted", "The token is deleted; it is refused from now on."),
    ("password", "The password is changed. Log in with it."),
    ("out", "You are logged out."),
    ("ended", "Your session has ended; nothing was changed. Log in, and try again."),
    ("drain", "The node drains: it takes no more viewers, and exits when the last one is gone."),
    ("unblocked", "It is not blocked any more."),
];

/// A page with navigation.
pub(super) struct Page<'a> {
    pub(super) tab: Tab,
    pub(super) title: &'a str,
    pub(super) session: &'a Session,
    /// The query, which may say what was just done.
    pub(super) query: &'a Form,
    /// Whether its content is kept fresh.
    pub(super) live: bool,
}

impl Page<'_> {
    pub(super) fn show(&self, content: &Markup) -> Response {
        self.show_as(StatusCode::OK, content)
    }

    pub(super) fn show_as(&self, status: StatusCode, content: &Markup) -> Response {
        let body = html! {
            header.top {
                div.bar {
                    a.brand href="/console" { img src=(assets::icon_url()) alt=""; "shoal" }
                    div.who {
                        span { "Logged in as " a href="/console/account" { (self.session.actor.name) } ", " (self.session.actor.role) }
                        form method="post" action="/console/logout" { (token(self.session)) button.plain.small { "Log out" } }
                    }
                }
                nav.main aria-label="Main" {
                    ul {
                        @for (tab, name, href, role) in TABS {
                            @if self.session.may(role) {
                                li { a href=(href) aria-current=[(tab == self.tab).then_some("page")] { (name) } }
                            }
                        }
                    }
                }
            }
            main id="main" tabindex="-1" {
                h1 { (self.title) }
                (said(self.query))
                @if self.live { div id="live" data-seconds=(REFRESH_S) { (content) } } @else { (content) }
            }
        };
        respond(status, self.title, self.live, &body)
    }
}

/// A page for somebody who is not logged in.
pub(super) fn bare(status: StatusCode, title: &str, query: &Form, content: &Markup) -> Response {
    let body = html! {
        main id="main" tabindex="-1" {
            div.door {
                p { span.brand { img src=(assets::icon_url()) alt=""; "shoal" } }
                h1 { (title) }
                (said(query))
                (content)
            }
        }
    };
    respond(status, title, false, &body)
}

fn respond(status: StatusCode, title: &str, live: bool, body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – shoal" }
                link rel="icon" type="image/svg+xml" href=(assets::icon_url());
                link rel="stylesheet" href=(assets::style_url());
                @if live { script src=(assets::script_url()) defer {} }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                (body)
            }
        }
    };
    (status, axum::response::Html(page.into_string())).into_response()
}

fn said(query: &Form) -> Markup {
    let word = query.get("said");
    let found = SAYINGS.iter().find(|(known, _)| *known == word);
    html! { @if let Some((_, text)) = found { div.note.good role="status" { p { (text) } } } }
}

/// What went wrong, as a page of its own.
#[derive(Debug)]
pub(super) struct Failed(pub(super) Problem);

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Problem { status, title, detail, .. } = self.0;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let content = html! {
            div.note.bad role="alert" { p { (detail) } }
            p { a href="/console" { "To the overview" } }
        };
        bare(status, &title, &Form::default(), &content)
    }
}

/// The hidden field that every form has.
pub(super) fn token(session: &Session) -> Markup {
    html! { input type="hidden" name=(FORM_TOKEN) value=(session.form_token); }
}

/// A field with its label, a hint, and what is wrong with it.
pub(super) struct Field<'a> {
    pub(super) label: &'a str,
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    pub(super) kind: &'a str,
    pub(super) help: &'a str,
    pub(super) required: bool,
    pub(super) complete: &'a str,
    /// What the API calls it, for errors.
    pub(super) error: Option<&'a str>,
    pub(super) class: &'a str,
}

impl Default for Field<'_> {
    fn default() -> Self {
        Self {
            label: "",
            name: "",
            value: "",
            kind: "text",
            help: "",
            required: false,
            complete: "off",
            error: None,
            class: "field",
        }
    }
}

impl Field<'_> {
    pub(super) fn show(&self) -> Markup {
        let (id, help, error) = (format!("f-{}", self.name), format!("h-{}", self.name), format!("e-{}", self.name));
        let mut described = Vec::new();
        if !self.help.is_empty() {
            described.push(help.as_str());
        }
        if self.error.is_some() {
            described.push(error.as_str());
        }
        let described = (!described.is_empty()).then(|| described.join(" "));
        let value = if self.kind == "password" { None } else { Some(self.value) };
        html! {
            div class=(self.class) {
                label for=(id) { (self.label) }
                @if !self.help.is_empty() { p.help id=(help) { (self.help) } }
                input id=(id) name=(self.name) type=(self.kind) value=[value] autocomplete=(self.complete) required[self.required]
                    aria-invalid=[self.error.map(|_| "true")] aria-describedby=[described];
                @if let Some(text) = self.error { p.error id=(error) { (text) } }
            }
        }
    }
}

/// What a problem says about a form: beside its fields, and of the whole.
#[derive(Debug, Default)]
pub(super) struct Wrong(Option<Problem>);

impl Wrong {
    pub(super) fn new(problem: Problem) -> Self {
        Self(Some(problem))
    }

    /// About a field, by the API's name for it.
    pub(super) fn of(&self, field: &str) -> Option<&str> {
        let errors = &self.0.as_ref()?.errors;
        errors.iter().find(|error| error.field == field).map(|error| error.message.as_str())
    }

    pub(super) fn status(&self) -> StatusCode {
        let status = self.0.as_ref().map_or(200, |problem| problem.status);
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// At the top of the form.
    pub(super) fn show(&self) -> Markup {
        html! {
            @if let Some(problem) = &self.0 {
                div.note.bad role="alert" {
                    @if problem.errors.is_empty() { p { (problem.detail) } } @else {
                        p { "Nothing was changed:" }
                        ul { @for error in &problem.errors { li { (error.field) ": " (error.message) } } }
                    }
                }
            }
        }
    }
}

/// A table that scrolls by itself where it is too wide.
pub(super) fn table(caption: &str, head: &[(&str, &str)], rows: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table {
                caption.hidden { (caption) }
                thead { tr { @for (class, name) in head { th class=(class) scope="col" { (name) } } } }
                tbody { (rows) }
            }
        }
    }
}

/// A figure in large digits.
pub(super) fn card(name: &str, figure: Option<String>, note: &str) -> Markup {
    html! {
        div {
            dt { (name) }
            @match figure {
                Some(figure) => dd { (figure) @if !note.is_empty() { small { (note) } } },
                None => dd.none { "no data yet" @if !note.is_empty() { small { (note) } } },
            }
        }
    }
}

/// A link to the next page of a list.
pub(super) fn more(path: &str, name: &str, next: Option<&str>) -> Markup {
    html! {
        @if let Some(next) = next {
            @let sign = if path.contains('?') { '&' } else { '?' };
            p.pages { a href=(format!("{path}{sign}{name}={}", encode(next))) { "Next page" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_the_url_are_not_repeated() {
        let query = |text: &str| Form::parse(text.as_bytes()).unwrap();
        assert!(said(&query("said=off")).into_string().contains("switched off"));
        assert_eq!(said(&query("said=%3Cscript%3E")).into_string(), "");
        assert_eq!(said(&query("")).into_string(), "");
    }

    #[test]
    fn a_field_names_its_error_for_screen_readers_and_escapes_what_was_typed() {
        let field =
            Field { label: "Name", name: "n", value: "\"><b>", help: "h", error: Some("<no>"), ..Field::default() };
        let text = field.show().into_string();
        assert!(text.contains("aria-describedby=\"h-n e-n\"") && text.contains("aria-invalid=\"true\""), "{text}");
        assert!(text.contains("&quot;&gt;&lt;b&gt;") && text.contains("&lt;no&gt;"), "{text}");
        let password = Field { kind: "password", value: "secret", ..field }.show().into_string();
        assert!(!password.contains("secret"), "{password}");
    }
}
