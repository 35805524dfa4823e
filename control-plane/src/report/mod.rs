//! Reports of SDKs and players: taken when they are on the disk, each counted once, kept raw and as sums.
//!
//! | Module | Holds |
//! |---|---|
//! | [`ingest`] | `POST /v1/reports` and `/v1/cmcd`: who it is by the pass, where by the address |
//! | [`entry`] | what one request brought, as a record |
//! | [`spool`] | records on the disk, one sync for all that wait |
//! | [`tally`], [`window`] | records become sums in memory; which numbers of a session were counted |
//! | [`follow`] | the task behind the writer: roll up, export, forget |
//! | [`export`] | raw reports as Parquet |
//! | [`measures`] | what is added up |
//!
//! The way of a report: request → [`entry::Entry`] → spool, synced → acknowledged → [`crate::store::Store::roll_up`]: in one
//! transaction what was counted before is dropped, sums are added, and the spool's position moves. A kill at any moment leaves
//! either all of that or nothing of it, and what was not acknowledged is sent again with the same number.

mod clock;
pub mod entry;
mod export;
mod follow;
pub mod ingest;
pub mod measures;
pub mod metrics;
pub mod spool;
pub mod tally;
#[cfg(test)]
mod tests;
pub(crate) mod window;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use prometheus::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::playback::Playback;
use shoal_report::Report;
use shoal_report::batch::{MAX_COUNT, MAX_REPORTS, MAX_TIME_MS};

pub(crate) use follow::{follow, listen};
pub use spool::{AppendError, SpoolError};

use self::entry::{Entry, Source};
use self::follow::Follower;
use self::metrics::Metrics;
use self::spool::{Limits, Spool};
use crate::store::{Store, StoreError, now_ms};

const MIB: u64 = 1 << 20;

/// Reports of SDKs and players.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reporting {
    /// Folder of the spool, of this instance alone. Empty: `spool` in `state_dir`.
    pub spool_dir: PathBuf,
    /// Most MiB of the spool; beyond it reports are refused until some are rolled up and exported.
    pub spool_mib: u32,
    /// Most MiB of reports that wait for the disk; beyond it SDKs are told to come back.
    pub queue_mib: u32,
    /// A segment of the spool is finished at this many MiB; each becomes one Parquet file,
    pub segment_mib: u32,
    /// or after this many seconds.
    pub segment_seconds: u32,
    /// Folder for raw reports as Parquet, which instances may share. Empty: they are not kept.
    pub parquet_dir: PathBuf,
    /// Days for which Parquet files are kept; 0: until somebody deletes them.
    pub parquet_days: u32,
    /// Days for which sums by the minute are kept.
    pub minutes_days: u32,
    /// Days for which sums by the hour are kept; those by the day are kept for ever.
    pub hours_days: u32,
    /// Days for which each session's sums by the hour are kept, for reconciliation.
    pub sessions_days: u32,
    /// Hours after its last report at which a session's numbers are forgotten; a report sent again later counts again.
    pub repeats_hours: u32,
    /// Most combinations of region, provider, platform and SDK for each channel and minute, hour or day; more are `other`.
    pub combinations: u32,
}

impl Default for Reporting {
    fn default() -> Self {
        Self {
            spool_dir: PathBuf::new(),
            spool_mib: 16_384,
            queue_mib: 64,
            segment_mib: 64,
            segment_seconds: 300,
            parquet_dir: PathBuf::new(),
            parquet_days: 0,
            minutes_days: 2,
            hours_days: 60,
            sessions_days: 8,
            repeats_hours: 48,
            combinations: 500,
        }
    }
}

/// Why reports cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The metrics' table is wrong.
    #[error("metrics: {0}; this is a defect of this release")]
    Metrics(#[from] prometheus::Error),
}

/// The reports of this instance.
pub struct Reports {
    spool: Spool,
    config: Reporting,
    /// What is counted of them.
    pub metrics: Arc<Metrics>,
    follower: Mutex<Follower>,
}

impl Reports {
    /// Opens the spool. It blocks: call it where the database is opened.
    pub fn open(config: &Reporting, state_dir: &Path, store: &Store, registry: &Registry) -> Result<Self, OpenError> {
        let dir =
            if config.spool_dir.as_os_str().is_empty() { state_dir.join("spool") } else { config.spool_dir.clone() };
        let metrics = Arc::new(Metrics::new(registry)?);
        let id = spool::identify(&dir)?;
        let progress = store.report_progress(&id)?;
        let limits = Limits {
            segment_bytes: u64::from(config.segment_mib.max(1)) * MIB,
            segment_ms: u64::from(config.segment_seconds.max(1)) * 1000,
            queue_bytes: u64::from(config.queue_mib.max(1)) * MIB,
            spool_bytes: u64::from(config.spool_mib.max(1)) * MIB,
        };
        let spool = Spool::open(&dir, id, progress.position.segment, limits, Arc::clone(&metrics))?;
        let follower = Mutex::new(Follower::new(store.newest_report_ms()?, now_ms()));
        Ok(Self { spool, config: config.clone(), metrics, follower })
    }

    /// Takes reports. When this is done without an error they are on the disk, and will be counted, once.
    pub(crate) async fn accept(&self, entry: &Entry) -> Result<(), AppendError> {
        let record = entry.encode().ok_or(AppendError::Failed)?;
        let result = self.spool.append(record).await;
        match &result {
            Ok(()) => self.metrics.accepted(entry.source.name(), entry.reports.len()),
            Err(error) => self.metrics.refused(match error {
                AppendError::Busy => "busy",
                AppendError::Full => "full",
                AppendError::Failed => "failed",
            }),
        }
        result
    }

    /// Takes what nodes saw of CMCD on requests for slices. It waits for nothing: what does not fit the queue is lost, and
    /// counted so.
    pub fn observed(&self, viewers: Vec<Playback>) {
        let mut entries: Vec<Entry> = Vec::new();
        for seen in viewers {
            let report = Report {
                at_ms: seen.end_ms.min(MAX_TIME_MS),
                event: "requests".to_owned(),
                asset: seen.cid.as_deref().unwrap_or_default().to_owned(),
                stalls: seen.starved.min(MAX_COUNT),
                // Bytes are the ledger's, and are not counted again.
                unknown: serde_json::to_string(&seen).unwrap_or_default(),
                ..Report::default()
            };
            match entries.last_mut() {
                Some(last)
                    if (&last.tenant, &last.channel, &*last.session, &*last.stream)
                        == (&seen.tenant, &seen.channel, &*seen.session, &*seen.sid)
                        && last.reports.len() < MAX_REPORTS =>
                {
                    last.reports.push(report);
                }
                _ => entries.push(Entry {
                    received_ms: now_ms(),
                    source: Source::Observed,
                    tenant: seen.tenant,
                    channel: seen.channel,
                    session: seen.session.into(),
                    stream: seen.sid.into(),
                    sdk: "cmcd-1".to_owned(),
                    reports: vec![report],
                    ..Entry::default()
                }),
            }
        }
        for entry in entries {
            match entry.encode().map(|record| self.spool.offer(record)) {
                Some(Ok(())) => self.metrics.accepted(Source::Observed.name(), entry.reports.len()),
                Some(Err(_)) | None => self.metrics.refused("observed"),
            }
        }
    }

    /// Brings the metrics up to how the spool stands now.
    pub(crate) fn measure(&self) {
        self.metrics.spool(self.spool.queued(), self.spool.bytes());
    }
}
