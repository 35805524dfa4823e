//! An origin that does as it is told, on threads of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Nobody waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// The byte at `at` of the version `seed` of an object.
pub(super) fn byte(seed: u64, at: u64) -> u8 {
    let mixed = (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    (mixed ^ mixed >> 29).rotate_left(17) as u8
}

pub(super) fn bytes(seed: u64, range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| byte(seed, at)).collect()
}

/// A door that stays open once it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(super) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let shut = self.0.0.lock().unwrap();
        let _open = self.0.1.wait_timeout_while(shut, PATIENCE, |open| !*open).unwrap();
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    head: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(named, _)| named.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// First byte and end of the range of an object of `total` bytes.
    pub(super) fn range(&self, total: u64) -> Option<(u64, u64)> {
        let (first, last) = self.header("Range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().map_or(total, |last: u64| total.min(last + 1))))
    }
}

/// What to answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// Wait here before the head.
    pub(super) hold: Option<Gate>,
    /// Wait when so much of the body is sent.
    pub(super) pause: Option<(usize, Gate)>,
    /// Close when so much of the body is sent.
    pub(super) cut: Option<usize>,
}

impl Reply {
    /// A status without a body.
    pub(super) fn status(status: u16, lines: &str) -> Reply {
        Reply { head: format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n{lines}\r\n"), ..Reply::default() }
    }

    /// The version `seed` of an object of `total` bytes, or the range asked for.
    pub(super) fn object(asked: &Asked, seed: u64, total: u64, lines: &str) -> Reply {
        let etag = format!("\"v{seed}\"");
        let same = asked.header("If-Range").is_none_or(|condition| condition == etag);
        let range = asked.range(total).filter(|&(first, _)| same && first < total);
        let (first, end) = range.unwrap_or((0, total));
        let mut head = match range {
            Some(_) => format!("HTTP/1.1 206 x\r\nContent-Range: bytes {first}-{}/{total}\r\n", end - 1),
            None => "HTTP/1.1 200 x\r\n".to_owned(),
        };
        head.push_str(&format!("Content-Length: {}\r\nETag: {etag}\r\n{lines}\r\n", end - first));
        Reply { head, body: bytes(seed, first..end), ..Reply::default() }
    }
}

type Script = dyn Fn(usize, &Asked) -> Reply + Send + Sync;

/// The origin; it lives as long as its connections.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Origin {
    /// Answers by `script`, which is told how many requests came before.
    pub(super) fn start(script: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &*script, &log));
            }
        });
        Origin { address, asked }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Until the client closes or the script cuts; a client that went away is no error here.
fn serve(mut stream: TcpStream, script: &Script, log: &Mutex<Vec<Asked>>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    while let Some(head) = read_head(&mut stream) {
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let asked = Asked { path, head };
        let mut all = log.lock().unwrap();
        let before = all.len();
        all.push(asked.clone());
        drop(all);
        let reply = script(before, &asked);
        if let Some(gate) = &reply.hold {
            gate.wait();
        }
        if stream.write_all(reply.head.as_bytes()).is_err() {
            return;
        }
        let end = reply.cut.map_or(reply.body.len(), |cut| cut.min(reply.body.len()));
        let mut sent = 0;
        if let Some((at, gate)) = &reply.pause {
            sent = (*at).min(end);
            if stream.write_all(&reply.body[..sent]).is_err() {
                return;
            }
            gate.wait();
        }
        if stream.write_all(&reply.body[sent..end]).is_err() {
            return;
        }
        if reply.cut.is_some() {
            // An end that the client sees after the last byte, not instead of it.
            let _ = stream.shutdown(Shutdown::Write);
            return;
        }
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}
