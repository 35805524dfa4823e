//! What production code must not say.

use super::scan::Code;
use super::{Problem, Rule, Source};

pub(super) const FILE_LENGTH: Rule = Rule {
    name: "file-length",
    demands: "A .rs file has at most 700 lines of production code.",
    because: "past that there is a second thing in it that deserves a file of its own.",
};

pub(super) const BANNED_CALL: Rule = Rule {
    name: "banned-call",
    demands: "No .unwrap(), .expect(), panic!, todo!, unimplemented! or dbg! outside tests. `// tidy(banned-call): reason` excuses the line below it.",
    because: "input, network and disk will do what was thought impossible, and a shard that panics takes its node along.",
};

pub(super) const PRINT_IN_LIBRARY: Rule = Rule {
    name: "print-in-library",
    demands: "Libraries do not print.",
    because: "standard output belongs to the program, and logs are structured.",
};

pub(super) const BLOCKING_CALL: Rule = Rule {
    name: "blocking-call",
    demands: "What runs on a shard does not sleep and uses no blocking file, socket or name lookup, unless in spawn_blocking(…). `// tidy(blocking-call): reason` excuses the line below it.",
    because: "one blocked call stops every viewer of that core.",
};

pub(super) const UNSAFE: Rule = Rule {
    name: "unsafe",
    demands: "`unsafe` appears only in dataplane/sys and ebpf-probes.",
    because: "one small crate can be reviewed line by line.",
};

pub(super) const IGNORED_TEST: Rule = Rule {
    name: "ignored-test",
    demands: "No test is ignored.",
    because: "it would rot unseen; a test that cannot run here says so as a counted skip.",
};

pub(super) const ALLOW: Rule = Rule {
    name: "allow",
    demands: "`#[expect(lint, reason = \"…\")]` instead of `#[allow(lint)]`.",
    because: "an expectation that is no longer true is reported; an allowance stays for ever.",
};

const MAX_LINES: usize = 700;

/// A method of our own may be called `expect`; the standard library's takes a text.
const BANNED: &[&str] = &[".unwrap()", ".expect(\"", ".expect(&", "panic!", "todo!", "unimplemented!", "dbg!"];

const PRINTS: &[&str] = &["println!", "print!", "eprintln!", "eprint!"];

const BLOCKING: &[&str] = &[
    "thread::sleep(",
    "fs::read",
    "fs::write(",
    "fs::metadata(",
    "fs::canonicalize(",
    "File::open(",
    "File::create(",
    "TcpStream::connect(",
    "UdpSocket::bind(",
    "to_socket_addrs(",
    ".blocking_recv(",
];

/// Where blocking is meant: glommio runs the closure on another thread.
const OFF_SHARD: &str = "spawn_blocking";

/// What runs on a shard's thread.
const SHARD_CODE: &[&str] =
    &["dataplane/src/http", "dataplane/src/shard", "dataplane/src/slices", "dataplane/src/upstream"];

/// The only crates that may be unsafe: the kernel's edge, and what runs in the kernel, with its maps.
pub(super) const UNSAFE_CRATES: &[&str] = &["dataplane/sys", "ebpf-probes", "ebpf-probes/maps", "ebpf-probes/programs"];

/// Checks one file.
pub(super) fn check(source: &Source) -> Vec<Problem> {
    let Source { code, path, .. } = source;
    let mut problems = Vec::new();
    let off_shard = code.arguments(OFF_SHARD);
    let mut found = |rule: &Rule, needle: &str, tests_too: bool, message: &dyn Fn() -> String| {
        for at in code.find(needle) {
            let elsewhere = rule.name == BLOCKING_CALL.name && off_shard.iter().any(|range| range.contains(&at));
            if (tests_too || !code.is_test(at)) && !elsewhere && !code.excused(at, rule.name) {
                problems.push(Problem::new(rule, path.display(), code.line(at), message()));
            }
        }
    };
    if !UNSAFE_CRATES.contains(&source.package.as_str()) {
        found(&UNSAFE, "unsafe", true, &|| format!("unsafe code belongs into {}", UNSAFE_CRATES.join(", ")));
    }
    found(&IGNORED_TEST, "#[ignore", true, &|| "a test is ignored".to_owned());
    for attribute in ["#[allow(", "#![allow("] {
        found(&ALLOW, attribute, true, &|| "use #[expect(…, reason = …)]".to_owned());
    }
    if !source.test {
        for call in BANNED {
            found(&BANNED_CALL, call, false, &|| format!("`{call}` in production code; return an error"));
        }
        if source.library {
            for call in PRINTS {
                found(&PRINT_IN_LIBRARY, call, false, &|| format!("`{call}` in a library; use tracing"));
            }
        }
        let shown = path.to_string_lossy();
        if SHARD_CODE.iter().any(|prefix| shown.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['/', '.']))) {
            for call in BLOCKING {
                found(&BLOCKING_CALL, call, false, &|| format!("`{call}` would stop a whole shard"));
            }
        }
        problems.extend(length(code, &shown));
    }
    problems
}

