//! `cargo xtask conformance DIR`: suites that other people wrote, run against a node of ours. Their sources lie in DIR, for
//! none of them is in a registry; `docs/conformance.md` says how they get there, and explains each failure that remains.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use crate::bench;
use crate::node::{Node, Place, free};
use crate::process::Process;
use crate::signals::Stop;
use crate::{tools, workspace};

/// Time for a suite's own server to listen.
const START: Duration = Duration::from_secs(10);

/// Required tests of cache-tests that must pass.
const CACHE_TESTS_WANTED: usize = 135;

/// Tests of h1spec that must pass.
const H1SPEC_WANTED: usize = 33;

#[derive(Args)]
pub(crate) struct Options {
    /// Folder with the checked-out suites: `cache-tests`, `h1spec`.
    dir: PathBuf,
    /// Write the table into perf/RESULTS.md.
    #[arg(long)]
    record: bool,
    /// Run the optimised build.
    #[arg(long)]
    release: bool,
}

/// What came of one suite.
struct Outcome {
    suite: &'static str,
    tests: Vec<Test>,
    wanted: usize,
}

/// What came of one test.
struct Test {
    id: String,
    required: bool,
    passed: bool,
    why: String,
}

impl Outcome {
    /// Tests of a kind that passed, and all of it.
    fn count(&self, required: bool) -> (usize, usize) {
        let of_kind = || self.tests.iter().filter(|test| test.required == required);
        (of_kind().filter(|test| test.passed).count(), of_kind().count())
    }

    fn failures(&self) -> impl Iterator<Item = &Test> {
        self.tests.iter().filter(|test| test.required && !test.passed)
    }
}

/// Succeeds when every suite that is there reaches its target, and every failure is explained.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    tools::require(&[("node", "nodejs")])?;
    let stop = Stop::listen()?;
    let bin = workspace::build_planes(options.release)?;
    let suites: [(&str, Run); 2] = [("cache-tests", cache_tests), ("h1spec", h1spec)];
    let mut outcomes = Vec::new();
    for (name, run) in suites {
        let folder = options.dir.join(name);
        if folder.is_dir() {
            let work = workspace::target_dir()?.join("conformance").join(name);
            drop(fs::remove_dir_all(&work));
            fs::create_dir_all(&work)?;
            outcomes.push(run(&folder.canonicalize()?, &work, &bin, &stop).with_context(|| name)?);
        } else {
            println!("{name}: not in {}, so it is not run", options.dir.display());
        }
    }
    anyhow::ensure!(
        !outcomes.is_empty(),
        "{} has no suite; docs/conformance.md says where from",
        options.dir.display()
    );
    let about = format!("`cargo xtask conformance DIR`, {}", bench::versions());
    let text = format!("{about}\n\n{}", markdown(&outcomes));
    println!("{text}");
    if options.record {
        bench::record(&workspace::root().join("perf/RESULTS.md"), "conformance", &text)?;
    }
    let document = fs::read_to_string(workspace::root().join("docs/conformance.md"))?;
    let mut good = true;
    for outcome in &outcomes {
        good &= outcome.count(true).0 >= outcome.wanted;
        for test in outcome.failures().filter(|test| !document.contains(&format!("`{}`", test.id))) {
            println!("{}: the failure of `{}` is not explained in docs/conformance.md", outcome.suite, test.id);
            good = false;
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Run = fn(&Path, &Path, &Path, &Stop) -> anyhow::Result<Outcome>;

/// http-tests/cache-tests, with the node as a cache in front of the suite's own server.
fn cache_tests(suite: &Path, work: &Path, bin: &Path, stop: &Stop) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        suite.join("node_modules").is_dir(),
        "its modules are missing; run: npm install --prefix {} --omit=dev --ignore-scripts",
        suite.display()
    );
    let address = free(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    let mut command = Command::new("node");
    command.current_dir(suite).arg("test-engine/server/server.mjs").envs([
        ("npm_config_protocol", "http".to_owned()),
        ("npm_config_port", address.port().to_string()),
        ("npm_config_pidfile", work.join("server.pid").display().to_string()),
    ]);
    let server = Served::start(&mut command, address, work)?;
    // Nothing is kept that the suite's server does not let be kept, and that server sees all of a request.
    let node = node(
        bin,
        work,
        stop,
        address,
        &json!({
            "default_ttl_ms": 0, "playlist_ttl_ms": 0, "negative_ttl_ms": 0, "heuristic_ttl_max_ms": 86_400_000,
            "client_revalidation": true, "query_allow": ["*"],
        }),
    )?;
    let results = work.join("results.json");
    let mut client = Command::new("node");
    client.current_dir(suite).args(["--no-warnings", "test-engine/cli.mjs"]).envs([
        ("npm_config_base", format!("http://{}", node.place.http)),
        ("npm_config_id", String::new()),
        ("npm_package_config_id", String::new()),
    ]);
    println!("running cache-tests, which takes a minute …");
    fs::write(&results, output(&mut client)?)?;
    node.stop()?;
    drop(server);
    let judge = write(work, "judge.mjs", include_str!("conformance/judge.mjs"))?;
    let judged = output(Command::new("node").arg(judge).arg(suite).arg(&results))?;
    let mut tests = Vec::new();
    for line in judged.lines() {
        let test: Value = serde_json::from_str(line).with_context(|| format!("a judgement reads `{line}`"))?;
        let text = |name: &str| test[name].as_str().unwrap_or_default().to_owned();
        // Checks have no right answer.
        if text("kind") != "check" {
            tests.push(Test {
                id: text("id"),
                required: text("kind") == "required",
                passed: test["passed"] == true,
                why: text("why"),
            });
        }
    }
    Ok(Outcome { suite: "cache-tests", tests, wanted: CACHE_TESTS_WANTED })
}

/// uNetworking/h1spec, with the node in front of a server that sends bodies back.
fn h1spec(suite: &Path, work: &Path, bin: &Path, stop: &Stop) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        suite.join("node_modules/typescript").is_dir(),
        "it is written for Deno; to run it in Node.js: npm install --prefix {} typescript@5",
        suite.display()
    );
    let address = free(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    let echo = write(work, "echo.mjs", include_str!("conformance/echo.mjs"))?;
    let server = Served::start(Command::new("node").arg(echo).arg(address.port().to_string()), address, work)?;
    let node = node(bin, work, stop, address, &json!({}))?;
    let run = write(work, "h1spec.mjs", include_str!("conformance/h1spec.mjs"))?;
    let edge = node.place.http;
    let mut command = Command::new("node");
    let ran = command.arg(run).arg(suite).args([edge.ip().to_string(), edge.port().to_string()]).output()?;
    node.stop()?;
    drop(server);
    // It writes passes to one stream and what it waited for to the other.
    let text = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let tests: Vec<Test> = text.lines().filter_map(h1spec_line).collect();
    anyhow::ensure!(!tests.is_empty(), "it says nothing of any test: {text}");
    Ok(Outcome { suite: "h1spec", tests, wanted: H1SPEC_WANTED })
}

