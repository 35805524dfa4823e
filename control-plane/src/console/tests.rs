//! The console's router without sockets; a browser tests it in the crate `tests`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use serde_json::json;
use shoal_link::Channel;
use tower::ServiceExt;

use super::form::encode;
use crate::access::audit::Outcome;
use crate::access::{AccessConfig, Role, password};
use crate::api;
use crate::app::App;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::report::Reports;
use crate::rest::client::Remote;
use crate::store::tests::TempDir;
use crate::store::{AuditQuery, AuditRow, NodeSeen, Store, now_ms};
use crate::token::Token;
use crate::validate::Valid;

const TOKEN: &str = "the-operators-token";
const PASSWORD: &str = "correct horse battery";
const EVIL: &str = "<script>alert(1)</script>\"'&";

struct Console {
    router: Router,
    store: Store,
    _dir: TempDir,
}

/// A browser: its cookies, and the page it shows.
struct Browser<'a> {
    console: &'a Console,
    remote: &'static str,
    cookies: BTreeMap<String, String>,
    page: String,
    headers: HeaderMap,
}

impl Console {
    async fn new() -> Self {
        Self::with(AccessConfig::default()).await
    }

    async fn with(access: AccessConfig) -> Self {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let config = Config { access, ..Config::default() };
        let token = Token::parse(TOKEN).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let reports = Reports::open(&config.reports, dir.path(), &store, metrics.registry()).unwrap();
        let app = App::new(store.clone(), reports, metrics, token, config).unwrap();
        let hash = password::hash(PASSWORD.to_owned()).await.unwrap();
        for role in Role::ALL {
            store.create_user(role.name(), role, &hash).unwrap();
        }
        let channel = json!({
            "id": "room", "prefix": "/room/", "origins": [{"id": "main", "url": "http://origin.test/"}],
            "access": {"ticket": {"keys": [{"id": "k1", "secret": "the-first-secret-of-all"}]}},
        });
        store.create(&Valid::new(serde_json::from_value::<Channel>(channel).unwrap()).unwrap()).unwrap();
        Self { router: api::router(app), store, _dir: dir }
    }

    fn browser(&self) -> Browser<'_> {
        Browser {
            console: self,
            remote: "192.0.2.1:9",
            cookies: BTreeMap::new(),
            page: String::new(),
            headers: HeaderMap::new(),
        }
    }

    async fn logged_in(&self, role: Role) -> Browser<'_> {
        let mut browser = self.browser();
        browser.get("/console/login").await;
        let status = browser.post("/console/login", &[("name", role.name()), ("password", PASSWORD)]).await;
        assert_eq!(status, StatusCode::SEE_OTHER, "{}", browser.page);
        browser
    }

    fn channel(&self) -> Channel {
        self.store.find::<Channel>("room").unwrap().unwrap().document
    }

    fn log(&self) -> Vec<AuditRow> {
        self.store.audit(&AuditQuery { limit: 1_000, ..AuditQuery::default() }).unwrap()
    }
}

