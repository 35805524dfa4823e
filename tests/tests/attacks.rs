//! Clients that mean harm, by the thousand: others do not notice, and nothing of them stays behind.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use shoal_tests::client::{Conn, Request};
use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::net::{anywhere, raise_file_limit, reset_on_drop};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::resources::Resources;
use shoal_tests::rng::{Rng, seed};
use shoal_tests::viewers::{Fared, Viewers};
use shoal_tests::{tool, with_one_and_four_shards};

with_one_and_four_shards!(slowhttptest, half_open_clients, floods, tiny_windows_and_resets);

const SOON: Duration = Duration::from_secs(20);

/// Memory that may stay after an attack: tables that have grown to the size that it needed.
const GROWTH: u64 = 64 << 20;

/// Half-open connections, and what each may cost of the node's memory.
const HALF_OPEN: usize = 10_000;
const HALF_OPEN_BYTES: u64 = 8 << 10;

/// Connections of each of slowhttptest's modes.
const SLOW: usize = 600;

/// Readers with the smallest windows.
const TINY: usize = 300;

/// A node with an object in RAM that viewers watch, and one that is attacked.
struct Attacked {
    lab: Lab,
    origin: Origin,
    rng: Rng,
    before: Resources,
    peace: Fared,
    /// Attacks are measured one at a time, and need most of the descriptors that this process may have.
    _alone: MutexGuard<'static, ()>,
}

impl Attacked {
    fn new(settings: Settings) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rng, origin) = (Rng::new(seed()), Origin::start());
        origin.put(watched()).put(Object::new("/long", 4 << 20));
        let mut lab = settings.start();
        lab.channel("c", &[&origin]);
        let peace = viewers(&lab).watch_for(&mut rng, Duration::from_millis(1500));
        until("the viewers are gone", SOON, || Resources::of(&mut lab, &[&origin]).connections == 0);
        let before = Resources::of(&mut lab, &[&origin]);
        Self { lab, origin, rng, before, peace, _alone: alone }
    }

    /// Viewers watch while `attack` goes on.
    fn during<R>(&mut self, what: &str, attack: impl FnOnce(&Lab, Rng) -> R) -> R {
        let (lab, fork) = (&self.lab, self.rng.fork());
        let (result, fared) = viewers(lab).watch_during(&mut self.rng, || attack(lab, fork));
        fared.expect_unharmed(what, &self.peace);
        result
    }

    /// What the node holds now.
    fn resources(&mut self) -> Resources {
        Resources::of(&mut self.lab, &[&self.origin])
    }

    /// Nothing is left but objects in RAM.
    fn expect_nothing_left(mut self, what: &str) {
        let arena = self.resources().arena.max(self.before.arena);
        let before = Resources { arena, ..self.before };
        let after = before.expect_again(&mut self.lab, &[&self.origin], GROWTH, SOON);
        println!("{what}\n  before: {before}\n  after:  {after}");
    }
}

fn watched() -> Object {
    Object::new("/watched", 1 << 20)
}

fn viewers(lab: &Lab) -> Viewers<'static> {
    Viewers { server: lab.http(), path: "/c/watched", object: watched() }
}

