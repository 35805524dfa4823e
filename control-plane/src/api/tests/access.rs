//! Who may do what, and that it is noted.

use std::net::SocketAddr;

use super::*;
use crate::access::Role;
use crate::rest::client::Remote;
use crate::store::{TokenRow, now_ms};

/// An operation of the document.
struct Described {
    method: String,
    path: String,
    id: String,
    role: Role,
    changes: bool,
}

fn described() -> Vec<Described> {
    let document = document();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(role) = operation["x-role"].as_str() else { continue };
            let text = operation["description"].as_str().unwrap();
            assert!(text.contains(&format!("the role {role}")), "{text}");
            for status in ["401", "403", "429"] {
                assert!(operation["responses"].get(status).is_some(), "{method} {path}: {status}");
            }
            found.push(Described {
                method: method.to_uppercase(),
                path: path.clone(),
                id: operation["operationId"].as_str().unwrap().to_owned(),
                role: role.parse().unwrap(),
                changes: text.contains("audit log"),
            });
        }
    }
    found
}

impl Api {
    /// Makes a token through the API.
    async fn token(&self, name: &str, role: Role) -> String {
        let made = self.call("POST", "/api/v1/tokens", json!({"name": name, "role": role})).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.json);
        made.json["token"].as_str().unwrap().to_owned()
    }

    async fn call_as(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        self.call_from("192.0.2.1:1000", token, method, path, body).await
    }

    async fn call_from(&self, remote: &str, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json");
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(Remote(remote.parse::<SocketAddr>().unwrap()));
        self.send(request).await
    }

    /// The newest entries of the audit log.
    async fn log(&self, query: &str) -> Vec<Value> {
        let page = self.call("GET", &format!("/api/v1/audit?{query}"), Value::Null).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.json);
        page.json["items"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn every_operation_is_for_its_role_and_those_above() {
    let api = Api::new();
    let mut tokens = Vec::new();
    for role in Role::ALL {
        tokens.push((role, api.token(role.name(), role).await));
    }
    let operations = described();
    assert!(operations.iter().any(|operation| operation.role == Role::Viewer));
    for Described { method, path, role: least, .. } in operations {
        let target = target(&path);
        let open = Request::builder().method(&*method).uri(&target).body(Body::empty()).unwrap();
        api.send(open).await.is_problem(401, &["token"]);
        let mut wrong = request(&method, &target).body(Body::empty()).unwrap();
        wrong.headers_mut().insert(header::AUTHORIZATION, "Bearer wrong".parse().unwrap());
        api.send(wrong).await.is_problem(401, &["token"]);
        for (role, token) in &tokens {
            let answer = api.call_as(token, &method, &target, Value::Null).await;
            if *role < least {
                answer.is_problem(403, &[&format!("role {least}"), role.name()]);
                assert!(answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap().contains("insufficient_scope"));
            } else {
                let status = answer.status.as_u16();
                assert!(status != 401 && status != 403, "{method} {path} as {role}: {}", answer.json);
            }
        }
    }
}

#[tokio::test]
async fn roles_are_given_as_the_table_says() {
    let operations = described();
    let role = |id: &str| operations.iter().find(|operation| operation.id == id).unwrap().role;
    for id in ["listChannels", "readTenant", "listNodes", "readSnapshot", "readLedger", "cacheExplain", "listBlocks"] {
        assert_eq!(role(id), Role::Viewer, "{id}");
    }
    for id in ["createChannel", "patchChannel", "purge", "drainNode", "block", "prefetch", "mintUrl", "mintCredential"]
    {
        assert_eq!(role(id), Role::Operator, "{id}");
    }
    for id in [
        "addKey",
        "listKeys",
        "rotateSecrets",
        "createToken",
        "listUsers",
        "changeUser",
        "listAudit",
        "rotatePassKeys",
        "addAppKey",
    ] {
        assert_eq!(role(id), Role::Admin, "{id}");
    }
    let reading = ["cacheExplain", "checkUrl", "explainConf"];
    for operation in &operations {
        assert_eq!(
            operation.changes,
            operation.method != "GET" && !reading.contains(&&*operation.id),
            "{}",
            operation.id
        );
    }
}

#[tokio::test]
async fn every_operation_that_changes_something_is_noted_and_no_other() {
    let api = Api::new();
    let operator = api.token("robot", Role::Operator).await;
    for Described { method, path, id, role, changes } in described() {
        let newest = api.log("limit=1").await[0]["id"].as_u64().unwrap();
        api.call_as(&operator, &method, &target(&path), Value::Null).await;
        let log = api.log("limit=2").await;
        if !changes {
            assert_eq!(log[0]["id"], newest, "{id}");
            continue;
        }
        assert_eq!((&log[0]["action"], &log[0]["actor"]), (&json!(id), &json!("robot")), "{}", log[0]);
        assert_eq!(log[0]["request"], format!("{method} {}", target(&path)));
        assert_eq!((&log[0]["kind"], &log[0]["role"]), (&json!("token"), &json!("operator")));
        assert_eq!(log[0]["address"], "192.0.2.1");
        assert_eq!(log[0]["status"] == 403, role == Role::Admin, "{}", log[0]);
        assert_eq!(log[1]["id"], newest, "one entry for each");
    }
}

#[tokio::test]
async fn the_log_tells_what_changed_and_no_secret() {
    let api = Api::new();
    let made = api.call("POST", "/api/v1/channels", channel("a")).await;
    let patched = api.call("PATCH", "/api/v1/channels/a", json!({"enabled": false})).await;
    let entry = &api.log("limit=1").await[0];
    let revision = |answer: &Answer| answer.etag().trim_matches('"').parse::<u64>().unwrap();
    assert_eq!((&entry["before"], &entry["after"]), (&json!(revision(&made)), &json!(revision(&patched))));
    assert_eq!(entry["change"], json!([{"field": "enabled", "from": true, "to": false}]));
    assert_eq!((&entry["target"], &entry["outcome"]), (&json!("channel a"), &json!("done")));
    assert_eq!((&entry["status"], &entry["actor"]), (&Value::Null, &json!("token_file")), "with the change itself");

    let rotated =
        api.call("POST", "/api/v1/channels/a/keys/rotate", json!({"id": "k2", "secret": "never-tell-1234567"}));
    assert_eq!(rotated.await.status, StatusCode::CREATED);
    assert!(api.log("limit=1").await[0]["change"].to_string().contains("k2"));
    api.call("POST", "/api/v1/users", json!({"name": "eve", "role": "admin", "password": "never-tell-this"})).await;
    api.call("PATCH", "/api/v1/users/eve", json!({"password": "never-tell-that"})).await;
    api.call("POST", "/api/v1/users", json!({"name": "eve", "role": "admin", "password": "never-tell-this"})).await;
    api.call("POST", "/api/v1/purge", json!({"scope": "url", "url": "/a/x?ticket=never-tell"})).await;
    let token = api.token("robot", Role::Viewer).await;
    api.call("PUT", "/api/v1/tenants/t", json!({"relay": {"secrets": [{"id": "s", "secret": "never-tell-1234567"}]}}))
        .await;
    api.call("PATCH", "/api/v1/channels/a", json!({"enabled": 7})).await;
    assert_eq!(api.call("DELETE", "/api/v1/channels/a", Value::Null).await.status, StatusCode::NO_CONTENT);

    let log = api.log("limit=1000").await;
    let text = serde_json::to_string(&log).unwrap();
    assert!(!text.contains("never-tell") && !text.contains("the-first-secret") && !text.contains(&token), "{text}");
    let actions: Vec<&str> = log.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    let expected = [
        "deleteChannel",
        "patchChannel",
        "replaceTenant",
        "createToken",
        "purge",
        "createUser",
        "changeUser",
        "createUser",
        "rotateKeys",
        "patchChannel",
        "createChannel",
    ];
    assert_eq!(actions, expected);
    let purge = &log[4];
    assert_eq!((&purge["status"], &purge["change"]["url"]), (&json!(200), &json!("/a/x?***")), "{purge}");
    assert_eq!((&log[1]["outcome"], &log[1]["status"]), (&json!("refused"), &json!(422)));
    assert_eq!((&log[5]["outcome"], &log[5]["status"]), (&json!("refused"), &json!(409)));

    // Pages and filters.
    let page = api.call("GET", "/api/v1/audit?limit=2&action=patchChannel", Value::Null).await.json;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next"]), (2, &Value::Null));
    let first = api.call("GET", "/api/v1/audit?limit=3", Value::Null).await.json;
    let rest = api.log(&format!("before={}", first["next"])).await;
    assert_eq!((rest.len(), &rest[0]["id"]), (expected.len() - 3, &log[3]["id"]));
    assert_eq!(api.log("outcome=refused").await.len(), 2);
    assert_eq!(api.log("target=channel%20a").await.len(), 4);
    assert_eq!(api.log("actor=nobody").await.len(), 0);
    assert_eq!(api.log(&format!("from={}", now_ms() / 1000 + 9)).await.len(), 0);
    assert_eq!(api.log("from=9999999999999999999").await.len(), 0);
    api.call("GET", "/api/v1/audit?outcome=odd", Value::Null).await.is_problem(400, &["outcome", "refused"]);
}

#[tokio::test]
async fn tokens_are_shown_once_and_end() {
    let api = Api::new();
    let token = api.token("robot", Role::Viewer).await;
    api.call("POST", "/api/v1/tokens", json!({"name": "robot", "role": "admin"})).await.is_problem(409, &["robot"]);
    for (body, field) in [
        (json!({"name": "no spaces", "role": "viewer"}), "name"),
        (json!({"name": "x", "role": "boss"}), "role"),
        (json!({"name": "x", "role": "viewer", "days": 0}), "days"),
        (json!({"name": "x", "role": "viewer", "days": 3651}), "days"),
        (json!({"name": "token_file", "role": "viewer"}), "name"),
    ] {
        api.call("POST", "/api/v1/tokens", body).await.is_problem(422, &[&format!("\"field\":\"{field}\"")]);
    }
    assert_eq!(api.call_as(&token, "GET", "/api/v1/channels", Value::Null).await.status, StatusCode::OK);
    let list = api.call("GET", "/api/v1/tokens", Value::Null).await.json;
    assert_eq!((&list["items"][0]["name"], &list["items"][0]["created_by"]), (&json!("robot"), &json!("token_file")));
    assert!(list["items"][0]["last_used_ms"].is_u64() && !list.to_string().contains(&token[10..]));
    assert_eq!(api.call("DELETE", "/api/v1/tokens/robot", Value::Null).await.status, StatusCode::NO_CONTENT);
    api.call("DELETE", "/api/v1/tokens/robot", Value::Null).await.is_problem(404, &["robot"]);
    api.call_as(&token, "GET", "/api/v1/channels", Value::Null).await.is_problem(401, &["token"]);

    let row = |expires_ms| TokenRow {
        name: format!("until-{expires_ms}"),
        role: Role::Viewer,
        created_by: "test".into(),
        created_ms: 0,
        expires_ms: Some(expires_ms),
        last_used_ms: None,
    };
    for (expires, good) in [(now_ms() - 1, false), (now_ms() + 60_000, true)] {
        let token = crate::access::secret::new_token().unwrap();
        api.store.create_token(&row(expires), &crate::access::secret::hash(&token)).unwrap();
        let answer = api.call_as(&token, "GET", "/api/v1/channels", Value::Null).await;
        assert_eq!(answer.status == StatusCode::OK, good, "{}", answer.json);
    }
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down_by_address_and_the_right_one_is_not() {
    let api = Api::new();
    let right = api.token("robot", Role::Viewer).await;
    let looks_right = crate::access::secret::new_token().unwrap();
    let mut wrong = 0;
    let limited = loop {
        let guess = if wrong % 2 == 0 { "guess" } else { &looks_right };
        let answer = api.call_from("198.51.100.7:1", guess, "GET", "/api/v1/channels", Value::Null).await;
        if answer.status != StatusCode::UNAUTHORIZED {
            break answer;
        }
        wrong += 1;
        assert!(wrong < 100, "nothing slows it down");
    };
    limited.is_problem(429, &["too many wrong tokens"]);
    assert!(limited.headers[header::RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(wrong, crate::access::attempts::FREE_OF_ADDRESS as usize);
    let others = api.call_from("198.51.100.8:1", "guess", "GET", "/api/v1/channels", Value::Null).await;
    assert_eq!(others.status, StatusCode::UNAUTHORIZED);
    let same = api.call_from("198.51.100.7:2", &right, "GET", "/api/v1/channels", Value::Null).await;
    assert_eq!(same.status, StatusCode::OK, "its owner is not kept out");
    let noted = api.log("action=logIn").await;
    assert_eq!(noted.len(), wrong + 1, "what was turned away unchecked is only counted");
    assert_eq!((&noted[1]["address"], &noted[1]["role"]), (&json!("198.51.100.7"), &Value::Null));
    let metrics = api.call("GET", "/metrics", Value::Null).await.json;
    assert!(metrics.as_str().unwrap().contains("shoal_control_login_failures_total{kind=\"limited\"} 1\n"));
}

#[tokio::test]
async fn users_come_change_and_go_but_for_the_last_admin() {
    let api = Api::new();
    let user = |name: &str, role: &str| json!({"name": name, "role": role, "password": "long enough it is"});
    let made = api.call("POST", "/api/v1/users", user("alice", "admin")).await;
    assert_eq!((made.status, &made.json["role"]), (StatusCode::CREATED, &json!("admin")));
    assert!(!made.json.to_string().contains("long enough"));
    api.call("POST", "/api/v1/users", user("alice", "viewer")).await.is_problem(409, &["alice"]);
    let short =
        api.call("POST", "/api/v1/users", json!({"name": "bob", "role": "viewer", "password": "too-short"})).await;
    short.is_problem(422, &["\"field\":\"password\"", "12"]);
    assert!(!short.json.to_string().contains("too-short"));
    api.call("POST", "/api/v1/users", user("Bob", "viewer")).await.is_problem(422, &["\"field\":\"name\""]);

    api.call("DELETE", "/api/v1/users/alice", Value::Null).await.is_problem(409, &["last admin"]);
    api.call("PATCH", "/api/v1/users/alice", json!({"role": "operator"})).await.is_problem(409, &["last admin"]);
    api.call("POST", "/api/v1/users", user("bob", "viewer")).await;
    let changed = api.call("PATCH", "/api/v1/users/bob", json!({"role": "admin"})).await;
    assert_eq!((changed.status, &changed.json["role"]), (StatusCode::OK, &json!("admin")));
    assert_eq!(api.call("DELETE", "/api/v1/users/alice", Value::Null).await.status, StatusCode::NO_CONTENT);
    api.call("DELETE", "/api/v1/users/alice", Value::Null).await.is_problem(404, &["alice"]);
    api.call("PATCH", "/api/v1/users/alice", json!({})).await.is_problem(404, &["alice"]);
    let list = api.call("GET", "/api/v1/users?limit=1", Value::Null).await.json;
    assert_eq!((&list["items"][0]["name"], &list["next"]), (&json!("bob"), &Value::Null));
    assert!(!list.to_string().contains("argon2"));
}

#[tokio::test]
async fn an_operator_changes_channels_but_not_their_keys() {
    let api = Api::new();
    let operator = api.token("robot", Role::Operator).await;
    let call = async |method: &str, path: &str, body: Value| api.call_as(&operator, method, path, body).await;
    call("POST", "/api/v1/channels", channel("a")).await.is_problem(403, &["only an admin"]);
    api.call("POST", "/api/v1/channels", channel("a")).await;
    assert_eq!(call("PATCH", "/api/v1/channels/a", json!({"enabled": false})).await.status, StatusCode::OK);
    let read = call("GET", "/api/v1/channels/a", Value::Null).await.json;
    assert_eq!(call("PUT", "/api/v1/channels/a", read.clone()).await.status, StatusCode::OK, "*** keeps them");
    for ticket in [
        Value::Null,
        json!({"keys": [{"id": "k1", "secret": "another-secret-of-mine"}]}),
        json!({"keys": [{"id": "k1", "secret": "***"}, {"id": "k2", "secret": "another-secret-of-mine"}]}),
    ] {
        let patch = json!({"access": {"ticket": ticket}});
        call("PATCH", "/api/v1/channels/a", patch.clone()).await.is_problem(403, &["keys and secrets"]);
        let mut whole = read.clone();
        whole["access"]["ticket"] = ticket;
        call("PUT", "/api/v1/channels/a", whole).await.is_problem(403, &["keys and secrets"]);
    }
    let mut open = channel("b");
    open.as_object_mut().unwrap().remove("access");
    assert_eq!(call("POST", "/api/v1/channels", open).await.status, StatusCode::CREATED);
    let tenant = json!({"relay": {"secrets": [{"id": "s", "secret": "another-secret-of-mine"}]}});
    call("PUT", "/api/v1/tenants/t", tenant).await.is_problem(403, &["keys and secrets"]);
    assert_eq!(call("PUT", "/api/v1/tenants/t", json!({"relay": {}})).await.status, StatusCode::CREATED);
}
