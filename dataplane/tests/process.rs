//! The real program: how it starts, what it keeps across restarts and kills, how it ends. The control plane is a script.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use shoal_link::frame;
use shoal_link::message::{Command as Order, PurgeScope, Reply};
use shoal_link::prefetch::{PrefetchItem, PrefetchOrder, PrefetchState};
use shoal_link::{ControlMessage, DataMessage, PROTOCOL};

const PROGRAM: &str = env!("CARGO_BIN_EXE_shoal-dataplane");
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the file that is served.
const SIZE: usize = 300_000;

/// A folder with a configuration, a file to serve and a place for the control plane's socket.
struct Lab {
    folder: PathBuf,
}

impl Lab {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("shoal-process-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(folder.join("media")).unwrap();
        std::fs::write(folder.join("media/a.ts"), vec![7; SIZE]).unwrap();
        let lab = Self { folder };
        lab.configure("");
        lab
    }

    /// Ports that the system chooses, little memory, and what a test wants besides.
    fn configure(&self, more: &str) {
        let text = format!(
            "[node]\nname = \"n1\"\nstate_dir = {:?}\n[shards]\ncount = 2\n[http]\nlisten = [\"127.0.0.1:0\"]\n\
             [cache]\nram_bytes = 16777216\nblock_bytes = 65536\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [link]\ncontrol = [{:?}]\nretry_ms = 20\n[log]\nformat = \"json\"\n{more}",
            self.state(),
            format!("unix:{}", self.socket().display()),
        );
        std::fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder.join("edge.toml")
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    fn start(&self) -> Node {
        Node::start(Command::new(PROGRAM).arg("--config").arg(self.config()))
    }

    /// Runs to its end with a configuration of this text.
    fn run(&self, config: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let path = self.folder.join("other.toml");
        std::fs::write(&path, config).unwrap();
        said(Command::new(PROGRAM).arg("--config").arg(path).args(arguments).output().unwrap())
    }

    fn listen(&self) -> UnixListener {
        if let Err(error) = std::fs::remove_file(self.socket()) {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        let listener = UnixListener::bind(self.socket()).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    /// A snapshot with one channel, `/demo/`, over the media folder.
    fn snapshot(&self, version: u64) -> ControlMessage {
        let origin = json!({"id": "disk", "url": format!("file:{}", self.folder.join("media").display())});
        let channel = json!({"id": "demo", "prefix": "/demo/", "origins": [origin]});
        let snapshot = json!({"version": version, "channels": [channel]});
        ControlMessage::Snapshot(serde_json::from_value(snapshot).unwrap())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What stays behind in the system's temporary folder fails no test.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn said(output: Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.into_owned())
}

/// A running data plane; killed when dropped.
struct Node {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Node {
    /// Starts it, and waits until it says that it is ready.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut http, mut admin, mut begin) = (None, None, String::new());
        loop {
            let Some(Ok(line)) = lines.next() else { panic!("it ended before it was ready:\n{begin}") };
            begin += &line;
            begin.push('\n');
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let address = event["address"].as_str().and_then(|text| text.parse().ok());
            match event["message"].as_str().unwrap_or_default() {
                "serving viewers" => http = address,
                "ready" => break,
                text if text.starts_with("serving /metrics") => admin = address,
                _ => {}
            }
        }
        let log = Arc::new(Mutex::new(begin));
        let rest = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                rest.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, http: http.unwrap(), admin: admin.unwrap(), log }
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its exit status, and all it has logged.
    fn ended(&mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), self.log.lock().unwrap().clone());
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn terminate(mut self) {
        self.signal(Signal::TERM);
        let (status, log) = self.ended();
        assert_eq!(status, Some(0), "{log}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn ready(&self) -> (u16, String) {
        get(self.admin, "/readyz")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has ended already, most of the time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// One connection of the control plane.
struct Control {
    stream: UnixStream,
    input: Vec<u8>,
    /// Body bytes for viewers by batch: each name once, as the real one counts.
    counted: HashMap<(u64, u64), u64>,
    acknowledge: bool,
}

impl Control {
    /// Takes the node's connection; returns also the version that it says it serves.
    fn accept(listener: &UnixListener) -> (Self, Option<u64>) {
        let begun = Instant::now();
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert!(error.kind() == ErrorKind::WouldBlock && begun.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut control = Self { stream, input: Vec::new(), counted: HashMap::new(), acknowledge: true };
        control.send(&ControlMessage::Hello { protocol: PROTOCOL });
        match control.any() {
            DataMessage::Hello { protocol: PROTOCOL, node, snapshot, .. } if node == "n1" => (control, snapshot),
            other => panic!("not a hello: {other:?}"),
        }
    }

    fn send(&mut self, message: &ControlMessage) {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn any(&mut self) -> DataMessage {
        loop {
            if let Some((message, used)) = frame::decode(&self.input).unwrap() {
                self.input.drain(..used);
                return message;
            }
            let mut bytes = [0; 16 << 10];
            let read = self.stream.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "the node hung up");
            self.input.extend_from_slice(&bytes[..read]);
        }
    }

    /// Counts the message if it is usage; gives it back if it is neither usage nor health.
    fn take(&mut self, message: DataMessage) -> Option<DataMessage> {
        match message {
            DataMessage::Health(_) => None,
            DataMessage::Ledger(batch) => {
                let client = batch.entries.iter().filter(|entry| entry.kind == shoal_link::ledger::Kind::Client);
                self.counted.insert((batch.boot, batch.sequence), client.map(|entry| entry.body_bytes).sum());
                if self.acknowledge {
                    self.send(&ControlMessage::LedgerAck { boot: batch.boot, sequence: batch.sequence });
                }
                None
            }
            other => Some(other),
        }
    }

    fn next(&mut self) -> DataMessage {
        loop {
            let message = self.any();
            if let Some(message) = self.take(message) {
                return message;
            }
        }
    }

    fn ask(&mut self, message: &ControlMessage) -> DataMessage {
        self.send(message);
        self.next()
    }

    /// Until so much is counted. Health comes every two seconds, so that this ends also when no more usage does.
    fn wait_for_usage(&mut self, body_bytes: u64) {
        let begun = Instant::now();
        while self.body_bytes() < body_bytes {
            assert!(begun.elapsed() < PATIENCE, "{} of {body_bytes} bytes", self.body_bytes());
            let message = self.any();
            assert_eq!(self.take(message), None);
        }
    }

    fn body_bytes(&self) -> u64 {
        self.counted.values().sum()
    }
}

/// A node that serves `/demo/a.ts`, and its control plane.
fn served(lab: &Lab) -> (Node, UnixListener, Control) {
    let listener = lab.listen();
    let node = lab.start();
    let (mut control, _) = Control::accept(&listener);
    assert_eq!(control.ask(&lab.snapshot(1)), DataMessage::Applied { version: 1 });
    (node, listener, control)
}

fn assert_serves(node: &Node) {
    let (status, body) = get(node.http, "/demo/a.ts");
    assert_eq!((status, body.len()), (200, SIZE));
}

#[test]
fn a_configuration_is_checked_before_anything_happens() {
    let lab = Lab::new();
    let good = std::fs::read_to_string(lab.config()).unwrap();
    let (status, text) = lab.run(&good, &["--check"]);
    assert!(status == Some(0) && text.contains("2 shards"), "{text}");
    assert!(!lab.state().exists(), "a check changes nothing");

    let (status, text) = lab.run("[http]\nlisen = []\n", &["--check"]);
    assert!(status == Some(1) && text.contains("other.toml:2") && text.contains("`http.listen`"), "{text}");
    let bad = good.replace("block_bytes = 65536", "block_bytes = 5").replace("127.0.0.1:0", "localhost");
    for arguments in [&["--check"][..], &[]] {
        let (status, text) = lab.run(&bad, arguments);
        let all = ["cache.block_bytes = 5", "http.listen = \"localhost\"", "admin.listen = \"localhost\""];
        assert!(status == Some(1) && all.iter().all(|problem| text.contains(problem)), "{text}");
    }
    let missing = Command::new(PROGRAM).args(["--config", "/no/such/file.toml"]).output().unwrap();
    let (status, text) = said(missing);
    assert!(status == Some(1) && text.contains("/no/such/file.toml"), "{text}");

    let (status, sample) = said(Command::new(PROGRAM).arg("--print-sample-config").output().unwrap());
    assert_eq!(status, Some(0));
    let sample = sample.replace("state_dir = \"\"", &format!("state_dir = {:?}", lab.state()));
    let (status, text) = lab.run(&sample, &["--check"]);
    assert_eq!(status, Some(0), "{text}");
}

#[test]
fn what_another_process_holds_is_named() {
    let lab = Lab::new();
    let node = lab.start();
    let config = std::fs::read_to_string(lab.config()).unwrap();
    let (status, text) = lab.run(&config, &[]);
    assert!(status == Some(1) && text.contains("node.state_dir") && text.contains("another"), "{text}");

    let other = config.replace("/state\"", "/state2\"");
    let taken = other.replacen("127.0.0.1:0", &node.http.to_string(), 1);
    let (status, text) = lab.run(&taken, &[]);
    let named = text.contains("http.listen") && text.contains(&node.http.to_string()) && text.contains("taken");
    assert!(status == Some(1) && named, "{text}");
    let taken = other.replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"{}\"", node.admin));
    let (status, text) = lab.run(&taken, &[]);
    assert!(status == Some(1) && text.contains("admin.listen") && text.contains("taken"), "{text}");
    node.terminate();
}

#[test]
fn a_node_serves_its_last_snapshot_while_the_control_plane_is_away() {
    let lab = Lab::new();
    let node = lab.start();
    let (status, text) = node.ready();
    assert!(status == 503 && text.contains("no snapshot"), "{text}");
    assert_eq!(get(node.admin, "/healthz").0, 200);

    let listener = lab.listen();
    let (mut control, version) = Control::accept(&listener);
    assert_eq!(version, None);
    assert_eq!(control.ask(&lab.snapshot(1)), DataMessage::Applied { version: 1 });
    assert_eq!(node.ready().0, 200);
    assert_serves(&node);

    // One that cannot be served changes nothing.
    let ControlMessage::Snapshot(mut bad) = lab.snapshot(2) else { unreachable!() };
    bad.channels[0].prefix = "no-slash".into();
    match control.ask(&ControlMessage::Snapshot(bad)) {
        DataMessage::Refused { version: 2, reason } => assert!(reason.contains("no-slash"), "{reason}"),
        other => panic!("not refused: {other:?}"),
    }
    assert_serves(&node);
    assert_eq!(control.ask(&lab.snapshot(3)), DataMessage::Applied { version: 3 });

    drop((control, listener));
    assert_serves(&node);
    node.terminate();

    let node = lab.start();
    assert_eq!(node.ready(), (200, "ok\n".to_owned()));
    assert_serves(&node);
    let (_, version) = Control::accept(&lab.listen());
    assert_eq!(version, Some(3));
    let page: Value = serde_json::from_str(&get(node.admin, "/status").1).unwrap();
    assert_eq!((&page["snapshot"]["version"], &page["snapshot"]["channels"]), (&json!(3), &json!(1)));
    node.kill();

    // Half of it is none of it.
    let path = lab.state().join("snapshot");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let node = lab.start();
    let (status, text) = node.ready();
    assert!(status == 503 && text.contains("damaged"), "{text}");
    assert_eq!(get(node.http, "/demo/a.ts").0, 503);
    node.terminate();
}

#[test]
fn flushed_usage_survives_kills_and_is_counted_once() {
    let lab = Lab::new();
    let (node, listener, mut control) = served(&lab);
    control.acknowledge = false;
    for _ in 0..3 {
        assert_serves(&node);
    }
    control.wait_for_usage(3 * SIZE as u64);
    let mut counted = control.counted.clone();
    drop(control);
    node.kill();

    // With nobody to send to; the kill comes after the second that may be lost.
    drop(listener);
    let node = lab.start();
    assert_serves(&node);
    std::thread::sleep(Duration::from_millis(1_200));
    node.kill();

    // Everything comes again under its old name, and the last usage of an orderly end as well.
    let listener = lab.listen();
    let node = lab.start();
    let (mut control, _) = Control::accept(&listener);
    assert_serves(&node);
    control.wait_for_usage(5 * SIZE as u64);
    counted.extend(control.counted.iter());
    assert_eq!(counted.values().sum::<u64>(), 5 * SIZE as u64);
    assert_eq!(counted, control.counted, "the same names with the same sums");
    assert_serves(&node);
    node.signal(Signal::TERM);
    let mut node = node;
    let last = std::thread::spawn(move || {
        control.wait_for_usage(6 * SIZE as u64);
        control
    });
    let (status, log) = node.ended();
    assert_eq!(status, Some(0), "{log}");
    assert_eq!(last.join().unwrap().body_bytes(), 6 * SIZE as u64);
    assert!(!log.contains("stays on disk"), "{log}");
}

#[test]
fn commands_reach_the_shards() {
    let lab = Lab::new();
    let (mut node, _listener, mut control) = served(&lab);
    let mut command = |id, command| control.ask(&ControlMessage::Command { id, command });
    let prefetch = |path: &str| Order::Prefetch {
        order: PrefetchOrder {
            channel: "demo".to_owned(),
            items: vec![PrefetchItem { path: path.to_owned(), first: 0, last: None }],
            bytes_per_second: 0,
            bytes_max: u64::MAX,
            wait_ms: 10_000,
        },
    };
    let fetched = |done| match done {
        DataMessage::Done { result: Ok(Reply::Prefetch(stat)), .. } => (stat.state, stat.fetched, stat.errors),
        other => panic!("not of a prefetch: {other:?}"),
    };
    assert_eq!(fetched(command(1, prefetch("a.ts"))), (PrefetchState::Done, 1, vec![]));
    let scope = PurgeScope::Object { channel: "demo".into(), path: "a.ts".into() };
    let done = command(2, Order::Purge { scope: scope.clone() });
    assert_eq!(done, DataMessage::Done { id: 2, result: Ok(Reply::Count(1)) });
    assert_eq!(command(3, Order::Purge { scope }), DataMessage::Done { id: 3, result: Ok(Reply::Count(0)) });
    let (_, count, errors) = fetched(command(4, prefetch("none.ts")));
    assert!(count == 0 && errors[0].contains("none.ts") && errors[0].contains("404"), "{errors:?}");
    assert_eq!(command(5, Order::Drain), DataMessage::Done { id: 5, result: Ok(Reply::Count(0)) });
    let (status, log) = node.ended();
    assert!(status == Some(0) && log.contains("a drain command"), "{log}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let lab = Lab::new();
    let (mut node, _listener, _control) = served(&lab);
    // A viewer who takes nothing of a response larger than the socket buffers keeps the drain waiting.
    std::fs::write(lab.folder.join("media/large.ts"), vec![7; 12 << 20]).unwrap();
    let mut viewer = TcpStream::connect(node.http).unwrap();
    write!(viewer, "GET /demo/large.ts HTTP/1.1\r\nHost: edge\r\n\r\n").unwrap();
    let mut first = [0; 1];
    viewer.read_exact(&mut first).unwrap();
    node.signal(Signal::TERM);
    let begun = Instant::now();
    while !node.log.lock().unwrap().contains("draining") {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(node.child.try_wait().unwrap().is_none(), "it waits for the viewer");
    node.signal(Signal::INT);
    let (status, log) = node.ended();
    assert!(status == Some(1) && log.contains("second signal"), "{log}");
}

#[test]
fn a_service_manager_hands_over_sockets_and_is_told() {
    let lab = Lab::new();
    let path = lab.folder.join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut text = [0; 256];
        let len = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..len]).into_owned()
    };
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // The shell moves the socket to where systemd puts the first one, and stays the same process.
    let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" --config \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, PROGRAM]).arg(lab.config()).stdin(OwnedFd::from(socket)).env("NOTIFY_SOCKET", &path);
    let listener = lab.listen();
    let node = Node::start(&mut command);
    assert_eq!(node.http, address);
    assert!(told().contains("READY=1"));
    let (mut control, _) = Control::accept(&listener);
    assert_eq!(control.ask(&lab.snapshot(1)), DataMessage::Applied { version: 1 });
    for _ in 0..8 {
        assert_serves(&node);
    }
    drop((command, control));
    node.terminate();
    assert!(told().contains("STOPPING=1"));
}

#[test]
fn the_access_log_is_opened_anew_on_sighup() {
    let lab = Lab::new();
    let log = lab.folder.join("access.log");
    lab.configure(&format!("access_log = {log:?}\n"));
    let (node, _listener, _control) = served(&lab);
    let lines = |path: &Path, count: usize| {
        let begun = Instant::now();
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() >= count {
                return text;
            }
            assert!(begun.elapsed() < PATIENCE, "{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    assert_eq!(get(node.http, "/demo/a.ts?sign=secret").0, 200);
    let text = lines(&log, 1);
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&line["path"], &line["status"], &line["channel"]), (&json!("a.ts"), &json!(200), &json!("demo")));
    assert!(!text.contains("secret"), "{text}");
    let rotated = lab.folder.join("access.log.1");
    std::fs::rename(&log, &rotated).unwrap();
    node.signal(Signal::HUP);
    let begun = Instant::now();
    while !log.exists() {
        assert!(begun.elapsed() < PATIENCE, "not opened anew");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(get(node.http, "/demo/none.ts").0, 404);
    assert!(lines(&log, 1).contains("none.ts"));
    assert_eq!(lines(&rotated, 1).lines().count(), 1);
    node.terminate();
}

#[test]
fn a_shard_that_cannot_start_ends_the_process() {
    let lab = Lab::new();
    // Enough for the sockets, too little for two rings.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 24; exec \"$0\" --config \"$1\"", PROGRAM]).arg(lab.config());
    let (status, text) = said(command.output().unwrap());
    assert!(status == Some(70) && text.contains("shard ") && text.contains("Too many open files"), "{text}");
}
