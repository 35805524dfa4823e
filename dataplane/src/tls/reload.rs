//! Certificates follow their files: housekeeping looks at them, and replaced ones serve the next handshake.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::certificates::{Certificate, Certificates, Pair, PairError};
use crate::telemetry::metrics::Node;
use crate::telemetry::node::NodeStats;

/// The pairs of a node, what is known of their files, and what is served.
#[derive(Debug)]
pub struct Files {
    watched: Vec<Watched>,
    served: Arc<Certificates>,
}

#[derive(Debug)]
struct Watched {
    pair: Pair,
    certificate: Certificate,
    /// The files as they were when they were last read.
    read: Stamps,
    /// The files as they were when they were last looked at.
    seen: Stamps,
}

/// What changes when a file is written or replaced; none while it cannot be looked at.
type Stamp = Option<(u64, u64, i64, i64)>;
type Stamps = [Stamp; 2];

impl Files {
    /// Reads all pairs.
    ///
    /// # Errors
    /// The first that cannot be used, by its place.
    pub fn load(pairs: Vec<Pair>) -> Result<Files, (usize, PairError)> {
        let watch = |(index, pair): (usize, Pair)| {
            // Before reading: what is written meanwhile is read again.
            let stamps = stamps(&pair);
            let certificate = pair.load().map_err(|error| (index, error))?;
            Ok(Watched { pair, certificate, read: stamps, seen: stamps })
        };
        let watched: Vec<Watched> = pairs.into_iter().enumerate().map(watch).collect::<Result<_, _>>()?;
        let served = Arc::new(Certificates::new(watched.iter().map(|watched| &watched.certificate)));
        Ok(Files { watched, served })
    }

    /// What handshakes are served from.
    pub fn resolver(&self) -> Arc<Certificates> {
        Arc::clone(&self.served)
    }

    /// DNS names of all certificates, those of the first one first.
    pub fn names(&self) -> Vec<String> {
        self.watched.iter().flat_map(|watched| watched.certificate.names()).cloned().collect()
    }

    /// What clients will say of the certificates at `now`.
    pub fn warnings(&self, now: SystemTime) -> impl Iterator<Item = String> {
        self.watched.iter().enumerate().filter_map(move |(index, watched)| {
            let warning = watched.certificate.warning(now)?;
            Some(format!("tls.certificates[{index}]: {}: {warning}", watched.pair.certificate.display()))
        })
    }

    /// Reads pairs again whose files have changed and then rested for a round; what cannot be used stays as it was, and is
    /// logged and counted once for each change.
    pub fn round(&mut self, stats: &NodeStats) {
        let mut replaced = false;
        for watched in &mut self.watched {
            let now = stamps(&watched.pair);
            // Chain and key are written one after the other: a pair that still changes is left alone.
            let rests = std::mem::replace(&mut watched.seen, now) == now;
            if now == watched.read || !rests {
                continue;
            }
            watched.read = now;
            let file = watched.pair.certificate.display();
            match watched.pair.load() {
                Ok(certificate) => {
                    stats.add(Node::TlsReloaded, 1);
                    match certificate.warning(SystemTime::now()) {
                        Some(warning) => tracing::warn!(%file, warning, "serving a changed certificate"),
                        None => tracing::info!(%file, "serving a changed certificate"),
                    }
                    watched.certificate = certificate;
                    replaced = true;
                }
                Err(error) => {
                    stats.add(Node::TlsReloadFailed, 1);
                    tracing::error!(%error, "a changed certificate cannot be used; the one in force stays");
                }
            }
        }
        if replaced {
            self.served.replace(self.watched.iter().map(|watched| &watched.certificate));
        }
        self.report(stats);
    }

    /// Sets the figures.
    pub fn report(&self, stats: &NodeStats) {
        let ends = self.watched.iter().map(|watched| watched.certificate.validity.1);
        let first = ends.min().unwrap_or_default();
        stats.set(Node::TlsExpiry, u64::try_from(first.as_micros()).unwrap_or(u64::MAX));
    }
}

fn stamps(pair: &Pair) -> Stamps {
    [stamp(&pair.certificate), stamp(&pair.key)]
}

fn stamp(path: &Path) -> Stamp {
    let of = |meta: Metadata| (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
    std::fs::metadata(path).ok().map(of)
}

#[cfg(test)]
mod tests;
