//! Fields of a JSON object, taken one by one: what is wrong is named, what is left is unknown.

use serde_json::{Map, Value};

/// What was sent cannot be taken; nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", if .field.is_empty() { String::new() } else { format!("{}: ", .field) })]
pub struct Refused {
    /// Path of the field, as in `reports[3].edge_bytes`; empty: the whole body.
    pub field: String,
    /// What is wrong with it, and what to send.
    pub message: String,
    /// For counters.
    pub reason: &'static str,
}

impl Refused {
    pub(crate) fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), reason }
    }
}

/// An object whose fields are taken out one by one.
pub(crate) struct Fields {
    /// Where it is, as in `reports[3].`.
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(crate) fn new(path: String, value: Value) -> Result<Self, Refused> {
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            _ => {
                let field = path.trim_end_matches('.').to_owned();
                Err(Refused::new(field, "type", "must be an object"))
            }
        }
    }

    /// A whole number from `least` to `most`; null is absent.
    pub(crate) fn number(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Refused> {
        let value = match self.map.remove(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        match whole(&value) {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => {
                let reason = if value.is_number() { "range" } else { "type" };
                let message = format!("must be a whole number from {least} to {most}");
                Err(Refused::new(self.at(name), reason, message))
            }
        }
    }

    /// A text of at most `most` bytes without control characters; null is absent.
    pub(crate) fn text(&mut self, name: &str, most: usize) -> Result<Option<String>, Refused> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() <= most && !text.chars().any(char::is_control) => Ok(Some(text)),
            Some(Value::String(_)) => {
                let message = format!("must have at most {most} bytes and no control characters");
                Err(Refused::new(self.at(name), "range", message))
            }
            Some(_) => Err(Refused::new(self.at(name), "type", "must be a string")),
        }
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// The path of one of its fields.
    pub(crate) fn at(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// What was not taken, as the text of a JSON object; empty where nothing is left.
    pub(crate) fn rest(self, most: usize) -> Result<String, Refused> {
        if self.map.is_empty() {
            return Ok(String::new());
        }
        let text = Value::Object(self.map).to_string();
        if text.len() <= most {
            return Ok(text);
        }
        let field = self.path.trim_end_matches('.').to_owned();
        let message = format!("has more than {most} bytes of fields that are not in the schema; send fewer");
        Err(Refused::new(field, "unknown_fields", message))
    }
}

/// A number without a fraction, also where it is written with one.
fn whole(value: &Value) -> Option<u64> {
    /// Whole numbers up to here are exact in a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|number| (0.0..=EXACT).contains(number) && number.fract() == 0.0)?;
        Some(number as u64)
    })
}
