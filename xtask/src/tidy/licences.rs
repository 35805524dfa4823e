//! Licences of everything that is built in.

use serde_json::Value;

use super::{Problem, Rule, spdx};
use crate::workspace::array;

pub(super) const LICENCE: Rule = Rule {
    name: "licence",
    demands: "Every package in Cargo.lock must be usable under MIT, Apache-2.0, BSD, ISC, MPL-2.0 or an equally free licence.",
    because: "operators get binaries, and what they may do with them must not hang on one crate in four hundred.",
};

/// Checks every package that `cargo metadata` knows.
pub(super) fn check(metadata: &Value) -> Vec<Problem> {
    array(metadata, "packages").filter_map(package).collect()
}

fn package(package: &Value) -> Option<Problem> {
    let field = |name: &str| package[name].as_str().unwrap_or_default();
    let message = match field("license") {
        "" => "names no licence in its manifest".to_owned(),
        expression => match spdx::acceptable(expression) {
            Some(true) => return None,
            Some(false) => format!("is under `{expression}`, which shoal may not be built from"),
            None => format!("has a licence that is no SPDX expression: `{expression}`"),
        },
    };
    let place = format!("{} {}", field("name"), field("version"));
    Some(Problem::new(&LICENCE, place, 0, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offender_is_named() {
        let metadata = serde_json::json!({"packages": [
            {"name": "fine", "version": "1.0.0", "license": "MIT OR GPL-3.0-only"},
            {"name": "viral", "version": "2.0.0", "license": "AGPL-3.0-only"},
            {"name": "silent", "version": "3.0.0", "license": null},
        ]});
        let problems = check(&metadata);
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 2);
        assert!(text[0].starts_with("viral 2.0.0: is under `AGPL-3.0-only`"), "{}", text[0]);
        assert!(text[1].starts_with("silent 3.0.0: names no licence"), "{}", text[1]);
    }
}
