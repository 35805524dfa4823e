//! Trackers' clients that other people wrote, with the real process: bittorrent-tracker's by HTTP and by WebSocket with WebRTC
//! between them, and aquatic's load test.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{binary, until};
use shoal_tests::metrics::Metrics;
use shoal_tests::net::free_port;
use shoal_tests::process::Process;
use shoal_tests::tls::Authority;
use shoal_tests::tool;

const PACKAGES: [&str; 2] = ["bittorrent-tracker@11.2.3", "@roamhq/wrtc@0.10.0"];

/// Two peers find each other, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A control plane alone, with an open tracker.
struct Tracker {
    dir: PathBuf,
    public: SocketAddr,
    admin: SocketAddr,
    _control: Process,
}

impl Tracker {
    fn start(name: &str, tls: &str) -> Self {
        Self::start_with(name, tls, "")
    }

    fn start_with(name: &str, tls: &str, settings: &str) -> Self {
        let dir = tool::target_dir().join("tracker").join(format!("{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).expect("the target folder is writable");
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (public, admin) = (free_port(local), free_port(local));
        let text = format!(
            "listen = \"{admin}\"\nstate_dir = \"{0}/state\"\nlink_socket = \"{0}/link.sock\"\n\
             [tracker]\nopen = \"everybody\"\n{settings}[public]\nlisten = \"{public}\"\n{tls}",
            dir.display()
        );
        let config = dir.join("control.toml");
        fs::write(&config, text).expect("the folder is writable");
        let mut command = Command::new(binary("shoal-control"));
        let control = Process::start(name, command.arg("--config").arg(&config), &dir.join("control.log"));
        let ready = || client::ask(admin, &Request::get("/readyz")).is_ok_and(|answer| answer.status() == 200);
        until("the control plane is ready", PATIENCE, ready);
        Self { dir, public, admin, _control: control }
    }

    /// A classic announce; the answer, with bytes as characters.
    fn announce(&self, letter: &str, port: u16) -> String {
        let path = format!("/announce?info_hash={}&peer_id={}&port={port}&left=1", "h".repeat(20), letter.repeat(20));
        let answer = client::expect(self.public, &Request::get(&path));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.body.iter().map(|byte| char::from(*byte)).collect()
    }

    fn incomplete(&self) -> Option<u32> {
        let path = format!("/scrape?info_hash={}", "h".repeat(20));
        let text = client::expect(self.public, &Request::get(&path)).text();
        let (_, behind) = text.split_once("10:incompletei")?;
        behind.split('e').next()?.parse().ok()
    }

    fn metrics(&self) -> Metrics {
        Metrics::parse(&client::expect(self.admin, &Request::get("/metrics")).text())
    }

    fn peer(&self, modules: &Path, scheme: &str, letter: &str, port: u16) -> Peer {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/tracker.mjs");
        let mut command = Command::new(tool::find("node").expect("npm is there, so is node"));
        command.arg(script).arg(modules).arg(format!("{scheme}://{}/announce", self.public));
        let log = self.dir.join(format!("{scheme}-{letter}.log"));
        Peer(Process::start(letter, command.arg(letter).arg(port.to_string()), &log))
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(fs::remove_dir_all(&self.dir));
        }
    }
}

struct Peer(Process);

impl Peer {
    fn said(&self) -> Vec<Value> {
        self.0.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn says(&self, what: &Value) {
        until(&format!("a peer says {what}"), PATIENCE, || self.said().contains(what));
        let wrong = |said: &Value| said.get("error").or(said.get("warning")).is_some();
        assert!(!self.said().iter().any(wrong), "{:?}", self.said());
    }
}

#[test]
fn bittorrent_tracker_meets_by_http() {
    const NAME: &str = "bittorrent-tracker by HTTP";
    let Some(modules) = tool::npm(NAME, &PACKAGES) else { return };
    let tracker = Tracker::start("http", "");
    let one = tracker.peer(&modules, "http", "a", 7001);
    one.says(&json!({"update": {"complete": 0, "incomplete": 1, "interval": 16}}));
    one.says(&json!({"scrape": {"complete": 0, "incomplete": 1, "downloaded": 0}}));
    one.says(&json!({"update": {"complete": 1, "incomplete": 0, "interval": 16}}));
    let two = tracker.peer(&modules, "http", "b", 7002);
    two.says(&json!({"peer": "127.0.0.1:7001"}));
    two.says(&json!({"scrape": {"complete": 1, "incomplete": 1, "downloaded": 1}}));
    two.says(&json!({"update": {"complete": 2, "incomplete": 0, "interval": 16}}));
}

#[test]
fn bittorrent_tracker_connects_by_websocket() {
    const NAME: &str = "bittorrent-tracker by WebSocket";
    let Some(modules) = tool::npm(NAME, &PACKAGES) else { return };
    let tracker = Tracker::start("websocket", "");
    let one = tracker.peer(&modules, "ws", "a", 7001);
    one.says(&json!({"update": {"complete": 0, "incomplete": 1, "interval": 16}}));
    one.says(&json!({"scrape": {"complete": 0, "incomplete": 1, "downloaded": 0}}));
    let two = tracker.peer(&modules, "ws", "b", 7002);
    two.says(&json!({"data": "hello from a"}));
    one.says(&json!({"data": "hello from b"}));
    drop(two);
    let left = || tracker.metrics().sum("shoal_tracker_connections", &[]) == 1.0;
    until("the connection that ended is gone", PATIENCE, left);
    assert_eq!(tracker.metrics().sum("shoal_tracker_peers", &[]), 1.0);
}

/// Redis, alone, without a disk.
fn redis(at: SocketAddr, dir: &Path) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--port", &at.port().to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let process = Process::start("redis", command.arg("--dir").arg(dir), &dir.join("redis.log"));
    until("Redis listens", PATIENCE, || std::net::TcpStream::connect(at).is_ok());
    process
}

#[test]
fn two_instances_on_redis_are_one_tracker() {
    const NAME: &str = "two trackers on Redis";
    if tool::need(NAME, "redis-server").is_none() {
        return;
    }
    let at = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let dir = tool::target_dir().join("tracker").join(format!("redis-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the target folder is writable");
    let mut store = redis(at, &dir);
    // Peers are gone ten seconds after their last announce.
    let settings = format!("redis = \"redis://{at}\"\ninterval_s = 1\n");
    let one = Tracker::start_with("one", "", &settings);
    let two = Tracker::start_with("two", "", &settings);
    one.announce("a", 7001);
    until("the other knows of the peer", PATIENCE, || two.incomplete() == Some(1));
    let both = two.announce("b", 7002);
    assert!(both.ends_with("5:peers6:\u{7f}\0\0\u{1}\u{1b}\u{59}e"), "{both:?}");
    until("and the first one of the other's", PATIENCE, || one.incomplete() == Some(2));
    // The same peer by another instance is the same peer.
    two.announce("a", 7001);
    assert_eq!(two.incomplete(), Some(2));

    // An instance that starts anew knows what is there.
    drop(two);
    one.announce("a", 7001);
    let two = Tracker::start_with("two-again", "", &settings);
    until("it has learned from the stream", PATIENCE, || two.incomplete() >= Some(1));

    // Without Redis each goes on alone, and with it again they are one again.
    store.kill();
    assert!(one.announce("a", 7001).contains("8:interval") && two.announce("b", 7002).contains("8:interval"));
    let alone = || {
        one.announce("a", 7001);
        two.announce("b", 7002);
        one.incomplete() == Some(1) && two.incomplete() == Some(1)
    };
    until("the others' peers have expired", PATIENCE, alone);
    let _store = redis(at, &dir);
    until("they are one again", PATIENCE, || {
        one.announce("a", 7001);
        two.announce("b", 7002);
        one.incomplete() == Some(2) && two.incomplete() == Some(2)
    });

    // Offers and answers find their way between instances.
    if let Some(modules) = tool::npm(NAME, &PACKAGES) {
        let first = one.peer(&modules, "ws", "c", 7003);
        first.says(&json!({"update": {"complete": 0, "incomplete": 1, "interval": 1}}));
        until("the other knows of it", PATIENCE, || two.metrics().sum("shoal_tracker_peers", &[]) >= 3.0);
        let second = two.peer(&modules, "ws", "d", 7004);
        second.says(&json!({"data": "hello from c"}));
        first.says(&json!({"data": "hello from d"}));
    }
    drop(fs::remove_dir_all(&dir));
}

#[test]
fn aquatic_ws_load_test_runs_clean() {
    const NAME: &str = "aquatic_ws_load_test";
    let folder = tool::target_dir();
    let program = folder.parent().expect("a target folder").join("peers/bin/aquatic_ws_load_test");
    if !program.is_file() {
        return tool::skip(
            NAME,
            "it is not installed; cargo install aquatic_ws_load_test --version 0.9.0 --root target/peers",
        );
    }
    let authority = Authority::new();
    let pair = authority.issue("tracker", &["example.com"], (-1, 30));
    let tls = format!("tls = {}\n", pair.toml());
    let tracker = Tracker::start("load", &tls);
    let config = tracker.dir.join("load.toml");
    let text = format!(
        "server_address = \"{}\"\nnum_workers = 1\nnum_connections_per_worker = 20\nconnection_creation_interval_ms = 20\n\
         duration = 10\nmeasure_after_max_connections_reached = false\n\
         [torrents]\nnumber_of_torrents = 2\nweight_announce = 5\nweight_scrape = 1\n",
        tracker.public
    );
    fs::write(&config, text).expect("the folder is writable");
    let output = tool::run(Command::new(program).arg("-c").arg(&config));
    let said = tool::stdout(&output);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.trim().is_empty(), "{said}\n{errors}");
    // Each line once for every five seconds; none may tell of an error, and each kind of answer comes.
    let rates = |name: &str| -> Vec<f64> {
        let lines = said.lines().filter_map(|line| line.split_once(name));
        lines.map(|(_, rate)| rate.trim().parse().expect("a rate")).collect()
    };
    assert!(rates("Error responses:").iter().all(|rate| *rate == 0.0), "{said}");
    for kind in ["Announce responses:", "Offer responses:", "Answer responses:", "Scrape responses:"] {
        assert!(rates(kind).iter().any(|rate| *rate > 1.0), "{kind} {said}");
    }
    let metrics = tracker.metrics();
    println!("{said}\n{}", metrics.sum("shoal_tracker_announces_total", &[]));
    let malformed = metrics.sum("shoal_tracker_announces_total", &[("result", "malformed")]);
    assert_eq!(malformed, 0.0);
}
