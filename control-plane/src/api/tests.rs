//! The router without sockets; the real process is tested in `tests/`.

mod access;
mod blocks;
mod conf;
mod peers;
mod reconciliation;
mod tenants;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use shoal_link::Channel;
use shoal_ticket::{Presented, TicketPolicy, Verifier};
use tower::ServiceExt;

use super::*;
use crate::config::Config;
use crate::link;
use crate::metrics::Metrics;
use crate::report::Reports;
use crate::store::Store;
use crate::store::tests::TempDir;
use crate::token::Token;

const TOKEN: &str = "the-operators-token";

struct Api {
    app: Arc<App>,
    router: Router,
    store: Store,
    _dir: TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    json: Value,
}

impl Api {
    fn new() -> Self {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let token = Token::parse(TOKEN).unwrap();
        let config = Config::default();
        let metrics = Arc::new(Metrics::new().unwrap());
        let reports = Reports::open(&config.reports, dir.path(), &store, metrics.registry()).unwrap();
        let app = App::new(store.clone(), reports, metrics, token, config).unwrap();
        app.set_linked(true);
        Self { router: router(Arc::clone(&app)), app, store, _dir: dir }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        let json = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Answer { status: parts.status, headers: parts.headers, json }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call_if(method, path, None, body).await
    }

    async fn call_if(&self, method: &str, path: &str, if_match: Option<&str>, body: Value) -> Answer {
        let mut request = request(method, path).header(header::CONTENT_TYPE, "application/json");
        if let Some(tag) = if_match {
            request = request.header(header::IF_MATCH, tag);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request.body(body).unwrap()).await
    }
}

impl Answer {
    fn etag(&self) -> String {
        self.headers[header::ETAG].to_str().unwrap().to_owned()
    }

    fn is_problem(&self, status: u16, words: &[&str]) {
        assert_eq!(self.status.as_u16(), status, "{}", self.json);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{}", self.json);
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["title"].as_str(), self.status.canonical_reason());
        for word in words {
            assert!(self.json.to_string().contains(word), "no {word} in {}", self.json);
        }
    }
}

fn request(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
}

fn channel(id: &str) -> Value {
    json!({
        "id": id,
        "prefix": format!("/{id}/"),
        "origins": [{"id": "main", "url": "http://origin.test/"}],
        "access": {"ticket": {"keys": [{"id": "k1", "secret": "the-first-secret-of-all"}]}},
    })
}

/// Every operation of the document: method, path, whether a token is asked for.
fn operations() -> Vec<(String, String, bool)> {
    let document = document();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push((method.to_uppercase(), path.clone(), operation.get("security").is_none()));
        }
    }
    operations
}

/// A path of the document with something in its gaps.
fn target(path: &str) -> String {
    path.split('/').map(|segment| if segment.starts_with('{') { "a" } else { segment }).collect::<Vec<_>>().join("/")
}

