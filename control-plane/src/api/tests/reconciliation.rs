//! A small world with known differences: sessions, what the edge counted, what SDKs report, and the CDN's log in each format.

use shoal_link::ledger::{Batch, Entry, Kind};

use super::*;
use crate::store::StoreError;
use crate::store::engine::values;

/// 2018-05-01T18:00Z, which is the next day in China.
const HOUR: u64 = 423_666;
/// Sessions whose SDKs leave something out.
const LIARS: [usize; 5] = [3, 7, 13, 23, 31];
const SESSIONS: usize = 40;
const REQUESTS: usize = 5;
/// Of heads, for each request.
const HEAD: u64 = 300;

struct Fetch {
    session: usize,
    /// Of the session, from 0.
    at: usize,
    /// Seconds from the hour's start.
    second: u64,
    bytes: u64,
}

fn requests() -> Vec<Fetch> {
    // splitmix64, so that the world is the same everywhere.
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ mixed >> 27) % below
    };
    let mut requests = Vec::new();
    for session in 0..SESSIONS {
        for at in 0..REQUESTS {
            requests.push(Fetch { session, at, second: random(3600), bytes: 1_000_000 + random(1_000_000) });
        }
    }
    // The hour's first and last second are of it.
    requests[0].second = 0;
    requests[1].second = 3599;
    requests
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Nginx,
    W3c,
    Tencent,
    Aliyun,
}

const NGINX: &str = "$remote_addr [$time_local] $host \"$request\" $status $body_bytes_sent";

/// A line of the log; `second` from the hour's start, beyond 3600 of the next.
fn line(form: Form, second: u64, client: &str, path: &str, body: u64) -> String {
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (utc, china) = (18 + hour, 2 + hour);
    let wire = body + HEAD;
    match form {
        Form::Nginx => format!(
            "{client} [02/May/2018:{china:02}:{minute:02}:{second:02} +0800] cdn.test \"GET {path} HTTP/1.1\" 206 {body}\n"
        ),
        Form::W3c => {
            let (stem, query) = path.split_once('?').unwrap_or((path, "-"));
            format!("2018-05-01 {utc:02}:{minute:02}:{second:02} {client} cdn.test {stem} {query} 206 {wire} Hit\n")
        }
        Form::Tencent => format!(
            "20180502{china:02}{minute:02}{second:02} {client} cdn.test {path} {wire} 22 2 206 NULL 5 \"p/1\" \"-\" GET HTTP/1.1 hit 4000\n"
        ),
        Form::Aliyun => format!(
            "[2/May/2018:{china:02}:{minute:02}:{second:02} +0800] {client} - 5 \"-\" \"GET https://cdn.test{path}\" 206 200 {wire} HIT \"p/1\" \"video/mp2t\"\n"
        ),
    }
}

fn log(form: Form) -> String {
    let mut log = String::new();
    if form == Form::W3c {
        log.push_str(
            "#Version: 1.0\n#Fields: date time c-ip cs-host cs-uri-stem cs-uri-query sc-status sc-bytes x-cache\n",
        );
    }
    for Fetch { session, at, second, bytes } in requests() {
        // What a viewer asked, and what one of our nodes did.
        log.push_str(&line(form, second, "198.51.100.9", &format!("/live/{session}/{at}.ts?s=v{session}"), bytes));
        log.push_str(&line(form, second, "192.0.2.5", &format!("/live/{session}/{at}.m4s"), bytes));
    }
    // Of the hour after, of no channel, and no line at all.
    log.push_str(&line(form, 3600, "198.51.100.9", "/live/next.ts?s=v1", 5_000));
    log.push_str(&line(form, 10, "198.51.100.9", "/elsewhere/a.ts", 7_000));
    log.push_str("this is none\n");
    log
}

fn query(form: Form) -> String {
    match form {
        Form::Nginx => {
            let format: String = NGINX.bytes().map(|byte| format!("%{byte:02X}")).collect();
            format!("provider=cdn&format=nginx&log_format={format}")
        }
        Form::W3c => "provider=cdn&format=w3c".to_owned(),
        Form::Tencent => "provider=cdn&format=tencent".to_owned(),
        Form::Aliyun => "provider=cdn&format=aliyun".to_owned(),
    }
}

