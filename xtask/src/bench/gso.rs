//! Long slices where the device takes long packets: `gso_max_size` raised for both servers.
//!
//! The raised limit is that of a loopback device in a network namespace of its own, where both servers and the load
//! generator run; the machine's own is left alone. The servers are reached by IPv6, whose limit is the older one (Linux 5.19;
//! that of IPv4 came with 6.3, and `ip` learnt it later than that).
//!
//! Both send with Reno there. BBR, where it is the default, sends about a millisecond's worth in one packet if it may, and then
//! waits for a timer: with 16 connections on loopback that timer takes most of a core, and no server gets faster.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::SERVER_CPU;
use super::case::Case;
use super::edge::Edge;
use super::http::{Bench, Group};
use super::namespace::Namespace;
use super::nginx::{Nginx, Setup};
use super::ram;
use super::table::Row;
use crate::node::{Place, free};
use crate::signals::Stop;
use crate::workspace;

/// Bytes of the longest packet that the device takes.
const GSO_MAX: &str = "500000";

/// How connections of the namespace send by default. Reno may be chosen wherever TCP is.
const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

const LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The cases of `bench http` with `gso_max_size` raised.
pub(super) const CASES: &[Case] =
    &[Case { name: "ram-1m-c16-gso", bytes: 1 << 20, connections: 16, files: 8, tls: false, target: 1.4 }];

/// See [`super::http`].
pub(super) const GROUP: Group = Group { cases: || CASES.iter().map(|case| case.name).collect(), run };

fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    within(|| CASES.iter().filter(|case| bench.wants(case.name)).map(|case| compare(bench, case)).collect())
}

fn compare(bench: &Bench, case: &Case) -> anyhow::Result<Row> {
    let dir = bench.dir.join(case.name);
    let edge = start(&bench.bin, &dir, case, &bench.stop)?;
    let nginx = Nginx::start(&Setup { ip: LOCAL, ..Setup::new(&dir, &edge.files, &bench.certificate) })?;
    let mut row = ram::compare(bench, case, &edge, &nginx)?;
    row.peer_name.push_str(", both with Reno");
    nginx.stop()?;
    edge.node.stop()?;
    Ok(row)
}

/// Our node, reached by IPv6.
pub(super) fn start(bin: &Path, dir: &Path, case: &Case, stop: &Stop) -> anyhow::Result<Edge> {
    let mut place = Place::somewhere(dir.join("node"), vec![SERVER_CPU])?;
    place.http = free(LOCAL)?;
    // As the description of the key says for such devices.
    place.http_more = "sendfile_min_bytes = 4194304\n".to_owned();
    Edge::start_with(bin, place, &dir.join("files"), std::slice::from_ref(case), stop)
}

/// Runs `work`, and all processes that it starts, in a network namespace with such a device.
pub(super) fn within<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    Namespace::create()?.within(|| {
        let mut raise = Command::new("ip");
        raise.args(["link", "set", "dev", "lo", "gso_max_size", GSO_MAX, "gro_max_size", GSO_MAX]);
        workspace::run(&mut raise).context("gso_max_size cannot be raised here")?;
        fs::write(CONGESTION_CONTROL, "reno").with_context(|| format!("cannot write {CONGESTION_CONTROL}"))?;
        work()
    })
}
