//! Rules: who uses P2P, and with which parameters.

use shoal_conf::Rule;

use super::documents::{self, Words};
use crate::rest::openapi::Routes;

/// One page of rules.
pub type RulePage = documents::Page<Rule>;

const WORDS: Words = Words {
    all: "/api/v1/rules",
    one: "/api/v1/rules/{id}",
    list: ("listRules", "Lists P2P rules."),
    create: ("createRule", "Creates a rule."),
    read: ("readRule", "Reads a rule."),
    replace: ("replaceRule", "Replaces a rule, or creates it."),
    patch: "patchRule",
    delete: ("deleteRule", "Deletes a rule."),
    missing: "There is no such rule.",
    taken: "There is such a rule.",
    stale: "The rule was changed meanwhile.",
};

pub(super) fn add(routes: Routes) -> Routes {
    documents::add::<Rule>(routes, &WORDS)
}
