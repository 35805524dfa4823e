//! What idle keep-alive connections cost: memory, and the time of the busy ones.

use std::thread;
use std::time::Duration;

use super::case::Case;
use super::edge::Edge;
use super::http::{Bench, Group};
use super::load::Flow;
use super::memory;
use super::nginx::{Nginx, Setup};
use super::table::{Row, Target, median};

/// Idle connections, on each of which one request was made.
const IDLE: usize = 10_000;

/// Resident bytes that one of them may cost.
const BYTES: f64 = 4096.0;

/// Percent of their requests that the busy ones must still get.
const KEPT: f64 = 90.0;

/// What the busy ones ask for.
const CASE: Case = Case { name: "idle", bytes: 16 << 10, connections: 32, files: 64, tls: false, target: KEPT };

/// The case that measures the busy ones.
const BUSY: &str = "idle-busy";

/// Time for a server to be done with what it was asked.
const SETTLE: Duration = Duration::from_millis(300);

/// See [`super::http`].
pub(super) const GROUP: Group = Group { cases: || vec![CASE.name, BUSY], run };

/// What one run says of a server.
struct Figures {
    bytes_each: f64,
    percent_kept: f64,
    invalid: Option<String>,
}

fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let dir = bench.dir.join(CASE.name);
    let edge = Edge::start(&bench.bin, &dir, &bench.certificate, &[CASE], &bench.stop)?;
    let nginx = Nginx::start(&Setup::new(&dir, &edge.files, &bench.certificate))?;
    let servers = [
        (vec![edge.node.edge_id()], edge.urls(&CASE)),
        (nginx.processes()?, CASE.urls(&format!("http://{}", nginx.address))),
    ];
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..bench.length.runs {
        for ((processes, urls), figures) in servers.iter().zip(&mut figures) {
            figures.push(measure(bench, processes, urls)?);
        }
    }
    nginx.stop()?;
    edge.node.stop()?;
    // Memory that is kept for the next connections does not grow when they come: only the first time says what they cost.
    let bytes = |figures: &[Figures]| figures.first().map_or(0.0, |first| first.bytes_each);
    let kept = |figures: &[Figures]| median(figures.iter().map(|figures| figures.percent_kept).collect());
    let invalid = figures.iter().flatten().find_map(|figures| figures.invalid.clone());
    let [ours, peer] = &figures;
    let row = |case: &str, ours, peer, unit, target, invalid| Row {
        case: case.to_owned(),
        ours,
        peer,
        peer_name: "nginx".to_owned(),
        unit,
        target,
        invalid,
    };
    let mut rows = vec![
        row(CASE.name, bytes(ours), bytes(peer), "bytes/connection", Target::AtMost(BYTES), None),
        row(BUSY, kept(ours), kept(peer), "% of requests/s kept", Target::AtLeast(KEPT), invalid),
    ];
    rows.retain(|row| bench.wants(&row.case));
    Ok(rows)
}

/// The busy ones alone, then beside the idle ones.
fn measure(bench: &Bench, processes: &[u32], urls: &[String]) -> anyhow::Result<Figures> {
    bench.go_on()?;
    let busy = || bench.load.measure(Flow::of(&CASE, urls), bench.length.time());
    let alone = busy()?;
    thread::sleep(SETTLE);
    let before = memory::resident(processes)?;
    let idle = bench.load.idle(urls.first().map_or("", String::as_str), IDLE)?;
    thread::sleep(SETTLE);
    let after = memory::resident(processes)?;
    let beside = busy()?;
    idle.close()?;
    // Else the closing of so many would be a part of the next run.
    thread::sleep(SETTLE);
    Ok(Figures {
        bytes_each: (after - before).max(0.0) / IDLE as f64,
        percent_kept: 100.0 * beside.per_s / alone.per_s.max(1e-9),
        invalid: alone.invalid.or(beside.invalid),
    })
}
