//! The ledger equals what viewers received: to the byte for completed transfers, within the socket buffers for aborted
//! ones, each byte once across kills.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use shoal_tests::client::{self, Conn, End, Reading, Request};
use shoal_tests::lab::{self, Lab, until};
use shoal_tests::load::{Load, Target};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::rng::{Rng, seed};
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(
    completed_transfers_are_counted_to_the_byte,
    aborted_transfers_are_bounded_by_the_socket_buffer,
    kills_of_the_control_plane_lose_and_double_nothing,
    a_kill_of_the_data_plane_loses_a_second_at_most,
);

/// A flush is at most a second apart; the rest is the way to the control plane.
const SETTLED: Duration = Duration::from_secs(10);

const BLOCK: u64 = 64 << 10;

/// Waits until the ledger has `bytes` of viewers' body bytes, and makes sure that it stays so.
fn assert_settles(lab: &Lab, channel: &str, bytes: u64) {
    let deadline = Instant::now() + SETTLED;
    let counted = || lab.admin().ledger(channel, "client").body_bytes;
    while counted() < bytes && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(counted(), bytes, "the ledger of {channel} against what its viewers received");
}

fn completed_transfers_are_counted_to_the_byte(shards: u32) {
    let mut rng = Rng::new(seed());
    let origin = Origin::start();
    let mut targets = Vec::new();
    for prefix in ["/one", "/two"] {
        for size in [0, 1, 1000, BLOCK, 5 * BLOCK + 7, 20 * BLOCK] {
            let object = Object::new(&format!("/{size}"), size);
            origin.put(object.clone());
            targets.push(Target { prefix, object, origin: &origin, kind: prefix, must_succeed: true });
        }
    }
    let lab = Lab::start(shards);
    lab.channel("one", &[&origin]);
    lab.channel("two", &[&origin]);
    let tally = Load { clients: 24, slow: 2, requests: 1500, block: BLOCK }.run(lab.http(), &targets, &mut rng);
    for channel in ["one", "two"] {
        assert_settles(&lab, channel, tally.complete_bytes[&format!("/{channel}")]);
        let usage = lab.admin().ledger(channel, "client");
        assert!(usage.wire_bytes > usage.body_bytes && usage.requests > 0, "{usage:?}");
    }
    // What came from the origin is in the ledger, too.
    let upstream: u64 = ["one", "two"].iter().map(|id| lab.admin().ledger(id, "upstream").body_bytes).sum();
    assert_eq!(upstream, origin.body_bytes(), "the ledger against what the origin sent");
    let sent = lab.metrics().sum("shoal_http_body_bytes_total", &[]);
    println!("{} body bytes by /metrics, {:?} received", sent, tally.complete_bytes);
    lab.report_handovers("ledger");
}

fn aborted_transfers_are_bounded_by_the_socket_buffer(shards: u32) {
    let origin = Origin::start();
    let size = 160 * BLOCK;
    origin.put(Object::new("/a", size));
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let whole = client::expect(lab.http(), &Request::get("/vod/a"));
    assert_eq!(whole.end, End::Complete);
    let mut received = size;
    let aborts: u64 = 12;
    for nth in 0..aborts {
        let mut conn = Conn::open_from(lab.http(), None, Some(32 << 10)).expect("the edge listens");
        let reading = Reading { stop_after: Some(100_000 + nth * 12_345), ..Reading::default() };
        let answer = conn.ask_reading(&Request::get("/vod/a"), reading).expect("an answer");
        assert_eq!(answer.end, End::Stopped);
        received += answer.body.len() as u64;
    }
    // The edge notices only when it sends on; then the ledger stands still.
    let mut counted = 0;
    until("the ledger stands still", Duration::from_secs(15), || {
        let before = counted;
        thread::sleep(Duration::from_millis(1500));
        counted = lab.admin().ledger("vod", "client").body_bytes;
        counted == before && counted >= received
    });
    // What the kernel may hold for one connection at most, here and at the viewer, and one send in flight.
    let buffers = (4 << 20) + (64 << 10) + 2 * BLOCK;
    let over = counted - received;
    println!("{over} bytes counted beyond the {received} received, in {aborts} aborted transfers");
    assert!(over <= aborts * buffers, "{over} bytes more than {aborts} socket buffers of {buffers}");
}

