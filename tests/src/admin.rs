//! The control plane's admin API, as its clients use it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::client::{self, Request, Response};

/// A client with the admin token.
#[derive(Debug)]
pub struct Admin {
    api: SocketAddr,
    token: String,
}

impl Admin {
    /// Reads the token from its file.
    pub fn new(api: SocketAddr, token_file: &Path) -> Self {
        let token = fs::read_to_string(token_file)
            .unwrap_or_else(|error| panic!("no admin token in {}: {error}", token_file.display()));
        Self { api, token: token.trim().to_owned() }
    }

    /// Sends a request with the token, and `body` as JSON.
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let mut conn = client::Conn::open(self.api).unwrap_or_else(|error| panic!("no admin API: {error}"));
        let mut request = Request::new(method, path).header("Authorization", &format!("Bearer {}", self.token));
        let mut payload = Vec::new();
        if let Some(body) = body {
            payload = body.to_string().into_bytes();
            request =
                request.header("Content-Type", "application/json").header("Content-Length", &payload.len().to_string());
        }
        let mut bytes = request.bytes();
        bytes.extend_from_slice(&payload);
        conn.send_raw(&bytes).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        conn.read_response(false, client::Reading::default())
            .unwrap_or_else(|failure| panic!("{method} {path}: {failure}"))
    }

    /// The same, for requests that must succeed; the answer's JSON, null when it has none.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.send(method, path, body);
        assert!((200..300).contains(&answer.status()), "{method} {path}: {} {}", answer.status(), answer.text());
        serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
    }

    /// Creates or replaces a channel.
    pub fn put_channel(&self, channel: &Value) {
        let id = channel["id"].as_str().expect("a channel has an id");
        self.call("PUT", &format!("/v1/channels/{id}"), Some(channel));
    }

    /// Purges what `scope` says, as `{"scope": "all"}`; the number of objects.
    pub fn purge(&self, scope: &Value) -> Value {
        self.call("POST", "/v1/purge", Some(scope))
    }

    /// Fetches paths of a channel into the cache.
    pub fn prefetch(&self, channel: &str, paths: &[&str]) -> Value {
        self.call("POST", "/v1/prefetch", Some(&json!({"channel": channel, "paths": paths})))
    }
}
