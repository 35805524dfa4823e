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
