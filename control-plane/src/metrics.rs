//! Every metric of this process, declared once.

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};
use shoal_conf::Code;
use shoal_link::Snapshot;

use crate::peers::Told;
use crate::recon::Pair;
use crate::recon::compare::Comparison;
use crate::recon::watch::MAX_SERIES;
use crate::store::{Applied, KINDS, StoreError, StoreErrorKind, kind_name};

/// Name, help and labels of a metric.
#[derive(Debug)]
pub struct Declared {
    /// Name with unit, as exported.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// Label names.
    pub labels: &'static [&'static str],
}

macro_rules! declare {
    ($($ident:ident = $name:literal, $labels:expr, $help:literal;)*) => {
        $(const $ident: Declared = Declared { name: $name, help: $help, labels: &$labels };)*
        /// All of them.
        pub const TABLE: &[Declared] = &[$($ident),*];
    };
}

declare! {
    REQUESTS = "shoal_control_requests_total", ["method", "route", "status"],
        "Admin requests answered, by method, route and status.";
    REQUEST_SECONDS = "shoal_control_request_duration_seconds", ["route"],
        "Time from an admin request's head to its answer.";
    NODES = "shoal_control_connected_nodes", [], "Data planes connected over the control link.";
    LINK_REFUSED = "shoal_control_link_refused_total", ["reason"],
        "Link connections ended by the control plane, by reason.";
    SNAPSHOT_VERSION = "shoal_control_snapshot_version", [], "Version of the newest snapshot.";
    SNAPSHOT_CHANNELS = "shoal_control_channels", [], "Channels in the newest snapshot.";
    SNAPSHOT_TENANTS = "shoal_control_tenants", [], "Tenants with rules in the newest snapshot.";
    SNAPSHOTS_SENT = "shoal_control_snapshots_sent_total", [], "Snapshots sent to data planes.";
    SNAPSHOTS_REFUSED = "shoal_control_snapshots_refused_total", [], "Snapshots that a data plane would not apply.";
    LEDGER_BATCHES = "shoal_control_ledger_batches_total", ["result"],
        "Ledger batches received: counted, or repeated and so not counted again.";
    LEDGER_SKIPPED = "shoal_control_ledger_batches_skipped_total", [],
        "Batch numbers that never came: what they held was lost at the node.";
    LEDGER_BYTES = "shoal_control_ledger_body_bytes_total", ["kind"], "Body bytes counted into the ledger, by kind.";
    PEERS = "shoal_control_peer_registrations", [], "Registrations of peers that nodes told of.";
    PEERS_TOLD = "shoal_control_peer_observations_total", ["result"],
        "What nodes told of registrations: registered, ended, late (by an older connection) or refused.";
    PEERS_DROPPED = "shoal_control_peer_registrations_dropped_total", [],
        "Registrations forgotten for newer ones, at the limit.";
    RECON_DIFFERENCE = "shoal_control_reconciliation_difference_ratio", ["pair", "provider", "channel"],
        "What was counted less what was delivered, as a part of the latter, in the last settled hour; the channels with the most bytes.";
    RECON_ALERTS = "shoal_control_reconciliation_alerts", ["pair"],
        "Channels and hours of the last day whose difference is beyond the tenant's limit.";
    PLAYBACK = "shoal_control_playback_sums_total", ["result"],
        "Sums of one viewer's CMCD that nodes told: taken, dropped because too many wait, or refused.";
    ATTEMPTS_FAILED = "shoal_control_login_failures_total", ["kind"],
        "Attempts to use the admin API or the console that failed, by what was shown; limited: turned away unchecked after others.";
    AUDIT_FAILED = "shoal_control_audit_failures_total", [], "Entries of the audit log that could not be written.";
    CONF_REFUSED = "shoal_control_refusals_total", ["reason"],
        "Requests to conf that were refused, by reason.";
    DB_ERRORS = "shoal_control_db_errors_total", ["kind"], "Database operations that failed, by sort of failure.";
    BUILD = "shoal_control_build_info", ["version"], "Always 1; the label is the release.";
}

/// Upper bounds of the latency histogram's buckets, in seconds.
const LATENCY_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The metrics and the registry that exports them.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    nodes: IntGaugeVec,
    link_refused: IntCounterVec,
    snapshot_version: IntGaugeVec,
    snapshot_channels: IntGaugeVec,
    snapshot_tenants: IntGaugeVec,
    snapshots_sent: IntCounterVec,
    snapshots_refused: IntCounterVec,
    ledger_batches: IntCounterVec,
    ledger_skipped: IntCounterVec,
    ledger_bytes: IntCounterVec,
    peers: IntGaugeVec,
    peers_told: IntCounterVec,
    peers_dropped: IntCounterVec,
    recon_difference: GaugeVec,
    recon_alerts: IntGaugeVec,
    playback: IntCounterVec,
    attempts_failed: IntCounterVec,
    audit_failed: IntCounterVec,
    conf_refused: IntCounterVec,
    db_errors: IntCounterVec,
}

