use super::*;

fn parse(text: &str) -> Result<Option<(ResponseHead<'_>, usize)>, HeadError> {
    parse_response(text.as_bytes(), &Limits::default(), false)
}

fn ok(text: &str) -> ResponseHead<'_> {
    match parse(text) {
        Ok(Some((head, used))) => {
            assert_eq!(used, text.len(), "{text:?}");
            head
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

const NGINX: &str = "HTTP/1.1 206 Partial Content\r\nServer: nginx\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: video/mp4\r\nContent-Length: 1024\r\nETag: \"65f-1\"\r\nContent-Range: bytes 0-1023/4096\r\n\
    Connection: keep-alive\r\n\r\n";

#[test]
fn what_an_origin_sends() {
    let head = ok(NGINX);
    assert_eq!((head.status, head.version, head.body), (206, Version::Http11, BodyFraming::Length(1024)));
    assert_eq!(head.content_length, Some(1024));
    assert_eq!(head.header_str("etag"), Some("\"65f-1\""));
    assert!(head.keep_alive());
    for end in 0..NGINX.len() {
        assert!(matches!(parse(&NGINX[..end]), Ok(None)), "{end}");
    }
}

#[test]
fn status_lines() {
    for (line, status) in [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.1 200 ", 200),
        ("HTTP/1.1 200", 200),
        ("HTTP/1.0 404 Not\tFound \u{e4}", 404),
        ("HTTP/1.1 999 x", 999),
    ] {
        assert_eq!(ok(&format!("{line}\r\nContent-Length: 0\r\n\r\n")).status, status, "{line:?}");
    }
    for line in [
        "HTTP/1.1 099 x",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 200OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 +20 OK",
        "HTTP/1.1 200 O\0K",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "<html>",
        "",
    ] {
        let error = parse(&format!("{line}\r\nContent-Length: 0\r\n\r\n")).unwrap_err();
        assert_eq!(error.reason(), "malformed", "{line:?}");
    }
    assert_eq!(parse("HTTP/2.0 200 OK\r\n\r\n").unwrap_err(), HeadError::Version { major: 2, minor: 0 });
    assert_eq!(parse("HTTP/1.1 200 OK\n\n").unwrap_err().reason(), "malformed");
}

#[test]
fn framings() {
    let framing = |status: u16, lines: &str, head: bool| {
        let text = format!("HTTP/1.1 {status} x\r\n{lines}\r\n");
        let (response, _) = parse_response(text.as_bytes(), &Limits::default(), head).unwrap().unwrap();
        (response.body, response.keep_alive())
    };
    assert_eq!(framing(200, "", false), (BodyFraming::UntilClose, false));
    assert_eq!(framing(200, "Content-Length: 0\r\n", false), (BodyFraming::None, true));
    assert_eq!(framing(200, "Content-Length: 9\r\n", false), (BodyFraming::Length(9), true));
    assert_eq!(framing(200, "Content-Length: 9\r\nConnection: close\r\n", false), (BodyFraming::Length(9), false));
    assert_eq!(framing(200, "Transfer-Encoding: chunked\r\n", false), (BodyFraming::Chunked, true));
    assert_eq!(framing(200, "Transfer-Encoding : chunked\r\n", false), (BodyFraming::Chunked, true));
    for status in [100, 103, 204, 304] {
        assert_eq!(framing(status, "Content-Length: 9\r\n", false), (BodyFraming::None, true), "{status}");
        assert_eq!(framing(status, "Transfer-Encoding: chunked\r\n", false), (BodyFraming::None, true), "{status}");
    }
    assert_eq!(framing(200, "Content-Length: 9\r\n", true), (BodyFraming::None, true));
    assert_eq!(framing(200, "Transfer-Encoding: chunked\r\n", true), (BodyFraming::None, true));
    assert_eq!(framing(200, "", true), (BodyFraming::None, true));
    let old = ok("HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n");
    assert_eq!((old.body, old.keep_alive()), (BodyFraming::Length(9), false));
    assert!(ok("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 9\r\n\r\n").keep_alive());
    assert_eq!(ok("HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n").content_length, Some(9));
}

#[test]
fn lengths_that_cannot_be_trusted() {
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: x",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
    ] {
        for was_head in [false, true] {
            let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n");
            assert!(parse_response(text.as_bytes(), &Limits::default(), was_head).is_err(), "{lines:?}");
        }
    }
    assert!(parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    assert!(parse("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n").is_err(), "obs-fold");
    assert!(parse("HTTP/1.1 200 OK\r\nX: a\nContent-Length: 5\r\n\r\n").is_err(), "bare LF");
}

#[test]
fn limits_hold() {
    let line = "HTTP/1.1 206 Partial Content".len();
    let exact = Limits { head_bytes: NGINX.len(), headers: 7, request_line_bytes: line };
    for end in 0..NGINX.len() {
        assert!(matches!(parse_response(&NGINX.as_bytes()[..end], &exact, false), Ok(None)), "{end}");
    }
    assert!(parse_response(NGINX.as_bytes(), &exact, false).unwrap().is_some());
    let refused = |limits: Limits| parse_response(NGINX.as_bytes(), &limits, false).unwrap_err().reason();
    assert_eq!(refused(Limits { head_bytes: NGINX.len() - 1, ..exact }), "head_too_long");
    assert_eq!(refused(Limits { headers: 6, ..exact }), "too_many_headers");
    assert_eq!(refused(Limits { request_line_bytes: line - 1, ..exact }), "line_too_long");
    let endless = format!("HTTP/1.1 200 {}", "a".repeat(100_000));
    assert_eq!(parse(&endless).unwrap_err().reason(), "line_too_long");
}
