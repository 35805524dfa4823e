//! What tests need: folders that are gone afterwards, a node without shards, a way to say what was skipped.

use std::cell::RefCell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use rustls::{ClientConfig, RootCertStore};
use shoal_http::caching::Staleness;
use shoal_sys::arena::Arena;
use shoal_sys::ring::Ring;

use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::Recorder;
use crate::routes::{Channel, Published, Routes};
use crate::settings::Machine;
use crate::shard::Shared;
use crate::slices::store::{Store, StoreParts};
use crate::slices::version::{Version, VersionParts, VersionSlot};
use crate::telemetry::stats::ShardStats;
use crate::tls::Tls;
use crate::upstream::{UpstreamLimits, Upstreams, Validators};

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

/// A version of 4 KiB that is in no table, and can be fetched again or not.
pub(crate) fn version(repeatable: bool) -> Arc<Version> {
    let parts = VersionParts {
        status: 200,
        total: Some(4096),
        validators: Validators { etag: repeatable.then(|| "\"v1\"".into()), ..Validators::default() },
        relay: Box::default(),
        version_lines: Box::default(),
        content_type: None,
        cache_control: None,
        born_ms: 0,
        date_s: 0,
        fresh_until_ms: 0,
        exclusive: false,
        expires: None,
        selecting: Box::default(),
        stale: Staleness::default(),
        tags: Box::default(),
    };
    Arc::new(Version::new(VersionSlot { index: 0, generation: 0 }, parts))
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

/// The settings of a node that is told next to nothing.
pub(crate) fn settings() -> crate::settings::Settings {
    let mut config = Config::default();
    config.node.state_dir = std::env::temp_dir().display().to_string();
    config.validate_on(&Machine::this()).unwrap()
}

/// A node of `shards` shards that keeps its state in `folder`, as the seam gives it to the shards.
pub(crate) fn shared(folder: &Folder, shards: usize) -> Arc<Shared> {
    let mut config = Config::default();
    config.node.name = "n1".to_owned();
    config.node.state_dir = folder.path().display().to_string();
    config.shards.count = shards;
    let settings = Arc::new(config.validate_on(&Machine::this()).unwrap());
    Arc::new(Shared {
        tls: Tls::load(&settings).unwrap().tls,
        settings,
        published: Arc::new(Published::default()),
        stats: (0..shards).map(|_| Arc::new(ShardStats::default())).collect(),
        ledger: crate::ledger::queue(shards).0,
        access_log: None,
        observed: Default::default(),
        playbacks: Default::default(),
        known: Default::default(),
        drain: AtomicBool::new(false),
    })
}

/// A channel named `a` below `/a/`, with what `more` says of it besides.
pub(crate) fn channel(more: serde_json::Value) -> Arc<Channel> {
    let mut channel = serde_json::json!({ "id": "a", "prefix": "/a/" });
    channel.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let snapshot = serde_json::from_value(serde_json::json!({ "version": 1, "channels": [channel] })).unwrap();
    Arc::clone(Routes::compile(&snapshot, None).unwrap().channel("a").unwrap())
}

/// Numbers that are the same in each run (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of `list`, unless it is empty.
    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        let end = list.len().max(1) as u64;
        list.get(self.below(end) as usize)
    }
}

/// The result of a future that needs a shard's executor; it has a minute.
pub(crate) fn in_executor<T, F>(make: impl FnOnce() -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (done, ended) = mpsc::channel();
    let thread = LocalExecutorBuilder::new(Placement::Unbound)
        .name("test")
        .spawn(move || async move { done.send(make().await) })
        .unwrap();
    match ended.recv_timeout(Duration::from_secs(60)) {
        Ok(result) => {
            drop(thread.join().unwrap());
            result
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("not over after a minute"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("failed: {:?}", thread.join().err()),
    }
}

/// Limits that end a test before its patience does.
pub(crate) const LIMITS: UpstreamLimits = UpstreamLimits {
    connect_timeout: Duration::from_secs(5),
    response_timeout: Duration::from_secs(5),
    connections_per_origin: 64,
    retries: 2,
    readahead_blocks: 2,
};

/// For origins that speak no TLS.
pub(crate) fn trusting_nobody() -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(crate::tls::provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The store of a shard alone, of `ram` bytes.
pub(crate) fn store(ring: &Ring, stats: &Arc<ShardStats>, ram: usize, block_bytes: usize) -> Rc<Store> {
    let clock = Clock::start();
    Rc::new(Store::new(StoreParts {
        parents: Arc::default(),
        arena: Arena::with_huge_max(ram, 0).unwrap(),
        upstreams: Upstreams::new(ring.clone(), clock.clone(), LIMITS, trusting_nobody(), "shoal-n1".into()),
        limits: LIMITS,
        clock,
        stats: Arc::clone(stats),
        ledger: Rc::new(RefCell::new(Recorder::new(crate::ledger::queue(1).0))),
        block_bytes,
        published: Arc::default(),
        disk: None,
        admit_uses: 2,
        seed: 1,
    }))
}
