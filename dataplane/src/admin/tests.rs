//! The pages, over a real socket.

use shoal_link::Snapshot;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::link::client::Plane;
use crate::link::plane::restore;
use crate::link::store::SnapshotStore;
use crate::telemetry::collect::Exporter;
use crate::testing::{Folder, folder, shared};

struct Lab {
    _folder: Folder,
    admin: Arc<Admin>,
    address: SocketAddr,
}

async fn lab() -> Lab {
    let folder = folder();
    let shared = shared(&folder, 2);
    let stats = Arc::new(NodeStats::default());
    let store = SnapshotStore::new(folder.path());
    let restored = restore(&shared, &stats, &store);
    let (drain, _) = watch::channel(false);
    let plane = NodePlane::new(shared.clone(), vec![], stats.clone(), store, 7, drain, restored);
    let registry = prometheus::Registry::new();
    Exporter::register(&registry, shared.stats.clone(), stats.clone()).unwrap();
    let started = Instant::now();
    let pulse = Arc::new(Pulse::new(shared.stats.clone(), started));
    let addresses = vec!["127.0.0.1:8080".parse().unwrap()];
    let plane = Arc::new(plane);
    let xdp = Arc::default();
    let admin = Arc::new(Admin { registry, shared, stats, plane, pulse, xdp, addresses, boot: 7, started });
    let address = serve(admin.clone()).await;
    Lab { _folder: folder, admin, address }
}

async fn serve(admin: Arc<Admin>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router(admin)).into_future());
    address
}

impl Lab {
    /// Status and body.
    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The same node, watched otherwise.
    async fn restart_with(&mut self, pulse: Pulse) {
        let Admin { registry, shared, stats, plane, addresses, boot, started, .. } = &*self.admin;
        self.admin = Arc::new(Admin {
            registry: registry.clone(),
            shared: shared.clone(),
            stats: stats.clone(),
            plane: plane.clone(),
            pulse: Arc::new(pulse),
            xdp: Arc::default(),
            addresses: addresses.clone(),
            boot: *boot,
            started: *started,
        });
        self.address = serve(self.admin.clone()).await;
    }

    fn tick(&self) {
        self.admin.shared.stats.iter().for_each(|stats| stats.tick());
    }
}

#[tokio::test]
async fn ready_says_what_is_missing() {
    let lab = lab().await;
    let (status, body) = lab.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("starting") && body.contains("no snapshot"), "{body}");

    lab.tick();
    lab.admin.plane.clone().apply(Snapshot { version: 3, ..Snapshot::default() }).await.unwrap();
    assert_eq!(lab.get("/readyz").await, (200, "ok\n".to_owned()));

    lab.admin.shared.drain.store(true, Relaxed);
    let (status, body) = lab.get("/readyz").await;
    assert!(status == 503 && body.contains("draining"), "{body}");
}

#[tokio::test]
async fn health_names_a_silent_shard() {
    let mut lab = lab().await;
    assert_eq!(lab.get("/healthz").await, (200, "ok\n".to_owned()));
    // Nothing was heard since long before; then shard 1 gives a sign.
    let long_ago = Instant::now().checked_sub(2 * PULSE_TIMEOUT).unwrap();
    let stats = lab.admin.shared.stats.clone();
    lab.restart_with(Pulse::new(stats.clone(), long_ago)).await;
    stats[1].tick();
    let (status, body) = lab.get("/healthz").await;
    assert!(status == 503 && body.contains("shard 0") && !body.contains("shard 1"), "{body}");
    let (status, body) = lab.get("/readyz").await;
    assert!(status == 503 && body.contains("shard 0"), "{body}");
}

#[tokio::test]
async fn metrics_and_status_describe_the_node() {
    let lab = lab().await;
    lab.admin.shared.stats[1].set(Gauge::Connections, 5);
    let (status, text) = lab.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("shoal_http_connections{shard=\"1\"} 5\n"), "{text}");

    let (status, text) = lab.get("/status").await;
    let page: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200);
    assert_eq!(page["node"], "n1");
    assert_eq!(page["boot"], "0000000000000007");
    assert_eq!(page["shards"][1]["connections"], 5);
    assert_eq!(page["http"][0], "127.0.0.1:8080");
    assert_eq!(page["snapshot"]["version"], Value::Null);

    let (status, text) = lab.get("/nothing").await;
    assert!(status == 404 && text.contains("/metrics"), "{text}");
}
