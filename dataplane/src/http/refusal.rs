//! Answers that are no object: what was wrong, in one line.

use shoal_http::HeadError;
use shoal_http::path::PathError;
use shoal_http::writer::HeadWriter;

use crate::routes::Denied;
use crate::slices::flight::OpenError;

/// A request that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status to answer with.
    pub status: u16,
    /// Label for metrics.
    pub reason: &'static str,
    /// One line for the viewer.
    pub message: String,
    /// The connection cannot go on: where the next request starts is not known, or it must not.
    pub close: bool,
    /// One more header line of our own.
    pub header: Option<(&'static str, String)>,
}

impl Refusal {
    /// One after which the connection goes on.
    pub fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, reason, message: message.into(), close: false, header: None }
    }

    /// One that ends the connection.
    pub fn closing(status: u16, reason: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { close: true, ..Refusal::new(status, reason, message) }
    }

    /// With one more header line.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Refusal {
        self.header = Some((name, value.into()));
        self
    }

    /// Appends status line, own headers and body for a request that was (or was not) HEAD, up to but not including the empty
    /// line; the body follows with [`Refusal::body`].
    pub fn write_head<'a>(&self, out: &'a mut Vec<u8>, date: &[u8]) -> HeadWriter<'a> {
        let mut head = HeadWriter::response(out, self.status);
        head.fixed("Server", "shoal")
            .fixed("Content-Type", "text/plain; charset=utf-8")
            .fixed("Cache-Control", "no-store");
        head.number("Content-Length", self.message.len() as u64 + 1);
        // Both are ours, or checked where they were made; a line that could break the head is left out.
        let _ = head.header("Date", date);
        if let Some((name, value)) = &self.header {
            let _ = head.header(name, value);
        }
        head
    }

    /// Appends the body.
    pub fn body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.message.as_bytes());
        out.push(b'\n');
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Refusal {
        Refusal::closing(error.status(), error.reason(), error.message())
    }
}

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Refusal {
        Refusal::new(400, "bad_path", error.to_string())
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Refusal {
        Refusal::new(denied.status(), denied.reason(), denied.to_string())
    }
}

impl From<shoal_ticket::Refusal> for Refusal {
    fn from(refusal: shoal_ticket::Refusal) -> Refusal {
        Refusal::new(403, refusal.reason(), refusal.to_string())
    }
}

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Refusal {
        let refusal = Refusal::new(error.status, error.reason, error.message);
        if error.status == 503 { refusal.with("Retry-After", "1") } else { refusal }
    }
}

#[cfg(test)]
mod tests {
    use shoal_http::date;
    use shoal_http::headers::Limits;
    use shoal_http::response::{BodyFraming, parse_response};

    use super::*;

    /// The whole answer, with a Date.
    fn written(refusal: &Refusal) -> Vec<u8> {
        let mut out = Vec::new();
        refusal.write_head(&mut out, &date::format(1_000_000)).finish();
        refusal.body(&mut out);
        out
    }

    #[test]
    fn a_refusal_is_one_line_with_its_length() {
        let refusal = Refusal::new(416, "range", "none lies within").with("Content-Range", "bytes */7");
        let answer = written(&refusal);
        let (head, used) = parse_response(&answer, &Limits::default(), false).unwrap().unwrap();
        assert_eq!((head.status, head.body), (416, BodyFraming::Length(17)));
        assert_eq!(&answer[used..], b"none lies within\n");
        for (name, value) in [
            ("Server", "shoal"),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Cache-Control", "no-store"),
            ("Content-Range", "bytes */7"),
            ("Date", "Mon, 12 Jan 1970 13:46:40 GMT"),
        ] {
            assert_eq!(head.header_str(name), Some(value), "{name}");
        }
    }

    #[test]
    fn a_value_that_would_break_the_head_is_left_out() {
        let answer = written(&Refusal::new(400, "x", "m").with("Allow", "GET\r\nX-Injected: 1"));
        let (head, _) = parse_response(&answer, &Limits::default(), false).unwrap().unwrap();
        assert_eq!((head.header("Allow"), head.header("X-Injected")), (None, None));
    }

    #[test]
    fn a_head_that_cannot_be_read_ends_the_connection_and_nothing_else_does() {
        let broken = Refusal::from(HeadError::HeadTooLong { limit: 100 });
        assert_eq!((broken.status, broken.reason, broken.close), (431, "head_too_long", true));
        let error = |status| OpenError { status, reason: "timeout", message: "no origin could answer".to_owned() };
        let others = [
            (Refusal::from(shoal_http::path::normalize("/%zz").unwrap_err()), 400),
            (Refusal::from(Denied::UserAgent), 403),
            (Refusal::from(shoal_ticket::Refusal::Missing), 403),
            (Refusal::from(error(504)), 504),
            (Refusal::from(error(503)), 503),
        ];
        for (refusal, status) in others {
            assert_eq!((refusal.status, refusal.close), (status, false), "{refusal:?}");
            assert!(!refusal.message.is_empty() && !refusal.message.contains('\n'), "{refusal:?}");
            // Trying again helps where memory or lanes were full.
            assert_eq!(refusal.header.is_some_and(|(name, _)| name == "Retry-After"), status == 503);
        }
    }
}
