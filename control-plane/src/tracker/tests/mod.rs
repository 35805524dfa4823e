//! The tracker's routes without a socket, and its WebSocket with one.

mod socket;

use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::pass::KEY_BYTES;
use crate::public;
use crate::report::Reports;
use crate::rest::client::Remote;
use crate::store::tests::TempDir;
use crate::store::{Store, now_ms};
use crate::token::Token;

const HASH: &str = "%01%02%03%04%05%06%07%08%09%0a%0b%0c%0d%0e%0f%10%11%12%13%14";
const HASH_HEX: &str = "0102030405060708090a0b0c0d0e0f1011121314";

struct Public {
    app: Arc<App>,
    router: Router,
    _dir: TempDir,
}

impl Public {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let token = Token::parse("the-operators-token").unwrap();
        let mut config = Config::default();
        config.conf.pass_ttl_s = 600;
        change(&mut config);
        let metrics = Arc::new(Metrics::new().unwrap());
        let reports = Reports::open(&config.reports, dir.path(), &store, metrics.registry()).unwrap();
        let app = App::new(store, reports, metrics, token, config).unwrap();
        app.conf.pretend(keys(), &["room1"]);
        Self { router: public::router(Arc::clone(&app)), app, _dir: dir }
    }

    fn open() -> Self {
        Self::new(|config| config.tracker.open = "everybody".to_owned())
    }

    async fn send(&self, from: &str, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let mut request = request;
        request.extensions_mut().insert(Remote(from.parse::<SocketAddr>().unwrap()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
    }

    async fn get(&self, from: &str, path: &str) -> String {
        let (status, body) = self.send(from, Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        // Binary strings as the characters of their bytes.
        body.iter().map(|byte| char::from(*byte)).collect()
    }

    async fn post(&self, from: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let (status, body) = self.send(from, request.body(Body::from(body.to_string())).unwrap()).await;
        (status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
    }

    fn metric(&self, line: &str) -> bool {
        let text = String::from_utf8(self.app.metrics.export().unwrap()).unwrap();
        text.lines().any(|found| found == line)
    }
}

fn keys() -> PassKeys {
    PassKeys::new(vec![(1, [7; KEY_BYTES])])
}

fn pass(session: &str, relay_only: bool, life_s: u64) -> String {
    let pass = Pass {
        tenant: "acme".into(),
        app: "player".into(),
        channel: "room1".into(),
        session: session.into(),
        expires: now_ms() / 1000 + life_s,
        relay_only,
    };
    keys().mint(&pass).unwrap()
}

fn query(peer: char, more: &str) -> String {
    format!("info_hash={HASH}&peer_id={}&port=6881&left=1{more}", peer.to_string().repeat(20))
}

fn hex(peer: char) -> String {
    format!("{:02x}", peer as u8).repeat(20)
}

#[tokio::test]
async fn classic_clients_announce_and_scrape_where_it_is_open() {
    let public = Public::open();
    let first = public.get("192.0.2.1:1", &format!("/announce?{}", query('a', ""))).await;
    assert_eq!(first, "d8:completei0e10:downloadedi0e10:incompletei1e8:intervali16e12:min intervali8e5:peers0:e");
    let second = public.get("192.0.2.2:1", &format!("/announce?{}", query('b', "&ip=203.0.113.1"))).await;
    assert!(second.ends_with("5:peers6:\u{c0}\0\u{2}\u{1}\u{1a}\u{e1}e"), "{second:?}");
    let lists = public.get("192.0.2.1:1", &format!("/announce?{}", query('a', "&compact=0"))).await;
    let expected = format!("5:peersld2:ip9:192.0.2.27:peer id20:{}4:porti6881eee", "b".repeat(20));
    assert!(lists.contains(&expected), "the ip parameter counts for nothing: {lists:?}");
    public.get("192.0.2.1:1", &format!("/announce?{}", query('a', "&event=completed&left=0"))).await;
    let scrape = public.get("192.0.2.9:1", &format!("/scrape?info_hash={HASH}")).await;
    assert!(scrape.ends_with("d8:completei1e10:downloadedi1e10:incompletei1eeee"), "{scrape:?}");
    let left = public.get("192.0.2.1:1", &format!("/announce?{}", query('a', "&event=stopped"))).await;
    assert!(left.contains("8:completei0e") && left.ends_with("5:peers0:e"), "{left:?}");
    for (query, words) in [("", "info_hash is missing"), ("info_hash=x", "info_hash must be 20 bytes")] {
        let refused = public.get("192.0.2.1:1", &format!("/announce?{query}")).await;
        assert!(refused.starts_with("d14:failure reason") && refused.contains(words), "{refused:?}");
    }
    assert!(public.metric("shoal_tracker_announces_total{door=\"http\",result=\"joined\"} 2"));
    assert!(public.metric("shoal_tracker_announces_total{door=\"http\",result=\"malformed\"} 2"));
    assert_eq!(public.app.tracker.viewers("everybody", OPEN_CHANNEL), 1);
}

#[tokio::test]
async fn ipv6_peers_have_their_own_list_and_proxies_are_believed_only_when_trusted() {
    let public = Public::new(|config| {
        config.tracker.open = "everybody".to_owned();
        config.public.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    });
    let announce = |peer: char| format!("/announce?{}", query(peer, ""));
    public.get("[2001:db8::1]:1", &announce('a')).await;
    public.get("192.0.2.2:1", &announce('b')).await;
    let six = public.get("[2001:db8::3]:1", &announce('c')).await;
    let expected = "5:peers0:6:peers618:\u{20}\u{1}\u{d}\u{b8}\0\0\0\0\0\0\0\0\0\0\0\u{1}\u{1a}\u{e1}e";
    assert!(six.ends_with(expected), "{six:?}");
    let through = |from: &'static str, peer| {
        let request =
            Request::get(announce(peer)).header("x-forwarded-for", "198.51.100.9").body(Body::empty()).unwrap();
        public.send(from, request)
    };
    through("10.0.0.1:1", 'd').await;
    through("192.0.2.66:1", 'e').await;
    let key = Key { tenant: "everybody", channel: OPEN_CHANNEL, info_hash: HASH_HEX.parse().unwrap() };
    let peers = public.app.tracker.peers_of(key, 0, 10).unwrap();
    let address = |id: char| peers.iter().find(|peer| peer.id.0[0] == id as u8).unwrap().address.ip().to_string();
    assert_eq!((address('d'), address('e')), ("198.51.100.9".to_owned(), "192.0.2.66".to_owned()));
}

#[tokio::test]
async fn without_a_good_pass_nobody_announces() {
    let public = Public::new(|_| {});
    let body = json!({"info_hash": HASH_HEX, "peer_id": hex('a')});
    let good = pass("s1", false, 600);
    let mut forged = good.clone().into_bytes();
    forged[20] ^= 1;
    let forged = String::from_utf8(forged).unwrap();
    for (path, words) in [
        ("/announce".to_owned(), "wants a pass"),
        ("/v1/tracker/x/announce".to_owned(), "malformed"),
        (format!("/v1/tracker/{forged}/announce"), "the pass"),
        (format!("/v1/tracker/{}/announce", pass("s1", false, 0)), "expired"),
    ] {
        let refused = public.get("192.0.2.1:1", &format!("{path}?{}", query('a', ""))).await;
        assert!(refused.starts_with("d14:failure reason") && refused.contains(words), "{refused:?}");
        let (status, problem) = public.post("192.0.2.1:1", &path, &body).await;
        assert_eq!(status, if path == "/announce" { 404 } else { 403 });
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    }
    assert!(public.metric("shoal_tracker_announces_total{door=\"json\",result=\"pass_expired\"} 1"));
    assert!(public.metric("shoal_tracker_announces_total{door=\"json\",result=\"closed\"} 1"));
    let (status, answer) = public.post("192.0.2.1:1", &format!("/v1/tracker/{good}/announce"), &body).await;
    assert_eq!((status, &answer["peers"]), (200, &json!([])));
    assert_eq!(public.app.tracker.viewers("acme", "room1"), 1);
}

#[tokio::test]
async fn json_says_more_and_renews_the_pass() {
    let public = Public::new(|_| {});
    let path = |session: &str, life_s| format!("/v1/tracker/{}/announce", pass(session, false, life_s));
    let nat = json!({"mapping": "endpoint_independent", "filtering": "address_dependent", "predictable": false});
    let supply = json!({"upload_kbps": 8000, "newest": 17, "count": 12});
    let body = |peer: char| {
        json!({"info_hash": HASH_HEX, "peer_id": hex(peer), "event": "join", "port": 5000,
            "transports": ["shoal-udp", "webrtc"], "nat": nat, "supply": supply})
    };
    let (_, first) = public.post("192.0.2.1:1", &path("s1", 600), &body('a')).await;
    assert_eq!(first["transports"], json!(["shoal-udp"]), "WebRTC needs a WebSocket");
    assert_eq!(first["pass"], Value::Null, "there is time left");
    let (status, second) = public.post("192.0.2.2:1", &path("s2", 200), &body('b')).await;
    let peer = json!({"peer_id": hex('a'), "address": "192.0.2.1:5000", "transports": ["shoal-udp"], "nat": nat, "supply": supply});
    assert_eq!((status, &second["peers"]), (200, &json!([peer])));
    let renewed = keys().verify(second["pass"].as_str().unwrap(), now_ms() / 1000 + 500).unwrap();
    assert_eq!((&*renewed.session, &*renewed.channel), ("s2", "room1"));

    // Another viewer cannot take the id over.
    let (status, problem) = public.post("192.0.2.3:1", &path("s3", 600), &body('a')).await;
    assert_eq!((status, problem["title"].as_str()), (409, Some("Conflict")));
    let mut failed = body('b');
    failed["failed"] = json!([hex('a')]);
    assert_eq!(public.post("192.0.2.2:1", &path("s2", 600), &failed).await.1["peers"], json!([]));
    for (key, value, field) in [
        ("ip", json!("192.0.2.1"), "ip"),
        ("port", json!("x"), "port"),
        ("failed", json!(vec![hex('c'); 33]), "failed"),
        ("transports", json!(["pigeon"]), "transports"),
    ] {
        let mut wrong = body('a');
        wrong[key] = value;
        let (status, problem) = public.post("192.0.2.1:1", &path("s1", 600), &wrong).await;
        assert_eq!(status, 422, "{problem}");
        assert!(problem.to_string().contains(field), "{problem}");
    }
    let leave = json!({"info_hash": HASH_HEX, "peer_id": hex('a'), "event": "leave"});
    assert_eq!(public.post("192.0.2.1:1", &path("s1", 600), &leave).await.0, 200);
    assert_eq!(public.app.tracker.viewers("acme", "room1"), 1);
}

#[tokio::test]
async fn a_connection_s_pass_is_renewed_until_its_channel_is_gone() {
    let public = Public::new(|_| {});
    let now = now_ms() / 1000;
    let mut viewer = public.app.tracker.viewer(&keys(), &pass("s1", false, 600), now).unwrap();
    let expires = |viewer: &Viewer| viewer.pass.as_ref().unwrap().expires;
    assert!(viewer.go_on(&public.app, now));
    assert_eq!(expires(&viewer), now + 600, "there is time left");
    let later = now + 599;
    assert!(viewer.go_on(&public.app, later));
    let end = expires(&viewer);
    assert!(end > later + 300, "{end}");
    public.app.conf.pretend(keys(), &["another"]);
    assert!(viewer.go_on(&public.app, end - 1), "what it has is good until it ends");
    assert_eq!(expires(&viewer), end);
    assert!(!viewer.go_on(&public.app, end));
}

#[tokio::test]
async fn no_address_of_a_relay_only_viewer_leaves() {
    let public = Public::new(|_| {});
    let path = |session: &str, relay_only| format!("/v1/tracker/{}/announce", pass(session, relay_only, 600));
    let body = |peer: char| json!({"info_hash": HASH_HEX, "peer_id": hex(peer), "port": 5000, "transports": ["shoal-udp", "tcp"]});
    let (_, first) = public.post("192.0.2.1:1", &path("s1", true), &body('a')).await;
    assert_eq!(first["transports"], json!(["shoal-udp"]));
    let (_, second) = public.post("192.0.2.2:1", &path("s2", false), &body('b')).await;
    assert_eq!((&second["peers"][0]["peer_id"], second["peers"][0].get("address")), (&json!(hex('a')), None));
    let classic = public.get("192.0.2.3:1", &format!("{}?{}", path("s3", false), query('c', ""))).await;
    assert!(classic.ends_with("5:peers6:\u{c0}\0\u{2}\u{2}\u{13}\u{88}e"), "only b: {classic:?}");
}

#[tokio::test]
async fn what_the_punch_service_knows_goes_before() {
    use shoal_link::observation::{Behaviour as Seen, Observation};
    let public = Public::new(|_| {});
    let observed = Observation {
        tenant: "acme".to_owned(),
        channel: "room1".to_owned(),
        peer: hex('a'),
        address: "192.0.2.1:5000".parse().unwrap(),
        mapping: Seen::AddressAndPortDependent,
        filtering: Seen::AddressAndPortDependent,
        predictable: false,
        registered: true,
    };
    public.app.peers.observe(Instant::now(), "edge1", 1, &[observed]);
    let path = |session: &str| format!("/v1/tracker/{}/announce", pass(session, false, 600));
    let body = |peer: char, nat: Value| json!({"info_hash": HASH_HEX, "peer_id": hex(peer), "port": 5000, "transports": ["shoal-udp"], "nat": nat});
    public.post("192.0.2.1:1", &path("s1"), &body('a', json!({}))).await;
    let symmetric = json!({"mapping": "address_dependent", "filtering": "address_and_port_dependent"});
    let (_, other) = public.post("192.0.2.2:1", &path("s2"), &body('b', symmetric)).await;
    assert_eq!(other["peers"], json!([]), "two symmetric NATs");
    let (_, open) = public.post("192.0.2.3:1", &path("s3"), &body('c', json!({}))).await;
    let peers = open["peers"].as_array().unwrap();
    let a = peers.iter().find(|peer| peer["peer_id"] == hex('a')).unwrap();
    assert_eq!((&a["node"], &a["nat"]["mapping"]), (&json!("edge1"), &json!("address_and_port_dependent")));
}

#[tokio::test]
async fn an_operator_sees_swarms_and_their_peers_page_by_page() {
    let public = Public::open();
    for number in 0..7_u32 {
        let path = format!("/announce?info_hash={:020}&peer_id={number:020}&port=1&left=0", number % 5);
        public.get("192.0.2.1:1", &path).await;
    }
    let admin = crate::api::router(Arc::clone(&public.app));
    let ask = async |path: &str| -> (u16, Value) {
        let request = Request::get(path).header(header::AUTHORIZATION, "Bearer the-operators-token");
        let response = admin.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&to_bytes(response.into_body(), usize::MAX).await.unwrap()).unwrap())
    };
    let mut found = Vec::new();
    let mut next = String::new();
    loop {
        let (status, page) = ask(&format!("/api/v1/swarms?limit=2&tenant=everybody{next}")).await;
        assert_eq!(status, 200, "{page}");
        found.extend(page["items"].as_array().unwrap().clone());
        let Some(after) = page["next"].as_str() else { break };
        next = format!("&after={after}");
    }
    assert_eq!((found.len(), found.iter().map(|swarm| swarm["complete"].as_u64().unwrap()).sum::<u64>()), (5, 7));
    assert_eq!(ask("/api/v1/swarms?channel=other").await.1["items"], json!([]));
    let two = found.iter().find(|swarm| swarm["complete"] == 2).unwrap();
    assert_eq!(two["transports"][2], json!({"name": "tcp", "peers": 2}));
    let id = two["id"].as_str().unwrap();
    assert_eq!(&ask(&format!("/api/v1/swarms/{id}")).await.1, two);
    let (_, page) = ask(&format!("/api/v1/swarms/{id}/peers?limit=1")).await;
    assert_eq!((&page["items"][0]["address"], &page["next"]), (&json!("192.0.2.1:1"), &json!("1")));
    let (_, last) = ask(&format!("/api/v1/swarms/{id}/peers?limit=1&after=1")).await;
    assert_eq!((last["items"].as_array().unwrap().len(), &last["next"]), (1, &Value::Null));
    for (path, status) in [
        ("/api/v1/swarms/x", 404),
        ("/api/v1/swarms/a:b:c/peers", 404),
        ("/api/v1/swarms?after=x", 400),
        (&*format!("/api/v1/swarms/{id}/peers?after=x"), 400),
    ] {
        assert_eq!(ask(path).await.0, status, "{path}");
    }
}

