//! Who may import whom.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Problem, Rule};
use crate::workspace::array;

pub(super) const DIRECTION: Rule = Rule {
    name: "dependency-direction",
    demands: "protocol imports only protocol; dataplane and control-plane import protocol and config, never each other, and dataplane also ebpf-probes; ebpf-probes imports only protocol/packet; perf imports of the planes only dataplane/sys; sdk imports only protocol; nobody imports xtask.",
    because: "the planes must be able to live, die and be released apart.",
};

pub(super) const PURE_PROTOCOL: Rule = Rule {
    name: "pure-protocol",
    demands: "A protocol crate imports no runtime, socket, clock or random number crate.",
    because: "what the bytes mean can then be tested and fuzzed with nothing but bytes.",
};

pub(super) const LEAN_XTASK: Rule = Rule {
    name: "lean-xtask",
    demands: "xtask imports only what is listed here.",
    because: "every task waits for xtask to build first.",
};

/// Folders, and whose packages may be imported there: by the first part of their folder, or by all of it.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("protocol", &["protocol"]),
    ("config", &[]),
    ("dataplane", &["protocol", "config", "dataplane", "ebpf-probes"]),
    ("control-plane", &["protocol", "config", "control-plane"]),
    ("ebpf-probes", &["protocol/packet", "ebpf-probes"]),
    ("perf", &["protocol", "dataplane/sys", "ebpf-probes"]),
    ("sdk", &["protocol"]),
    ("tests", &["protocol", "config", "ebpf-probes", "perf"]),
    ("xtask", &[]),
];

const IMPURE: &[&str] = &[
    "axum",
    "crossbeam",
    "getrandom",
    "glommio",
    "io-uring",
    "libc",
    "rand",
    "rustix",
    "socket2",
    "tokio",
    "tokio-uring",
];

const XTASK_MAY: &[&str] = &["anyhow", "clap", "rustix", "serde_json", "sha2", "signal-hook"];

/// A package of ours.
#[derive(Debug, Clone)]
pub(super) struct Package {
    pub(super) name: String,
    /// Relative to the root folder.
    pub(super) folder: String,
    /// Names of what it imports, with the folder for those in the repository.
    imports: Vec<(String, Option<String>)>,
    pub(super) targets: Vec<Target>,
}

/// Something that a package builds.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) name: String,
    /// `lib`, `bin`, `test`, `bench`, `example` or `custom-build`.
    pub(super) kind: String,
    /// Of its root file, relative to the root folder.
    pub(super) path: PathBuf,
}

/// The packages of a workspace.
pub(super) fn own_packages(metadata: &Value, root: &Path) -> Vec<Package> {
    let relative = |path: &Value| {
        let path = Path::new(path.as_str()?).strip_prefix(root).ok()?;
        Some(path.to_owned())
    };
    let ours = |package: &&Value| array(metadata, "workspace_members").any(|id| *id == package["id"]);
    array(metadata, "packages")
        .filter(ours)
        .filter_map(|package| {
            let folder = relative(&package["manifest_path"])?.parent()?.to_string_lossy().into_owned();
            let imports = array(package, "dependencies")
                .filter_map(|import| {
                    let folder = relative(&import["path"]).map(|path| path.to_string_lossy().into_owned());
                    Some((import["name"].as_str()?.to_owned(), folder))
                })
                .collect();
            let targets = array(package, "targets")
                .filter_map(|target| {
                    Some(Target {
                        name: target["name"].as_str()?.to_owned(),
                        kind: target["kind"][0].as_str()?.to_owned(),
                        path: relative(&target["src_path"])?,
                    })
                })
                .collect();
            Some(Package { name: package["name"].as_str()?.to_owned(), folder, imports, targets })
        })
        .collect()
}

/// Checks the imports of every package.
pub(super) fn check(packages: &[Package]) -> Vec<Problem> {
    packages.iter().flat_map(imports).collect()
}

