//! Two control planes on one PostgreSQL and one Redis are one service for players and their SDKs, while either is killed and
//! while Redis is away.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shoal_conf::signature;
use shoal_link::node::Health;
use shoal_link::{ControlMessage, DataMessage};
use shoal_ticket::Key;

use crate::instances::start_with;
use crate::support::{Control, Dir, Node, channel, request, until};
use crate::testing;

const SECRET: &str = "the-secret-of-the-app";
/// How long Redis is away.
const AWAY: Duration = Duration::from_secs(60);
/// What the tracker is told to be announced at, in seconds: peers are gone after twice that and eight more.
const INTERVAL_S: u64 = 2;
const HASH: &str = "aa11bb22cc33dd44ee55ff6600778899aabbccdd";

struct Redis(Child);

impl Redis {
    fn start(dir: &Path, port: u16) -> Self {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
        let child = command.arg(dir).stdout(Stdio::null()).spawn().unwrap();
        until("Redis listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self(child)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A node that stays: it joins again whenever its control plane comes back, until `stop`.
fn stay(socket: &Path, stop: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let (socket, stop) = (socket.to_owned(), Arc::clone(stop));
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Some(mut node) = Node::try_join(&socket, "edge", 5) else {
                thread::sleep(Duration::from_millis(50));
                continue;
            };
            node.try_send(&DataMessage::Health(Box::default()));
            let mut told = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                if told.elapsed() > Duration::from_secs(1) {
                    told = Instant::now();
                    if !node.try_send(&DataMessage::Health(Box::new(Health { cache_bytes: 1, ..Health::default() }))) {
                        break;
                    }
                }
                match node.next_within(Duration::from_millis(200)) {
                    Ok(Some(ControlMessage::Snapshot(snapshot))) => {
                        node.try_send(&DataMessage::Applied { version: snapshot.version });
                    }
                    Ok(None) => break,
                    Ok(_) | Err(()) => {}
                }
            }
        }
    })
}

/// A viewer: what conf gave it, and where it is asked for next.
struct Viewer {
    number: u16,
    pass: String,
}

impl Viewer {
    /// Asks conf with a signature of its own.
    fn new(at: &Control, number: u16) -> Self {
        let (status, answer) = ask(at, &signed(&format!("viewer-nonce-{number}")));
        assert_eq!((status, &answer["p2p"]), (200, &json!(true)), "{answer}");
        Self { number, pass: answer["pass"].as_str().unwrap().to_owned() }
    }

    /// Announces at an instance; how many are there, and the ports of those it is told of.
    fn announce(&self, at: &Control) -> (u64, Vec<u16>) {
        let body = json!({"info_hash": HASH, "peer_id": format!("{:040x}", self.number), "port": self.number,
                          "transports": ["shoal-udp"]});
        let (status, answer) = request(at.public, "POST", &format!("/v1/tracker/{}/announce", self.pass), "", &body);
        assert_eq!(status, 200, "{answer}");
        let peers = answer["peers"].as_array().unwrap().iter();
        let ports = peers.map(|peer| peer["address"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap());
        (answer["incomplete"].as_u64().unwrap(), ports.collect())
    }

    fn report(&self, at: &Control, seq: u64) {
        let body = json!({"v": 1, "reports": [{"seq": seq, "p2p_in_bytes": 1000 + u64::from(self.number)}]});
        let (status, answer) = request(at.public, "POST", "/v1/reports", &self.pass, &body);
        assert_eq!(status, 202, "{answer}");
    }
}

/// A question of the app, signed.
fn signed(nonce: &str) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let key = Key { id: "k1".to_owned(), secret: SECRET.to_owned() };
    let signature = signature::sign(&key, now, nonce, &[("app", "player"), ("channel", "room")]).unwrap();
    format!("/v1/conf?app=player&channel=room&signature={signature}")
}

fn ask(at: &Control, path: &str) -> (u16, Value) {
    request(at.public, "GET", path, "", &Value::Null)
}

/// Bytes by peers of all reports, as an instance sums them up.
fn reported(at: &Control) -> Option<u64> {
    at.get("/api/v1/reports?group=&step=day&from=0")["items"][0]["p2p_in_bytes"].as_u64()
}

