//! Media types by file name.

/// Media type for the extension of a path's last segment, without regard to case; `None` when unknown.
#[must_use]
pub fn for_path(path: &str) -> Option<&'static str> {
    let _ = path;
    todo!()
}