impl Metrics {
    /// Registers all. Fails only if the table itself is wrong, which a test shows.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let build = gauge(&registry, &BUILD)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let request_seconds = HistogramVec::new(
            HistogramOpts::new(REQUEST_SECONDS.name, REQUEST_SECONDS.help).buckets(LATENCY_BUCKETS.to_vec()),
            REQUEST_SECONDS.labels,
        )?;
        let metrics = Self {
            requests: counter(&registry, &REQUESTS)?,
            request_seconds: register(&registry, request_seconds)?,
            nodes: gauge(&registry, &NODES)?,
            link_refused: counter(&registry, &LINK_REFUSED)?,
            snapshot_version: gauge(&registry, &SNAPSHOT_VERSION)?,
            snapshot_channels: gauge(&registry, &SNAPSHOT_CHANNELS)?,
            snapshot_tenants: gauge(&registry, &SNAPSHOT_TENANTS)?,
            snapshots_sent: counter(&registry, &SNAPSHOTS_SENT)?,
            snapshots_refused: counter(&registry, &SNAPSHOTS_REFUSED)?,
            ledger_batches: counter(&registry, &LEDGER_BATCHES)?,
            ledger_skipped: counter(&registry, &LEDGER_SKIPPED)?,
            ledger_bytes: counter(&registry, &LEDGER_BYTES)?,
            peers: gauge(&registry, &PEERS)?,
            peers_told: counter(&registry, &PEERS_TOLD)?,
            peers_dropped: counter(&registry, &PEERS_DROPPED)?,
            recon_difference: register(
                &registry,
                GaugeVec::new(Opts::new(RECON_DIFFERENCE.name, RECON_DIFFERENCE.help), RECON_DIFFERENCE.labels)?,
            )?,
            recon_alerts: gauge(&registry, &RECON_ALERTS)?,
            playback: counter(&registry, &PLAYBACK)?,
            attempts_failed: counter(&registry, &ATTEMPTS_FAILED)?,
            audit_failed: counter(&registry, &AUDIT_FAILED)?,
            conf_refused: counter(&registry, &CONF_REFUSED)?,
            db_errors: counter(&registry, &DB_ERRORS)?,
            registry,
        };
        // A series that is there from the start can be alerted on; one that appears at its first event cannot.
        metrics.nodes(0);
        metrics.snapshot(&Snapshot::default());
        metrics.snapshots_sent.with_label_values::<&str>(&[]);
        metrics.snapshots_refused.with_label_values::<&str>(&[]);
        metrics.ledger(&Applied::default());
        for reason in ["hello", "protocol", "frame", "silent", "slow", "ledger", "superseded"] {
            metrics.link_refused.with_label_values(&[reason]);
        }
        metrics.peers(0);
        metrics.peers_dropped(0);
        metrics.playback(0, 0, 0);
        metrics.reconciliation(&[], 0);
        for told in Told::ALL {
            metrics.peers_told.with_label_values(&[told.label()]);
        }
        for kind in ["token", "user", "limited"] {
            metrics.attempts_failed.with_label_values(&[kind]);
        }
        metrics.audit_failed.with_label_values::<&str>(&[]);
        for code in Code::ALL {
            metrics.conf_refused.with_label_values(&[code.as_str()]);
        }
        for kind in StoreErrorKind::ALL {
            metrics.db_errors.with_label_values(&[kind.label()]);
        }
        Ok(metrics)
    }

    /// Where subsystems with a table of their own register it.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// An admin request was answered.
    pub fn request(&self, method: &str, route: &str, status: u16, seconds: f64) {
        self.requests.with_label_values(&[method, route, &status.to_string()]).inc();
        self.request_seconds.with_label_values(&[route]).observe(seconds);
    }

    /// Number of data planes connected.
    pub fn nodes(&self, connected: usize) {
        self.nodes.with_label_values::<&str>(&[]).set(connected as i64);
    }

    /// A link connection was ended from this side.
    pub fn link_refused(&self, reason: &str) {
        self.link_refused.with_label_values(&[reason]).inc();
    }

    /// The newest snapshot.
    pub fn snapshot(&self, snapshot: &Snapshot) {
        self.snapshot_version.with_label_values::<&str>(&[]).set(snapshot.version.cast_signed());
        self.snapshot_channels.with_label_values::<&str>(&[]).set(snapshot.channels.len() as i64);
        self.snapshot_tenants.with_label_values::<&str>(&[]).set(snapshot.tenants.len() as i64);
    }

    /// A snapshot went to a data plane.
    pub fn snapshot_sent(&self) {
        self.snapshots_sent.with_label_values::<&str>(&[]).inc();
    }

    /// A data plane refused a snapshot.
    pub fn snapshot_refused(&self) {
        self.snapshots_refused.with_label_values::<&str>(&[]).inc();
    }

    /// Batches were committed.
    pub fn ledger(&self, applied: &Applied) {
        self.ledger_batches.with_label_values(&["counted"]).inc_by(applied.counted);
        self.ledger_batches.with_label_values(&["repeated"]).inc_by(applied.repeated);
        self.ledger_skipped.with_label_values::<&str>(&[]).inc_by(applied.skipped);
        for (kind, bytes) in KINDS.into_iter().zip(applied.body_bytes) {
            self.ledger_bytes.with_label_values(&[kind_name(kind)]).inc_by(bytes);
        }
    }

    /// Number of registrations of peers.
    pub fn peers(&self, registrations: usize) {
        self.peers.with_label_values::<&str>(&[]).set(registrations as i64);
    }

    /// A node told of a registration.
    pub fn peer_told(&self, told: Told) {
        self.peers_told.with_label_values(&[told.label()]).inc();
    }

    /// Registrations were forgotten for newer ones.
    pub fn peers_dropped(&self, registrations: u64) {
        self.peers_dropped.with_label_values::<&str>(&[]).inc_by(registrations);
    }

    /// Comparisons of the last day; `newest` is the start of its last hour, in Unix seconds.
    pub fn reconciliation(&self, comparisons: &[Comparison], newest: u64) {
        for pair in Pair::ALL {
            let alerts = comparisons.iter().filter(|one| one.pair == pair && one.alert).count();
            self.recon_alerts.with_label_values(&[pair.name()]).set(alerts as i64);
        }
        let mut last: Vec<&Comparison> = comparisons.iter().filter(|one| one.hour == newest).collect();
        last.sort_by_key(|one| std::cmp::Reverse(one.delivered_bytes.max(one.counted_bytes)));
        self.recon_difference.reset();
        for one in last.into_iter().take(MAX_SERIES) {
            let labels = [one.pair.name(), &one.provider, &one.channel];
            self.recon_difference.with_label_values(&labels).set(one.difference_percent / 100.0);
        }
    }

    /// A node told of playback.
    pub fn playback(&self, taken: usize, dropped: usize, refused: usize) {
        for (result, viewers) in [("taken", taken), ("dropped", dropped), ("refused", refused)] {
            self.playback.with_label_values(&[result]).inc_by(viewers as u64);
        }
    }

    /// An attempt to get in failed.
    pub fn attempt_failed(&self, kind: &str) {
        self.attempts_failed.with_label_values(&[kind]).inc();
    }

    /// An entry of the audit log could not be written.
    pub fn audit_failed(&self) {
        self.audit_failed.with_label_values::<&str>(&[]).inc();
    }

    /// Conf refused a request.
    pub fn conf_refused(&self, code: Code) {
        self.conf_refused.with_label_values(&[code.as_str()]).inc();
    }

    /// The database failed.
    pub fn db_error(&self, error: &StoreError) {
        self.db_errors.with_label_values(&[error.kind.label()]).inc();
    }

    /// The text exposition format.
    pub fn export(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn counter(registry: &Registry, declared: &Declared) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(declared.name, declared.help), declared.labels)?)
}

