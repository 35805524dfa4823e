//! What tests need: folders that are gone afterwards, a node without shards, a way to say what was skipped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::config::Config;
use crate::routes::Published;
use crate::settings::Machine;
use crate::shard::Shared;
use crate::telemetry::stats::ShardStats;

/// A folder that is removed with everything in it when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

/// A new, empty one.
pub(crate) fn folder() -> Folder {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("shoal-dataplane-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // Tests of kills sync thousands of small files: in memory where the system has a place for that.
    let memory = PathBuf::from("/dev/shm");
    let path = if memory.is_dir() { memory } else { std::env::temp_dir() }.join(name);
    std::fs::create_dir(&path).unwrap();
    Folder(path)
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that is left behind in the system's temporary folder fails no test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Says that a test could not run here, and why: on the terminal, and in the file that `SHOAL_SKIP_FILE` names.
pub(crate) fn skipped(name: &str, reason: &str) {
    use std::io::Write;
    println!("skipped {name}: {reason}");
    if let Some(path) = std::env::var_os("SHOAL_SKIP_FILE") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.unwrap(), "{name}: {reason}").unwrap();
    }
}

/// A node of `shards` shards that keeps its state in `folder`, as the seam gives it to the shards.
pub(crate) fn shared(folder: &Folder, shards: usize) -> Arc<Shared> {
    let mut config = Config::default();
    config.node.name = "n1".to_owned();
    config.node.state_dir = folder.path().display().to_string();
    config.shards.count = shards;
    Arc::new(Shared {
        settings: Arc::new(config.validate_on(&Machine::this()).unwrap()),
        published: Arc::new(Published::default()),
        stats: (0..shards).map(|_| Arc::new(ShardStats::default())).collect(),
        ledger: crate::ledger::queue(shards).0,
        access_log: None,
        drain: AtomicBool::new(false),
    })
}
