//! Limits: what is too slow, too idle or too much is ended, and the rest is not disturbed.

use std::thread;
use std::time::{Duration, Instant};

use shoal_tests::client::{self, Conn, End, Reading, Request};
use shoal_tests::lab::{Lab, Settings, until};
use shoal_tests::origin::{Object, Origin};
use shoal_tests::verdict::assert_one_line;
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(slow_and_idle_clients, stalled_readers, too_many_connections, sizes_of_a_head);

fn vod(settings: Settings) -> (Lab, Origin) {
    let origin = Origin::start();
    origin.put(Object::literal("/a", "fine"));
    let lab = settings.start();
    lab.channel("vod", &[&origin]);
    (lab, origin)
}

fn slow_and_idle_clients(shards: u32) {
    let settings = Settings::new(shards).set("http.head_timeout_ms", "1000").set("http.idle_timeout_ms", "700");
    let (lab, _origin) = vod(settings);
    // A head that trickles: every byte is in time, the whole is not.
    let mut trickle = client::connect(lab.http());
    let started = Instant::now();
    for byte in Request::get("/vod/a").header("X", &"y".repeat(200)).bytes() {
        if trickle.send_raw(&[byte]).is_err() || started.elapsed() > Duration::from_secs(4) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let answer = trickle.read_response(false, Reading::default());
    // By the last bytes the connection may have been reset; otherwise the answer is 408.
    if let Ok(answer) = answer {
        assert_eq!(answer.status(), 408, "{}", answer.text());
        assert_one_line(&answer);
    }
    let mut half = client::connect(lab.http());
    half.send(b"GET /vod/a HTTP/1.1\r\nHost: a\r\n");
    let started = Instant::now();
    let answer = half.expect_response();
    assert_eq!(answer.status(), 408);
    assert_one_line(&answer);
    let took = started.elapsed();
    assert!((Duration::from_millis(600)..Duration::from_secs(4)).contains(&took), "408 after {took:?}");
    assert!(half.wait_for_close(Duration::from_secs(2)).is_ok());

    // Idle before the first request, and between two: closed without a word.
    let mut silent = client::connect(lab.http());
    let mut kept = client::connect(lab.http());
    assert_eq!(kept.expect(&Request::get("/vod/a")).status(), 200);
    for conn in [&mut silent, &mut kept] {
        let rest = conn.wait_for_close(Duration::from_secs(4)).expect("an idle connection is closed");
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }
    // A connection in use stays.
    let mut busy = client::connect(lab.http());
    for _ in 0..6 {
        assert_eq!(busy.expect(&Request::get("/vod/a")).status(), 200);
        thread::sleep(Duration::from_millis(300));
    }
    let metrics = lab.metrics();
    assert!(metrics.sum("shoal_http_connections_closed_total", &[("reason", "idle")]) >= 2.0);
    assert!(metrics.sum("shoal_http_connections_closed_total", &[("reason", "head_timeout")]) >= 1.0);
}

fn stalled_readers(shards: u32) {
    // Averaged over ten seconds, so this takes some time.
    let (lab, origin) = vod(Settings::new(shards).set("http.min_send_bytes_per_s", "20000"));
    let size = 20 << 20;
    origin.put(Object::new("/large", size));
    thread::scope(|scope| {
        let stalled = scope.spawn(|| {
            let mut conn = Conn::open_from(lab.http(), None, Some(8 << 10)).expect("the edge listens");
            conn.send(&Request::get("/vod/large").bytes());
            let head = conn.read_head().expect("a head");
            assert_eq!(head.status, 200);
            // Reads nothing for longer than the average is taken over.
            thread::sleep(Duration::from_secs(16));
            let mut got = 0;
            let end = conn.read_body(&head, false, Reading::default(), &mut |bytes| got += bytes.len() as u64);
            (end.expect("no broken framing"), got)
        });
        let steady = scope.spawn(|| {
            // 3 MB in pieces, slow but well above the rate.
            let mut conn = Conn::open_from(lab.http(), None, Some(8 << 10)).expect("the edge listens");
            let reading = Reading { chunk: 16 << 10, pause: Duration::from_millis(70), stop_after: None };
            conn.ask_reading(&Request::range("/vod/large", "bytes=0-2999999"), reading).expect("an answer")
        });
        let (end, got) = stalled.join().expect("the stalled reader does not panic");
        assert!(matches!(end, End::Short(_)), "a stalled reader is cut off, not {end:?} after {got} bytes");
        let steady = steady.join().expect("the steady reader does not panic");
        assert_eq!((steady.end, steady.body.len()), (End::Complete, 3_000_000));
    });
    let slow = lab.metrics().sum("shoal_http_connections_closed_total", &[("reason", "slow")]);
    assert_eq!(slow, 1.0, "counted as too slow");
}

fn too_many_connections(shards: u32) {
    let settings =
        Settings::new(shards).set("http.connections_per_shard", "40").set("http.connections_per_address", "10");
    let (lab, _origin) = vod(settings);
    let open = |last: u8| {
        let from = format!("127.0.0.{last}:0").parse().expect("an address");
        let mut conn = Conn::open_from(lab.http(), Some(from), None).expect("the edge listens");
        conn.ask(&Request::get("/vod/a")).ok().filter(|answer| answer.status() == 200).map(|_| conn)
    };
    // One address: at most ten on each shard.
    let held: Vec<Conn> = (0..120).filter_map(|_| open(1)).collect();
    println!("{} of 120 connections of one address on {shards} shards", held.len());
    assert!(held.len() <= 10 * shards as usize && held.len() >= 10, "{}", held.len());
    assert!(open(2).is_some(), "another address is not affected");
    drop(held);
    until("closed ones no longer count", Duration::from_secs(5), || open(1).is_some());

    // All addresses: at most forty on each shard.
    thread::sleep(Duration::from_millis(300));
    let held: Vec<Conn> = (0..300).filter_map(|nth| open(3 + (nth % 60) as u8)).collect();
    println!("{} of 300 connections on {shards} shards", held.len());
    assert!(held.len() <= 40 * shards as usize && held.len() >= 40, "{}", held.len());
    drop(held);
    until("closed ones no longer count", Duration::from_secs(5), || open(1).is_some());
    let metrics = lab.metrics();
    for limit in ["address", "shard"] {
        let refused = metrics.sum("shoal_http_connections_refused_total", &[("limit", limit)]);
        assert!(refused > 0.0 || (limit == "shard" && shards > 1), "refusals by {limit} are counted");
    }
}

fn sizes_of_a_head(shards: u32) {
    let settings = Settings::new(shards)
        .set("http.head_bytes", "2000")
        .set("http.headers", "10")
        .set("http.request_line_bytes", "500")
        .set("http.ranges_per_request", "3");
    let (lab, origin) = vod(settings);
    origin.put(Object::new("/large", 100_000));
    let get = || Request::get("/vod/a");
    let ask = |request: &Request| client::expect(lab.http(), request);
    assert_eq!(ask(&Request::get(&format!("/vod/a?{}", "x".repeat(400)))).status(), 200);
    assert_eq!(ask(&Request::get(&format!("/vod/a?{}", "x".repeat(500)))).status(), 414);
    assert_eq!(ask(&get().header("X", &"x".repeat(1800))).status(), 200);
    assert_eq!(ask(&get().header("X", &"x".repeat(2000))).status(), 431);
    let fields = |n| (1..n).fold(get(), |request, nth| request.also(&format!("X-{nth}"), "y"));
    assert_eq!(ask(&fields(10)).status(), 200);
    let many = ask(&fields(11));
    assert_eq!(many.status(), 431);
    assert!(assert_one_line(&many).contains("10"), "the refusal names the limit: {}", many.text());
    let ranges = |n: u32| {
        let specs: Vec<String> = (0..n).map(|nth| format!("{}-{}", nth * 1000, nth * 1000 + 9)).collect();
        ask(&Request::range("/vod/large", &format!("bytes={}", specs.join(","))))
    };
    assert_eq!(ranges(3).status(), 206);
    // Ignored or refused (RFC 9110 sections 14.2 and 15.5.17), but not served.
    let many = ranges(4);
    assert!(many.status() == 200 && many.body.len() == 100_000 || many.status() == 416, "{:?}", many.head);
}
