//! The parts of a JSON schema that schemars derives and that checking and sampling need.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

/// Nesting beyond which schemas are taken to be recursive and are not followed when keys are listed.
const MAX_DEPTH: usize = 8;

/// A type's whole schema.
pub(crate) struct Schema {
    root: Value,
}

/// One field of a struct.
pub(crate) struct Field<'a> {
    pub(crate) name: &'a str,
    pub(crate) schema: &'a Value,
    pub(crate) required: bool,
}

impl Schema {
    pub(crate) fn of<T: JsonSchema>() -> Self {
        Self { root: SchemaGenerator::default().into_root_schema_for::<T>().to_value() }
    }

    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    /// What a `$ref` points to; anything else is itself.
    pub(crate) fn target<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
        pointer.and_then(|pointer| self.root.pointer(pointer)).unwrap_or(schema)
    }

    /// The variants of a `oneOf`, `anyOf`, or of a list of types; `None` when it is one plain type.
    pub(crate) fn variants<'a>(&'a self, schema: &'a Value) -> Option<Vec<&'a Value>> {
        let target = self.target(schema);
        let list = target.get("oneOf").or_else(|| target.get("anyOf"))?.as_array()?;
        Some(list.iter().map(|variant| self.target(variant)).collect())
    }

    /// The fields of a struct; `None` for anything else. A `$ref` beside `properties` (a tagged variant that holds a
    /// struct) adds its own.
    pub(crate) fn fields<'a>(&'a self, schema: &'a Value) -> Option<Vec<Field<'a>>> {
        let mut fields = Vec::new();
        let mut found = false;
        let target = self.target(schema);
        for part in [Some(schema), (!std::ptr::eq(target, schema)).then_some(target)].into_iter().flatten() {
            let Some(properties) = part.get("properties").and_then(Value::as_object) else { continue };
            found = true;
            let required = part.get("required").and_then(Value::as_array);
            fields.extend(properties.iter().map(|(name, schema)| Field {
                name,
                schema,
                required: required.is_some_and(|list| list.iter().any(|item| item.as_str() == Some(name))),
            }));
        }
        // A struct without fields is an object that allows nothing more.
        let empty = target.get("additionalProperties") == Some(&Value::Bool(false));
        (found || empty).then_some(fields)
    }

    /// The description nearest to a field: its own, or that of its type.
    pub(crate) fn description<'a>(&'a self, schema: &'a Value) -> Option<&'a str> {
        let own = schema.get("description").and_then(Value::as_str);
        own.or_else(|| self.target(schema).get("description").and_then(Value::as_str))
    }

    /// The one schema behind an `Option`, or the schema itself.
    pub(crate) fn unwrap_option<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match self.variants(schema) {
            Some(variants) => {
                let mut some = variants.into_iter().filter(|variant| !is_null(variant));
                match (some.next(), some.next()) {
                    (Some(only), None) => only,
                    _ => self.target(schema),
                }
            }
            None => schema,
        }
    }

    /// Every key there is, in full (`http.listen`), in order of declaration.
    pub(crate) fn all_keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        self.collect_keys(&self.root, "", 0, &mut keys);
        keys
    }

    fn collect_keys(&self, schema: &Value, path: &str, depth: usize, keys: &mut Vec<String>) {
        if depth > MAX_DEPTH {
            return;
        }
        for field in self.fields(self.unwrap_option(schema)).unwrap_or_default() {
            let path = crate::input::join(path, field.name);
            self.collect_keys(field.schema, &path, depth + 1, keys);
            keys.push(path);
        }
    }
}

/// Whether a schema is `null`'s.
pub(crate) fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

/// The names of the plain types that a schema allows; empty when it does not say.
pub(crate) fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The values of an `enum` or `const`; `None` when any value of the type will do.
pub(crate) fn constants(schema: &Value) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(Value::Array(values))) => Some(values.iter().collect()),
        _ => None,
    }
}

/// The field that tells a variant of an internally tagged enum, with its value.
pub(crate) fn tag(schema: &Value) -> Option<(&str, &str)> {
    let properties: &Map<String, Value> = schema.get("properties")?.as_object()?;
    properties.iter().find_map(|(name, field)| Some((name.as_str(), field.get("const")?.as_str()?)))
}
