//! Query strings as lists of `name=value`.

use crate::grammar::{QUERY, UNRESERVED, hex, push_escape};

/// The `name=value` pairs of a query, as sent (still escaped). A pair without `=` has an empty value; empty pairs are
/// skipped.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Value of the first pair whose name is spelled `name`, as sent.
#[must_use]
pub fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    pairs(query).find_map(|(key, value)| (key == name).then_some(value))
}

/// Appends the pairs whose name `keep` accepts, joined by `&` and in their order. Nothing is appended when none is kept.
///
/// Escapes are normalized like those of paths: unreserved characters decoded, the others in upper case, what no URI may
/// hold escaped, a `%` that starts no escape becomes `%25`. `keep` sees the name so normalized, so a parameter cannot
/// hide behind another spelling. The result is a fixed point.
pub fn filter(query: &str, keep: impl Fn(&str) -> bool, out: &mut String) {
    let start = out.len();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let before = out.len();
        if before > start {
            out.push('&');
        }
        let name_at = out.len();
        let (name, value) = match pair.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (pair, None),
        };
        push_normalized(name.as_bytes(), out);
        if !out.get(name_at..).is_some_and(&keep) {
            out.truncate(before);
            continue;
        }
        if let Some(value) = value {
            out.push('=');
            push_normalized(value.as_bytes(), out);
        }
    }
}

fn push_normalized(mut text: &[u8], out: &mut String) {
    while let [byte, rest @ ..] = text {
        text = rest;
        if *byte != b'%' {
            if QUERY.has(*byte) {
                out.push(char::from(*byte))
            } else {
                push_escape(*byte, out)
            }
            continue;
        }
        let escape = match rest {
            [high, low, rest @ ..] => hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low, rest)),
            _ => None,
        };
        match escape {
            Some((byte, rest)) => {
                text = rest;
                if UNRESERVED.has(byte) { out.push(char::from(byte)) } else { push_escape(byte, out) }
            }
            None => push_escape(b'%', out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(query: &str, allow: &[&str]) -> String {
        let mut out = String::new();
        filter(query, |name| allow.contains(&name), &mut out);
        let mut again = String::new();
        filter(&out, |name| allow.contains(&name), &mut again);
        assert_eq!(again, out, "{query} is a fixed point");
        out
    }

    #[test]
    fn pairs_as_sent() {
        assert!(pairs("a=1&&b&c==&=d&").eq([("a", "1"), ("b", ""), ("c", "="), ("", "d")]));
        assert_eq!(pairs("").count(), 0);
        assert_eq!(value("a=1&a=2&b=%20", "a"), Some("1"));
        assert_eq!(value("a=1&a=2&b=%20", "b"), Some("%20"));
        assert_eq!(value("ab=1", "a"), None);
    }

    #[test]
    fn only_what_is_allowed_is_kept_in_order() {
        assert_eq!(filtered("sign=x&v=2&CMCD=br%3D1&q=1&v=1", &["v", "q"]), "v=2&q=1&v=1");
        assert_eq!(filtered("sign=x", &["v"]), "");
        assert_eq!(filtered("", &["v"]), "");
        assert_eq!(filtered("v&v=", &["v"]), "v&v=");
    }

    #[test]
    fn spellings_become_one() {
        assert_eq!(filtered("%76=%61%2f|", &["v"]), "v=a%2F%7C");
        assert_eq!(filtered("v=100%&v=%4&v=%zz", &["v"]), "v=100%25&v=%254&v=%25zz");
        assert_eq!(filtered("v=%26%3d", &["v"]), "v=%26%3D");
        let mut kept = "before?".to_owned();
        filter("si%67n=x&a=b", |name| name != "sign", &mut kept);
        assert_eq!(kept, "before?a=b");
    }
}
