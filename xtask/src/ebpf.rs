//! `cargo xtask ebpf`: compiles the eBPF programs into the object that is committed, and stamps it with the sources it came from.
//!
//! To build shoal takes none of this. Two tool chains will do, whichever is there: rustup's nightly with its `rust-src` and a
//! bpf-linker, or Debian's `rustc-web`, which comes with its library's sources, and a bpf-linker that is built here against the
//! same LLVM.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Args;
use sha2::{Digest, Sha256};

use crate::{tools, workspace};

/// What the object is made of.
const SOURCES: &[&str] = &["ebpf-probes/programs", "ebpf-probes/maps", "protocol/packet"];

const PROGRAMS: &str = "ebpf-probes/programs";
const OBJECT: &str = "ebpf-probes/objects/shoal.o";
const STAMP: &str = "ebpf-probes/objects/shoal.stamp";

/// The linker that is known to work.
const LINKER_VERSION: &str = "0.13.0";

/// Debian's tool chain for its browsers, in full, since rustup's comes first in PATH.
const WEB_RUSTC: &str = "/usr/bin/rustc";
const WEB_CARGO: &str = "/usr/bin/cargo";
const WEB_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core";
const WEB_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// Options of the task.
#[derive(Args)]
pub(crate) struct Options {
    /// Only say whether the committed object is that of the sources.
    #[arg(long)]
    check: bool,
}

/// A compiler for eBPF.
pub(crate) struct ToolChain {
    cargo: Command,
    about: String,
}

/// Makes the committed object anew, or checks its stamp.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if options.check {
        check()?;
        println!("{OBJECT} is that of the sources");
        return Ok(ExitCode::SUCCESS);
    }
    let chain = tool_chain().map_err(anyhow::Error::msg)?;
    let about = chain.about.clone();
    let object = build(chain)?;
    fs::copy(&object, workspace::root().join(OBJECT)).with_context(|| format!("cannot write {OBJECT}"))?;
    let stamp = format!("# What shoal.o was made of; written by cargo xtask ebpf.\n{}\n{about}\n", sources_line()?);
    fs::write(workspace::root().join(STAMP), stamp).with_context(|| format!("cannot write {STAMP}"))?;
    println!("{OBJECT}: made by {about}");
    Ok(ExitCode::SUCCESS)
}

/// Fails if the committed object came from other sources than those that are here.
pub(crate) fn check() -> anyhow::Result<()> {
    let stamp = fs::read_to_string(workspace::root().join(STAMP)).with_context(|| format!("cannot read {STAMP}"))?;
    let here = sources_line()?;
    anyhow::ensure!(
        stamp.lines().any(|line| line == here),
        "{OBJECT} was made of other sources than those in {}: run cargo xtask ebpf, and commit what it writes",
        SOURCES.join(", ")
    );
    Ok(())
}

/// Compiles the programs. Where the object is.
pub(crate) fn build(ToolChain { mut cargo, .. }: ToolChain) -> anyhow::Result<PathBuf> {
    let target = workspace::target_dir()?.join("ebpf");
    let root = workspace::root();
    // Panic messages name files, and nobody wants to know where they lay on the machine that this was built on.
    let home = cargo_home().context("neither CARGO_HOME nor HOME is set")?;
    let remap = |from: &Path, to| format!("--remap-path-prefix={}={to}", from.display());
    // Headers lie at any offset, and the kernels that this is for read words from there.
    let flags =
        [remap(&root, "shoal"), remap(&home, "cargo"), "-Ctarget-feature=+allows-misaligned-mem-access".to_owned()];
    cargo.current_dir(root.join(PROGRAMS)).arg("build").args(["--release", "--locked"]);
    cargo.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"]).arg(&target);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS").env_remove("RUSTUP_TOOLCHAIN");
    workspace::run(&mut cargo)?;
    let object = target.join("bpfel-unknown-none/release/shoal");
    anyhow::ensure!(object.is_file(), "{} was not made", object.display());
    Ok(object)
}

