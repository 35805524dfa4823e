//! Programs that other people wrote: curl, wrk, promtool, Chromium, npm.

use std::env;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

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
