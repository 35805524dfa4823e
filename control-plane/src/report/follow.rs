//! The task behind the writer: rolls up what is new, exports and deletes what is finished, forgets what is old.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Reports;
use super::clock::Guard;
use super::entry::Entry;
use super::export;
use super::spool::Position;
use super::tally::{Known, STEP_MS};
use crate::app::App;
use crate::store::{Ages, RollUp, Store, StoreError, now_ms};

/// How often it looks for something new.
const PAUSE: Duration = Duration::from_millis(200);
/// How long it waits after a failure.
const FAILED_PAUSE: Duration = Duration::from_secs(2);
/// How often it forgets.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Sessions, and buckets of channels, that are forgotten at a time; and how often in a row.
const FORGET_MOST: u32 = 5_000;
const FORGET_TURNS: u32 = 10;
/// Bytes of the spool rolled up in one transaction: some thousands of reports, for nothing else is written meanwhile.
const BATCH: usize = 1 << 20;
/// Transactions between two looks at what is finished.
const BATCHES: usize = 64;
/// Segments exported between two looks at what is new.
const EXPORTS: usize = 4;

const DAY_MS: u64 = 86_400_000;
const HOUR_MS: u64 = 3_600_000;

/// What is known from one batch to the next.
pub(super) struct Follower {
    position: Option<Position>,
    known: Known,
    guard: Guard,
    start: Instant,
    /// Segments that are exported, or have nothing to export.
    exported: std::collections::BTreeSet<u64>,
    /// The newest report seen.
    newest_ms: u64,
}

impl Follower {
    pub(super) fn new(newest_ms: Option<u64>, now_ms: u64) -> Self {
        Self {
            position: None,
            known: Known::default(),
            guard: Guard::new(now_ms, newest_ms, Duration::ZERO),
            start: Instant::now(),
            exported: std::collections::BTreeSet::new(),
            newest_ms: newest_ms.unwrap_or(0),
        }
    }
}

