//! Many clients at once that ask for random ranges and judge every answer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Conn, End, Failure, Reading};
use crate::origin::{Object, Origin};
use crate::rng::Rng;
use crate::verdict::{Asked, Outcome, Spec, judge};

/// An outcome.
const NO_ANSWER: &str = "no answer";

/// One object that clients may ask for.
#[derive(Debug)]
pub struct Target<'a> {
    /// What comes before the object's path at the server, such as `/channel`.
    pub prefix: &'a str,
    /// The object.
    pub object: Object,
    /// The origin that knows its newest version.
    pub origin: &'a Origin,
    /// Name of its kind in the tally.
    pub kind: &'a str,
    /// Whether every request for it must succeed.
    pub must_succeed: bool,
}

/// How the load looks.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Clients at a time.
    pub clients: usize,
    /// How many of them read slowly, through a small receive buffer.
    pub slow: usize,
    /// Requests of all clients together.
    pub requests: usize,
    /// Size of a block, whose edges are asked for often.
    pub block: u64,
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Tally {
    /// Outcomes by kind of object: right, short, and refused by status.
    pub outcomes: BTreeMap<(String, String), u64>,
    /// Body bytes received in complete answers, by prefix.
    pub complete_bytes: BTreeMap<String, u64>,
    /// Body bytes received in answers that broke off, by prefix.
    pub short_bytes: BTreeMap<String, u64>,
    /// What did not come, or not whole.
    pub failures: Vec<Failed>,
}

/// A request that was not answered right and whole.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Kind of the object.
    pub kind: String,
    /// What was asked for, and what came.
    pub what: String,
    /// When it was asked for.
    pub from: Instant,
    /// When it was given up.
    pub to: Instant,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((kind, outcome), count) in &self.outcomes {
            writeln!(f, "  {kind:>24}: {count:>6} {outcome}")?;
        }
        Ok(())
    }
}

impl Load {
    /// Runs the load; panics at the first wrong byte, and at a failure of an object that must not fail.
    pub fn run(self, server: SocketAddr, targets: &[Target<'_>], rng: &mut Rng) -> Tally {
        self.run_until(&AtomicBool::new(false), server, targets, rng)
    }

    /// The same, but ends early once `stop` is set.
    pub fn run_until(self, stop: &AtomicBool, server: SocketAddr, targets: &[Target<'_>], rng: &mut Rng) -> Tally {
        let tally = Mutex::new(Tally::default());
        thread::scope(|scope| {
            for nth in 0..self.clients {
                let requests = self.requests / self.clients + usize::from(nth < self.requests % self.clients);
                let client = Client {
                    server,
                    conn: None,
                    slow: nth < self.slow,
                    rng: rng.fork(),
                    block: self.block,
                    tally: Tally::default(),
                };
                let tally = &tally;
                scope.spawn(move || {
                    let own = client.run(requests, stop, targets);
                    tally.lock().expect("no client panics while it holds this").add(own);
                });
            }
        });
        tally.into_inner().expect("no client panics while it holds this")
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        other.outcomes.into_iter().for_each(|(key, n)| *self.outcomes.entry(key).or_default() += n);
        other.complete_bytes.into_iter().for_each(|(key, n)| *self.complete_bytes.entry(key).or_default() += n);
        self.failures.extend(other.failures);
        other.short_bytes.into_iter().for_each(|(key, n)| *self.short_bytes.entry(key).or_default() += n);
    }
}

struct Client {
    server: SocketAddr,
    conn: Option<Conn>,
    slow: bool,
    rng: Rng,
    block: u64,
    tally: Tally,
}

impl Client {
    fn run(mut self, requests: usize, stop: &AtomicBool, targets: &[Target<'_>]) -> Tally {
        for _ in 0..requests {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let target = self.rng.pick(targets);
            let asked = self.choose(target.object.size);
            let from = Instant::now();
            let outcome = self.once(target, &asked);
            if !outcome.starts_with("right") {
                let (kind, what) = (target.kind.to_owned(), format!("{asked} of {}: {outcome}", target.object.path));
                self.tally.failures.push(Failed { kind, what, from, to: Instant::now() });
            }
            if outcome == NO_ANSWER {
                // A server that is gone comes back sooner when it is left some time of the CPU.
                thread::sleep(Duration::from_millis(5));
            }
            *self.tally.outcomes.entry((target.kind.to_owned(), outcome)).or_default() += 1;
        }
        self.tally
    }

    fn choose(&mut self, size: u64) -> Asked {
        let small = size <= 4 * self.block;
        match self.rng.below(if small { 20 } else { 60 }) {
            0 | 1 => Asked::Whole,
            2 => {
                let count = self.rng.between(2, 5);
                Asked::Ranges((0..count).map(|_| Spec::random(&mut self.rng, size, self.block)).collect())
            }
            _ => Asked::Ranges(vec![Spec::random(&mut self.rng, size, self.block)]),
        }
    }

    fn once(&mut self, target: &Target<'_>, asked: &Asked) -> String {
        let path = format!("{}{}", target.prefix, target.object.path);
        let (answer, reused) = self.exchange(&asked.request(&path));
        let answer = match answer {
            // A server may close an idle connection just as we use it again; then the request is ours to repeat.
            Err(Failure::Closed) if reused => self.exchange(&asked.request(&path)).0,
            answer => answer,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(Failure::Protocol(what)) => panic!("{asked} of {path}: broken HTTP: {what}"),
            Err(failure) => {
                assert!(!target.must_succeed, "{asked} of {path}: {failure}");
                return NO_ANSWER.to_owned();
            }
        };
        let bytes =
            if answer.end == End::Complete { &mut self.tally.complete_bytes } else { &mut self.tally.short_bytes };
        *bytes.entry(target.prefix.to_owned()).or_default() += answer.body.len() as u64;
        let newest = target.origin.version(&target.object.path);
        let outcome = judge(&target.object, newest, asked, &answer)
            .unwrap_or_else(|what| panic!("WRONG: {asked} of {path}: {what}\n{:?}", answer.head));
        if target.must_succeed && outcome != Outcome::Right {
            panic!(
                "{asked} of {path}: {outcome:?} {:?} {}",
                answer.head,
                answer.text().chars().take(200).collect::<String>()
            );
        }
        match outcome {
            Outcome::Right => format!("right ({})", answer.status()),
            Outcome::Short => "short".to_owned(),
            Outcome::Refused(status) => format!("refused {status}"),
        }
    }

    fn exchange(&mut self, request: &crate::client::Request) -> (Result<crate::client::Response, Failure>, bool) {
        let reused = self.conn.is_some();
        let conn = match self.conn.take() {
            Some(conn) => Ok(conn),
            None => Conn::open_from(self.server, None, self.slow.then_some(8 << 10)),
        };
        let mut conn = match conn {
            Ok(conn) => conn,
            Err(error) => return (Err(error.into()), false),
        };
        let reading = match self.slow {
            true => Reading { chunk: 16 << 10, pause: Duration::from_millis(4), stop_after: None },
            false => Reading::default(),
        };
        let answer = conn.ask_reading(request, reading);
        if let Ok(answer) = &answer
            && answer.end == End::Complete
            && answer.head.minor == 1
            && !answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            self.conn = Some(conn);
        }
        (answer, reused)
    }
}
