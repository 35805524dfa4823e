//! Programs that other people wrote, installed by package name.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where a program is, if it is installed. Debian keeps daemons out of an ordinary user's PATH, and PostgreSQL's programs in a
/// folder for each release.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let releases = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let releases = releases.map(|release| release.path().join("bin"));
    env::split_paths(&path).chain(system).chain(releases).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Programs, and the Debian packages that have them.
pub(crate) type Wanted<'a> = (&'a str, &'a str);

/// Installs what is missing of `wanted`, where root and apt are there. The programs that still are, and why.
pub(crate) fn install(wanted: &[Wanted<'_>]) -> Vec<(String, String)> {
    let missing: Vec<&Wanted<'_>> = wanted.iter().filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let reason = if find("apt-get").is_none() {
        "there is no apt-get here".to_owned()
    } else if !rustix::process::geteuid().is_root() {
        "apt-get needs root".to_owned()
    } else {
        let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        println!("installing {}", packages.join(" "));
        let ran = apt(&["update"]).and_then(|()| {
            // All at once is fast; one by one so that one package that is not to be had does not keep the others away.
            let all: Vec<&str> =
                ["install", "--yes", "--no-install-recommends"].into_iter().chain(packages.clone()).collect();
            apt(&all).or_else(|_| {
                packages.iter().try_for_each(|package| apt(&["install", "--yes", "--no-install-recommends", package]))
            })
        });
        ran.err().unwrap_or_else(|| "its package has no such program".to_owned())
    };
    missing
        .into_iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(program, package)| ((*program).to_owned(), format!("package {package}: {reason}")))
        .collect()
}

/// Installs Debian packages, where root and apt are there; or says why not.
pub(crate) fn install_packages(packages: &[&str]) -> Result<(), String> {
    if find("apt-get").is_none() {
        return Err("there is no apt-get here".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("apt-get needs root".to_owned());
    }
    println!("installing {}", packages.join(" "));
    let all: Vec<&str> =
        ["install", "--yes", "--no-install-recommends"].into_iter().chain(packages.iter().copied()).collect();
    apt(&["update"]).and_then(|()| apt(&all))
}

/// The same for what a task cannot do without.
pub(crate) fn require(wanted: &[Wanted<'_>]) -> anyhow::Result<()> {
    let missing = install(wanted);
    let list: Vec<String> =
        missing.iter().map(|(program, reason)| format!("{program} is missing ({reason})")).collect();
    anyhow::ensure!(list.is_empty(), "{}", list.join("; "));
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("cannot run apt-get: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| line.starts_with("E:")).unwrap_or("no message");
    Err(format!("apt-get {} failed: {last}", arguments.first().unwrap_or(&"")))
}