fn imports(package: &Package) -> Vec<Problem> {
    let top = top(&package.folder);
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(folder, _)| *folder == top) else {
        let message = format!("`{top}` is not among the folders whose imports are laid down in xtask's tidy");
        return vec![Problem::new(&DIRECTION, &package.name, 0, message)];
    };
    let mut problems = Vec::new();
    for (name, folder) in &package.imports {
        match folder {
            Some(folder) if !allowed.contains(&self::top(folder)) && !allowed.contains(&folder.as_str()) => {
                let message = format!("imports {name}; what is in {top} may import only {}", listed(allowed));
                problems.push(Problem::new(&DIRECTION, &package.name, 0, message));
            }
            None if top == "protocol" && IMPURE.contains(&name.as_str()) => {
                let message = format!("imports {name}; protocol crates hold no socket, clock, async or randomness");
                problems.push(Problem::new(&PURE_PROTOCOL, &package.name, 0, message));
            }
            None if top == "xtask" && !XTASK_MAY.contains(&name.as_str()) => {
                let message = format!("imports {name}; xtask may import only {}", XTASK_MAY.join(", "));
                problems.push(Problem::new(&LEAN_XTASK, &package.name, 0, message));
            }
            _ => {}
        }
    }
    problems
}

fn top(folder: &str) -> &str {
    folder.split('/').next().unwrap_or(folder)
}

fn listed(folders: &[&str]) -> String {
    if folders.is_empty() { "packages from outside".to_owned() } else { folders.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(folder: &str, imports: &[(&str, Option<&str>)]) -> Vec<&'static str> {
        let package = Package {
            name: "a".to_owned(),
            folder: folder.to_owned(),
            imports: imports.iter().map(|(name, folder)| ((*name).to_owned(), folder.map(str::to_owned))).collect(),
            targets: Vec::new(),
        };
        check(&[package]).into_iter().map(|problem| problem.rule).collect()
    }

    #[test]
    fn the_planes_never_import_each_other() {
        assert_eq!(problems("dataplane", &[("shoal-control", Some("control-plane"))]), [DIRECTION.name]);
        assert_eq!(problems("control-plane", &[("shoal-sys", Some("dataplane/sys"))]), [DIRECTION.name]);
        assert_eq!(problems("protocol/http", &[("shoal-config", Some("config"))]), [DIRECTION.name]);
        assert_eq!(problems("tests", &[("xtask", Some("xtask"))]), [DIRECTION.name]);
        assert_eq!(problems("elsewhere", &[]), [DIRECTION.name]);
        assert_eq!(problems("perf", &[("shoal-dataplane", Some("dataplane"))]), [DIRECTION.name]);
        assert!(problems("perf", &[("shoal-sys", Some("dataplane/sys"))]).is_empty());
        assert_eq!(problems("sdk/peer", &[("shoal-sys", Some("dataplane/sys"))]), [DIRECTION.name]);
        assert_eq!(problems("dataplane", &[("shoal-peer", Some("sdk/peer"))]), [DIRECTION.name]);
        assert!(problems("sdk/peer", &[("shoal-stun", Some("protocol/stun")), ("clap", None)]).is_empty());
        let fine = [("shoal-sys", Some("dataplane/sys")), ("shoal-http", Some("protocol/http")), ("glommio", None)];
        assert!(problems("dataplane", &fine).is_empty());
    }

    #[test]
    fn protocol_crates_import_no_runtime() {
        assert_eq!(problems("protocol/http", &[("tokio", None)]), [PURE_PROTOCOL.name]);
        assert!(problems("protocol/http", &[("thiserror", None)]).is_empty());
    }

    #[test]
    fn xtask_stays_small() {
        assert_eq!(problems("xtask", &[("glommio", None)]), [LEAN_XTASK.name]);
        assert!(problems("xtask", &[("clap", None)]).is_empty());
    }
}