impl Api {
    async fn import(&self, query: &str, log: String) -> Answer {
        let request = Request::builder()
            .method("POST")
            .uri(format!("/api/v1/reconciliation/logs?{query}"))
            .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(header::CONTENT_TYPE, "text/plain");
        self.send(request.body(Body::from(log)).unwrap()).await
    }

    /// What SDKs say: each liar `missing` thousandths of all bytes less than it had.
    fn report(&self, missing: u64) {
        let all: u64 = requests().iter().map(|request| request.bytes).sum();
        let mut by_session = vec![0_u64; SESSIONS];
        requests().iter().for_each(|request| by_session[request.session] += request.bytes);
        for liar in LIARS {
            by_session[liar] -= all * missing / 1000 / LIARS.len() as u64;
        }
        let create = [
            "CREATE TABLE IF NOT EXISTS report_usage (hour INTEGER NOT NULL, tenant TEXT NOT NULL, channel TEXT NOT NULL,
             session TEXT NOT NULL, edge_bytes INTEGER NOT NULL, direct_bytes INTEGER NOT NULL, p2p_in_bytes INTEGER NOT NULL)",
            "CREATE TABLE IF NOT EXISTS report_providers (hour INTEGER NOT NULL, tenant TEXT NOT NULL, channel TEXT NOT NULL,
             provider TEXT NOT NULL, direct_bytes INTEGER NOT NULL)",
        ];
        let write = |tx: &mut crate::store::engine::Tx<'_>| {
            for table in create {
                tx.execute(table, &[])?;
            }
            for (session, bytes) in by_session.iter().enumerate() {
                tx.execute(
                    "INSERT INTO report_usage (hour, tenant, channel, session, edge_bytes, direct_bytes, p2p_in_bytes)
                     VALUES ($1, 'default', 'room', $2, $3, $3, 0)",
                    &values![HOUR, format!("v{session}"), *bytes],
                )?;
            }
            tx.execute(
                "INSERT INTO report_providers (hour, tenant, channel, provider, direct_bytes) VALUES ($1, 'default', 'room', 'cdn', $2)",
                &values![HOUR, by_session.iter().sum::<u64>()],
            )?;
            Ok::<_, StoreError>(())
        };
        self.store.write(write).unwrap();
    }

    async fn world(missing: u64) -> Self {
        let api = Self::new();
        let origins = json!([{"id": "cdn", "url": "http://cdn.test/live/"}]);
        let channel = json!({"id": "room", "prefix": "/room/", "origins": origins});
        assert_eq!(api.call("PUT", "/api/v1/channels/room", channel).await.status, StatusCode::CREATED);
        let provider = json!({"origins": ["cdn"], "edges": ["192.0.2.0/24"], "session_parameter": "s"});
        let put = api.call("PUT", "/api/v1/reconciliation/providers/cdn", provider).await;
        assert_eq!(put.status, StatusCode::OK, "{}", put.json);
        // What our edge counted: as much to viewers as it asked of the CDN.
        let entry = |session: String, kind: Kind, origin: &str, bytes: u64| Entry {
            tenant: "default".into(),
            channel: "room".into(),
            session: session.into(),
            kind,
            origin: origin.into(),
            requests: 1,
            body_bytes: bytes,
            wire_bytes: bytes + HEAD,
        };
        let entries = requests().into_iter().flat_map(|request| {
            let client = entry(format!("v{}", request.session), Kind::Client, "", request.bytes);
            [client, entry(String::new(), Kind::Upstream, "cdn", request.bytes)]
        });
        let start_ms = HOUR * 3_600_000;
        let batch = Batch { boot: 1, sequence: 1, start_ms, end_ms: start_ms + 1, entries: entries.collect() };
        api.store.apply_ledger("edge", &[batch]).unwrap();
        api.report(missing);
        api
    }

    async fn compared(&self) -> Vec<Value> {
        let path = format!("/api/v1/reconciliation?from={}&to={}", HOUR * 3600, HOUR * 3600 + 3600);
        let answer = self.call("GET", &path, Value::Null).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.json);
        answer.json["items"].as_array().unwrap().clone()
    }
}

