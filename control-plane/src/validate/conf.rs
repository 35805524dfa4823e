//! Apps and rules: `shoal_conf` knows what is wrong with them.

use serde_json::Value;
use shoal_conf::{App, Rule, Wrong};

use super::Check;
use crate::field::FieldError;

impl Check for App {
    fn check(&self) -> Vec<FieldError> {
        named(self.check())
    }
}

impl Check for Rule {
    fn check(&self) -> Vec<FieldError> {
        named(self.check())
    }
}

/// In the words of the API; secrets come without a value.
pub(crate) fn named(wrong: Vec<Wrong>) -> Vec<FieldError> {
    let error = |Wrong { field, value, message }: Wrong| {
        let value = if value.is_empty() { Value::Null } else { Value::String(value) };
        FieldError::new(field, value, message)
    };
    wrong.into_iter().map(error).collect()
}
