//! The control plane comes and goes; the edge serves on, and changes reach it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{self, Lab, Settings, until};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::{tool, with_one_and_four_shards};

with_one_and_four_shards!(changes_reach_the_edge, a_kill_of_the_control_plane_fails_no_request, the_edge_starts_alone);

const SOON: Duration = Duration::from_secs(10);

fn changes_reach_the_edge(shards: u32) {
    let (one, two) = (Origin::start(), Origin::start());
    one.put(Object::literal("/a", "one")).put(Object::new("/large", 100_000));
    two.put(Object::literal("/a", "two"));
    let lab = Lab::start(shards);
    let admin = lab.admin();
    let text = |path: &str| {
        let answer = client::expect(lab.http(), &Request::get(path));
        (answer.status(), answer.text())
    };
    assert_eq!(text("/vod/a").0, 503, "a node without any channel was not told yet");
    lab.channel("vod", &[&one]);
    assert_eq!(text("/vod/a"), (200, "one".to_owned()));

    // Another origin, another prefix, another host, off, gone.
    let patch = |body: Value| {
        lab.change(|| {
            let answer = admin.send_as("PATCH", "/api/v1/channels/vod", "application/merge-patch+json", &body);
            assert_eq!(answer.status(), 200, "{body}: {}", answer.text());
        });
    };
    patch(json!({"origins": [{"id": "o0", "url": two.url()}]}));
    admin.purge(&json!({"scope": "channel", "channel": "vod"}));
    assert_eq!(text("/vod/a"), (200, "two".to_owned()));
    patch(json!({"prefix": "/tv/"}));
    assert_eq!((text("/vod/a").0, text("/tv/a").1), (404, "two".to_owned()));
    patch(json!({"hosts": ["tv.test"]}));
    assert_eq!(text("/tv/a").0, 404);
    let named = |host: &str| client::expect(lab.http(), &Request::get("/tv/a").header("Host", host)).status();
    assert_eq!((named("tv.test"), named("TV.Test:80"), named("other.test")), (200, 200, 404));
    patch(json!({"enabled": false}));
    assert_eq!(named("tv.test"), 403);
    lab.channel("stays", &[&one]);
    lab.change(|| admin.call("DELETE", "/api/v1/channels/vod", None));
    assert_eq!(named("tv.test"), 404);

    // A change in the middle of a download does not touch it.
    one.put(Object::new("/slow", 400_000).paced(16 << 10, Duration::from_millis(20)));
    lab.channel("vod", &[&one]);
    let answer = thread::scope(|scope| {
        let viewer = scope.spawn(|| client::expect(lab.http(), &Request::get("/vod/slow")));
        until("the download runs", SOON, || one.requests("/slow") > 0);
        lab.channel("other", &[&two]);
        lab.channel("vod", &[&one, &two]);
        viewer.join().expect("the viewer does not panic")
    });
    assert!(answer.body.len() == 400_000 && Object::new("/slow", 400_000).is_right(0, 0, &answer.body));

    // A longer prefix goes before a shorter one; a channel for the host before one for any.
    for (id, prefix, hosts, origin) in [
        ("outer", "/p/", json!([]), &one),
        ("inner", "/p/q/", json!([]), &two),
        ("host", "/p/", json!(["h.test"]), &two),
    ] {
        let mut channel = lab::channel(id, &[origin]);
        channel["prefix"] = json!(prefix);
        channel["hosts"] = hosts;
        lab.put_channel(&channel);
    }
    assert_eq!((text("/p/a").1, text("/p/q/a").1), ("one".to_owned(), "two".to_owned()));
    let on_host = client::expect(lab.http(), &Request::get("/p/a").header("Host", "h.test"));
    assert_eq!(on_host.text(), "two");
}

fn a_kill_of_the_control_plane_fails_no_request(shards: u32) {
    let Some(wrk) = tool::need("control plane killed under load", "wrk") else { return };
    let origin = Origin::start();
    origin.put(Object::new("/a", 20_000)).put(Object::literal("/new", "new"));
    let mut lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let load = Command::new(wrk)
        .args(["-t1", "-c16", "-d6s", "--timeout", "5s", &lab.url("/vod/a")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("wrk was found");
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(800));
        lab.kill_control();
        thread::sleep(Duration::from_millis(800));
        lab.start_control();
    }
    lab.channel("late", &[&origin]);
    assert_eq!(client::expect(lab.http(), &Request::get("/late/new")).text(), "new", "changes flow again");
    let output = load.wait_with_output().expect("wrk ends");
    let report = tool::stdout(&output);
    println!("{report}");
    assert!(output.status.success());
    assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
    let requests = report.lines().find_map(|line| line.trim().split_once(" requests in ")).expect("wrk counts");
    assert!(requests.0.parse::<u64>().expect("wrk counts") > 100, "{report}");
    lab.report_handovers("control plane killed");
}

