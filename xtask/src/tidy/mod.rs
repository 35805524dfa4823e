//! What people forget, checked by a program.

mod calls;
mod files;
mod imports;
mod licences;
mod modules;
mod scan;
mod spdx;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::workspace;

/// A rule's name, what it demands, and why.
pub(crate) struct Rule {
    name: &'static str,
    demands: &'static str,
    because: &'static str,
}

/// Every rule, in the order of `--explain`.
const RULES: &[&Rule] = &[
    &imports::DIRECTION,
    &imports::PURE_PROTOCOL,
    &imports::LEAN_XTASK,
    &licences::LICENCE,
    &files::FILE_SIZE,
    &files::ABSOLUTE_PATH,
    &files::WORKSPACE_LINTS,
    &files::FORBID_UNSAFE,
    &modules::UNUSED_FILE,
    &calls::FILE_LENGTH,
    &calls::BANNED_CALL,
    &calls::PRINT_IN_LIBRARY,
    &calls::BLOCKING_CALL,
    &calls::UNSAFE,
    &calls::IGNORED_TEST,
    &calls::ALLOW,
];

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// The file, or the package.
    place: String,
    line: usize,
    rule: &'static str,
    message: String,
}

impl Problem {
    fn new(rule: &Rule, place: impl fmt::Display, line: usize, message: impl Into<String>) -> Self {
        Self { place: place.to_string(), line, rule: rule.name, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, line, rule, message } = self;
        match line {
            0 => write!(f, "{place}: {message} [{rule}]"),
            _ => write!(f, "{place}:{line}: {message} [{rule}]"),
        }
    }
}

/// A file of Rust, and what it is for.
struct Source {
    /// Relative to the root folder.
    path: PathBuf,
    code: scan::Code,
    /// The folder of its package, relative to the root folder.
    package: String,
    /// Compiled only into tests.
    test: bool,
    /// Part of a library (perhaps also of a program).
    library: bool,
}

/// `cargo xtask tidy`
pub(crate) fn run(explain: bool) -> anyhow::Result<ExitCode> {
    if explain {
        for rule in RULES {
            println!("{}\n    {}\n    Because {}\n", rule.name, rule.demands, rule.because);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (problems, files) = check()?;
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() {
        println!("tidy: {} rules hold in {files} files", RULES.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} problems; `cargo xtask tidy --explain` says what the rules are for", problems.len());
    Ok(ExitCode::FAILURE)
}

/// Checks everything; the problems, and how many files were looked at.
fn check() -> anyhow::Result<(Vec<Problem>, usize)> {
    let root = workspace::root();
    let metadata = workspace::metadata(&["--locked"])?;
    let packages = imports::own_packages(&metadata, &root);
    let files = workspace::files()?;
    let mut problems = imports::check(&packages);
    problems.extend(licences::check(&metadata));
    for path in &files {
        let bytes = fs::read(root.join(path)).with_context(|| format!("cannot read {}", path.display()))?;
        problems.extend(files::check(path, &bytes));
    }
    for package in &packages {
        let manifest = fs::read_to_string(root.join(&package.folder).join("Cargo.toml"))?;
        problems.extend(files::check_manifest(package, &manifest));
        for target in &package.targets {
            problems.extend(files::check_root(package, target, &fs::read_to_string(root.join(&target.path))?));
        }
    }
    let read = |path: &Path| fs::read_to_string(root.join(path)).ok();
    let mut roots: Vec<_> = packages.iter().map(|package| (package.folder.clone(), package.targets.clone())).collect();
    // Workspaces of their own.
    for manifest in ["fuzz/Cargo.toml", "ebpf-probes/programs/Cargo.toml"] {
        if root.join(manifest).is_file() {
            let other = workspace::metadata(&["--no-deps", "--manifest-path", manifest])?;
            let packages = imports::own_packages(&other, &root).into_iter();
            roots.extend(packages.map(|package| (package.folder, package.targets)));
        }
    }
    let sources = modules::reachable(&roots, &read);
    problems.extend(modules::unused(&files, &sources));
    for source in &sources {
        problems.extend(calls::check(source));
    }
    problems.sort();
    problems.dedup();
    Ok((problems, files.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_name_of_its_own_and_a_reason() {
        for (index, rule) in RULES.iter().enumerate() {
            assert!(!rule.demands.is_empty() && !rule.because.is_empty(), "{}", rule.name);
            assert!(RULES[..index].iter().all(|other| other.name != rule.name), "{}", rule.name);
        }
    }
}
