//! Licence expressions (SPDX 2.3, annex D).

/// Licences that shoal may be built from.
const ACCEPTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Exceptions that only give more rights.
const EXCEPTIONS: &[&str] = &["LLVM-exception"];

/// Whether the terms of `expression` can be met with accepted licences alone; `None` when it is not an expression.
pub(super) fn acceptable(expression: &str) -> Option<bool> {
    // Before SPDX, crates wrote `MIT/Apache-2.0`.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let value = either(&tokens, &mut at)?;
    (at == tokens.len()).then_some(value)
}

fn either(tokens: &[&str], at: &mut usize) -> Option<bool> {
    let mut value = both(tokens, at)?;
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        value |= both(tokens, at)?;
    }
    Some(value)
}

fn both(tokens: &[&str], at: &mut usize) -> Option<bool> {
    let mut value = one(tokens, at)?;
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        value &= one(tokens, at)?;
    }
    Some(value)
}

fn one(tokens: &[&str], at: &mut usize) -> Option<bool> {
    let token = *tokens.get(*at)?;
    *at += 1;
    match token {
        "(" => {
            let value = either(tokens, at)?;
            let closed = tokens.get(*at) == Some(&")");
            *at += 1;
            closed.then_some(value)
        }
        ")" | "OR" | "AND" | "WITH" => None,
        licence => {
            // `MPL-2.0+`: this version or a later one.
            let mut value = ACCEPTED.contains(&licence.strip_suffix('+').unwrap_or(licence));
            if tokens.get(*at) == Some(&"WITH") {
                value &= EXCEPTIONS.contains(tokens.get(*at + 1)?);
                *at += 2;
            }
            Some(value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_accepted_side_of_or_is_enough_and_and_needs_both() {
        for (expression, expected) in [
            ("MIT", Some(true)),
            ("GPL-3.0-only", Some(false)),
            ("MIT/Apache-2.0", Some(true)),
            ("GPL-2.0-only OR MIT", Some(true)),
            ("MIT AND GPL-2.0-only", Some(false)),
            ("(MIT OR GPL-2.0-only) AND ISC", Some(true)),
            ("MIT OR GPL-2.0-only AND ISC", Some(true)),
            ("(MIT OR ISC) AND GPL-2.0-only", Some(false)),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", Some(true)),
            ("Apache-2.0 WITH Strange-exception", Some(false)),
            ("MPL-2.0+", Some(true)),
            ("MIT OR", None),
            ("(MIT", None),
            ("MIT ISC", None),
            ("", None),
        ] {
            assert_eq!(acceptable(expression), expected, "{expression}");
        }
    }
}
