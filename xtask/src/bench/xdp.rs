//! `bench xdp`: what the XDP program costs for a packet of each verdict.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::Context;
use serde_json::Value;

use super::table::{self, Row, Target};
use super::{Options, QUIET, SERVER_CPU, machine};
use crate::workspace;

/// The targets, of nanoseconds beyond an empty program's; those of both families and all that is not named have none.
const TARGETS: &[(&str, f64)] = &[("blocked", 35.0), ("passed", 100.0), ("answered", 130.0)];

/// Runs the cases that the options name.
pub(super) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    workspace::build_load()?;
    let program = workspace::target_dir()?.join("release/shoal-xdpload");
    let others = machine::busy();
    let mut command = Command::new("taskset");
    command.args(["-c", &SERVER_CPU.to_string()]).arg(&program);
    if options.quick {
        command.args(["--runs", "3", "--packets", "200000", "--single", "5000"]);
    }
    let output = command.output().with_context(|| format!("cannot run {}", workspace::shown(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{} failed: {}", workspace::shown(&command), said.trim());
    let report: Value = serde_json::from_slice(&output.stdout).context("what shoal-xdpload said")?;
    let mut rows = Vec::new();
    for case in workspace::array(&report, "cases") {
        let name = case["case"].as_str().context("a case has a name")?;
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        let ns = |field: &str| case[field].as_f64().with_context(|| format!("{name} has no {field}"));
        let (ours, empty) = (ns("ns")?, ns("empty_ns")?);
        let target = TARGETS.iter().find(|(of, _)| *of == name).map_or(Target::None, |(_, most)| Target::AtMost(*most));
        let singly = if case["singly"] == true { ", each packet by itself" } else { "" };
        rows.push(Row {
            case: name.to_owned(),
            ours: ours - empty,
            peer: empty,
            peer_name: format!("an empty program, in all{singly}"),
            unit: "ns/packet",
            target,
            invalid: None,
        });
    }
    anyhow::ensure!(!rows.is_empty(), "--only {}: there is no such case", options.only.join(" --only "));
    let about = format!(
        "`{}`, {}; BPF_PROG_TEST_RUN on core {SERVER_CPU}, medians; ours is what comes on top of the empty program{}",
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
