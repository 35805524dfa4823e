//! Path normalization (RFC 3986 section 6.2.2), so that one object has one name.

use std::borrow::Cow;

use thiserror::Error;

use crate::grammar::{PATH, UNRESERVED, hex, push_escape};

/// Why a path was refused; the answer is 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathError {
    /// Does not start with a slash.
    #[error("path does not start with `/`")]
    NotAbsolute,
    /// `%` is not followed by two hexadecimal digits.
    #[error("path has a `%` that is not followed by two hexadecimal digits")]
    BadEscape,
    /// A control character, raw or escaped (`%00` among them).
    #[error("path has a control character")]
    Control,
    /// A backslash, raw or escaped.
    #[error("path has a backslash")]
    Backslash,
    /// `..` goes above the root.
    #[error("path goes above its root with `..`")]
    AboveRoot,
    /// `?` or `#`: not a path.
    #[error("path has a `?` or `#`")]
    Delimiter,
}

/// The one spelling of a path: escapes of unreserved characters decoded, other escapes in upper case, dot segments
/// removed, characters that no path may hold escaped. Borrows when there is nothing to do.
///
/// An escaped slash stays escaped, and empty segments stay: both name other objects. The result is a fixed point.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, PathError> {
    let Some(relative) = path.strip_prefix('/') else { return Err(PathError::NotAbsolute) };
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let mut out = String::with_capacity(path.len() + 8);
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        out.push('/');
        push_segment(segment.as_bytes(), &mut out)?;
        match out.get(start + 1..) {
            Some(".") => out.truncate(start),
            Some("..") => {
                out.truncate(start);
                let parent = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(parent);
            }
            _ => continue,
        }
        // A path that ends in a dot segment names a folder.
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    Ok(Cow::Owned(out))
}

/// Whether there is nothing to escape, decode or remove. May say no to what turns out to be normal.
fn is_normal(path: &[u8]) -> bool {
    let mut previous = 0;
    path.iter().all(|&byte| {
        let after_slash = std::mem::replace(&mut previous, byte) == b'/';
        byte == b'/' || PATH.has(byte) && !(byte == b'.' && after_slash)
    })
}

fn push_segment(mut segment: &[u8], out: &mut String) -> Result<(), PathError> {
    while let [byte, rest @ ..] = segment {
        segment = rest;
        let (byte, escaped) = match (byte, rest) {
            (b'%', [high, low, rest @ ..]) => {
                let (Some(high), Some(low)) = (hex(*high), hex(*low)) else { return Err(PathError::BadEscape) };
                segment = rest;
                (high << 4 | low, true)
            }
            (b'%', _) => return Err(PathError::BadEscape),
            (byte, _) => (*byte, false),
        };
        match byte {
            0..=0x1f | 0x7f => return Err(PathError::Control),
            b'\\' => return Err(PathError::Backslash),
            b'?' | b'#' if !escaped => return Err(PathError::Delimiter),
            _ if UNRESERVED.has(byte) || !escaped && PATH.has(byte) => out.push(char::from(byte)),
            _ => push_escape(byte, out),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_paths_become_one() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b.ts", "/a/b.ts"),
            // RFC 3986 sections 5.2.4 and 6.2.2.
            ("/a/b/c/./../../g", "/a/g"),
            ("/%7Euser/%7euser", "/~user/~user"),
            ("/%3a%3A:", "/%3A%3A:"),
            ("/a/./b/../b/%63/%7bfoo%7d", "/a/b/c/%7Bfoo%7D"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/.", "/"),
            ("/./a", "/a"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            // Not dot segments.
            ("/.../..a/a../.a", "/.../..a/a../.a"),
            // An escaped slash and an escaped percent sign do not come to life.
            ("/a%2fb", "/a%2Fb"),
            ("/a/..%2fb", "/a/..%2Fb"),
            ("/%252e%252e/", "/%252e%252e/"),
            // Empty segments are segments.
            ("//a///b", "//a///b"),
            ("/a//../b", "/a/b"),
            // What no URI may hold gets escaped; UTF-8 stays escaped.
            ("/a|b\"{}[]^`<>", "/a%7Cb%22%7B%7D%5B%5D%5E%60%3C%3E"),
            ("/%e4%b8%ad", "/%E4%B8%AD"),
            ("/中", "/%E4%B8%AD"),
            ("/a%20b%3f%23", "/a%20b%3F%23"),
        ] {
            let normal = normalize(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(normal, expected, "{path}");
            assert_eq!(normalize(&normal).unwrap(), expected, "{path} is a fixed point");
        }
    }

    #[test]
    fn an_ordinary_path_is_borrowed() {
        assert!(matches!(normalize("/demo/720p/seg-00012.m4s"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn hostile_paths_are_refused() {
        for (path, error) in [
            ("", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
            ("*", PathError::NotAbsolute),
            ("/..", PathError::AboveRoot),
            ("/../a", PathError::AboveRoot),
            ("/a/../..", PathError::AboveRoot),
            ("/%2e%2e/etc/passwd", PathError::AboveRoot),
            ("/a/b/../../../c", PathError::AboveRoot),
            ("/%00", PathError::Control),
            ("/a%0d%0aX:b", PathError::Control),
            ("/%7f", PathError::Control),
            ("/a\tb", PathError::Control),
            ("/a\\b", PathError::Backslash),
            ("/a%5cb", PathError::Backslash),
            ("/%", PathError::BadEscape),
            ("/%4", PathError::BadEscape),
            ("/%zz", PathError::BadEscape),
            ("/%+1", PathError::BadEscape),
            ("/a?b", PathError::Delimiter),
            ("/a#b", PathError::Delimiter),
        ] {
            assert_eq!(normalize(path), Err(error), "{path}");
        }
    }
}
