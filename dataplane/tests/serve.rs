//! Whole shards in this process, with a local folder as origin: the shortest way through everything.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shoal_dataplane::config::Config;
use shoal_dataplane::ledger;
use shoal_dataplane::routes::{Published, Routes};
use shoal_dataplane::shard::{self, Listener, ShardCommand, ShardListeners, Shards, Shared};
use shoal_dataplane::telemetry::metrics::Counter;
use shoal_dataplane::telemetry::stats::ShardStats;
use shoal_dataplane::tls::Tls;
use shoal_link::Snapshot;

struct Lab {
    folder: std::path::PathBuf,
    address: SocketAddr,
    shards: Shards,
    stats: Vec<Arc<ShardStats>>,
}

fn byte(at: usize) -> u8 {
    (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) as u8
}

impl Lab {
    fn start(name: &str, shards: usize, files: &[(&str, usize)]) -> Lab {
        let folder = std::env::temp_dir().join(format!("shoal-serve-{name}-{shards}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("media")).unwrap();
        for &(file, len) in files {
            std::fs::write(folder.join("media").join(file), (0..len).map(byte).collect::<Vec<_>>()).unwrap();
        }
        let mut config = Config::default();
        config.node.state_dir = folder.join("state").display().to_string();
        config.shards.count = shards;
        config.cache.ram_bytes = 64 << 20;
        let settings = Arc::new(config.validate().unwrap());
        let channel = serde_json::json!({
            "version": 1,
            "channels": [{
                "id": "room", "prefix": "/room/",
                "origins": [{ "id": "disk", "url": format!("file:{}", folder.join("media").display()) }],
            }],
        });
        let snapshot: Snapshot = serde_json::from_value(channel).unwrap();
        let published = Arc::new(Published::default());
        published.publish(Routes::compile(&snapshot, None).unwrap());
        let stats: Vec<_> = (0..shards).map(|_| Arc::new(ShardStats::default())).collect();
        let (sink, receiver) = ledger::queue(shards);
        std::thread::spawn(move || receiver.iter().for_each(drop));
        let shared = Shared {
            known: Default::default(),
            tls: Tls::load(&settings).unwrap().tls,
            settings,
            published,
            stats: stats.clone(),
            ledger: sink,
            access_log: None,
            observed: Default::default(),
            playbacks: Default::default(),
            drain: AtomicBool::new(false),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let copy = || Listener { socket: listener.try_clone().unwrap(), tls: false };
        let listeners =
            (0..shards).map(|_| ShardListeners { sockets: vec![copy()], ..ShardListeners::default() }).collect();
        let shards = shard::start(Arc::new(shared), listeners, Vec::new()).unwrap();
        Lab { folder, address, shards, stats }
    }

    fn ask(&self, request: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
    }

    fn stop(self) {
        for handle in self.shards.handles() {
            handle.send(ShardCommand::Drain);
        }
        self.shards.join().unwrap();
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn get(path: &str, more: &str) -> String {
    format!("GET /room/{path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n{more}\r\n")
}

#[test]
fn files_come_whole_and_in_ranges_on_any_number_of_shards() {
    const BIG: usize = (5 << 20) + 12_345;
    for shards in [1, 4] {
        let lab = Lab::start("ranges", shards, &[("small.ts", 1234), ("empty.ts", 0), ("big.mp4", BIG)]);
        for _ in 0..3 {
            for (name, len) in [("small.ts", 1234), ("empty.ts", 0), ("big.mp4", BIG)] {
                let (head, body) = lab.ask(&get(name, ""));
                assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
                assert_eq!(body.len(), len, "{head}");
                assert!(body.iter().enumerate().all(|(at, &got)| got == byte(at)), "wrong bytes in {name}");
            }
            for (first, last) in [(0, 0), (1_048_575, 1_048_577), (3 << 20, BIG - 1), (100, 4 << 20)] {
                let (head, body) = lab.ask(&get("big.mp4", &format!("Range: bytes={first}-{last}\r\n")));
                assert!(head.starts_with("HTTP/1.1 206 "), "{head}");
                assert!(head.contains(&format!("Content-Range: bytes {first}-{last}/{BIG}")), "{head}");
                assert_eq!(body.len(), last - first + 1);
                assert!(body.iter().enumerate().all(|(at, &got)| got == byte(first + at)), "{first}-{last}");
            }
        }
        let (head, body) = lab.ask(&get("missing.ts", ""));
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        assert!(body.len() < 200);
        let handovers: u64 = lab.stats.iter().map(|stats| stats.counter(Counter::HandoverLookup)).sum();
        println!("{shards} shards: {handovers} hand-overs");
        assert_eq!(handovers > 0, shards > 1);
        lab.stop();
    }
}
