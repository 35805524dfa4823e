//! Ordinary viewers at an even pace, and how they fare while something else goes on.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Conn, Request};
use crate::net::anywhere;
use crate::origin::Object;
use crate::rng::Rng;
use crate::verdict::{Asked, Outcome, Spec, judge};

/// Viewers at a time.
const COUNT: u32 = 8;

/// Each asks for the next piece so long after it asked for the last.
const PACE: Duration = Duration::from_millis(10);

/// Bytes of a piece.
const PIECE: u64 = 50_000;

/// Some viewers of one object.
#[derive(Debug)]
pub struct Viewers<'a> {
    /// The node.
    pub server: SocketAddr,
    /// The object's path there.
    pub path: &'a str,
    /// The object.
    pub object: Object,
}

/// How they fared.
#[derive(Debug)]
pub struct Fared {
    /// From request to last byte, shortest first.
    times: Vec<Duration>,
    lasted: Duration,
}

impl fmt::Display for Fared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { times, lasted } = self;
        let [median, p99, most] = [0.5, 0.99, 1.0].map(|part| self.at(part));
        let long = times.iter().filter(|time| **time > Duration::from_secs(1)).count();
        write!(
            f,
            "{} requests in {lasted:.1?}: median {median:.2?}, p99 {p99:.2?}, longest {most:.2?}, {long} over a second",
            times.len()
        )
    }
}

impl Fared {
    /// The time within which this part of the requests was answered.
    pub fn at(&self, part: f64) -> Duration {
        self.times[((self.times.len() - 1) as f64 * part) as usize]
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.times.len() as f64 / self.lasted.as_secs_f64()
    }

    /// Panics when they noticed too much of what went on: requests that took very long, or most of them not made. Generous, for
    /// they share their CPUs with what went on: a flood is served, too.
    pub fn expect_unharmed(&self, what: &str, before: &Self) {
        println!("{what}\n  before: {before}\n  during: {self}");
        assert!(self.at(0.99) < Duration::from_millis(500), "{what}: viewers had to wait");
        assert!(self.rate() > before.rate() / 10.0, "{what}: viewers came to a standstill");
    }
}

impl Viewers<'_> {
    /// Has them watch while `work` goes on; each of their requests must be answered, and right.
    pub fn watch_during<R>(&self, rng: &mut Rng, work: impl FnOnce() -> R) -> (R, Fared) {
        let (over, times) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let started = Instant::now();
        let result = thread::scope(|scope| {
            for _ in 0..COUNT {
                let (mut rng, over, times) = (rng.fork(), &over, &times);
                scope.spawn(move || {
                    let own = self.watch(&mut rng, over);
                    times.lock().expect("no viewer panics while it holds this").extend(own);
                });
            }
            // Also when it panics, or the viewers would go on for ever.
            let _over = SetOnDrop(&over);
            work()
        });
        let mut times = times.into_inner().expect("no viewer panics while it holds this");
        times.sort_unstable();
        (result, Fared { times, lasted: started.elapsed() })
    }

    /// Has them watch for a while in peace.
    pub fn watch_for(&self, rng: &mut Rng, time: Duration) -> Fared {
        self.watch_during(rng, || thread::sleep(time)).1
    }

    fn watch(&self, rng: &mut Rng, over: &AtomicBool) -> Vec<Duration> {
        let mut conn = Conn::open_from(self.server, Some(anywhere(rng)), None).expect("the node takes viewers");
        let mut times = Vec::new();
        let mut due = Instant::now();
        while !over.load(Ordering::Relaxed) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due = (due + PACE).max(Instant::now());
            let first = rng.below(self.object.size);
            let asked = Asked::Ranges(vec![Spec::Closed(first, first + PIECE - 1)]);
            let request: Request = asked.request(self.path);
            let answer = conn.ask(&request).unwrap_or_else(|failure| panic!("{asked} of {}: {failure}", self.path));
            let verdict = judge(&self.object, 0, &asked, &answer);
            assert_eq!(verdict, Ok(Outcome::Right), "{asked} of {}: {:?}", self.path, answer.head);
            times.push(answer.done_after);
        }
        times
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
