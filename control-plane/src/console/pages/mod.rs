//! The pages.

mod account;
mod audit;
mod channels;
pub(super) mod login;
mod mint;
mod nodes;
mod origins;
mod overview;
mod purge;
mod reports;
mod swarms;
mod tokens;
mod users;

use axum::extract::RawQuery;

use super::form::Form;
use super::gate::Pages;

/// Every page but the log-in.
pub(super) fn all() -> Pages {
    let pages = overview::add(Pages::new());
    let pages = channels::add(pages);
    let pages = origins::add(pages);
    let pages = mint::add(pages);
    let pages = purge::add(pages);
    let pages = nodes::add(pages);
    let pages = swarms::add(pages);
    let pages = reports::add(pages);
    let pages = audit::add(pages);
    let pages = users::add(pages);
    let pages = tokens::add(pages);
    account::add(pages)
}

/// A page's query; what cannot be read is none.
fn query(RawQuery(text): RawQuery) -> Form {
    text.and_then(|text| Form::parse(text.as_bytes())).unwrap_or_default()
}
