//! Entity tags (RFC 9110 section 8.8.3).

use crate::grammar::trim;

/// One entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag<'a> {
    /// `W/` stands before it.
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// Reads a value that is one entity tag and nothing else.
    #[must_use]
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let (tag, rest) = Self::take(trim(value))?;
        rest.is_empty().then_some(tag)
    }

    /// The entity tags of a comma-separated list, up to the first malformed one.
    pub fn list(value: &'a [u8]) -> impl Iterator<Item = Self> {
        let mut rest = value;
        std::iter::from_fn(move || {
            while let [b' ' | b'\t' | b',', after @ ..] = rest {
                rest = after;
            }
            let (tag, after) = Self::take(rest)?;
            // A tag is followed by a comma or the end.
            rest = trim(after);
            matches!(rest, [] | [b',', ..]).then_some(tag)
        })
    }

    fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (weak, quoted) = match bytes {
            [b'W', b'/', b'"', rest @ ..] => (true, rest),
            [b'"', rest @ ..] => (false, rest),
            _ => return None,
        };
        let end = quoted.iter().position(|&byte| matches!(byte, 0..=b' ' | b'"' | 0x7f))?;
        match quoted.split_at_checked(end)? {
            (opaque, [b'"', rest @ ..]) => Some((Self { weak, opaque }, rest)),
            _ => None,
        }
    }

    /// Strong comparison: equal and neither is weak.
    #[must_use]
    pub fn strong_eq(&self, other: &EntityTag<'_>) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Weak comparison: equal, weak or not.
    #[must_use]
    pub fn weak_eq(&self, other: &EntityTag<'_>) -> bool {
        self.opaque == other.opaque
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_table() {
        // RFC 9110 section 8.8.3.2.
        for (a, b, strong, weak) in [
            ("W/\"1\"", "W/\"1\"", false, true),
            ("W/\"1\"", "W/\"2\"", false, false),
            ("W/\"1\"", "\"1\"", false, true),
            ("\"1\"", "\"1\"", true, true),
        ] {
            let (a, b) = (EntityTag::parse(a.as_bytes()).unwrap(), EntityTag::parse(b.as_bytes()).unwrap());
            assert_eq!((a.strong_eq(&b), a.weak_eq(&b)), (strong, weak), "{a:?} {b:?}");
        }
    }

    #[test]
    fn malformed_tags() {
        for text in ["", "abc", "\"abc", "abc\"", "w/\"a\"", "W/a", "\"a b\"", "\"a\"b", "\"a\", \"b\"", "*"] {
            assert_eq!(EntityTag::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(EntityTag::parse(b"\"\"").unwrap().opaque, b"");
        assert_eq!(EntityTag::parse(b"\"a,b\"").unwrap().opaque, b"a,b");
    }

    #[test]
    fn lists() {
        let opaque = |text: &'static str| EntityTag::list(text.as_bytes()).map(|tag| tag.opaque).collect::<Vec<_>>();
        assert_eq!(opaque("\"xyzzy\", W/\"r2,d2\" ,,\"c3\""), [b"xyzzy".as_slice(), b"r2,d2", b"c3"]);
        assert_eq!(opaque("\"a\", b, \"c\""), [b"a".as_slice()]);
        assert!(opaque("\"a\" \"c\"").is_empty());
        assert!(opaque("*").is_empty());
    }
}