#[test]
fn the_document_describes_every_route() {
    let described: BTreeSet<String> =
        operations().into_iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    let expected: BTreeSet<String> = [
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /api/v1/channels",
        "POST /api/v1/channels",
        "GET /api/v1/channels/{id}",
        "PUT /api/v1/channels/{id}",
        "PATCH /api/v1/channels/{id}",
        "DELETE /api/v1/channels/{id}",
        "GET /api/v1/channels/{id}/keys",
        "POST /api/v1/channels/{id}/keys",
        "POST /api/v1/channels/{id}/keys/rotate",
        "DELETE /api/v1/channels/{id}/keys/{key}",
        "POST /api/v1/channels/{id}/mint",
        "GET /api/v1/channels/{id}/peers",
        "GET /api/v1/channels/{id}/peers/{peer}",
        "GET /api/v1/swarms",
        "GET /api/v1/swarms/{id}",
        "GET /api/v1/swarms/{id}/peers",
        "GET /api/v1/tenants",
        "POST /api/v1/tenants",
        "GET /api/v1/tenants/{id}",
        "PUT /api/v1/tenants/{id}",
        "PATCH /api/v1/tenants/{id}",
        "DELETE /api/v1/tenants/{id}",
        "GET /api/v1/tenants/{id}/secrets",
        "POST /api/v1/tenants/{id}/secrets",
        "POST /api/v1/tenants/{id}/secrets/rotate",
        "DELETE /api/v1/tenants/{id}/secrets/{secret}",
        "POST /api/v1/tenants/{id}/credentials",
        "GET /api/v1/blocks",
        "POST /api/v1/blocks",
        "DELETE /api/v1/blocks/{network}",
        "GET /api/v1/nodes",
        "POST /api/v1/nodes/{node}/drain",
        "POST /api/v1/purge",
        "POST /api/v1/prefetch",
        "GET /api/v1/prefetch",
        "DELETE /api/v1/nodes/{node}/prefetch/{order}",
        "GET /api/v1/cache/top",
        "GET /api/v1/cache/stat",
        "GET /api/v1/cache/object",
        "POST /api/v1/cache/explain",
        "GET /api/v1/ledger",
        "POST /api/v1/reconciliation/logs",
        "GET /api/v1/reconciliation/logs",
        "DELETE /api/v1/reconciliation/logs/{provider}/{digest}",
        "GET /api/v1/reconciliation/providers",
        "PUT /api/v1/reconciliation/providers/{id}",
        "DELETE /api/v1/reconciliation/providers/{id}",
        "GET /api/v1/reconciliation/settings/{tenant}",
        "PUT /api/v1/reconciliation/settings/{tenant}",
        "GET /api/v1/reconciliation",
        "GET /api/v1/reconciliation/{channel}/{hour}/sessions",
        "GET /api/v1/snapshot",
        "GET /api/v1/tokens",
        "POST /api/v1/tokens",
        "DELETE /api/v1/tokens/{name}",
        "GET /api/v1/users",
        "POST /api/v1/users",
        "PATCH /api/v1/users/{name}",
        "DELETE /api/v1/users/{name}",
        "GET /api/v1/audit",
        "GET /api/v1/openapi.json",
        "GET /api/v1/apps",
        "POST /api/v1/apps",
        "GET /api/v1/apps/{id}",
        "PUT /api/v1/apps/{id}",
        "PATCH /api/v1/apps/{id}",
        "DELETE /api/v1/apps/{id}",
        "GET /api/v1/rules",
        "POST /api/v1/rules",
        "GET /api/v1/rules/{id}",
        "PUT /api/v1/rules/{id}",
        "PATCH /api/v1/rules/{id}",
        "DELETE /api/v1/rules/{id}",
        "GET /api/v1/apps/{id}/keys",
        "POST /api/v1/apps/{id}/keys",
        "POST /api/v1/apps/{id}/keys/rotate",
        "DELETE /api/v1/apps/{id}/keys/{key}",
        "GET /api/v1/switches",
        "POST /api/v1/switches",
        "GET /api/v1/pass-keys",
        "POST /api/v1/pass-keys/rotate",
        "GET /api/v1/refusals",
        "GET /api/v1/reports",
        "POST /api/v1/check",
        "POST /api/v1/conf/explain",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(described, expected);
}

#[tokio::test]
async fn every_described_operation_is_served_and_no_other_method_is() {
    let api = Api::new();
    let operations = operations();
    for (method, path, _) in &operations {
        let target = target(path);
        let answer = api.call(method, &target, Value::Null).await;
        let text = answer.json.to_string();
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert!(!text.contains("there is nothing at"), "{method} {path}: {text}");
    }
    for path in operations.iter().map(|(_, path, _)| path).collect::<BTreeSet<_>>() {
        let target = target(path);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if !operations.iter().any(|(known, at, _)| known == method && at == path) {
                let answer = api.call(method, &target, Value::Null).await;
                answer.is_problem(405, &["no such method"]);
                assert!(answer.headers.contains_key(header::ALLOW), "{method} {path}");
            }
        }
    }
}

