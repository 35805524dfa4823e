//! What is measured.

use super::super::table::{MISSING, Row, Target, median};
use super::load::Report;
use super::servers::{Kind, Server};
use super::{Bench, row, services};

/// A case, of one or more lines.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) target: Target,
    pub(super) measure: fn(&Bench, &Case) -> anyhow::Result<Vec<Row>>,
}

/// All of them.
pub(super) const CASES: &[Case] = &[
    Case { name: "announce-http", unit: "announces/s", target: Target::RatioAtLeast(5.0), measure: announce_http },
    Case { name: "announce-http-close", unit: "announces/s", target: Target::None, measure: announce_close },
    Case { name: "announce-ws", unit: "announces/s", target: Target::RatioAtLeast(1.0), measure: announce_ws },
    Case { name: "announce-ws-offers", unit: "announces/s", target: Target::RatioAtLeast(1.0), measure: with_offers },
    Case { name: "peer-bytes", unit: "B", target: Target::AtMost(200.0), measure: peer_bytes },
    Case { name: "one-swarm", unit: "announces/s", target: Target::RatioAtLeast(FLAT), measure: one_swarm },
    Case { name: "many-swarms", unit: "announces/s", target: Target::RatioAtLeast(FLAT), measure: many_swarms },
    Case { name: "conf", unit: "answers/s", target: Target::None, measure: services::conf },
    Case { name: "reports", unit: "reports/s", target: Target::None, measure: services::durable },
    Case { name: "rollup", unit: "reports/s", target: Target::None, measure: services::rolled_up },
];

/// What is called flat: a machine's own caches cost something, too.
const FLAT: f64 = 0.8;
/// Connections of announces by HTTP.
const HTTP_CONNECTIONS: u32 = 64;
/// Connections by WebSocket, each a peer.
const SOCKETS: u32 = 256;
/// Peers asked for; as many as ours gives.
const NUMWANT: u64 = 30;
/// Swarms of the first case, as the issue has them, and peers in each.
pub(super) const SWARMS: u64 = 1_000;
const PEERS: u64 = 10_000;
/// Peers of the small swarm that a large one is compared with.
const SMALL: u64 = 1_000;

pub(super) fn words(words: &str) -> Vec<String> {
    words.split(' ').map(str::to_owned).collect()
}

fn announces(swarms: u64, peers: u64) -> Vec<String> {
    words(&format!("announce --swarms {swarms} --peers {peers} --numwant {NUMWANT}"))
}

/// Each peer once.
fn filled(bench: &Bench, server: &Server, swarms: u64, peers: u64) -> anyhow::Result<()> {
    let general = words(&format!("--connections {HTTP_CONNECTIONS} --duration 600 --warmup 0"));
    let mut call = words(&format!("announce --swarms {swarms} --peers {peers} --numwant 0"));
    call.push("--once".to_owned());
    bench.load.call(server.address, &general, &call).map(drop)
}