/// Runs until `stop`.
pub(crate) async fn follow(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut forgot = Instant::now();
    loop {
        let forget = forgot.elapsed() >= FORGET_EVERY;
        if forget {
            forgot = Instant::now();
        }
        let (behind, stopping) = (Arc::clone(&app), stop.clone());
        let turn = app.db(move |store| {
            let mut more = true;
            for _ in 0..BATCHES {
                more = more && !*stopping.borrow() && behind.reports.roll_up(store)?;
            }
            behind.reports.tidy();
            if forget {
                behind.reports.forget(store, now_ms())?;
            }
            Ok(more)
        });
        let pause = match turn.await {
            Ok(true) => Duration::ZERO,
            Ok(false) => PAUSE,
            Err(_) => FAILED_PAUSE,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Takes what nodes tell of playback, until `stop`.
pub(crate) async fn listen(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let Some(mut told) = app.playback.listen() else { return };
    loop {
        tokio::select! {
            Some(told) = told.recv() => app.reports.observed(told.viewers),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

impl Reports {
    /// Rolls up one batch. False: there is nothing new, or it cannot be read now.
    pub(super) fn roll_up(&self, store: &Store) -> Result<bool, StoreError> {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        let from = match follower.position {
            Some(position) => position,
            None => store.report_progress(self.spool.id())?.position,
        };
        // Asked anew should this fail.
        follower.position = None;
        let chunk = match self.spool.read(from, BATCH) {
            Ok(chunk) => chunk,
            Err(error) => {
                tracing::error!(%error, "the spool of reports cannot be read; its roll-up waits");
                return Ok(false);
            }
        };
        if chunk.is_empty() {
            follower.position = Some(from);
            self.metrics.lag(0);
            return Ok(false);
        }
        let entries: Vec<Entry> = chunk
            .records()
            .filter_map(|record| {
                let entry = Entry::decode(record);
                if entry.is_none() {
                    self.metrics.damaged(record.len() as u64);
                }
                entry
            })
            .collect();
        let batch = RollUp {
            instance: self.spool.id(),
            from,
            to: chunk.next,
            entries: &entries,
            combinations: self.config.combinations as usize,
        };
        // None: somebody moved the position, as a restored backup does; it is read anew.
        if let Some(rolled) = store.roll_up(&batch, &mut follower.known)? {
            follower.position = Some(chunk.next);
            for (result, reports) in [
                ("counted", rolled.counted),
                ("duplicate", rolled.duplicate),
                ("late", rolled.late),
                ("runs", rolled.runs),
            ] {
                self.metrics.rolled(result, reports);
            }
            self.metrics.folded(rolled.folded);
            if chunk.damaged > 0 {
                tracing::error!(
                    segment = chunk.next.segment,
                    bytes = chunk.damaged,
                    "a segment of the spool is damaged"
                );
                self.metrics.damaged(chunk.damaged);
            }
            if let Some(last) = entries.last() {
                self.metrics.lag(now_ms().saturating_sub(last.received_ms));
            }
            let newest = entries.iter().map(|entry| entry.received_ms).max();
            follower.newest_ms = follower.newest_ms.max(newest.unwrap_or(0));
        }
        Ok(true)
    }

    /// Exports finished segments, and deletes those that are exported and rolled up.
    pub(super) fn tidy(&self) {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(position) = follower.position else { return };
        let mut exports = 0;
        for (number, _) in self.spool.finished() {
            let dir = &self.config.parquet_dir;
            if !dir.as_os_str().is_empty() && !follower.exported.contains(&number) {
                if exports == EXPORTS {
                    break;
                }
                exports += 1;
                match export::export(&self.spool, number, dir) {
                    Ok(_) => self.metrics.exported(true),
                    Err(error) => {
                        tracing::error!(%error, segment = number, "raw reports are not exported; they stay in the spool");
                        self.metrics.exported(false);
                        break;
                    }
                }
                follower.exported.insert(number);
            }
            if !self.rolled_up(number, position) {
                break;
            }
            match self.spool.remove(number) {
                Ok(()) => follower.exported.remove(&number),
                Err(error) => {
                    tracing::warn!(%error, segment = number, "a segment of the spool cannot be deleted");
                    break;
                }
            };
        }
    }

    /// Whether everything of a finished segment is before the position.
    fn rolled_up(&self, number: u64, position: Position) -> bool {
        position.segment > number
            || position.segment == number && self.spool.length(number).is_none_or(|length| position.offset >= length)
    }

    /// Forgets what is old, as far as the clock is to be believed.
    pub(super) fn forget(&self, store: &Store, now_ms: u64) -> Result<(), StoreError> {
        let horizon = {
            let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
            let at = follower.start.elapsed();
            let newest = store.newest_report_ms()?.unwrap_or(0).max(follower.newest_ms);
            follower.guard.horizon(now_ms, newest, at)
        };
        let Some(horizon) = horizon else { return Ok(()) };
        let before = |length: u64, count: u32| horizon.saturating_sub(length * u64::from(count.max(1)));
        let ages = Ages {
            sessions_ms: before(HOUR_MS, self.config.repeats_hours),
            minute: before(DAY_MS, self.config.minutes_days) / STEP_MS[0],
            hour: before(DAY_MS, self.config.hours_days) / HOUR_MS,
            usage_hour: before(DAY_MS, self.config.sessions_days) / HOUR_MS,
        };
        let dir = &self.config.parquet_dir;
        if self.config.parquet_days > 0 && !dir.as_os_str().is_empty() {
            match export::forget(dir, before(DAY_MS, self.config.parquet_days)) {
                Ok(files) => self.metrics.pruned("parquet", files),
                Err(error) => tracing::warn!(%error, dir = %dir.display(), "old Parquet files are not deleted"),
            }
        }
        for _ in 0..FORGET_TURNS {
            let gone = store.forget_reports(&ages, FORGET_MOST)?;
            for (what, rows) in
                [("sessions", gone.sessions), ("minutes", gone.minutes), ("hours", gone.hours), ("usage", gone.usage)]
            {
                self.metrics.pruned(what, rows);
            }
            if gone.sessions < u64::from(FORGET_MOST) && gone.minutes == 0 && gone.hours == 0 && gone.usage == 0 {
                break;
            }
        }
        Ok(())
    }
}
