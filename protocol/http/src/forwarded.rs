//! The client's address behind trusted proxies.

use std::net::{IpAddr, SocketAddr};

use crate::grammar::elements;

/// The right-most address of X-Forwarded-For that is not a trusted proxy, read as if `peer` stood at its right end.
///
/// `lines` are the values of all X-Forwarded-For lines in order. An entry that is no address ends the search: what a
/// trusted proxy did not write as an address cannot be looked behind. When all are trusted, the left-most is it.
/// IPv4-mapped IPv6 addresses are read as IPv4.
pub fn client_address<'a, I>(peer: IpAddr, lines: I, trusted: impl Fn(IpAddr) -> bool) -> IpAddr
where
    I: IntoIterator<Item = &'a [u8]>,
    I::IntoIter: DoubleEndedIterator,
{
    let mut client = peer.to_canonical();
    for entry in lines.into_iter().rev().flat_map(|line| elements(line).rev()) {
        if !trusted(client) {
            break;
        }
        let Some(address) = parse_address(entry) else { break };
        client = address;
    }
    client
}

/// Reads an address with or without brackets and port; several proxies write ports.
fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip())).ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let trusted = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.segments()[0] == 0xfd00,
        };
        client_address(peer.parse().unwrap(), lines.iter().map(|line| line.as_bytes()), trusted).to_string()
    }

    #[test]
    fn the_right_most_untrusted_address() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "an untrusted peer speaks for itself only");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.7", "10.0.0.2 ,"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["10.0.0.3,10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn nothing_is_believed_behind_what_is_no_address() {
        assert_eq!(client("10.0.0.1", &["198.51.100.7, unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(client("10.0.0.1", &["\u{e4}"]), "10.0.0.1");
    }

    #[test]
    fn spellings() {
        assert_eq!(client("::ffff:10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client("fd00::1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client("fd00::1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(client("fd00::1", &["198.51.100.7:1234"]), "198.51.100.7");
        assert_eq!(client("fd00::1", &["::ffff:198.51.100.7"]), "198.51.100.7");
    }
}