fn length(code: &Code, path: &str) -> Option<Problem> {
    let lines = code.production_lines();
    let message = format!("{lines} lines of production code, more than {MAX_LINES}; look for the second thing in it");
    (lines > MAX_LINES).then(|| Problem::new(&FILE_LENGTH, path, 0, message))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let package = path.split_once("/src").map_or(path, |(package, _)| package).to_owned();
        let source = Source { path: PathBuf::from(path), code: Code::new(text), package, test: false, library: true };
        check(&source).into_iter().map(|problem| problem.rule).collect()
    }

    #[test]
    fn production_code_does_not_panic_but_tests_may() {
        for call in ["x.unwrap()", "x.expect(\"y\")", "panic!(\"y\")", "todo!()", "unimplemented!()", "dbg!(x)"] {
            assert_eq!(rules("a/src/b.rs", &format!("fn f() {{ {call} }}")), [BANNED_CALL.name], "{call}");
            let test = format!("#[cfg(test)]\nmod tests {{ fn f() {{ {call} }} }}");
            assert!(rules("a/src/b.rs", &test).is_empty(), "{call}");
        }
        assert!(
            rules("a/src/b.rs", "x.unwrap_or(0); y.expect_err(z); self.expect(db); std::panic::catch()").is_empty()
        );
        assert!(rules("a/src/b.rs", "// tidy(banned-call): checked above\nx.expect(\"y\")").is_empty());
    }

    #[test]
    fn libraries_do_not_print() {
        assert_eq!(rules("a/src/b.rs", "println!(\"x\")"), [PRINT_IN_LIBRARY.name]);
        assert_eq!(rules("a/src/b.rs", "eprintln!(\"x\")"), [PRINT_IN_LIBRARY.name]);
    }

    #[test]
    fn shards_do_not_block() {
        assert_eq!(rules("dataplane/src/slices/store.rs", "std::thread::sleep(x)"), [BLOCKING_CALL.name]);
        assert_eq!(rules("dataplane/src/upstream.rs", "(a, 1).to_socket_addrs()"), [BLOCKING_CALL.name]);
        assert_eq!(rules("dataplane/src/http/a.rs", "use std::fs::File; File::open(x)"), [BLOCKING_CALL.name]);
        assert!(
            rules("dataplane/src/http/a.rs", "executor().spawn_blocking(move || std::fs::read(x)).await").is_empty()
        );
        assert!(rules("dataplane/src/ledger.rs", "std::fs::read(x)").is_empty());
        assert!(
            rules("dataplane/src/shard/a.rs", "// tidy(blocking-call): before the executor starts\nstd::fs::read(x)")
                .is_empty()
        );
    }

    #[test]
    fn unsafe_stays_in_its_crate() {
        assert_eq!(rules("dataplane/src/a.rs", "unsafe { x }"), [UNSAFE.name]);
        assert!(rules("dataplane/sys/src/a.rs", "unsafe { x }").is_empty());
    }

    #[test]
    fn nothing_is_ignored_or_allowed() {
        assert_eq!(rules("a/src/b.rs", "#[cfg(test)]\nmod t { #[test] #[ignore] fn x() {} }"), [IGNORED_TEST.name]);
        assert_eq!(rules("a/src/b.rs", "#[allow(dead_code)] fn x() {}"), [ALLOW.name]);
        assert_eq!(rules("a/src/b.rs", "#![allow(dead_code)]"), [ALLOW.name]);
    }

    #[test]
    fn long_files_are_named_without_their_tests() {
        let long = "x();\n".repeat(MAX_LINES);
        assert!(rules("a/src/b.rs", &format!("{long}#[cfg(test)]\nmod t {{\n{long}}}\n")).is_empty());
        assert_eq!(rules("a/src/b.rs", &format!("{long}y();\n")), [FILE_LENGTH.name]);
    }
}