fn kills_of_the_control_plane_lose_and_double_nothing(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", 100_000));
    let mut lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let mut received = 0;
    let mut rng = Rng::new(seed());
    for _ in 0..8 {
        let until = Instant::now() + Duration::from_millis(rng.between(100, 900));
        let mut conn = client::connect(lab.http());
        while Instant::now() < until {
            received += conn.expect(&Request::get("/vod/a")).body.len() as u64;
            thread::sleep(Duration::from_millis(2));
        }
        lab.kill_control();
        thread::sleep(Duration::from_millis(rng.between(0, 300)));
        received += conn.expect(&Request::get("/vod/a")).body.len() as u64;
        lab.start_control();
    }
    assert_settles(&lab, "vod", received);
    let metrics = lab.control_metrics();
    println!("batches repeated: {}", metrics.sum("shoal_control_ledger_batches_total", &[("result", "repeated")]));
    assert_eq!(metrics.sum("shoal_control_ledger_batches_skipped_total", &[]), 0.0);
    lab.report_handovers("ledger across kills");
}

fn a_kill_of_the_data_plane_loses_a_second_at_most(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", 10_000));
    let mut lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let (mut received, mut may_be_lost) = (0, 0);
    for _ in 0..3 {
        let mut conn = client::connect(lab.http());
        let mut times = Vec::new();
        let until = Instant::now() + Duration::from_millis(2500);
        while Instant::now() < until {
            let body = conn.expect(&Request::get("/vod/a")).body.len() as u64;
            times.push((Instant::now(), body));
            received += body;
            thread::sleep(Duration::from_millis(5));
        }
        let killed = Instant::now();
        lab.kill_edge();
        // The last flush interval of one second, and a margin for the disk on a busy machine.
        let interval = Duration::from_millis(1300);
        may_be_lost += times.iter().filter(|(at, _)| killed - *at <= interval).map(|(_, body)| body).sum::<u64>();
        lab.start_edge();
    }
    let counted = || lab.admin().ledger("vod", "client").body_bytes;
    until("what was flushed is counted", SETTLED, || counted() + may_be_lost >= received);
    thread::sleep(Duration::from_millis(1500));
    let counted = counted();
    println!("{received} received, {counted} counted, {may_be_lost} in the last intervals of three kills");
    assert!(counted <= received, "counted twice: {counted} of {received}");
    assert!(counted + may_be_lost >= received, "lost more than the last interval: {counted} of {received}");
    assert!(counted > 0);
}

/// Sessions of tickets are kept apart.
#[test]
fn sessions_are_counted_by_themselves() {
    let origin = Origin::start();
    origin.put(Object::new("/a", 1000));
    let lab = Lab::start(4);
    let mut channel = lab::channel("vod", &[&origin]);
    channel["access"] = json!({"ticket": {"keys": [{"id": "k1", "secret": "a secret of sixteen or more"}]}});
    lab.put_channel(&channel);
    for (session, times) in [("anna", 1), ("ben", 3)] {
        let ticket = lab.admin().ticket("vod", &json!({"path": "a", "session": session}));
        for _ in 0..times {
            let answer = client::expect(lab.http(), &Request::get(&format!("/vod/a?ticket={ticket}")));
            assert_eq!(answer.status(), 200);
        }
    }
    assert_settles(&lab, "vod", 4000);
    let report = lab.admin().call("GET", "/api/v1/ledger?channel=vod&kind=client&group=session", None);
    for (session, bytes) in [("anna", 1000), ("ben", 3000)] {
        let items = report["items"].as_array().expect("a list");
        let sum = items.iter().find(|item| item["session"] == session).expect("each session has its sum");
        assert_eq!(sum["body_bytes"], json!(bytes), "{report}");
    }
}
