//! Conf and reports: no peer has them, so the figures stand alone.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::super::table::{Row, Target, median};
use super::cases::{Case, words};
use super::servers::{Kind, Server};
use super::{Bench, row};
use crate::http::{self, Admin};

/// Sessions that report.
const SESSIONS: usize = 1_000;
/// Connections of those who ask conf, and of those who report.
const CONNECTIONS: u32 = 64;
/// Reports in a batch, where SDKs have saved them up.
const BATCH: u64 = 100;
/// Between two looks at how far the roll-up is.
const LOOK: Duration = Duration::from_millis(100);
/// How long the roll-up may stand still.
const PATIENCE: Duration = Duration::from_secs(60);
/// No peer.
const ALONE: &str = "–";

/// Ours with an app and a channel.
fn start(bench: &Bench) -> anyhow::Result<Server> {
    let server = Kind::Shoal.start(&bench.bin, &bench.dir.join("shoal"))?;
    let admin = server.admin.context("ours has an admin API")?;
    let token = fs::read_to_string(server.dir.join("state/token")).context("the server's token")?;
    let admin = Admin::new(admin, &token);
    let origins = json!([{"id": "o1", "url": "http://127.0.0.1:9/"}]);
    let access = json!({"ticket": {"keys": [{"id": "k1", "secret": "a secret of sixteen or more"}]}});
    let channel = json!({"id": "room1", "prefix": "/room1/", "origins": origins, "access": access});
    admin.call("PUT", "/api/v1/channels/room1", &channel)?;
    admin.call("PUT", "/api/v1/apps/player", &json!({"id": "player", "tenant": "default"}))?;
    for rule in 0..100 {
        let body =
            json!({"id": format!("r{rule}"), "tenant": "default", "channels": format!("room{rule}*"), "p2p": true});
        admin.call("PUT", &format!("/api/v1/rules/r{rule}"), &body)?;
    }
    Ok(server)
}

const CONF: &str = "/v1/conf?app=player&channel=room1&platform=html5&sdk=1.4.2";

/// Answers per second, and their latency.
pub(super) fn conf(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let server = start(bench)?;
    let url = format!("http://{}{CONF}&viewer=v1", server.address);
    let mut general = bench.timed(CONNECTIONS);
    let mut found = Vec::new();
    for _ in 0..bench.length.runs {
        bench.go_on()?;
        found.push(bench.load.get(&url, &general)?);
    }
    let figures = |path: &str| found.iter().map(|report| report.figure(path)).collect::<anyhow::Result<Vec<_>>>();
    let rate = median(figures("requests_per_s")?);
    let why = found.iter().find_map(|report| report.invalid());
    let half = (rate / 2.0).round();
    general.extend(words(&format!("--rate {half}")));
    let mut paced = Vec::new();
    for _ in 0..bench.length.runs {
        bench.go_on()?;
        paced.push(bench.load.get(&url, &general)?);
    }
    server.stop()?;
    let late = paced.iter().find_map(|report| report.invalid());
    let p99 = median(paced.iter().map(|report| report.figure("latency_us.p99")).collect::<anyhow::Result<_>>()?);
    let name = format!("{ALONE}; open loop at {half} answers/s");
    Ok(vec![
        row(case.name, case.unit, case.target, (rate, 0.0, ALONE), why),
        row("conf-p99", "ms", Target::None, (p99 / 1000.0, 0.0, &name), late),
    ])
}

/// A file with passes of as many sessions.
fn passes(server: &Server) -> anyhow::Result<PathBuf> {
    let mut text = String::new();
    for viewer in 0..SESSIONS {
        let answer = http::request(server.address, "GET", &format!("{CONF}&viewer=v{viewer}"), &[], &[])?;
        let answer: Value = serde_json::from_slice(&answer.body).context("conf's answer")?;
        text.push_str(answer["pass"].as_str().with_context(|| format!("conf gave no pass, but {answer}"))?);
        text.push('\n');
    }
    let file = server.dir.join("passes");
    fs::write(&file, text)?;
    Ok(file)
}

/// Reports per second that are on the disk when they are answered: one by one, and saved up.
pub(super) fn durable(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let server = start(bench)?;
    let passes = passes(&server)?;
    let mut rows = Vec::new();
    let mut first = 0;
    for (name, batch) in [(case.name, 1), ("reports-saved-up", BATCH)] {
        let mut rates = Vec::new();
        let mut why = None;
        for _ in 0..bench.length.runs {
            bench.go_on()?;
            let call = words(&format!("reports --passes {} --batch {batch} --first {first}", passes.display()));
            let report = bench.load.call(server.address, &bench.timed(CONNECTIONS), &call)?;
            rates.push(report.figure("requests_per_s")? * batch as f64);
            why = why.or_else(|| report.invalid());
            // Beyond what any session can have sent.
            first += 10_000_000;
        }
        rows.push(row(name, case.unit, case.target, (median(rates), 0.0, ALONE), why));
    }
    server.stop()?;
    Ok(rows)
}

/// Reports posted and rolled up, all on the one core, and the memory that it took.
pub(super) fn rolled_up(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let server = start(bench)?;
    let passes = passes(&server)?;
    let admin = server.admin.context("ours has an admin API")?;
    let mut rows = Vec::new();
    let (mut sent, mut spent) = (0, 0.0);
    for part in [100, 10, 1] {
        bench.go_on()?;
        let upto = bench.length.reports / part;
        let calls = (upto - sent) / BATCH;
        let began = Instant::now();
        let general = words(&format!("--connections {CONNECTIONS} --duration 3600 --warmup 0 --calls {calls}"));
        let first = sent / SESSIONS as u64;
        let call = words(&format!("reports --passes {} --batch {BATCH} --first {first}", passes.display()));
        bench.load.call(server.address, &general, &call)?;
        await_rolled(admin, upto)?;
        spent += began.elapsed().as_secs_f64();
        sent = upto;
        let name = format!("{ALONE}; the first {sent}");
        rows.push(row(case.name, case.unit, case.target, (sent as f64 / spent, 0.0, &name), None));
    }
    let mib = server.most_resident()? / f64::from(1 << 20);
    let name = format!("{ALONE}; the most while {sent} were rolled up");
    rows.push(row("rollup-memory", "MiB", Target::None, (mib, 0.0, &name), None));
    server.stop()?;
    Ok(rows)
}

/// Until as many reports were counted as were sent, and no more.
fn await_rolled(admin: SocketAddr, reports: u64) -> anyhow::Result<()> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let text = http::request(admin, "GET", "/metrics", &[], &[])?.body;
        let text = String::from_utf8_lossy(&text).into_owned();
        let counted = text.lines().find_map(|line| {
            line.strip_prefix("shoal_control_reports_rolled_up_total{result=\"counted\"} ")?.parse::<f64>().ok()
        });
        let counted = counted.context("no metric of rolled up reports")? as u64;
        anyhow::ensure!(counted <= reports, "{counted} reports were counted, {reports} were sent");
        if counted == reports {
            return Ok(());
        }
        if counted != last {
            (last, moved) = (counted, Instant::now());
        }
        anyhow::ensure!(moved.elapsed() < PATIENCE, "the roll-up stands still at {counted} of {reports} reports");
        thread::sleep(LOOK);
    }
}
