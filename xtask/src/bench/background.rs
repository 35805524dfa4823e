//! Background work beside a saturated ring: paced hits, and paced reads from disk, each of which arms a timer too.

use anyhow::Context;

use super::case::Case;
use super::disk;
use super::http::{Bench, Group};
use super::load::Flow;
use super::nginx::{Nginx, Setup};
use super::table::{Row, Target};

/// Microseconds that the 99th percentile may take.
const P99: f64 = 3_000.0;

/// What saturates the ring, from RAM.
const RING: Case = Case { name: "ring", bytes: 16 << 10, connections: 32, files: 64, tls: false, target: 0.0 };

/// Bytes of the RAM tier.
const RAM: usize = 32 << 20;

/// What is read from disk: four times as much as the RAM tier holds.
const DISK: Case = Case { name: "disk", bytes: 32 << 10, connections: 16, files: 4096, tls: false, target: 0.0 };

/// Paced requests in a second, of each kind.
const RATE: f64 = 500.0;

/// Connections for them: enough for each to be sent when it is due.
const PACED_CONNECTIONS: usize = 16;

/// The paced requests of objects in RAM, and those of objects on disk.
const ROWS: [&str; 2] = ["background-ram", "background-disk"];

/// See [`super::http`].
pub(super) const GROUP: Group = Group { cases: || ROWS.to_vec(), run };

fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let dir = bench.dir.join("background");
    let edge = disk::start(&bench.bin, &dir, RAM, &[RING, DISK], &bench.stop)?;
    disk::fill(&edge, &DISK, &bench.load, &bench.stop)?;
    let setup = Setup { more: "aio threads;", ..Setup::new(&dir, &edge.files, &bench.certificate) };
    let nginx = Nginx::start(&setup)?;
    let base = format!("http://{}", nginx.address);
    let servers = [(edge.urls(&RING), edge.urls(&DISK)), (RING.urls(&base), DISK.urls(&base))];
    let mut runs = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for _ in 0..bench.length.runs {
        for (server, (ring, disk)) in servers.iter().enumerate() {
            bench.go_on()?;
            let paced = |case, urls| Flow {
                rate: Some(RATE),
                connections: PACED_CONNECTIONS,
                random: true,
                ..Flow::of(case, urls)
            };
            let flows = [Flow::of(&RING, ring), paced(&RING, ring), paced(&DISK, disk)];
            let mut measured = bench.load.measure_all(&flows, bench.length.time())?.into_iter().skip(1);
            for runs in &mut runs {
                runs[server].push(measured.next().context("each flow has a report")?);
            }
        }
    }
    nginx.stop()?;
    edge.node.stop()?;
    let rows = ROWS.into_iter().zip(runs).filter(|(case, _)| bench.wants(case));
    let target = Target::AtMost(P99);
    Ok(rows
        .map(|(case, runs)| Row::of_runs(case, "nginx aio threads", "µs p99", runs, |run| run.p99_us, target))
        .collect())
}
