//! What runs beside the shards, on the process's first thread: usage to disk, access log, watching the shards' pulse.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::Receiver;
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;

use crate::ledger::{Flush, unix_ms};
use crate::link::SPOOL_INTERVAL;
use crate::link::client::SharedSpool;
use crate::link::plane::NodePlane;
use crate::steer::SocketSteering;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Node;
use crate::telemetry::node::NodeStats;
use crate::telemetry::stats::ShardStats;
use crate::tls::reload::Files;
use crate::xdp::{Filter, KnownSources};

/// A shard without a heartbeat for this long is unhealthy.
pub const PULSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a snapshot that is not on disk is written again, in rounds.
const SAVE_EVERY: u32 = 10;
/// How often it is looked whether certificates have changed.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(1);

/// When each shard was last seen alive.
#[derive(Debug)]
pub struct Pulse {
    shards: Vec<Arc<ShardStats>>,
    seen: Mutex<Vec<(u64, Instant)>>,
}

impl Pulse {
    /// From now on.
    pub fn new(shards: Vec<Arc<ShardStats>>, now: Instant) -> Self {
        let seen = shards.iter().map(|_| (0, now)).collect();
        Self { shards, seen: Mutex::new(seen) }
    }

    /// Notes which shards have given a sign since the last time.
    pub fn observe(&self, now: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (shard, (ticks, at)) in self.shards.iter().zip(seen.iter_mut()) {
            let current = shard.ticks();
            if current != *ticks {
                (*ticks, *at) = (current, now);
            }
        }
    }

    /// Since when each shard has given no sign.
    pub fn silence(&self, now: Instant) -> Vec<Duration> {
        self.observe(now);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|(_, at)| now.saturating_duration_since(*at)).collect()
    }

    /// Whether every shard has given a sign at least once.
    pub fn all_started(&self) -> bool {
        self.shards.iter().all(|shard| shard.ticks() > 0)
    }
}

/// The work of one round, again and again.
pub struct Housekeeping {
    flushes: Receiver<Flush>,
    spool: Arc<SharedSpool>,
    plane: Arc<NodePlane>,
    access_log: Option<AccessLog>,
    certificates: Option<(Files, Instant)>,
    filter: Option<(Filter, Arc<KnownSources>)>,
    steering: Option<SocketSteering>,
    /// Whether its last write failed: said once, not at each round.
    access_log_failing: bool,
    pulse: Arc<Pulse>,
    stats: Arc<NodeStats>,
}

impl Housekeeping {
    /// Usage goes from `flushes` to `spool`, and what could not be saved by `plane` is saved again.
    pub fn new(
        flushes: Receiver<Flush>,
        spool: Arc<SharedSpool>,
        plane: Arc<NodePlane>,
        access_log: Option<AccessLog>,
        pulse: Arc<Pulse>,
        stats: Arc<NodeStats>,
    ) -> Self {
        Self {
            flushes,
            spool,
            plane,
            access_log,
            certificates: None,
            filter: None,
            steering: None,
            access_log_failing: false,
            pulse,
            stats,
        }
    }

    /// Follows these files, too.
    pub fn with_certificates(mut self, files: Option<Files>) -> Self {
        if let Some(files) = &files {
            files.report(&self.stats);
        }
        self.certificates = files.map(|files| (files, Instant::now()));
        self
    }

    /// Looks after the XDP program, too.
    pub fn with_filter(mut self, filter: Option<Filter>, known: Arc<KnownSources>) -> Self {
        self.filter = filter.map(|filter| (filter, known));
        self
    }

    /// Looks after the program that steers flows, too.
    pub fn with_steering(mut self, steering: Option<SocketSteering>) -> Self {
        self.steering = steering;
        self
    }

