//! A value against a schema: the first key that is unknown, missing or of the wrong type.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::error::{ConfigError, Problem};
use crate::input::{Format, join};
use crate::schema::{Field, Schema, constants, is_null, tag, types};

/// Characters of a wrong value that a message repeats.
const MAX_FOUND: usize = 64;

/// Checks the whole of `value`.
pub(crate) fn check(schema: &Schema, value: &Value, format: Format) -> Result<(), ConfigError> {
    Checker { schema, format }.check(schema.root(), value, "")
}

struct Checker<'a> {
    schema: &'a Schema,
    format: Format,
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, path: &str) -> Result<(), ConfigError> {
        if let Some(variants) = self.schema.variants(schema) {
            return self.check_variants(schema, &variants, value, path);
        }
        if let (Some(fields), Value::Object(map)) = (self.schema.fields(schema), value) {
            return self.check_struct(schema, &fields, map, path);
        }
        let target = self.schema.target(schema);
        if let Some(allowed) = constants(target) {
            if allowed.contains(&value) {
                return Ok(());
            }
            return Err(self.wrong(schema, value, path));
        }
        let types = types(target);
        if !types.is_empty() && !types.iter().any(|name| is_type(name, value)) {
            return Err(self.wrong(schema, value, path));
        }
        match value {
            Value::Number(_) if !in_bounds(target, value) => Err(self.wrong(schema, value, path)),
            Value::Array(items) => {
                let Some(item) = target.get("items") else { return Ok(()) };
                for (index, value) in items.iter().enumerate() {
                    self.check(item, value, &format!("{path}[{index}]"))?;
                }
                Ok(())
            }
            Value::Object(map) => {
                let Some(entry) = target.get("additionalProperties") else { return Ok(()) };
                for (key, value) in map {
                    self.check(entry, value, &join(path, key))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_struct(
        &self,
        schema: &Value,
        fields: &[Field<'_>],
        map: &Map<String, Value>,
        path: &str,
    ) -> Result<(), ConfigError> {
        let more = self.schema.target(schema).get("additionalProperties").filter(|more| more.is_object());
        for (key, value) in map {
            match (fields.iter().find(|field| field.name == key), more) {
                (Some(field), _) => self.check(field.schema, value, &join(path, key))?,
                (None, Some(more)) => self.check(more, value, &join(path, key))?,
                (None, None) => return Err(self.unknown(fields, key, path)),
            }
        }
        match fields.iter().find(|field| field.required && !map.contains_key(field.name)) {
            Some(field) => {
                let problem = Problem::MissingKey { expected: self.expected(field.schema) };
                Err(ConfigError::new(join(path, field.name), problem))
            }
            None => Ok(()),
        }
    }

    fn check_variants(
        &self,
        schema: &Value,
        variants: &[&Value],
        value: &Value,
        path: &str,
    ) -> Result<(), ConfigError> {
        if variants.iter().any(|variant| self.check(variant, value, path).is_ok()) {
            return Ok(());
        }
        let some: Vec<&Value> = variants.iter().copied().filter(|variant| !is_null(variant)).collect();
        if let [only] = some.as_slice() {
            return self.check(only, value, path);
        }
        // The value is wrong for every variant: the error of the one that was meant helps most.
        if let Value::Object(map) = value {
            let tags: Vec<(&str, &str)> = some.iter().filter_map(|variant| tag(variant)).collect();
            if let Some((name, _)) = tags.first() {
                let possible: Vec<&str> = tags.iter().map(|(_, value)| *value).collect();
                let key = join(path, name);
                return match map.get(*name) {
                    None => {
                        Err(ConfigError::new(key, Problem::MissingKey { expected: one_of(possible.iter().copied()) }))
                    }
                    Some(given) => match some.iter().find(|variant| tag(variant).map(|(_, tag)| tag) == given.as_str())
                    {
                        Some(meant) => self.check(meant, value, path),
                        None => Err(wrong_constant(&possible, given, key)),
                    },
                };
            }
            let meant = some.iter().find(|variant| {
                let fields = self.schema.fields(variant).unwrap_or_default();
                fields.len() == 1 && fields.iter().all(|field| map.contains_key(field.name))
            });
            if let Some(meant) = meant {
                return self.check(meant, value, path);
            }
        }
        Err(self.wrong(schema, value, path))
    }

    fn wrong(&self, schema: &Value, value: &Value, path: &str) -> ConfigError {
        let possible = self.possible(schema);
        if !possible.is_empty() {
            return wrong_constant(&possible, value, path.to_owned());
        }
        // A secret of the wrong type must not end in a log.
        let secret = schema.get("writeOnly") == Some(&Value::Bool(true));
        let found = if secret { self.kind(value).to_owned() } else { self.shown(value) };
        let problem = Problem::WrongValue { found, expected: self.expected(schema), nearest: None };
        ConfigError::new(path.to_owned(), problem)
    }

    fn unknown(&self, fields: &[Field<'_>], key: &str, path: &str) -> ConfigError {
        let full = join(path, key);
        let near_sibling = nearest(key, fields.iter().map(|field| field.name)).map(|name| join(path, name));
        let found = near_sibling.or_else(|| {
            // The right name in the wrong table, or the right table misspelt.
            let all = self.schema.all_keys();
            let same_name = all.iter().find(|known| known.rsplit('.').next() == Some(key));
            same_name.cloned().or_else(|| nearest(&full, all.iter().map(String::as_str)).map(str::to_owned))
        });
        let known = fields.iter().map(|field| join(path, field.name)).collect();
        ConfigError::new(full, Problem::UnknownKey { nearest: found, known })
    }

    /// The strings that an enum of plain names allows; empty when it is no such enum.
    fn possible<'b>(&'b self, schema: &'b Value) -> Vec<&'b str> {
        let lists = match self.schema.variants(schema) {
            Some(variants) => variants.into_iter().filter(|variant| !is_null(variant)).map(constants).collect(),
            None => vec![constants(self.schema.target(schema))],
        };
        let lists: Option<Vec<Vec<&Value>>> = lists.into_iter().collect();
        lists.into_iter().flatten().flatten().filter_map(Value::as_str).collect()
    }

    /// What a schema asks for, in words.
    fn expected(&self, schema: &Value) -> String {
        let possible = self.possible(schema);
        if !possible.is_empty() {
            return one_of(possible.into_iter());
        }
        if let Some(variants) = self.schema.variants(schema) {
            let words: BTreeSet<String> =
                variants.iter().filter(|variant| !is_null(variant)).map(|variant| self.expected(variant)).collect();
            return words.into_iter().collect::<Vec<_>>().join(" or ");
        }
        let target = self.schema.target(schema);
        let words: Vec<String> = types(target)
            .into_iter()
            .filter(|name| *name != "null")
            .map(|name| match name {
                "string" => "a string".to_owned(),
                "boolean" => "true or false".to_owned(),
                "integer" => bounds_in_words(target),
                "number" => "a number".to_owned(),
                "array" => match target.get("items") {
                    Some(item) => format!("a list, each item {}", self.expected(item)),
                    None => "a list".to_owned(),
                },
                _ => self.map_word().to_owned(),
            })
            .collect();
        if words.is_empty() { self.map_word().to_owned() } else { words.join(" or ") }
    }

    fn kind(&self, value: &Value) -> &'static str {
        match value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => self.map_word(),
        }
    }

    fn shown(&self, value: &Value) -> String {
        match value {
            Value::String(_) => format!("the string {}", shortened(value)),
            Value::Array(_) => format!("the list {}", shortened(value)),
            Value::Object(_) => self.map_word().to_owned(),
            _ => shortened(value),
        }
    }

    fn map_word(&self) -> &'static str {
        match self.format {
            Format::Toml => "a table",
            Format::Json => "an object",
        }
    }
}

fn wrong_constant(possible: &[&str], value: &Value, key: String) -> ConfigError {
    let nearest = value.as_str().and_then(|given| nearest(given, possible.iter().copied()));
    let problem = Problem::WrongValue {
        found: shortened(value),
        expected: one_of(possible.iter().copied()),
        nearest: nearest.map(str::to_owned),
    };
    ConfigError::new(key, problem)
}

fn one_of<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = values.map(|value| format!("\"{value}\"")).collect();
    match quoted.as_slice() {
        [only] => only.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_FOUND) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// The candidate that a typing error away from `name` could have been: at most a third of it differs.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(name, candidate);
    let (distance, candidate) =
        candidates.map(|candidate| (distance(candidate), candidate)).min_by_key(|pair| pair.0)?;
    (distance <= (name.chars().count().max(candidate.chars().count()) / 3).max(1)).then_some(candidate)
}

fn is_type(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    }
}

