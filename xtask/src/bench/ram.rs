//! Slices hot in RAM.

use anyhow::Context;

use super::case::Case;
use super::edge::Edge;
use super::http::{Bench, Group};
use super::load::Flow;
use super::nginx::{Nginx, Setup};
use super::table::{Row, Target};

/// The cases of `bench http` that are hot in RAM.
pub(super) const CASES: &[Case] = &[
    Case { name: "ram-16k-c32", bytes: 16 << 10, connections: 32, files: 64, tls: false, target: 1.5 },
    Case { name: "ram-16k-c4", bytes: 16 << 10, connections: 4, files: 64, tls: false, target: 1.3 },
    Case { name: "ram-128k-c16", bytes: 128 << 10, connections: 16, files: 16, tls: false, target: 1.15 },
    Case { name: "ram-1m-c16", bytes: 1 << 20, connections: 16, files: 8, tls: false, target: 1.0 },
    Case { name: "tls-16k", bytes: 16 << 10, connections: 32, files: 64, tls: true, target: 1.2 },
    Case { name: "tls-1m", bytes: 1 << 20, connections: 16, files: 8, tls: true, target: 1.0 },
];

/// See [`super::http`].
pub(super) const GROUP: Group = Group { cases: || CASES.iter().map(|case| case.name).collect(), run };

fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let dir = bench.dir.join("ram");
    let edge = Edge::start(&bench.bin, &dir, &bench.certificate, CASES, &bench.stop)?;
    let nginx = Nginx::start(&Setup::new(&dir, &edge.files, &bench.certificate))?;
    let wanted = CASES.iter().filter(|case| bench.wants(case.name));
    let mut rows = Vec::new();
    for case in wanted {
        rows.push(compare(bench, case, &edge, &nginx).or_else(|why| {
            bench.go_on()?;
            // The other cases have nothing to do with it.
            anyhow::Ok(Row::failed(case.name, "requests/s", Target::RatioAtLeast(case.target), &why))
        })?);
    }
    nginx.stop()?;
    edge.node.stop()?;
    Ok(rows)
}

/// Runs a case on both servers, in turn.
pub(super) fn compare(bench: &Bench, case: &Case, edge: &Edge, nginx: &Nginx) -> anyhow::Result<Row> {
    let peer = match case.tls {
        true => format!("https://{}", nginx.secure),
        false => format!("http://{}", nginx.address),
    };
    let urls = [edge.urls(case), case.urls(&peer)];
    for urls in &urls {
        bench.load.check(case.bytes, urls).with_context(|| case.name)?;
    }
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.length.runs {
        for (urls, runs) in urls.iter().zip(&mut runs) {
            bench.go_on()?;
            runs.push(bench.load.measure(Flow::of(case, urls), bench.length.time()).with_context(|| case.name)?);
        }
    }
    Ok(Row::of_runs(case.name, "nginx", "requests/s", runs, |run| run.per_s, Target::RatioAtLeast(case.target)))
}
