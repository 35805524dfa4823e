//! Conditional requests (RFC 9110 section 13).

use crate::request::RequestHead;

/// Validators of the selected representation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Validators<'a> {
    /// ETag as in the header: `"abc"` or `W/"abc"`.
    pub etag: Option<&'a str>,
    /// Last-Modified in Unix seconds.
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

/// Evaluates the preconditions in the order of RFC 9110 section 13.2.2, against a representation that exists.
#[must_use]
pub fn evaluate(request: &RequestHead<'_>, validators: &Validators<'_>) -> Outcome {
    let _ = (request, validators);
    todo!()
}

/// Whether a Range header is to be honoured: no If-Range, or one that holds (RFC 9110 section 13.1.5). Entity tags are
/// compared strongly, dates exactly.
#[must_use]
pub fn if_range_holds(request: &RequestHead<'_>, validators: &Validators<'_>) -> bool {
    let _ = (request, validators);
    todo!()
}
