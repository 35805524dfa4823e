//! Tenants, their secrets, and credentials.

use shoal_link::Tenant;
use shoal_link::tenant::RelaySecret;
use shoal_stun::credentials::{TimedName, time_limited_password};

use super::*;

const SECRET: &str = "the-first-secret-of-all";

fn tenant(id: &str) -> Value {
    json!({"id": id, "relay": {"secrets": [{"id": "s1", "secret": SECRET}], "allow": ["10.0.0.0/8"]}})
}

/// Its secrets as stored.
fn secrets(api: &Api, id: &str) -> Vec<RelaySecret> {
    api.store.find::<Tenant>(id).unwrap().unwrap().document.relay.secrets
}

#[tokio::test]
async fn a_tenant_s_life() {
    let api = Api::new();
    let made = api.call("PUT", "/api/v1/tenants/acme", tenant("acme")).await;
    assert_eq!(
        (made.status, &made.headers[header::LOCATION]),
        (StatusCode::CREATED, &"/api/v1/tenants/acme".parse().unwrap())
    );
    api.call("POST", "/api/v1/tenants", tenant("acme")).await.is_problem(409, &["\"id\"", "tenant `acme`", "PUT"]);
    assert_eq!(api.call("POST", "/api/v1/tenants", json!({"id": "zero"})).await.status, StatusCode::CREATED);

    // Read, change, replace: the secret that was never shown stays.
    let read = api.call("GET", "/api/v1/tenants/acme", Value::Null).await;
    assert_eq!((read.etag(), &read.json), (made.etag(), &made.json));
    assert_eq!(read.json["relay"]["secrets"], json!([{"id": "s1", "secret": "***"}]));
    let mut document = read.json.clone();
    document["relay"]["allocations"] = json!(9);
    let replaced = api.call_if("PUT", "/api/v1/tenants/acme", Some(&read.etag()), document.clone()).await;
    assert_eq!((replaced.status, &replaced.json["relay"]["allocations"]), (StatusCode::OK, &json!(9)));
    assert_eq!(secrets(&api, "acme")[0].secret, SECRET);
    api.call_if("PUT", "/api/v1/tenants/acme", Some(&read.etag()), document.clone())
        .await
        .is_problem(412, &["tenant `acme`", &replaced.etag().replace('"', "\\\"")]);
    api.call("PUT", "/api/v1/tenants/other", document).await.is_problem(422, &["\"id\"", "rename a tenant"]);
    let patched = api.call("PATCH", "/api/v1/tenants/acme", json!({"relay": {"deny": ["192.0.2.0/24"]}})).await;
    assert_eq!((patched.status, &patched.json["relay"]["allocations"]), (StatusCode::OK, &json!(9)));
    assert_eq!(secrets(&api, "acme")[0].secret, SECRET);

    let page = api.call("GET", "/api/v1/tenants?limit=1", Value::Null).await;
    assert_eq!((&page.json["items"][0]["id"], &page.json["next"]), (&json!("acme"), &json!("acme")));
    let page = api.call("GET", "/api/v1/tenants?limit=1&after=acme", Value::Null).await;
    assert_eq!((&page.json["items"][0]["id"], &page.json["next"]), (&json!("zero"), &Value::Null));
    api.call("GET", "/api/v1/tenants?limit=0", Value::Null).await.is_problem(400, &["limit"]);

    for (body, field) in [
        (json!({"id": "a:b"}), "id"),
        (json!({"id": "a", "relay": {"secrets": [{"id": "s", "secret": "short"}]}}), "relay.secrets[0].secret"),
        (json!({"id": "a", "relay": {"secrets": [{"id": "s", "secret": "***"}]}}), "relay.secrets[0].secret"),
        (json!({"id": "a", "relay": {"allow": ["10.0.0.1/8"]}}), "relay.allow[0]"),
        (json!({"id": "a", "relay": {"allow": ["10.0.0.0"]}}), "relay.allow[0]"),
        (json!({"id": "a", "relay": {"allowed": []}}), "relay.allowed"),
    ] {
        api.call("POST", "/api/v1/tenants", body).await.is_problem(422, &[&format!("\"field\":\"{field}\"")]);
    }

    api.call_if("DELETE", "/api/v1/tenants/acme", Some(&read.etag()), Value::Null).await.is_problem(412, &[]);
    assert_eq!(api.call("DELETE", "/api/v1/tenants/acme", Value::Null).await.status, StatusCode::NO_CONTENT);
    api.call("GET", "/api/v1/tenants/acme", Value::Null).await.is_problem(404, &["/api/v1/tenants"]);
    api.call("DELETE", "/api/v1/tenants/acme", Value::Null).await.is_problem(404, &["acme"]);
}

#[tokio::test]
async fn no_answer_holds_a_tenant_s_secret() {
    let api = Api::new();
    api.call("PUT", "/api/v1/tenants/acme", tenant("acme")).await;
    link::publish_now(&api.app).await.unwrap();
    for path in ["tenants/acme", "tenants", "tenants/acme/secrets", "snapshot"] {
        let text = api.call("GET", &format!("/api/v1/{path}"), Value::Null).await.json.to_string();
        assert!(text.contains("s1") && !text.contains(SECRET), "{path}: {text}");
    }
    let mut bad = tenant("acme");
    bad["relay"]["secrets"][0]["secret"] = json!(1234567);
    let answer = api.call("PUT", "/api/v1/tenants/acme", bad).await;
    answer.is_problem(422, &["relay.secrets[0].secret"]);
    assert!(!answer.json.to_string().contains("1234567"));
    // What nodes are sent has it.
    assert_eq!(api.app.hub.newest().snapshot.tenants[0].relay.secrets[0].secret, SECRET);
}

