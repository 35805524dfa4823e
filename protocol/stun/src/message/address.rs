//! Attributes that hold a transport address (RFC 8489 sections 14.1 and 14.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::attribute::{AttributeType, Value, fill};
use super::{MAGIC_COOKIE, TransactionId};

/// Address families as STUN numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// 0x01.
    Ipv4,
    /// 0x02.
    Ipv6,
}

impl Family {
    /// Of an address as it stands: an IPv4-mapped one is IPv6.
    #[must_use]
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// Inverse of [`number`](Self::number).
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Ipv4),
            2 => Some(Self::Ipv6),
            _ => None,
        }
    }
}

/// Zero, family, port and address.
fn read(bytes: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], address) = bytes.split_first_chunk()?;
    let ip = match Family::from_number(family)? {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?)),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?)),
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([p0, p1])))
}

const fn len(address: &SocketAddr) -> usize {
    match address {
        SocketAddr::V4(_) => 8,
        SocketAddr::V6(_) => 20,
    }
}

fn write(address: &SocketAddr, out: &mut [u8]) {
    let [p0, p1] = address.port().to_be_bytes();
    let head = [0, Family::of(&address.ip()).number(), p0, p1];
    match address.ip() {
        IpAddr::V4(ip) => fill(out, &[&head, &ip.octets()]),
        IpAddr::V6(ip) => fill(out, &[&head, &ip.octets()]),
    }
}

/// Its own inverse: the port with the upper half of the magic cookie, an address with all of cookie and transaction id.
fn xor(address: SocketAddr, id: &TransactionId) -> SocketAddr {
    let port = address.port() ^ (MAGIC_COOKIE >> 16) as u16;
    let ip = match address.ip() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() ^ MAGIC_COOKIE)),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() ^ u128::from_be_bytes(*id.as_bytes()))),
    };
    SocketAddr::new(ip, port)
}

macro_rules! addresses {
    ($($(#[$doc:meta])* $name:ident = $kind:ident, $xor:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub SocketAddr);

        impl Value<'_> for $name {
            const TYPE: AttributeType = AttributeType::$kind;

            fn read(bytes: &[u8], id: &TransactionId) -> Option<Self> {
                let address = read(bytes)?;
                Some(Self(if $xor { xor(address, id) } else { address }))
            }

            fn len(&self) -> usize {
                len(&self.0)
            }

            fn write(&self, out: &mut [u8], id: &TransactionId) {
                write(&if $xor { xor(self.0, id) } else { self.0 }, out);
            }
        }
    )*};
}

addresses! {
    /// The client's address as the server sees it, for clients that know no other form.
    MappedAddress = MAPPED_ADDRESS, false;
    /// The client's address as the server sees it, in a form that NATs do not rewrite.
    XorMappedAddress = XOR_MAPPED_ADDRESS, true;
    /// A peer: whom a Send indication is for, whom a Data indication is from.
    XorPeerAddress = XOR_PEER_ADDRESS, true;
    /// What an allocation relays from.
    XorRelayedAddress = XOR_RELAYED_ADDRESS, true;
    /// Where the server's response was sent from.
    ResponseOrigin = RESPONSE_ORIGIN, false;
    /// What the server would send from if both address and port were to change.
    OtherAddress = OTHER_ADDRESS, false;
    /// [`ResponseOrigin`] of the classic dialect.
    SourceAddress = SOURCE_ADDRESS, false;
    /// [`OtherAddress`] of the classic dialect.
    ChangedAddress = CHANGED_ADDRESS, false;
    /// Whose request it was that had a response sent elsewhere.
    ReflectedFrom = REFLECTED_FROM, false;
    /// Another server to ask.
    AlternateServer = ALTERNATE_SERVER, false;
}