fn of<'v>(items: &'v [Value], pair: &str) -> &'v Value {
    items.iter().find(|item| item["pair"] == pair).unwrap_or_else(|| panic!("no {pair} in {items:?}"))
}

async fn known_differences(form: Form) {
    let api = Api::world(70).await;
    let answer = api.import(&query(form), log(form)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json);
    let lines = (SESSIONS * REQUESTS * 2 + 3) as u64;
    assert_eq!((&answer.json["lines"], &answer.json["bad"]), (&json!(lines), &json!(1)));
    assert_eq!((&answer.json["counted"], &answer.json["unmapped"]), (&json!(lines - 2), &json!(1)));
    assert_eq!(answer.json["first_bad"][0]["text"], "this is none");

    let items = api.compared().await;
    assert_eq!(items.len(), 3, "{items:?}");
    // To the byte, though heads are in one log and not in the other.
    assert_eq!(
        (&of(&items, "upstream")["difference_percent"], &of(&items, "upstream")["alert"]),
        (&json!(0.0), &json!(false))
    );
    for pair in ["direct", "edge"] {
        let item = of(&items, pair);
        let percent = item["difference_percent"].as_f64().unwrap();
        assert!((percent + 7.0).abs() < 0.05 && item["alert"] == true, "{item}");
        let provider = if pair == "direct" { "&provider=cdn" } else { "" };
        let path = format!("/api/v1/reconciliation/room/{}/sessions?pair={pair}{provider}&limit=6", HOUR * 3600 + 1234);
        let answer = api.call("GET", &path, Value::Null).await;
        let rows = answer.json["items"].as_array().unwrap_or_else(|| panic!("{}", answer.json));
        let mut first: Vec<&str> = rows.iter().take(LIARS.len()).map(|row| row["session"].as_str().unwrap()).collect();
        first.sort_unstable();
        let mut liars = LIARS.map(|liar| format!("v{liar}"));
        liars.sort_unstable();
        assert_eq!(first, liars);
        // They explain it: what others differ by, if at all, is heads.
        let share: f64 = rows.iter().take(LIARS.len()).map(|row| row["share_percent"].as_f64().unwrap()).sum();
        assert!(share > 99.0, "{share}");
    }
    let alerts = api
        .call("GET", &format!("/api/v1/reconciliation?from={0}&to={0}&alerts=true", HOUR * 3600 + 1), Value::Null)
        .await;
    assert_eq!(alerts.json["items"].as_array().unwrap().len(), 2, "{}", alerts.json);
}

#[tokio::test]
async fn seven_percent_is_found_in_nginx_logs_and_explained() {
    known_differences(Form::Nginx).await;
}

#[tokio::test]
async fn seven_percent_is_found_in_w3c_logs_and_explained() {
    known_differences(Form::W3c).await;
}

#[tokio::test]
async fn seven_percent_is_found_in_tencent_logs_and_explained() {
    known_differences(Form::Tencent).await;
}

#[tokio::test]
async fn seven_percent_is_found_in_aliyun_logs_and_explained() {
    known_differences(Form::Aliyun).await;
}

#[tokio::test]
async fn one_percent_alerts_only_where_the_tenant_wants_it() {
    let api = Api::world(10).await;
    assert_eq!(api.import(&query(Form::Aliyun), log(Form::Aliyun)).await.status, StatusCode::CREATED);
    assert!(api.compared().await.iter().all(|item| item["alert"] == false));
    let path = "/api/v1/reconciliation/settings/default";
    assert_eq!(api.call("GET", path, Value::Null).await.json["alert_percent"], 5.0);
    let stricter = json!({"alert_percent": 0.5, "min_bytes": 1});
    assert_eq!(api.call("PUT", path, stricter).await.status, StatusCode::OK);
    let items = api.compared().await;
    assert!(of(&items, "edge")["alert"] == true && of(&items, "upstream")["alert"] == false);
    let wrong = api.call("PUT", path, json!({"alert_percent": 0, "min_bytes": 1})).await;
    assert_eq!(
        (wrong.status, &wrong.json["errors"][0]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("alert_percent"))
    );
}

