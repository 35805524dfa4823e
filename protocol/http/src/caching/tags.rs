//! Surrogate-Key and Cache-Tag: names that an origin gives to objects so that they can be purged together.

/// Tags of one object that are kept.
const TAGS_MAX: usize = 64;

/// Bytes of one object's tags that are kept.
const BYTES_MAX: usize = 4 << 10;

/// The tags in the values of all Surrogate-Key lines (between spaces) and Cache-Tag lines (between commas), each once and
/// with a space between them. Beyond the limits tags are left out: an object with thousands of them is not purged by all.
pub fn tags<'a>(
    surrogate_keys: impl IntoIterator<Item = &'a [u8]>,
    cache_tags: impl IntoIterator<Item = &'a [u8]>,
) -> String {
    let by_space = surrogate_keys.into_iter().flat_map(|line| line.split(|&byte| byte == b' '));
    let by_comma = cache_tags.into_iter().flat_map(|line| line.split(|&byte| byte == b','));
    let mut tags = String::new();
    let mut count = 0;
    for tag in by_space.chain(by_comma).map(<[u8]>::trim_ascii) {
        let Some(tag) = std::str::from_utf8(tag).ok().filter(|tag| is_tag(tag)) else { continue };
        if has_tag(&tags, tag) || count == TAGS_MAX || tags.len() + tag.len() >= BYTES_MAX {
            continue;
        }
        if count > 0 {
            tags.push(' ');
        }
        tags.push_str(tag);
        count += 1;
    }
    tags
}

/// Whether it can be a tag: visible ASCII without commas, of at most 256 bytes.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    (1..=256).contains(&tag.len()) && tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// Whether `tag` is among `tags`, as [`tags`] gives them.
#[must_use]
pub fn has_tag(tags: &str, tag: &str) -> bool {
    tags.split(' ').any(|other| other == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read() {
        let read = |keys: &[&str], tags: &[&str]| {
            super::tags(keys.iter().map(|line| line.as_bytes()), tags.iter().map(|line| line.as_bytes()))
        };
        assert_eq!(read(&["a  b", "c a"], &["d, e,b", ""]), "a b c d e");
        assert_eq!(read(&["\u{e9} ok"], &["x y,z"]), "ok z");
        assert_eq!(read(&[], &[]), "");
        assert!(has_tag("a bc", "bc") && !has_tag("a bc", "b") && !has_tag("", "a"));
    }

    #[test]
    fn tags_are_bounded() {
        let many: Vec<String> = (0..1000).map(|nth| format!("tag-{nth}")).collect();
        let kept = tags([many.join(" ").as_bytes()], []);
        assert_eq!(kept.split(' ').count(), TAGS_MAX);
        let long: Vec<String> = (0..64).map(|nth| format!("{nth}{}", "x".repeat(200))).collect();
        assert!(tags([long.join(" ").as_bytes()], []).len() < BYTES_MAX);
        assert_eq!(tags(["x".repeat(257).as_bytes()], []), "");
    }
}
