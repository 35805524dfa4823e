//! The metrics of reporting, declared once.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::metrics::Declared;

macro_rules! declare {
    ($($ident:ident = $name:literal, $labels:expr, $help:literal;)*) => {
        $(const $ident: Declared = Declared { name: $name, help: $help, labels: &$labels };)*
        /// All of them.
        pub const TABLE: &[Declared] = &[$($ident),*];
    };
}

declare! {
    ACCEPTED = "shoal_control_reports_accepted_total", ["source"],
        "Reports acknowledged, by source: sdk, cmcd, or observed by nodes.";
    REFUSED = "shoal_control_reports_refused_total", ["reason"], "Requests with reports refused, by reason.";
    ROLLED = "shoal_control_reports_rolled_up_total", ["result"],
        "Reports read from the spool: counted, duplicate, late (too old to tell), or of too many runs of one session.";
    DAMAGED = "shoal_control_reports_spool_damaged_bytes_total", [], "Bytes of the spool that could not be read.";
    FOLDED = "shoal_control_reports_folded_total", [],
        "Rows of roll-ups counted as `other`: a channel has more regions, providers, platforms and SDKs than are kept.";
    SYNCS = "shoal_control_reports_spool_sync_seconds", [], "Time to write and sync what waited for the spool.";
    SYNC_ERRORS = "shoal_control_reports_spool_errors_total", [], "Writes of the spool that failed.";
    QUEUED = "shoal_control_reports_queued_bytes", [], "Bytes of reports that wait to be written.";
    SPOOL = "shoal_control_reports_spool_bytes", [], "Bytes of the spool's segments.";
    LAG = "shoal_control_reports_lag_seconds", [], "Age of the newest report that is rolled up, while others wait; else 0.";
    EXPORTED = "shoal_control_reports_parquet_files_total", ["result"], "Parquet files written, or failed.";
    PRUNED = "shoal_control_reports_pruned_total", ["what"], "Rows, and Parquet files, forgotten for their age.";
}

/// Upper bounds of the sync histogram's buckets, in seconds.
const SYNC_BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];
const NONE: &[&str] = &[];

/// The metrics.
pub struct Metrics {
    accepted: IntCounterVec,
    refused: IntCounterVec,
    rolled: IntCounterVec,
    damaged: IntCounterVec,
    folded: IntCounterVec,
    syncs: Histogram,
    sync_errors: IntCounterVec,
    queued: IntGaugeVec,
    spool: IntGaugeVec,
    lag: Gauge,
    exported: IntCounterVec,
    pruned: IntCounterVec,
}

impl Metrics {
    /// Registers all. Fails only if the table itself is wrong, which a test shows.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |declared: &Declared, values: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(declared.name, declared.help), declared.labels)?;
            registry.register(Box::new(counter.clone()))?;
            // A series that is there from the start can be alerted on.
            for value in values {
                counter.with_label_values(&[value]);
            }
            if declared.labels.is_empty() {
                counter.with_label_values(NONE);
            }
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |declared: &Declared| {
            let gauge = IntGaugeVec::new(Opts::new(declared.name, declared.help), declared.labels)?;
            registry.register(Box::new(gauge.clone()))?;
            gauge.with_label_values(NONE);
            Ok::<_, prometheus::Error>(gauge)
        };
        let syncs = Histogram::with_opts(HistogramOpts::new(SYNCS.name, SYNCS.help).buckets(SYNC_BUCKETS.to_vec()))?;
        registry.register(Box::new(syncs.clone()))?;
        let lag = Gauge::new(LAG.name, LAG.help)?;
        registry.register(Box::new(lag.clone()))?;
        Ok(Self {
            accepted: counter(&ACCEPTED, &["sdk", "cmcd", "observed"])?,
            refused: counter(
                &REFUSED,
                &["pass", "json", "type", "range", "version", "busy", "full", "failed", "observed"],
            )?,
            rolled: counter(&ROLLED, &["counted", "duplicate", "late", "runs"])?,
            damaged: counter(&DAMAGED, &[])?,
            folded: counter(&FOLDED, &[])?,
            syncs,
            sync_errors: counter(&SYNC_ERRORS, &[])?,
            queued: gauge(&QUEUED)?,
            spool: gauge(&SPOOL)?,
            lag,
            exported: counter(&EXPORTED, &["written", "failed"])?,
            pruned: counter(&PRUNED, &["sessions", "minutes", "hours", "usage", "parquet"])?,
        })
    }

    /// Reports were acknowledged, or taken from nodes.
    pub fn accepted(&self, source: &str, reports: usize) {
        self.accepted.with_label_values(&[source]).inc_by(reports as u64);
    }

    /// A request was refused.
    pub fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// Reports were rolled up.
    pub fn rolled(&self, result: &str, reports: u64) {
        self.rolled.with_label_values(&[result]).inc_by(reports);
    }

    /// Bytes could not be read.
    pub fn damaged(&self, bytes: u64) {
        self.damaged.with_label_values(NONE).inc_by(bytes);
    }

    /// Rows went to `other`.
    pub fn folded(&self, rows: u64) {
        self.folded.with_label_values(NONE).inc_by(rows);
    }

    /// What waited was written, or not.
    pub fn synced(&self, seconds: f64, well: bool) {
        self.syncs.observe(seconds);
        self.sync_errors.with_label_values(NONE).inc_by(u64::from(!well));
    }

    /// How the spool stands.
    pub fn spool(&self, queued: u64, bytes: u64) {
        self.queued.with_label_values(NONE).set(queued.cast_signed());
        self.spool.with_label_values(NONE).set(bytes.cast_signed());
    }

    /// How far roll-ups are behind.
    pub fn lag(&self, ms: u64) {
        self.lag.set(ms as f64 / 1000.0);
    }

    /// A Parquet file was written, or not.
    pub fn exported(&self, well: bool) {
        self.exported.with_label_values(&[if well { "written" } else { "failed" }]).inc();
    }

    /// Rows were forgotten.
    pub fn pruned(&self, what: &str, rows: u64) {
        self.pruned.with_label_values(&[what]).inc_by(rows);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn the_table_is_what_is_exported() {
        let registry = Registry::new();
        Metrics::new(&registry).unwrap();
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for declared in TABLE {
            assert!(text.contains(&format!("# HELP {} {}\n", declared.name, declared.help)), "{}", declared.name);
        }
        assert_eq!(text.matches("# HELP ").count(), TABLE.len());
    }
}
