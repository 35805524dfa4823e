//! Why an origin did not give what was asked of it.

use std::io;

/// A failed exchange with one origin. All of them let the next origin be tried.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The origin's name has no address.
    #[error("cannot resolve {host}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's word.
        error: String,
    },
    /// No connection.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        error: io::Error,
    },
    /// No TLS session.
    #[error("no TLS with {host}: {problem}")]
    Tls {
        /// The name that its certificate must have.
        host: String,
        /// Why not.
        problem: String,
    },
    /// Nothing came within the configured time.
    #[error("no {what} within {ms} ms")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        ms: u64,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The body ended before its announced length.
    #[error("the body ended {missing} bytes early")]
    Truncated {
        /// Bytes that did not come.
        missing: u64,
    },
    /// Not an acceptable HTTP response.
    #[error("bad response: {0}")]
    BadResponse(String),
    /// A server error, which another origin may not have.
    #[error("status {0}")]
    Status(u16),
    /// Round in circles, or nearly.
    #[error("more than {0} redirects (forward.redirects)")]
    Redirects(u8),
    /// Other bytes than were asked for.
    #[error("asked for bytes from {asked}, got {got}")]
    WrongRange {
        /// First byte asked for.
        asked: u64,
        /// What came.
        got: String,
    },
    /// Another version of the object than the one begun.
    #[error("the origin has another version of the object")]
    OtherVersion,
    /// No memory for what it sends: the RAM tier is full of blocks in use.
    #[error("the RAM tier is full of blocks in use")]
    NoMemory,
    /// As many connections as allowed are open to the origin already.
    #[error("all connections to the origin are in use (upstream.connections_per_origin)")]
    Crowded,
    /// Nobody wants the rest.
    #[error("nobody waits for it any more")]
    Abandoned,
    /// The channel has no origin that may be asked.
    #[error("the channel has no origin with a weight above 0")]
    NoOrigin,
}

impl UpstreamError {
    /// Label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            UpstreamError::Resolve { .. } => "resolve",
            UpstreamError::Connect { .. } => "connect",
            UpstreamError::Tls { .. } => "tls",
            UpstreamError::Timeout { .. } => "timeout",
            UpstreamError::Io(_) => "io",
            UpstreamError::Truncated { .. } => "truncated",
            UpstreamError::BadResponse(_) => "bad_response",
            UpstreamError::Status(_) => "status",
            UpstreamError::Redirects(_) => "redirects",
            UpstreamError::WrongRange { .. } => "wrong_range",
            UpstreamError::OtherVersion => "other_version",
            UpstreamError::NoMemory => "no_memory",
            UpstreamError::Crowded => "crowded",
            UpstreamError::Abandoned => "abandoned",
            UpstreamError::NoOrigin => "no_origin",
        }
    }

    /// Whether the origin is to blame, so that its health should know.
    pub fn blames_origin(&self) -> bool {
        !matches!(
            self,
            UpstreamError::NoMemory
                | UpstreamError::Crowded
                | UpstreamError::Abandoned
                | UpstreamError::OtherVersion
                | UpstreamError::NoOrigin
        )
    }

    /// Whether the origin cannot have got the request.
    pub fn is_before_sending(&self) -> bool {
        matches!(self, UpstreamError::Resolve { .. } | UpstreamError::Connect { .. } | UpstreamError::Crowded)
    }

    /// The status a viewer gets when no origin did better (RFC 9110 section 15.6).
    pub fn viewer_status(&self) -> u16 {
        match self {
            UpstreamError::Timeout { .. } => 504,
            UpstreamError::NoMemory | UpstreamError::Crowded => 503,
            _ => 502,
        }
    }
}
