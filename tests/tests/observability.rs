//! What both processes tell about themselves.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use shoal_tests::client::{self, Request};
use shoal_tests::lab::{Settings, until};
use shoal_tests::metrics::Metrics;
use shoal_tests::origin::{Fault, Object, Origin, When};
use shoal_tests::{tool, with_one_and_four_shards};

with_one_and_four_shards!(metrics_are_clean_and_move);

fn promtool(at: SocketAddr) {
    let Some(promtool) = tool::need("promtool check metrics", "promtool") else { return };
    let text = client::expect(at, &Request::get("/metrics")).body;
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool was found");
    child.stdin.take().expect("it is piped").write_all(&text).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = tool::stdout(&output) + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

fn metrics_are_clean_and_move(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::new("/a", 300_000)).put(Object::new("/bad", 10).fault(When::Always, Fault::Garbage));
    let lab = Settings::new(shards).with_access_log().start();
    lab.channel("vod", &[&origin]);
    let before = lab.metrics();
    for _ in 0..5 {
        assert_eq!(client::expect(lab.http(), &Request::get("/vod/a")).status(), 200);
    }
    assert_eq!(client::expect(lab.http(), &Request::range("/vod/a", "bytes=0-9")).status(), 206);
    assert_eq!(client::expect(lab.http(), &Request::get("/vod/none")).status(), 404);
    assert!(client::expect(lab.http(), &Request::get("/vod/bad")).status() >= 500);
    // A request is over, and counted, a moment after its last byte has come.
    let finished = |metrics: &Metrics| metrics.sum("shoal_http_request_seconds_count", &[]);
    until("all requests are counted", Duration::from_secs(5), || finished(&lab.metrics()) - finished(&before) >= 8.0);
    let after = lab.metrics();
    let moved = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    assert_eq!(moved("shoal_http_requests_total", &[("status", "200")]), 5.0);
    assert_eq!(moved("shoal_http_requests_total", &[("status", "206")]), 1.0);
    assert_eq!(moved("shoal_http_requests_total", &[("status", "404")]), 1.0);
    assert!(moved("shoal_http_requests_total", &[("cache", "hit")]) >= 5.0);
    assert!(moved("shoal_http_body_bytes_total", &[]) >= 1_500_010.0);
    assert!(moved("shoal_http_wire_bytes_total", &[]) > moved("shoal_http_body_bytes_total", &[]));
    assert!(moved("shoal_http_request_seconds_count", &[]) >= 8.0);
    assert!(moved("shoal_http_first_byte_seconds_count", &[]) >= 6.0);
    assert!(moved("shoal_http_connections_accepted_total", &[]) >= 8.0);
    assert!(moved("shoal_flights_started_total", &[]) >= 1.0);
    assert!(moved("shoal_upstream_attempts_total", &[("channel", "vod"), ("origin", "o0")]) >= 3.0);
    assert!(moved("shoal_upstream_errors_total", &[("channel", "vod"), ("origin", "o0")]) >= 1.0);
    assert!(moved("shoal_upstream_bytes_total", &[]) >= 300_000.0);
    until("gauges are set", Duration::from_secs(5), || lab.metrics().sum("shoal_cache_bytes", &[]) >= 300_000.0);
    assert!(after.get("shoal_cache_evictions_total", &[]).is_some());
    assert!(after.sum("shoal_snapshot_version", &[]) >= 1.0);
    assert_eq!(after.sum("shoal_link_connected", &[]), 1.0);
    assert!(after.get("shoal_ledger_lag_seconds", &[]).is_some());
    let busy = after.samples().iter().filter(|sample| sample.name == "shoal_shard_busy_ratio");
    let busy: Vec<f64> = busy.map(|sample| sample.value).collect();
    assert!(busy.len() == shards as usize && busy.iter().all(|value| (0.0..=1.5).contains(value)), "{busy:?}");
    let handovers = lab.report_handovers("metrics");
    assert!(shards > 1 || handovers == 0.0);
    promtool(lab.status());
    promtool(lab.api());
    let control: Metrics = lab.control_metrics();
    assert_eq!(control.sum("shoal_control_connected_nodes", &[]), 1.0);
    until("usage arrives", Duration::from_secs(10), || {
        lab.control_metrics().sum("shoal_control_ledger_body_bytes_total", &[("kind", "client")]) >= 1_500_010.0
    });
    for at in [lab.status(), lab.api()] {
        assert_eq!(client::expect(at, &Request::get("/healthz")).status(), 200);
        assert_eq!(client::expect(at, &Request::get("/readyz")).status(), 200);
    }

    // One JSON object for each request, written off the hot path.
    let log = lab.dir().join("access.log");
    until("the access log is written", Duration::from_secs(10), || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() >= 8)
    });
    let text = std::fs::read_to_string(&log).expect("it was just read");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
    assert_eq!(lines.iter().filter(|line| line["status"] == 200).count(), 5, "{text}");
}
