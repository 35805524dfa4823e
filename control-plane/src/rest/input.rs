//! Requests become typed values here; what is wrong is named.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shoal_config::ConfigError;

use super::problem::Problem;
use crate::access::audit;
use crate::field::FieldError;

/// Most bytes of a body.
pub(crate) const MAX_BODY: usize = 1 << 20;

/// Longest time for a body to arrive.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// Media types that are JSON.
const JSON: [&str; 2] = ["application/json", "application/merge-patch+json"];

/// A JSON body, checked against its schema.
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON body as it is, for changes to documents.
pub(crate) struct Document(pub(crate) Value);

/// The query, with unknown names refused.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + JsonSchema> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Document(value) = Document::from_request(request, state).await?;
        parse(&value).map(Self)
    }
}

impl<S: Send + Sync> FromRequest<S> for Document {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = json_bytes(request, state).await?;
        let value = json(&bytes)?;
        audit::sent(&value);
        Ok(Self(value))
    }
}

/// The body, if it is declared as JSON and arrives in time.
pub(crate) async fn json_bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    check_media_type(request.headers())?;
    bytes(request, state).await
}

/// A body of any sort, if it arrives in time.
pub(crate) async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    tokio::time::timeout(BODY_WAIT, Bytes::from_request(request, state))
        .await
        .map_err(|_| {
            let detail = format!("the body did not arrive within {} s", BODY_WAIT.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        })?
        .map_err(unreadable)
}

/// A body as JSON.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}; check it with a JSON tool"))
    })
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(params) = Query::from_request_parts(parts, state).await.map_err(|error: QueryRejection| {
            Problem::new(StatusCode::BAD_REQUEST, format!("{}; see /api/v1/openapi.json", error.body_text()))
        })?;
        Ok(Self(params))
    }
}

/// A value against its type's schema.
pub(crate) fn parse<T: DeserializeOwned + JsonSchema>(value: &Value) -> Result<T, Problem> {
    shoal_config::from_json(value).map_err(|error| config_problem(value, &error))
}

fn config_problem(document: &Value, error: &ConfigError) -> Problem {
    let mut message = error.to_string();
    let key = &error.key;
    // The address parser's words come without a remedy.
    if message.ends_with("invalid IP address syntax") {
        message.push_str("; write a network such as 192.0.2.0/24 or 2001:db8::/32");
    }
    // A secret is not repeated, neither as a value nor inside the message.
    if key.ends_with("secret") || key.ends_with("password") {
        return Problem::field(key, Value::Null, "must be a string");
    }
    let found = find(document, key).cloned().unwrap_or_default();
    let errors = vec![FieldError::new(key, found, message.clone())];
    Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, message) }
}

/// The value at a key such as `origins[0].url`.
fn find<'a>(document: &'a Value, key: &str) -> Option<&'a Value> {
    let pointer: String = key.split(['.', '[']).map(|part| format!("/{}", part.trim_end_matches(']'))).collect();
    document.pointer(&pointer)
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if JSON.iter().any(|json| essence.eq_ignore_ascii_case(json)) {
        return Ok(());
    }
    let detail = format!("Content-Type is `{given}`; send `Content-Type: application/json`");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

fn unreadable(rejection: BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let detail = format!("the body is longer than the {MAX_BODY} bytes allowed; send less at a time");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail);
    }
    Problem::new(rejection.status(), rejection.body_text())
}

/// Which revisions `If-Match` names; none without the header or with `*` (RFC 9110 section 13.1.1).
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Problem> {
    let mut revisions = Vec::new();
    let mut any = false;
    let mut given = false;
    for value in headers.get_all(header::IF_MATCH) {
        given = true;
        let value = value.to_str().unwrap_or_default();
        for tag in value.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            let quoted = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            match (tag, quoted) {
                ("*", _) => any = true,
                // A tag that is not ours matches nothing.
                (_, Some(text)) => revisions.extend(text.parse::<u64>().ok()),
                // Weak tags never match (strong comparison).
                _ if tag.starts_with("W/\"") => {}
                _ => {
                    let detail =
                        format!("If-Match: `{tag}` is no entity tag; send the ETag as it came, with its quotes");
                    return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
                }
            }
        }
    }
    Ok(match (given, any) {
        (false, _) => None,
        (true, true) => Some(IfMatch::Any),
        (true, false) => Some(IfMatch::One(revisions)),
    })
}

/// What `If-Match` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// That it exists.
    Any,
    /// That it is at one of these revisions.
    One(Vec<u64>),
}

impl IfMatch {
    pub(crate) fn matches(&self, revision: u64) -> bool {
        match self {
            Self::Any => true,
            Self::One(revisions) => revisions.contains(&revision),
        }
    }
}
