//! Query strings as lists of `name=value`.

/// The `name=value` pairs of a query, as sent (still escaped). A pair without `=` has an empty value; empty pairs are
/// skipped.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let _ = query;
    std::iter::empty()
}

/// Value of the first pair whose name equals `name`, as sent.
#[must_use]
pub fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let _ = (query, name);
    todo!()
}

/// Appends the pairs whose name `keep` accepts, joined by `&`, in their order and with escapes normalized as
/// [`crate::path::normalize`] does; `keep` sees the name so normalized. Nothing is appended when none is kept.
pub fn filter(query: &str, keep: impl Fn(&str) -> bool, out: &mut String) {
    let _ = (query, &keep, out);
}
