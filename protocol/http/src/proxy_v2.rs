//! PROXY protocol version 2 headers (haproxy, doc/proxy-protocol.txt section 2.2).

use std::net::SocketAddr;

use thiserror::Error;

/// What a PROXY header says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// LOCAL, or an unspecified family: the connection's own addresses count.
    Local,
    /// TCP over IPv4 or IPv6.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// The address it connected to.
        destination: SocketAddr,
    },
}

/// Why the bytes are no acceptable PROXY header; the connection is closed without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// Does not start with the signature of version 2.
    #[error("connection does not start with the PROXY v2 signature")]
    Signature,
    /// Version is not 2.
    #[error("PROXY version {0} is not 2")]
    Version(u8),
    /// Command is neither LOCAL nor PROXY.
    #[error("PROXY command {0} is neither LOCAL nor PROXY")]
    Command(u8),
    /// A family or transport other than unspecified, TCP over IPv4 and TCP over IPv6.
    #[error("PROXY family and transport 0x{0:02x} not supported")]
    Family(u8),
    /// Too short for the addresses of its family.
    #[error("PROXY header has {0} bytes after the first 16, too few for its addresses")]
    TooShort(u16),
    /// Longer than allowed.
    #[error("PROXY header has {length} bytes, more than {max}")]
    TooLong {
        /// Bytes of the whole header.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
}

/// Reads a header from the start of `bytes`, with the number of bytes it took, TLVs included. `None`: more bytes are
/// needed. `max` bounds the whole header in bytes.
pub fn parse_proxy(bytes: &[u8], max: usize) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    let _ = (bytes, max);
    todo!()
}
