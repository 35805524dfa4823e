//! CDN-Loop (RFC 8586): which content delivery nodes a request has passed.

use crate::grammar::elements;

/// Whether one of the CDN-Loop lines names `id`, a pseudonym. Parameters do not count; neither does case.
pub fn names<'a>(lines: impl IntoIterator<Item = &'a [u8]>, id: &str) -> bool {
    lines.into_iter().flat_map(elements).any(|info| {
        let end = info.iter().position(|&byte| matches!(byte, b';' | b' ' | b'\t')).unwrap_or(info.len());
        info.get(..end).is_some_and(|name| name.eq_ignore_ascii_case(id.as_bytes()))
    })
}

/// All lines in one, to be sent on. `None` when that is longer than `most` bytes, which says that the request has been
/// about for too long, or has a byte above 127.
pub fn joined<'a>(lines: impl IntoIterator<Item = &'a [u8]>, most: usize) -> Option<String> {
    let mut value = String::new();
    for element in lines.into_iter().flat_map(elements) {
        if !value.is_empty() {
            value.push_str(", ");
        }
        value.push_str(std::str::from_utf8(element).ok().filter(|text| text.is_ascii())?);
    }
    (value.len() <= most).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_finds_itself() {
        let lines: [&[u8]; 2] =
            [b"foo123.foocdn.example, barcdn.example; trace=\"abcdef\"", b"AnotherCDN; abc=123; def=\"456\""];
        for id in ["foo123.foocdn.example", "barcdn.example", "anothercdn"] {
            assert!(names(lines, id), "{id}");
        }
        for id in ["foocdn.example", "abcdef", "trace", "456", ""] {
            assert!(!names(lines, id), "{id}");
        }
        assert!(!names([], "a"));
    }

    #[test]
    fn lines_are_sent_on_in_one() {
        assert_eq!(joined([], 100).as_deref(), Some(""));
        let lines: [&[u8]; 2] = [b"one; x=1,two", b"three"];
        assert_eq!(joined(lines, 100).as_deref(), Some("one; x=1, two, three"));
        assert_eq!(joined(lines, 10), None);
        assert_eq!(joined(["\u{e9}".as_bytes()], 100), None);
    }
}
