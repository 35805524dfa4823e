//! `cargo xtask flamegraph`: where the data plane's time goes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::Context;
use clap::Args;

use crate::bench::{self, Load, Stage};
use crate::signals::Stop;
use crate::{tools, workspace};

/// Samples per second; not a round number, so that it does not march in step with timers.
const FREQUENCY: &str = "499";

/// Functions that are listed.
const TOP: usize = 20;

#[derive(Args)]
pub(crate) struct Options {
    /// Case of `bench http` to look at.
    #[arg(default_value = "ram-16k-c32", conflicts_with = "pid")]
    scenario: String,
    /// Look at this running process instead.
    #[arg(long)]
    pid: Option<u32>,
    /// Seconds to look.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

/// Writes an SVG below target/, lists the functions that take most, and says where it is.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(options.seconds > 0, "--seconds 0: at least one is needed");
    tools::require(&[("perf", "linux-perf"), ("taskset", "util-linux")])?;
    let target = workspace::target_dir()?;
    let inferno = inferno(&target)?;
    let out = target.join("flamegraph");
    fs::create_dir_all(&out)?;
    let data = out.join("perf.data");
    let (name, title) = match options.pid {
        Some(pid) => {
            record(pid, options.seconds, &data)?;
            (format!("pid-{pid}.svg"), format!("process {pid}"))
        }
        None => {
            scenario(options, &target, &data)?;
            (format!("{}.svg", options.scenario), format!("shoal-dataplane, {}", options.scenario))
        }
    };
    let svg = out.join(name);
    draw(&inferno, &data, &title, &svg)?;
    println!("{}{}", top(&data)?, svg.display());
    Ok(ExitCode::SUCCESS)
}

/// Records the release build under the load of a benchmark.
fn scenario(options: &Options, target: &Path, data: &Path) -> anyhow::Result<()> {
    let known = bench::names();
    anyhow::ensure!(
        known.contains(&options.scenario.as_str()),
        "there is no scenario `{}`; these are: {}",
        options.scenario,
        known.join(", ")
    );
    let stop = Stop::listen()?;
    let bin = workspace::build_planes(true)?;
    workspace::build_load()?;
    let dir = target.join("flamegraph-node");
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir)?;
    let load = Load::new(&bin, &dir, 0, 1);
    Stage { bin: &bin, dir: &dir, load: &load, stop: &stop }.show(&options.scenario, |edge, case| {
        let urls = edge.urls(case);
        load.check(case.bytes, &urls)?;
        // A second longer than perf looks, so that it sees nothing but load.
        let mut command = load.command(case, f64::from(options.seconds) + 1.0, &urls)?;
        let mut running = command.stdout(Stdio::null()).spawn().context("cannot run shoal-load")?;
        let recorded = record(edge.node.edge_id(), options.seconds, data);
        running.wait()?;
        recorded
    })?;
    drop(fs::remove_dir_all(&dir));
    Ok(())
}

/// `perf record` by the software clock: virtual machines have no other, and frame pointers are in the release build.
fn record(pid: u32, seconds: u32, data: &Path) -> anyhow::Result<()> {
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "--call-graph", "fp", "--event", "cpu-clock", "--freq", FREQUENCY]);
    perf.args(["--pid", &pid.to_string(), "--output"]).arg(data);
    perf.args(["--", "sleep", &seconds.to_string()]);
    workspace::run(&mut perf)
        .context("perf cannot record; as an ordinary user it needs kernel.perf_event_paranoid to be 1 or lower")
}

/// perf script | inferno-collapse-perf | inferno-flamegraph
fn draw(inferno: &Path, data: &Path, title: &str, svg: &Path) -> anyhow::Result<()> {
    let mut script = start(Command::new("perf").args(["script", "--input"]).arg(data).stderr(Stdio::null()))?;
    let mut collapse = Command::new(inferno.join("inferno-collapse-perf"));
    let mut collapse = start(collapse.stdin(output(&mut script)?))?;
    let mut graph = Command::new(inferno.join("inferno-flamegraph"));
    graph.args(["--title", title]).stdin(output(&mut collapse)?);
    workspace::run(graph.stdout(File::create(svg)?))?;
    for (name, mut child) in [("perf script", script), ("inferno-collapse-perf", collapse)] {
        let status = child.wait()?;
        anyhow::ensure!(status.success(), "{name} failed ({status})");
    }
    Ok(())
}

/// The functions that most of the time was spent in, themselves alone.
fn top(data: &Path) -> anyhow::Result<String> {
    let mut report = Command::new("perf");
    report.args(["report", "--stdio", "--no-children", "--call-graph", "none", "--sort", "symbol", "--input"]);
    let output = report.arg(data).output().context("cannot run perf report")?;
    anyhow::ensure!(output.status.success(), "perf report failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    // Behind the name come columns that perf has no data for.
    Ok(lines.take(TOP).map(|line| format!("{}\n", line.trim_end_matches([' ', '-']))).collect())
}

fn start(command: &mut Command) -> anyhow::Result<Child> {
    command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {}", workspace::shown(command)))
}

fn output(child: &mut Child) -> anyhow::Result<Stdio> {
    Ok(child.stdout.take().context("a piped child has an output")?.into())
}

/// The folder of inferno's programs, installed below target/ the first time. Its licence (CDDL) keeps it from being
/// built in; run as a program it is like perf.
fn inferno(target: &Path) -> anyhow::Result<PathBuf> {
    let tools = target.join("tools");
    let bin = tools.join("bin");
    if !bin.join("inferno-flamegraph").is_file() {
        println!("installing inferno into {} …", tools.display());
        let mut install = workspace::cargo();
        install.args(["install", "inferno", "--locked", "--quiet", "--root"]).arg(&tools);
        workspace::run(&mut install)?;
    }
    Ok(bin)
}
