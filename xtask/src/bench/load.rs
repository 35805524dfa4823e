//! Runs of `shoal-load` and `shoal-idle`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use serde_json::{Value, json};

use super::case::Case;
use super::certificate::Certificate;

/// The load generator, on its core.
pub(crate) struct Load {
    program: PathBuf,
    idle_program: PathBuf,
    cpu: usize,
    server_cpu: usize,
    /// What to trust with `https:`.
    roots: PathBuf,
    /// Where it reads what to ask for.
    flows: PathBuf,
}

/// Requests of one kind, beside others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow<'a> {
    pub(super) urls: &'a [String],
    pub(super) connections: usize,
    pub(super) bytes: usize,
    /// Requests per second on schedule; without it as fast as it goes.
    pub(super) rate: Option<f64>,
    /// How many numbers there are for `{}` in a URL.
    pub(super) numbers: u32,
    /// URLs and numbers at random instead of in turn.
    pub(super) random: bool,
}

/// How long a run lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time {
    pub(super) seconds: f64,
    pub(super) warmup: f64,
}

/// What one flow of a run measured.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) per_s: f64,
    pub(crate) p99_us: f64,
    /// Time of the server's core for one request.
    pub(crate) cost_us: f64,
    /// Why it is no measure of the server.
    pub(crate) invalid: Option<String>,
}

/// Connections that do nothing. They close when this is dropped.
pub(super) struct Idle(Child);

impl<'a> Flow<'a> {
    /// As a case asks.
    pub(super) fn of(case: &Case, urls: &'a [String]) -> Self {
        Self { urls, connections: case.connections, bytes: case.bytes, rate: None, numbers: 1, random: false }
    }
}

impl Load {
    /// `shoal-load` from the folder of built programs; it reads and writes in `dir`.
    pub(crate) fn new(bin: &Path, dir: &Path, server_cpu: usize, cpu: usize) -> Self {
        Self {
            program: bin.join("shoal-load"),
            idle_program: bin.join("shoal-idle"),
            cpu,
            server_cpu,
            roots: Certificate::within(dir).certificate,
            flows: dir.join("flows.json"),
        }
    }

    /// The command line that loads a case's URLs.
    pub(crate) fn command(&self, case: &Case, seconds: f64, urls: &[String]) -> anyhow::Result<Command> {
        self.command_of(&[Flow::of(case, urls)], Time { seconds, warmup: 0.0 })
    }

    fn command_of(&self, flows: &[Flow<'_>], time: Time) -> anyhow::Result<Command> {
        let json = flows.iter().map(|flow| {
            let Flow { urls, connections, bytes, rate, numbers, random } = flow;
            json!({
                "urls": urls, "connections": connections, "bytes": bytes,
                "rate": rate, "numbers": numbers, "random": random,
            })
        });
        let json: Value = json.collect();
        fs::write(&self.flows, json.to_string()).with_context(|| format!("{}", self.flows.display()))?;
        let mut command = self.pinned(time);
        command.arg("--flows").arg(&self.flows);
        if flows.iter().flat_map(|flow| flow.urls).any(|url| url.starts_with("https:")) {
            command.arg("--roots").arg(&self.roots);
        }
        Ok(command)
    }

    fn pinned(&self, time: Time) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--cpu", &self.cpu.to_string(), "--server-cpu", &self.server_cpu.to_string()]);
        command.args(["--duration", &time.seconds.to_string(), "--warmup", &time.warmup.to_string()]);
        command.stdin(Stdio::null());
        command
    }

    /// One measured run of a flow; fails when an answer was wrong.
    pub(super) fn measure(&self, flow: Flow<'_>, time: Time) -> anyhow::Result<Run> {
        self.measure_all(&[flow], time)?.pop().context("a flow has a report")
    }

    /// The same of several beside each other.
    pub(super) fn measure_all(&self, flows: &[Flow<'_>], time: Time) -> anyhow::Result<Vec<Run>> {
        let mut report = run(&mut self.command_of(flows, time)?)?;
        let others = report["beside"].take();
        let all = std::iter::once(&report).chain(others.as_array().into_iter().flatten());
        all.map(Run::new).collect()
    }

    /// Asks for every number of a flow at least once.
    pub(super) fn fill(&self, flow: Flow<'_>, seconds: f64) -> anyhow::Result<()> {
        let count = flow.numbers as usize * flow.urls.len() + flow.connections;
        let mut command = self.command_of(&[flow], Time { seconds, warmup: 0.0 })?;
        let report = run(command.arg("--requests").arg(count.to_string()))?;
        let done = report["requests"].as_u64().unwrap_or_default();
        anyhow::ensure!(done >= count as u64, "only {done} of {count} requests were answered within {seconds} s");
        Ok(())
    }

    /// Reads every URL several times, and compares the bodies with each other.
    pub(crate) fn check(&self, bytes: usize, urls: &[String]) -> anyhow::Result<()> {
        let mut command = self.pinned(Time { seconds: 5.0, warmup: 0.0 });
        if urls.iter().any(|url| url.starts_with("https:")) {
            command.arg("--roots").arg(&self.roots);
        }
        command.args(["--connections", "4", "--bytes", &bytes.to_string()]);
        command.arg("--checksum").arg("--requests").arg((urls.len() * 3).to_string());
        run(command.args(urls)).map(drop)
    }

    /// Opens idle connections, each with one request made.
    pub(super) fn idle(&self, url: &str, connections: usize) -> anyhow::Result<Idle> {
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(self.cpu.to_string()).arg(&self.idle_program);
        command.arg("--connections").arg(connections.to_string()).arg(url);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run shoal-idle")?;
        let mut idle = Idle(child);
        let output = idle.0.stdout.take().context("a piped child has an output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        anyhow::ensure!(line.trim() == connections.to_string(), "shoal-idle could not open {connections} connections");
        Ok(idle)
    }
}

impl Run {
    fn new(report: &Value) -> anyhow::Result<Self> {
        let figure = |value: &Value| value.as_f64().context("the load generator's report lacks a figure");
        let per_s = figure(&report["requests_per_s"])?;
        Ok(Run {
            per_s,
            p99_us: figure(&report["latency_us"]["p99"])?,
            cost_us: figure(&report["server_busy"])? / per_s.max(1e-9) * 1e6,
            invalid: report["invalid_because"].as_str().map(str::to_owned),
        })
    }
}

impl Idle {
    /// Ends the connections; fails when the server had closed one.
    pub(super) fn close(mut self) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        anyhow::ensure!(status.success(), "shoal-idle ended with {status}");
        Ok(())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        // Both fail when it has ended, which is what we want.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn run(command: &mut Command) -> anyhow::Result<Value> {
    let output = command.stderr(Stdio::inherit()).output().context("cannot run shoal-load")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("the load generator gave no report")?;
    let all = std::iter::once(&report).chain(report["beside"].as_array().into_iter().flatten());
    for flow in all {
        anyhow::ensure!(
            flow["errors"] == 0,
            "{} of {} answers were wrong; the first: {}",
            flow["errors"],
            flow["requests"],
            flow["first_error"]
        );
    }
    anyhow::ensure!(output.status.success(), "no request was answered");
    Ok(report)
}
