use thiserror::Error;

/// Why a head was refused. [`HeadError::status`] is what a server answers; a gateway answers 502 for an upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The bytes break the grammar of RFC 9112; the text says which rule.
    #[error("malformed head: {0}")]
    Malformed(&'static str),
    /// The head says two different things about where its body ends, or something no recipient can trust.
    #[error("ambiguous message length: {0}")]
    Framing(&'static str),
    /// Missing, repeated or malformed Host (RFC 9112 section 3.2).
    #[error("bad Host: {0}")]
    Host(&'static str),
    /// The whole head is longer than allowed.
    #[error("head is longer than {limit} bytes; send fewer or shorter headers")]
    HeadTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// The first line is longer than allowed.
    #[error("request line is longer than {limit} bytes; send a shorter URL")]
    LineTooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// More header lines than allowed.
    #[error("more than {limit} header lines; send fewer")]
    TooManyHeaders {
        /// Lines allowed.
        limit: usize,
    },
    /// A transfer coding before `chunked` that this crate does not decode.
    #[error("transfer coding not supported: only chunked is")]
    TransferCoding,
    /// A well-formed HTTP version other than 1.x.
    #[error("HTTP version {major}.{minor} not supported; use HTTP/1.1")]
    Version {
        /// Major version digit.
        major: u8,
        /// Minor version digit.
        minor: u8,
    },
}

impl HeadError {
    /// Status to answer with: 400, 414, 431, 501 or 505.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::Framing(_) | Self::Host(_) => 400,
            Self::LineTooLong { .. } => 414,
            Self::HeadTooLong { .. } | Self::TooManyHeaders { .. } => 431,
            Self::TransferCoding => 501,
            Self::Version { .. } => 505,
        }
    }

    /// One line for the body of the answer, naming what was wrong. Never contains the client's bytes.
    #[must_use]
    pub fn message(&self) -> String {
        self.to_string()
    }

    /// Short static label for a counter.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Framing(_) => "framing",
            Self::Host(_) => "host",
            Self::HeadTooLong { .. } => "head_too_long",
            Self::LineTooLong { .. } => "line_too_long",
            Self::TooManyHeaders { .. } => "too_many_headers",
            Self::TransferCoding => "transfer_coding",
            Self::Version { .. } => "version",
        }
    }
}
