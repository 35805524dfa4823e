//! Answers to requests that went wrong (RFC 9457).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::openapi::BASE;
use crate::field::FieldError;
use crate::store::{ChangeError, StoreError, Taken};

/// Media type of [`Problem`].
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// Seconds after which a request may be tried again when the database failed.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// What went wrong with a request (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The status, once more.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// What went wrong, and the remedy.
    pub detail: String,
    /// A word for programs, where there is one: see the manual of conf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Every field that is wrong, when fields are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { status: status.as_u16(), title, detail: detail.into(), code: None, errors: Vec::new() }
    }

    /// With a word for programs.
    pub(crate) fn code(self, code: &str) -> Self {
        Self { code: Some(code.to_owned()), ..self }
    }

    /// 422: what was sent has fields with wrong values.
    pub(crate) fn fields(errors: Vec<FieldError>) -> Self {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, lines.join("; ")) }
    }

    /// 422 about one field.
    pub(crate) fn field(
        field: impl Into<String>,
        value: impl Into<serde_json::Value>,
        message: impl Into<String>,
    ) -> Self {
        Self::fields(vec![FieldError::new(field, value, message)])
    }

    /// 400 about one parameter of the query.
    pub(crate) fn parameter(error: FieldError) -> Self {
        let detail = error.to_string();
        Self { errors: vec![error], ..Self::new(StatusCode::BAD_REQUEST, detail) }
    }

    /// 404: no such channel or tenant.
    pub(crate) fn missing(noun: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {noun} `{id}`; GET {BASE}/{noun}s lists them"))
    }

    /// An answer to a failed change of the channel or tenant `id`.
    pub(crate) fn change(noun: &str, id: &str, error: ChangeError) -> Self {
        match error {
            ChangeError::Missing => Self::missing(noun, id),
            ChangeError::Exists => {
                let detail = format!("there is a {noun} `{id}` already; PUT replaces it, PATCH changes it");
                let errors = vec![FieldError::new("id", id, "is taken; choose another")];
                Self { errors, ..Self::new(StatusCode::CONFLICT, detail) }
            }
            ChangeError::Taken(Taken { host, prefix, channel }) => {
                let host = if host.is_empty() { "any host".to_owned() } else { format!("host {host}") };
                let message = format!("is channel `{channel}`'s at {host}; choose another prefix or other hosts");
                let errors = vec![FieldError::new("prefix", prefix, message)];
                let detail = format!("channel `{channel}` answers to the same host and prefix already");
                Self { errors, ..Self::new(StatusCode::CONFLICT, detail) }
            }
            ChangeError::Stale { current } => Self::stale(noun, id, current),
            ChangeError::Store(error) => error.into(),
        }
    }

    /// 412: someone else changed it.
    pub(crate) fn stale(noun: &str, id: &str, current: u64) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            format!("{noun} `{id}` has ETag \"{current}\" now; read it again, and change that"),
        )
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}
