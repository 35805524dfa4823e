//! The workspace on disk, and cargo.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use crate::tools;

/// The root folder of the repository.
pub(crate) fn root() -> PathBuf {
    // `cargo run` sets it for the program it starts; the other is for a binary that was copied elsewhere.
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or_else(|| xtask.clone(), Path::to_owned)
}

/// `cargo`, in the root folder. Every crate builds on machines without git, which glommio's build script asks for.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What `cargo run` set for us is not for the builds we start.
    for (name, _) in env::vars_os().filter(|(name, _)| set_by_cargo_run(name)) {
        command.env_remove(name);
    }
    if tools::find("git").is_none()
        && env::var_os("GLOMMIO_LIBURING_DIR").is_none()
        && let Some(liburing) = liburing()
    {
        command.env("GLOMMIO_LIBURING_DIR", liburing);
    }
    command
}

fn set_by_cargo_run(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
}

/// The liburing sources that come with the glommio crate.
fn liburing() -> Option<PathBuf> {
    let metadata = metadata(&[]).ok()?;
    let glommio = array(&metadata, "packages").find(|package| package["name"] == "glommio")?;
    Some(Path::new(glommio["manifest_path"].as_str()?).parent()?.join("liburing"))
}

/// `cargo metadata` with further arguments.
pub(crate) fn metadata(arguments: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(["metadata", "--format-version", "1"]).args(arguments);
    let output = command.output().context("cannot run cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")
}

/// The elements of an array field of a JSON object; none when it is not there.
pub(crate) fn array<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let metadata = metadata(&["--no-deps"])?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target folder")?.into())
}

/// Where a program that others wrote in Rust is, once [`install_peer`] has brought it.
pub(crate) fn peer_program(name: &str) -> anyhow::Result<PathBuf> {
    Ok(target_dir()?.join("peers/bin").join(name))
}

/// Builds a release of a program of crates.io into the target folder, if it is not there: optimised for a measurement, or only
/// fast to build for a test.
pub(crate) fn install_peer(name: &str, version: &str, optimised: bool) -> anyhow::Result<()> {
    if peer_program(name)?.is_file() {
        return Ok(());
    }
    println!("building {name} {version}, once; this takes minutes");
    // Not --locked: the lock file of aquatic 0.9.0 names a release of `metrics` that this compiler refuses.
    let mut command = cargo();
    command.args(["install", name, "--version", version, "--quiet", "--root"]).arg(target_dir()?.join("peers"));
    if !optimised {
        command.arg("--debug");
    }
    run(&mut command)
}

/// Builds both planes' programs and gives the folder they are in. Always both and nothing else: another set of packages
/// may ask for other features of what they share, and build that anew.
pub(crate) fn build_planes(release: bool) -> anyhow::Result<PathBuf> {
    build(&["shoal-dataplane", "shoal-control"], release)
}

/// Builds all programs, as `cargo test --workspace` will have their libraries: what the tests start. Gives their folder.
pub(crate) fn build_programs() -> anyhow::Result<PathBuf> {
    // The tests with them: what they alone need sets features of libraries that both share, and would have all built twice.
    run(cargo().args(["build", "--workspace", "--bins", "--tests", "--locked"]))?;
    Ok(target_dir()?.join("debug"))
}

/// Builds the optimised control plane. Gives its folder.
pub(crate) fn build_control() -> anyhow::Result<PathBuf> {
    build(&["shoal-control"], true)
}

/// Builds the optimised load generator beside the planes.
pub(crate) fn build_load() -> anyhow::Result<()> {
    build(&["shoal-perf"], true).map(drop)
}

fn build(packages: &[&str], release: bool) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--bins"]);
    for package in packages {
        command.args(["--package", package]);
    }
    if release {
        command.arg("--release");
    }
    run(&mut command)?;
    Ok(target_dir()?.join(if release { "release" } else { "debug" }))
}

/// Runs a command to its end; fails when it does.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    anyhow::ensure!(status.success(), "{} failed ({status})", shown(command));
    Ok(())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// All files that are, or would be, committed; relative to the root folder.
pub(crate) fn files() -> anyhow::Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let mut files: Vec<PathBuf> = match git.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .filter(|path| root().join(path).is_file())
            .collect(),
        // No git, or an exported tree: everything but what is built.
        _ => {
            let mut found = Vec::new();
            walk(&root(), &root(), &mut found)?;
            found
        }
    };
    files.sort();
    files.dedup();
    Ok(files)
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if path.is_dir() {
            if !matches!(name, "target" | ".git" | ".shoal" | "artifacts") {
                walk(root, &path, found)?;
            }
        } else if let Ok(relative) = path.strip_prefix(root) {
            found.push(relative.to_owned());
        }
    }
    Ok(())
}
