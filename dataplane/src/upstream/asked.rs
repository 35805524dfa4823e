//! What of a viewer's request an origin sees, and how stored responses are selected by it (RFC 9111 section 4.1).

use shoal_http::caching::{Vary, field, normal_value};
use shoal_http::headers::Known;
use shoal_http::request::{Method, RequestHead};
use shoal_link::channel::ForwardPolicy;
use shoal_report::cmcd;

/// Lines that belong to one connection, that shoal writes itself, or that carry a ticket. Sorted.
const NEVER: [&str; 17] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "if-range",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-shoal-ticket",
];

/// Conditions are the cache's to check, unless the request is only passed.
const CONDITIONS: [Known; 4] = [Known::IfMatch, Known::IfModifiedSince, Known::IfNoneMatch, Known::IfUnmodifiedSince];

/// The part of a viewer's request that goes to the origin with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `GET` for what the cache may answer.
    pub method: Box<str>,
    /// Header lines, each with its CRLF.
    pub lines: Box<[u8]>,
    /// The request's own body.
    pub body: Box<[u8]>,
}

impl Asked {
    /// What `policy` lets through of `head`; `None` when that is nothing but the method GET. `ticketed`: cookies may hold a
    /// ticket, so they only go where they are named.
    pub fn read(head: &RequestHead<'_>, policy: &ForwardPolicy, ticketed: bool, body: Vec<u8>) -> Option<Asked> {
        let reads = matches!(head.method, Method::Get | Method::Head | Method::Options);
        if policy.headers.is_empty() && reads {
            return None;
        }
        let named = |name: &str| policy.headers.iter().any(|header| header.eq_ignore_ascii_case(name));
        let all = named("*");
        let connection_lists = |name: &str| {
            let listed = head.headers.get_all("connection").flat_map(|value| value.split(|&byte| byte == b','));
            listed.map(<[u8]>::trim_ascii).any(|listed| listed.eq_ignore_ascii_case(name.as_bytes()))
        };
        let mut lines = Vec::new();
        for (name, value) in head.headers.iter() {
            let lower = name.to_ascii_lowercase();
            // Of `*` without CMCD: it is for the edge, and a response that varied on it would be kept once for each request.
            let by_star = all && !(ticketed && lower == "cookie") && !cmcd::HEADERS.contains(&lower.as_str());
            let wanted = named(&lower) || by_star || (!reads && lower == "content-type");
            let dropped = NEVER.binary_search(&lower.as_str()).is_ok()
                || (reads && CONDITIONS.iter().any(|condition| condition.name() == lower))
                || connection_lists(&lower);
            if wanted && !dropped {
                push_line(&mut lines, name, value);
            }
        }
        if all || named("accept-encoding") {
            let value = normal_value("accept-encoding", head.headers.all(Known::AcceptEncoding));
            push_line(&mut lines, "Accept-Encoding", value.as_deref().unwrap_or(b"identity"));
        }
        let method = if reads { "GET" } else { head.method_name() };
        Some(Asked { method: method.into(), lines: lines.into(), body: body.into() })
    }

    /// Whether the method may change things at the origin: it is asked once, and nothing of the answer is kept.
    pub fn is_unsafe(&self) -> bool {
        &*self.method != "GET"
    }

    /// Whether there is a line with this name.
    pub fn has(&self, name: &str) -> bool {
        field(&self.lines, name).next().is_some()
    }
}

fn push_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What a response that varies as `vary` says was chosen by: a line `name: value` for each header that the origin saw, `name`
/// alone for one it did not see.
pub fn selecting(vary: &Vary, asked: Option<&Asked>) -> Vec<u8> {
    match vary {
        Vary::On(names) => selecting_by(names.iter().map(String::as_bytes), asked),
        Vary::Nothing | Vary::Everything => Vec::new(),
    }
}

/// Whether a response that was chosen by `selecting` answers what is asked now.
pub fn selects(selecting: &[u8], asked: Option<&Asked>) -> bool {
    selecting.is_empty() || selecting_by(names(selecting), asked) == selecting
}

/// Whether two requests get the same response, where responses are chosen by the headers that `selecting` names.
pub fn selects_same(selecting: &[u8], one: Option<&Asked>, other: Option<&Asked>) -> bool {
    selecting.is_empty() || selecting_by(names(selecting), one) == selecting_by(names(selecting), other)
}

fn names(selecting: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = selecting.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| line.split(|&byte| byte == b':' || byte == b'\r').next().unwrap_or_default())
}

