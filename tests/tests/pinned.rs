//! Very many readers that take next to nothing, each of another block: their memory is taken back, and nobody else notices.

use std::io::{ErrorKind, Read};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use shoal_tests::client::{Conn, Request};
use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::net::anywhere;
use shoal_tests::origin::{Etag, Object, Origin};
use shoal_tests::resources::Resources;
use shoal_tests::rng::{Rng, seed};
use shoal_tests::verdict::{Asked, Outcome, judge};
use shoal_tests::viewers::{Fared, Viewers};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(blocks_that_can_be_had_again, blocks_that_cannot);

const SOON: Duration = Duration::from_secs(20);

/// Bytes of RAM, and of a block: 64 blocks.
const RAM: u64 = 64 << 20;
const BLOCK: u64 = 1 << 20;

/// Readers that take next to nothing: several for each block there is room for.
const READERS: usize = 300;

/// How long they go on, and how often each takes what has come.
const ATTACK: Duration = Duration::from_secs(6);
const SIP: Duration = Duration::from_millis(500);

/// One that was cut off comes back after this time.
const BACK: Duration = Duration::from_secs(1);

/// Longest that somebody else waits for an object that is not in RAM.
const LONGEST: Duration = Duration::from_secs(8);

/// Most bytes that one takes at a time.
const SIP_BYTES: usize = 200;

/// Objects that nobody asks for but once.
const COLD: usize = 10_000;

/// Memory that may stay: tables, and what was given to the kernel.
const GROWTH: u64 = 96 << 20;

fn blocks_that_can_be_had_again(shards: u32) {
    let [peace, during] = attack(shards, "slow readers of many blocks", Etag::Strong);
    // Half of it where nothing else runs; here other tests may.
    assert!(during.rate() >= peace.rate() / 4.0, "viewers came to a standstill");
}

/// What came in one response stays in RAM under those who read on. Until it is plain who does not, viewers of other objects
/// may have to wait; they get what they ask for.
fn blocks_that_cannot(shards: u32) {
    attack(shards, "slow readers of many blocks without a validator", Etag::None);
}