#[tokio::test]
async fn secrets_rotate_and_credentials_follow() {
    let api = Api::new();
    let post = |path: &str, body: Value| {
        let path = format!("/api/v1/tenants/{path}");
        let api = &api;
        async move { api.call("POST", &path, body).await }
    };
    api.call("PUT", "/api/v1/tenants/acme", json!({})).await;
    post("acme/credentials", json!({})).await.is_problem(409, &["acme", "secrets"]);

    // The first one signs, however it came in.
    let first = post("acme/secrets", json!({"id": "s1"})).await;
    assert_eq!((first.status, &first.json["signing"]), (StatusCode::CREATED, &json!(true)));
    assert_eq!(first.json["secret"].as_str(), Some(&*secrets(&api, "acme")[0].secret));
    let added = post("acme/secrets", json!({"secret": "chosen-by-the-operator"})).await;
    assert_eq!((&added.json["signing"], added.json.get("secret")), (&json!(false), None));
    let before = post("acme/credentials", json!({"user": "alice", "ttl_s": 60})).await;
    let rotated = post("acme/secrets/rotate", json!({"id": "s2"})).await;
    assert_eq!((rotated.status, &rotated.json["signing"]), (StatusCode::CREATED, &json!(true)));
    let list = api.call("GET", "/api/v1/tenants/acme/secrets", Value::Null).await.json;
    assert_eq!(list["secrets"][0], json!({"id": "s2", "signing": true}));
    assert_eq!(list["secrets"][1], json!({"id": "s1", "signing": false}));
    assert_eq!(list["secrets"].as_array().unwrap().len(), 3);
    let after = post("acme/credentials", json!({"user": "alice"})).await;

    // Each is made with what signed then.
    let stored = secrets(&api, "acme");
    for (answer, secret, ttl) in [(&before, &stored[1], 60), (&after, &stored[0], 86_400)] {
        let username = answer.json["username"].as_str().unwrap();
        let name = TimedName::parse(username).unwrap();
        let left = name.expires - crate::store::now_ms() / 1000;
        assert!((ttl - 5..=ttl).contains(&left), "{left}");
        assert_eq!((name.tenant, name.user, &answer.json["ttl"]), ("acme", "alice", &json!(ttl)));
        let password = time_limited_password(secret.secret.as_bytes(), username);
        assert_eq!(answer.json["password"].as_str().unwrap().as_bytes(), password);
    }
    assert!(after.json.get("uris").is_none());

    // A full list takes no more; the last one may go, and then nothing is made.
    post("acme/secrets", json!({})).await;
    post("acme/secrets", json!({})).await.is_problem(422, &["relay.secrets", "4"]);
    post("acme/secrets", json!({"id": "s2"})).await.is_problem(409, &["s2"]);
    post("acme/secrets", json!({"idd": "s3"})).await.is_problem(422, &["idd"]);
    post("none/secrets", json!({})).await.is_problem(404, &["none"]);
    api.call("DELETE", "/api/v1/tenants/acme/secrets/s9", Value::Null).await.is_problem(404, &["s9"]);
    for secret in secrets(&api, "acme") {
        let path = format!("/api/v1/tenants/acme/secrets/{}", secret.id);
        assert_eq!(api.call("DELETE", &path, Value::Null).await.status, StatusCode::NO_CONTENT);
    }
    post("acme/credentials", json!({})).await.is_problem(409, &["no secret"]);
    post("none/credentials", json!({})).await.is_problem(404, &["none"]);
}

#[tokio::test]
async fn the_default_tenant_s_names_have_no_tenant_in_them() {
    let api = Api::new();
    api.call("PUT", "/api/v1/tenants/default", tenant("default")).await;
    let mint = |body: Value| api.call("POST", "/api/v1/tenants/default/credentials", body);
    let made = mint(json!({"user": "bob"})).await;
    let name = made.json["username"].as_str().unwrap();
    assert!(name.ends_with(":bob") && name.matches(':').count() == 1, "{name}");
    assert_eq!(made.json["password"].as_str().unwrap().as_bytes(), time_limited_password(SECRET.as_bytes(), name));
    // Left to us, each is another.
    let users = [mint(json!({})).await, mint(json!({})).await].map(|made| made.json["username"].clone());
    assert_ne!(users[0], users[1]);
    for (body, field) in [
        (json!({"user": ""}), "user"),
        (json!({"user": "a\tb"}), "user"),
        (json!({"user": "acme:bob"}), "user"),
        (json!({"user": "u".repeat(128)}), "user"),
        (json!({"ttl_s": 0}), "ttl_s"),
        (json!({"ttl_s": 1_000_000_000}), "ttl_s"),
        (json!({"ttl": 60}), "ttl"),
    ] {
        mint(body).await.is_problem(422, &[&format!("\"field\":\"{field}\"")]);
    }
}
