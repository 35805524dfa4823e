use std::fmt::Debug;

use crate::{
    error::HeadError,
    headers::{Headers, Known, Limits, MAX_HEADERS},
    path, query,
    range::RangeSet,
    request::{RequestBody, parse_request},
    response::{BodyFraming, parse_response},
    writer::HeadWriter,
};

/// Small enough for a fuzzer to reach them.
const LIMITS: Limits = Limits { head_bytes: 2048, headers: 24, request_line_bytes: 512 };

type Parsed<T> = Result<Option<(T, usize)>, HeadError>;

/// Request heads.
pub fn request_head(bytes: &[u8]) {
    let parsed = parse_request(bytes, &LIMITS);
    prefixes(bytes, &parsed, |bytes| parse_request(bytes, &LIMITS));
    refusal(&parsed, &[400, 414, 431, 501, 505]);
    let Ok(Some((head, used))) = parsed else { return };

    headers(&head.headers, bytes, used);
    assert!(head.target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
    assert!(head.path.starts_with('/') || head.path == "*");
    assert!(head.target.ends_with(head.query.unwrap_or_default()));
    assert!(head.host.is_none_or(|host| !host.is_empty() && !host.contains(['/', '@', '?', ' '])));
    assert!(head.body != RequestBody::Length(0));
    assert!(head.body != RequestBody::Chunked || head.header("content-length").is_none());

    if let Ok(normal) = path::normalize(head.path) {
        assert!(normal.starts_with('/') && !normal.contains('\\'));
        assert!(normal.split('/').all(|segment| segment != "." && segment != ".."));
        assert_eq!(path::normalize(&normal).as_deref(), Ok(&*normal), "a normal path stays as it is");
        assert!(HeadWriter::request(&mut Vec::new(), "GET", &normal).is_ok(), "a normal path can be asked for");
    }
    if let Some(text) = head.query {
        let (mut once, mut twice) = (String::new(), String::new());
        query::filter(text, |_| true, &mut once);
        query::filter(&once, |_| true, &mut twice);
        assert_eq!(once, twice, "a filtered query stays as it is");
        assert_eq!(query::pairs(text).count(), query::pairs(&once).count());
    }
    if let Some(value) = head.headers.known(Known::Range) {
        let _ = RangeSet::parse(value, 8);
    }

    // Written again, it is read as the same request.
    let mut again = Vec::new();
    let mut writer = HeadWriter::request(&mut again, head.method_name(), head.target).unwrap_or_else(refused);
    copy_headers(&mut writer, &head.headers);
    writer.finish();
    let roomy = Limits { head_bytes: LIMITS.head_bytes * 2, ..LIMITS };
    // HTTP/1.0 becomes 1.1, which asks for a Host and lets a connection live.
    if head.version == crate::request::Version::Http11 {
        let Ok(Some((second, used))) = parse_request(&again, &roomy) else { panic!("not read again: {again:?}") };
        assert_eq!(used, again.len());
        assert_eq!((second.method, second.path, second.query), (head.method, head.path, head.query));
        assert_eq!((second.host, second.body, second.keep_alive()), (head.host, head.body, head.keep_alive()));
        assert!(second.headers.iter().eq(head.headers.iter()));
    }
}

/// Response heads; the first byte says whether the request was a HEAD.
pub fn response_head(bytes: &[u8]) {
    let Some((flag, bytes)) = bytes.split_first() else { return };
    let request_was_head = flag & 1 == 1;
    let parsed = parse_response(bytes, &LIMITS, request_was_head);
    prefixes(bytes, &parsed, |bytes| parse_response(bytes, &LIMITS, request_was_head));
    refusal(&parsed, &[400, 414, 431, 501, 505]);
    let Ok(Some((head, used))) = parsed else { return };

    headers(&head.headers, bytes, used);
    assert!((100..=999).contains(&head.status));
    let bodiless = request_was_head || matches!(head.status, 100..=199 | 204 | 304);
    match head.body {
        BodyFraming::None => assert!(bodiless || head.content_length == Some(0)),
        BodyFraming::Length(length) => assert!(length > 0 && head.content_length == Some(length)),
        BodyFraming::Chunked => assert!(head.content_length.is_none()),
        BodyFraming::UntilClose => assert!(!head.keep_alive() && head.content_length.is_none()),
    }

    let mut again = Vec::new();
    let mut writer = HeadWriter::response(&mut again, head.status);
    copy_headers(&mut writer, &head.headers);
    writer.finish();
    let roomy = Limits { head_bytes: LIMITS.head_bytes * 2, ..LIMITS };
    // A response of HTTP/1.0 becomes one of 1.1, where a connection may live.
    let Ok(Some((second, used))) = parse_response(&again, &roomy, request_was_head) else {
        panic!("not read again: {again:?}")
    };
    assert_eq!(used, again.len());
    assert_eq!((second.status, second.body, second.content_length), (head.status, head.body, head.content_length));
    assert!(second.headers.iter().eq(head.headers.iter()));
}

/// A prefix of a complete head asks for more; more bytes behind a complete or refused head change nothing.
fn prefixes<'a, T: Debug>(bytes: &'a [u8], parsed: &Parsed<T>, parse: impl Fn(&'a [u8]) -> Parsed<T>) {
    match parsed {
        Ok(Some((_, used))) => {
            assert!(*used > 0 && *used <= bytes.len() && *used <= LIMITS.head_bytes);
            for end in ends(*used) {
                let prefix = parse(&bytes[..end]);
                assert!(matches!(prefix, Ok(None)), "prefix of {end} of {used}: {prefix:?}");
            }
            let Ok(Some((_, again))) = parse(&bytes[..*used]) else { panic!("not read without what follows") };
            assert_eq!(again, *used);
        }
        Ok(None) => {
            assert!(bytes.len() < LIMITS.head_bytes, "a head over the limit does not ask for more");
            for end in ends(bytes.len()) {
                assert!(matches!(parse(&bytes[..end]), Ok(None)), "prefix of {end} of an incomplete head");
            }
        }
        Err(_) => {
            // Each prefix asks for more, until one is refused; from there on all are.
            let mut refused = false;
            for end in ends(bytes.len().min(LIMITS.head_bytes)) {
                match parse(&bytes[..end]) {
                    Ok(None) => assert!(!refused, "refused before {end} bytes, but not there"),
                    Ok(Some(_)) => panic!("complete after {end} bytes, but refused with more"),
                    Err(_) => refused = true,
                }
            }
        }
    }
}

/// Lengths of prefixes to try: all of short inputs; of long ones some, and the last few. All would make a fuzzer slow.
fn ends(length: usize) -> impl Iterator<Item = usize> {
    let last = length.saturating_sub(4);
    (0..last).step_by(1 + length / 64).chain(last..length)
}

fn refusal<T>(parsed: &Parsed<T>, statuses: &[u16]) {
    if let Err(error) = parsed {
        assert!(statuses.contains(&error.status()), "{error:?}");
        let message = error.message();
        assert!(!message.is_empty() && message.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{message:?}");
    }
}

fn headers(headers: &Headers<'_>, bytes: &[u8], used: usize) {
    assert!(headers.len() <= LIMITS.headers && headers.len() <= MAX_HEADERS);
    let head = bytes[..used].as_ptr_range();
    for (name, value) in headers.iter() {
        assert!(!name.is_empty() && head.contains(&name.as_ptr()), "a name is a view of the head");
        assert!(value.is_empty() || head.contains(&value.as_ptr()), "a value is a view of the head");
        assert!(value.iter().all(|&byte| byte == b'\t' || byte >= 0x20 && byte != 0x7f));
        assert!(!value.starts_with(b" ") && !value.ends_with(b" ") && !value.starts_with(b"\t"));
        let wanted = |other: &&str| other.eq_ignore_ascii_case(name);
        let first = headers.iter().find(|(other, _)| wanted(other)).map(|(_, value)| value);
        assert_eq!(headers.get(name), first, "the index and the scan agree");
        let count = headers.iter().filter(|(other, _)| wanted(other)).count();
        assert_eq!(headers.get_all(name).count(), count);
        if let Some(known) = Known::find(name.as_bytes()) {
            assert_eq!((headers.known(known), headers.is_repeated(known)), (first, count > 1));
            assert_eq!(headers.all(known).count(), count);
        }
    }
}

fn copy_headers(writer: &mut HeadWriter<'_>, headers: &Headers<'_>) {
    for (name, value) in headers.iter() {
        if let Err(error) = writer.header(name, value) {
            refused(error)
        }
    }
}

fn refused<T>(error: crate::writer::InvalidHeader) -> T {
    panic!("what was read cannot be written: {error}")
}
