//! Reports: whatever is acknowledged counts, once, across kills at any moment and clients that send again what was not.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use serde_json::{Value, json};
use shoal_control::pass::{Pass, PassKeys};

use crate::support::{Control, Dir, WAIT, until};

/// Kills in an ordinary run; `SHOAL_KILLS` sets another number.
const KILLS: u64 = 100;
/// Clients at a time, and sessions of each.
const CLIENTS: u64 = 4;
const SESSIONS: u64 = 6;
/// Longest time that a process lives before it is killed.
const LIFE_MS: u64 = 160;

const SETTINGS: &str = "[reports]\nsegment_seconds = 1\n";

/// splitmix64.
fn mixed(number: u64) -> u64 {
    let state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ mixed >> 27
}

/// Bytes of a session's report; each is another number, so that a wrong sum shows.
fn bytes(session: u64, seq: u64) -> u64 {
    mixed(session << 32 | seq) % 1_000_003
}

/// The process's own keys of passes, as its database has them.
fn keys(dir: &Dir) -> PassKeys {
    let key = until("there is a key for passes", || {
        let db = rusqlite::Connection::open(dir.path().join("state/control.sqlite3")).unwrap();
        let sql = "SELECT number, secret FROM pass_keys ORDER BY number LIMIT 1";
        db.query_row(sql, [], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, [u8; 32]>(1)?))).ok()
    });
    PassKeys::new(vec![key])
}

fn pass(keys: &PassKeys, session: &str) -> String {
    let expires = 4_000_000_000;
    let pass = Pass {
        tenant: "acme".into(),
        app: "player".into(),
        channel: "room".into(),
        session: session.into(),
        expires,
        relay_only: false,
    };
    keys.mint(&pass).unwrap()
}

/// Posts a body; the status and the answer, or nothing where the connection broke.
fn post(to: SocketAddr, path: &str, pass: &str, kind: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(500)).ok()?;
    stream.set_read_timeout(Some(WAIT)).ok()?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: control\r\nAuthorization: Bearer {pass}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text))
}

/// What clients share.
struct Shared {
    /// Where the process that lives now listens.
    to: Mutex<Option<SocketAddr>>,
    stop: AtomicBool,
    broken: AtomicU64,
    refused: AtomicU64,
}

/// Sends reports of its sessions until it is told to stop, and what was not acknowledged again until it is. What each session
/// has sent.
fn client(shared: &Shared, keys: &PassKeys, number: u64) -> Vec<(u64, u64)> {
    let mut sessions: Vec<(u64, String, u64)> = (0..SESSIONS)
        .map(|nth| {
            let session = number * SESSIONS + nth;
            (session, pass(keys, &format!("s{session}")), 0)
        })
        .collect();
    let mut turn = number;
    while !shared.stop.load(Ordering::Relaxed) {
        turn += 1;
        let (session, pass, acknowledged) = &mut sessions[(turn % SESSIONS) as usize];
        let last = *acknowledged + 1 + mixed(turn) % 5;
        let reports: Vec<Value> = (*acknowledged + 1..=last)
            .map(|seq| json!({"seq": seq, "edge_bytes": bytes(*session, seq), "p2p_in_bytes": seq, "playing_ms": 1}))
            .collect();
        let body = json!({"v": 1, "sdk": "test/1", "reports": reports}).to_string();
        loop {
            let to = *shared.to.lock().unwrap();
            let answer = to.and_then(|to| post(to, "/v1/reports", pass, "application/json", &body));
            match answer {
                Some((202, _)) => break,
                Some((429 | 503, _)) => shared.refused.fetch_add(1, Ordering::Relaxed),
                Some(other) => panic!("{other:?}"),
                None => shared.broken.fetch_add(1, Ordering::Relaxed),
            };
            thread::sleep(Duration::from_millis(5));
        }
        *acknowledged = last;
    }
    sessions.into_iter().map(|(session, _, sent)| (session, sent)).collect()
}

