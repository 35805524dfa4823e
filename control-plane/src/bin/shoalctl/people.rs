//! Users, API tokens, and the log of what they changed.

use std::path::Path;

use serde_json::{Value, json};
use shoal_control::api::{AuditItem, AuditPage, NewTokenView, TokenPage, UserPage, UserView};
use ureq::http::Method;

use crate::arguments::{Audit, Tokens, Users};
use crate::client::{Failure, encode};
use crate::input;
use crate::run::{Run, age, ahead};
use crate::table::{Align, Table};

impl Run {
    pub(crate) fn users(&self, command: &Users) -> Result<(), Failure> {
        match command {
            Users::List => {
                let page: UserPage = self.client.get("/users", &[("limit", "1000")])?;
                self.print(&page, || user_table(&page.items))
            }
            Users::Add { name, role, password_file } => {
                let body = json!({"name": name, "role": role, "password": password(password_file)?});
                let user: UserView = self.client.call(Method::POST, "/users", Some(&body))?;
                self.print(&user, || format!("user {} is added, {}\n", user.name, user.role))
            }
            Users::Change { name, role, password_file } => {
                let given = password_file.as_deref().map(password).transpose()?;
                let body = json!({"role": role, "password": given});
                let user: UserView =
                    self.client.call(Method::PATCH, &format!("/users/{}", encode(name)), Some(&body))?;
                self.print(&user, || format!("user {} is changed, {}\n", user.name, user.role))
            }
            Users::Delete { name } => {
                let gone: Value = self.client.call(Method::DELETE, &format!("/users/{}", encode(name)), None)?;
                self.print(&gone, || format!("user {name} is deleted\n"))
            }
        }
    }

    pub(crate) fn tokens(&self, command: &Tokens) -> Result<(), Failure> {
        match command {
            Tokens::List => {
                let page: TokenPage = self.client.get("/tokens", &[("limit", "1000")])?;
                self.print(&page, || token_table(&page))
            }
            Tokens::Add { name, role, days } => {
                let body = json!({"name": name, "role": role, "days": days});
                let token: NewTokenView = self.client.call(Method::POST, "/tokens", Some(&body))?;
                self.print(&token, || {
                    format!("token {} is made, {}; it is not shown again:\n{}\n", token.name, token.role, token.token)
                })
            }
            Tokens::Delete { name } => {
                let gone: Value = self.client.call(Method::DELETE, &format!("/tokens/{}", encode(name)), None)?;
                self.print(&gone, || format!("token {name} is deleted\n"))
            }
        }
    }

    pub(crate) fn audit(&self, audit: &Audit) -> Result<(), Failure> {
        let limit = audit.limit.to_string();
        let mut query = vec![("limit", limit.as_str())];
        for (name, value) in [("actor", &audit.actor), ("action", &audit.action), ("target", &audit.target)] {
            if let Some(value) = value {
                query.push((name, value));
            }
        }
        let page: AuditPage = self.client.get("/audit", &query)?;
        self.print(&page, || audit_table(&page.items))
    }
}

/// The only line of a file; it never stands on a command line, which others on the host can see.
fn password(file: &Path) -> Result<String, Failure> {
    let text = input::text(file)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn user_table(users: &[UserView]) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("ROLE", Align::Left),
        ("ADDED", Align::Left),
        ("LAST LOG-IN", Align::Left),
    ]);
    for user in users {
        let last = user.last_used_ms.map_or_else(|| "never".to_owned(), age);
        table.row(vec![user.name.clone(), user.role.to_string(), age(user.created_ms), last]);
    }
    table.to_string()
}

fn token_table(page: &TokenPage) -> String {
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("ROLE", Align::Left),
        ("MADE", Align::Left),
        ("BY", Align::Left),
        ("ENDS", Align::Left),
        ("LAST USED", Align::Left),
    ]);
    for token in &page.items {
        table.row(vec![
            token.name.clone(),
            token.role.to_string(),
            age(token.created_ms),
            token.created_by.clone(),
            token.expires_ms.map_or_else(|| "never".to_owned(), |ms| ahead(ms / 1_000)),
            token.last_used_ms.map_or_else(|| "never".to_owned(), age),
        ]);
    }
    table.to_string()
}

fn audit_table(items: &[AuditItem]) -> String {
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("WHEN", Align::Left),
        ("WHO", Align::Left),
        ("ROLE", Align::Left),
        ("FROM", Align::Left),
        ("ACTION", Align::Left),
        ("TARGET", Align::Left),
        ("OUTCOME", Align::Left),
    ]);
    for item in items {
        let status = item.status.map_or_else(String::new, |status| format!(" {status}"));
        table.row(vec![
            item.id.to_string(),
            age(item.at_ms),
            item.actor.clone(),
            item.role.map_or_else(|| "-".to_owned(), |role| role.to_string()),
            item.address.clone().unwrap_or_else(|| "-".to_owned()),
            item.action.clone(),
            if item.target.is_empty() { item.request.clone() } else { item.target.clone() },
            format!("{}{status}", item.outcome.name()),
        ]);
    }
    table.to_string()
}
