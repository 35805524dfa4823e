//! Query strings and Cookie fields, as sent: nothing is decoded, for no signature needs it.

use std::borrow::Cow;

/// The value of the first parameter `name`; empty when it has none.
pub(crate) fn param<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| match pair.split_once('=') {
        Some((key, value)) => (key == name).then_some(value),
        None => (pair == name).then_some(""),
    })
}

/// The value of cookie `name` in a Cookie field (RFC 6265 section 4.2.1).
pub(crate) fn cookie<'a>(field: &'a str, name: &str) -> Option<&'a str> {
    field.split(';').find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
    })
}

/// `query` without the parameters that `drop` names.
pub(crate) fn strip(query: &str, drop: impl Fn(&str) -> bool) -> Cow<'_, str> {
    let dropped = |pair: &str| drop(pair.split_once('=').map_or(pair, |(key, _)| key));
    if !query.split('&').any(dropped) {
        return Cow::Borrowed(query);
    }
    let mut kept = String::new();
    for pair in query.split('&').filter(|pair| !dropped(pair)) {
        match kept.is_empty() {
            // Most often nothing is kept, and that needs no heap.
            true => kept.reserve(query.len()),
            false => kept.push('&'),
        }
        kept.push_str(pair);
    }
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = "a=1&b&ticket=x=y&a=2&c=";
        assert_eq!(param(query, "a"), Some("1"));
        assert_eq!(param(query, "b"), Some(""));
        assert_eq!(param(query, "c"), Some(""));
        assert_eq!(param(query, "ticket"), Some("x=y"));
        assert_eq!(param(query, "icket"), None);
        assert_eq!(param("", "a"), None);
    }

    #[test]
    fn cookies() {
        assert_eq!(cookie("a=b; ticket=x-_; c=d", "ticket"), Some("x-_"));
        assert_eq!(cookie("ticket=\"x\"", "ticket"), Some("x"));
        assert_eq!(cookie("xticket=x;ticketx=y;ticket", "ticket"), None);
    }

    #[test]
    fn stripping() {
        let drop = |name: &str| name == "ticket" || name == "t";
        assert_eq!(strip("a=1&ticket=x&b=2&t", drop), "a=1&b=2");
        assert_eq!(strip("ticket=x", drop), "");
        assert!(matches!(strip("a=1&tt=2", drop), Cow::Borrowed("a=1&tt=2")));
    }
}
