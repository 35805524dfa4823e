//! `bench xdp`: what the XDP program costs for a packet of each verdict, packets per second beside the driver's own limits and coturn, and
//! what well-behaved clients notice of a flood.

mod flood;

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::Context;
use serde_json::Value;

use super::table::{self, Row, Target};
use super::{Options, QUIET, SERVER_CPU, machine};
use crate::{tools, workspace};

/// The targets, of nanoseconds beyond an empty program's; those of other families and all that is not named have none.
const TARGETS: &[(&str, f64)] = &[("blocked", 35.0), ("passed", 100.0), ("answered", 130.0), ("relayed", 150.0)];

/// Rates: the case, what it is measured by, what that is, and the target of the ratio.
const RATES: &[(&str, &str, &str, Option<f64>)] = &[
    ("drop", "bare-drop", "XDP_DROP alone", Some(0.92)),
    ("drop-shape", "bare-drop", "XDP_DROP alone", None),
    ("answer", "bare-tx", "XDP_TX alone", Some(0.8)),
    ("relay-160", "bare-tx-160", "XDP_TX alone", Some(0.75)),
    ("relay-1200", "bare-tx-1200", "XDP_TX alone", Some(0.75)),
    ("answer", "coturn-answer", COTURN, Some(10.0)),
    ("relay-160", "coturn-160", COTURN, Some(7.0)),
    ("relay-1200", "coturn-1200", COTURN, Some(7.0)),
];
const COTURN: &str = "coturn, a core of its own";

/// Runs the cases that the options name.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    tools::require(&[("turnserver", "coturn"), ("taskset", "util-linux"), ("ip", "iproute2"), ("ethtool", "ethtool")])?;
    let bin = workspace::build_planes(true)?;
    workspace::build_load()?;
    let others = machine::busy();
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let mut rows = Vec::new();
    // They take a while.
    if options.only.is_empty() || !options.only.iter().all(|only| flood::has(only)) {
        rows.extend(costs(options.quick, wanted)?);
        rows.extend(rates(options.quick, wanted)?);
    }
    rows.extend(flood::rows(&bin, options.quick, wanted)?);
    anyhow::ensure!(!rows.is_empty(), "--only {}: there is no such case", options.only.join(" --only "));
    let about = format!(
        "`{}`, {}; medians. ns: BPF_PROG_TEST_RUN on core {SERVER_CPU}, ours is what comes on top of the empty \
         program. packets/s: veth, sender and program on that core, coturn on the other. flood: sent and taken on that core, clients and \
         the node on the other{}",
        options.command("xdp"),
        machine::describe(&[]),
        if others > QUIET {
            format!("; NOT QUIET: other processes used {:.0} % of the cores just before", others * 100.0)
        } else {
            String::new()
        }
    );
    let text = table::markdown(&rows);
    println!("{about}\n\n{text}");
    if options.record {
        table::record(&workspace::root().join("perf/RESULTS.md"), "xdp", &format!("{about}\n\n{text}"))?;
    }
    if let Some(file) = &options.json {
        fs::write(file, table::to_json(&rows).to_string())
            .with_context(|| format!("--json {}: cannot write it", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Nanoseconds for a packet of each verdict.
fn costs(quick: bool, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Row>> {
    let length: &[&str] = if quick { &["--runs", "3", "--packets", "200000"] } else { &[] };
    let mut rows = Vec::new();
    for case in cases("shoal-xdpload", length)? {
        let name = case["case"].as_str().context("a case has a name")?;
        if !wanted(name) {
            continue;
        }
        let ns = |field: &str| case[field].as_f64().with_context(|| format!("{name} has no {field}"));
        let (ours, empty) = (ns("ns")?, ns("empty_ns")?);
        let target = TARGETS.iter().find(|(of, _)| *of == name).map_or(Target::None, |(_, most)| Target::AtMost(*most));
        let reset = if case["changes"] == true { " that makes the packet what it was" } else { "" };
        rows.push(Row {
            case: name.to_owned(),
            ours: ours - empty,
            peer: empty,
            peer_name: format!("an empty program{reset}, in all"),
            unit: "ns/packet",
            target,
            invalid: None,
        });
    }
    Ok(rows)
}

/// Packets per second.
fn rates(quick: bool, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Row>> {
    let turnserver = tools::find("turnserver").context("turnserver was there a moment ago")?;
    let turnserver = turnserver.display().to_string();
    let length: &[&str] = if quick { &["--runs", "1", "--run-ms", "300"] } else { &[] };
    let rates = cases("shoal-xdprate", &[&["--turnserver", turnserver.as_str()], length].concat())?;
    let rate = |name: &str| {
        let case = rates.iter().find(|case| case["case"] == name);
        case.and_then(|case| case["rate"].as_f64()).with_context(|| format!("shoal-xdprate has no case {name}"))
    };
    let mut rows = Vec::new();
    for (name, by, peer_name, target) in RATES {
        let name = format!("rate-{name}");
        if wanted(&name) {
            rows.push(Row {
                ours: rate(&name["rate-".len()..])?,
                case: name,
                peer: rate(by)?,
                peer_name: (*peer_name).to_owned(),
                unit: "packets/s",
                target: target.map_or(Target::None, Target::RatioAtLeast),
                invalid: None,
            });
        }
    }
    Ok(rows)
}

/// What a program of `perf` says of its cases, run on the server's core.
fn cases(program: &str, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let path = workspace::target_dir()?.join("release").join(program);
    let mut command = Command::new("taskset");
    command.args(["-c", &SERVER_CPU.to_string()]).arg(path).args(arguments);
    let output = command.output().with_context(|| format!("cannot run {}", workspace::shown(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{} failed: {}", workspace::shown(&command), said.trim());
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("what {program} said"))?;
    Ok(workspace::array(&report, "cases").cloned().collect())
}
