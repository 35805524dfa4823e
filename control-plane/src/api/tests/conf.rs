//! Conf: apps, rules, switches, passes, and the answers of the public API.

use std::net::SocketAddr;

use shoal_conf::signature;
use shoal_ticket::Key;

use super::*;
use crate::conf::nodes::NodeView;
use crate::conf::{self};
use crate::rest::client::Remote;
use crate::store::now_ms;

const SECRET: &str = "the-secret-of-the-app";
const CLIENT: &str = "192.0.2.7:4711";

/// An instance with a channel, an app, a tenant with a relay, and a node.
async fn ready() -> Api {
    let api = Api::new();
    conf::start(&api.app).await.unwrap();
    let mut room = channel("room1");
    room["tenant"] = json!("acme");
    for (path, body) in [
        ("channels", room),
        ("channels", json!({"id": "other", "prefix": "/other/", "origins": [{"id": "o", "url": "http://o.test/"}]})),
        ("tenants", json!({"id": "acme", "relay": {"secrets": [{"id": "s", "secret": "a relay secret, long"}]}})),
        ("apps", app(json!({}))),
    ] {
        let made = api.call("POST", &format!("/api/v1/{path}"), body).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.json);
    }
    settle(&api).await;
    api
}

fn app(access: Value) -> Value {
    json!({"id": "player", "tenant": "acme", "keys": [{"id": "k1", "secret": SECRET}], "access": access})
}

/// The snapshot is published as the task of a running process does it.
async fn settle(api: &Api) {
    link::publish_now(&api.app).await.unwrap();
    conf::refresh(&api.app).await.unwrap();
    api.app.conf.set_nodes(vec![NodeView {
        name: "edge1".to_owned(),
        urls: vec!["http://edge1.test:8080".to_owned()],
        punch: vec!["198.51.100.1:3478".to_owned()],
        relay: vec!["turn:198.51.100.1:3478?transport=udp".to_owned()],
        alive: true,
        ..NodeView::default()
    }]);
}

async fn ask_with(api: &Api, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).header(header::HOST, "api.test:9092");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(Remote(CLIENT.parse::<SocketAddr>().unwrap()));
    public(api, request).await
}

async fn ask(api: &Api, path: &str) -> Answer {
    ask_with(api, path, &[]).await
}

async fn public(api: &Api, request: Request<Body>) -> Answer {
    let response = crate::public::router(Arc::clone(&api.app)).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Answer { status: parts.status, headers: parts.headers, json }
}

fn refused(answer: &Answer, code: &str) {
    assert_eq!((answer.status.as_u16() / 100, &answer.json["code"]), (4, &json!(code)), "{}", answer.json);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
}

const ROOM: &str = "/v1/conf?app=player&channel=room1";