#[test]
fn either_may_die_and_redis_may_go_away() {
    const NAME: &str = "service::either_may_die_and_redis_may_go_away";
    let Some(server) = testing::server(NAME) else { return };
    if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
        return testing::skip(NAME, "redis-server is not installed");
    }
    let dirs = [Dir::new(), Dir::new()];
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let redis = Redis::start(dirs[0].path(), port);
    let settings = format!(
        "[store]\nurl = \"{}\"\n[tracker]\nredis = \"redis://127.0.0.1:{port}\"\ninterval_s = {INTERVAL_S}\n\
         [reports]\nsegment_seconds = 1\n",
        server.database()
    );
    let [a, mut b] = [start_with(&dirs[0], &settings), start_with(&dirs[1], &settings)];
    let stop = Arc::new(AtomicBool::new(false));
    let node = stay(&dirs[0].socket(), &stop);

    // What an operator says to one, the other answers by; and it knows the other's node.
    let mut room = channel("room");
    room["tenant"] = json!("acme");
    let app = json!({"id": "player", "tenant": "acme", "keys": [{"id": "k1", "secret": SECRET}],
                     "access": {"signature": "required"}});
    for (path, body) in [("tenants", json!({"id": "acme"})), ("channels", room), ("apps", app)] {
        let (status, answer) = a.call("POST", &format!("/api/v1/{path}"), &body);
        assert_eq!(status, 201, "{answer}");
    }
    let mut nonce = 0;
    let mut next = || {
        nonce += 1;
        signed(&format!("conf-nonce-{nonce}"))
    };
    for control in [&a, &b] {
        until("conf knows the node", || {
            let (status, answer) = ask(control, &next());
            let at = answer["endpoints"]["slices"][0]["url"].as_str().map(str::to_owned);
            (status == 200 && at.as_deref() == Some("http://edge.test:8080/room/")).then_some(())
        });
    }

    // A signature counts once, wherever it is shown.
    until("both are connected to Redis", || {
        let path = next();
        assert_eq!(ask(&a, &path).0, 200);
        let (status, answer) = ask(&b, &path);
        (status == 403 && answer["code"] == "signature_replayed").then_some(())
    });

    // What one gave is good at the other, and viewers of both meet.
    let [one, two] = [Viewer::new(&a, 7001), Viewer::new(&b, 7002)];
    until("they meet", || {
        let (_, seen) = one.announce(&b);
        let (count, met) = two.announce(&a);
        (count == 2 && seen == [7002] && met == [7001]).then_some(())
    });
    one.report(&b, 1);
    one.report(&a, 2);
    two.report(&a, 1);
    let mut sum = 2 * 8001 + 8002;
    for control in [&a, &b] {
        until("all reports are summed up", || (reported(control) == Some(sum)).then_some(()));
    }

    // A switch at one is off at the other within an interval.
    let switch = |at: &Control, on: bool| {
        let body = json!({"tenant": "acme", "channel": "room", "p2p": on});
        assert_eq!(at.call("POST", "/api/v1/switches", &body).0, 204);
    };
    for (at, on) in [(&b, false), (&b, true)] {
        switch(at, on);
        until("the other has it", || (ask(&a, &next()).1["p2p"] == json!(on)).then_some(()));
    }

    // One is killed right after it has taken reports; the other goes on, with all peers, and nothing is lost.
    two.report(&b, 2);
    two.report(&b, 3);
    sum += 2 * 8002;
    b.kill();
    assert_eq!(one.announce(&a).0, 2, "the other's peer is still there");
    let (count, _) = two.announce(&a);
    assert_eq!(count, 2, "it announces here now");
    assert_eq!(ask(&a, &next()).0, 200);
    b = start_with(&dirs[1], &settings);
    until("it has learned the swarm", || (Viewer::new(&b, 7003).announce(&b).0 >= 3).then_some(()));
    until("its reports are summed up, once", || (reported(&a) == Some(sum)).then_some(()));

    // The one that the node is connected to.
    a.kill();
    assert_eq!(ask(&b, &next()).0, 200);
    assert!(two.announce(&b).0 >= 2);
    let a = start_with(&dirs[0], &settings);
    until("conf knows the node again", || {
        let (_, answer) = ask(&b, &next());
        answer["endpoints"]["slices"][0]["node"].as_str().map(|name| assert_eq!(name, "edge"))
    });

    // Redis goes away: each goes on with those who announce to it, and nobody waits.
    drop(redis);
    let gone = Instant::now();
    let mut seq = 3;
    while gone.elapsed() < AWAY {
        let start = Instant::now();
        assert!(one.announce(&a).0 >= 1 && two.announce(&b).0 >= 1);
        seq += 1;
        one.report(&a, seq);
        two.report(&b, seq);
        sum += 8001 + 8002;
        for control in [&a, &b] {
            assert_eq!(ask(control, &next()).0, 200);
        }
        assert!(start.elapsed() < Duration::from_secs(3), "{:?} for seven requests", start.elapsed());
        thread::sleep(Duration::from_millis(900));
    }
    assert_eq!((one.announce(&a).0, two.announce(&b).0), (1, 1), "those of the other instance have expired");
    let _redis = Redis::start(dirs[0].path(), port);
    until("they are one again", || {
        let (count, seen) = one.announce(&a);
        (count == 2 && seen == [7002] && two.announce(&b).0 == 2).then_some(())
    });
    for control in [&a, &b] {
        until("nothing was lost or counted twice", || (reported(control) == Some(sum)).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    node.join().unwrap();
}
