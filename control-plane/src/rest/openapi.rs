//! Routes and their description, declared together: a route cannot be without its entry in the OpenAPI document.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::problem::{MEDIA_TYPE, Problem};
use crate::access::Role;
use crate::app::App;

/// Path of the API's first version.
pub const BASE: &str = "/api/v1";

/// What the document says of one route.
pub(crate) struct Operation {
    method: Method,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    protected: bool,
    rule: Rule,
    query: Option<SchemaOf>,
    headers: Vec<(&'static str, &'static str)>,
    body: Option<Content>,
    /// A property of the body that may be left out, for the path says it.
    in_path: Option<&'static str>,
    responses: Vec<(u16, &'static str, Option<Content>)>,
}

/// Who may use a route, and whether its use is noted in the audit log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// The operation's id.
    pub(crate) action: &'static str,
    /// The least role.
    pub(crate) role: Role,
    /// Whether it changes anything.
    pub(crate) changes: bool,
}

/// The rules of all protected routes, by path.
#[derive(Debug, Default)]
pub(crate) struct Rules(HashMap<&'static str, Vec<(Method, Rule)>>);

impl Rules {
    /// The rule of a route; a HEAD is a GET.
    pub(crate) fn find(&self, path: &str, method: &Method) -> Option<Rule> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.0.get(path)?.iter().find(|(of, _)| of == method).map(|(_, rule)| *rule)
    }
}

