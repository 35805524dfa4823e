//! Files of every kind, manifests, and crate roots.

use std::path::Path;

use super::calls::UNSAFE_CRATES;
use super::imports::{Package, Target};
use super::{Problem, Rule};

pub(super) const FILE_SIZE: Rule = Rule {
    name: "file-size",
    demands: "No file is larger than 600 KiB.",
    because: "a repository never forgets what was once committed.",
};

pub(super) const ABSOLUTE_PATH: Rule = Rule {
    name: "absolute-path",
    demands: "No file names a folder of somebody's machine.",
    because: "it works there and nowhere else.",
};

pub(super) const WORKSPACE_LINTS: Rule = Rule {
    name: "workspace-lints",
    demands: "Every manifest says `[lints] workspace = true`.",
    because: "a crate without it is checked less than the others, silently.",
};

pub(super) const FORBID_UNSAFE: Rule = Rule {
    name: "forbid-unsafe",
    demands: "Every library and program but dataplane/sys and ebpf-probes' programs and maps starts with #![forbid(unsafe_code)].",
    because: "the compiler holds this rule better than people do.",
};

const MAX_BYTES: usize = 600 << 10;

/// Written in two parts, or this file would break its own rule.
const MACHINE_FOLDERS: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("/tm", "p/"),
    concat!("C:", "\\"),
];

/// Checks size and content of any file.
pub(super) fn check(path: &Path, bytes: &[u8]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if bytes.len() > MAX_BYTES {
        let message = format!("{} KiB, more than {}", bytes.len() >> 10, MAX_BYTES >> 10);
        problems.push(Problem::new(&FILE_SIZE, path.display(), 0, message));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        for (number, line) in text.lines().enumerate() {
            for folder in MACHINE_FOLDERS {
                if names_folder(line, folder) {
                    let message = format!("names a folder of one machine, {folder}");
                    problems.push(Problem::new(&ABSOLUTE_PATH, path.display(), number + 1, message));
                }
            }
        }
    }
    problems
}

/// Whether `line` has `folder` at the start of a path, not within one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '*' | '}' | ')'))
    })
}

/// Checks a package's manifest.
pub(super) fn check_manifest(package: &Package, manifest: &str) -> Option<Problem> {
    let mut in_lints = false;
    let inherits = manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            in_lints = line == "[lints]";
        }
        in_lints && line.replace(' ', "") == "workspace=true"
    });
    let place = format!("{}/Cargo.toml", package.folder);
    (!inherits).then(|| Problem::new(&WORKSPACE_LINTS, place, 0, "add `[lints]` with `workspace = true`"))
}

/// Checks the root file of a target.
pub(super) fn check_root(package: &Package, target: &Target, text: &str) -> Option<Problem> {
    let wanted = matches!(target.kind.as_str(), "lib" | "bin") && !UNSAFE_CRATES.contains(&package.folder.as_str());
    let message = format!("{} `{}` lacks #![forbid(unsafe_code)]", target.kind, target.name);
    (wanted && !text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]"))
        .then(|| Problem::new(&FORBID_UNSAFE, target.path.display(), 0, message))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::super::imports::own_packages;
    use super::*;

    fn package(folder: &str) -> Package {
        let metadata = json!({"workspace_members": ["a"], "packages": [{
            "id": "a", "name": "a", "manifest_path": format!("/r/{folder}/Cargo.toml"), "dependencies": [],
            "targets": [],
        }]});
        own_packages(&metadata, Path::new("/r")).remove(0)
    }

    #[test]
    fn large_files_and_machine_folders_are_found() {
        assert_eq!(check(Path::new("a.bin"), &vec![0; MAX_BYTES + 1])[0].rule, FILE_SIZE.name);
        for (line, bad) in [
            (concat!("x = \"/ho", "me/me/x\""), true),
            (concat!("cd /wo", "rk/main"), true),
            (concat!("$root/wo", "rk/main"), false),
            (concat!("https://example.com/ho", "me/"), false),
            ("/var/lib/shoal", false),
        ] {
            assert_eq!(check(Path::new("a.md"), line.as_bytes()).len(), usize::from(bad), "{line}");
        }
    }

    #[test]
    fn manifests_inherit_the_lints() {
        assert!(check_manifest(&package("a"), "[package]\n[lints]\nworkspace = true\n").is_none());
        for manifest in ["[package]\n", "[dependencies]\nworkspace = true\n", "[lints.rust]\nx = \"warn\"\n"] {
            assert!(check_manifest(&package("a"), manifest).is_some(), "{manifest}");
        }
    }

    #[test]
    fn crates_forbid_unsafe_code() {
        let target = |kind: &str| Target { name: "a".into(), kind: kind.into(), path: PathBuf::from("a/src/lib.rs") };
        assert!(check_root(&package("a"), &target("lib"), "//! A.\nmod b;").is_some());
        assert!(check_root(&package("a"), &target("bin"), "fn main() {}").is_some());
        assert!(check_root(&package("a"), &target("test"), "").is_none());
        assert!(check_root(&package("a"), &target("lib"), "#![forbid(unsafe_code)]\n").is_none());
        assert!(check_root(&package("dataplane/sys"), &target("lib"), "").is_none());
    }
}