fn selecting_by<'n>(names: impl Iterator<Item = &'n [u8]>, asked: Option<&Asked>) -> Vec<u8> {
    let mut out = Vec::new();
    for name in names {
        out.extend_from_slice(name);
        let text = std::str::from_utf8(name).unwrap_or_default();
        let lines = asked.map_or(&[][..], |asked| &asked.lines);
        if let Some(value) = normal_value(text, field(lines, text)) {
            out.extend_from_slice(b": ");
            out.extend_from_slice(&value);
        }
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use shoal_http::headers::Limits;
    use shoal_http::request::parse_request;

    use super::*;

    fn asked(method: &str, lines: &str, headers: &[&str], ticketed: bool) -> Option<Asked> {
        let bytes = format!("{method} /a HTTP/1.1\r\nHost: edge\r\n{lines}\r\n");
        let (head, _) = parse_request(bytes.as_bytes(), &Limits::default()).unwrap().unwrap();
        let headers = headers.iter().map(|&header| header.to_owned()).collect();
        Asked::read(&head, &ForwardPolicy { headers, ..ForwardPolicy::default() }, ticketed, Vec::new())
    }

    fn lines(asked: &Asked) -> &str {
        std::str::from_utf8(&asked.lines).unwrap()
    }

    #[test]
    fn what_never_passes_is_sorted() {
        assert!(NEVER.is_sorted());
    }

    #[test]
    fn only_what_is_listed_passes() {
        let sent = "A: 1\r\nb: 2\r\nRange: bytes=0-1\r\nIf-None-Match: x\r\nConnection: c\r\nC: 3\r\nX-Shoal-Ticket: t\r\n\
                    Cookie: k\r\nAccept-Encoding: deflate, gzip;q=0.5\r\n";
        assert_eq!(asked("GET", sent, &[], false), None);
        let listed = |headers| asked("HEAD", sent, headers, true).unwrap();
        assert_eq!(lines(&listed(&["B", "range", "connection", "host", "if-none-match"])), "b: 2\r\n");
        assert_eq!(lines(&listed(&["*"])), "A: 1\r\nb: 2\r\nAccept-Encoding: gzip\r\n");
        assert_eq!(lines(&listed(&["cookie"])), "Cookie: k\r\n");
        let cmcd = "CMCD-Object: br=1\r\ncmcd-session: sid=\"s\"\r\nA: 1\r\n";
        assert_eq!(lines(&asked("HEAD", cmcd, &["*"], false).unwrap()), "A: 1\r\nAccept-Encoding: identity\r\n");
        assert_eq!(lines(&asked("HEAD", cmcd, &["cmcd-object"], false).unwrap()), "CMCD-Object: br=1\r\n");
        assert_eq!(
            lines(&asked("GET", sent, &["*"], false).unwrap()),
            "A: 1\r\nb: 2\r\nCookie: k\r\nAccept-Encoding: gzip\r\n"
        );
        assert_eq!(lines(&asked("GET", "", &["accept-encoding"], false).unwrap()), "Accept-Encoding: identity\r\n");
        assert!(!listed(&["a"]).is_unsafe());
        let passed = asked("M-SEARCH", "If-Match: x\r\nContent-Type: t\r\nA: 1\r\n", &["if-match"], false).unwrap();
        assert!(passed.is_unsafe() && &*passed.method == "M-SEARCH");
        assert_eq!(lines(&passed), "If-Match: x\r\nContent-Type: t\r\n");
    }

    #[test]
    fn responses_are_selected_by_what_the_origin_saw() {
        let of = |sent: &str| asked("GET", sent, &["a", "b"], false);
        let vary = Vary::On(vec!["a".to_owned(), "b".to_owned(), "unseen".to_owned()]);
        let one = of("B: 2\r\nA: 1 , 3\r\nUnseen: x\r\n");
        let by = selecting(&vary, one.as_ref());
        assert_eq!(String::from_utf8_lossy(&by), "a: 1,3\r\nb: 2\r\nunseen\r\n");
        assert!(selects(&by, one.as_ref()));
        assert!(selects(&by, of("A: 1,3\r\nb: 2\r\nUnseen: y\r\n").as_ref()));
        for other in ["A: 1,3\r\n", "A: 1,3\r\nB: 3\r\n", "A: 1,3\r\nB: 2\r\nB: 2\r\n", ""] {
            assert!(!selects(&by, of(other).as_ref()), "{other}");
            assert!(!selects_same(&by, one.as_ref(), of(other).as_ref()), "{other}");
        }
        assert!(!selects(&by, None));
        let none = selecting(&vary, None);
        assert!(selects(&none, None) && selects(&none, of("C: 1\r\n").as_ref()) && !selects(&none, one.as_ref()));
        assert!(selects(&selecting(&Vary::Nothing, one.as_ref()), None));
        assert!(selects_same(b"", one.as_ref(), None));
    }
}
