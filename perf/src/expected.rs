//! What the answers of a target must look like.

use std::cell::Cell;

use crate::plan::Target;
use crate::response::Head;

/// A target and what is known of its answers; what the user did not say, the first answer sets.
#[derive(Debug)]
pub struct Expected {
    /// The whole request. Leaked: the kernel may read it during every send, and the program ends with the run.
    pub request: &'static [u8],
    /// The path and query, for messages.
    pub path: String,
    status: u16,
    bytes: Cell<Option<u64>>,
    hash: Cell<Option<u64>>,
}

impl Expected {
    /// Expects `status` and, if given, `bytes` of body.
    pub fn new(target: Target, status: u16, bytes: Option<u64>) -> Self {
        let Target { request, path, .. } = target;
        Self { request: Vec::leak(request), path, status, bytes: Cell::new(bytes), hash: Cell::new(None) }
    }

    /// Compares one answer, with the hash of its body where one was taken; `Err` says what was wrong.
    pub fn check(&self, head: &Head, hash: Option<u64>) -> Result<(), String> {
        let Self { path, status, .. } = self;
        if head.status != *status {
            return Err(format!("{path}: status {} instead of {status}", head.status));
        }
        let bytes = self.bytes.get().unwrap_or(head.body_len);
        self.bytes.set(Some(bytes));
        if head.body_len != bytes {
            return Err(format!("{path}: {} body bytes instead of {bytes}", head.body_len));
        }
        let first = self.hash.get().or(hash);
        self.hash.set(first);
        if hash.is_some() && hash != first {
            return Err(format!("{path}: the body differs from the first one"));
        }
        if head.close {
            return Err(format!("{path}: the server closes a keep-alive connection"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head { status: 200, body_len: 10, head_len: 50, close: false };

    fn expected(bytes: Option<u64>) -> Expected {
        Expected::new(Target { request: Vec::new(), path: "/x".to_owned(), digits: None }, 200, bytes)
    }

    #[test]
    fn the_first_answer_sets_what_was_not_given() {
        let expected = expected(None);
        assert_eq!(expected.check(&HEAD, Some(1)), Ok(()));
        assert!(expected.check(&Head { body_len: 11, ..HEAD }, Some(1)).unwrap_err().contains("11 body bytes"));
        assert!(expected.check(&HEAD, Some(2)).unwrap_err().contains("differs"));
    }

    #[test]
    fn given_values_hold_from_the_first_answer_on() {
        let expected = expected(Some(11));
        assert!(expected.check(&HEAD, None).unwrap_err().contains("instead of 11"));
        assert!(expected.check(&Head { status: 403, ..HEAD }, None).unwrap_err().contains("status 403"));
        assert!(expected.check(&Head { body_len: 11, close: true, ..HEAD }, None).unwrap_err().contains("closes"));
    }
}