fn the_edge_starts_alone(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::literal("/a", "fine"));
    let mut lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let version = lab.snapshot_version();
    lab.kill_control();
    lab.kill_edge();
    lab.start_edge();
    assert_eq!(lab.snapshot_version(), version, "the last good snapshot is on disk");
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/a")).text(), "fine");
    lab.start_control();
    lab.channel("more", &[&origin]);
    assert_eq!(client::expect(lab.http(), &Request::get("/more/a")).text(), "fine");

    // A snapshot file that is cut short is no snapshot: it says so, and starts with what control plane sends.
    lab.kill_edge();
    for file in fs::read_dir(lab.dir().join("edge")).expect("the state folder is there") {
        let path = file.expect("its files can be listed").path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().contains("snapshot")) {
            let bytes = fs::read(&path).expect("our own file");
            fs::write(&path, &bytes[..bytes.len() / 2]).expect("our own file");
        }
    }
    lab.start_edge();
    until("the control plane sends it anew", SOON, || lab.snapshot_version() > version);
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/a")).text(), "fine");
}

#[test]
fn bad_admin_input_names_field_value_and_remedy() {
    let origin = Origin::start();
    origin.put(Object::literal("/a", "fine"));
    let lab = Lab::start(1);
    lab.channel("vod", &[&origin]);
    let admin = lab.admin();
    let version = lab.snapshot_version();
    let good = lab::channel("bad", &[&origin]);
    let with = |pointer: &str, value: Value| {
        let mut channel = good.clone();
        let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
        let parent = channel.pointer_mut(parent).expect("a parent that is there");
        parent[key] = value;
        channel
    };
    let cases = [
        ("an unknown key", with("/origns", json!([])), "origns", "origins"),
        ("a wrong type", with("/enabled", json!("yes")), "enabled", "yes"),
        ("a bad prefix", with("/prefix", json!("no-slash")), "prefix", "no-slash"),
        ("a bad id", with("/tenant", json!("Upper Case")), "tenant", "Upper Case"),
        ("no origin", with("/origins", json!([])), "origins", "origin"),
        ("a bad URL", with("/origins/0/url", json!("ftp://a/")), "origins[0].url", "ftp://a/"),
        ("a bad CIDR", with("/access", json!({"address": {"deny": ["10.0.0.0/99"]}})), "address", "10.0.0.0/99"),
        ("a negative number", with("/cache", json!({"default_ttl_ms": -1})), "default_ttl_ms", "-1"),
        ("no key", with("/access", json!({"ticket": {"keys": []}})), "keys", "key"),
        (
            "an unknown profile",
            with(
                "/access",
                json!({"ticket": {"keys": [{"id": "a", "secret": "0123456789abcdef"}],
                "profiles": [{"profile": "tencent-z"}]}}),
            ),
            "profile",
            "tencent-z",
        ),
    ];
    for (what, channel, field, value) in cases {
        let answer = admin.send("PUT", "/api/v1/channels/bad", Some(&channel));
        let text = answer.text();
        assert!((400..500).contains(&answer.status()), "{what}: {} {text}", answer.status());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        assert!(text.contains(field) && text.contains(value), "{what}: no {field} or {value} in {text}");
    }
    let raw = admin.send_raw("PUT", "/api/v1/channels/bad", "application/json", b"{not json");
    assert_eq!(raw.status(), 400, "{}", raw.text());
    let anonymous = client::expect(lab.api(), &Request::get("/api/v1/channels"));
    assert_eq!(anonymous.status(), 401, "{}", anonymous.text());
    let wrong = Request::get("/api/v1/channels").header("Authorization", "Bearer wrong");
    assert!(matches!(client::expect(lab.api(), &wrong).status(), 401 | 403));
    let document = client::expect(lab.api(), &Request::get("/api/v1/openapi.json"));
    let document: Value = serde_json::from_slice(&document.body).expect("the document is JSON");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));

    assert_eq!(lab.snapshot_version(), version, "nothing of this became a snapshot");
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/a")).text(), "fine", "what ran goes on");
    let token = fs::metadata(lab.dir().join("token")).expect("the token file is there");
    assert_eq!(token.permissions().mode() & 0o777, 0o600);
}

