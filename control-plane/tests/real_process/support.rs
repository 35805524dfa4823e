//! The real `shoal-control` in a folder of its own, a client of its API, and a data plane of our own making.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_link::frame;
use shoal_link::ledger::{Batch, Entry, Kind};
use shoal_link::node::{Endpoints, TurnEndpoints};
use shoal_link::{ControlMessage, DataMessage, PROTOCOL, Snapshot};

/// Longest wait for anything.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// A folder that goes away with the test.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shoal-ct-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("link.sock")
    }

    /// A configuration file; `more` goes at its end.
    pub(crate) fn config(&self, more: &str) -> PathBuf {
        let dir = self.0.display();
        let text = format!(
            "listen = \"127.0.0.1:0\"\nstate_dir = \"{dir}/state\"\nlink_socket = \"{dir}/link.sock\"\n{more}\n[public]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n"
        );
        let path = self.0.join("control.toml");
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running control plane; killed when dropped.
pub(crate) struct Control {
    child: Child,
    pub(crate) api: SocketAddr,
    /// Where the public API listens.
    pub(crate) public: SocketAddr,
    pub(crate) token: String,
}

impl Control {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(dir: &Dir) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-control"));
        command.arg("--config").arg(dir.config(""));
        Self::start_as(dir, &mut command)
    }

    pub(crate) fn start_as(dir: &Dir, command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let address = |event: &Value, name: &str| event["fields"][name].as_str().unwrap().parse().unwrap();
        let (api, public) = loop {
            let Some(Ok(line)) = lines.next() else { panic!("it ended before it was ready:\n{said}") };
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["fields"]["message"] == "ready" {
                break (address(&event, "address"), address(&event, "public"));
            }
            said.push_str(&line);
        };
        // What it says later is shown when the test fails.
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| println!("control: {line}")));
        let token = fs::read_to_string(dir.path().join("state/token")).unwrap().trim().to_owned();
        Self { child, api, public, token }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGKILL, and gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; its exit code and how long it took.
    pub(crate) fn terminate(mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        let status = until("it ends", || self.child.try_wait().unwrap());
        (status.code(), start.elapsed())
    }

    /// A request with the token; status and body.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        request(self.api, method, path, &self.token, body)
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, &Value::Null);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// Creates or replaces a channel.
    pub(crate) fn put(&self, id: &str) {
        let (status, body) = self.call("PUT", &format!("/api/v1/channels/{id}"), &channel(id));
        assert!(matches!(status, 200 | 201), "{body}");
    }

    /// The value of a metric without labels, or with exactly these.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics");
        let lines = text.as_str().unwrap().lines();
        lines.filter_map(|line| line.rsplit_once(' ')).find(|(key, _)| *key == name)?.1.parse().ok()
    }

    /// The connected node of that name, as the API tells it.
    pub(crate) fn node(&self, name: &str) -> Option<Value> {
        let list = self.get("/api/v1/nodes");
        list["items"].as_array().unwrap().iter().find(|node| node["node"] == name && node["connected"] == true).cloned()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request with a bearer token; status and body.
pub(crate) fn request(to: SocketAddr, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: control\r\n{authorization}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}

/// Tries until there is something.
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "it never came true that {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The smallest channel.
pub(crate) fn channel(id: &str) -> Value {
    json!({"id": id, "prefix": format!("/{id}/"), "origins": [{"id": "main", "url": "http://127.0.0.1:1/"}]})
}

/// A data plane's end of the link.
pub(crate) struct Node {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Node {
    /// Connects, as soon as somebody listens.
    pub(crate) fn dial(socket: &Path) -> Self {
        let stream = until("the link listens", || UnixStream::connect(socket).ok());
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.set_write_timeout(Some(WAIT)).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Connects and says hello; the control plane's hello is read and checked.
    pub(crate) fn join(socket: &Path, name: &str, boot: u64, snapshot: Option<u64>) -> Self {
        let mut node = Self::dial(socket);
        node.send(&hello(name, boot, snapshot));
        assert_eq!(node.next(), Some(ControlMessage::Hello { protocol: PROTOCOL }));
        node
    }

    /// The same where perhaps nobody listens, or stops meanwhile.
    pub(crate) fn try_join(socket: &Path, name: &str, boot: u64) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_write_timeout(Some(WAIT)).ok()?;
        let mut node = Self { stream, buffer: Vec::new() };
        (node.try_send(&hello(name, boot, None)) && node.next_within(WAIT).ok()?.is_some()).then_some(node)
    }

    pub(crate) fn send(&mut self, message: &DataMessage) {
        assert!(self.try_send(message), "the control plane closed the link");
    }

    /// False when the connection is gone.
    pub(crate) fn try_send(&mut self, message: &DataMessage) -> bool {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes).unwrap();
        self.stream.write_all(&bytes).is_ok()
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message; none when the connection is gone.
    pub(crate) fn next(&mut self) -> Option<ControlMessage> {
        self.next_within(WAIT).expect("a message within the time")
    }

    /// The next message, none when the connection is gone; `Err` when nothing came in time.
    pub(crate) fn next_within(&mut self, wait: Duration) -> Result<Option<ControlMessage>, ()> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some((message, used)) = frame::decode(&self.buffer).unwrap() {
                self.buffer.drain(..used);
                return Ok(Some(message));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(());
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(len) => self.buffer.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Err(()),
                Err(_) => return Ok(None),
            }
        }
    }

    /// The next snapshot; other messages are passed over.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        loop {
            match self.next() {
                Some(ControlMessage::Snapshot(snapshot)) => return snapshot,
                Some(_) => {}
                None => panic!("the link ended before a snapshot"),
            }
        }
    }
}

pub(crate) fn hello(name: &str, boot: u64, snapshot: Option<u64>) -> DataMessage {
    DataMessage::Hello {
        protocol: PROTOCOL,
        node: name.to_owned(),
        boot,
        software: "a test".to_owned(),
        snapshot,
        public_url: Some("http://edge.test:8080".to_owned()),
        region: Some("DE-BE".to_owned()),
        endpoints: Box::new(Endpoints {
            https: None,
            udp: vec!["192.0.2.1:3478".parse().unwrap()],
            turn: Some(TurnEndpoints { realm: "shoal".to_owned(), tcp_ports: vec![443], tls_name: None }),
        }),
    }
}

pub(crate) fn batch(boot: u64, sequence: u64, bytes: u64) -> Batch {
    let entry = |session: &str, bytes: u64| Entry {
        tenant: "default".into(),
        channel: "a".into(),
        session: session.into(),
        kind: Kind::Client,
        origin: "".into(),
        requests: 1,
        body_bytes: bytes,
        wire_bytes: bytes + 200,
    };
    let start_ms = 1_700_000_000_000 + sequence * 1000;
    let entries = vec![entry("one", bytes), entry("two", bytes * 3)];
    Batch { boot, sequence, start_ms, end_ms: start_ms + 1000, entries }
}