/// Media type and schema of a body.
type Content = (&'static str, SchemaOf);

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Operation {
    pub(crate) fn new(method: Method, path: &'static str, id: &'static str, summary: &'static str) -> Self {
        let reads = method == Method::GET;
        let role = if reads { Role::Viewer } else { Role::Operator };
        Self {
            rule: Rule { action: id, role, changes: !reads },
            method,
            path,
            id,
            summary,
            protected: true,
            query: None,
            headers: Vec::new(),
            body: None,
            in_path: None,
            responses: Vec::new(),
        }
    }

    /// No token is asked for.
    pub(crate) fn open(mut self) -> Self {
        self.protected = false;
        self
    }

    /// Asks for this role at least; by default a viewer may GET, and an operator may do the rest.
    pub(crate) fn role(mut self, role: Role) -> Self {
        self.rule.role = role;
        self
    }

    /// It changes nothing, although its method is none that only reads: a viewer may use it.
    pub(crate) fn reads(mut self) -> Self {
        self.rule = Rule { role: Role::Viewer, changes: false, ..self.rule };
        self
    }

    /// The query's parameters are the fields of `T`.
    pub(crate) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(schema_of::<T>);
        self
    }

    /// An optional request header.
    pub(crate) fn header(mut self, name: &'static str, help: &'static str) -> Self {
        self.headers.push((name, help));
        self
    }

    /// A JSON body is asked for.
    pub(crate) fn body<T: JsonSchema>(self) -> Self {
        self.body_as::<T>("application/json")
    }

    /// The same, of which the path says one property already.
    pub(crate) fn body_at<T: JsonSchema>(mut self, in_path: &'static str) -> Self {
        self.in_path = Some(in_path);
        self.body::<T>()
    }

    /// A body of another JSON media type is asked for.
    pub(crate) fn body_as<T: JsonSchema>(mut self, media_type: &'static str) -> Self {
        self.body = Some((media_type, schema_of::<T>));
        self
    }

    /// An answer with a JSON body.
    pub(crate) fn gives<T: JsonSchema>(self, status: u16, help: &'static str) -> Self {
        self.gives_as::<T>(status, "application/json", help)
    }

    /// An answer with another body.
    pub(crate) fn gives_as<T: JsonSchema>(mut self, status: u16, media_type: &'static str, help: &'static str) -> Self {
        self.responses.push((status, help, Some((media_type, schema_of::<T>))));
        self
    }

    /// An answer without a body.
    pub(crate) fn gives_nothing(mut self, status: u16, help: &'static str) -> Self {
        self.responses.push((status, help, None));
        self
    }

    /// Problems beyond those that every route may answer.
    pub(crate) fn fails(self, failures: &[(u16, &'static str)]) -> Self {
        failures.iter().fold(self, |this, (status, help)| this.gives_as::<Problem>(*status, MEDIA_TYPE, help))
    }
}

/// Routes with and without a token, and the document of both.
pub(crate) struct Routes {
    pub(crate) protected: Router<Arc<App>>,
    pub(crate) open: Router<Arc<App>>,
    /// Of those with a token.
    pub(crate) rules: Rules,
    /// Those that count for themselves: nothing is wrapped around them.
    pub(crate) bare: Router<Arc<App>>,
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Routes {
    pub(crate) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        Self {
            protected: Router::new(),
            open: Router::new(),
            rules: Rules::default(),
            bare: Router::new(),
            generator: settings.into_generator(),
            paths: Map::new(),
        }
    }

    /// Adds a route and its description.
    pub(crate) fn add<H, T>(mut self, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(operation.method.clone()).unwrap_or(MethodFilter::GET);
        let router = if operation.protected { &mut self.protected } else { &mut self.open };
        *router = std::mem::take(router).route(operation.path, on(filter, handler));
        if operation.protected {
            let rules = self.rules.0.entry(operation.path).or_default();
            rules.push((operation.method.clone(), operation.rule));
        }
        self.describe(&operation);
        self
    }

    /// Adds a route without a token that counts for itself, and its description.
    pub(crate) fn add_bare<H, T>(mut self, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(operation.method.clone()).unwrap_or(MethodFilter::GET);
        self.bare = std::mem::take(&mut self.bare).route(operation.path, on(filter, handler));
        self.describe(&operation);
        self
    }

    /// The OpenAPI 3.1 document.
    pub(crate) fn document(&mut self, title: &str, summary: &str) -> Value {
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": title,
                "summary": summary,
                "version": env!("CARGO_PKG_VERSION"),
                "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
            },
            "servers": [{ "url": "/" }],
            "security": [{ "token": [] }],
            "paths": self.paths,
            "components": {
                "schemas": self.generator.take_definitions(true),
                "securitySchemes": {
                    "token": { "type": "http", "scheme": "bearer", "description": "Content of the token file, or an API token." },
                },
            },
        })
    }

    fn describe(&mut self, operation: &Operation) {
        let mut parameters = path_parameters(operation.path);
        if let Some(schema) = operation.query {
            parameters.extend(query_parameters(&mut self.generator, schema));
        }
        for (name, help) in &operation.headers {
            parameters.push(json!({"name": name, "in": "header", "description": help, "schema": {"type": "string"}}));
        }
        let mut responses = Map::new();
        let common = [
            (401, "The token is missing or wrong.", operation.protected),
            (403, "The token's role is too weak.", operation.protected),
            (
                429,
                "Too many wrong tokens came from this address; Retry-After says when to try again.",
                operation.protected,
            ),
            (
                400,
                "A header, the query or the body cannot be parsed.",
                operation.query.is_some() || operation.body.is_some() || !operation.headers.is_empty(),
            ),
            (413, "The body is too long.", operation.body.is_some()),
            (415, "The body is not declared as JSON.", operation.body.is_some()),
            (422, "Fields of the body are wrong; each is named.", operation.body.is_some()),
            (503, "The database failed.", operation.protected),
        ];
        for (status, help, applies) in common {
            if applies {
                responses.insert(status.to_string(), self.response(help, Some((MEDIA_TYPE, schema_of::<Problem>))));
            }
        }
        for (status, help, body) in &operation.responses {
            let response = self.response(help, *body);
            responses.insert(status.to_string(), response);
        }
        let mut described = json!({
            "operationId": operation.id,
            "summary": operation.summary,
            "parameters": parameters,
            "responses": responses,
        });
        if let Some((media_type, schema)) = operation.body {
            let mut schema = schema(&mut self.generator).to_value();
            if let Some(property) = operation.in_path {
                schema = without_requirement(&mut self.generator, &schema, property);
            }
            described["requestBody"] = json!({"required": true, "content": {media_type: {"schema": schema}}});
        }
        if operation.protected {
            let Rule { role, changes, .. } = operation.rule;
            let noted = if changes { " Its use is noted in the audit log." } else { "" };
            described["x-role"] = json!(role);
            described["description"] = json!(format!("For the role {role} and those above it.{noted}"));
        } else {
            described["security"] = json!([]);
        }
        let item = self.paths.entry(operation.path).or_insert_with(|| json!({}));
        item[operation.method.as_str().to_ascii_lowercase()] = described;
    }

    fn response(&mut self, help: &str, body: Option<Content>) -> Value {
        match body {
            None => json!({"description": help}),
            Some((media_type, schema)) => {
                json!({"description": help, "content": {media_type: {"schema": schema(&mut self.generator)}}})
            }
        }
    }
}

fn path_parameters(path: &str) -> Vec<Value> {
    path.split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect()
}

/// The schema that a reference leads to, with one property not required.
fn without_requirement(generator: &mut SchemaGenerator, reference: &Value, property: &str) -> Value {
    let name = reference["$ref"].as_str().and_then(|path| path.rsplit('/').next());
    let Some(mut schema) = name.and_then(|name| generator.definitions_mut().get(name).cloned()) else {
        return reference.clone();
    };
    if let Some(required) = schema["required"].as_array_mut() {
        required.retain(|name| name != property);
    }
    schema
}

/// The fields of a query's type, from a generator of its own: the type is no component.
fn query_parameters(generator: &mut SchemaGenerator, schema: SchemaOf) -> Vec<Value> {
    let reference = schema(generator);
    let name = reference.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    // A type that is written where it is used is the schema itself.
    let target = match name {
        Some(name) => generator.definitions_mut().remove(name).unwrap_or_default(),
        None => reference.to_value(),
    };
    let required: Vec<&str> = target["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    target["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, schema)| {
            let mut schema = schema.clone();
            let help = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let required = required.contains(&name.as_str());
            json!({"name": name, "in": "query", "required": required, "description": help, "schema": schema})
        })
        .collect()
}
