//! The binaries under test, built as this test was built.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::tool;

/// The path of a binary, after all of them were built with the profile of this test. `SHOAL_BIN_DIR` names a folder
/// that has them already.
pub fn binary(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(build).join(name)
}

fn build() -> PathBuf {
    if let Some(dir) = env::var_os("SHOAL_BIN_DIR") {
        return dir.into();
    }
    let dir = tool::target_dir();
    let target = dir.parent().expect("a target folder has a name");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "-p", "shoal-dataplane", "-p", "shoal-control", "-p", "shoal-peer", "--bins"]);
    command.arg("--target-dir").arg(target).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if dir.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(status.success(), "{command:?} failed");
    dir
}
