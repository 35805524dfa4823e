//! Requests to the admin API.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use shoal_control::api::{BASE, Problem};
use ureq::http::{Method, Request, StatusCode, Uri, header};
use ureq::{Agent, SendBody};

/// Longer than nodes may take to answer a command.
const WAIT: Duration = Duration::from_secs(70);
/// Most bytes of an answer: a snapshot at its largest.
const MAX_ANSWER: u64 = 64 << 20;

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The control plane said no.
    #[error("{}", lines(.0))]
    Refused(Problem),
    /// Nodes did not do it; their answers are printed.
    #[error("not every node did it; its reason stands beside it")]
    Nodes,
    /// What was to be done on this machine was not.
    #[error("{0}")]
    Node(String),
    /// Arguments or files.
    #[error("{0}")]
    Usage(String),
    /// No answer, or not one of a control plane.
    #[error("{0}")]
    Unreachable(String),
}

/// A connection to one control plane.
pub(crate) struct Client {
    agent: Agent,
    api: String,
    token: String,
}

impl Client {
    /// Reads the token; connects at the first request.
    pub(crate) fn new(api: &str, token_file: &Path) -> Result<Self, Failure> {
        let api = api.trim_end_matches('/').to_owned();
        if !api.starts_with("http://") || api.parse::<Uri>().is_err() {
            let message = format!("--api {api}: give a URL such as http://127.0.0.1:9091 (or set SHOAL_API)");
            return Err(Failure::Usage(message));
        }
        let name = token_file.display();
        let token = std::fs::read_to_string(token_file).map_err(|error| {
            Failure::Usage(format!(
                "--token-file {name}: {error}; give the control plane's token_file (or set SHOAL_TOKEN_FILE)"
            ))
        })?;
        let token = token.trim().to_owned();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::Usage(format!(
                "--token-file {name}: holds no token; give the control plane's token_file"
            )));
        }
        // The token must not go through a proxy that the environment names.
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(WAIT)).proxy(None).build();
        Ok(Self { agent: Agent::new_with_config(config), api, token })
    }

    /// GET, with query parameters.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Failure> {
        let mut target = path.to_owned();
        for (at, (name, value)) in query.iter().enumerate() {
            target.push(if at == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(&encode(value));
        }
        self.call(Method::GET, &target, None)
    }

    /// Any method; `body` goes as JSON.
    pub(crate) fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Failure> {
        let text = self.send(method, &format!("{BASE}{path}"), body)?;
        // No content is the null of JSON.
        serde_json::from_str(if text.is_empty() { "null" } else { &text })
            .map_err(|error| self.unreachable(&format!("its answer is none of this release: {error}")))
    }

    /// POST of something long, as it is read.
    pub(crate) fn upload<T: DeserializeOwned>(&self, path: &str, from: &mut dyn std::io::Read) -> Result<T, Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{BASE}{path}", self.api))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "text/plain")
            .body(SendBody::from_reader(from))
            .map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
        // It may be long under way; the control plane itself ends what stands still.
        let request = self.agent.configure_request(request).timeout_global(None).build();
        let text = self.answer(self.agent.run(request))?;
        serde_json::from_str(&text)
            .map_err(|error| self.unreachable(&format!("its answer is none of this release: {error}")))
    }

    /// The text at a path outside the API's version.
    pub(crate) fn text(&self, path: &str) -> Result<String, Failure> {
        self.send(Method::GET, path, None)
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<String, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.api))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        let usage = |error: ureq::http::Error| Failure::Usage(format!("{path}: {error}"));
        let result = match body {
            Some(body) => {
                let request = request.header(header::CONTENT_TYPE, "application/json");
                self.agent.run(request.body(body.to_string()).map_err(usage)?)
            }
            None => self.agent.run(request.body(()).map_err(usage)?),
        };
        self.answer(result)
    }

    fn answer(&self, result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<String, Failure> {
        let mut response = result.map_err(|error| self.unreachable(&error.to_string()))?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
        let text = text.map_err(|error| self.unreachable(&error.to_string()))?;
        if status.is_success() {
            return Ok(text);
        }
        match serde_json::from_str(&text) {
            Ok(problem) => Err(Failure::Refused(problem)),
            Err(_) => Err(self.unreachable(&foreign(status))),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!(
            "the control plane at {}: {why}; check that it runs, and --api (or SHOAL_API)",
            self.api
        ))
    }
}

fn foreign(status: StatusCode) -> String {
    format!("its answer {status} is not that of a control plane")
}

/// The problem, and a line for each field that is wrong.
fn lines(problem: &Problem) -> String {
    let mut text = format!("{} {}", problem.status, problem.title);
    if problem.errors.is_empty() {
        let _ = write!(text, ": {}", problem.detail);
    }
    for error in &problem.errors {
        let _ = write!(text, "\n  {error}");
    }
    text
}

/// Percent-encodes a path segment or a query value (RFC 3986: all but the unreserved characters).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_encoded() {
        assert_eq!(encode("a/b?c=ü&d ~"), "a%2Fb%3Fc%3D%C3%BC%26d%20~");
    }
}
