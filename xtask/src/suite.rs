//! `cargo xtask test`: everything that must hold, in one command.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;

use crate::{ebpf, tidy, tools, workspace};

/// What tests call for, and the Debian packages that have it.
const TOOLS: &[tools::Wanted<'_>] = &[
    ("chromium", "chromium"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("ffmpeg", "ffmpeg"),
    ("initdb", "postgresql"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("pip3", "python3-pip"),
    ("promtool", "prometheus"),
    ("python3", "python3"),
    ("redis-server", "redis-server"),
    ("slowhttptest", "slowhttptest"),
    ("stun", "stun-client"),
    ("systemd-analyze", "systemd"),
    ("turnserver", "coturn"),
    ("wrk", "wrk"),
];

/// What tests call for of crates.io, and its version.
const LOAD_TEST: (&str, &str) = ("aquatic_ws_load_test", "0.9.0");

/// What has been counted so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: usize,
    failed: usize,
    /// Names of what failed.
    failures: Vec<String>,
}

/// Runs it all; fails when anything did. In CI (`CI=true`) a skipped test is a failure.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    for (tool, reason) in tools::install(TOOLS) {
        println!("missing, could not install: {tool} ({reason}); the tests that need it will be skipped");
    }
    let skip_file = workspace::target_dir()?.join(format!("skipped-{}.txt", std::process::id()));
    fs::create_dir_all(skip_file.parent().context("a target folder has a parent")?)?;
    fs::write(&skip_file, "")?;

    let mut totals = Totals::default();
    totals.stage("fmt", || {
        workspace::run(workspace::cargo().args(["fmt", "--all", "--check"]))?;
        let programs = ["fmt", "--check", "--manifest-path", "ebpf-probes/programs/Cargo.toml"];
        workspace::run(workspace::cargo().args(programs))
    });
    totals.stage("clippy", || {
        let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
        workspace::run(workspace::cargo().args(clippy))
    });
    totals.stage("tidy", || {
        let code = tidy::run(false)?;
        anyhow::ensure!(code == ExitCode::SUCCESS, "tidy found problems");
        Ok(())
    });
    let mut object = None;
    totals.stage("ebpf", || {
        ebpf::check()?;
        match ebpf::tool_chain() {
            Ok(chain) => object = Some(ebpf::build(chain)?),
            Err(why) => note_skip(&skip_file, &format!("the eBPF programs as compiled now: {why}"))?,
        }
        Ok(())
    });
    let mut bin = None;
    totals.stage("build", || {
        bin = Some(workspace::build_programs()?);
        Ok(())
    });
    if let Err(error) = workspace::install_peer(LOAD_TEST.0, LOAD_TEST.1, false) {
        println!("missing, could not install: {} ({error:#}); the test that needs it will be skipped", LOAD_TEST.0);
    }
    let mut test = workspace::cargo();
    test.args(["test", "--workspace", "--locked", "--no-fail-fast"]).env("SHOAL_SKIP_FILE", &skip_file);
    if let Some(bin) = bin {
        test.env("SHOAL_BIN_DIR", bin);
    }
    if let Some(object) = object {
        test.env("SHOAL_EBPF_OBJECT", object);
    }
    println!("== {}", workspace::shown(&test));
    totals.cargo_test(&mut test)?;

    let notes = fs::read_to_string(&skip_file)?;
    drop(fs::remove_file(&skip_file));
    let mut skipped: Vec<&str> = notes.lines().collect();
    skipped.sort_unstable();
    skipped.dedup();
    let ci = env::var("CI").is_ok_and(|ci| ci == "true");
    println!();
    for name in &totals.failures {
        println!("failed: {name}");
    }
    for note in &skipped {
        println!("skipped: {note}");
    }
    let too_few = ci && !skipped.is_empty();
    if too_few {
        println!("a skipped test is a failure here, for CI=true");
    }
    // A test that skips ends well, and was counted as passed.
    println!(
        "{} passed, {} failed, {} skipped",
        totals.passed.saturating_sub(skipped.len()),
        totals.failed,
        skipped.len()
    );
    Ok(if totals.failed == 0 && !too_few { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Notes that something was skipped, as the tests do.
fn note_skip(file: &Path, what: &str) -> anyhow::Result<()> {
    println!("skipped {what}");
    let mut file = fs::File::options().append(true).open(file)?;
    Ok(writeln!(file, "{what}")?)
}

impl Totals {
    /// Runs one check, and counts it.
    fn stage(&mut self, name: &str, check: impl FnOnce() -> anyhow::Result<()>) {
        println!("== {name}");
        match check() {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("{error:#}");
                self.failed += 1;
                self.failures.push(name.to_owned());
            }
        }
    }

    /// Runs `cargo test`, shows what it says and counts the results.
    fn cargo_test(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo test")?;
        let before = self.failed;
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out).split(b'\n') {
                let line = line?;
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                self.count(&line);
            }
        }
        let status = child.wait()?;
        if !status.success() && self.failed == before {
            // Nothing that could be counted: it did not compile, or a test took its process along.
            self.failed += 1;
            self.failures.push(format!("cargo test ({status})"));
        }
        Ok(())
    }

    /// Counts a line of a test binary.
    fn count(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let number = |what: &str| {
            let (before, _) = result.split_once(what)?;
            before.trim_end().rsplit(' ').next()?.parse::<usize>().ok()
        };
        self.passed += number(" passed").unwrap_or_default();
        self.failed += number(" failed").unwrap_or_default();
        // There are none; one that slips through must not look like a pass.
        self.failed += number(" ignored").unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up() {
        let mut totals = Totals::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 3 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "some test result: of its own",
        ] {
            totals.count(line);
        }
        assert_eq!(totals, Totals { passed: 15, failed: 3, failures: vec!["a::c".to_owned()] });
    }

    #[test]
    fn a_failed_stage_is_counted_and_named() {
        let mut totals = Totals::default();
        totals.stage("good", || Ok(()));
        totals.stage("bad", || anyhow::bail!("no"));
        assert_eq!(totals, Totals { passed: 1, failed: 1, failures: vec!["bad".to_owned()] });
    }

    #[test]
    fn tests_that_cannot_be_counted_fail_as_one() {
        let mut totals = Totals::default();
        totals.cargo_test(Command::new("sh").args(["-c", "echo nothing; exit 101"])).unwrap();
        assert_eq!(totals.failed, 1);
    }
}
