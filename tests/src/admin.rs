//! The control plane's admin API, as its clients use it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::client::{self, Request, Response};

/// A sum over ledger entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies.
    pub body_bytes: u64,
    /// Bodies, heads and framing.
    pub wire_bytes: u64,
}

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
        match body {
            Some(body) => self.send_as(method, path, "application/json", body),
            None => self.send_raw(method, path, "application/json", b""),
        }
    }

    /// Sends JSON under another media type.
    pub fn send_as(&self, method: &str, path: &str, kind: &str, body: &Value) -> Response {
        self.send_raw(method, path, kind, body.to_string().as_bytes())
    }

    /// Sends any bytes.
    pub fn send_raw(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Response {
        let mut request = Request::new(method, path).header("Authorization", &format!("Bearer {}", self.token));
        if !body.is_empty() {
            request = request.header("Content-Type", kind).header("Content-Length", &body.len().to_string());
        }
        let mut conn = client::connect(self.api);
        conn.send(&[&request.bytes(), body].concat());
        conn.expect_response()
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
        self.call("PUT", &format!("/api/v1/channels/{id}"), Some(channel));
    }

    /// Purges what `scope` says, as `{"scope": "all"}`; the number of objects.
    pub fn purge(&self, scope: &Value) -> Value {
        self.call("POST", "/api/v1/purge", Some(scope))
    }

    /// Mints URLs: one for each profile that the channel accepts.
    pub fn mint(&self, channel: &str, request: &Value) -> Value {
        self.call("POST", &format!("/api/v1/channels/{channel}/mint"), Some(request))
    }

    /// Mints shoal's own ticket and returns it bare.
    pub fn ticket(&self, channel: &str, request: &Value) -> String {
        let minted = self.mint(channel, request);
        let urls = minted["urls"].as_array().into_iter().flatten();
        let url = urls.filter(|url| url["profile"] == "shoal").find_map(|url| url["url"].as_str());
        let ticket = url.and_then(|url| url.split(['?', '&']).find_map(|pair| pair.strip_prefix("ticket=")));
        ticket.unwrap_or_else(|| panic!("no ticket in {minted}")).to_owned()
    }

    /// What the ledger says about a channel; kind is `client` or `upstream`.
    pub fn ledger(&self, channel: &str, kind: &str) -> Usage {
        self.sum(&format!("channel={channel}&kind={kind}"))
    }

    /// What the ledger says of what a tenant's users had relayed.
    pub fn relayed(&self, tenant: &str) -> Usage {
        self.sum(&format!("tenant={tenant}&kind=relay"))
    }

    fn sum(&self, filter: &str) -> Usage {
        let report = self.call("GET", &format!("/api/v1/ledger?{filter}&group="), None);
        let sum = |name: &str| report["items"][0][name].as_u64().unwrap_or(0);
        Usage { requests: sum("requests"), body_bytes: sum("body_bytes"), wire_bytes: sum("wire_bytes") }
    }

    /// Creates or replaces a tenant.
    pub fn put_tenant(&self, tenant: &Value) {
        let id = tenant["id"].as_str().expect("a tenant has an id");
        self.call("PUT", &format!("/api/v1/tenants/{id}"), Some(tenant));
    }

    /// Mints a TURN credential: a name, and its password.
    pub fn credential(&self, tenant: &str, user: &str) -> (String, String) {
        let path = format!("/api/v1/tenants/{tenant}/credentials");
        let minted = self.call("POST", &path, Some(&json!({"user": user})));
        let text = |name: &str| minted[name].as_str().unwrap_or_else(|| panic!("no {name} in {minted}")).to_owned();
        (text("username"), text("password"))
    }

    /// Fetches paths of a channel into the cache.
    pub fn prefetch(&self, channel: &str, paths: &[&str]) -> Value {
        self.call("POST", "/api/v1/prefetch", Some(&json!({"channel": channel, "paths": paths})))
    }
}
