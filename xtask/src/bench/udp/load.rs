//! Runs of `shoal-udpload`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::Value;

use super::super::SERVER_CPU;
use super::servers::{Access, Proof};

/// The load generator, on its core.
pub(super) struct Load {
    pub(super) program: PathBuf,
    pub(super) cpu: usize,
}

/// What a run of the generator reported.
#[derive(Debug, Clone)]
pub(super) struct Report(Value);

impl Load {
    /// One run, with the words of a case; fails when something came out other than it went in.
    pub(super) fn run(&self, words: &[String], access: Option<&Access>) -> anyhow::Result<Report> {
        let mut command = Command::new(&self.program);
        command.args(words).args(["--cpu", &self.cpu.to_string()]);
        if let Some(access) = access {
            command.args(["--server", &access.address.to_string(), "--user", &access.user]);
            match &access.proof {
                Proof::Password(password) => command.args(["--password", password]),
                Proof::Secret(secret) => command.args(["--secret", secret]),
            };
            command.args(["--server-pid", &access.pid.to_string(), "--server-cpu", &SERVER_CPU.to_string()]);
            command.args(access.spins.then_some("--server-spins"));
        }
        // What it says when it fails goes into a line.
        let output =
            command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).output().context("cannot run shoal-udpload")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the load generator gave no report, but said: {}", said.trim()))?;
        Report(report).checked()
    }
}

impl Report {
    fn checked(self) -> anyhow::Result<Self> {
        let wrong = self.0["wrong"].as_u64().unwrap_or_default();
        anyhow::ensure!(wrong == 0, "{wrong} datagrams were wrong; the first: {}", self.0["first_wrong"]);
        Ok(self)
    }

    /// A figure by its path, such as `latency_us.p99`.
    pub(super) fn figure(&self, path: &str) -> anyhow::Result<f64> {
        let value = path.split('.').fold(&self.0, |value, name| &value[name]);
        value.as_f64().with_context(|| format!("the load generator's report has no {path}"))
    }

    /// Whether it was sent from sockets.
    pub(super) fn is_by_sockets(&self) -> bool {
        self.0["sent_by"] == "sockets"
    }

    /// Why it is no measure of the server.
    pub(super) fn invalid(&self) -> Option<String> {
        self.verdict()["invalid_because"].as_str().map(str::to_owned)
    }

    /// Whether that is only that the server might have done more.
    pub(super) fn is_at_least(&self) -> bool {
        self.verdict()["at_least"] == true
    }

    /// Of a search only the search's own word counts: its first run is there to know where to begin.
    fn verdict(&self) -> &Value {
        if self.0["search"].is_null() { &self.0 } else { &self.0["search"] }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_found_by_their_path_and_missing_ones_are_errors() {
        let report = Report(json!({ "a": 1, "b": { "c": 2.5 }, "d": null }));
        assert_eq!(report.figure("a").unwrap(), 1.0);
        assert_eq!(report.figure("b.c").unwrap(), 2.5);
        assert!(report.figure("d").is_err() && report.figure("b.x").is_err());
    }

    #[test]
    fn of_a_search_its_own_word_counts() {
        let why = json!("slow");
        assert_eq!(Report(json!({ "invalid_because": why })).invalid().as_deref(), Some("slow"));
        let search = json!({ "invalid_because": why, "search": { "invalid_because": null } });
        assert_eq!(Report(search).invalid(), None);
        let search = json!({ "invalid_because": null, "search": { "invalid_because": why } });
        assert_eq!(Report(search).invalid().as_deref(), Some("slow"));
        assert!(Report(json!({ "at_least": false, "search": { "at_least": true } })).is_at_least());
        assert!(!Report(json!({ "at_least": true, "search": { "at_least": false } })).is_at_least());
    }

    #[test]
    fn wrong_datagrams_end_the_measurement() {
        assert!(Report(json!({ "wrong": 1, "first_wrong": "damaged" })).checked().is_err());
        assert!(Report(json!({ "wrong": 0 })).checked().is_ok());
        assert!(Report(json!({ "allocations": 1 })).checked().is_ok());
    }
}