#[test]
fn what_is_acknowledged_counts_once_across_kills() {
    let kills = std::env::var("SHOAL_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let dir = Dir::new();
    let parquet = dir.path().join("parquet");
    let settings = format!("{SETTINGS}parquet_dir = {:?}\n", parquet.display().to_string());
    let start = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shoal-control"));
        command.arg("--config").arg(dir.config(&settings));
        Control::start_as(&dir, &mut command)
    };
    let first = start();
    let keys = keys(&dir);
    let shared = Arc::new(Shared {
        to: Mutex::new(Some(first.public)),
        stop: AtomicBool::new(false),
        broken: AtomicU64::new(0),
        refused: AtomicU64::new(0),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (shared, keys) = (Arc::clone(&shared), keys.clone());
            thread::spawn(move || client(&shared, &keys, number))
        })
        .collect();
    let mut control = first;
    for kill in 0..kills {
        thread::sleep(Duration::from_millis(mixed(kill) % LIFE_MS));
        control.kill();
        *shared.to.lock().unwrap() = None;
        control = start();
        *shared.to.lock().unwrap() = Some(control.public);
    }
    shared.stop.store(true, Ordering::Relaxed);
    let sent: HashMap<u64, u64> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let broken = shared.broken.load(Ordering::Relaxed);
    assert!(broken >= kills / 2, "{broken} requests of {kills} kills were cut off");

    let all = || sent.iter().flat_map(|(session, sent)| (1..=*sent).map(move |seq| (*session, seq)));
    let count = all().count() as u64;
    let expected: u64 = all().map(|(session, seq)| bytes(session, seq)).sum();
    println!("{kills} kills, {count} reports, {broken} requests cut off, {:?} refused", shared.refused);
    let totals = |control: &Control, step: &str| {
        let sums = control.get(&format!("/api/v1/reports?group=&from=0&step={step}"));
        let sum = sums["items"][0].clone();
        (sum["reports"].as_u64().unwrap_or(0), sum["edge_bytes"].as_u64().unwrap_or(0))
    };
    let settled = |control: &Control| {
        until("everything is rolled up", || (totals(control, "day").0 >= count).then_some(()));
        thread::sleep(Duration::from_millis(500));
        for step in ["minute", "hour", "day"] {
            assert_eq!(totals(control, step), (count, expected), "by {step}");
        }
    };
    settled(&control);

    // The last of each session once more, to a process that has just started.
    control.kill();
    let control = start();
    for (session, sent) in &sent {
        let reports: Vec<Value> =
            (sent.saturating_sub(200).max(1)..=*sent).map(|seq| json!({"seq": seq, "edge_bytes": 1})).collect();
        let pass = pass(&keys, &format!("s{session}"));
        let body = json!({"v": 1, "reports": reports}).to_string();
        if !reports.is_empty() {
            assert_eq!(post(control.public, "/v1/reports", &pass, "text/plain", &body).unwrap().0, 202);
        }
    }
    let duplicates = "shoal_control_reports_rolled_up_total{result=\"duplicate\"}";
    until("they are known", || control.metric(duplicates).filter(|count| *count > 0.0));
    settled(&control);

    // Raw records have each of them at least once, when the segments are finished and exported.
    let deadline = Instant::now() + WAIT;
    let missing = loop {
        let raw = raw(&parquet);
        let missing = all().filter(|(session, seq)| !raw.contains_key(&(format!("s{session}"), *seq))).count();
        if missing == 0 || Instant::now() > deadline {
            break missing;
        }
        thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(missing, 0, "reports are not in any Parquet file");
}

/// How often each session's report is in the files.
fn raw(dir: &Path) -> HashMap<(String, u64), u64> {
    let mut found = HashMap::new();
    let mut folders = vec![dir.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                files.push(path);
            }
        }
    }
    for file in files {
        let reader = SerializedFileReader::new(File::open(file).unwrap()).unwrap();
        for row in reader.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let at = |name: &str| row.get_column_iter().position(|(column, _)| column == name).unwrap();
            let key = (row.get_string(at("session")).unwrap().clone(), row.get_long(at("seq")).unwrap() as u64);
            *found.entry(key).or_default() += 1;
        }
    }
    found
}

