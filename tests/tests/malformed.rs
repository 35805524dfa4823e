//! Malformed requests get RFC 9112's strict answer: the right status, one line that says why, then the connection
//! closes; and the server goes on serving.

use std::time::Duration;

use shoal_tests::client::{self, Conn, End, Reading, Request};
use shoal_tests::lab::Lab;
use shoal_tests::origin::{Object, Origin};
use shoal_tests::verdict::one_line;
use shoal_tests::with_one_and_four_shards;

with_one_and_four_shards!(strict_answers, no_request_hides_in_another);

/// Far longer than any answer takes, far shorter than a hang.
const SOON: Duration = Duration::from_secs(5);

/// Cases of messages that are in order, but ask for what cannot be.
const WELL_FORMED: [&str; 5] = ["escape", "climbs out", "lower-case method", "CONNECT", "unknown method"];

/// A request, and the statuses that are right for it.
type Case = (&'static str, Vec<u8>, &'static [u16]);

fn cases() -> Vec<Case> {
    let text = |what, request: &str, statuses| (what, request.as_bytes().to_vec(), statuses);
    let field = |what, line: &str, statuses| {
        (what, format!("GET /vod/a HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n").into_bytes(), statuses)
    };
    let target =
        |what, target: &[u8], statuses| (what, [b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat(), statuses);
    let bad: &[u16] = &[400];
    vec![
        // Line ends and white space (RFC 9112 sections 2.2, 3 and 5).
        text("bare LF everywhere", "GET /vod/a HTTP/1.1\nHost: a\n\n", bad),
        text("bare LF behind the request line", "GET /vod/a HTTP/1.1\nHost: a\r\n\r\n", bad),
        text("bare LF behind a field", "GET /vod/a HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", bad),
        text("bare LF at the end", "GET /vod/a HTTP/1.1\r\nHost: a\r\n\n", bad),
        text("bare CR in the request line", "GET /vod/a\rHTTP/1.1\r\nHost: a\r\n\r\n", bad),
        field("bare CR in a value", "X: a\rb", bad),
        field("obs-fold", "X: a\r\n b", bad),
        field("obs-fold with a tab", "X: a\r\n\tb", bad),
        text("white space before the first field", "GET /vod/a HTTP/1.1\r\n Host: a\r\n\r\n", bad),
        field("white space before the colon", "X : a", bad),
        text("two spaces in the request line", "GET  /vod/a HTTP/1.1\r\nHost: a\r\n\r\n", bad),
        text("a space behind the version", "GET /vod/a HTTP/1.1 \r\nHost: a\r\n\r\n", bad),
        text("a tab in the request line", "GET\t/vod/a\tHTTP/1.1\r\nHost: a\r\n\r\n", bad),
        // Names and values (RFC 9110 section 5).
        field("no colon", "X", bad),
        field("an empty name", ": a", bad),
        field("a name that is no token", "X(y): a", bad),
        field("NUL in a value", "X: a\0b", bad),
        field("NUL in a name", "X\0y: a", bad),
        field("a control character in a value", "X: a\x01b", bad),
        field("DEL in a value", "X: a\x7fb", bad),
        // Request line (RFC 9112 section 3).
        target("NUL in the target", b"/vod/\0", bad),
        target("raw bytes in the target", b"/vod/\xff\xfe", bad),
        target("a fragment", b"/vod/a#b", bad),
        target("authority form", b"a:80", bad),
        target("no target", b"", bad),
        target("asterisk form", b"*", bad),
        target("a broken escape", b"/vod/%zz", bad),
        target("an escaped NUL", b"/vod/%00", bad),
        target("a path that climbs out", b"/vod/../../etc/passwd", &[400, 404]),
        target("a path that climbs out, escaped", b"/vod/%2e%2e/%2e%2e/etc/passwd", &[400, 404]),
        target("a path that climbs out, escaped slash", b"/vod/..%2f..%2fetc/passwd", &[400, 404]),
        text("no version", "GET /vod/a\r\nHost: a\r\n\r\n", bad),
        text("another protocol", "GET /vod/a HTTX/1.1\r\nHost: a\r\n\r\n", bad),
        text("a long version", "GET /vod/a HTTP/1.10\r\nHost: a\r\n\r\n", bad),
        text("a lower-case version", "GET /vod/a http/1.1\r\nHost: a\r\n\r\n", bad),
        text("HTTP/2 by name", "GET /vod/a HTTP/2.0\r\nHost: a\r\n\r\n", &[505]),
        text("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 505]),
        text("HTTP/0.9", "GET /vod/a\r\n\r\n", bad),
        text("a method that is no token", "G(T /vod/a HTTP/1.1\r\nHost: a\r\n\r\n", bad),
        text("an unknown method", "BREW /vod/a HTTP/1.1\r\nHost: a\r\n\r\n", &[501]),
        text("a lower-case method", "get /vod/a HTTP/1.1\r\nHost: a\r\n\r\n", &[501]),
        text("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", &[400, 405, 501]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), bad),
        // Host (RFC 9112 section 3.2).
        text("no Host", "GET /vod/a HTTP/1.1\r\n\r\n", bad),
        text("two Hosts", "GET /vod/a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", bad),
        text("a Host with a space", "GET /vod/a HTTP/1.1\r\nHost: a b\r\n\r\n", bad),
        text("a Host with a path", "GET /vod/a HTTP/1.1\r\nHost: a/b\r\n\r\n", bad),
        text("a Host with a bad port", "GET /vod/a HTTP/1.1\r\nHost: a:b\r\n\r\n", bad),
        text("a list as Host", "GET /vod/a HTTP/1.1\r\nHost: a, b\r\n\r\n", bad),
        // Length of the message (RFC 9112 section 6).
        field("two lengths that differ", "Content-Length: 1\r\nContent-Length: 2", bad),
        field("a list of lengths that differ", "Content-Length: 1, 2", bad),
        field("a negative length", "Content-Length: -1", bad),
        field("a signed length", "Content-Length: +1", bad),
        field("a hexadecimal length", "Content-Length: 0x1", bad),
        field("an empty length", "Content-Length:", bad),
        field("a length beyond 64 bits", "Content-Length: 99999999999999999999", bad),
        field("length and transfer coding", "Content-Length: 5\r\nTransfer-Encoding: chunked", bad),
        field("chunked twice", "Transfer-Encoding: chunked, chunked", bad),
        field("chunked not last", "Transfer-Encoding: chunked, gzip", &[400, 501]),
        field("an unknown transfer coding", "Transfer-Encoding: xchunked", &[400, 501]),
        field("gzip, chunked", "Transfer-Encoding: gzip, chunked", &[501]),
        field("identity", "Transfer-Encoding: identity", &[400, 501]),
        field("an empty transfer coding", "Transfer-Encoding:", &[400, 501]),
        field("a vertical tab around chunked", "Transfer-Encoding: \x0bchunked", &[400, 501]),
        field("two transfer codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", &[400, 501]),
        text("a transfer coding in HTTP/1.0", "GET /vod/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", bad),
        // Oversized anything.
        target("an oversized target", &[b"/vod/".as_slice(), &[b'x'; 9000]].concat(), &[414]),
        ("an endless request line", [b"GET /vod/".as_slice(), &[b'x'; 100_000]].concat(), &[414]),
        ("an endless method", vec![b'G'; 100_000], &[400, 414, 501]),
        field("an oversized value", &format!("X: {}", "x".repeat(17_000)), &[431]),
        field("an oversized name", &format!("{}: x", "x".repeat(17_000)), &[431]),
        field("too many fields", &"X: y\r\n".repeat(200), &[431]),
        field("an oversized head of small fields", &format!("X: {}\r\n", "x".repeat(300)).repeat(90), &[431]),
    ]
}

fn strict_answers(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::literal("/a", "fine"));
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let mut wrong = Vec::new();
    for (what, request, statuses) in cases() {
        let well_formed = WELL_FORMED.iter().any(|part| what.contains(part));
        if let Err(how) = refused(&lab, &request, statuses, well_formed) {
            wrong.push(format!("{what}: {how}"));
        }
        let next = client::expect(lab.http(), &Request::get("/vod/a"));
        assert_eq!((next.status(), next.text().as_str()), (200, "fine"), "after {what}");
    }
    assert!(wrong.is_empty(), "{} wrong answers:\n{}", wrong.len(), wrong.join("\n"));

    // What only looks odd is served (RFC 9112 sections 2.2, 2.3, 3.2.2 and 5.1).
    for (what, request) in [
        ("an empty line first", "\r\nGET /vod/a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a higher minor version", "GET /vod/a HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("absolute form", "GET http://other.test/vod/a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("no space behind the colon", "GET /vod/a HTTP/1.1\r\nHost:a\r\n\r\n"),
        ("much space around a value", "GET /vod/a HTTP/1.1\r\nHost: \t a \t \r\n\r\n"),
        ("lower-case names", "GET /vod/a HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("an IPv6 Host", "GET /vod/a HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n"),
        ("a needless escape", "GET /v%6fd/a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an empty value", "GET /vod/a HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n"),
        ("obs-text in a value", "GET /vod/a HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n"),
    ] {
        let mut conn = client::connect(lab.http());
        conn.send(request.as_bytes());
        let answer = conn.read_response(false, Reading::default()).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"), "{what}");
    }
    lab.report_handovers("malformed");
}

/// `well_formed`: the message is one, only what it asks for is not.
fn refused(lab: &Lab, request: &[u8], statuses: &[u16], well_formed: bool) -> Result<(), String> {
    let mut conn = Conn::open(lab.http()).map_err(|error| error.to_string())?;
    // The server may refuse, and close, before it has read all.
    drop(conn.send_raw(request));
    let answer = conn.read_response(false, Reading::default()).map_err(|failure| failure.to_string())?;
    if !statuses.contains(&answer.status()) {
        return Err(format!("status {} ({}), not {statuses:?}", answer.status(), answer.text().trim()));
    }
    one_line(&answer)?;
    if answer.end != End::Complete {
        return Err(format!("the refusal broke off: {:?}", answer.end));
    }
    // A connection goes on only where it is beyond doubt where the next request starts.
    match conn.wait_for_close(Duration::from_millis(300)) {
        Ok(rest) if rest.is_empty() => Ok(()),
        Ok(rest) | Err(rest) if !rest.is_empty() => {
            Err(format!("more behind the refusal: {:?}", String::from_utf8_lossy(&rest)))
        }
        _ if !well_formed => Err("the connection stays open".to_owned()),
        _ => match conn.ask(&Request::get("/vod/a")) {
            Ok(next) if next.status() == 200 && next.text() == "fine" => Ok(()),
            next => Err(format!("the connection stays open and answers {next:?}")),
        },
    }
}

/// Request smuggling: a body is never read as the next request.
fn no_request_hides_in_another(shards: u32) {
    let origin = Origin::start();
    origin.put(Object::literal("/a", "fine")).put(Object::literal("/hidden", "hidden"));
    let lab = Lab::start(shards);
    lab.channel("vod", &[&origin]);
    let hidden = "GET /vod/hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let len = hidden.len();
    for head in [
        format!("GET /vod/a HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{hidden}"),
        format!("POST /vod/a HTTP/1.1\r\nHost: a\r\nContent-Length: {len}\r\n\r\n{hidden}"),
        format!("GET /vod/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{len:x}\r\n{hidden}\r\n0\r\n\r\n"),
        format!("GET /vod/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n{hidden}"),
        format!("GET /vod/a HTTP/1.1\r\nHost: a\r\nContent-Length: 0, {len}\r\n\r\n{hidden}"),
    ] {
        let mut conn = client::connect(lab.http());
        conn.send(head.as_bytes());
        // Some of these are refused, and the connection is closed, before this is sent.
        drop(conn.send_raw(b"GET /vod/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        let received = conn.wait_for_close(SOON).unwrap_or_else(|_| panic!("hangs after {head:?}"));
        let text = String::from_utf8_lossy(&received);
        assert!(!text.contains("hidden"), "the body was read as a request: {head:?}\n{text}");
    }
    assert_eq!(origin.requests("/hidden"), 0);
}
