//! The table, the exported text and `promtool` must agree.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::telemetry::stats::CacheResult;

/// Two shards on which everything has happened at least once.
fn busy_node() -> prometheus::Registry {
    let shards: Vec<_> = (0..2).map(|_| Arc::new(ShardStats::default())).collect();
    for stats in &shards {
        stats.request(206, CacheResult::Hit, Duration::from_micros(90), Duration::from_millis(3));
        stats.request(418, CacheResult::None, Duration::from_micros(20), Duration::from_micros(20));
        stats.refusal("ticket_expired");
        stats.udp_drop("malformed", 3);
        stats.turn_errors("437", 2);
        stats.turn_refusals("integrity", 1);
        stats.punch_refusals("unproven", 1);
        stats.add(Counter::BodyBytes, 1_000);
        stats.add(Counter::ShardCpu, 1_500_000);
        stats.set(Gauge::Connections, 3);
        stats.set(Gauge::BusyPermille, 250);
        stats.tick();
        let origin = stats.origin("demo", "main \"quoted\"\n");
        origin.attempt();
        origin.received(77);
        origin.error(UpstreamError::Timeout);
    }
    let registry = prometheus::Registry::new();
    Exporter::register(&registry, shards, Arc::default()).unwrap();
    registry
}

fn scrape() -> String {
    String::from_utf8(text(&busy_node()).unwrap()).unwrap()
}

#[test]
fn the_table_is_what_is_exported() {
    let text = scrape();
    let mut exported: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            exported.entry(name).or_default().0 = help;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            exported.entry(name).or_default().1 = kind;
        }
    }
    let kind = |kind| match kind {
        Type::Counter => "counter",
        Type::Gauge => "gauge",
        Type::Histogram => "histogram",
    };
    let declared = Family::ALL.iter().map(|family| family.metric());
    let declared: BTreeMap<_, _> = declared.map(|metric| (metric.name, (metric.help, kind(metric.kind)))).collect();
    assert_eq!(declared.len(), Family::ALL.len(), "two metrics share a name");
    assert_eq!(declared, exported);
}

#[test]
fn every_series_has_the_labels_of_its_family() {
    let check = |family: Family, labels: usize, name: &str| {
        let metric = family.metric();
        assert_eq!(metric.labels.len() - usize::from(metric.per_shard()), labels, "{name}");
    };
    for counter in Counter::ALL {
        check(counter.series().0, counter.series().1.len(), &format!("{counter:?}"));
        assert_eq!(counter.series().0.metric().kind, Type::Counter, "{counter:?}");
    }
    for gauge in Gauge::ALL {
        check(gauge.series().0, gauge.series().1.len(), &format!("{gauge:?}"));
        assert_eq!(gauge.series().0.metric().kind, Type::Gauge, "{gauge:?}");
    }
    for node in Node::ALL {
        check(node.series().0, node.series().1.len(), &format!("{node:?}"));
    }
}

#[test]
fn shards_are_added_up_or_told_apart_as_declared() {
    let text = scrape();
    for line in [
        r#"shoal_http_requests_total{cache="hit",class="2xx",status="206"} 2"#,
        r#"shoal_http_requests_total{cache="none",class="4xx",status="other"} 2"#,
        r#"shoal_http_refusals_total{reason="ticket_expired"} 2"#,
        "shoal_http_body_bytes_total 2000",
        r#"shoal_http_connections{shard="1"} 3"#,
        r#"shoal_shard_cpu_seconds_total{shard="0"} 1.5"#,
        r#"shoal_shard_busy_ratio{shard="0"} 0.25"#,
        r#"shoal_http_request_seconds_bucket{cache="hit",le="0.002560"} 0"#,
        r#"shoal_http_request_seconds_count{cache="hit"} 2"#,
        r#"shoal_http_request_seconds_sum{cache="hit"} 0.006"#,
        r#"shoal_upstream_errors_total{channel="demo",kind="timeout",origin="main \"quoted\"\n"} 2"#,
        r#"shoal_upstream_bytes_total{channel="demo",origin="main \"quoted\"\n"} 154"#,
    ] {
        let mut found = text.lines().map(sorted_labels);
        assert!(found.any(|have| have == sorted_labels(line)), "no {line} in\n{text}");
    }
}

/// Labels in a fixed order and bounds without trailing zeros, so that the encoder may choose both.
fn sorted_labels(line: &str) -> String {
    let Some((name, rest)) = line.split_once('{') else { return line.to_owned() };
    let Some((labels, value)) = rest.rsplit_once("} ") else { return line.to_owned() };
    let mut labels: Vec<String> = labels
        .split("\",")
        .map(|label| label.trim_end_matches('"'))
        .map(|label| if label.starts_with("le=") { label.trim_end_matches('0').to_owned() } else { label.to_owned() })
        .collect();
    labels.sort();
    format!("{name}{labels:?} {value}")
}

#[test]
fn the_process_is_described() {
    let text = scrape();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        line.trim().parse().unwrap()
    };
    assert!(value("process_open_fds ") >= 3.0);
    assert!(value("process_resident_memory_bytes ") > 1e6);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - value("process_start_time_seconds ");
    assert!((-5.0..3_600.0).contains(&age), "started {age} s ago");
}

#[test]
fn promtool_finds_nothing_to_say() {
    let command = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = command else {
        return crate::testing::skipped("promtool_finds_nothing_to_say", "promtool is not installed");
    };
    promtool.stdin.take().unwrap().write_all(scrape().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "promtool: {said}");
}