    /// Rounds, until `stop` is sent something or dropped. `reopen` is notified when the access log has been rotated.
    pub async fn run(mut self, reopen: Arc<Notify>, mut stop: oneshot::Receiver<()>) -> Self {
        let mut interval = tokio::time::interval(SPOOL_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0_u32;
        loop {
            let mut rotated = false;
            tokio::select! {
                _ = interval.tick() => {}
                () = reopen.notified() => rotated = true,
                _ = &mut stop => return self,
            }
            round = round.wrapping_add(1);
            self.pulse.observe(Instant::now());
            // Disks may take their time; metrics and link go on meanwhile.
            let work = tokio::task::spawn_blocking(move || {
                self.round(rotated, round.is_multiple_of(SAVE_EVERY));
                self
            });
            match work.await {
                Ok(again) => self = again,
                // Only a panic ends it, and the panic hook ends the process first.
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// One round. Blocks for as long as disks take.
    pub fn round(&mut self, rotated: bool, save: bool) {
        self.commit_usage();
        self.write_access_log(rotated);
        self.follow_certificates();
        if let Some((filter, known)) = &mut self.filter {
            filter.round(known, self.plane.published(), &self.stats);
        }
        if let Some(steering) = &mut self.steering {
            steering.round(&self.stats);
        }
        if save {
            self.plane.retry_save();
        }
    }

    /// Ends what is to end with the process.
    pub fn end(self) {
        if let Some((filter, _)) = self.filter {
            filter.end();
        }
    }

    /// Takes what the shards have flushed and returns when it is on disk; false when the disk did not take it.
    pub fn commit_usage(&mut self) -> bool {
        let flushes: Vec<Flush> = self.flushes.try_iter().collect();
        let now = unix_ms(SystemTime::now());
        let written = self.spool.with(|spool| {
            for flush in flushes {
                let (start_ms, end_ms) = (flush.start_ms, flush.end_ms);
                spool.add(flush.entries(), start_ms, end_ms);
            }
            let written = spool.commit();
            self.stats.set(Node::SpoolBatches, spool.batches() as u64);
            self.stats.set(Node::SpoolBytes, spool.bytes());
            self.stats.set(Node::SpoolShed, spool.shed());
            let lag_ms = spool.oldest_ms().map_or(0, |oldest| now.saturating_sub(oldest));
            self.stats.set(Node::LedgerLag, lag_ms.saturating_mul(1_000));
            written
        });
        self.spool.notify();
        if let Err(error) = &written {
            self.stats.add(Node::SpoolErrors, 1);
            tracing::error!(%error, "usage is not on disk");
        }
        written.is_ok()
    }

    fn follow_certificates(&mut self) {
        let Some((files, looked)) = &mut self.certificates else { return };
        if looked.elapsed() >= CERTIFICATES_EVERY {
            *looked = Instant::now();
            files.round(&self.stats);
        }
    }

    fn write_access_log(&mut self, rotated: bool) {
        let Some(log) = &mut self.access_log else { return };
        if rotated && let Err(error) = log.reopen() {
            tracing::error!(%error, "cannot open the access log anew; the old file stays in use");
        }
        match log.write_queued() {
            Ok(()) => self.access_log_failing = false,
            Err(error) if !self.access_log_failing => {
                self.access_log_failing = true;
                tracing::error!(%error, "cannot write the access log; its lines are dropped");
            }
            Err(_) => {}
        }
        self.stats.set(Node::AccessLogDropped, log.dropped());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_without_a_tick_falls_silent() {
        let shards: Vec<_> = (0..2).map(|_| Arc::new(ShardStats::default())).collect();
        let begin = Instant::now();
        let pulse = Pulse::new(shards.clone(), begin);
        assert!(!pulse.all_started());
        let second = Duration::from_secs(1);
        shards.iter().for_each(|shard| shard.tick());
        pulse.observe(begin + second);
        assert!(pulse.all_started());
        shards[1].tick();
        assert_eq!(pulse.silence(begin + 7 * second), [6 * second, Duration::ZERO]);
        assert_eq!(pulse.silence(begin + 9 * second), [8 * second, 2 * second]);
    }
}
