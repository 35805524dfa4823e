//! Patterns of channel ids, asset paths and packages.
//!
//! `*` stands for any run of characters, slashes included and also for none; every other character for itself. Case counts. So a
//! pattern without a star is one name. Matching looks for each piece between stars once, from where the last one ended, which
//! takes time linear in text and pattern, whatever both are.

/// Longest pattern in bytes.
pub const MAX_PATTERN: usize = 256;

/// A pattern, prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// What stands before, between and behind the stars; one piece: no star.
    pieces: Vec<Box<str>>,
    literal: u16,
}

impl Glob {
    /// Prepares a pattern; none when it is empty or longer than [`MAX_PATTERN`].
    pub fn new(pattern: &str) -> Option<Self> {
        if pattern.is_empty() || pattern.len() > MAX_PATTERN {
            return None;
        }
        let pieces: Vec<Box<str>> = pattern.split('*').map(Box::from).collect();
        let literal = pieces.iter().map(|piece| piece.len() as u16).sum();
        Some(Self { pieces, literal })
    }

    /// Whether it is the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.pieces.split_first() else { return false };
        let Some((last, middle)) = rest.split_last() else { return **first == *text };
        let Some(mut text) = text.strip_prefix(&**first).and_then(|text| text.strip_suffix(&**last)) else {
            return false;
        };
        // The leftmost place leaves the most room for what follows.
        for piece in middle {
            let Some(at) = text.find(&**piece) else { return false };
            text = text.get(at + piece.len()..).unwrap_or_default();
        }
        true
    }

    /// The one name that it stands for, if it has no star.
    pub fn exact(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// How specific it is: the bytes that stand for themselves; a pattern without a star is beyond all that have one.
    pub fn rank(&self) -> u16 {
        if self.exact().is_some() { MAX_PATTERN as u16 + 1 } else { self.literal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries every length of every star.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
            [byte, rest @ ..] => text.first() == Some(byte) && naive(rest, &text[1..]),
        }
    }

    #[test]
    fn stars_stand_for_any_run() {
        for (pattern, text, matches) in [
            ("room1", "room1", true),
            ("room1", "room12", false),
            ("room*", "room", true),
            ("room*", "room/1", true),
            ("*.m3u8", "a/b/index.m3u8", true),
            ("vod/*/index.m3u8", "vod/a/b/index.m3u8", true),
            ("vod/*/index.m3u8", "vod/index.m3u8", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*", "", true),
            ("**", "x", true),
            ("?", "x", false),
            ("Room", "room", false),
            ("*é*", "aéb", true),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(text), matches, "{pattern} {text}");
        }
        assert!(Glob::new("").is_none() && Glob::new(&"a".repeat(MAX_PATTERN + 1)).is_none());
    }

    #[test]
    fn random_patterns_agree_with_trying_everything() {
        let mut random = crate::fuzzing::Random::new(3);
        let mut hits = 0;
        for _ in 0..20_000 {
            let mut text = |most: u64, letters: &[u8]| -> String {
                (0..random.below(most)).map(|_| letters[random.below(letters.len() as u64) as usize] as char).collect()
            };
            let (pattern, text) = (text(7, b"ab*"), text(9, b"ab"));
            let Some(glob) = Glob::new(&pattern) else { continue };
            let expected = naive(pattern.as_bytes(), text.as_bytes());
            assert_eq!(glob.matches(&text), expected, "{pattern} {text}");
            hits += usize::from(expected);
        }
        assert!(hits > 1_000, "{hits}");
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_a_plain_one() {
        let glob = Glob::new(&"a*".repeat(MAX_PATTERN / 2)).unwrap();
        let text = format!("{}b", "a".repeat(1 << 20));
        assert!(glob.matches(&text));
        let never = Glob::new(&format!("{}c", "a*".repeat(MAX_PATTERN / 2 - 1))).unwrap();
        assert!(!never.matches(&text));
    }

    #[test]
    fn what_has_no_star_is_most_specific() {
        let rank = |pattern: &str| Glob::new(pattern).unwrap().rank();
        assert!(rank("a") > rank(&format!("{}*", "a".repeat(MAX_PATTERN - 1))));
        assert!(rank("room*") > rank("ro*") && rank("*") == 0);
    }
}