/// `✅ name: what came`, or with a cross.
fn h1spec_line(line: &str) -> Option<Test> {
    let (passed, rest) = match line.strip_prefix('✅') {
        Some(rest) => (true, rest),
        None => (false, line.strip_prefix('❌')?),
    };
    let (id, why) = rest.trim().split_once(": ")?;
    Some(Test { id: id.to_owned(), required: true, passed, why: why.to_owned() })
}

/// A node with one channel for all paths, over the server at `origin`, that passes all there is.
fn node(bin: &Path, work: &Path, stop: &Stop, origin: SocketAddr, cache: &Value) -> anyhow::Result<Node> {
    let node = Node::start(bin, Place::somewhere(work.join("node"), Vec::new())?, stop)?;
    node.put_channel(&json!({
        "id": "suite", "prefix": "/", "origins": [{"id": "suite", "url": format!("http://{origin}/")}],
        "cache": cache, "cors": {"enabled": false},
        "forward": {"headers": ["*"], "unsafe_methods": true, "server_errors": true},
    }))?;
    // Until the channel is there the edge says that it has no configuration, or no such channel.
    let deadline = Instant::now() + START;
    loop {
        let answer = crate::http::request(node.place.http, "POST", "/", &[], b"x");
        if answer.as_ref().is_ok_and(|answer| !matches!(answer.status, 405 | 503)) {
            return Ok(node);
        }
        anyhow::ensure!(Instant::now() < deadline && !stop.asked(), "the channel is not served");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A suite's server.
struct Served(#[expect(dead_code, reason = "it runs until it is dropped")] Process);

impl Served {
    fn start(command: &mut Command, at: SocketAddr, work: &Path) -> anyhow::Result<Self> {
        let mut process = Process::start("the suite's server", command, &work.join("server.log"))?;
        let deadline = Instant::now() + START;
        while TcpStream::connect(at).is_err() {
            process.check()?;
            anyhow::ensure!(Instant::now() < deadline, "the suite's server does not listen on {at}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self(process))
    }
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let file = folder.join(name);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// What a program prints; fails when it does.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let ran = command.output().with_context(|| format!("cannot run {}", workspace::shown(command)))?;
    let errors = String::from_utf8_lossy(&ran.stderr);
    anyhow::ensure!(ran.status.success(), "{} failed ({}): {errors}", workspace::shown(command), ran.status);
    Ok(String::from_utf8(ran.stdout)?)
}

fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| suite | required | target | met | optional | required that fail |\n|---|--:|--:|---|--:|---|\n",
    );
    for outcome in outcomes {
        let ((passed, all), (optional, optional_all)) = (outcome.count(true), outcome.count(false));
        let failures: Vec<String> = outcome.failures().map(|test| format!("`{}`: {}", test.id, test.why)).collect();
        text.push_str(&format!(
            "| {} | {passed} of {all} | {} | {} | {optional} of {optional_all} | {} |\n",
            outcome.suite,
            outcome.wanted,
            if passed >= outcome.wanted { "yes" } else { "no" },
            failures.join("; ").replace('|', "\\|"),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(id: &str, required: bool, passed: bool) -> Test {
        Test { id: id.to_owned(), required, passed, why: "a | b".to_owned() }
    }

    #[test]
    fn kinds_are_counted_apart_and_failures_listed() {
        let tests = vec![test("a", true, true), test("b", true, false), test("c", false, false)];
        let outcome = Outcome { suite: "s", tests, wanted: 2 };
        assert_eq!((outcome.count(true), outcome.count(false)), ((1, 2), (0, 1)));
        let line = "| s | 1 of 2 | 2 | no | 0 of 1 | `b`: a \\| b |\n";
        assert!(markdown(&[outcome]).ends_with(line));
    }

    #[test]
    fn lines_of_h1spec_are_read() {
        let test = h1spec_line("❌ Multiple Host headers: Response Status Code 200").unwrap();
        assert_eq!((&*test.id, test.passed, &*test.why), ("Multiple Host headers", false, "Response Status Code 200"));
        assert!(h1spec_line("✅ Fragmented method: Server waited successfully").unwrap().passed);
        assert!(h1spec_line("31 out of 33 tests passed.").is_none());
    }
}
