//! Stored header fields: lines of `name: value`, each ended by CRLF.

use std::borrow::Cow;

/// The lines that a stored response has after another response confirmed it (RFC 9111 section 3.2): each of `newer`
/// replaces all stored ones of its name. What is the same already stays in its place.
#[must_use]
pub fn merge_lines<'a>(stored: &'a [u8], newer: &[u8]) -> Cow<'a, [u8]> {
    let named = |all, line| lines(all).filter(move |other: &&[u8]| name(other).eq_ignore_ascii_case(name(line)));
    if lines(newer).all(|line| named(stored, line).eq(named(newer, line))) {
        return Cow::Borrowed(stored);
    }
    let mut merged = Vec::with_capacity(stored.len() + newer.len());
    for line in lines(stored) {
        if named(newer, line).next().is_none() {
            merged.extend_from_slice(line);
        }
    }
    merged.extend_from_slice(newer);
    Cow::Owned(merged)
}

/// Values of all lines with this name, in order.
pub fn field<'a>(stored: &'a [u8], wanted: &str) -> impl Iterator<Item = &'a [u8]> {
    lines(stored).filter(move |line| name(line).eq_ignore_ascii_case(wanted.as_bytes())).map(|line| {
        let value = line.get(name(line).len() + 1..).unwrap_or_default();
        value.trim_ascii()
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&byte| byte == b'\n')
}

fn name(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_lines_replace_all_of_their_name() {
        let merged = merge_lines(b"A: 1\r\nB: 2\r\na: 3\r\nC: x:y\r\n", b"A: 9\r\nD: 4\r\nA: 8\r\n");
        assert_eq!(String::from_utf8_lossy(&merged), "B: 2\r\nC: x:y\r\nA: 9\r\nD: 4\r\nA: 8\r\n");
        assert_eq!(&*merge_lines(b"", b"A: 1\r\n"), b"A: 1\r\n");
        assert_eq!(&*merge_lines(b"A: 1\r\nA: 2\r\n", b"A: 2\r\n"), b"A: 2\r\n");
        for newer in [&b""[..], b"A: 1\r\n", b"B: 2\r\nA: 1\r\n"] {
            assert!(matches!(merge_lines(b"A: 1\r\nB: 2\r\n", newer), Cow::Borrowed(_)));
        }
    }

    #[test]
    fn fields_by_name() {
        let stored = b"A: 1\r\nB: x: y\r\na:\r\n";
        assert!(field(stored, "a").eq([b"1".as_slice(), b""]));
        assert!(field(stored, "b").eq([b"x: y".as_slice()]));
        assert_eq!(field(stored, "").count(), 0);
        assert_eq!(field(b"", "a").count(), 0);
    }
}
