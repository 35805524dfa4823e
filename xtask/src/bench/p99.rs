//! Latency at a rate that both servers can bear.

use super::case::Case;
use super::edge::Edge;
use super::http::{Bench, Group};
use super::load::Flow;
use super::nginx::{Nginx, Setup};
use super::table::{Row, Target, median};

/// Share of nginx's peak rate.
const SHARE: f64 = 0.8;

/// What is asked for, and over how many connections.
const CASE: Case = Case { name: "p99", bytes: 16 << 10, connections: 32, files: 64, tls: false, target: 1.0 };

/// See [`super::http`].
pub(super) const GROUP: Group = Group { cases: || vec![CASE.name], run };

/// Requests come on schedule whether or not answers do, and the clock runs from when a request was due.
fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let dir = bench.dir.join(CASE.name);
    let edge = Edge::start(&bench.bin, &dir, &bench.certificate, &[CASE], &bench.stop)?;
    let nginx = Nginx::start(&Setup::new(&dir, &edge.files, &bench.certificate))?;
    let urls = [edge.urls(&CASE), CASE.urls(&format!("http://{}", nginx.address))];
    let measure = |urls: &[String], rate| {
        bench.go_on()?;
        bench.load.measure(Flow { rate, ..Flow::of(&CASE, urls) }, bench.length.time())
    };
    let mut peaks = Vec::new();
    for _ in 0..bench.length.runs {
        peaks.push(measure(&urls[1], None)?.per_s);
    }
    let rate = (SHARE * median(peaks)).round();
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.length.runs {
        for (urls, runs) in urls.iter().zip(&mut runs) {
            runs.push(measure(urls, Some(rate))?);
        }
    }
    nginx.stop()?;
    edge.node.stop()?;
    let peer = format!("nginx, both at {rate:.0} requests/s");
    Ok(vec![Row::of_runs(CASE.name, &peer, "µs", runs, |run| run.p99_us, Target::RatioAtMost(CASE.target))])
}