/// How viewers fared without and with it.
fn attack(shards: u32, what: &str, etag: Etag) -> [Fared; 2] {
    let (mut rng, origin) = (Rng::new(seed()), Origin::start());
    let watched = Object::new("/watched", 4 * BLOCK);
    origin.put(watched.clone());
    for nth in 0..READERS {
        origin.put(Object { etag, last_modified: false, ..Object::new(&format!("/long/{nth}"), 4 * BLOCK) });
    }
    let mut lab = Settings::new(shards)
        .set("cache.ram_bytes", &RAM.to_string())
        .set("cache.block_bytes", &BLOCK.to_string())
        .set("http.connections_per_address", "0")
        .with_access_log()
        .start();
    lab.channel("c", &[&origin]);
    let viewers = Viewers { server: lab.http(), path: "/c/watched", object: watched };
    // All of it comes to RAM.
    viewers.watch_for(&mut rng, Duration::from_millis(500));
    let (peace, newcomers) = watch(&viewers, &origin, &lab, &mut rng, "peace", || thread::sleep(ATTACK / 2));
    println!("{what}\n  before: {peace}\n          {newcomers}");
    until("the viewers are gone", SOON, || Resources::of(&mut lab, &[&origin]).connections == 0);
    let before = Resources::of(&mut lab, &[&origin]);

    let fork = rng.fork();
    let (fared, newcomers) = watch(&viewers, &origin, &lab, &mut rng, "attack", || sip(&lab, fork));
    let metrics = lab.metrics();
    let cut = metrics.sum("shoal_http_connections_closed_total", &[("reason", "memory")]);
    let pinned = metrics.sum("shoal_arena_pinned_bytes", &[]);
    let failures = metrics.sum("shoal_arena_allocation_failures_total", &[]);
    println!("  during: {fared}\n          {newcomers}");
    println!("  {cut} readers cut off, {} KiB pinned, {failures} allocations failed", pinned as u64 >> 10);
    assert_eq!(newcomers.failed, 0, "others must get what they ask for");
    assert!(newcomers.longest < LONGEST, "others had to wait for {:?}", newcomers.longest);
    assert!(cut > 0.0, "slow readers are to be cut off");
    let log = || std::fs::read_to_string(lab.dir().join("access.log")).expect("there is an access log");
    until("the access log says so", SOON, || log().matches(r#""broken":"memory""#).count() as f64 >= cut);
    let innocent = |line: &str| line.contains(r#""broken""#) && !line.contains("long/");
    assert_eq!(log().lines().find(|line| innocent(line)), None, "nobody else is to be cut off");

    until("nothing is pinned", SOON, || lab.metrics().sum("shoal_arena_pinned_bytes", &[]) == 0.0);
    until("no fetch is under way", SOON, || Resources::of(&mut lab, &[&origin]).flights == 0);
    let now = Resources::of(&mut lab, &[&origin]);
    let after = Resources { arena: now.arena, ..before.clone() }.expect_again(&mut lab, &[&origin], GROWTH, SOON);
    println!("  before: {before}\n  after:  {after}");
    [peace, fared]
}

/// How those fare who ask for what nobody has asked for before.
struct Newcomers {
    served: usize,
    failed: usize,
    longest: Duration,
}

impl std::fmt::Display for Newcomers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { served, failed, longest } = self;
        write!(f, "{served} cold objects served, {failed} not, longest {longest:.2?}")
    }
}

/// Viewers watch, and others ask for one cold object after the other, while `work` goes on.
fn watch(
    viewers: &Viewers<'_>,
    origin: &Origin,
    lab: &Lab,
    rng: &mut Rng,
    name: &str,
    work: impl FnOnce(),
) -> (Fared, Newcomers) {
    let (over, newcomers) = (AtomicBool::new(false), Mutex::new(None));
    let ((), fared) = viewers.watch_during(rng, || {
        thread::scope(|scope| {
            scope.spawn(|| *newcomers.lock().expect("nobody panicked") = Some(come(origin, lab, name, &over)));
            work();
            over.store(true, Ordering::Relaxed);
        });
    });
    let newcomers = newcomers.into_inner().expect("nobody panicked");
    (fared, newcomers.expect("they have come"))
}

fn come(origin: &Origin, lab: &Lab, name: &str, over: &AtomicBool) -> Newcomers {
    let mut newcomers = Newcomers { served: 0, failed: 0, longest: Duration::ZERO };
    for nth in 0..COLD {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let cold = Object::new(&format!("/cold/{name}/{nth}"), BLOCK);
        origin.put(cold.clone());
        let asked = Instant::now();
        let answer =
            Conn::open(lab.http()).expect("the node takes more").ask(&Request::get(&format!("/c{}", cold.path)));
        newcomers.longest = newcomers.longest.max(asked.elapsed());
        let right = |answer| judge(&cold, 0, &Asked::Whole, &answer).expect("no wrong byte") == Outcome::Right;
        match answer.is_ok_and(right) {
            true => newcomers.served += 1,
            false => newcomers.failed += 1,
        }
        thread::sleep(Duration::from_millis(20));
    }
    newcomers
}

/// Readers of different objects take a little now and then, and come back when they are cut off.
fn sip(lab: &Lab, mut rng: Rng) {
    let mut open = |nth: usize| {
        let mut conn = Conn::open_tiny(lab.http(), anywhere(&mut rng)).expect("the node takes more");
        conn.send(&Request::get(&format!("/c/long/{nth}")).bytes());
        conn.stream().set_nonblocking(true).expect("a socket can be");
        conn
    };
    let until = Instant::now() + ATTACK;
    let mut readers: Vec<(Option<Conn>, Instant)> = (0..READERS).map(|nth| (Some(open(nth)), Instant::now())).collect();
    while Instant::now() < until {
        thread::sleep(SIP);
        for (nth, (reader, since)) in readers.iter_mut().enumerate() {
            match reader {
                Some(conn) => match conn.stream().read(&mut [0; SIP_BYTES]) {
                    Ok(1..) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    _ => (*reader, *since) = (None, Instant::now()),
                },
                None if since.elapsed() > BACK => *reader = Some(open(nth)),
                None => {}
            }
        }
    }
}