/// The rules of the tracker and of the punch service are the same ones.
#[test]
fn who_can_connect_is_the_punch_services_word() {
    use shoal_stun::message::Nat as Punch;
    use shoal_stun::nat::Behaviour as Seen;
    let behaviours = [
        (Behaviour::Unknown, None),
        (Behaviour::EndpointIndependent, Some(Seen::EndpointIndependent)),
        (Behaviour::AddressDependent, Some(Seen::AddressDependent)),
        (Behaviour::AddressAndPortDependent, Some(Seen::AddressAndPortDependent)),
    ];
    let mut all = Vec::new();
    for (mapping, seen_mapping) in behaviours {
        for (filtering, seen_filtering) in behaviours {
            for predictable in [false, true] {
                let (step, newest) = if predictable { (1, 5_000) } else { (0, 0) };
                let punch = Punch { mapping: seen_mapping, filtering: seen_filtering, step, newest };
                all.push((Nat { mapping, filtering, predictable }, punch));
            }
        }
    }
    for (a, punch_a) in &all {
        for (b, punch_b) in &all {
            let expected = shoal_stun::punch::can_connect(punch_a, punch_b);
            assert_eq!(shoal_swarm::nat::can_connect(*a, *b), expected, "{a:?} {b:?}");
        }
    }
}

#[tokio::test]
async fn limits_hold_for_all_shards_together() {
    let public = Public::new(|config| {
        config.tracker.open = "everybody".to_owned();
        config.tracker.peers = 20;
    });
    let mut refused = 0;
    for number in 0..30_u32 {
        let path = format!("/announce?info_hash={number:020}&peer_id={number:020}&port=1");
        refused += u32::from(public.get("192.0.2.1:1", &path).await.contains("no room for more peers"));
    }
    assert_eq!(refused, 10);
    let path = format!("/announce?info_hash={:020}&peer_id={:020}&port=1&event=stopped", 3, 3);
    public.get("192.0.2.1:1", &path).await;
    assert!(
        !public
            .get("192.0.2.1:1", "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=aaaaaaaaaaaaaaaaaaaa&port=1")
            .await
            .contains("no room")
    );
}
