//! PROXY protocol version 2 headers (haproxy, doc/proxy-protocol.txt section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes.get(..seen) != SIGNATURE.get(..seen) {
        return Err(ProxyError::Signature);
    }
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let [.., version_command, family, high, low] = *fixed;
    if version_command >> 4 != 2 {
        return Err(ProxyError::Version(version_command >> 4));
    }
    let rest_len = u16::from_be_bytes([high, low]);
    let length = FIXED + usize::from(rest_len);
    if length > max {
        return Err(ProxyError::TooLong { length, max });
    }
    let is_proxy = match version_command & 15 {
        0 => false,
        1 => true,
        command => return Err(ProxyError::Command(command)),
    };
    // The family of LOCAL is to be ignored, its length not.
    let addresses = match family {
        _ if !is_proxy => 0,
        UNSPECIFIED => 0,
        TCP4 => 12,
        TCP6 => 36,
        _ => return Err(ProxyError::Family(family)),
    };
    if usize::from(rest_len) < addresses {
        return Err(ProxyError::TooShort(rest_len));
    }
    let Some(rest) = bytes.get(FIXED..length) else { return Ok(None) };
    let header = match addresses {
        12 => ipv4(rest),
        36 => ipv6(rest),
        _ => Some(ProxyHeader::Local),
    };
    Ok(Some((header.ok_or(ProxyError::TooShort(rest_len))?, length)))
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

fn ipv4(rest: &[u8]) -> Option<ProxyHeader> {
    let (source, rest) = rest.split_first_chunk::<4>()?;
    let (destination, rest) = rest.split_first_chunk::<4>()?;
    proxied(Ipv4Addr::from(*source).into(), Ipv4Addr::from(*destination).into(), rest)
}

fn ipv6(rest: &[u8]) -> Option<ProxyHeader> {
    let (source, rest) = rest.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    proxied(Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), rest)
}

fn proxied(source: IpAddr, destination: IpAddr, ports: &[u8]) -> Option<ProxyHeader> {
    let [a, b, c, d] = *ports.first_chunk::<4>()?;
    Some(ProxyHeader::Proxied {
        source: SocketAddr::new(source, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn ipv4_rest() -> Vec<u8> {
        vec![192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x01, 0xbb]
    }

    #[test]
    fn tcp_over_ipv4_with_tlvs() {
        let mut rest = ipv4_rest();
        rest.extend([0x03, 0, 4, 1, 2, 3, 4]);
        let bytes = header(0x21, TCP4, &rest);
        let expected = ProxyHeader::Proxied {
            source: "192.0.2.1:12345".parse().unwrap(),
            destination: "198.51.100.2:443".parse().unwrap(),
        };
        let mut followed = bytes.clone();
        followed.extend(b"GET / HTTP/1.1");
        assert_eq!(parse_proxy(&followed, 536), Ok(Some((expected, bytes.len()))));
        for end in 0..bytes.len() {
            assert_eq!(parse_proxy(&bytes[..end], 536), Ok(None), "{end}");
        }
    }

    #[test]
    fn tcp_over_ipv6() {
        let mut rest = Vec::new();
        rest.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        rest.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        rest.extend([0, 80, 1, 0]);
        let expected = ProxyHeader::Proxied {
            source: "[2001:db8::1]:80".parse().unwrap(),
            destination: "[2001:db8::2]:256".parse().unwrap(),
        };
        assert_eq!(parse_proxy(&header(0x21, TCP6, &rest), 536), Ok(Some((expected, 52))));
    }

    #[test]
    fn local_and_unspecified_keep_the_connections_addresses() {
        assert_eq!(parse_proxy(&header(0x20, 0, &[]), 536), Ok(Some((ProxyHeader::Local, 16))));
        assert_eq!(parse_proxy(&header(0x20, 0xff, &[1, 2, 3]), 536), Ok(Some((ProxyHeader::Local, 19))));
        assert_eq!(parse_proxy(&header(0x21, 0, &[1, 2, 3]), 536), Ok(Some((ProxyHeader::Local, 19))));
    }

    #[test]
    fn hostile_headers() {
        assert_eq!(parse_proxy(b"GET / HTTP/1.1\r\n", 536), Err(ProxyError::Signature));
        assert_eq!(parse_proxy(b"\r\n\r\nX", 536), Err(ProxyError::Signature), "at once");
        assert_eq!(parse_proxy(b"PROXY TCP4 192.0.2.1", 536), Err(ProxyError::Signature));
        assert_eq!(parse_proxy(&header(0x11, TCP4, &ipv4_rest()), 536), Err(ProxyError::Version(1)));
        assert_eq!(parse_proxy(&header(0x22, TCP4, &ipv4_rest()), 536), Err(ProxyError::Command(2)));
        assert_eq!(parse_proxy(&header(0x21, 0x12, &ipv4_rest()), 536), Err(ProxyError::Family(0x12)));
        assert_eq!(parse_proxy(&header(0x21, 0x31, &[0; 216]), 536), Err(ProxyError::Family(0x31)));
        assert_eq!(parse_proxy(&header(0x21, TCP4, &ipv4_rest()[..11]), 536), Err(ProxyError::TooShort(11)));
        assert_eq!(parse_proxy(&header(0x21, TCP6, &ipv4_rest()), 536), Err(ProxyError::TooShort(12)));
        let long = header(0x21, TCP4, &[0; 600]);
        assert_eq!(parse_proxy(&long[..16], 536), Err(ProxyError::TooLong { length: 616, max: 536 }), "at once");
    }
}
