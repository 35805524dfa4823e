//! An input as one JSON value, with the place of each of its keys.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Problem};

/// What is checked, and where its keys stand.
pub(crate) struct Input<'a> {
    pub(crate) value: Value,
    /// `table` or `object`: what messages call a map.
    pub(crate) format: Format,
    text: &'a str,
    offsets: HashMap<String, usize>,
}

/// The language of the input; only words in messages depend on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Toml,
    Json,
}

impl Input<'static> {
    pub(crate) fn json(value: Value) -> Self {
        Self { value, format: Format::Json, text: "", offsets: HashMap::new() }
    }
}

impl Input<'_> {
    /// Adds the line of the error's key, or of the nearest table around it that the file has.
    pub(crate) fn locate(&self, error: ConfigError) -> ConfigError {
        let mut key = error.key.as_str();
        let offset = loop {
            if let Some(offset) = self.offsets.get(key) {
                break Some(*offset);
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = key.get(..end).unwrap_or(""),
                None => break None,
            }
        };
        let line = offset.map(|offset| line_at(self.text, offset));
        error.at_line(line)
    }
}

/// Parses TOML, keeping the offset of every key.
pub(crate) fn toml_input(text: &str) -> Result<Input<'_>, ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let problem = Problem::Syntax { format: "TOML", message: one_line(error.message()) };
        ConfigError::new(String::new(), problem).at_line(error.span().map(|span| line_at(text, span.start)))
    })?;
    let mut input = Input { value: Value::Null, format: Format::Toml, text, offsets: HashMap::new() };
    let value = table_value(table.get_ref(), "", &mut input.offsets).map_err(|error| input.locate(error))?;
    input.value = value;
    Ok(input)
}

/// `key` below `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn table_value(table: &DeTable<'_>, path: &str, offsets: &mut HashMap<String, usize>) -> Result<Value, ConfigError> {
    // A TOML file's keys may stand in any order: its own is kept, so that the first error in the file is the one told.
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut map = Map::new();
    for (key, value) in entries {
        let path = join(path, key.get_ref());
        offsets.insert(path.clone(), key.span().start);
        map.insert(key.get_ref().to_string(), json_value(value, &path, offsets)?);
    }
    Ok(Value::Object(map))
}

fn json_value(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    offsets: &mut HashMap<String, usize>,
) -> Result<Value, ConfigError> {
    let wrong = |found: &str, expected: &str| {
        let problem = Problem::WrongValue { found: found.to_owned(), expected: expected.to_owned(), nearest: None };
        Err(ConfigError::new(path.to_owned(), problem))
    };
    match value.get_ref() {
        DeValue::String(text) => Ok(Value::String(text.to_string())),
        DeValue::Boolean(on) => Ok(Value::Bool(*on)),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Ok(Value::Number(number.into())),
            Err(_) => wrong(digits.as_str(), "a whole number between -2^63 and 2^63 - 1"),
        },
        DeValue::Float(digits) => match digits.as_str().parse().ok().and_then(Number::from_f64) {
            Some(number) => Ok(Value::Number(number)),
            None => wrong(digits.as_str(), "a finite number"),
        },
        DeValue::Datetime(date) => wrong(&date.to_string(), "no date: put it in quotes if a string is meant"),
        DeValue::Table(table) => table_value(table, path, offsets),
        DeValue::Array(items) => {
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                offsets.insert(path.clone(), item.span().start);
                list.push(json_value(item, &path, offsets)?);
            }
            Ok(Value::Array(list))
        }
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

fn one_line(message: &str) -> String {
    message.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
