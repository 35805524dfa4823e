//! `shoalctl` against the real process.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_link::message::Reply;
use shoal_link::node::Health;
use shoal_link::{ControlMessage, DataMessage};

use crate::support::{self, Control, Dir, Node, batch, until};

pub(crate) struct Ctl {
    api: String,
    token_file: std::path::PathBuf,
}

impl Ctl {
    pub(crate) fn new(dir: &Dir, control: &Control) -> Self {
        Self { api: format!("http://{}", control.api), token_file: dir.path().join("state/token") }
    }

    /// Exit code, standard output, standard error.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run_with(arguments, "")
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_shoalctl"))
            .args(arguments)
            .env("SHOAL_API", &self.api)
            .env("SHOAL_TOKEN_FILE", &self.token_file)
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It need not read what it does not want.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        println!("shoalctl {arguments:?}: {:?}\n{out}{err}", output.status);
        assert!(!err.contains("panicked"));
        (output.status.code().unwrap(), out, err)
    }

    /// What it prints; it must succeed.
    pub(crate) fn good(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.run(arguments);
        assert_eq!((code, &*err), (0, ""), "{arguments:?}");
        out
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.good(&[arguments, &["--json"]].concat())).unwrap()
    }
}

#[test]
fn channels_and_keys() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let ctl = Ctl::new(&dir, &control);
    let json_file = dir.path().join("a.json");
    let mut a = support::channel("a");
    a["access"] = json!({"ticket": {"keys": [{"id": "k1", "secret": "a-secret-of-some-length"}]}});
    fs::write(&json_file, a.to_string()).unwrap();
    let json_file = json_file.to_str().unwrap();
    assert!(ctl.good(&["channels", "create", "-f", json_file]).contains("channel a is created"));
    let (code, _, err) = ctl.run(&["channels", "create", "-f", json_file]);
    assert!(code == 1 && err.contains("409") && err.contains("id"), "{err}");

    let toml = "[[channels]]\nid = \"b\"\nprefix = \"/b/\"\n[[channels.origins]]\nid = \"main\"\nurl = \"file:/srv\"\n";
    let (code, out, _) = ctl.run_with(&["channels", "apply", "-f", "-"], toml);
    assert_eq!((code, &*out), (0, "channel b is applied\n"));
    // What was read can be applied again, though it holds no secret.
    let text = ctl.good(&["channels", "get", "a"]);
    assert!(text.contains("***") && !text.contains("a-secret"), "{text}");
    assert_eq!(ctl.run_with(&["channels", "apply", "-f", "-"], &text).0, 0);
    assert_eq!(ctl.run_with(&["channels", "apply", "-f", "-"], &format!("[{text}]")).0, 0);

    let table = ctl.good(&["channels", "list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("ID") && lines[1].contains("key k1"), "{table}");
    assert!(lines[2].contains("file:/srv"), "{table}");
    assert_eq!(ctl.json(&["channel", "list"])[1]["id"], "b");
    ctl.good(&["channels", "disable", "b"]);
    assert_eq!(ctl.json(&["channels", "get", "b"])["enabled"], false);
    ctl.good(&["channels", "enable", "b"]);
    assert_eq!(ctl.json(&["channels", "get", "b"])["enabled"], true);
    until("it is published", || {
        let text = ctl.good(&["snapshot"]);
        (text.contains("/a/") && text.contains("/b/")).then_some(())
    });
    ctl.good(&["channels", "delete", "b"]);
    let (code, _, err) = ctl.run(&["channels", "get", "b"]);
    assert!(code == 1 && err.contains("404") && err.contains("`b`"), "{err}");

    let rotated = ctl.good(&["keys", "rotate", "a", "--id", "k2"]);
    assert!(rotated.contains("signs from now on") && rotated.contains("secret: "), "{rotated}");
    let (code, out, _) =
        ctl.run_with(&["keys", "add", "a", "--id", "k3", "--secret-file", "-"], "from-standard-input\n");
    assert!(code == 0 && !out.contains("secret"), "{out}");
    let list = ctl.good(&["keys", "list", "a"]);
    assert_eq!(list, "KEY  SIGNS\nk2   yes\nk1\nk3\n");
    ctl.good(&["keys", "remove", "a", "k1"]);
    assert_eq!(ctl.json(&["keys", "list", "a"])["keys"].as_array().unwrap().len(), 2);

    let url = ctl.good(&["mint", "a", "/v/x.m3u8", "--profile", "shoal", "--ttl", "60", "--base", "http://edge.test"]);
    assert!(url.starts_with("http://edge.test/a/v/x.m3u8?ticket=") && url.lines().count() == 1, "{url}");
    assert_eq!(ctl.json(&["mint", "a", "x", "--session", "s-7"])["session"], "s-7");
}

#[test]
fn nodes_commands_and_usage() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    control.put("a");
    let ctl = Ctl::new(&dir, &control);
    assert_eq!(ctl.good(&["purge", "--all"]), "no node is connected\n");
    let mut node = Node::join(&dir.socket(), "edge-1", 1, None);
    let version = node.snapshot().version;
    node.send(&DataMessage::Applied { version });
    let health = Health { connections: 42, cache_bytes: 64 << 20, busy_permille: 250, ..Health::default() };
    node.send(&DataMessage::Health(Box::new(health)));
    node.send(&DataMessage::Ledger(batch(1, 1, 500)));
    let node = thread::spawn(move || {
        let (mut answered, mut counted) = (0, false);
        // What is not acknowledged when a node goes, it would send again.
        while answered < 5 || !counted {
            match node.next() {
                Some(ControlMessage::Command { id, .. }) => {
                    answered += 1;
                    let result =
                        if answered == 5 { Err("no such origin".to_owned()) } else { Ok(Reply::Count(answered)) };
                    node.send(&DataMessage::Done { id, result });
                }
                Some(ControlMessage::LedgerAck { .. }) => counted = true,
                Some(_) => {}
                None => panic!("the link ended"),
            }
        }
        node
    });
    let table = until("its health is shown", || Some(ctl.good(&["nodes"])).filter(|table| table.contains("25%")));
    let line = table.lines().nth(1).unwrap();
    for word in ["edge-1", "up", "newest", "42", "64", "a test", "http://edge.test:8080"] {
        assert!(line.contains(word), "no {word} in {line}");
    }
    for (arguments, count) in [
        (&["purge", "http://edge.test:8080/a/x.ts"][..], 1),
        (&["purge", "--channel", "a"], 2),
        (&["purge", "--channel", "a", "--prefix", "/x/"], 3),
        (&["drain", "edge-1"], 4),
    ] {
        let report = ctl.json(arguments);
        assert_eq!(report, json!({"ok": true, "results": [{"node": "edge-1", "count": count}]}), "{arguments:?}");
    }
    let (code, out, err) = ctl.run(&["purge", "--all"]);
    assert!(code == 1 && out.contains("no such origin") && err.contains("not every node"), "{out}{err}");
    drop(node.join().unwrap());
    let (code, _, err) = ctl.run(&["drain", "edge-9"]);
    assert!(code == 1 && err.contains("edge-9"), "{err}");

    let usage = until("usage is there", || Some(ctl.good(&["ledger"])).filter(|table| table.contains("2000")));
    assert_eq!(
        usage,
        "CHANNEL  KIND    REQUESTS  BODY BYTES  WIRE BYTES\na        client         2        2000        2400\n"
    );
    assert_eq!(ctl.json(&["ledger", "--group", "session", "--channel", "a"])[1]["body_bytes"], 1500);
    assert_eq!(ctl.json(&["ledger", "--from", "1h"]), json!([]));
    assert!(ctl.good(&["metrics"]).contains("shoal_control_build_info"));
}

