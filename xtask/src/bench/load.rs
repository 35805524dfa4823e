//! Runs of `shoal-load`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::Value;

use super::certificate::Certificate;

/// The load generator, on its core.
pub(crate) struct Load {
    pub(crate) program: PathBuf,
    pub(crate) cpu: usize,
    pub(crate) server_cpu: usize,
    /// What to trust with `https:`.
    roots: PathBuf,
}

/// What one run measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) per_s: f64,
    /// False when the generator was the bottleneck.
    pub(crate) valid: bool,
}

impl Load {
    /// `shoal-load` from the folder of built programs.
    pub(crate) fn new(bin: &Path, server_cpu: usize, cpu: usize, certificate: &Certificate) -> Self {
        Self { program: bin.join("shoal-load"), cpu, server_cpu, roots: certificate.certificate.clone() }
    }

    /// The command line, with the cores.
    pub(crate) fn command(
        &self,
        connections: usize,
        seconds: f64,
        warmup: f64,
        bytes: u64,
        urls: &[String],
    ) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--cpu", &self.cpu.to_string(), "--server-cpu", &self.server_cpu.to_string()]);
        command.args(["--connections", &connections.to_string(), "--bytes", &bytes.to_string()]);
        command.args(["--duration", &seconds.to_string(), "--warmup", &warmup.to_string()]);
        if urls.iter().any(|url| url.starts_with("https:")) {
            command.arg("--roots").arg(&self.roots);
        }
        command.args(urls).stdin(Stdio::null());
        command
    }

    /// One measured run; fails when an answer was wrong.
    pub(crate) fn measure(&self, command: &mut Command) -> anyhow::Result<Run> {
        let report = run(command)?;
        Ok(Run {
            per_s: report["requests_per_s"].as_f64().context("the load generator reported no rate")?,
            valid: report["valid"] == true,
        })
    }

    /// Reads every URL several times, and compares the bodies with each other.
    pub(crate) fn check(&self, bytes: u64, urls: &[String]) -> anyhow::Result<()> {
        let mut command = self.command(4, 5.0, 0.0, bytes, urls);
        run(command.arg("--checksum").arg("--requests").arg((urls.len() * 3).to_string())).map(drop)
    }
}

fn run(command: &mut Command) -> anyhow::Result<Value> {
    let output = command.stderr(Stdio::inherit()).output().context("cannot run shoal-load")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("the load generator gave no report")?;
    anyhow::ensure!(
        output.status.success(),
        "{} of {} answers were wrong; the first: {}",
        report["errors"],
        report["requests"],
        report["first_error"]
    );
    Ok(report)
}
