//! Configuration files: strict loading, helpful errors, generated samples.
//!
//! The JSON schema that schemars derives from a type's fields and doc comments is the one description of what may be
//! written: [`load`] and [`from_json`] check an input against it before serde sees it, so that an error names the whole
//! key, the value and the remedy; [`sample`] prints it as a commented TOML file.
//!
//! A type's names must be serde's own: `#[serde(alias)]` is unknown to the schema and is refused here.

#![forbid(unsafe_code)]

mod check;
mod error;
mod input;
mod sample;
mod schema;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use error::{ConfigError, Problem};
pub use sample::sample;

use input::{Input, toml_input};
use schema::Schema;

/// Whether this is an `http://` or `https://` URL that paths can be put behind: with a host, without query, fragment or user.
#[must_use]
pub fn is_base_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(['?', '#', ' ', '@']))
}

/// Reads a TOML file's `text`. `file_name` only serves the error messages.
///
/// # Errors
/// The first thing found wrong, with its line: TOML syntax, an unknown or missing key, a value of the wrong type, a
/// value that the type itself refuses.
pub fn load<T: DeserializeOwned + JsonSchema>(text: &str, file_name: &str) -> Result<T, ConfigError> {
    let input = toml_input(text).map_err(|error| error.in_file(file_name))?;
    read(&input).map_err(|error| error.in_file(file_name))
}

/// Reads a JSON value, such as an admin request's body, by the same rules as [`load`].
///
/// # Errors
/// As [`load`]; without file and line.
pub fn from_json<T: DeserializeOwned + JsonSchema>(value: &Value) -> Result<T, ConfigError> {
    read(&Input::json(value.clone()))
}

/// Reads JSON text by the same rules as [`load`].
///
/// # Errors
/// As [`load`]; a line is given for syntax errors only.
pub fn from_json_str<T: DeserializeOwned + JsonSchema>(text: &str) -> Result<T, ConfigError> {
    let value = serde_json::from_str(text).map_err(|error| {
        let problem = Problem::Syntax { format: "JSON", message: error.to_string() };
        ConfigError::new(String::new(), problem).at_line(Some(error.line()).filter(|line| *line > 0))
    })?;
    read(&Input::json(value))
}

fn read<T: DeserializeOwned + JsonSchema>(input: &Input<'_>) -> Result<T, ConfigError> {
    let schema = Schema::of::<T>();
    check::check(&schema, &input.value, input.format).map_err(|error| input.locate(error))?;
    serde_path_to_error::deserialize(&input.value).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." { String::new() } else { path };
        let problem = Problem::Refused { message: error.into_inner().to_string() };
        input.locate(ConfigError::new(key, problem))
    })
}
