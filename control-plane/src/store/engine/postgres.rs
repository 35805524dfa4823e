//! PostgreSQL: a few connections, retries where nothing was lost, and errors that say what to do.

mod session;
mod target;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub(super) use session::Session;
use session::{Fault, Outcome};
use target::Target;

use super::{Isolation, Link, Tx};
use crate::store::config::Database;
use crate::store::{StoreError, StoreErrorKind, now_ms};

/// Connections for what takes long, beside the others.
const REPORTS: usize = 2;
/// How long work waits for a connection that is in use by other work.
const POOL_WAIT: Duration = Duration::from_secs(5);
/// After a connection could not be made, work fails at once for so long: hundreds that each wait for a server that is gone would
/// hold up all else.
const DOWN_FOR: Duration = Duration::from_millis(500);
/// How long a transaction is tried again when others change the same.
const CONFLICT_WAIT: Duration = Duration::from_secs(8);
/// The longest pause between two attempts.
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);
/// How often work is tried again on a new connection when the old one was found to be dead.
const LOST_ATTEMPTS: u32 = 2;

/// How long a statement may take.
const STATEMENT: &str = "15s";
const LONG_STATEMENT: &str = "10min";

/// A server, and the connections to it.
pub struct Postgres {
    target: Target,
    short: Pool,
    long: Pool,
}

struct Pool {
    most: usize,
    statement_timeout: &'static str,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Session>,
    /// Idle or in use.
    open: usize,
    /// Why no connection could be made, and when that was.
    down: Option<(Instant, StoreError)>,
}

/// A connection in use. Unless given back it is closed.
struct Lease<'a> {
    pool: &'a Pool,
    session: Option<Session>,
}

impl Postgres {
    /// Connects once, to see that it can.
    pub(crate) fn open(config: &Database, application: &str) -> Result<Self, StoreError> {
        let target = Target::new(config, application)?;
        let pool =
            |most, statement_timeout| Pool { most, statement_timeout, state: Mutex::default(), freed: Condvar::new() };
        let db =
            Self { target, short: pool(config.connections as usize, STATEMENT), long: pool(REPORTS, LONG_STATEMENT) };
        let encoding = db.read(&mut |tx| {
            let row = tx.query_one("SELECT current_setting('server_encoding')", &[])?;
            row.map_or(Ok(String::new()), |row| row.get(0))
        })?;
        if encoding != "UTF8" {
            let message = format!("its encoding is {encoding}; make the database with ENCODING 'UTF8'");
            return Err(StoreError { kind: StoreErrorKind::Settings, path: db.name().to_string(), message });
        }
        Ok(db)
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.target.name
    }

    /// Checks the settings without connecting.
    pub(crate) fn check(config: &Database) -> Result<(), StoreError> {
        Target::new(config, "").map(|_| ())
    }

    pub(super) fn write<T, E: From<StoreError>>(
        &self,
        isolation: Isolation,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let begin = match isolation {
            Isolation::Alone => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            Isolation::Merge => "BEGIN ISOLATION LEVEL READ COMMITTED",
        };
        self.run(&self.short, Some(begin), work)
    }

    pub(super) fn read<T>(&self, work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.run(&self.short, None, work)
    }

