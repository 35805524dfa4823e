//! Which files belong to which package: a walk along `mod` declarations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::imports::Target;
use super::scan::{Code, is_word};
use super::{Problem, Rule, Source};

pub(super) const UNUSED_FILE: Rule = Rule {
    name: "unused-file",
    demands: "Every .rs file is a target or is reached from one by `mod`.",
    because: "a file that nobody compiles looks like code and is none.",
};

/// Every file that is compiled, found from the targets' root files.
pub(super) fn reachable(packages: &[(String, Vec<Target>)], read: &dyn Fn(&Path) -> Option<String>) -> Vec<Source> {
    let mut found = BTreeMap::new();
    for (folder, targets) in packages {
        for target in targets {
            let test = folder == "tests" || matches!(target.kind.as_str(), "test" | "bench" | "example");
            let library = !matches!(target.kind.as_str(), "bin" | "test" | "bench" | "example" | "custom-build");
            let children = target.path.parent().unwrap_or(Path::new("")).to_owned();
            walk(&target.path, &children, &Role { package: folder, test, library }, read, &mut found);
        }
    }
    found.into_values().collect()
}

struct Role<'a> {
    package: &'a str,
    test: bool,
    library: bool,
}

fn walk(
    path: &Path,
    children: &Path,
    role: &Role<'_>,
    read: &dyn Fn(&Path) -> Option<String>,
    found: &mut BTreeMap<PathBuf, Source>,
) {
    if let Some(known) = found.get_mut(path) {
        // Compiled twice: the stricter rules hold.
        let again = (known.test && !role.test) || (!known.library && role.library);
        known.test &= role.test;
        known.library |= role.library;
        if !again {
            return;
        }
    }
    let Some(text) = read(path) else { return };
    let code = Code::new(&text);
    for module in declared(&code) {
        let folder = module.inside.iter().fold(children.to_owned(), |folder, name| folder.join(name));
        let candidates = match &module.path {
            Some(explicit) => vec![path.parent().unwrap_or(Path::new("")).join(explicit)],
            None => vec![folder.join(format!("{}.rs", module.name)), folder.join(&module.name).join("mod.rs")],
        };
        let Some(file) = candidates.into_iter().find(|file| read(file).is_some()) else { continue };
        let below = if file.ends_with("mod.rs") {
            file.parent().unwrap_or(Path::new("")).to_owned()
        } else {
            file.with_extension("")
        };
        let role = Role { test: role.test || module.test, ..*role };
        walk(&file, &below, &role, read, found);
    }
    let source = Source {
        path: path.to_owned(),
        code,
        package: role.package.to_owned(),
        test: role.test,
        library: role.library,
    };
    found.entry(path.to_owned()).or_insert(source);
}

/// A `mod name;`.
#[derive(Debug, PartialEq)]
struct Module {
    name: String,
    /// Inline modules around it, from the outside in.
    inside: Vec<String>,
    /// Of a `#[path]` attribute.
    path: Option<String>,
    test: bool,
}

fn declared(code: &Code) -> Vec<Module> {
    let bytes = code.blank.as_bytes();
    let mut modules = Vec::new();
    for at in code.find("mod") {
        let after = code.blank[at + 3..].trim_start();
        let len = after.bytes().take_while(|byte| is_word(*byte)).count();
        let (name, rest) = after.split_at(len);
        if name.is_empty() || !rest.trim_start().starts_with(';') {
            continue;
        }
        // The attributes of the item: back to what ends the item before it.
        let start = bytes[..at].iter().rposition(|byte| matches!(byte, b';' | b'{' | b'}')).map_or(0, |end| end + 1);
        let path = code.raw[start..at].split_once("#[path = \"").and_then(|(_, rest)| rest.split_once('"'));
        modules.push(Module {
            name: name.to_owned(),
            inside: inline_modules(code, at),
            path: path.map(|(path, _)| path.to_owned()),
            // What a fuzz target runs is a test that has to be reachable from outside.
            test: code.is_test(at) || name == "fuzzing",
        });
    }
    modules
}

/// Names of the inline modules that are open at `offset`.
fn inline_modules(code: &Code, offset: usize) -> Vec<String> {
    let mut open: Vec<Option<String>> = Vec::new();
    let text = &code.blank[..offset];
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => {
                let before = text[..at].trim_end();
                let name = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
                let keyword = before[..before.len() - name.len()].trim_end();
                open.push(keyword.ends_with("mod").then(|| name.to_owned()));
            }
            b'}' => drop(open.pop()),
            _ => {}
        }
    }
    open.into_iter().flatten().collect()
}

/// Files of Rust that no target reaches.
pub(super) fn unused(files: &[PathBuf], sources: &[Source]) -> Vec<Problem> {
    files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| sources.iter().all(|source| source.path != **path))
        .map(|path| {
            Problem::new(&UNUSED_FILE, path.display(), 0, "no target reaches this file; declare it or delete it")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Vec<Source> {
        let target = Target { name: "a".to_owned(), kind: "lib".to_owned(), path: PathBuf::from("a/src/lib.rs") };
        let read =
            |path: &Path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned());
        reachable(&[("a".to_owned(), vec![target])], &read)
    }

    #[test]
    fn files_are_reached_by_every_kind_of_declaration() {
        let files = [
            (
                "a/src/lib.rs",
                "mod b; pub mod c; mod fuzzing; mod i { mod j; }\n#[path = \"odd/name.rs\"]\nmod k;\n#[cfg(test)]\nmod t;",
            ),
            ("a/src/b.rs", "mod d;"),
            ("a/src/b/d.rs", ""),
            ("a/src/c/mod.rs", "pub(crate) mod e;"),
            ("a/src/c/e.rs", "// mod forgotten;"),
            ("a/src/i/j.rs", ""),
            ("a/src/odd/name.rs", ""),
            ("a/src/t.rs", "mod u;"),
            ("a/src/t/u.rs", ""),
            ("a/src/fuzzing.rs", ""),
            ("a/src/forgotten.rs", ""),
        ];
        let sources = sources(&files);
        let paths: Vec<PathBuf> = files.iter().map(|(path, _)| PathBuf::from(path)).collect();
        let problems = unused(&paths, &sources);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].place, "a/src/forgotten.rs");
        let mut tests: Vec<_> = sources.iter().filter(|source| source.test).map(|source| source.path.clone()).collect();
        tests.sort();
        assert_eq!(tests, [Path::new("a/src/fuzzing.rs"), Path::new("a/src/t/u.rs"), Path::new("a/src/t.rs")]);
    }
}