#[test]
fn reports_and_cmcd_are_taken_refused_by_name_and_summed() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let keys = keys(&dir);
    let pass = pass(&keys, "viewer-1");
    let send = |path: &str, kind: &str, body: &str| post(control.public, path, &pass, kind, body).unwrap();
    let report = json!({"v": 1, "platform": "html5", "reports": [
        {"seq": 1, "edge_bytes": 1000, "direct": {"cdn-a": 500}, "p2p_in_bytes": 4500, "first_frame_ms": 800, "mood": 1},
        {"seq": 2, "stalls": 1, "stall_ms": 900},
    ]});
    let (status, answer) = send("/v1/reports", "application/json", &report.to_string());
    assert!(status == 202 && answer.ends_with("{\"accepted\":2}"), "{answer}");
    let events = "v=2,e=ps,sta=s,ts=1700000000000,sn=0,sid=\"x\"\nv=2,e=t,ts=1700000030000,sn=1,sid=\"x\",bs\n";
    assert_eq!(send("/v1/cmcd", "application/cmcd", events).0, 202);
    assert_eq!(send("/v1/cmcd", "application/cmcd", events).0, 202);
    for (path, kind, body, status, word) in [
        ("/v1/reports", "application/json", "{", 400, "JSON"),
        ("/v1/reports", "application/xml", "{}", 415, "application/json"),
        (
            "/v1/reports",
            "application/json",
            r#"{"v":1,"reports":[{"seq":1,"edge_bytes":-1}]}"#,
            422,
            "reports[0].edge_bytes",
        ),
        ("/v1/reports", "application/json", r#"{"v":9,"reports":[{"seq":1}]}"#, 422, "version 1"),
        ("/v1/cmcd", "application/cmcd", "e=t", 422, "events[0].ts"),
        ("/v1/cmcd", "text/html", "e=t", 415, "application/cmcd"),
    ] {
        let (found, answer) = send(path, kind, body);
        assert!(found == status && answer.contains(word), "{path} {body}: {answer}");
    }
    let (status, answer) = post(control.public, "/v1/reports", "none", "application/json", "{}").unwrap();
    assert!(status == 401 && answer.contains("ask conf"), "{answer}");
    let long = format!("{{\"v\":1,\"x\":\"{}\"}}", "y".repeat(1 << 20));
    assert_eq!(send("/v1/reports", "application/json", &long).0, 413);

    let sum = until("all is rolled up", || {
        let sums = control.get("/api/v1/reports?group=platform,sdk&step=minute&from=0&tenant=acme&channel=room");
        (sums["items"].as_array().unwrap().len() == 2).then_some(sums)
    });
    let cmcd = &sum["items"][0];
    assert_eq!((&cmcd["sdk"], &cmcd["reports"], &cmcd["stalls"]), (&json!("cmcd-2"), &json!(2), &json!(1)));
    let sdk = &sum["items"][1];
    assert_eq!((&sdk["platform"], &sdk["reports"], &sdk["direct_bytes"]), (&json!("html5"), &json!(2), &json!(500)));
    assert_eq!((&sdk["share_ratio"], &sdk["first_frame_mean_ms"]), (&json!(0.75), &json!(800.0)));
    let viewers = control.get("/api/v1/reports?group=&step=day&from=0")["items"][0]["viewers"].clone();
    assert_eq!(viewers, 1, "one session is one viewer, however it reports");
    assert!(control.metric("shoal_control_reports_refused_total{reason=\"pass\"}").unwrap() >= 1.0);
    assert_eq!(control.metric("shoal_control_reports_rolled_up_total{result=\"duplicate\"}"), Some(2.0));
}
