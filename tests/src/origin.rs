//! A source that misbehaves on request.
//!
//! It serves [`Object`]s whose bytes are a function of path and version, remembers every request, and can die in the
//! middle of a body and come back at the same address.

mod date;
mod object;
mod serve;

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use date::http_date;
pub use object::{Change, Etag, Fault, Framing, Object, When};

use crate::net;

/// One request as the origin saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method token.
    pub method: String,
    /// Target with its query.
    pub target: String,
    /// Fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// When its head was complete.
    pub at: Instant,
}

impl Seen {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug)]
struct Entry {
    object: Object,
    since: Instant,
    bumps: u32,
    requests: u64,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<String, Entry>,
    seen: Vec<Seen>,
    streams: HashMap<u64, TcpStream>,
}

#[derive(Debug)]
struct Shared {
    addr: SocketAddr,
    alive: AtomicBool,
    connections: AtomicU64,
    body_bytes: AtomicU64,
    table: Mutex<Table>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets every connection and closes the listener, as a crash would.
    fn die(&self) {
        if self.alive.swap(false, Ordering::SeqCst) {
            for (_, stream) in self.table().streams.drain() {
                reset(&stream);
            }
            // The accepting thread sits in accept(); this wakes it.
            drop(TcpStream::connect(self.addr));
        }
    }

    fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// Sleeps, unless the origin dies before.
    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while self.is_alive() {
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::sleep(left.min(Duration::from_millis(20))),
                _ => break,
            }
        }
    }
}

/// A running origin; dropped, it is gone.
#[derive(Debug)]
pub struct Origin {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Origin {
    /// Starts one on a loopback address and port of its own.
    pub fn start() -> Self {
        let listener = TcpListener::bind((net::own_address(), 0)).expect("a free port for the origin");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            addr,
            alive: AtomicBool::new(true),
            connections: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            table: Mutex::default(),
        });
        let acceptor = Some(accept(listener, Arc::clone(&shared)));
        Self { shared, acceptor }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// Its URL, with a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}/", self.shared.addr)
    }

    /// Adds an object, or replaces it and starts its counters anew.
    pub fn put(&self, object: Object) -> &Self {
        let entry = Entry { since: Instant::now(), bumps: 0, requests: 0, object };
        self.shared.table().entries.insert(entry.object.path.clone(), entry);
        self
    }

    /// Changes how an object behaves; version and counters stay.
    pub fn alter(&self, path: &str, change: impl FnOnce(&mut Object)) {
        change(&mut self.entry(&mut self.shared.table(), path).object);
    }

    /// Gives the object its next version.
    pub fn bump(&self, path: &str) {
        self.entry(&mut self.shared.table(), path).bumps += 1;
    }

    /// The newest version that anybody can have seen.
    pub fn version(&self, path: &str) -> u32 {
        self.entry(&mut self.shared.table(), path).version()
    }

    /// How often the object was asked for.
    pub fn requests(&self, path: &str) -> u64 {
        self.entry(&mut self.shared.table(), path).requests
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.table().seen.clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        let mut table = self.shared.table();
        table.seen.clear();
        table.entries.values_mut().for_each(|entry| entry.requests = 0);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Body bytes handed to the kernel so far.
    pub fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Ordering::SeqCst)
    }

    /// Dies as in a crash: connections are reset, new ones refused.
    pub fn kill(&mut self) {
        self.shared.die();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the accepting thread does not panic");
        }
    }

    /// Whether it is up; a [`Fault::Die`] takes it down by itself.
    pub fn is_alive(&self) -> bool {
        self.shared.is_alive()
    }

    /// Comes back at the same address with the same objects.
    pub fn restart(&mut self) {
        self.kill();
        let listener = TcpListener::bind(self.shared.addr).expect("our own address is still ours");
        self.shared.alive.store(true, Ordering::SeqCst);
        self.acceptor = Some(accept(listener, Arc::clone(&self.shared)));
    }

    fn entry<'a>(&self, table: &'a mut Table, path: &str) -> &'a mut Entry {
        table.entries.get_mut(path).unwrap_or_else(|| panic!("the origin has no object {path}"))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.die();
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    thread::spawn(move || {
        loop {
            let accepted = listener.accept();
            if !shared.is_alive() {
                return;
            }
            let Ok((stream, _)) = accepted else { continue };
            let id = shared.connections.fetch_add(1, Ordering::SeqCst);
            let Ok(copy) = stream.try_clone() else { continue };
            shared.table().streams.insert(id, copy);
            // A death between the check and the insert would otherwise leave this one open.
            if !shared.is_alive() {
                reset(&stream);
                return;
            }
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                // Peers come and go, and faults end connections: an error here is the normal end.
                let _: io::Result<()> = serve::connection(&stream, &shared);
                shared.table().streams.remove(&id);
            });
        }
    })
}

/// Closes so that the peer gets a RST.
pub(crate) fn reset(stream: &TcpStream) {
    net::reset_on_drop(stream);
    drop(stream.shutdown(Shutdown::Both));
}