#[tokio::test]
async fn nothing_counts_twice_and_an_import_can_be_taken_back() {
    let api = Api::world(0).await;
    let (query, whole) = (query(Form::Tencent), log(Form::Tencent));
    // A file that has grown: its first half, then all of it.
    let half: String = whole.lines().take(SESSIONS * REQUESTS).map(|line| format!("{line}\n")).collect();
    let first = api.import(&query, half).await;
    assert_eq!((first.status, &first.json["counted"]), (StatusCode::CREATED, &json!(SESSIONS * REQUESTS)));
    let grown = api.import(&query, whole.clone()).await;
    assert_eq!((grown.status, &grown.json["counted_before"]), (StatusCode::CREATED, &json!(SESSIONS * REQUESTS)));
    let before = api.compared().await;
    assert!(before.iter().all(|item| item["difference_percent"].as_f64().unwrap().abs() < 0.05), "{before:?}");

    // The same bytes again are answered as they were.
    let again = api.import(&query, whole.clone()).await;
    assert_eq!((again.status, &again.json["repeated"]), (StatusCode::OK, &json!(true)));
    assert_eq!(again.json["counted"], grown.json["counted"]);
    // The same lines in another order, and one that is there twice: that one is new.
    let mut lines: Vec<&str> = whole.lines().collect();
    lines.reverse();
    let twice = format!("{}\n{}\n", lines.join("\n"), lines[5]);
    let reordered = api.import(&query, twice).await;
    assert_eq!((reordered.status, &reordered.json["counted"]), (StatusCode::CREATED, &json!(1)));

    let list = api.call("GET", "/api/v1/reconciliation/logs?provider=cdn", Value::Null).await;
    assert_eq!(list.json["items"].as_array().unwrap().len(), 3);
    let digest = reordered.json["digest"].as_str().unwrap();
    let path = format!("/api/v1/reconciliation/logs/cdn/{digest}");
    assert_eq!(api.call("DELETE", &path, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.call("DELETE", &path, Value::Null).await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.compared().await, before);
}

#[tokio::test]
async fn what_cannot_be_imported_says_why_and_leaves_nothing() {
    let api = Api::world(0).await;
    for (query, status, word) in [
        ("provider=cdn&format=tencent", StatusCode::UNPROCESSABLE_ENTITY, "fewer than 15 fields"),
        ("provider=CDN&format=w3c", StatusCode::BAD_REQUEST, "provider"),
        ("provider=cdn&format=csv", StatusCode::BAD_REQUEST, "csv"),
        ("provider=cdn&format=w3c&zone=CST", StatusCode::BAD_REQUEST, "+08:00"),
        ("provider=cdn&format=w3c&log_format=x", StatusCode::BAD_REQUEST, "nginx only"),
        ("provider=cdn&format=nginx&log_format=x", StatusCode::BAD_REQUEST, "$time_local"),
    ] {
        let answer = api.import(query, "a b c\n".to_owned()).await;
        assert!(answer.status == status && answer.json["detail"].as_str().unwrap().contains(word), "{}", answer.json);
    }
    let list = api.call("GET", "/api/v1/reconciliation/logs", Value::Null).await;
    assert_eq!(list.json["items"], json!([]));
    for (path, field) in [
        ("/api/v1/reconciliation/room/x/sessions?pair=edge", "hour"),
        ("/api/v1/reconciliation/room/1/sessions?pair=direct", "provider"),
        ("/api/v1/reconciliation/room/1/sessions?pair=edge&limit=0", "limit"),
        ("/api/v1/reconciliation?from=0", "from"),
        ("/api/v1/reconciliation?to=1525140000000000", "to"),
    ] {
        let answer = api.call("GET", path, Value::Null).await;
        assert_eq!(
            (answer.status, &answer.json["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{path}"
        );
    }
}