/// The least and greatest value of an integer schema: its own, narrowed by Rust's type, which schemars gives as format.
fn bounds(schema: &Value) -> (Option<i128>, Option<i128>) {
    let (least, greatest) = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => (Some(0), Some(i128::from(u8::MAX))),
        Some("uint16") => (Some(0), Some(i128::from(u16::MAX))),
        Some("uint32") => (Some(0), Some(i128::from(u32::MAX))),
        Some("uint64" | "uint") => (Some(0), None),
        Some("int8") => (Some(i128::from(i8::MIN)), Some(i128::from(i8::MAX))),
        Some("int16") => (Some(i128::from(i16::MIN)), Some(i128::from(i16::MAX))),
        Some("int32") => (Some(i128::from(i32::MIN)), Some(i128::from(i32::MAX))),
        _ => (None, None),
    };
    let own = |name: &str| schema.get(name).and_then(integer);
    (own("minimum").max(least), own("maximum").or(greatest))
}

fn integer(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

fn in_bounds(schema: &Value, value: &Value) -> bool {
    let Some(number) = integer(value) else { return true };
    let (least, greatest) = bounds(schema);
    least.is_none_or(|least| number >= least) && greatest.is_none_or(|greatest| number <= greatest)
}

fn bounds_in_words(schema: &Value) -> String {
    match bounds(schema) {
        (Some(least), Some(greatest)) => format!("a whole number from {least} to {greatest}"),
        (Some(least), None) => format!("a whole number of at least {least}"),
        (None, Some(greatest)) => format!("a whole number of at most {greatest}"),
        (None, None) => "a whole number".to_owned(),
    }
}
