//! What is wrong with a document.

/// A field that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Its place, as in `window.daily.from`.
    pub field: String,
    /// Its value; empty for secrets.
    pub value: String,
    /// What is wrong with it and what to write instead.
    pub message: String,
}

impl Wrong {
    pub(crate) fn new(field: impl Into<String>, value: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.into(), message: message.into() }
    }
}

/// Says what is wrong with an id of tenant, app, rule or channel, if anything.
pub(crate) fn check_id(field: &str, id: &str, wrong: &mut Vec<Wrong>) {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let good = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(allowed) && !id.bytes().all(|byte| byte == b'.');
    if !good {
        wrong.push(Wrong::new(field, id, "must be 1 to 64 of a-z, 0-9, '-', '_', '.', not dots alone"));
    }
}

/// Adds an error and returns false when a list is longer than `most`.
pub(crate) fn bounded(field: &str, len: usize, most: usize, wrong: &mut Vec<Wrong>) -> bool {
    if len > most {
        let message = format!("has more than the {most} entries allowed; shorten the list");
        wrong.push(Wrong::new(field, len.to_string(), message));
    }
    len <= most
}

/// Longest id.
pub(crate) const MAX_ID: usize = 64;
