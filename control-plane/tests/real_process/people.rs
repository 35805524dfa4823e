//! Users, API tokens and the audit log, by `shoalctl` against the real process.

use std::fs;

use serde_json::json;

use crate::ctl::Ctl;
use crate::support::{Control, Dir};

#[test]
fn the_first_user_comes_by_the_token_of_the_host_and_all_is_noted() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    let ctl = Ctl::new(&dir, &control);
    let (code, out, err) = ctl.run_with(&["user", "add", "alice", "--role", "admin"], "correct horse battery\n");
    assert!(code == 0 && out.contains("user alice is added, admin"), "{out}{err}");
    let (code, _, err) = ctl.run_with(&["user", "add", "bob", "--role", "viewer"], "short\n");
    assert!(code == 1 && err.contains("password") && err.contains("12"), "{err}");
    let (code, _, err) = ctl.run(&["user", "delete", "alice"]);
    assert!(code == 1 && err.contains("last admin"), "{err}");
    let (code, _, _) = ctl.run(&["user", "add", "carol", "--role", "boss"]);
    assert_eq!(code, 2);
    assert!(ctl.good(&["users", "list"]).contains("alice"));

    let token = ctl.json(&["token", "add", "robot", "--role", "viewer", "--days", "1"])["token"].clone();
    let file = dir.path().join("robot");
    fs::write(&file, token.as_str().unwrap()).unwrap();
    let file = file.to_str().unwrap();
    assert!(ctl.good(&["--token-file", file, "channels", "list"]).contains("ID"));
    let (code, _, err) = ctl.run(&["--token-file", file, "purge", "--all"]);
    assert!(code == 1 && err.contains("403") && err.contains("operator"), "{err}");
    assert!(ctl.good(&["tokens", "list"]).contains("robot"));
    assert!(ctl.good(&["token", "delete", "robot"]).contains("is deleted"));
    let (code, _, err) = ctl.run(&["--token-file", file, "channels", "list"]);
    assert!(code == 1 && err.contains("401"), "{err}");

    let log = ctl.json(&["audit", "-n", "100"]);
    let entries: Vec<_> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (entry["action"].as_str().unwrap(), entry["actor"].as_str().unwrap(), entry["outcome"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        entries,
        [
            ("logIn", "", "refused"),
            ("deleteToken", "token_file", "done"),
            ("purge", "robot", "refused"),
            ("createToken", "token_file", "done"),
            ("deleteUser", "token_file", "refused"),
            ("createUser", "token_file", "refused"),
            ("createUser", "token_file", "done"),
        ]
    );
    assert_eq!(log["items"][0]["address"], json!("127.0.0.1"));
    assert!(!log.to_string().contains("battery") && !log.to_string().contains(token.as_str().unwrap()), "{log}");
    assert!(ctl.good(&["audit", "--actor", "robot"]).contains("purge"));
    assert_eq!(control.metric("shoal_control_login_failures_total{kind=\"token\"}"), Some(1.0));
}