/// Its modes at once: slow heads, slow bodies, slow readers, and overlapping ranges.
fn slowhttptest(shards: u32) {
    let Some(tool) = tool::need("slowhttptest", "slowhttptest") else { return };
    // From one address it is to be let in, or only that limit would be tested.
    let settings = Settings::new(shards).set("http.connections_per_address", "0").set("http.head_timeout_ms", "3000");
    let mut attacked = Attacked::new(settings);
    let (count, url) = (SLOW.to_string(), attacked.lab.url("/c/long"));
    let modes: [&[&str]; 4] = [
        &["-H", "-i", "1", "-x", "24", "-t", "GET"],
        &["-B", "-i", "1", "-x", "24", "-s", "8192"],
        &["-X", "-w", "1", "-y", "16", "-n", "1", "-z", "1", "-k", "3"],
        &["-R", "-a", "1", "-b", "3000", "-t", "GET"],
    ];
    let outputs = attacked.during("slowhttptest", |_, _| {
        let start = |mode: &&[&str]| {
            let mut command = Command::new(&tool);
            command.args(*mode).args(["-c", &count, "-r", &count, "-l", "8", "-p", "3", "-u", &url]);
            thread::spawn(move || tool::run(&mut command))
        };
        let running: Vec<_> = modes.iter().map(start).collect();
        running.into_iter().map(|one| one.join().expect("it is only waited for")).collect::<Vec<_>>()
    });
    for (mode, output) in modes.iter().zip(&outputs) {
        let said = tool::stdout(output);
        let answers: Vec<&str> =
            said.split("service available:").skip(1).filter_map(|rest| rest.lines().next()).collect();
        assert!(!answers.is_empty(), "{mode:?} did not run: {said}");
        assert!(answers.iter().all(|answer| answer.contains("YES")), "{mode:?}: the node could not be reached: {said}");
    }
    let closed = |reason| attacked.lab.metrics().sum("shoal_http_connections_closed_total", &[("reason", reason)]);
    println!("  closed: {} of slow heads, {} of slow readers", closed("head_timeout"), closed("slow"));
    assert!(closed("head_timeout") >= SLOW as f64, "slow heads are cut off");
    attacked.expect_nothing_left("slowhttptest");
}

/// They connect, and say nothing or half of it.
fn half_open_clients(shards: u32) {
    let limit = raise_file_limit();
    if limit < HALF_OPEN as u64 + 1000 {
        return tool::skip("half_open_clients", &format!("only {limit} files may be open (ulimit -Hn)"));
    }
    let settings =
        Settings::new(shards).set("http.head_timeout_ms", "60000").set("http.connections_per_address", "100");
    let mut attacked = Attacked::new(settings);
    let clients: Vec<TcpStream> = attacked.during("10,000 half-open clients arrive", |lab, mut rng| {
        let half = Request::get("/c/watched").header("X-Long", &"x".repeat(300)).bytes();
        let open = |nth: usize| {
            let conn = Conn::open_from(lab.http(), Some(anywhere(&mut rng)), None).expect("the node takes more");
            let stream = conn.stream().try_clone().expect("there are descriptors left");
            if nth.is_multiple_of(2) {
                let length = rng.between(1, half.len() as u64 - 1) as usize;
                (&stream).write_all(&half[..length]).expect("the node reads");
            }
            stream
        };
        (0..HALF_OPEN).map(open).collect()
    });
    until("all of them are held", SOON, || attacked.resources().connections == HALF_OPEN as u64);
    let held = attacked.resources();
    let each = held.resident.saturating_sub(attacked.before.resident) / HALF_OPEN as u64;
    println!("  {each} bytes for each: {held}");
    assert!(each < HALF_OPEN_BYTES, "{each} bytes for each of them");
    assert_eq!(held.buffers, 0, "those who wait have no buffer");
    attacked.during("10,000 half-open clients", |_, _| thread::sleep(Duration::from_secs(2)));
    attacked.during("10,000 half-open clients leave", |_, _| {
        for (nth, client) in clients.into_iter().enumerate() {
            if nth.is_multiple_of(3) {
                reset_on_drop(&client);
            }
        }
        thread::sleep(Duration::from_millis(500));
    });
    attacked.expect_nothing_left("10,000 half-open clients");
}

