//! Metrics and health for operators: a small HTTP server beside the shards.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use crate::housekeeping::{PULSE_TIMEOUT, Pulse};
use crate::link::plane::NodePlane;
use crate::shard::Shared;
use crate::telemetry::collect;
use crate::telemetry::metrics::{Gauge, Node};
use crate::telemetry::node::NodeStats;
use crate::xdp::watch::Watch;

/// What the pages are made from.
pub struct Admin {
    /// All metrics of the process.
    pub registry: prometheus::Registry,
    /// Settings and the shards' numbers.
    pub shared: Arc<Shared>,
    /// The node's numbers.
    pub stats: Arc<NodeStats>,
    /// The snapshot in force.
    pub plane: Arc<NodePlane>,
    /// Whether shards are alive.
    pub pulse: Arc<Pulse>,
    /// What is known of XDP.
    pub xdp: Arc<Watch>,
    /// Where viewers are served.
    pub addresses: Vec<SocketAddr>,
    /// This run of the process.
    pub boot: u64,
    /// When it began.
    pub started: Instant,
}

/// `/metrics`, `/healthz`, `/readyz`, `/status`, `/xdp` and `/xdp/drops`.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/xdp", get(xdp))
        .route("/xdp/drops", get(drops))
        .fallback(async || {
            (StatusCode::NOT_FOUND, "here are /metrics, /healthz, /readyz, /status, /xdp and /xdp/drops\n")
        })
        .with_state(admin)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match collect::text(&admin.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn health(State(admin): State<Arc<Admin>>) -> Response {
    verdict(admin.unhealthy())
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    verdict(admin.not_ready())
}

async fn status(State(admin): State<Arc<Admin>>) -> axum::Json<Value> {
    axum::Json(admin.status())
}

async fn xdp(State(admin): State<Arc<Admin>>) -> axum::Json<shoal_link::xdp::Status> {
    axum::Json(admin.xdp.status())
}

/// Lines of JSON, as long as somebody reads.
async fn drops(State(admin): State<Arc<Admin>>) -> Response {
    match admin.xdp.read() {
        Some(lines) => ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines(lines))).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "too many read drops already; end another reader\n").into_response(),
    }
}

/// A body without an end.
struct Lines(Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// 200 `ok`, or 503 with a reason on each line.
fn verdict(reasons: Vec<String>) -> Response {
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

impl Admin {
    /// Why a supervisor should start the process anew.
    fn unhealthy(&self) -> Vec<String> {
        let silent = self.pulse.silence(Instant::now()).into_iter().enumerate();
        let silent = silent.filter(|(_, silence)| *silence >= PULSE_TIMEOUT);
        silent.map(|(shard, silence)| format!("shard {shard} has given no sign for {} s", silence.as_secs())).collect()
    }

    /// Why viewers should not be sent here.
    fn not_ready(&self) -> Vec<String> {
        let mut reasons = self.unhealthy();
        if self.shared.drain.load(Relaxed) {
            reasons.push("draining: the node is going down".to_owned());
        }
        if !self.pulse.all_started() {
            reasons.push("starting: not every shard serves yet".to_owned());
        }
        if let Err(reason) = self.plane.snapshot() {
            reasons.push(format!("nothing to serve: {reason}"));
        }
        reasons
    }

    fn status(&self) -> Value {
        let settings = &self.shared.settings;
        let silence = self.pulse.silence(Instant::now());
        let shards: Vec<Value> = self
            .shared
            .stats
            .iter()
            .zip(silence)
            .zip(&settings.shards.cpus)
            .enumerate()
            .map(|(index, ((stats, silence), cpu))| {
                json!({
                    "shard": index,
                    "cpu": cpu,
                    "silent_ms": silence.as_millis() as u64,
                    "busy": stats.gauge(Gauge::BusyPermille) as f64 / 1e3,
                    "connections": stats.gauge(Gauge::Connections),
                    "cache_bytes": stats.gauge(Gauge::CacheBytes),
                    "cache_objects": stats.gauge(Gauge::CacheObjects),
                    "arena_used_bytes": stats.gauge(Gauge::ArenaUsed),
                    "flights": stats.gauge(Gauge::Flights),
                })
            })
            .collect();
        let snapshot = self.plane.snapshot();
        json!({
            "software": concat!("shoal-dataplane ", env!("CARGO_PKG_VERSION")),
            "node": settings.node.name,
            "pid": std::process::id(),
            // A string, because numbers of JSON readers end at 2^53.
            "boot": format!("{:016x}", self.boot),
            "uptime_s": self.started.elapsed().as_secs(),
            "draining": self.shared.drain.load(Relaxed),
            "not_ready": self.not_ready(),
            "snapshot": {
                "version": snapshot.as_ref().ok(),
                "channels": self.shared.published.current().channels().len(),
            },
            "link": {
                "connected": self.stats.get(Node::LinkConnected) == 1,
                "control": settings.link.control.iter().map(ToString::to_string).collect::<Vec<_>>(),
            },
            "ledger": {
                "spool_batches": self.stats.get(Node::SpoolBatches),
                "spool_bytes": self.stats.get(Node::SpoolBytes),
                "lag_s": self.stats.get(Node::LedgerLag) as f64 / 1e6,
            },
            "http": self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "shards": shards,
            "config": {
                "state_dir": settings.node.state_dir.display().to_string(),
                "public_url": settings.node.public_url,
                "ram_bytes": settings.cache.ram_bytes,
                "block_bytes": settings.cache.block_bytes,
                "drain_ms": settings.http.drain.as_millis() as u64,
            },
        })
    }
}

#[cfg(test)]
mod tests;
