use super::*;
use crate::request::{Limits, parse_request};

const DATE: u64 = 784_111_777;
const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

const STRONG: Validators<'static> = Validators { etag: Some("\"a\""), last_modified: Some(DATE) };
const WEAK: Validators<'static> = Validators { etag: Some("W/\"a\""), last_modified: Some(DATE) };
const NOTHING: Validators<'static> = Validators { etag: None, last_modified: None };

fn with<T>(method: &str, lines: &str, check: impl FnOnce(&RequestHead<'_>) -> T) -> T {
    let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    check(&parse_request(text.as_bytes(), &Limits::default()).unwrap().unwrap().0)
}

fn outcome(method: &str, lines: &str, validators: &Validators<'_>) -> Outcome {
    with(method, lines, |head| evaluate(head, validators))
}

fn get(lines: &str, validators: &Validators<'_>) -> Outcome {
    let outcome_of_get = outcome("GET", lines, validators);
    assert_eq!(outcome("HEAD", lines, validators), outcome_of_get, "HEAD answers like GET");
    outcome_of_get
}

#[test]
fn if_none_match() {
    for (value, validators, expected) in [
        ("\"a\"", STRONG, Outcome::NotModified),
        ("W/\"a\"", STRONG, Outcome::NotModified),
        ("\"a\"", WEAK, Outcome::NotModified),
        ("\"b\", W/\"a\"", STRONG, Outcome::NotModified),
        ("\"b\"\r\nIf-None-Match: \"a\"", STRONG, Outcome::NotModified),
        ("*", STRONG, Outcome::NotModified),
        ("*", NOTHING, Outcome::NotModified),
        ("\"b\"", STRONG, Outcome::Proceed),
        ("\"a\"", NOTHING, Outcome::Proceed),
        ("a", STRONG, Outcome::Proceed),
        ("", STRONG, Outcome::Proceed),
    ] {
        assert_eq!(get(&format!("If-None-Match: {value}\r\n"), &validators), expected, "{value:?}");
    }
    assert_eq!(outcome("PUT", "If-None-Match: *\r\n", &STRONG), Outcome::PreconditionFailed);
}

#[test]
fn if_match() {
    for (value, validators, expected) in [
        ("\"a\"", STRONG, Outcome::Proceed),
        ("\"b\", \"a\"", STRONG, Outcome::Proceed),
        ("*", STRONG, Outcome::Proceed),
        ("W/\"a\"", STRONG, Outcome::PreconditionFailed),
        ("\"a\"", WEAK, Outcome::PreconditionFailed),
        ("\"b\"", STRONG, Outcome::PreconditionFailed),
        ("\"a\"", NOTHING, Outcome::PreconditionFailed),
    ] {
        assert_eq!(get(&format!("If-Match: {value}\r\n"), &validators), expected, "{value:?}");
    }
}

#[test]
fn dates() {
    for (name, value, expected) in [
        ("If-Modified-Since", AT, Outcome::NotModified),
        ("If-Modified-Since", AFTER, Outcome::NotModified),
        ("If-Modified-Since", BEFORE, Outcome::Proceed),
        ("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT", Outcome::NotModified),
        ("If-Modified-Since", "yesterday", Outcome::Proceed),
        ("If-Unmodified-Since", AT, Outcome::Proceed),
        ("If-Unmodified-Since", AFTER, Outcome::Proceed),
        ("If-Unmodified-Since", BEFORE, Outcome::PreconditionFailed),
        ("If-Unmodified-Since", "yesterday", Outcome::Proceed),
    ] {
        let line = format!("{name}: {value}\r\n");
        assert_eq!(get(&line, &STRONG), expected, "{line}");
        assert_eq!(get(&line, &NOTHING), Outcome::Proceed, "{line} without a date counts for nothing");
        let twice = format!("{line}{line}");
        assert_eq!(get(&twice, &STRONG), Outcome::Proceed, "{line} twice counts for nothing");
    }
    let line = format!("If-Modified-Since: {AT}\r\n");
    assert_eq!(outcome("POST", &line, &STRONG), Outcome::Proceed, "only for GET and HEAD");
}

#[test]
fn precedence() {
    // RFC 9110 section 13.2.2: a tag switches the date of its own kind off; a failed match comes before all.
    for (lines, expected) in [
        (format!("If-Match: \"a\"\r\nIf-Unmodified-Since: {BEFORE}\r\n"), Outcome::Proceed),
        (format!("If-Match: \"b\"\r\nIf-Unmodified-Since: {AFTER}\r\n"), Outcome::PreconditionFailed),
        (format!("If-None-Match: \"b\"\r\nIf-Modified-Since: {AFTER}\r\n"), Outcome::Proceed),
        (format!("If-None-Match: \"a\"\r\nIf-Modified-Since: {BEFORE}\r\n"), Outcome::NotModified),
        ("If-Match: \"b\"\r\nIf-None-Match: \"a\"\r\n".to_owned(), Outcome::PreconditionFailed),
        ("If-None-Match: \"a\"\r\nIf-Match: \"a\"\r\n".to_owned(), Outcome::NotModified),
        (format!("If-Unmodified-Since: {BEFORE}\r\nIf-None-Match: \"a\"\r\n"), Outcome::PreconditionFailed),
        (String::new(), Outcome::Proceed),
    ] {
        assert_eq!(get(&lines, &STRONG), expected, "{lines:?}");
    }
    assert_eq!(outcome("OPTIONS", "If-Match: \"b\"\r\n", &STRONG), Outcome::Proceed);
}

#[test]
fn if_range() {
    let holds = |value: &str, validators: &Validators<'_>| {
        with("GET", &format!("Range: bytes=0-1\r\nIf-Range: {value}\r\n"), |head| if_range_holds(head, validators))
    };
    assert!(holds("\"a\"", &STRONG));
    assert!(holds(AT, &STRONG));
    assert!(holds(AT, &WEAK));
    for value in ["\"b\"", "W/\"a\"", BEFORE, AFTER, "*", "", "a", "\"a\", \"b\""] {
        assert!(!holds(value, &STRONG), "{value:?}");
    }
    assert!(!holds("\"a\"", &WEAK));
    assert!(!holds("W/\"a\"", &WEAK));
    assert!(!holds(AT, &NOTHING) && !holds("yesterday", &NOTHING) && !holds("\"a\"", &NOTHING));
    assert!(!holds("\"a\"\r\nIf-Range: \"a\"", &STRONG));
    assert!(with("GET", "Range: bytes=0-1\r\n", |head| if_range_holds(head, &NOTHING)));
}
