//! A commented configuration file with every default.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::input::join;
use crate::schema::{Field, Schema};

/// A TOML file with every key at its default, each below its doc comment. Loading it gives `T::default()`.
///
/// A key that is unset by default stands as a comment.
pub fn sample<T: JsonSchema + Serialize + Default>() -> String {
    let schema = Schema::of::<T>();
    let value = serde_json::to_value(T::default()).unwrap_or_default();
    let mut out = String::new();
    if let Some(text) = schema.description(schema.root()) {
        comment(text, &mut out);
    }
    table(&schema, schema.root(), &value, "", &mut out);
    out
}

fn table(schema: &Schema, of: &Value, value: &Value, path: &str, out: &mut String) {
    let fields = schema.fields(schema.unwrap_option(of)).unwrap_or_default();
    // TOML: what follows a [section] belongs to it, so the plain keys come first.
    let (sections, keys): (Vec<&Field<'_>>, Vec<&Field<'_>>) = fields.iter().partition(|field| {
        let is_struct = schema.fields(schema.unwrap_option(field.schema)).is_some();
        is_struct && value.get(field.name).is_some_and(Value::is_object)
    });
    for (index, field) in keys.into_iter().enumerate() {
        // The first key stands right below its section's head.
        if index > 0 || path.is_empty() {
            blank_line(out);
        }
        if let Some(text) = schema.description(field.schema) {
            comment(text, out);
        }
        match value.get(field.name).filter(|value| !value.is_null()) {
            Some(value) => {
                key(field.name, out);
                out.push_str(" = ");
                literal(value, out);
            }
            None => {
                out.push_str("# Not set by default.\n#");
                key(field.name, out);
                out.push_str(" = …");
            }
        }
        out.push('\n');
    }
    for field in sections {
        let Some(value) = value.get(field.name) else { continue };
        let path = join(path, field.name);
        blank_line(out);
        if let Some(text) = schema.description(field.schema) {
            comment(text, out);
        }
        out.push_str(&format!("[{path}]\n"));
        table(schema, field.schema, value, &path, out);
    }
}

fn blank_line(out: &mut String) {
    if !out.is_empty() {
        out.push('\n');
    }
}

fn comment(text: &str, out: &mut String) {
    for line in text.lines() {
        out.push_str(format!("# {line}").trim_end());
        out.push('\n');
    }
}

fn key(name: &str, out: &mut String) {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if bare { out.push_str(name) } else { string(name, out) }
}

/// A value on one line. `null` inside a list or map has no TOML; serde skips it when reading back, so it is left out.
fn literal(value: &Value, out: &mut String) {
    match value {
        Value::Null => {}
        Value::Bool(on) => out.push_str(if *on { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                literal(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (index, (name, value)) in map.iter().filter(|(_, value)| !value.is_null()).enumerate() {
                out.push_str(if index == 0 { " " } else { ", " });
                key(name, out);
                out.push_str(" = ");
                literal(value, out);
            }
            out.push_str(" }");
        }
    }
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            control if control.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
}
