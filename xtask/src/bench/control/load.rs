//! Runs of `shoal-callload` and `shoal-load`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::Value;

use super::super::{LOAD_CPU, SERVER_CPU};

/// The load generators' folder.
pub(super) struct Load(pub(super) PathBuf);

/// What a run reported.
#[derive(Debug, Clone)]
pub(super) struct Report(Value);

impl Load {
    /// Calls a server: `general` words, then those of the kind of call.
    pub(super) fn call(&self, server: SocketAddr, general: &[String], words: &[String]) -> anyhow::Result<Report> {
        let mut command = Command::new(self.0.join("shoal-callload"));
        command.args(["--server", &server.to_string()]);
        pinned(&mut command).args(general).args(words);
        run(&mut command)
    }

    /// Asks for one URL again and again.
    pub(super) fn get(&self, url: &str, words: &[String]) -> anyhow::Result<Report> {
        let mut command = Command::new(self.0.join("shoal-load"));
        run(pinned(&mut command).args(words).arg(url))
    }
}

fn pinned(command: &mut Command) -> &mut Command {
    command.args(["--cpu", &LOAD_CPU.to_string(), "--server-cpu", &SERVER_CPU.to_string()])
}

fn run(command: &mut Command) -> anyhow::Result<Report> {
    let program = Path::new(command.get_program()).to_owned();
    let output = command
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the load generator gave no report, but said: {}", said.trim()))?;
    let errors = report["errors"].as_u64().unwrap_or_default();
    anyhow::ensure!(errors == 0, "{errors} calls went wrong; the first: {}", report["first_error"]);
    Ok(Report(report))
}

impl Report {
    /// A figure by its path, such as `latency_us.p99`.
    pub(super) fn figure(&self, path: &str) -> anyhow::Result<f64> {
        let value = path.split('.').fold(&self.0, |value, name| &value[name]);
        value.as_f64().with_context(|| format!("the load generator's report has no {path}"))
    }

    /// Why it is no measure of the server.
    pub(super) fn invalid(&self) -> Option<String> {
        self.0["invalid_because"].as_str().map(str::to_owned)
    }
}
