//! Programs that other people wrote: curl, wrk, promtool, Chromium, npm, pip.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Where `name` is, if it is installed.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// The tool, or a note that `test` was skipped. `cargo xtask test` counts the notes in `SHOAL_SKIP_FILE`.
pub fn need(test: &str, name: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        skip(test, &format!("{name} is not installed"));
    }
    found
}

/// The folder for PYTHONPATH with `package` from pip (its name, `==`, its version), or a note that `test` was skipped. It
/// is kept between runs in the target folder, where it is not part of the project.
pub fn pip(test: &str, package: &str) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let pip = need(test, "pip3")?;
    let dir = target_dir().join("pip").join(package);
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !dir.is_dir() {
        // Whole or not at all, whatever happens to this run and whoever else does the same.
        let unfinished = dir.with_added_extension(std::process::id().to_string());
        let mut command = Command::new(pip);
        command.args(["install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--target"]);
        let output = run(command.arg(&unfinished).arg(package));
        if !output.status.success() {
            drop(fs::remove_dir_all(&unfinished));
            let said = String::from_utf8_lossy(&output.stderr);
            skip(test, &format!("pip cannot bring {package}: {}", said.lines().last().unwrap_or("no message")));
            return None;
        }
        if fs::rename(&unfinished, &dir).is_err() {
            // Somebody else was faster.
            drop(fs::remove_dir_all(&unfinished));
        }
    }
    Some(dir)
}

/// The folder `node_modules` with `packages` from npm (name, `@`, version), or a note that `test` was skipped. It is kept between
/// runs in the target folder, where it is not part of the project.
pub fn npm(test: &str, packages: &[&str]) -> Option<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let npm = need(test, "npm")?;
    let dir = target_dir().join("npm").join(packages.join("+").replace('/', "-"));
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !dir.is_dir() {
        // As with pip: whole or not at all.
        let unfinished = dir.with_added_extension(std::process::id().to_string());
        fs::create_dir_all(&unfinished).expect("the target folder is writable");
        let mut command = Command::new(npm);
        command.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]);
        let output = run(command.arg(&unfinished).args(packages));
        if !output.status.success() {
            drop(fs::remove_dir_all(&unfinished));
            let said = String::from_utf8_lossy(&output.stderr);
            skip(test, &format!("npm cannot bring {}: {}", packages.join(", "), said.trim()));
            return None;
        }
        if fs::rename(&unfinished, &dir).is_err() {
            drop(fs::remove_dir_all(&unfinished));
        }
    }
    Some(dir.join("node_modules"))
}

/// The folder that cargo builds into, with the profile of this test.
pub fn target_dir() -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    // target/<profile>/deps/<test>
    test.ancestors().nth(2).expect("a test lies in a target folder").to_owned()
}

/// Notes that `test` did not run, and why.
pub fn skip(test: &str, reason: &str) {
    println!("skipped {test}: {reason}");
    if let Some(path) = env::var_os("SHOAL_SKIP_FILE") {
        let file = File::options().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{test}: {reason}"));
        written.unwrap_or_else(|error| panic!("cannot write SHOAL_SKIP_FILE {}: {error}", path.display()));
    }
}

/// Runs a tool to its end; panics when it cannot be started.
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
