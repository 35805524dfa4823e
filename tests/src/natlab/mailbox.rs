//! How two WebRTC peers in a lab get each other's descriptions: a small HTTP server at the hub.
//!
//! `POST /put/NAME` leaves a letter, `GET /take/NAME` waits for it and leaves it there (204: not yet, ask again), and
//! anything else is the page of a browser that is a peer.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Namespace;

/// How long one question may wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the listener may not see that it should end.
const LOOK: Duration = Duration::from_millis(5);

/// The longest letter.
const MAX_LETTER: usize = 64 << 10;

#[derive(Debug, Default)]
struct Shared {
    letters: Mutex<HashMap<String, String>>,
    changed: Condvar,
    ended: AtomicBool,
}

/// Letters by their names; ends when dropped.
#[derive(Debug)]
pub struct Mailbox {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Mailbox {
    /// Listens at `ip` of the hub.
    pub fn start(hub: &Namespace, ip: IpAddr, page: &'static str) -> Self {
        let listener = hub.within(|| TcpListener::bind((ip, 0)));
        let listener = listener.unwrap_or_else(|error| panic!("cannot listen on {ip}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        listener.set_nonblocking(true).expect("a socket of ours");
        let mailbox = Self { address, shared: Arc::default() };
        let shared = Arc::clone(&mailbox.shared);
        thread::spawn(move || {
            while !shared.ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let shared = Arc::clone(&shared);
                        // Who goes away in the middle asks again, or has failed elsewhere.
                        thread::spawn(move || drop(shared.serve(stream, page)));
                    }
                    Err(_) => thread::sleep(LOOK),
                }
            }
        });
        mailbox
    }

    /// Where peers find it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits for a letter.
    pub fn take(&self, name: &str, within: Duration) -> Option<String> {
        self.shared.take(name, within)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn take(&self, name: &str, within: Duration) -> Option<String> {
        let deadline = Instant::now() + within;
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(letter) = letters.get(name) {
                return Some(letter.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            (letters, _) = self.changed.wait_timeout(letters, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One request on a connection of its own.
    fn serve(&self, stream: TcpStream, page: &str) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(&stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
        let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
            let length = value.trim().parse::<usize>().ok()?;
            name.eq_ignore_ascii_case("content-length").then_some(length)
        });
        let mut body = vec![0; length.unwrap_or_default().min(MAX_LETTER)];
        reader.read_exact(&mut body)?;
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (status, kind, answer) = if let Some(name) = target.strip_prefix("/put/") {
            let letter = String::from_utf8_lossy(&body).into_owned();
            self.letters.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), letter);
            self.changed.notify_all();
            ("204 No Content", "text/plain", String::new())
        } else if let Some(name) = target.strip_prefix("/take/") {
            match self.take(name, PATIENCE) {
                Some(letter) => ("200 OK", "application/json", letter),
                None => ("204 No Content", "text/plain", String::new()),
            }
        } else {
            ("200 OK", "text/html", page.to_owned())
        };
        let mut stream = &stream;
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
            answer.len()
        )
    }
}