#[test]
fn bad_configuration_names_key_value_and_remedy() {
    let lab = Lab::start(1);
    let good = fs::read_to_string(lab.dir().join("dataplane.toml")).expect("our own file");
    let check = |mut command: Command, text: &str| {
        let path = lab.dir().join("try.toml");
        fs::write(&path, text).expect("our own folder");
        // The command has `--config FILE`; the last one given is ours.
        let program = command.get_program().to_owned();
        command = Command::new(program);
        let output = tool::run(command.arg("--config").arg(&path).arg("--check"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &tool::stdout(&output);
        (output.status.code(), said)
    };
    let (code, said) = check(lab.edge_command(), &good);
    assert_eq!(code, Some(0), "a good configuration: {said}");
    for (what, from, to, names) in [
        ("an unknown key", "ram_bytes", "ram_byte", &["ram_byte", "ram_bytes"][..]),
        ("an unknown section", "[cache]", "[cahce]", &["cahce", "cache"]),
        ("a wrong type", "ram_bytes = ", "ram_bytes = \"1 GB\" #", &["ram_bytes", "1 GB"]),
        ("a bad address", "listen = [\"127", "listen = [\"1277", &["listen", "1277"]),
        ("too little memory", "ram_bytes = ", "ram_bytes = 1 #", &["ram_bytes", "1"]),
        ("a block size that is none", "block_bytes = ", "block_bytes = 1000 #", &["block_bytes", "1000"]),
        ("a bad CIDR", "[http]", "[http]\ntrusted_proxies = [\"10.0.0.0/40\"]", &["trusted_proxies", "10.0.0.0/40"]),
        ("a CPU that is not there", "cpus = [0, 1]", "cpus = [0, 4000]", &["cpus", "4000"]),
        ("not TOML", "[cache]", "[cache", &["try.toml", "TOML"]),
    ] {
        assert!(good.contains(from), "{what}: no {from} in {good}");
        let (code, said) = check(lab.edge_command(), &good.replacen(from, to, 1));
        assert_eq!(code, Some(1), "{what}: {said}");
        for name in names {
            assert!(said.contains(name), "{what}: no {name} in {said}");
        }
        assert!(!said.contains("panicked"), "{what}: {said}");
    }
    let good = fs::read_to_string(lab.dir().join("control.toml")).expect("our own file");
    assert_eq!(check(lab.control_command(), &good).0, Some(0));
    for (from, to, names) in [
        ("state_dir", "state_dri", &["state_dri", "state_dir"][..]),
        ("listen = \"", "listen = \"x", &["listen"]),
        ("link_socket = ", "link_socket = 7 #", &["link_socket", "7"]),
    ] {
        let (code, said) = check(lab.control_command(), &good.replacen(from, to, 1));
        assert_eq!(code, Some(1), "{to}: {said}");
        assert!(names.iter().all(|name| said.contains(name)), "{to}: {said}");
    }
}

#[test]
fn shoalctl_does_what_the_api_does() {
    let origin = Origin::start();
    origin.put(Object::literal("/a", "fine"));
    let lab = Settings::new(1).start();
    let ctl = |args: &[&str]| {
        let (code, said) = lab.shoalctl(args);
        (code == Some(0), said)
    };
    let file = lab.dir().join("channel.json");
    fs::write(&file, lab::channel("vod", &[&origin]).to_string()).expect("our own folder");
    let file = file.to_str().expect("our own name");
    assert!(lab.change(|| ctl(&["channels", "apply", "--file", file]).0));
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/a")).text(), "fine");
    assert!(ctl(&["channels", "list"]).1.contains("vod"));
    assert!(ctl(&["channels", "get", "vod"]).1.contains(&origin.url()));
    assert!(ctl(&["nodes"]).1.contains("lab"));
    origin.bump("/a");
    assert!(ctl(&["purge", "/vod/a"]).0 && ctl(&["purge", "--all"]).0);
    assert!(ctl(&["prefetch", "vod", "a"]).0);
    assert_eq!(origin.requests("/a"), 2, "purged, and fetched ahead");
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/a")).field("etag"), "\"v1\"");
    assert_eq!(origin.requests("/a"), 2);
    assert!(lab.change(|| ctl(&["channels", "disable", "vod"]).0));
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/a")).status(), 403);
    assert!(lab.change(|| ctl(&["channels", "delete", "vod"]).0));
    assert!(matches!(client::expect(lab.http(), &Request::get("/vod/a")).status(), 404 | 503));
    assert!(ctl(&["--json", "ledger"]).0);
    let (good, said) = ctl(&["channels", "get", "nothing"]);
    assert!(!good && said.contains("nothing"), "{said}");
}
