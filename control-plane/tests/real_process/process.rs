//! The process: configuration, start, stop, inherited sockets, and what it says when it cannot start.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Control, Dir, Node, until};

fn control() -> Command {
    Command::new(env!("CARGO_BIN_EXE_shoal-control"))
}

/// Exit code and what was said, of a start that must not last.
fn output(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code(), said)
}

#[test]
fn the_sample_is_a_valid_configuration_and_mistakes_are_named() {
    let dir = Dir::new();
    let (code, sample) = output(control().arg("--print-sample-config"));
    assert_eq!(code, Some(0));
    let path = dir.path().join("sample.toml");
    let check = |text: &str| {
        fs::write(&path, text).unwrap();
        output(control().arg("--check").arg("--config").arg(&path))
    };
    assert_eq!(check(&sample).0, Some(0));
    for (text, words) in [
        ("listn = \"127.0.0.1:1\"", ["listn", "listen"]),
        ("listen = \"nowhere\"", ["listen", "sample.toml:1"]),
        ("listen = 9091", ["listen", "9091"]),
        ("[log]\nlevel = \"shoal=loud\"", ["log.level", "shoal=loud"]),
        ("[log]\nformat = \"xml\"", ["log.format", "xml"]),
        ("[log", ["sample.toml:1", "TOML"]),
        ("[public]\nurl = \"api.example.com\"", ["public.url", "https://"]),
        ("[public]\ntls = { certificate = \"none.pem\" }", ["public.tls.key", "neither"]),
        ("[store]\nurl = \"mysql://h/d\"", ["store.url", "postgres://"]),
        ("[tracker]\nredis = \"h:6379\"", ["tracker.redis", "redis://"]),
        ("[geo]\ndatabases = [\"none.mmdb\"]", ["geo.databases", "none.mmdb"]),
    ] {
        let (code, said) = check(text);
        assert_eq!(code, Some(1), "{text}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {said}");
    }
    let (code, said) = output(control().arg("--config").arg(dir.path().join("none.toml")));
    assert!(code == Some(1) && said.contains("none.toml"), "{said}");
}

#[test]
fn it_makes_its_files_for_this_user_only_and_stops_cleanly() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    assert_eq!(control.get("/readyz"), "ready\n");
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state"), mode("state/token"), mode("state/control.sqlite3")), (0o700, 0o600, 0o600));
    assert_eq!(mode("link.sock"), 0o660);
    let mut node = Node::join(&dir.socket(), "edge", 1, None);
    node.snapshot();
    // An idle connection and a connected node hold nothing up.
    let _idle = std::net::TcpStream::connect(control.api).unwrap();
    let (code, took) = control.terminate();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(node.next(), None);
    assert!(!dir.socket().exists());
    // The token stays the same.
    let token = fs::read_to_string(dir.path().join("state/token")).unwrap();
    assert_eq!(Control::start(&dir).token, token.trim());
}

#[test]
fn it_replaces_a_dead_socket_and_leaves_what_is_not_its_own() {
    let dir = Dir::new();
    Control::start(&dir).kill();
    assert!(dir.socket().exists(), "a kill leaves the socket's file behind");
    let alive = Control::start(&dir);
    Node::join(&dir.socket(), "edge", 1, None);

    // The same folder, then another folder and the same socket.
    let (code, said) = output(control().arg("--config").arg(dir.config("")));
    assert!(code == Some(1) && said.contains("another shoal-control uses it") && said.contains("state_dir"), "{said}");
    let config = |listen: &str, state: &str, socket: &str| {
        let at = dir.path().display();
        let path = dir.path().join("other.toml");
        fs::write(
            &path,
            format!("listen = \"{listen}\"\nstate_dir = \"{at}/{state}\"\nlink_socket = \"{at}/{socket}\"\n[public]\nlisten = \"127.0.0.1:0\"\n"),
        )
        .unwrap();
        output(control().arg("--config").arg(path))
    };
    let (code, said) = config("127.0.0.1:0", "other", "link.sock");
    assert!(code == Some(1) && said.contains("another process answers there"), "{said}");
    let listener = UnixListener::bind(dir.path().join("theirs.sock")).unwrap();
    let (code, said) = config("127.0.0.1:0", "other", "theirs.sock");
    assert!(code == Some(1) && said.contains("theirs.sock"), "{said}");
    drop(listener);
    fs::write(dir.path().join("file"), "precious").unwrap();
    let (code, said) = config("127.0.0.1:0", "other", "file");
    assert!(code == Some(1) && said.contains("not a socket"), "{said}");
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "precious");

    // A taken port, a folder that cannot be, a file that is no database, a token file that holds none.
    let (code, said) = config(&alive.api.to_string(), "other", "other.sock");
    assert!(
        code == Some(1) && said.contains(&alive.api.to_string()) && said.contains("set another `listen`"),
        "{said}"
    );
    let (code, said) = config("127.0.0.1:0", "file/below", "other.sock");
    assert!(code == Some(1) && said.contains("file/below") && said.contains("state_dir"), "{said}");
    fs::create_dir(dir.path().join("broken")).unwrap();
    fs::write(dir.path().join("broken/control.sqlite3"), "no database ".repeat(100)).unwrap();
    let (code, said) = config("127.0.0.1:0", "broken", "other.sock");
    assert!(code == Some(1) && said.contains("restore the file from a backup"), "{said}");
    fs::write(dir.path().join("other/token"), "").unwrap();
    let (code, said) = config("127.0.0.1:0", "other", "other.sock");
    assert!(code == Some(1) && said.contains("other/token") && said.contains("delete the file"), "{said}");
    let (code, said) = config("127.0.0.1:0", "third", &"long/".repeat(40));
    assert!(code == Some(1) && said.contains("108 bytes"), "{said}");
}

#[test]
fn it_takes_a_socket_from_the_service_manager_and_says_ready() {
    let dir = Dir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(crate::support::WAIT)).unwrap();
    // As systemd does: the socket is descriptor 3, and LISTEN_PID names the process itself.
    let mut command = Command::new("sh");
    let raw = std::os::fd::AsRawFd::as_raw_fd(&listener);
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    command
        .arg("-c")
        .arg(format!("exec 3<&{raw}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" --config \"$1\""))
        .arg(env!("CARGO_BIN_EXE_shoal-control"))
        .arg(dir.config(""))
        .env("NOTIFY_SOCKET", dir.path().join("notify"));
    let control = Control::start_as(&dir, &mut command);
    assert_eq!(control.api, address);
    assert_eq!(control.get("/healthz"), "ok\n");
    let mut message = [0; 256];
    let len = manager.recv(&mut message).unwrap();
    assert_eq!(message[..len].trim_ascii(), b"READY=1");
    control.signal(rustix::process::Signal::INT);
    let len = manager.recv(&mut message).unwrap();
    assert_eq!(message[..len].trim_ascii(), b"STOPPING=1");
}

#[test]
fn its_metrics_are_clean() {
    let dir = Dir::new();
    let control = Control::start(&dir);
    control.put("a");
    control.call("GET", "/api/v1/channels/none", &Value::Null);
    let text = control.get("/metrics");
    let text = text.as_str().unwrap();
    assert!(
        text.contains("shoal_control_requests_total{method=\"PUT\",route=\"/api/v1/channels/{id}\",status=\"201\"} 1")
    );
    until("the snapshot is published", || control.metric("shoal_control_channels").filter(|count| *count == 1.0));
    let mut promtool = match Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
    {
        Ok(promtool) => promtool,
        Err(error) => {
            println!("promtool is not there ({error}): the text was not checked by it");
            return;
        }
    };
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