impl Browser<'_> {
    async fn get(&mut self, path: &str) -> StatusCode {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// Sends a form with the token of the page that is shown.
    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> StatusCode {
        let token = self.token();
        self.post_with(path, &[("form_token", &*token)], fields, &[("sec-fetch-site", "same-origin")]).await
    }

    async fn post_with(
        &mut self,
        path: &str,
        more: &[(&str, &str)],
        fields: &[(&str, &str)],
        headers: &[(&'static str, &str)],
    ) -> StatusCode {
        let pairs = more.iter().chain(fields).map(|(name, value)| format!("{name}={}", encode(value)));
        let body = pairs.collect::<Vec<_>>().join("&");
        let mut request = Request::post(path)
            .header(header::HOST, "console.test")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    async fn send(&mut self, mut request: Request<Body>) -> StatusCode {
        let cookies = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
        if !cookies.is_empty() {
            request.headers_mut().insert(header::COOKIE, cookies.parse().unwrap());
        }
        request.extensions_mut().insert(Remote(self.remote.parse().unwrap()));
        let response = self.console.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        for cookie in parts.headers.get_all(header::SET_COOKIE) {
            let (pair, attributes) = cookie.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            assert!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Strict"), "{attributes}");
            match attributes.contains("Max-Age=0") {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        self.headers = parts.headers;
        self.page = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
        parts.status
    }

    fn token(&self) -> String {
        let rest = self.page.split("name=\"form_token\" value=\"").nth(1).unwrap_or_default();
        rest.split('"').next().unwrap_or_default().to_owned()
    }

    fn location(&self) -> &str {
        self.headers[header::LOCATION].to_str().unwrap()
    }
}

/// Every page that needs nothing but the channel `room`, and the least role for it.
const PAGES: [(&str, Role); 17] = [
    ("/console", Role::Viewer),
    ("/console/channels", Role::Viewer),
    ("/console/channels/room", Role::Viewer),
    ("/console/channels/room/off", Role::Operator),
    ("/console/channels/room/origins", Role::Operator),
    ("/console/channels/room/mint", Role::Operator),
    ("/console/channels/room/purge", Role::Operator),
    ("/console/regions", Role::Viewer),
    ("/console/nodes", Role::Viewer),
    ("/console/swarms", Role::Viewer),
    ("/console/swarms/room", Role::Viewer),
    ("/console/reconciliation", Role::Viewer),
    ("/console/refusals", Role::Viewer),
    ("/console/audit", Role::Admin),
    ("/console/users", Role::Admin),
    ("/console/tokens", Role::Admin),
    ("/console/account", Role::Viewer),
];

#[tokio::test]
async fn pages_are_for_their_roles_and_for_nobody_without_a_session() {
    let console = Console::new().await;
    let mut stranger = console.browser();
    for (path, _) in PAGES {
        assert_eq!(stranger.get(path).await, StatusCode::SEE_OTHER, "{path}");
        assert_eq!(stranger.location(), format!("/console/login?next={}", encode(path)));
        let bearer = Request::get(path).header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
        assert_eq!(stranger.send(bearer.body(Body::empty()).unwrap()).await, StatusCode::SEE_OTHER, "no tokens here");
    }
    for role in Role::ALL {
        let mut browser = console.logged_in(role).await;
        for (path, least) in PAGES {
            let expected = if role < least { StatusCode::FORBIDDEN } else { StatusCode::OK };
            assert_eq!(browser.get(path).await, expected, "{role} {path}");
            let policy = browser.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
            assert_eq!(browser.headers[header::CACHE_CONTROL], "no-store");
            let page = &browser.page;
            assert!(
                page.starts_with("<!DOCTYPE html><html lang=\"en\">") && page.contains("<main id=\"main\""),
                "{path}"
            );
            assert!(
                !page.contains(" style=") && !page.contains("<style") && !page.contains(" onclick"),
                "{path}: {page}"
            );
            for script in page.split("<script").skip(1) {
                assert!(script.starts_with(" src=\"/console/assets/"), "{path}: {script}");
            }
        }
        // A session is nothing to the API.
        assert_eq!(browser.get("/api/v1/channels").await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(stranger.get("/").await, StatusCode::SEE_OTHER);
    assert_eq!(stranger.location(), "/console");
}

#[tokio::test]
async fn a_viewer_sees_no_buttons_and_may_not_post() {
    let console = Console::new().await;
    let mut viewer = console.logged_in(Role::Viewer).await;
    viewer.get("/console/channels/room").await;
    for word in ["Switch off", "Edit", "Purge", "Mint", "Drain"] {
        assert!(!viewer.page.contains(word), "{word}");
    }
    assert!(!viewer.page.contains("/console/users"));
    for path in ["off", "on", "origins", "mint", "purge"] {
        let status = viewer.post(&format!("/console/channels/room/{path}"), &[]).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        viewer.get("/console/channels/room").await;
    }
    for path in ["/console/users", "/console/users/admin/delete", "/console/tokens", "/console/nodes/n/drain"] {
        assert_eq!(viewer.post(path, &[]).await, StatusCode::FORBIDDEN, "{path}");
        viewer.get("/console").await;
    }
    assert!(console.channel().enabled);
    let refused = console.log().into_iter().filter(|row| row.entry.outcome == Outcome::Refused).count();
    assert_eq!(refused, 9, "each of them is noted");
}

#[tokio::test]
async fn an_operator_switches_a_channel_and_it_is_noted() {
    let console = Console::new().await;
    let mut operator = console.logged_in(Role::Operator).await;
    operator.get("/console/channels/room").await;
    assert!(operator.page.contains("Switch off") && !operator.page.contains("/console/tokens"));
    operator.get("/console/channels/room/off").await;
    assert!(console.channel().enabled, "looking changes nothing");
    assert_eq!(operator.post("/console/channels/room/off", &[]).await, StatusCode::SEE_OTHER);
    assert_eq!(operator.location(), "/console/channels/room?said=off");
    let channel = console.channel();
    assert!(!channel.enabled);
    assert_eq!(channel.access.ticket.unwrap().keys[0].secret, "the-first-secret-of-all", "its keys stay");
    assert_eq!(operator.get("/console/channels/room?said=off").await, StatusCode::OK);
    assert!(operator.page.contains("role=\"status\"><p>The channel is switched off."), "{}", operator.page);
    let log = console.log();
    let entry = &log[0].entry;
    assert_eq!((&*entry.actor, &*entry.action, &*entry.target), ("operator", "switchChannelOff", "channel room"));
    assert_eq!(entry.change.as_deref(), Some(r#"[{"field":"enabled","from":true,"to":false}]"#));
    assert_eq!((log[1].entry.action.as_str(), log[1].entry.outcome), ("logIn", Outcome::Done));
    operator.post("/console/channels/room/on", &[]).await;
    assert!(console.channel().enabled);
}

#[tokio::test]
async fn forms_of_other_pages_do_nothing() {
    let console = Console::new().await;
    let mut admin = console.logged_in(Role::Admin).await;
    admin.get("/console/channels/room/off").await;
    let token = admin.token();
    let good = [("form_token", &*token)];
    let off = "/console/channels/room/off";
    for (more, headers) in [
        (&[][..], &[("sec-fetch-site", "same-origin")][..]),
        (&[("form_token", "")], &[("sec-fetch-site", "same-origin")]),
        (&[("form_token", "0123456789abcdef")], &[("sec-fetch-site", "same-origin")]),
        (&good, &[("sec-fetch-site", "cross-site")]),
        (&good, &[("sec-fetch-site", "same-site")]),
        (&good, &[("origin", "http://evil.test")]),
        (&good, &[("origin", "null")]),
    ] {
        assert_eq!(admin.post_with(off, more, &[], headers).await, StatusCode::FORBIDDEN, "{more:?} {headers:?}");
        assert!(admin.page.contains("nothing was changed"), "{}", admin.page);
    }
    // Nor does a token of another session help.
    let mut other = console.logged_in(Role::Admin).await;
    other.get("/console").await;
    let theirs = other.token();
    assert_ne!(theirs, token);
    assert_eq!(admin.post_with(off, &[("form_token", &theirs)], &[], &[]).await, StatusCode::FORBIDDEN);
    // Nor a body of another kind, nor one that is too long.
    let json =
        Request::post(off).header(header::CONTENT_TYPE, "text/plain").body(Body::from(format!("form_token={token}")));
    assert_eq!(admin.send(json.unwrap()).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let long = "x".repeat(70_000);
    assert_eq!(admin.post_with(off, &good, &[("x", &long)], &[]).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(admin.get("/console/channels/room/on").await, StatusCode::METHOD_NOT_ALLOWED);
    assert!(console.channel().enabled);
    // With both it does, also when the browser says nothing of where it comes from.
    assert_eq!(admin.post_with(off, &good, &[], &[("origin", "http://console.test")]).await, StatusCode::SEE_OTHER);
    assert!(!console.channel().enabled);
    assert_eq!(admin.post_with("/console/channels/room/on", &good, &[], &[]).await, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn the_log_in_tells_nobody_who_is_there_and_slows_down() {
    let console = Console::new().await;
    let mut stranger = console.browser();
    stranger.get("/console/login").await;
    assert_eq!(
        stranger.post_with("/console/login", &[], &[("name", "admin"), ("password", PASSWORD)], &[]).await,
        StatusCode::FORBIDDEN
    );
    let mut answers = Vec::new();
    for name in ["operator", "nobody"] {
        stranger.get("/console/login").await;
        let status = stranger.post("/console/login", &[("name", name), ("password", "wrong")]).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(!stranger.cookies.contains_key("shoal_session"));
        answers.push(stranger.page.replace(name, "NAME"));
    }
    assert_eq!(answers[0], answers[1], "the same answer");
    // The account slows down wherever attempts come from.
    let mut tries = 0;
    loop {
        stranger.remote = ["198.51.100.1:1", "198.51.100.2:1", "198.51.100.3:1"][tries % 3];
        let status = stranger.post("/console/login", &[("name", "viewer"), ("password", "wrong")]).await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        tries += 1;
        assert!(tries < 50);
    }
    assert_eq!(tries, crate::access::attempts::FREE_OF_ACCOUNT as usize);
    assert!(stranger.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(
        stranger.post("/console/login", &[("name", "viewer"), ("password", PASSWORD)]).await,
        StatusCode::TOO_MANY_REQUESTS
    );
    let status =
        stranger.post("/console/login", &[("name", "operator"), ("password", PASSWORD), ("next", "//evil.test")]).await;
    assert_eq!((status, stranger.location()), (StatusCode::SEE_OTHER, "/console"), "others are not kept out");
    let failed: Vec<_> = console.log().into_iter().filter(|row| row.entry.outcome == Outcome::Refused).collect();
    assert_eq!(failed.len(), 2 + tries);
    assert!(failed.iter().all(|row| row.entry.action == "logIn" && row.entry.role.is_none()));
}

#[tokio::test]
async fn tokens_open_the_console_until_they_are_gone() {
    let console = Console::new().await;
    let mut browser = console.browser();
    browser.get("/console/login").await;
    assert_eq!(browser.post("/console/login", &[("token", "wrong")]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(browser.post("/console/login", &[("token", TOKEN)]).await, StatusCode::SEE_OTHER);
    browser.get("/console/tokens").await;
    assert_eq!(
        browser.post("/console/tokens", &[("name", "robot"), ("role", "operator"), ("days", "x")]).await,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert!(
        browser.page.contains("aria-invalid=\"true\"") && browser.page.contains("value=\"robot\""),
        "{}",
        browser.page
    );
    assert_eq!(browser.post("/console/tokens", &[("name", "robot"), ("role", "operator")]).await, StatusCode::CREATED);
    let token = browser.page.split("<pre>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let mut robot = console.browser();
    robot.get("/console/login").await;
    assert_eq!(robot.post("/console/login", &[("token", &token)]).await, StatusCode::SEE_OTHER);
    assert_eq!(robot.get("/console/channels/room/origins").await, StatusCode::OK);
    assert_eq!(robot.get("/console/tokens").await, StatusCode::FORBIDDEN);
    browser.get("/console/tokens/robot/delete").await;
    assert_eq!(browser.post("/console/tokens/robot/delete", &[]).await, StatusCode::SEE_OTHER);
    assert_eq!(robot.get("/console").await, StatusCode::SEE_OTHER, "its session ended with it");
    assert!(
        !serde_json::to_string(&console.log().iter().map(|row| row.entry.change.clone()).collect::<Vec<_>>())
            .unwrap()
            .contains(&token)
    );
}

#[tokio::test]
async fn sessions_end_by_log_out_by_another_password_and_by_time() {
    let console = Console::new().await;
    let mut first = console.logged_in(Role::Viewer).await;
    let mut second = console.logged_in(Role::Viewer).await;
    let stolen = first.cookies.clone();
    first.get("/console").await;
    assert_eq!(first.post("/console/logout", &[]).await, StatusCode::SEE_OTHER);
    assert!(!first.cookies.contains_key("shoal_session"));
    first.cookies = stolen;
    assert_eq!(first.get("/console").await, StatusCode::SEE_OTHER, "the cookie alone is nothing");
    assert_eq!(second.get("/console/account").await, StatusCode::OK, "another session goes on");

    let new = "a new one, quite long";
    let change = [("current", "wrong"), ("password", new), ("again", new)];
    assert_eq!(second.post("/console/account", &change).await, StatusCode::UNPROCESSABLE_ENTITY);
    let change = [("current", PASSWORD), ("password", new), ("again", "another")];
    assert_eq!(second.post("/console/account", &change).await, StatusCode::UNPROCESSABLE_ENTITY);
    let mut third = console.logged_in(Role::Viewer).await;
    let change = [("current", PASSWORD), ("password", new), ("again", new)];
    assert_eq!(second.post("/console/account", &change).await, StatusCode::SEE_OTHER, "{}", second.page);
    assert_eq!(third.get("/console").await, StatusCode::SEE_OTHER, "it ends all of them");
    third.get("/console/login").await;
    assert_eq!(third.post("/console/login", &[("name", "viewer"), ("password", new)]).await, StatusCode::SEE_OTHER);

    for access in
        [AccessConfig { session_idle_s: 0, session_max_s: 60 }, AccessConfig { session_idle_s: 60, session_max_s: 0 }]
    {
        let console = Console::with(access).await;
        let mut browser = console.logged_in(Role::Viewer).await;
        assert_eq!(browser.get("/console").await, StatusCode::SEE_OTHER);
        assert_eq!(browser.post("/console/logout", &[]).await, StatusCode::SEE_OTHER);
        assert_eq!(browser.location(), "/console/login?said=ended");
    }
}

#[tokio::test]
async fn users_are_kept_by_admins_and_a_weaker_role_holds_at_once() {
    let console = Console::new().await;
    let mut admin = console.logged_in(Role::Admin).await;
    let mut operator = console.logged_in(Role::Operator).await;
    admin.get("/console/users").await;
    let new = [("name", "eve"), ("role", "viewer"), ("password", "short")];
    assert_eq!(admin.post("/console/users", &new).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(admin.page.contains("at least 12 characters") && !admin.page.contains("value=\"short\""), "{}", admin.page);
    let new = [("name", "eve"), ("role", "viewer"), ("password", "long enough for all")];
    assert_eq!(admin.post("/console/users", &new).await, StatusCode::SEE_OTHER);
    admin.get("/console/users/operator").await;
    assert_eq!(operator.get("/console/channels/room/off").await, StatusCode::OK);
    assert_eq!(admin.post("/console/users/operator", &[("role", "viewer")]).await, StatusCode::SEE_OTHER);
    assert_eq!(operator.get("/console/channels/room/off").await, StatusCode::FORBIDDEN);
    admin.get("/console/users/admin").await;
    assert_eq!(admin.post("/console/users/admin", &[("role", "viewer")]).await, StatusCode::CONFLICT);
    assert!(admin.page.contains("last admin"), "{}", admin.page);
    assert_eq!(admin.post("/console/users/operator/delete", &[]).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(admin.post("/console/users/operator/delete", &[("sure", "yes")]).await, StatusCode::SEE_OTHER);
    assert_eq!(operator.get("/console").await, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn origins_are_edited_with_errors_beside_the_field_and_not_over_others_changes() {
    let console = Console::new().await;
    let mut operator = console.logged_in(Role::Operator).await;
    operator.get("/console/channels/room/origins").await;
    let revision =
        operator.page.split("name=\"revision\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let wrong = [("revision", &*revision), ("id0", "main"), ("url0", "ftp://x"), ("order0", "0"), ("weight0", "many")];
    assert_eq!(operator.post("/console/channels/room/origins", &wrong).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        operator.page.contains("id=\"e-weight0\"") && operator.page.contains("value=\"ftp://x\""),
        "{}",
        operator.page
    );
    let wrong = [("revision", &*revision), ("id0", "main"), ("url0", "ftp://x")];
    assert_eq!(operator.post("/console/channels/room/origins", &wrong).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        operator.page.contains("id=\"e-url0\"") && operator.page.contains("must begin with http://"),
        "{}",
        operator.page
    );
    let right = [
        ("revision", &*revision),
        ("id0", "main"),
        ("url0", "http://a.test/"),
        ("id1", "spare"),
        ("url1", "http://b.test/"),
        ("order1", "1"),
    ];
    assert_eq!(
        operator.post("/console/channels/room/origins", &right).await,
        StatusCode::SEE_OTHER,
        "{}",
        operator.page
    );
    let origins = console.channel().origins;
    assert_eq!((origins.len(), &*origins[0].url, origins[1].order), (2, "http://a.test/", 1));
    operator.get("/console/channels/room/origins").await;
    assert_eq!(
        operator.post("/console/channels/room/origins", &right).await,
        StatusCode::PRECONDITION_FAILED,
        "an old revision"
    );
    assert!(operator.page.contains("read it again"), "{}", operator.page);
}

#[tokio::test]
async fn minting_and_purging_answer_on_their_pages() {
    let console = Console::new().await;
    let mut operator = console.logged_in(Role::Operator).await;
    operator.get("/console/channels/room/mint").await;
    assert_eq!(
        operator.post("/console/channels/room/mint", &[("path", "index.m3u8"), ("ttl_s", "60")]).await,
        StatusCode::OK
    );
    assert!(operator.page.contains("/room/index.m3u8?ticket="), "{}", operator.page);
    assert_eq!(operator.post("/console/channels/room/mint", &[("path", "/x")]).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(operator.page.contains("id=\"e-path\""), "{}", operator.page);
    let purge = "/console/channels/room/purge";
    assert_eq!(operator.post(purge, &[("scope", "channel")]).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(operator.page.contains("must be ticked"), "{}", operator.page);
    assert_eq!(operator.post(purge, &[("scope", "prefix")]).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(operator.post(purge, &[("scope", "channel"), ("sure", "yes")]).await, StatusCode::OK);
    assert!(operator.page.contains("No node is connected"), "{}", operator.page);
    assert_eq!(console.log()[0].entry.status, Some(200));
    assert!(console.log()[0].entry.change.as_deref().unwrap().contains("\"scope\":\"channel\""));
}

#[tokio::test]
async fn what_others_wrote_is_text_on_every_page() {
    let console = Console::new().await;
    let (node, software, public_url) = (EVIL.to_owned(), EVIL.to_owned(), Some(EVIL.to_owned()));
    let seen = NodeSeen { node, boot: 1, software, public_url, snapshot: None, live: "{}".to_owned() };
    console.store.node_joined("instance", &seen).unwrap();
    let batch = serde_json::from_value(json!({
        "boot": 1, "sequence": 1, "start_ms": now_ms(), "end_ms": now_ms(),
        "entries": [{"tenant": "t", "channel": EVIL, "session": EVIL, "kind": "client", "origin": "", "requests": 1,
            "body_bytes": 5_000_000, "wire_bytes": 5_100_000}],
    }));
    console.store.apply_ledger(EVIL, &[batch.unwrap()]).unwrap();
    let mut admin = console.logged_in(Role::Admin).await;
    admin.get("/console/users").await;
    admin.post("/console/users", &[("name", EVIL), ("role", EVIL), ("password", EVIL)]).await;
    assert!(admin.page.contains("&lt;script&gt;"), "{}", admin.page);
    let mut stranger = console.browser();
    stranger.get("/console/login").await;
    stranger.post("/console/login", &[("name", EVIL), ("password", EVIL)]).await;
    assert!(stranger.page.contains("&lt;script&gt;") && !stranger.page.contains("<script>alert"), "{}", stranger.page);
    let odd = encode(EVIL);
    let more = [
        format!("/console?said={odd}"),
        format!("/console/audit?actor={odd}&action={odd}"),
        format!("/console/users/{odd}"),
        format!("/console/channels/{odd}"),
        format!("/console/nodes/{odd}/drain"),
        format!("/console/tokens/{odd}/delete"),
        format!("/console/login?next={odd}"),
    ];
    let mut seen = 0;
    for path in PAGES.iter().map(|(path, _)| (*path).to_owned()).chain(more) {
        admin.get(&path).await;
        assert!(!admin.page.contains("<script>alert") && !admin.page.contains("\"'&<"), "{path}: {}", admin.page);
        seen += usize::from(admin.page.contains("&lt;script&gt;"));
    }
    assert!(seen >= 4, "overview, nodes, audit, drain: {seen}");
}

#[tokio::test]
async fn style_and_script_are_kept_for_good_at_urls_of_their_content() {
    let console = Console::new().await;
    let mut browser = console.browser();
    browser.get("/console/login").await;
    let style = browser.page.split("stylesheet\" href=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert_eq!(browser.get(&style).await, StatusCode::OK);
    assert!(browser.headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    assert!(browser.page.contains("prefers-color-scheme"));
    assert_eq!(browser.get("/console/assets/console-0000000000000000.css").await, StatusCode::NOT_FOUND);
}
