//! Conditional requests (RFC 9110 section 13).

use crate::{
    date,
    entity_tag::EntityTag,
    headers::{Headers, Known},
    request::{Method, RequestHead},
};

/// Validators of the selected representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Validators<'a> {
    /// ETag as in the header: `"abc"` or `W/"abc"`.
    pub etag: Option<&'a str>,
    /// Last-Modified in Unix seconds, as the origin sent it. Leave it out for If-Range when it lies less than a second
    /// before the response's Date: it is a weak validator then (RFC 9110 section 8.8.2.2).
    pub last_modified: Option<u64>,
}

/// What the preconditions of a request come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answer as if there were none.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Evaluates the preconditions in the order of RFC 9110 section 13.2.2, against a representation that exists. If-Range is
/// left to [`if_range_holds`].
#[must_use]
pub fn evaluate(request: &RequestHead<'_>, validators: &Validators<'_>) -> Outcome {
    if matches!(request.method, Method::Options | Method::Connect | Method::Trace) {
        return Outcome::Proceed;
    }
    let headers = &request.headers;
    if headers.known(Known::IfMatch).is_some() {
        if !matches_any(headers, Known::IfMatch, validators, |a, b| a.strong_eq(b)) {
            return Outcome::PreconditionFailed;
        }
    } else if let Some((modified, since)) = dates(headers, Known::IfUnmodifiedSince, validators)
        && modified > since
    {
        return Outcome::PreconditionFailed;
    }

    let reads = matches!(request.method, Method::Get | Method::Head);
    if headers.known(Known::IfNoneMatch).is_some() {
        if matches_any(headers, Known::IfNoneMatch, validators, |a, b| a.weak_eq(b)) {
            return if reads { Outcome::NotModified } else { Outcome::PreconditionFailed };
        }
    } else if let Some((modified, since)) = dates(headers, Known::IfModifiedSince, validators)
        && reads
        && modified <= since
    {
        return Outcome::NotModified;
    }
    Outcome::Proceed
}

/// Whether a Range header is to be honoured: no If-Range, or one that holds (RFC 9110 section 13.1.5). Entity tags are
/// compared strongly, dates exactly. A malformed or repeated If-Range does not hold, so the whole is sent.
#[must_use]
pub fn if_range_holds(request: &RequestHead<'_>, validators: &Validators<'_>) -> bool {
    if request.headers.known(Known::IfRange).is_none() {
        return true;
    }
    let Some(value) = request.headers.single(Known::IfRange) else { return false };
    if let Some(tag) = EntityTag::parse(value) {
        return validators.entity_tag().is_some_and(|current| current.strong_eq(&tag));
    }
    let date = date::parse(value);
    date.is_some() && date == validators.last_modified
}

impl<'a> Validators<'a> {
    fn entity_tag(&self) -> Option<EntityTag<'a>> {
        EntityTag::parse(self.etag?.as_bytes())
    }
}

/// Whether a list header is `*` or has a tag equal to the representation's.
fn matches_any(
    headers: &Headers<'_>,
    name: Known,
    validators: &Validators<'_>,
    equal: impl Fn(&EntityTag<'_>, &EntityTag<'_>) -> bool,
) -> bool {
    let current = validators.entity_tag();
    headers.all(name).any(|value| {
        value == b"*"
            || current.is_some_and(|current| EntityTag::list(value).any(|candidate| equal(&current, &candidate)))
    })
}

/// The representation's date and the header's. `None` when either is missing, or the header malformed or repeated: it
/// counts for nothing then.
fn dates(headers: &Headers<'_>, name: Known, validators: &Validators<'_>) -> Option<(u64, u64)> {
    Some((validators.last_modified?, date::parse(headers.single(name)?)?))
}

#[cfg(test)]
mod tests;
