//! What is wrong with a field: its name, its value and the remedy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest text value that is quoted back.
const QUOTE_LEN: usize = 128;

/// One thing wrong with what was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// Path of the field, as in `origins[0].url`; empty for the whole document.
    pub field: String,
    /// The value as sent, shortened; null for secrets and for what is missing.
    pub value: Value,
    /// What is wrong with it, and what to write instead.
    pub message: String,
}

impl FieldError {
    /// `message` says what is wrong and the remedy.
    pub fn new(field: impl Into<String>, value: impl Into<Value>, message: impl Into<String>) -> Self {
        Self { field: field.into(), value: shorten(value.into()), message: message.into() }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}", self.message)?;
        if self.value.is_null() { Ok(()) } else { write!(f, " (value: {})", self.value) }
    }
}

fn shorten(value: Value) -> Value {
    match value {
        Value::String(text) if text.chars().count() > QUOTE_LEN => {
            Value::String(text.chars().take(QUOTE_LEN).chain("…".chars()).collect())
        }
        Value::Array(_) | Value::Object(_) => {
            let text = value.to_string();
            if text.len() > QUOTE_LEN { shorten(Value::String(text)) } else { value }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_shortened_at_a_character() {
        let error = FieldError::new("id", "ü".repeat(500), "is too long");
        assert_eq!(error.value.as_str().map(|text| text.chars().count()), Some(QUOTE_LEN + 1));
        let error = FieldError::new("hosts", vec!["x"; 500], "are too many");
        assert!(error.value.is_string());
    }

    #[test]
    fn the_line_for_people_has_field_message_and_value() {
        let error = FieldError::new("origins[0].weight", 7, "is odd; write an even number");
        assert_eq!(error.to_string(), "origins[0].weight: is odd; write an even number (value: 7)");
    }
}
