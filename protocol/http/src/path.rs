//! Path normalization (RFC 3986 section 6.2.2), so that one object has one name.

use std::borrow::Cow;

use thiserror::Error;

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
    let _ = path;
    todo!()
}