#[test]
fn what_goes_wrong_has_a_remedy_and_an_exit_code() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let ctl = Ctl::new(&dir, &control);
    let (code, _, err) = ctl.run_with(&["channels", "create", "-f", "-"], r#"{"id": "A", "prefix": "x"}"#);
    assert!(code == 1 && err.contains("origins"), "{err}");
    let (code, _, err) = ctl.run_with(&["channels", "apply", "-f", "-"], "{nonsense");
    assert!(code == 2 && err.contains("JSON"), "{err}");
    let (code, _, err) = ctl.run_with(&["channels", "apply", "-f", "-"], "prefix = \"/x/\"");
    assert!(code == 2 && err.contains("`id`"), "{err}");
    let (code, _, err) = ctl.run(&["channels", "create", "-f", "/nowhere.json"]);
    assert!(code == 2 && err.contains("/nowhere.json"), "{err}");
    for arguments in [&["purge"][..], &["purge", "--prefix", "x"], &["purge", "u", "--all"], &["ledger", "--from", "x"]]
    {
        assert_eq!(ctl.run(arguments).0, 2, "{arguments:?}");
    }
    let (code, _, err) = ctl.run(&["nodes", "--api", "http://127.0.0.1:1"]);
    assert!(code == 3 && err.contains("127.0.0.1:1") && err.contains("SHOAL_API"), "{err}");
    let (code, _, err) = ctl.run(&["nodes", "--api", "127.0.0.1:1"]);
    assert!(code == 2 && err.contains("http://"), "{err}");
    let (code, _, err) = ctl.run(&["nodes", "--token-file", "/nowhere"]);
    assert!(code == 2 && err.contains("/nowhere") && err.contains("SHOAL_TOKEN_FILE"), "{err}");
    let other = dir.path().join("other-token");
    fs::write(&other, "another-token-altogether\n").unwrap();
    let (code, _, err) = ctl.run(&["nodes", "--token-file", other.to_str().unwrap()]);
    assert!(code == 1 && err.contains("401") && err.contains("token_file"), "{err}");
    // Something else that listens there is told apart from a control plane.
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = foreign.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = foreign.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut head = [0; 1024];
        let _ = std::io::Read::read(&mut stream, &mut head);
        let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nnope");
    });
    let (code, _, err) = ctl.run(&["nodes", "--api", &format!("http://{address}")]);
    assert!(code == 3 && err.contains("502"), "{err}");
    server.join().unwrap();
}
