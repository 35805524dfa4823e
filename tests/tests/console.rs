//! The console in a real browser: by keyboard alone, without a word in the browser's own log, within its window at 360 px, and without
//! what axe calls a serious fault. There is no data plane; what nodes and players would have told is written into the database.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::admin::Admin;
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{binary, until};
use shoal_tests::process::Process;
use shoal_tests::{net, tool};

const NAME: &str = "the console in Chromium";
const PACKAGES: [&str; 2] = ["puppeteer-core@24", "axe-core@4"];
const PASSWORD: &str = "correct horse battery";

/// Two nodes, a day of usage with a daily curve, what players reported of it by region, and a CDN's log that agrees for one channel
/// and not for another.
const SEED: &str = r#"
import math, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=10)
now = int(time.time() * 1000)
for node, snapshot in (("edge-berlin-1", None), ("edge-tokyo-1", 7)):
    db.execute("INSERT INTO nodes (node, boot, software, public_url, snapshot, first_seen_ms, last_seen_ms) VALUES (?, 1, 'shoal 0.1.0', ?, ?, ?, ?)",
        (node, "https://%s.example" % node, snapshot, now - 86400000 * 30, now - 7200000))
hour = now // 3600000
for back in range(24):
    share = 0.55 + 0.45 * math.sin((hour - back) % 24 / 24 * 2 * math.pi)
    for channel, size in (("news", 4e11), ("sports", 9e11), ("a-channel-with-a-rather-long-name-for-a-narrow-screen", 2e10)):
        for kind, part in (("client", 1.0), ("upstream", 0.07)):
            bytes = int(size * share * part)
            origin = "main" if kind == "upstream" else ""
            db.execute("INSERT INTO ledger (hour, tenant, channel, session, kind, origin, requests, body_bytes, wire_bytes) VALUES (?, 'default', ?, '', ?, ?, 9, ?, ?)",
                (hour - back, channel, kind, origin, bytes, bytes))
        edge = int(size * share)
        told = edge if channel == "news" else int(edge * 0.9)
        for session, part in (("viewer-one", 0.6), ("viewer-two", 0.4)):
            db.execute("INSERT INTO report_usage VALUES (?, 'default', ?, ?, ?, 0, ?)", (hour - back, channel, session, int(told * part), edge * 2))
        log = int(size * share * 0.07 * (1.0 if channel == "news" else 0.8))
        db.execute("INSERT INTO recon_log VALUES (?, 'big-cdn', 'default', ?, 'edge', 'body', '', 'd1', 9, ?, 5)", (hour - back, channel, log))
        for region, isp, part in (("DE-BE", "Example Telecom", 0.5), ("JP-13", "Tokyo Net", 0.3), ("BR-SP", "Rede", 0.15), ("", "", 0.05)):
            for step, length, buckets in ((0, 1, [(hour - back) * 60 + m for m in (1, 20, 40)]), (1, 60, [hour - back]), (2, 1440, [(hour - back) // 24])):
                for bucket in buckets:
                    row = [step, bucket, "default", channel, region, isp, "html5", "shoal-js/1.4.0"]
                    add = [int(900 * part), 40, int(told * part), 0, int(edge * 2 * part), int(edge * 2 * part), 90, 7, 3, 900, 4000000, 1, 30, 21000]
                    add += [1, 4, 9, 8, 4, 2, 1, 1, 0, 0, 0, 0]
                    columns = "viewers reports edge_bytes direct_bytes p2p_in_bytes p2p_out_bytes connections connection_failures stalls stall_ms playing_ms errors first_frames first_frame_ms h0 h1 h2 h3 h4 h5 h6 h7 h8 h9 h10 h11".split()
                    sums = ", ".join("%s = %s + excluded.%s" % (c, c, c) for c in columns)
                    marks = ", ".join("?" * (len(row) + len(add)))
                    db.execute("INSERT INTO report_rollups VALUES (%s) ON CONFLICT DO UPDATE SET %s" % (marks, sums), row + add)
db.commit()
"#;

#[test]
fn people_use_the_console_by_keyboard_on_any_screen() {
    let Some(chromium) = tool::need(NAME, "chromium") else { return };
    let Some(node) = tool::need(NAME, "node") else { return };
    let Some(python) = tool::need(NAME, "python3") else { return };
    let Some(modules) = tool::npm(NAME, &PACKAGES) else { return };
    let lab = Lab::start();
    let admin = lab.admin();
    for id in ["news", "sports", "a-channel-with-a-rather-long-name-for-a-narrow-screen"] {
        admin.put_channel(&json!({
            "id": id, "prefix": format!("/{id}/"), "hosts": ["live.example.com"],
            "origins": [{"id": "main", "url": format!("https://origin.example.com/live/{id}/")},
                {"id": "spare", "url": "http://10.1.2.3:8080/", "order": 1}],
            "access": {"ticket": {"keys": [{"id": "k1", "secret": "a secret of sixteen or more"}]}},
        }));
    }
    admin.call("PATCH", "/api/v1/channels/sports", Some(&json!({"cache": {"default_ttl_ms": 9000}})));
    for role in ["viewer", "operator", "admin"] {
        admin.call("POST", "/api/v1/users", Some(&json!({"name": role, "role": role, "password": PASSWORD})));
    }
    let cdn = json!({"id": "big-cdn", "origins": ["main"], "edges": [], "session_parameter": ""});
    admin.call("PUT", "/api/v1/reconciliation/providers/big-cdn", Some(&cdn));
    admin.call("POST", "/api/v1/tokens", Some(&json!({"name": "grafana", "role": "viewer", "days": 90})));
    fs::write(lab.dir.join("seed.py"), SEED).expect("the lab's own folder is writable");
    let mut seed = Command::new(python);
    let seeded = tool::run(seed.arg(lab.dir.join("seed.py")).arg(lab.dir.join("control/control.sqlite3")));
    assert!(seeded.status.success(), "{}", String::from_utf8_lossy(&seeded.stderr));

    // SHOAL_SHOTS keeps the pictures, for people to look at.
    let shots = env::var_os("SHOAL_SHOTS").map_or_else(|| lab.dir.join("shots"), PathBuf::from);
    fs::create_dir_all(&shots).expect("the folder for pictures can be made");
    let script = lab.dir.join("browser.mjs");
    fs::write(&script, include_str!("console/browser.mjs")).expect("the lab's own folder is writable");
    let report = lab.dir.join("report.json");
    let told = json!({
        "modules": modules, "chromium": chromium, "base": format!("http://{}", lab.api), "profile": lab.dir.join("profile"),
        "password": PASSWORD, "shots": shots, "report": report,
    });
    let mut command = Command::new(node);
    command.arg(&script).arg(told.to_string());
    let mut browser = Process::start("node", &mut command, &lab.dir.join("browser.log"));
    let status = browser.wait(Duration::from_secs(300));
    assert!(status.is_some_and(|status| status.success()), "{}", browser.output());
    let text = fs::read_to_string(&report).expect("the script wrote it");
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));

    // By keyboard: what the page says, the API says, too.
    assert_eq!(report["said"], "The channel is switched off.", "{report}");
    let news = admin.call("GET", "/api/v1/channels/news", None);
    assert_eq!(news["enabled"], false, "{news}");
    let log = admin.call("GET", "/api/v1/audit?action=switchChannelOff", None);
    assert_eq!(log["items"][0]["actor"], "operator", "{log}");
    assert_eq!(report["refreshed"], true, "the overview is kept fresh: {report}");
    let pages = report["pages"].as_array().expect("pages were looked at");
    assert!(pages.len() >= 20, "{pages:?}");
    for (what, meaning) in [
        ("overflow", "wider than their window"),
        ("violations", "with serious faults"),
        ("logged", "with words in the browser's log"),
        ("strangers", "that ask elsewhere"),
    ] {
        assert_eq!(report[what], json!([]), "pages {meaning}");
    }
}

/// A control plane alone.
struct Lab {
    dir: PathBuf,
    api: SocketAddr,
    _control: Process,
}

impl Lab {
    fn start() -> Self {
        let dir = env::temp_dir().join(format!("shoal-console-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the folder for temporary files is writable");
        let [api, public] = [(); 2].map(|()| net::free_port(net::own_address()));
        let shown = dir.display();
        let text = format!(
            "listen = \"{api}\"\nstate_dir = \"{shown}/control\"\nlink_socket = \"{shown}/link.sock\"\n\
             token_file = \"{shown}/token\"\n[public]\nlisten = \"{public}\"\n"
        );
        fs::write(dir.join("control.toml"), text).expect("the lab's own folder is writable");
        let mut command = Command::new(binary("shoal-control"));
        command.arg("--config").arg(dir.join("control.toml"));
        let control = Process::start("shoal-control", &mut command, &dir.join("control.log"));
        until("the control plane is ready", Duration::from_secs(20), || {
            client::ask(api, &Request::get("/readyz")).is_ok_and(|answer| answer.status() == 200)
        });
        Self { dir, api, _control: control }
    }

    fn admin(&self) -> Admin {
        Admin::new(self.api, Path::new(&self.dir.join("token")))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            drop(fs::remove_dir_all(&self.dir));
        }
    }
}
