use super::*;

fn parse(text: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, HeadError> {
    parse_request(text, &Limits::default())
}

fn ok(text: &str) -> RequestHead<'_> {
    match parse(text.as_bytes()) {
        Ok(Some((head, used))) => {
            assert_eq!(used, text.len(), "{text:?}");
            head
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

fn refused(text: &[u8]) -> HeadError {
    match parse(text) {
        Err(error) => error,
        Ok(other) => panic!("{:?}: {other:?}", String::from_utf8_lossy(text)),
    }
}

const CHROME: &str = "GET /demo/720p/seg-12.m4s?ticket=abc%2Fdef&v=2 HTTP/1.1\r\nHost: edge.example:8080\r\n\
    Connection: keep-alive\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Accept: */*\r\nOrigin: https://player.example\r\nReferer: https://player.example/watch?v=\u{e4}\r\n\
    Range:\tbytes=0-1023 \t\r\nAccept-Encoding: identity;q=1, *;q=0\r\n\r\n";

#[test]
fn what_a_browser_sends() {
    let head = ok(CHROME);
    assert_eq!((head.method, head.method_name(), head.version), (Method::Get, "GET", Version::Http11));
    assert_eq!(head.target, "/demo/720p/seg-12.m4s?ticket=abc%2Fdef&v=2");
    assert_eq!((head.path, head.query), ("/demo/720p/seg-12.m4s", Some("ticket=abc%2Fdef&v=2")));
    assert_eq!(head.host, Some("edge.example:8080"));
    assert_eq!(head.header("RANGE"), Some(b"bytes=0-1023".as_slice()), "white space around values is dropped");
    assert_eq!(head.header_str("sec-CH-ua-platform"), Some("\"Linux\""));
    assert_eq!(head.header_str("referer"), Some("https://player.example/watch?v=ä"));
    assert_eq!(head.header("if-range"), None);
    assert_eq!(head.headers.len(), 9);
    assert_eq!(head.body, RequestBody::None);
    assert!(head.keep_alive());
    assert!(std::mem::size_of::<RequestHead<'_>>() <= 768, "it lives on the stack of the hot path");
}

#[test]
fn every_prefix_asks_for_more() {
    for end in 0..CHROME.len() {
        assert!(matches!(parse(&CHROME.as_bytes()[..end]), Ok(None)), "{end}");
    }
    let two = format!("{CHROME}{CHROME}");
    let (_, used) = parse(two.as_bytes()).unwrap().unwrap();
    assert_eq!(used, CHROME.len(), "a pipelined request is left alone");
}

#[test]
fn one_empty_line_in_front_is_skipped() {
    assert_eq!(ok("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").path, "/");
    assert!(matches!(parse(b"\r"), Ok(None)));
    assert_eq!(refused(b"\r\n\r\nGET / HTTP/1.1\r\n").status(), 400);
    assert_eq!(refused(b"\nGET / HTTP/1.1\r\n").status(), 400);
}

#[test]
fn methods() {
    for (name, method) in [
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("OPTIONS", Method::Options),
        ("POST", Method::Post),
        ("PUT", Method::Put),
        ("DELETE", Method::Delete),
        ("PATCH", Method::Patch),
        ("TRACE", Method::Trace),
        ("get", Method::Other),
        ("M-SEARCH", Method::Other),
    ] {
        let text = format!("{name} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = ok(&text);
        assert_eq!((head.method, head.method_name()), (method, name));
    }
}

#[test]
fn targets() {
    for (line, path, query, host) in [
        ("GET /", "/", None, "a"),
        ("GET /?", "/", Some(""), "a"),
        ("GET /a?b?c", "/a", Some("b?c"), "a"),
        ("GET //b/c", "//b/c", None, "a"),
        ("GET /a|b\"{}", "/a|b\"{}", None, "a"),
        ("OPTIONS *", "*", None, "a"),
        ("GET http://b.example:81/c?d", "/c", Some("d"), "b.example:81"),
        ("GET HTTPS://b.example", "/", None, "b.example"),
        ("GET http://b.example?d", "/", Some("d"), "b.example"),
        ("OPTIONS http://b.example:81", "*", None, "b.example:81"),
        ("OPTIONS http://b.example/", "/", None, "b.example"),
        ("GET http://[2001:db8::1]:80/", "/", None, "[2001:db8::1]:80"),
    ] {
        let text = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = ok(&text);
        assert_eq!((head.path, head.query, head.host), (path, query, Some(host)), "{line}");
    }
    for line in [
        "GET *",
        "GET a",
        "GET example.com:443",
        "CONNECT example.com:443",
        "CONNECT /",
        "GET http://",
        "GET http:///a",
        "GET http://user@b/",
        "GET http://b:x/",
        "GET http://b:65536/",
        "GET http://[::1/",
        "GET ftp://b/",
        "GET /a#b",
        "GET /a\x01",
        "GET /a\x7f",
        "GET /\u{e4}",
        "GET  /",
        "GET\t/",
        " GET /",
        "GET / ",
        "GET / a",
        "GET",
        "GET ",
        "GET /a\tb",
        "G(T /",
        "",
    ] {
        assert_eq!(refused(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).status(), 400, "{line:?}");
    }
}

#[test]
fn versions() {
    for (version, status) in [
        ("HTTP/2.0", 505),
        ("HTTP/0.9", 505),
        ("HTTP/9.9", 505),
        ("HTTP/1", 400),
        ("HTTP/1.", 400),
        ("HTTP/11.1", 400),
        ("HTTP/1.10", 400),
        ("http/1.1", 400),
        ("HTTP/1,1", 400),
        ("HTTP1.1", 400),
        ("HTTP/1.1 ", 400),
        ("HTTP/a.1", 400),
    ] {
        assert_eq!(refused(format!("GET / {version}\r\nHost: a\r\n\r\n").as_bytes()).status(), status, "{version}");
    }
    assert_eq!(ok("GET / HTTP/1.9\r\nHost: a\r\n\r\n").version, Version::Http11);
    assert_eq!(ok("GET / HTTP/1.0\r\n\r\n").version, Version::Http10);
    assert_eq!(refused(b"GET /\r\n").status(), 400, "HTTP/0.9 without a version");
    let preface = refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!((preface.status(), preface.reason()), (505, "version"));
    assert_eq!(preface.message(), "HTTP version 2.0 not supported; use HTTP/1.1");
    assert_eq!(refused(b"\x16\x03\x01\x02\x00\x01").status(), 400, "a TLS handshake is refused at its first byte");
}

#[test]
fn line_ends_and_white_space() {
    for lines in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rX",
        // obs-fold
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        // space before the colon
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
        // names
        "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nXY\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\u{e4}: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n(): b\r\n\r\n",
        // values
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\x7f\r\n\r\n",
    ] {
        assert_eq!(refused(lines.as_bytes()).status(), 400, "{lines:?}");
    }
    let head = ok("GET / HTTP/1.1\r\nHost: a\r\nEmpty:\r\nBlank: \t \r\nInner: a \t b\r\n\r\n");
    assert_eq!(head.header("empty"), Some(b"".as_slice()));
    assert_eq!(head.header("blank"), Some(b"".as_slice()));
    assert_eq!(head.header("inner"), Some(b"a \t b".as_slice()));
}

#[test]
fn hosts() {
    for host in ["a", "a.example", "A:80", "127.0.0.1:1", "[::1]", "[::1]:80", "a:", "_x-1.~", "a%41"] {
        let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(ok(&text).host, Some(host));
    }
    for host in ["a b", "a/b", "u@a", "a:b", "a:99999", "[::1", "[x]", "[]", ":80", "a, b", "a?b", "\u{e4}", "a:1:2"] {
        let error = refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        assert_eq!((error.status(), error.reason()), (400, "host"), "{host:?}");
    }
    assert_eq!(refused(b"GET / HTTP/1.1\r\n\r\n"), HeadError::Host("missing; HTTP/1.1 requires it"));
    assert_eq!(refused(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n").reason(), "host");
    assert_eq!(refused(b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n").reason(), "host");
    assert_eq!(refused(b"GET http://a/ HTTP/1.1\r\n\r\n").reason(), "host", "an absolute target does not replace it");
    assert_eq!(ok("GET / HTTP/1.0\r\n\r\n").host, None);
    assert_eq!(ok("GET / HTTP/1.1\r\nHost:\r\n\r\n").host, None);
}

fn with(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")
}

#[test]
fn bodies() {
    for (lines, body) in [
        ("X: y", RequestBody::None),
        ("Content-Length: 0", RequestBody::None),
        ("Content-Length: 5", RequestBody::Length(5)),
        ("content-length: 0005", RequestBody::Length(5)),
        ("Content-Length: 5\r\nContent-Length: 5", RequestBody::Length(5)),
        ("Content-Length: 5, 5", RequestBody::Length(5)),
        ("Content-Length: 18446744073709551615", RequestBody::Length(u64::MAX)),
        ("Transfer-Encoding: chunked", RequestBody::Chunked),
        ("transfer-encoding: , CHUNKED ,", RequestBody::Chunked),
    ] {
        assert_eq!(ok(&with(lines)).body, body, "{lines:?}");
    }
}

#[test]
fn ambiguous_lengths_are_refused() {
    for (lines, status) in [
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: 5, 6", 400),
        ("Content-Length: 5,", 400),
        ("Content-Length:", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: -5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length: 5 5", 400),
        ("Content-Length: 5.0", 400),
        ("Content-Length: 18446744073709551616", 400),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", 400),
        ("Transfer-Encoding: chunked, chunked", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400),
        ("Transfer-Encoding: chunked, gzip", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: \"chunked\"", 400),
        ("Transfer-Encoding: chunked;a=b", 400),
        ("Transfer-Encoding: \x0bchunked", 400),
        ("Transfer-Encoding:", 400),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
    ] {
        assert_eq!(refused(with(lines).as_bytes()).status(), status, "{lines:?}");
    }
    let error = refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(error, HeadError::Framing("Transfer-Encoding in HTTP/1.0"));
}

#[test]
fn connections_that_stay() {
    for (version, connection, keep) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: X, Close\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
        assert_eq!(ok(&text).keep_alive(), keep, "{version} {connection:?}");
    }
}

#[test]
fn limits_hold_to_the_byte() {
    let text = "GET /abc HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    let exact = Limits { head_bytes: text.len(), headers: 2, request_line_bytes: "GET /abc HTTP/1.1".len() };
    for end in 0..text.len() {
        assert!(matches!(parse_request(&text.as_bytes()[..end], &exact), Ok(None)), "{end}");
    }
    assert!(parse_request(text.as_bytes(), &exact).unwrap().is_some());

    let refused = |limits: Limits| parse_request(text.as_bytes(), &limits).unwrap_err();
    let error = refused(Limits { head_bytes: text.len() - 1, ..exact });
    assert_eq!((error.status(), error), (431, HeadError::HeadTooLong { limit: text.len() - 1 }));
    let error = refused(Limits { headers: 1, ..exact });
    assert_eq!((error.status(), error), (431, HeadError::TooManyHeaders { limit: 1 }));
    let error = refused(Limits { request_line_bytes: 16, ..exact });
    assert_eq!((error.status(), error), (414, HeadError::LineTooLong { limit: 16 }));
}

#[test]
fn what_is_too_long_is_refused_before_it_is_complete() {
    let endless = vec![b'a'; 100_000];
    for (start, status) in [("", 414), ("GET /", 414), ("GET / HTTP/1.1\r\n", 431), ("GET / HTTP/1.1\r\nX: ", 431)] {
        let mut bytes = start.as_bytes().to_vec();
        bytes.extend(&endless);
        assert_eq!(refused(&bytes).status(), status, "{start:?}");
    }
    let many = format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(65));
    assert_eq!(refused(many.as_bytes()), HeadError::TooManyHeaders { limit: 64 });
    // Limits beyond what spans can hold are lowered.
    let vast = Limits { head_bytes: usize::MAX, headers: usize::MAX, request_line_bytes: usize::MAX };
    let mut bytes = b"GET / HTTP/1.1\r\nX: ".to_vec();
    bytes.extend(&endless);
    assert_eq!(parse_request(&bytes, &vast).unwrap_err(), HeadError::HeadTooLong { limit: 65535 });
    assert_eq!(parse_request(many.as_bytes(), &vast).unwrap_err(), HeadError::TooManyHeaders { limit: 64 });
    assert_eq!(parse_request(&endless, &vast).unwrap_err(), HeadError::LineTooLong { limit: 65535 });
}