fn gauge(registry: &Registry, declared: &Declared) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(declared.name, declared.help), declared.labels)?)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recon::Settings;
    use crate::recon::compare::Figures;

    #[test]
    fn the_table_is_what_is_exported() {
        let metrics = Metrics::new().unwrap();
        metrics.request("GET", "/healthz", 200, 0.001);
        let figures = Figures {
            pair: Pair::Edge,
            hour: 100,
            tenant: "t".to_owned(),
            channel: "c".to_owned(),
            provider: String::new(),
            delivered: 1 << 30,
            counted: 1 << 29,
        };
        metrics.reconciliation(&[figures.compare(&Settings::default(), 1 << 40)], 360_000);
        let text = String::from_utf8(metrics.export().unwrap()).unwrap();
        for declared in TABLE {
            assert!(text.contains(&format!("# HELP {} {}\n", declared.name, declared.help)), "{}", declared.name);
        }
        let series = "shoal_control_reconciliation_difference_ratio{channel=\"c\",pair=\"edge\",provider=\"\"} -0.5";
        assert!(
            text.contains(series) && text.contains("shoal_control_reconciliation_alerts{pair=\"edge\"} 1"),
            "{text}"
        );
        assert_eq!(text.matches("# HELP ").count(), TABLE.len());
    }
}