/// Ours and peers, in turn, as often as asked; the servers run all the while.
fn compare(
    bench: &Bench,
    case: &Case,
    peers: &[Kind],
    connections: u32,
    more: &[&str],
    call: impl Fn(Kind) -> Vec<String>,
    before: impl Fn(&Server) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Row>> {
    let mut columns = Vec::new();
    for kind in std::iter::once(Kind::Shoal).chain(peers.iter().copied()) {
        let server = kind.start(&bench.bin, &bench.dir.join(kind.name()))?;
        before(&server)?;
        columns.push((kind, server, Vec::new()));
    }
    for _ in 0..bench.length.runs {
        for (kind, server, reports) in &mut columns {
            bench.go_on()?;
            let mut general = bench.timed(connections);
            general.extend(more.iter().map(|word| (*word).to_owned()));
            reports.push(bench.load.call(server.address, &general, &call(*kind))?);
        }
    }
    let mut measured = Vec::new();
    for (kind, server, reports) in columns {
        server.stop()?;
        measured.push((kind, rate(&reports)?, invalid(&reports)));
    }
    let Some(((_, ours, why), peers)) = measured.split_first() else { return Ok(Vec::new()) };
    let line = |(place, (kind, peer, other)): (usize, &(Kind, f64, Option<String>))| {
        // The targets are for the first peer.
        let target = if place == 0 { case.target } else { Target::None };
        row(case.name, case.unit, target, (*ours, *peer, kind.name()), why.clone().or_else(|| other.clone()))
    };
    Ok(peers.iter().enumerate().map(line).collect())
}

fn rate(reports: &[Report]) -> anyhow::Result<f64> {
    Ok(median(reports.iter().map(|report| report.figure("requests_per_s")).collect::<anyhow::Result<_>>()?))
}

fn invalid(reports: &[Report]) -> Option<String> {
    reports.iter().find_map(Report::invalid)
}

fn announce_http(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let fill = |server: &Server| filled(bench, server, SWARMS, PEERS);
    compare(bench, case, &[Kind::AquaticHttp], HTTP_CONNECTIONS, &[], |_| announces(SWARMS, PEERS), fill)
}

/// opentracker keeps no connections.
fn announce_close(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let call = |_| announces(SWARMS, PEERS);
    compare(bench, case, &[Kind::Opentracker], HTTP_CONNECTIONS, &["--reconnect"], call, |_| Ok(()))
}

fn announce_ws(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let call = |_| words("socket --swarms 50 --each 4");
    compare(bench, case, &[Kind::AquaticWs], SOCKETS, &[], call, |_| Ok(()))
}

fn with_offers(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let call = |kind| {
        let mut call = words("socket --swarms 50 --each 4 --offers 3");
        call.extend((kind == Kind::AquaticWs).then(|| "--told".to_owned()));
        call
    };
    compare(bench, case, &[Kind::AquaticWs], SOCKETS, &[], call, |_| Ok(()))
}

/// What a peer takes: resident memory with many, less that without, all over the same few connections.
fn peer_bytes(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let peers = bench.length.peers;
    let mut bytes = Vec::new();
    for kind in [Kind::Shoal, Kind::AquaticHttp] {
        let server = kind.start(&bench.bin, &bench.dir.join(kind.name()))?;
        // What connections and first uses take is not the peers'.
        filled(bench, &server, 100, SMALL)?;
        let before = server.resident()?;
        filled(bench, &server, 100, peers)?;
        bytes.push((server.resident()? - before) / (peers - SMALL) as f64);
        server.stop()?;
    }
    let [ours, peer] = bytes[..] else { return Ok(Vec::new()) };
    Ok(vec![row(case.name, case.unit, case.target, (ours, peer, Kind::AquaticHttp.name()), None)])
}

/// One of our servers with many peers beside one with few, in turn.
fn beside(bench: &Bench, case: &Case, many: [u64; 2], few: [u64; 2], name: &str) -> anyhow::Result<Row> {
    let mut columns = Vec::new();
    for [swarms, peers] in [many, few] {
        let server = Kind::Shoal.start(&bench.bin, &bench.dir.join(format!("{swarms}-{peers}")))?;
        filled(bench, &server, swarms, peers)?;
        columns.push((server, announces(swarms, peers), Vec::new()));
    }
    for _ in 0..bench.length.runs {
        for (server, call, reports) in &mut columns {
            bench.go_on()?;
            reports.push(bench.load.call(server.address, &bench.timed(HTTP_CONNECTIONS), call)?);
        }
    }
    let mut figures = [MISSING; 2];
    let mut why = None;
    for ((server, _, reports), figure) in columns.into_iter().zip(&mut figures) {
        server.stop()?;
        *figure = rate(&reports)?;
        why = why.or_else(|| invalid(&reports));
    }
    let [ours, peer] = figures;
    Ok(row(case.name, case.unit, case.target, (ours, peer, name), why))
}

fn one_swarm(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let few = [1, SMALL];
    let mut rows = Vec::new();
    for peers in [100_000, bench.length.peers] {
        if rows.is_empty() || peers > 100_000 {
            let name = format!("shoal with {SMALL} peers; this with {peers}");
            rows.push(beside(bench, case, [1, peers], few, &name)?);
        }
    }
    Ok(rows)
}

fn many_swarms(bench: &Bench, case: &Case) -> anyhow::Result<Vec<Row>> {
    let peers = bench.length.peers;
    let swarms = peers / 10;
    let name = format!("shoal with 1 swarm of {SMALL}; this with {swarms} of 10");
    Ok(vec![beside(bench, case, [swarms, peers], [1, SMALL], &name)?])
}