#[tokio::test]
async fn a_viewer_gets_all_that_it_needs_and_it_works() {
    let api = ready().await;
    let answer = ask(&api, "/v1/conf?app=player&channel=room1&asset=live/index.m3u8&session=s-1").await;
    let json = &answer.json;
    assert_eq!(answer.status, StatusCode::OK, "{json}");
    assert_eq!((&json["p2p"], &json["reason"], &json["interval_s"]), (&json!(true), &json!("default"), &json!(16)));
    assert_eq!(answer.headers[header::CACHE_CONTROL], "private, max-age=0");
    let now = now_ms() / 1_000;

    let pass = json["pass"].as_str().unwrap();
    let found = api.app.passes().verify(pass, now).unwrap();
    assert_eq!((&*found.tenant, &*found.app, &*found.channel, &*found.session), ("acme", "player", "room1", "s-1"));
    assert!(!found.relay_only && json["expires"] == found.expires && found.expires > now + 250);
    let endpoints = &json["endpoints"];
    assert_eq!(endpoints["tracker"]["http"], format!("http://api.test:9092/v1/tracker/{pass}/announce"));
    assert_eq!(endpoints["tracker"]["websocket"], format!("ws://api.test:9092/v1/tracker/{pass}/announce"));
    assert_eq!(endpoints["report"], "http://api.test:9092/v1/reports");
    assert_eq!(endpoints["slices"], json!([{"node": "edge1", "url": "http://edge1.test:8080/room1/"}]));
    assert_eq!(endpoints["punch"], json!(["198.51.100.1:3478"]));
    assert_eq!(endpoints["relay"], json!(["turn:198.51.100.1:3478?transport=udp"]));

    // The ticket opens the asset's folder at a node, for this session, and nothing else.
    let policy = api.store.find::<Channel>("room1").unwrap().unwrap().document.access.ticket.unwrap();
    let verifier = Verifier::new("room1", &policy).unwrap();
    let ticket = json["ticket"]["value"].as_str().unwrap();
    let presented = |path| Presented {
        path,
        query: None,
        cookie: None,
        header: Some(ticket),
        client: "203.0.113.1".parse().unwrap(),
        now,
    };
    let opened = verifier.verify(&presented("/room1/live/1.ts")).unwrap();
    assert_eq!((opened.session.unwrap().as_str(), opened.expires), ("s-1", found.expires));
    assert!(verifier.verify(&presented("/room1/vod/1.ts")).is_err());
    let url = format!("http://edge1.test:8080/room1/live/index.m3u8?ticket={ticket}");
    assert_eq!(json["ticket"]["url"], url);

    // The TURN user is as nodes compute it.
    let (name, password) = (json["turn"]["username"].as_str().unwrap(), json["turn"]["credential"].as_str().unwrap());
    assert_eq!(name, format!("{}:acme:s-1", found.expires));
    let right = shoal_stun::credentials::time_limited_password(b"a relay secret, long", name);
    assert_eq!(password.as_bytes(), right.as_slice());

    // By URL, and by JSON, it is the same.
    let by_url = ask(&api, "/v1/conf?app=player&url=https://any.test/room1/live/index.m3u8%3Fx=1&session=s-1").await;
    assert_eq!(by_url.etag(), answer.etag());
    let body = json!({"app": "player", "asset": "room1/live/index.m3u8", "session": "s-1"});
    let post = Request::post("/v1/conf").header(header::HOST, "api.test:9092");
    let post = post.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap();
    assert_eq!(public(&api, post).await.etag(), answer.etag());
}

#[tokio::test]
async fn nothing_is_sent_again_while_what_the_viewer_has_lasts() {
    let api = ready().await;
    let first = ask(&api, ROOM).await;
    let (tag, pass) = (first.etag(), first.json["pass"].as_str().unwrap().to_owned());
    // Without the pass nobody knows what the viewer has.
    assert_eq!(ask_with(&api, ROOM, &[("if-none-match", &tag)]).await.status, StatusCode::OK);
    let bearer = format!("Bearer {pass}");
    let known: &[(&str, &str)] = &[("if-none-match", &tag), ("authorization", &bearer)];
    let again = ask_with(&api, ROOM, known).await;
    assert_eq!((again.status, again.etag()), (StatusCode::NOT_MODIFIED, tag.clone()));
    // The session is the pass's.
    let kept = ask(&api, &format!("{ROOM}&pass={pass}")).await;
    assert_eq!(kept.json["session"], first.json["session"]);
    // One that is half over is renewed.
    let mut old = api.app.passes().verify(&pass, 0).unwrap();
    old.expires = now_ms() / 1_000 + 140;
    let bearer = format!("Bearer {}", api.app.passes().mint(&old).unwrap());
    let renewed = ask_with(&api, ROOM, &[("if-none-match", &tag), ("authorization", &bearer)]).await;
    assert_eq!((renewed.status, renewed.etag()), (StatusCode::OK, tag.clone()));
    // And so is one when anything else has changed.
    api.call("POST", "/api/v1/rules", json!({"id": "r", "tenant": "acme", "parameters": {"peers_max": 3}})).await;
    api.app.conf.set_nodes(Vec::new());
    let changed = ask_with(&api, ROOM, known).await;
    assert_eq!((changed.status, &changed.json["parameters"]["peers_max"]), (StatusCode::OK, &json!(3)));
}