/// Connections as fast as they can be made, from one address and from all of them.
fn floods(shards: u32) {
    let settings = Settings::new(shards).set("http.connections_per_address", "50");
    let mut attacked = Attacked::new(settings);
    let one: SocketAddr = "127.61.0.1:0".parse().expect("an address");
    let refused = |attacked: &Attacked| {
        attacked.lab.metrics().sum("shoal_http_connections_refused_total", &[("limit", "address")])
    };
    // It has all that it may have, and more, before the flood begins: one whose connections are gone before the node comes to
    // accept them would never meet its limit.
    let open = |_| Conn::open_from(attacked.lab.http(), Some(one), None).expect("the kernel takes more");
    let held: Vec<Conn> = (0..60).map(open).collect();
    until("an address has its limit", SOON, || refused(&attacked) >= 10.0);
    let made = attacked.during("a flood from one address", |lab, rng| {
        // They keep what they get, as long as they may.
        flood(lab, rng, 200, |_| one)
    });
    let refused = refused(&attacked);
    println!("  {made} connections, {refused} refused");
    assert!(refused > 10.0, "the flood meets it");
    drop(held);
    let made = attacked.during("a flood from everywhere", |lab, rng| flood(lab, rng, 200, anywhere));
    println!("  {made} connections");
    attacked.expect_nothing_left("floods");
}

/// Connects for two seconds, by four threads that keep so many connections; every second one asks, and does not read.
fn flood(lab: &Lab, mut rng: Rng, kept: usize, from: impl Fn(&mut Rng) -> SocketAddr + Sync) -> usize {
    let (http, from) = (lab.http(), &from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| rng.fork())
            .map(|mut rng| {
                scope.spawn(move || {
                    let (until, mut made, mut open) = (Instant::now() + Duration::from_secs(2), 0, Vec::new());
                    while Instant::now() < until {
                        // Ports run out, or the node was faster: whatever happens, on with it.
                        if let Ok(mut conn) = Conn::open_from(http, Some(from(&mut rng)), None) {
                            reset_on_drop(conn.stream());
                            if rng.one_in(2) {
                                drop(conn.send_raw(&Request::get("/c/watched").bytes()));
                            }
                            open.push(conn);
                            made += 1;
                        }
                        if open.len() > kept {
                            open.swap_remove(rng.below(kept as u64) as usize);
                        }
                    }
                    made
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a flood does not panic")).sum()
    })
}

/// Readers that take a byte a second through the smallest window there is, of more than RAM holds; and others that leave in
/// the middle of a body.
fn tiny_windows_and_resets(shards: u32) {
    let settings = Settings::new(shards).set("http.connections_per_address", "0");
    let mut attacked = Attacked::new(settings);
    let readers = attacked.during("tiny windows and resets", |lab, mut rng| {
        let open = |_| {
            let mut conn = Conn::open_from(lab.http(), Some(anywhere(&mut rng)), Some(1)).expect("the node takes more");
            conn.send(&Request::get("/c/long").bytes());
            conn.stream().set_nonblocking(true).expect("a socket can be");
            conn
        };
        let readers: Vec<Conn> = (0..TINY).map(open).collect();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                let (mut rng, over) = (rng.fork(), &over);
                scope.spawn(move || leave_midway(lab.http(), &mut rng, over));
            }
            for _ in 0..4 {
                thread::sleep(Duration::from_secs(1));
                for reader in &readers {
                    match reader.stream().read(&mut [0]) {
                        Ok(1) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        other => panic!("a slow reader was cut off too early: {other:?}"),
                    }
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        readers
    });
    let held = attacked.resources();
    println!("  while they read: {held}");
    assert!(held.resident.saturating_sub(attacked.before.resident) < GROWTH, "{held}");
    drop(readers);
    attacked.expect_nothing_left("tiny windows and resets");
}

fn leave_midway(node: SocketAddr, rng: &mut Rng, over: &AtomicBool) {
    let mut buffer = vec![0; 16 << 10];
    while !over.load(Ordering::Relaxed) {
        let mut conn = Conn::open_from(node, Some(anywhere(rng)), None).expect("the node takes more");
        reset_on_drop(conn.stream());
        conn.send(&Request::get("/c/long").bytes());
        for _ in 0..rng.below(20) {
            if conn.stream().read(&mut buffer).expect("the body comes") == 0 {
                break;
            }
        }
    }
}