fn cargo_home() -> Option<PathBuf> {
    let of_user = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(of_user)
}

/// What there is to compile with, or can be installed; else what is missing.
pub(crate) fn tool_chain() -> Result<ToolChain, String> {
    match nightly() {
        Some(chain) => Ok(chain),
        None => web().map_err(|error| format!("no compiler for eBPF: {error:#}")),
    }
}

/// rustup's, if all of it is there.
fn nightly() -> Option<ToolChain> {
    let linker = tools::find("bpf-linker")?;
    let said = |arguments: &[&str]| {
        let output = Command::new("rustup").args(["run", "nightly", "rustc"]).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let sources = Path::new(&said(&["--print", "sysroot"])?).join("lib/rustlib/src/rust/library/core");
    let version = said(&["--version"])?;
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "nightly", "cargo"]);
    let about = format!("{version}, {}", version_of(&linker));
    sources.is_dir().then_some(ToolChain { cargo, about })
}

/// Debian's, installed and built as far as it is not there.
fn web() -> anyhow::Result<ToolChain> {
    let is_there = [WEB_RUSTC, WEB_CARGO, WEB_SOURCES].iter().all(|path| Path::new(path).exists());
    if !is_there {
        tools::install_packages(WEB_PACKAGES).map_err(|why| {
            let packages = WEB_PACKAGES.join(", ");
            anyhow::anyhow!("install rustup's nightly with rust-src and bpf-linker, or Debian's {packages} ({why})")
        })?;
    }
    let verbose = Command::new(WEB_RUSTC).arg("-vV").output().with_context(|| format!("cannot run {WEB_RUSTC}"))?;
    let verbose = String::from_utf8_lossy(&verbose.stdout).into_owned();
    let llvm =
        verbose.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or_default().trim().to_owned();
    let major = llvm.split('.').next().unwrap_or_default().to_owned();
    let tools_dir = workspace::target_dir()?.join("ebpf-tools");
    let linker = tools_dir.join("bin/bpf-linker");
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if !linker.is_file() {
        let package = format!("llvm-{major}-dev");
        if !prefix.join("include").is_dir() {
            tools::install_packages(&[&package])
                .map_err(|why| anyhow::anyhow!("{package} cannot be installed: {why}"))?;
        }
        println!("building bpf-linker, once; this takes a minute or two");
        let mut command = workspace::cargo();
        command.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--no-default-features"]);
        command.args(["--features", &format!("llvm-{major}"), "--root"]).arg(&tools_dir).env("LLVM_PREFIX", &prefix);
        workspace::run(&mut command)?;
    }
    let mut cargo = Command::new(WEB_CARGO);
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(tools_dir.join("bin")).chain(env::split_paths(&path)))?;
    cargo.env("PATH", path).env("RUSTC", WEB_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    let rustc = verbose.lines().next().unwrap_or("rustc").to_owned();
    Ok(ToolChain { cargo, about: format!("{rustc}, LLVM {llvm}, {}", version_of(&linker)) })
}

fn version_of(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    output.map_or_else(|_| "bpf-linker".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A checksum over names and contents of all sources.
fn sources_line() -> anyhow::Result<String> {
    let mut digest = Sha256::new();
    let mut files: Vec<PathBuf> = workspace::files()?;
    files.retain(|file| SOURCES.iter().any(|folder| file.starts_with(folder)));
    files.sort();
    for file in files {
        let bytes =
            fs::read(workspace::root().join(&file)).with_context(|| format!("cannot read {}", file.display()))?;
        digest.update(format!("{} {}\n", file.display(), bytes.len()));
        digest.update(bytes);
    }
    let mut line = "sources sha256 ".to_owned();
    for byte in digest.finalize() {
        write!(line, "{byte:02x}")?;
    }
    Ok(line)
}