#[tokio::test]
async fn rules_and_switches_hold_at_once_here_and_are_found_by_another_instance() {
    let api = ready().await;
    let metrics = Arc::new(Metrics::new().unwrap());
    let (dir, config) = (TempDir::new(), Config::default());
    let reports = Reports::open(&config.reports, dir.path(), &api.store, metrics.registry()).unwrap();
    let app = App::new(api.store.clone(), reports, metrics, Token::parse(TOKEN).unwrap(), config).unwrap();
    let other = Api { router: router(Arc::clone(&app)), app, store: api.store.clone(), _dir: dir };
    conf::start(&other.app).await.unwrap();
    settle(&other).await;

    let rule = json!({"id": "off-html5", "tenant": "acme", "platforms": ["html5"], "p2p": false});
    let made = api.call("POST", "/api/v1/rules", rule.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.json);
    let html5 = format!("{ROOM}&platform=HTML5");
    let answer = ask(&api, &html5).await;
    assert_eq!((&answer.json["p2p"], &answer.json["rule"]), (&json!(false), &json!("off-html5")));
    assert_eq!((&answer.json["endpoints"]["tracker"], answer.json.get("turn")), (&Value::Null, None));
    assert!(answer.json["pass"].is_string() && answer.json["ticket"].is_object());
    assert_eq!(ask(&api, &format!("{ROOM}&platform=ios")).await.json["p2p"], true);
    assert_eq!(ask(&other, &html5).await.json["p2p"], true);
    conf::refresh(&other.app).await.unwrap();
    assert_eq!(ask(&other, &html5).await.json["p2p"], false);
    // A pass of one is a pass of the other.
    let pass = answer.json["pass"].as_str().unwrap();
    assert!(other.app.passes().verify(pass, now_ms() / 1_000).is_ok());

    let edited = api.call_if("PATCH", "/api/v1/rules/off-html5", Some(&made.etag()), json!({"p2p": true})).await;
    assert_eq!(edited.status, StatusCode::OK);
    api.call_if("PATCH", "/api/v1/rules/off-html5", Some(&made.etag()), json!({"p2p": true}))
        .await
        .is_problem(412, &[]);
    for (switch, reason) in [
        (json!({"tenant": "acme", "channel": "room1", "asset": "a.mp4"}), "switch_asset"),
        (json!({"tenant": "acme", "channel": "room1"}), "switch_channel"),
        (json!({"tenant": "acme"}), "switch_tenant"),
    ] {
        let mut request = switch.clone();
        request["p2p"] = json!(false);
        assert_eq!(api.call("POST", "/api/v1/switches", request).await.status, StatusCode::NO_CONTENT);
        let answer = ask(&api, "/v1/conf?app=player&channel=room1&asset=a.mp4&platform=html5").await;
        assert_eq!((&answer.json["p2p"], &answer.json["reason"]), (&json!(false), &json!(reason)));
    }
    assert_eq!(api.call("GET", "/api/v1/switches", Value::Null).await.json["off"].as_array().unwrap().len(), 3);
    for switch in [
        json!({"tenant": "acme", "p2p": true}),
        json!({"tenant": "acme", "channel": "room1", "p2p": true}),
        json!({"tenant": "acme", "channel": "room1", "asset": "a.mp4", "p2p": true}),
    ] {
        api.call("POST", "/api/v1/switches", switch).await;
    }
    assert_eq!(ask(&api, &html5).await.json["reason"], "rule");
    api.call("POST", "/api/v1/switches", json!({"tenant": "acme", "asset": "x", "p2p": false}))
        .await
        .is_problem(422, &["\"field\":\"asset\""]);
    assert_eq!(api.call("DELETE", "/api/v1/rules/off-html5", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(&api, &html5).await.json["reason"], "default");
    api.call("POST", "/api/v1/rules", json!({"id": "x", "percentage": 101}))
        .await
        .is_problem(422, &["\"field\":\"percentage\""]);
}

#[tokio::test]
async fn each_refusal_has_its_code_and_is_counted() {
    let api = ready().await;
    for (path, code) in [
        ("/v1/conf?app=nobody&channel=room1", "app_unknown"),
        ("/v1/conf?app=player&channel=nothing", "channel_unknown"),
        // It is there, and another tenant's.
        ("/v1/conf?app=player&channel=other", "channel_unknown"),
        ("/v1/conf?app=player&url=http://x/nothing/", "channel_unknown"),
        ("/v1/conf/public?app=player&channel=other", "channel_unknown"),
    ] {
        let answer = ask(&api, path).await;
        refused(&answer, code);
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    let access = json!({"referer": {"allow": ["example.com"], "allow_missing": true},
        "packages": {"allow": ["com.example.*"], "allow_missing": true},
        "user_agent": {"deny": ["curl"]}, "address": {"deny": ["198.51.100.0/24"]}});
    api.call("PUT", "/api/v1/apps/player", app(access)).await;
    for (path, headers, code) in [
        (ROOM, vec![("referer", "https://evil.test/")], "referer"),
        (ROOM, vec![("origin", "https://evil.test")], "referer"),
        (ROOM, vec![("user-agent", "curl/8")], "user_agent"),
        ("/v1/conf?app=player&channel=room1&package=com.evil", vec![], "package"),
    ] {
        let answer = ask_with(&api, path, &headers).await;
        refused(&answer, code);
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
    }
    let good = ask_with(&api, &format!("{ROOM}&package=com.example.tv"), &[("referer", "https://example.com/")]).await;
    assert_eq!(good.status, StatusCode::OK);
    let mut request = Request::get(ROOM).body(Body::empty()).unwrap();
    request.extensions_mut().insert(Remote("198.51.100.9:1".parse::<SocketAddr>().unwrap()));
    refused(&public(&api, request).await, "address");

    api.call("PATCH", "/api/v1/channels/room1", json!({"enabled": false})).await;
    settle(&api).await;
    refused(&ask(&api, ROOM).await, "channel_disabled");
    refused(&ask(&api, "/v1/conf/public?app=player&channel=room1").await, "channel_disabled");
    api.call("PATCH", "/api/v1/apps/player", json!({"enabled": false})).await;
    refused(&ask(&api, ROOM).await, "app_disabled");

    let sums = api.call("GET", "/api/v1/refusals?tenant=acme", Value::Null).await.json;
    let count = |reason: &str, channel: &str| {
        let items = sums["items"].as_array().unwrap();
        let found = items.iter().find(|item| item["reason"] == reason && item["channel"] == channel);
        found.map_or(0, |item| item["requests"].as_u64().unwrap())
    };
    assert_eq!((count("referer", "room1"), count("channel_unknown", ""), count("package", "room1")), (2, 4, 1));
    let text = String::from_utf8(api.app.metrics.export().unwrap()).unwrap();
    assert!(text.contains("shoal_control_refusals_total{reason=\"referer\"} 2"));
    assert!(text.contains("shoal_control_refusals_total{reason=\"app_unknown\"} 1"));
    api.call("GET", "/api/v1/refusals?minutes=16", Value::Null).await.is_problem(400, &["minutes"]);

    for path in ["/v1/conf?app=player", "/v1/conf?app=player&channel=a&colour=red", "/v1/conf?app=player&url=x"] {
        assert_eq!(ask(&api, path).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn signed_requests_pass_once_and_a_pass_stands_in_for_the_next_ones() {
    let api = ready().await;
    let required = json!({"signature": "required", "replay_window_s": 30});
    assert_eq!(api.call("PUT", "/api/v1/apps/player", app(required)).await.status, StatusCode::OK);
    refused(&ask(&api, ROOM).await, "signature_missing");
    refused(&ask(&api, "/v1/conf/public?app=player&channel=room1").await, "signature_missing");
    let now = now_ms() / 1_000;
    let key = Key { id: "k1".to_owned(), secret: SECRET.to_owned() };
    let parameters = [("app", "player"), ("channel", "room1"), ("viewer", "zoë")];
    let signed = |at, nonce| signature::sign(&key, at, nonce, &parameters).unwrap();
    let path = format!("{ROOM}&viewer=zo%C3%AB");
    let first = signed(now, "nonce-0001");
    let answer = ask_with(&api, &path, &[("x-shoal-signature", &first)]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json);
    refused(&ask(&api, &format!("{path}&signature={first}")).await, "signature_replayed");
    assert_eq!(ask(&api, &format!("{path}&signature={}", signed(now, "nonce-0002"))).await.status, StatusCode::OK);
    for (signature, code) in [
        (signed(now - 60, "nonce-0003"), "signature_time"),
        (signed(now, "nonce-0004").replace("k1.", "k2."), "signature_key"),
        (signed(now, "nonce-0005").replace("nonce-0005", "nonce-0006"), "signature_wrong"),
        ("nonsense".to_owned(), "signature_malformed"),
    ] {
        refused(&ask_with(&api, &path, &[("x-shoal-signature", &signature)]).await, code);
    }
    refused(&ask_with(&api, ROOM, &[("x-shoal-signature", &signed(now, "nonce-0007"))]).await, "signature_wrong");

    let pass = answer.json["pass"].as_str().unwrap();
    assert_eq!(ask(&api, &format!("{path}&pass={pass}")).await.status, StatusCode::OK);
    refused(&ask(&api, &format!("{path}&pass={}x", &pass[1..])).await, "signature_missing");

    // A key that was rotated away no longer signs.
    let rotated = api.call("POST", "/api/v1/apps/player/keys/rotate", json!({"id": "k2"})).await;
    assert_eq!((rotated.status, &rotated.json["signing"]), (StatusCode::CREATED, &json!(true)));
    assert!(rotated.json["secret"].as_str().unwrap().len() >= 32);
    assert_eq!(ask(&api, &format!("{path}&signature={}", signed(now, "nonce-0008"))).await.status, StatusCode::OK);
    let gone = api.call("DELETE", "/api/v1/apps/player/keys/k1", Value::Null).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    refused(&ask(&api, &format!("{path}&signature={}", signed(now, "nonce-0009"))).await, "signature_key");
    api.call("DELETE", "/api/v1/apps/player/keys/k2", Value::Null).await.is_problem(409, &["last key"]);
    api.call("POST", "/api/v1/apps/player/keys", json!({"id": "k2"})).await.is_problem(409, &["k2"]);
    let keys = api.call("GET", "/api/v1/apps/player/keys", Value::Null).await;
    assert_eq!(keys.json, json!({"keys": [{"id": "k2", "signing": true}]}));
    let read = api.call("GET", "/api/v1/apps/player", Value::Null).await;
    assert_eq!(read.json["keys"], json!([{"id": "k2", "secret": "***"}]));
}

#[tokio::test]
async fn what_is_nobody_s_own_can_be_cached() {
    let api = ready().await;
    api.call("POST", "/api/v1/rules", json!({"id": "all", "tenant": "acme", "parameters": {"peers_max": 5}})).await;
    api.call("POST", "/api/v1/rules", json!({"id": "some", "tenant": "acme", "percentage": 100, "p2p": false})).await;
    let answer = ask(&api, "/v1/conf/public?app=player&channel=room1").await;
    assert_eq!((answer.status, &answer.json["p2p"]), (StatusCode::OK, &json!(true)), "{}", answer.json);
    assert_eq!(answer.headers[header::CACHE_CONTROL], "public, max-age=16");
    for own in ["session", "pass", "expires", "ticket", "turn"] {
        assert_eq!(answer.json.get(own), None);
    }
    assert!(answer.json["endpoints"]["tracker"]["http"].as_str().unwrap().contains("/{pass}/"));
    let again = ask_with(&api, "/v1/conf/public?app=player&channel=room1", &[("if-none-match", &answer.etag())]).await;
    assert_eq!(again.status, StatusCode::NOT_MODIFIED);

    let digest = answer.json["parameters_digest"].as_str().unwrap();
    let parameters = ask(&api, &format!("/v1/parameters/{digest}")).await;
    assert_eq!((parameters.status, &parameters.json), (StatusCode::OK, &answer.json["parameters"]));
    assert_eq!(parameters.headers[header::CACHE_CONTROL], "public, max-age=31536000, immutable");
    ask(&api, "/v1/parameters/nothing").await.is_problem(404, &["digest"]);
    assert_eq!(ask(&api, ROOM).await.json["rule"], "some");
}

#[tokio::test]
async fn passes_and_tickets_are_renewed_while_app_and_channel_are_served() {
    let api = ready().await;
    let answer = ask(&api, "/v1/conf?app=player&channel=room1&asset=live/a.m3u8").await;
    let now = now_ms() / 1_000;
    let settings = &api.app.config.conf;
    let pass = api.app.passes().verify(answer.json["pass"].as_str().unwrap(), now).unwrap();
    let later = now + 200;
    let renewed = api.app.conf.renew(settings, &pass, later).unwrap();
    let renewed = api.app.passes().verify(&renewed, later).unwrap();
    assert_eq!((renewed.expires, &renewed.session), (later + 300, &pass.session));
    let (ticket, client) = (answer.json["ticket"]["value"].as_str().unwrap(), "192.0.2.7".parse().unwrap());
    let fresh = api.app.conf.renew_ticket(&pass, ticket, client, later).unwrap();
    assert_eq!(fresh.expires, later + 300);
    let again = api.app.conf.renew_ticket(&pass, &fresh.ticket, client, later + 250).unwrap();
    assert_eq!(again.expires, later + 550);
    assert_eq!(api.app.conf.renew_ticket(&pass, ticket, client, later + 250), None, "the first one has expired");
    let stranger = crate::pass::Pass { session: "another".into(), ..pass.clone() };
    assert_eq!(api.app.conf.renew_ticket(&stranger, ticket, client, later), None);
    assert_eq!(api.app.conf.renew_ticket(&pass, ticket, client, now), None, "it is as good as new");
    assert_eq!(api.app.conf.renew_in_time(settings, &pass, now), None);
    assert!(api.app.conf.renew_in_time(settings, &pass, later).is_some());

    // Tenants that hide addresses do so from the next heartbeat on.
    api.call("PATCH", "/api/v1/tenants/acme", json!({"relay": {"only": true}})).await;
    settle(&api).await;
    let hidden = api.app.conf.renew(settings, &pass, now).unwrap();
    assert!(api.app.passes().verify(&hidden, now).unwrap().relay_only);
    assert_eq!(ask(&api, ROOM).await.json["parameters"]["relay_only"], true);

    api.call("PATCH", "/api/v1/apps/player", json!({"enabled": false})).await;
    assert_eq!(api.app.conf.renew(settings, &pass, now), None);
    api.call("PATCH", "/api/v1/apps/player", json!({"enabled": true})).await;
    assert!(api.app.conf.renew(settings, &pass, now).is_some());
    api.call("DELETE", "/api/v1/channels/room1", Value::Null).await;
    settle(&api).await;
    assert_eq!(api.app.conf.renew(settings, &pass, now), None);
}

#[tokio::test]
async fn pass_keys_rotate_with_overlap() {
    let api = ready().await;
    let pass = ask(&api, ROOM).await.json["pass"].as_str().unwrap().to_owned();
    let made = api.call("POST", "/api/v1/pass-keys/rotate", Value::Null).await;
    assert_eq!((made.status, &made.json["number"]), (StatusCode::CREATED, &json!(2)), "{}", made.json);
    let now = now_ms();
    assert!(api.app.passes().verify(&pass, now / 1_000).is_ok());
    let listed = api.call("GET", "/api/v1/pass-keys", Value::Null).await.json;
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["accepted_until_ms"]), (2, &Value::Null));
    assert!(keys[1]["accepted_until_ms"].as_u64().unwrap() > now + 86_400_000);
    assert!(keys.iter().all(|key| key.as_object().unwrap().len() == 3), "no secret: {listed}");
    // Another instance that starts keeps the keys that there are.
    conf::start(&api.app).await.unwrap();
    assert!(api.app.passes().verify(&pass, now / 1_000).is_ok());
}

#[tokio::test]
async fn the_checker_says_why() {
    let api = ready().await;
    let minted =
        api.call("POST", "/api/v1/channels/room1/mint", json!({"path": "a.ts", "base": "http://e.test"})).await;
    let url = minted.json["urls"][0]["url"].as_str().unwrap().to_owned();
    let check = async |body: Value| api.call("POST", "/api/v1/check", body).await.json;
    let good = check(json!({"url": url})).await;
    assert_eq!((&good["accepted"], &good["reason"], &good["channel"]), (&json!(true), &Value::Null, &json!("room1")));
    assert_eq!((&good["profiles"][0]["key"], &good["skew_s"]), (&json!("k1"), &json!(5)));
    assert!(good["profiles"][0]["left_s"].as_i64().unwrap() > 290);
    let late = check(json!({"url": url, "at": now_ms() / 1_000 + 1_000})).await;
    assert_eq!((&late["accepted"], &late["reason"]), (&json!(false), &json!("expired")));
    let plain = check(json!({"url": "http://e.test/room1/a.ts"})).await;
    assert_eq!((&plain["reason"], &plain["profiles"][0]["reason"]), (&json!("missing"), &json!("missing")));
    assert_eq!(check(json!({"url": "http://e.test/nothing/a.ts"})).await["reason"], "no_channel");

    let access = json!({"access": {"ticket": {"keys": [{"id": "k1", "secret": "the-first-secret-of-all"}],
        "profiles": [{"profile": "tencent-d", "time": "expiry"}]}, "referer": {"allow": ["example.com"]}}});
    assert_eq!(api.call("PATCH", "/api/v1/channels/room1", access).await.status, StatusCode::OK);
    settle(&api).await;
    let url = "http://e.test/room1/a.ts?sign=00000000000000000000000000000000&t=1900000000";
    let wrong = check(json!({"url": url, "client": "192.0.2.7", "headers": {"referer": "https://evil.test/"}})).await;
    assert_eq!((&wrong["accepted"], &wrong["reason"]), (&json!(false), &json!("referer")));
    let steps: Vec<(&str, bool)> = wrong["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["rule"].as_str().unwrap(), step["ok"].as_bool().unwrap()))
        .collect();
    let expected = [
        ("channel", true),
        ("enabled", true),
        ("address", true),
        ("referer", false),
        ("user_agent", true),
        ("ticket", false),
    ];
    assert_eq!(steps, expected);
    let profile = &wrong["profiles"][1];
    assert_eq!((&profile["profile"], &profile["reason"]), (&json!("tencent-d"), &json!("signature")));
    assert_eq!(profile["hashed"], "{key}/room1/a.ts1900000000");
    assert!(!wrong.to_string().contains("the-first-secret-of-all"));
    api.call("POST", "/api/v1/check", json!({"url": "room1"})).await.is_problem(422, &["\"field\":\"url\""]);
}

#[tokio::test]
async fn conf_is_explained_rule_by_rule() {
    let api = ready().await;
    api.call("POST", "/api/v1/rules", json!({"id": "berlin", "tenant": "acme", "regions": ["DE-BE"], "p2p": false}))
        .await;
    api.call(
        "POST",
        "/api/v1/rules",
        json!({"id": "crowd", "tenant": "acme", "viewers": {"min": 100},
        "parameters": {"peers_max": 50}}),
    )
    .await;
    let question = json!({"request": {"app": "player", "channel": "room1", "viewer": "v"}, "region": "DE-BE",
        "viewers": 200, "client": "192.0.2.7"});
    let report = api.call("POST", "/api/v1/conf/explain", question).await.json;
    assert_eq!((&report["accepted"], &report["decision"]["rule"]), (&json!(true), &json!("berlin")), "{report}");
    assert_eq!(report["decision"]["parameters"]["peers_max"], 50);
    assert_eq!(report["decision"]["rules"][0]["rule"], "crowd");
    assert_eq!(report["decision"]["rules"][0]["decided"], json!(["peers_max"]));
    assert_eq!(report["decision"]["rules"][1]["checks"][0]["criterion"], "region");
    let unknown = api.call("POST", "/api/v1/conf/explain", json!({"request": {"app": "x", "channel": "room1"}})).await;
    assert_eq!(unknown.json["code"], "app_unknown");
    api.call("PUT", "/api/v1/apps/player", app(json!({"signature": "required"}))).await;
    let report =
        api.call("POST", "/api/v1/conf/explain", json!({"request": {"app": "player", "channel": "room1"}})).await;
    assert_eq!((&report.json["code"], &report.json["accepted"]), (&json!("signature_missing"), &json!(false)));
    assert_eq!(report.json["decision"]["p2p"], true);
    let wrong = api.call("POST", "/api/v1/conf/explain", json!({"request": {"app": "player"}})).await;
    wrong.is_problem(422, &["request.channel"]);
}
