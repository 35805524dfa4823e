//! Latency at a rate that both servers can bear.

use super::case::Case;
use super::edge::Edge;
use super::http::{Bench, Group};
use super::load::{Flow, Run, Time};
use super::nginx::{Nginx, Setup};
use super::table::{Row, Target, median};

/// Share of nginx's peak rate.
const SHARE: f64 = 0.8;

/// Rounds for each run of other cases, and how much shorter their runs are. What makes this figure is stalls of some
/// milliseconds, most of them the machine's: of many short runs the middle one is more often like the next time's.
const ROUNDS: usize = 3;
const SHORTER: f64 = 0.5;

/// What is asked for, and over how many connections.
const CASE: Case = Case { name: "p99", bytes: 16 << 10, connections: 32, files: 64, tls: false, target: 1.0 };

/// See [`super::http`].
pub(super) const GROUP: Group = Group { cases: || vec![CASE.name], run };

/// Requests come on schedule whether or not answers do, and the clock runs from when a request was due.
///
/// The machine is not as fast in one second as in the next, and a fifth less would make the rate more than either server can
/// bear. So each round has a rate of its own, from nginx's peak just before, and either server goes first in every other one.
/// No round is left out.
fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let dir = bench.dir.join(CASE.name);
    let edge = Edge::start(&bench.bin, &dir, &bench.certificate, &[CASE], &bench.stop)?;
    let nginx = Nginx::start(&Setup::new(&dir, &edge.files, &bench.certificate))?;
    let urls = [edge.urls(&CASE), CASE.urls(&format!("http://{}", nginx.address))];
    let Time { seconds, warmup } = bench.length.time();
    let time = Time { seconds: seconds * SHORTER, warmup: warmup * SHORTER };
    let measure = |server: usize, rate: Option<f64>| -> anyhow::Result<Run> {
        bench.go_on()?;
        bench.load.measure(Flow { rate, ..Flow::of(&CASE, &urls[server]) }, time)
    };
    let (mut rates, mut runs) = (Vec::new(), [Vec::new(), Vec::new()]);
    for round in 0..bench.length.runs * ROUNDS {
        let rate = (SHARE * measure(1, None)?.per_s).round();
        rates.push(rate);
        for server in [round % 2, 1 - round % 2] {
            runs[server].push(measure(server, Some(rate))?);
        }
    }
    nginx.stop()?;
    edge.node.stop()?;
    let peer = format!(
        "nginx, both at 80 % of its peak just before ({:.0} requests/s); {} rounds of {} s",
        median(rates.clone()),
        rates.len(),
        time.seconds
    );
    Ok(vec![Row::of_runs(CASE.name, &peer, "µs", runs, |run| run.p99_us, Target::RatioAtMost(CASE.target))])
}