#[test]
fn the_document_is_whole() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in &found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for schema in [
        "Channel",
        "Origin",
        "TicketPolicy",
        "Problem",
        "PurgeRequest",
        "MintedUrls",
        "Tenant",
        "TurnCredential",
        "PeerView",
        "LedgerReport",
    ] {
        assert!(found.contains(&format!("#/components/schemas/{schema}")), "{schema}");
        assert!(document["components"]["schemas"][schema]["description"].is_string(), "{schema}");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{id} twice");
            assert!(operation["summary"].is_string());
            assert!(operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')), "{id}");
            let names: Vec<&str> = operation["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let wanted: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
            assert_eq!(names, wanted, "{method} {path}");
        }
    }
    let list = &document["paths"]["/api/v1/channels"]["get"]["parameters"];
    assert!(
        list.as_array().unwrap().iter().any(|parameter| parameter["name"] == "after" && parameter["in"] == "query")
    );
}

#[tokio::test]
async fn nothing_is_told_or_done_without_the_token() {
    let api = Api::new();
    api.call("POST", "/api/v1/channels", channel("a")).await;
    for (method, path, protected) in operations() {
        let target = target(&path);
        for authorization in [None, Some("Bearer wrong"), Some("Bearer"), Some("Basic dG9rZW4="), Some("")] {
            let mut request = Request::builder().method(&*method).uri(&target);
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let answer = api.send(request.body(Body::empty()).unwrap()).await;
            if protected {
                answer.is_problem(401, &["token"]);
                let challenge = answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
                assert!(challenge.starts_with("Bearer realm="), "{challenge}");
                assert_eq!(challenge.contains("invalid_token"), authorization == Some("Bearer wrong"));
            } else {
                assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
            }
        }
    }
    assert!(api.store.find::<Channel>("a").unwrap().is_some());
    let lower = Request::get("/api/v1/channels").header(header::AUTHORIZATION, format!("bearer {TOKEN}"));
    assert_eq!(api.send(lower.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_channel_s_life() {
    let api = Api::new();
    let made = api.call("POST", "/api/v1/channels", channel("a")).await;
    assert_eq!(
        (made.status, &made.headers[header::LOCATION]),
        (StatusCode::CREATED, &"/api/v1/channels/a".parse().unwrap())
    );
    api.call("POST", "/api/v1/channels", channel("a")).await.is_problem(409, &["\"id\"", "PUT"]);
    let mut other = channel("b");
    other["prefix"] = json!("/a/");
    api.call("POST", "/api/v1/channels", other.clone()).await.is_problem(409, &["prefix", "channel `a`"]);
    api.call("PUT", "/api/v1/channels/b", other).await.is_problem(409, &["prefix"]);

    let read = api.call("GET", "/api/v1/channels/a", Value::Null).await;
    assert_eq!((read.etag(), &read.json), (made.etag(), &made.json));
    api.call("GET", "/api/v1/channels/none", Value::Null).await.is_problem(404, &["none"]);

    // Read, change, replace: the secret that was never shown stays.
    let mut document = read.json.clone();
    document["enabled"] = json!(false);
    let replaced = api.call_if("PUT", "/api/v1/channels/a", Some(&read.etag()), document.clone()).await;
    assert_eq!((replaced.status, &replaced.json["enabled"]), (StatusCode::OK, &json!(false)));
    assert_ne!(replaced.etag(), read.etag());
    let secret =
        api.store.find::<Channel>("a").unwrap().unwrap().document.access.ticket.unwrap().keys[0].secret.clone();
    assert_eq!(secret, "the-first-secret-of-all");
    api.call_if("PUT", "/api/v1/channels/a", Some(&read.etag()), document.clone())
        .await
        .is_problem(412, &[&replaced.etag().replace('"', "\\\"")]);
    api.call_if("PUT", "/api/v1/channels/a", Some("W/\"1\", \"x\""), document.clone()).await.is_problem(412, &[]);
    api.call_if("PUT", "/api/v1/channels/a", Some("nonsense"), document.clone()).await.is_problem(400, &["If-Match"]);
    assert_eq!(api.call_if("PUT", "/api/v1/channels/a", Some("*"), document.clone()).await.status, StatusCode::OK);
    api.call("PUT", "/api/v1/channels/b", document.clone()).await.is_problem(422, &["\"id\"", "path"]);

    // PUT creates, but not what must match.
    document = channel("c");
    document.as_object_mut().unwrap().remove("id");
    api.call_if("PUT", "/api/v1/channels/c", Some("*"), document.clone()).await.is_problem(412, &[]);
    assert_eq!(api.call("PUT", "/api/v1/channels/c", document).await.status, StatusCode::CREATED);

    let patched =
        api.call("PATCH", "/api/v1/channels/a", json!({"enabled": null, "cache": {"default_ttl_ms": 7}})).await;
    assert_eq!(
        (patched.status, &patched.json["enabled"], &patched.json["cache"]["default_ttl_ms"]),
        (StatusCode::OK, &json!(true), &json!(7))
    );
    assert_eq!(patched.json["cache"]["playlist_ttl_ms"], 1000);
    assert_eq!(api.store.find::<Channel>("a").unwrap().unwrap().document.access.ticket.unwrap().keys[0].secret, secret);
    api.call_if("PATCH", "/api/v1/channels/a", Some(&read.etag()), json!({})).await.is_problem(412, &[]);
    api.call("PATCH", "/api/v1/channels/a", json!({"id": "z"})).await.is_problem(422, &["\"id\""]);
    api.call("PATCH", "/api/v1/channels/a", json!({"cache": {"defautl_ttl_ms": 7}}))
        .await
        .is_problem(422, &["cache.defautl_ttl_ms", "default_ttl_ms"]);
    api.call("PATCH", "/api/v1/channels/a", json!([1])).await.is_problem(422, &["object"]);
    api.call("PATCH", "/api/v1/channels/none", json!({})).await.is_problem(404, &["none"]);

    let page = api.call("GET", "/api/v1/channels?limit=1", Value::Null).await;
    assert_eq!((&page.json["items"][0]["id"], &page.json["next"]), (&json!("a"), &json!("a")));
    let page = api.call("GET", "/api/v1/channels?limit=1&after=a", Value::Null).await;
    assert_eq!((&page.json["items"][0]["id"], &page.json["next"]), (&json!("c"), &Value::Null));
    let page = api.call("GET", "/api/v1/channels?tenant=nobody", Value::Null).await;
    assert_eq!(page.json["items"], json!([]));

    api.call_if("DELETE", "/api/v1/channels/a", Some(&read.etag()), Value::Null).await.is_problem(412, &[]);
    assert_eq!(api.call("DELETE", "/api/v1/channels/a", Value::Null).await.status, StatusCode::NO_CONTENT);
    api.call("DELETE", "/api/v1/channels/a", Value::Null).await.is_problem(404, &[]);
}

#[tokio::test]
async fn no_answer_holds_a_secret() {
    let api = Api::new();
    api.call("POST", "/api/v1/channels", channel("a")).await;
    link::publish_now(&api.app).await.unwrap();
    for path in ["channels/a", "channels", "channels/a/keys", "snapshot"] {
        let text = api.call("GET", &format!("/api/v1/{path}"), Value::Null).await.json.to_string();
        assert!(text.contains("k1") && !text.contains("the-first-secret"), "{path}: {text}");
    }
    // Nor does one that turns it down.
    let mut bad = channel("b");
    bad["access"]["ticket"]["keys"][0]["secret"] = json!(1234567);
    let answer = api.call("POST", "/api/v1/channels", bad.clone()).await;
    answer.is_problem(422, &["access.ticket.keys[0].secret"]);
    assert!(!answer.json.to_string().contains("1234567"));
    bad["access"]["ticket"]["keys"][0]["secret"] = json!("***");
    api.call("POST", "/api/v1/channels", bad)
        .await
        .is_problem(422, &["access.ticket.keys[0].secret", "write the secret"]);
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let api = Api::new();
    let raw = |kind: &str, body: Vec<u8>| {
        request("POST", "/api/v1/channels").header(header::CONTENT_TYPE, kind).body(Body::from(body)).unwrap()
    };
    api.send(raw("application/json", b"{nonsense".to_vec())).await.is_problem(400, &["not JSON"]);
    api.send(raw("text/plain", b"{}".to_vec())).await.is_problem(415, &["text/plain", "application/json"]);
    api.send(raw("application/json", vec![b' '; crate::rest::input::MAX_BODY + 1])).await.is_problem(413, &["1048576"]);
    api.send(raw("application/json; charset=utf-8", b"[]".to_vec())).await.is_problem(422, &["object"]);
    let deep = "[".repeat(100_000);
    api.send(raw("application/json", deep.into_bytes())).await.is_problem(400, &["not JSON"]);
    for (query, words) in [
        ("channels?limt=1", ["limt", "limit"]),
        ("channels?limit=x", ["limit", "invalid"]),
        ("channels?limit=0", ["limit", "1000"]),
        ("ledger?group=colour", ["colour", "channel"]),
        ("ledger?kind=x", ["kind", "upstream"]),
        ("ledger?from=1700000000000000", ["from", "seconds"]),
        ("ledger?limit=10001", ["limit", "10000"]),
    ] {
        api.call("GET", &format!("/api/v1/{query}"), Value::Null).await.is_problem(400, &words);
    }
    let mut bad = channel("a");
    bad["access"]["address"] = json!({"deny": ["10.0.0.0/99"]});
    api.call("POST", "/api/v1/channels", bad)
        .await
        .is_problem(422, &["access.address.deny[0]", "10.0.0.0/99", "192.0.2.0/24"]);
    api.call("GET", "/api/v1/nothing", Value::Null).await.is_problem(404, &["/api/v1/nothing"]);
}

#[tokio::test]
async fn keys_rotate_and_minted_urls_follow() {
    let api = Api::new();
    api.call("POST", "/api/v1/channels", channel("a")).await;
    let mint = |body: Value| api.call("POST", "/api/v1/channels/a/mint", body);
    let policy =
        || -> TicketPolicy { api.store.find::<Channel>("a").unwrap().unwrap().document.access.ticket.unwrap() };
    let opens = |policy: &TicketPolicy, url: &str| {
        let (path, query) = url.split_once('?').unwrap();
        let now = crate::store::now_ms() / 1000;
        let client = "192.0.2.7".parse().unwrap();
        let presented = Presented { path, query: Some(query), cookie: None, header: None, client, now };
        Verifier::new("a", policy).unwrap().verify(&presented).is_ok()
    };
    let url = |answer: &Answer| answer.json["urls"][0]["url"].as_str().unwrap().to_owned();

    let first =
        mint(json!({"path": "live/index.m3u8", "ttl_s": 60, "session": "s-1", "network": "192.0.2.0/24"})).await;
    assert_eq!((first.status, &first.json["session"]), (StatusCode::OK, &json!("s-1")));
    assert!(url(&first).starts_with("/a/live/index.m3u8?ticket=") && opens(&policy(), &url(&first)));
    let elsewhere = mint(json!({"path": "x", "network": "198.51.100.0/24", "base": "https://cdn.test/"})).await;
    let elsewhere = url(&elsewhere);
    assert!(!opens(&policy(), elsewhere.strip_prefix("https://cdn.test").unwrap()));

    // Rotation: the new key signs, the old one still opens; once removed, it does not.
    let rotated = api.call("POST", "/api/v1/channels/a/keys/rotate", json!({"id": "k2"})).await;
    assert_eq!((rotated.status, &rotated.json["signing"]), (StatusCode::CREATED, &json!(true)));
    assert_eq!(rotated.json["secret"].as_str().unwrap().len(), 64);
    let keys = api.call("GET", "/api/v1/channels/a/keys", Value::Null).await;
    assert_eq!(keys.json, json!({"keys": [{"id": "k2", "signing": true}, {"id": "k1", "signing": false}]}));
    let second = url(&mint(json!({"path": "live/index.m3u8"})).await);
    assert!(opens(&policy(), &url(&first)) && opens(&policy(), &second));
    assert_eq!(api.call("DELETE", "/api/v1/channels/a/keys/k1", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert!(!opens(&policy(), &url(&first)) && opens(&policy(), &second));
    api.call("DELETE", "/api/v1/channels/a/keys/k2", Value::Null).await.is_problem(409, &["last key"]);
    api.call("DELETE", "/api/v1/channels/a/keys/k9", Value::Null).await.is_problem(404, &["k9"]);

    let added = api.call("POST", "/api/v1/channels/a/keys", json!({"secret": "chosen-by-the-operator"})).await;
    assert_eq!((added.status, &added.json["signing"]), (StatusCode::CREATED, &json!(false)));
    assert!(added.json.get("secret").is_none() && policy().keys.len() == 2 && policy().keys[0].id == "k2");
    api.call("POST", "/api/v1/channels/a/keys", json!({"id": "k2"})).await.is_problem(409, &["k2"]);
    api.call("POST", "/api/v1/channels/a/keys", json!({"id": "no spaces"}))
        .await
        .is_problem(422, &["access.ticket.keys[2].id"]);
    api.call("POST", "/api/v1/channels/a/keys", json!({"idd": "k3"})).await.is_problem(422, &["idd"]);

    for (body, field) in [
        (json!({"path": "/x"}), "path"),
        (json!({"path": "x", "ttl_s": 0}), "ttl_s"),
        (json!({"path": "x", "session": "no spaces"}), "session"),
        (json!({"path": "x", "profile": "tencent-z"}), "profile"),
        (json!({"path": "x", "base": "cdn.test"}), "base"),
        (json!({"path": "x", "network": "a"}), "network"),
        (json!({}), "path"),
    ] {
        mint(body).await.is_problem(422, &[&format!("\"field\":\"{field}\"")]);
    }
    api.call("POST", "/api/v1/channels/none/mint", json!({"path": "x"})).await.is_problem(404, &["none"]);
    api.call("PATCH", "/api/v1/channels/a", json!({"access": {"ticket": null}})).await;
    mint(json!({"path": "x"})).await.is_problem(409, &["no ticket"]);
    api.call("POST", "/api/v1/channels/a/keys/rotate", json!({})).await.is_problem(409, &["no ticket"]);
}

#[tokio::test]
async fn every_profile_of_a_channel_is_minted() {
    let api = Api::new();
    let mut channel = channel("a");
    channel["access"]["ticket"]["profiles"] = json!([{"profile": "tencent-d"}, {"profile": "aliyun-b"}, {"profile": "nginx-secure-link", "expression": "$secure_link_expires$uri$remote_addr $secret"}]);
    let made = api.call("POST", "/api/v1/channels", channel).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.json);
    let minted = api.call("POST", "/api/v1/channels/a/mint", json!({"path": "v.mp4"})).await;
    let urls = minted.json["urls"].as_array().unwrap();
    let profiles: Vec<&str> = urls.iter().map(|url| url["profile"].as_str().unwrap()).collect();
    assert_eq!(profiles, ["shoal", "tencent-d", "aliyun-b", "nginx-secure-link"]);
    assert!(urls[..3].iter().all(|url| url["url"].is_string()));
    assert!(urls[3]["error"].as_str().unwrap().contains("client"));
    let one = api.call("POST", "/api/v1/channels/a/mint", json!({"path": "v.mp4", "profile": "tencent-d"})).await;
    assert_eq!(one.json["urls"].as_array().unwrap().len(), 1);
    let given = json!({"path": "v.mp4", "profile": "nginx-secure-link", "client": "192.0.2.7"});
    assert!(api.call("POST", "/api/v1/channels/a/mint", given).await.json["urls"][0]["url"].is_string());
}

#[tokio::test]
async fn commands_without_nodes_and_bad_ones() {
    let api = Api::new();
    let mut a = channel("a");
    a["cache"] = json!({"query_allow": ["v"]});
    api.call("POST", "/api/v1/channels", a).await;
    for body in [
        json!({"scope": "all"}),
        json!({"scope": "channel", "channel": "a"}),
        json!({"scope": "prefix", "channel": "a", "path": "x/"}),
        json!({"scope": "object", "channel": "a", "path": "x?v=1"}),
        json!({"scope": "url", "url": "http://edge.test:8080/a/x?ticket=abc&v=1"}),
        json!({"scope": "url", "url": "/a/x"}),
    ] {
        let answer = api.call("POST", "/api/v1/purge", body).await;
        assert_eq!((answer.status, answer.json), (StatusCode::OK, json!({"ok": true, "results": []})));
    }
    for (path, body, status, word) in [
        ("purge", json!({"scope": "channel", "channel": "none"}), 404, "none"),
        ("purge", json!({"scope": "object", "channel": "a", "path": "/x"}), 422, "path"),
        ("purge", json!({"scope": "url", "url": "http://edge.test/none/x"}), 422, "no channel"),
        ("purge", json!({"scope": "url", "url": "edge.test/a/x"}), 422, "http://host/path"),
        ("purge", json!({"scope": "everything"}), 422, "scope"),
        ("purge", json!({"scope": "all", "nodes": ["n9"]}), 404, "n9"),
        ("purge", json!({}), 422, "scope"),
        ("prefetch", json!({"channel": "a", "paths": []}), 422, "paths"),
        ("prefetch", json!({"channel": "a", "paths": ["ok", "not ok"]}), 422, "paths[1]"),
        ("prefetch", json!({"channel": "a", "items": [{"path": "x", "first": 2, "last": 1}]}), 422, "items[0].path"),
        ("prefetch", json!({"channel": "a", "paths": ["/none/x"]}), 422, "url"),
        ("prefetch", json!({"channel": "none", "paths": ["x"]}), 404, "none"),
        ("prefetch", json!({"channel": "a", "paths": ["x"], "nods": []}), 422, "nods"),
    ] {
        api.call("POST", &format!("/api/v1/{path}"), body).await.is_problem(status, &[word]);
    }
    api.call("POST", "/api/v1/nodes/n9/drain", Value::Null).await.is_problem(404, &["n9"]);
    api.call("POST", "/api/v1/purge?wait_ms=60001", json!({"scope": "all"})).await.is_problem(400, &["wait_ms"]);
    // A node that was here and is not now is told apart from one that never was.
    let seen = crate::store::NodeSeen { node: "n1".to_owned(), ..Default::default() };
    api.store.node_joined("other", &seen).unwrap();
    let answer = api.call("POST", "/api/v1/nodes/n1/drain", Value::Null).await;
    assert_eq!(
        (&answer.json["ok"], &answer.json["results"][0]["error"]),
        (&json!(false), &json!("the node is not connected"))
    );
}

#[tokio::test]
async fn a_database_that_fails_is_a_503_with_a_remedy_and_a_count() {
    let api = Api::new();
    api.call("POST", "/api/v1/channels", channel("a")).await;
    api.store.fill_up();
    let mut large = channel("b");
    large["hosts"] = (0..200).map(|n| format!("host-with-a-long-name-{n}.example.com")).collect();
    let answer = api.call("POST", "/api/v1/channels", large.clone()).await;
    answer.is_problem(503, &["control.sqlite3", "free some space"]);
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
    // Reading goes on, and so does writing once there is room.
    assert_eq!(api.call("GET", "/api/v1/channels/a", Value::Null).await.status, StatusCode::OK);
    let metrics = api.call("GET", "/metrics", Value::Null).await.json;
    assert!(metrics.as_str().unwrap().contains("shoal_control_db_errors_total{kind=\"full\"} 1\n"));
    assert!(metrics.as_str().unwrap().contains("shoal_control_audit_failures_total 1\n"), "nor could that be noted");
    api.store.empty_again();
    assert_eq!(api.call("POST", "/api/v1/channels", large).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn readiness_needs_the_link_and_labels_are_bounded() {
    let api = Api::new();
    assert_eq!(api.call("GET", "/readyz", Value::Null).await.status, StatusCode::OK);
    api.app.set_linked(false);
    assert_eq!(api.call("GET", "/readyz", Value::Null).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(api.call("GET", "/healthz", Value::Null).await.status, StatusCode::OK);
    for n in 0..20 {
        api.call("GET", &format!("/api/v1/channels/c{n}"), Value::Null).await;
        api.send(
            Request::builder()
                .method(Method::from_bytes(format!("M{n}").as_bytes()).unwrap())
                .uri("/healthz")
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    }
    let text = api.call("GET", "/metrics", Value::Null).await.json;
    let lines = text.as_str().unwrap().lines().filter(|line| line.starts_with("shoal_control_requests_total{"));
    let lines: Vec<&str> = lines.collect();
    assert!(
        lines.contains(
            &"shoal_control_requests_total{method=\"GET\",route=\"/api/v1/channels/{id}\",status=\"404\"} 20"
        ),
        "{lines:?}"
    );
    assert!(lines.len() < 10, "{lines:?}");
}