    pub(super) fn view<T>(
        &self,
        long: bool,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let pool = if long { &self.long } else { &self.short };
        self.run(pool, Some("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), work)
    }

    /// Has migrations run: statements may take long there.
    pub(super) fn maintain<T, E: From<StoreError>>(
        &self,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run(&self.long, Some("BEGIN ISOLATION LEVEL READ COMMITTED"), work)
    }

    /// Runs `work`; again, when that is safe and may help: nothing of it was kept, and others only were quicker or the connection
    /// had died.
    fn run<T, E: From<StoreError>>(
        &self,
        pool: &Pool,
        begin: Option<&str>,
        work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let (mut conflicts, mut lost) = (0_u32, 0);
        loop {
            let mut lease = pool.take(&self.target)?;
            let outcome = match &mut lease.session {
                Some(session) => attempt(session, self.name(), begin, work),
                // A lease has one until it is given back.
                None => continue,
            };
            let (fault, error) = match outcome {
                Outcome::Done(value) => {
                    lease.give_back();
                    return Ok(value);
                }
                Outcome::Failed(error) => {
                    lease.give_back();
                    return Err(error);
                }
                Outcome::Broken(error) => return Err(error),
                Outcome::Again(fault, error) => (fault, error),
            };
            match fault {
                Fault::Conflict if start.elapsed() < CONFLICT_WAIT => {
                    lease.give_back();
                    thread::sleep(pause(conflicts));
                    conflicts += 1;
                }
                Fault::Lost if lost < LOST_ATTEMPTS => {
                    // Those beside it died with it.
                    pool.close_idle();
                    lost += 1;
                }
                Fault::Conflict => {
                    lease.give_back();
                    return Err(error);
                }
                _ => return Err(error),
            }
        }
    }
}

/// One attempt on one connection.
fn attempt<T, E: From<StoreError>>(
    session: &mut Session,
    name: &Arc<str>,
    begin: Option<&str>,
    work: &mut dyn FnMut(&mut Tx<'_>) -> Result<T, E>,
) -> Outcome<T, E> {
    session.fault = None;
    if let Some(begin) = begin
        && let Err(error) = session.script(name, begin)
    {
        return Outcome::of(session.fault, error.into());
    }
    let mut tx = Tx::new(Link::Postgres(session), name);
    let result = work(&mut tx);
    let failed = tx.failed.take();
    let result = match (result, failed) {
        // PostgreSQL would answer COMMIT by a rollback, and call it success.
        (Ok(_), Some(error)) if begin.is_some() => Err(error.into()),
        (result, _) => result,
    };
    let fault = session.fault;
    match (result, begin) {
        (Ok(value), None) => Outcome::Done(value),
        (Ok(value), Some(_)) => match session.script(name, "COMMIT") {
            Ok(()) => Outcome::Done(value),
            // Whether it was kept nobody knows.
            Err(error) if session.fault == Some(Fault::Lost) => Outcome::Broken(error.into()),
            Err(error) => Outcome::of(session.fault, error.into()),
        },
        (Err(error), begin) => {
            if fault != Some(Fault::Lost) && begin.is_some() && session.script(name, "ROLLBACK").is_err() {
                return Outcome::Broken(error);
            }
            Outcome::of(fault, error)
        }
    }
}

/// Grows, and differs between those that met.
fn pause(attempt: u32) -> Duration {
    let most = Duration::from_millis(1_u64 << attempt.min(7)).min(CONFLICT_PAUSE);
    // The clock's last digits are random enough for this.
    let random = now_ms().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(thread_number());
    most.mul_f64(0.5 + (random % 512) as f64 / 1024.0)
}

fn thread_number() -> u32 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    thread::current().id().hash(&mut hasher);
    hasher.finish() as u32
}

impl Pool {
    fn take(&self, target: &Target) -> Result<Lease<'_>, StoreError> {
        let deadline = Instant::now() + POOL_WAIT;
        let mut state = self.lock();
        loop {
            while let Some(session) = state.idle.pop() {
                if !session.is_closed() {
                    return Ok(Lease { pool: self, session: Some(session) });
                }
                state.open -= 1;
            }
            if let Some((since, error)) = &state.down
                && since.elapsed() < DOWN_FOR
            {
                return Err(error.clone());
            }
            if state.open < self.most {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let message = format!("all {} connections were in use for {} s", self.most, POOL_WAIT.as_secs());
                return Err(StoreError { kind: StoreErrorKind::Busy, path: target.name.to_string(), message });
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.open += 1;
        drop(state);
        // Gives its place back should connecting panic.
        let mut lease = Lease { pool: self, session: None };
        match target.connect(self.statement_timeout) {
            Ok(session) => {
                self.lock().down = None;
                lease.session = Some(session);
                Ok(lease)
            }
            Err(error) => {
                self.lock().down = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn close_idle(&self) {
        let mut state = self.lock();
        state.open -= state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        self.freed.notify_all();
        drop(idle);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease<'_> {
    fn give_back(&mut self) {
        if let Some(session) = self.session.take() {
            let mut state = self.pool.lock();
            state.idle.push(session);
            // For the idle session; the lease's own place goes with the lease.
            state.open += 1;
            drop(state);
            self.pool.freed.notify_one();
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.pool.lock().open -= 1;
        self.pool.freed.notify_one();
    }
}

/// A connection is closed by a runtime of its own, which async code may not drop.
impl Drop for Pool {
    fn drop(&mut self) {
        let idle = std::mem::take(&mut self.lock().idle);
        if !idle.is_empty() {
            thread::spawn(move || drop(idle));
        }
    }
}
