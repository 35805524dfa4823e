//! STUN messages (RFC 8489 section 5), their classic form (RFC 3489), and what TURN puts beside them: ChannelData and the
//! framing of streams (RFC 8656 section 12.4).
//!
//! [`Message::parse`] checks the framing of the whole message once and then hands out borrowed values; [`Builder`] writes
//! into a buffer of the caller. Neither allocates.

mod address;
mod attribute;
mod builder;
mod channel_data;
mod error_code;
mod integrity;
mod punching;
mod stream;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;

use thiserror::Error;

pub use address::{
    AlternateServer, ChangedAddress, Family, MappedAddress, OtherAddress, ReflectedFrom, ResponseOrigin, SourceAddress,
    XorMappedAddress, XorPeerAddress, XorRelayedAddress,
};
pub use attribute::{Attribute, AttributeType, Attributes, Value};
pub use builder::{BufferFull, Builder};
pub use channel_data::{CHANNEL_DATA_HEADER, CHANNELS, ChannelData, channel_data_header};
pub use error_code::{AddressErrorCode, ErrorCode, UnknownAttributes};
pub use integrity::{Fingerprint, Integrity};
pub use punching::{ChannelId, MAX_CHANNEL, MAX_TICKET, Nat, PeerId, Punch, Registration, Role, Target, Ticket};
pub use stream::{Frame, NotTurn, next_frame};
pub use values::{
    AdditionalAddressFamily, ChangeRequest, ChannelNumber, Data, DontFragment, EvenPort, Icmp, Lifetime,
    MobilityTicket, Nonce, Padding, PasswordAlgorithmValue, PasswordAlgorithms, Realm, RequestedAddressFamily,
    RequestedTransport, ReservationToken, ResponsePort, Software, UseCandidate, UserHash, Username,
};

/// Bytes of a message's header.
pub const HEADER: usize = 20;
/// What bytes 4 to 7 of a message are, unless it is a classic one.
pub const MAGIC_COOKIE: u32 = 0x2112_a442;

/// Bytes of the header in front of the transaction id, as [`TransactionId`] has it.
const BEFORE_ID: usize = 4;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method(u16);

impl Method {
    /// RFC 8489.
    pub const BINDING: Self = Self(0x001);
    /// RFC 8656, and the others below.
    pub const ALLOCATE: Self = Self(0x003);
    /// Keeps or ends an allocation.
    pub const REFRESH: Self = Self(0x004);
    /// Data to a peer.
    pub const SEND: Self = Self(0x006);
    /// Data from a peer.
    pub const DATA: Self = Self(0x007);
    /// Lets peers in.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// Gives a peer a channel.
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// docs/punch.md: keeps a peer known.
    pub const REGISTER: Self = Self(0x0e1);
    /// Asks for a peer.
    pub const INTRODUCE: Self = Self(0x0e2);
    /// Tells the other peer.
    pub const INTRODUCED: Self = Self(0x0e3);

    /// The method of a number below 0x1000; higher bits are dropped.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number & 0xfff)
    }

    /// The method of a message that is not classic, by its first eight bytes; the rest may be anything.
    #[must_use]
    #[inline]
    pub const fn peek(datagram: &[u8]) -> Option<Self> {
        let Some(&[t0, t1, _, _, c0, c1, c2, c3]) = datagram.first_chunk() else { return None };
        let kind = u16::from_be_bytes([t0, t1]);
        if kind >= 0x4000 || u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE {
            return None;
        }
        Some(from_type_bits(kind).0)
    }

    /// Its number in IANA's registry.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BINDING => f.write_str("Binding"),
            Self::ALLOCATE => f.write_str("Allocate"),
            Self::REFRESH => f.write_str("Refresh"),
            Self::SEND => f.write_str("Send"),
            Self::DATA => f.write_str("Data"),
            Self::CREATE_PERMISSION => f.write_str("CreatePermission"),
            Self::CHANNEL_BIND => f.write_str("ChannelBind"),
            Self::REGISTER => f.write_str("Register"),
            Self::INTRODUCE => f.write_str("Introduce"),
            Self::INTRODUCED => f.write_str("Introduced"),
            Self(number) => write!(f, "Method({number:#05x})"),
        }
    }
}

/// The four classes of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Wants a response.
    Request,
    /// Wants none.
    Indication,
    /// The response to a request that was granted.
    Success,
    /// The response to a request that was refused.
    Error,
}

/// Method and class as the first two bytes have them: their bits are interleaved (RFC 8489 section 5).
const fn type_bits(method: Method, class: Class) -> u16 {
    let m = method.0;
    let c = match class {
        Class::Request => 0b00,
        Class::Indication => 0b01,
        Class::Success => 0b10,
        Class::Error => 0b11,
    };
    (m & 0xf80) << 2 | (m & 0x070) << 1 | m & 0x00f | (c & 0b10) << 7 | (c & 0b01) << 4
}

/// Inverse of [`type_bits`], for a number below 0x4000.
const fn from_type_bits(bits: u16) -> (Method, Class) {
    let method = Method(bits & 0x000f | (bits & 0x00e0) >> 1 | (bits & 0x3e00) >> 2);
    let class = match (bits & 0x100 != 0, bits & 0x010 != 0) {
        (false, false) => Class::Request,
        (false, true) => Class::Indication,
        (true, false) => Class::Success,
        (true, true) => Class::Error,
    };
    (method, class)
}

/// Bytes 4 to 19 of a message: the magic cookie and 12 bytes of transaction id, or the 16 bytes that a classic client
/// chose. A response repeats all of them, and XOR'd addresses are XOR'd with them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId([u8; 16]);

impl TransactionId {
    /// The id of an RFC 8489 message.
    #[must_use]
    pub const fn new(id: [u8; 12]) -> Self {
        let [a, b, c, d] = MAGIC_COOKIE.to_be_bytes();
        let [e, f, g, h, i, j, k, l, m, n, o, p] = id;
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// The id of a classic message. One that begins with the magic cookie is not classic.
    #[must_use]
    pub const fn classic(id: [u8; 16]) -> Self {
        Self(id)
    }

    /// Whether the message is in the dialect of RFC 3489.
    #[must_use]
    pub const fn is_classic(&self) -> bool {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d]) != MAGIC_COOKIE
    }

    /// All 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why bytes are no STUN message. None of these deserves an answer: what cannot be framed has no sender to trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Shorter than a header.
    #[error("shorter than a STUN header")]
    TooShort,
    /// The first two bits are not zero.
    #[error("not STUN: the first two bits are not zero")]
    NotStun,
    /// The header's length is not that of what follows, or no multiple of four.
    #[error("message length in the header is not that of the message")]
    Length,
    /// An attribute runs past the end.
    #[error("an attribute runs past the end of the message")]
    Attribute,
}

/// An attribute whose value breaks its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed {0:?}")]
pub struct Malformed(pub AttributeType);

/// A view of one whole message.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    method: Method,
    class: Class,
    id: TransactionId,
    /// Offsets of the attributes that end a message, as far as they come in the order the standard lays down.
    sha1: Option<usize>,
    sha256: Option<usize>,
    fingerprint: Option<usize>,
    /// Where the attributes end that are not to be ignored: at the first of the three above.
    end: usize,
}

impl<'a> Message<'a> {
    /// Checks the framing of `bytes`, which are one message and nothing else.
    ///
    /// # Errors
    /// Why they are none. The values of attributes are checked when they are read.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else { return Err(ParseError::TooShort) };
        let [t0, t1, l0, l1, id @ ..] = *header;
        let kind = u16::from_be_bytes([t0, t1]);
        if kind >= 0x4000 {
            return Err(ParseError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length != body.len() || !length.is_multiple_of(4) {
            return Err(ParseError::Length);
        }
        let (method, class) = from_type_bits(kind);
        let id = TransactionId(id);
        let (mut sha1, mut sha256, mut fingerprint) = (None, None, None);
        let mut at = HEADER;
        let mut rest = body;
        while !rest.is_empty() {
            let (attribute, after) = Attribute::split(rest).ok_or(ParseError::Attribute)?;
            // Behind MESSAGE-INTEGRITY all is ignored but its SHA-256 twin and FINGERPRINT, behind that twin all but
            // FINGERPRINT, and behind FINGERPRINT everything (RFC 8489 sections 14.5 to 14.7).
            let place = match attribute.kind {
                AttributeType::MESSAGE_INTEGRITY if sha256.is_none() => Some(&mut sha1),
                AttributeType::MESSAGE_INTEGRITY_SHA256 => Some(&mut sha256),
                AttributeType::FINGERPRINT => Some(&mut fingerprint),
                _ => None,
            };
            if let Some(place) = place
                && place.is_none()
            {
                *place = Some(at);
                if attribute.kind == AttributeType::FINGERPRINT {
                    // What follows must be framed too, but counts for nothing.
                    let mut tail = after;
                    while !tail.is_empty() {
                        tail = Attribute::split(tail).ok_or(ParseError::Attribute)?.1;
                    }
                    break;
                }
            }
            at += rest.len() - after.len();
            rest = after;
        }
        let end = [sha1, sha256, fingerprint].into_iter().flatten().min().unwrap_or(bytes.len());
        Ok(Self { bytes, method, class, id, sha1, sha256, fingerprint, end })
    }

    /// What it is about.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Request, indication or response.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.class
    }

    /// To be repeated by its response.
    #[must_use]
    pub const fn transaction_id(&self) -> &TransactionId {
        &self.id
    }

    /// The message as it came.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its attributes in order, without those that end it (integrity, FINGERPRINT) and those to be ignored behind them.
    #[must_use]
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes::new(self.bytes.get(HEADER..self.end).unwrap_or_default())
    }

    /// The first attribute of a type; further ones count only where a type says so (RFC 8489 section 14).
    ///
    /// # Errors
    /// It is there, and breaks its format.
    pub fn read<V: Value<'a>>(&self) -> Result<Option<V>, Malformed> {
        self.read_all().next().transpose()
    }

    /// All attributes of a type, such as the peers of a CreatePermission request.
    pub fn read_all<V: Value<'a>>(&self) -> impl Iterator<Item = Result<V, Malformed>> + use<'a, V> {
        let id = self.id;
        self.attributes()
            .filter(|attribute| attribute.kind == V::TYPE)
            .map(move |attribute| V::read(attribute.value, &id).ok_or(Malformed(V::TYPE)))
    }

    /// Whether there is an attribute of this type, well-formed or not.
    #[must_use]
    pub fn has(&self, kind: AttributeType) -> bool {
        self.attributes().any(|attribute| attribute.kind == kind)
    }

    /// Types that a receiver which knows only `known` must not pass over (RFC 8489 section 6.3). Integrity and
    /// FINGERPRINT are always known.
    pub fn unknown_required<'k>(
        &self,
        known: &'k [AttributeType],
    ) -> impl Iterator<Item = AttributeType> + use<'a, 'k> {
        self.attributes()
            .map(|attribute| attribute.kind)
            .filter(|kind| kind.is_comprehension_required() && !known.contains(kind))
    }

    /// Where in [`as_bytes`](Self::as_bytes) a value that was read from this message lies.
    #[must_use]
    pub fn range_of(&self, value: &[u8]) -> Option<std::ops::Range<usize>> {
        let start = (value.as_ptr() as usize).checked_sub(self.bytes.as_ptr() as usize)?;
        let end = start.checked_add(value.len())?;
        (end <= self.bytes.len()).then_some(start..end)
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?} ", self.method, self.class, self.id)?;
        f.debug_list().entries(self.attributes().map(|attribute| attribute.kind)).finish()
    }
}

/// What the first bytes of a datagram on a STUN and TURN port are (RFC 7983, RFC 8656 section 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A STUN message, by its first two bits.
    Stun,
    /// ChannelData, by a channel number in use.
    ChannelData,
    /// Neither.
    Other,
}

impl Kind {
    /// Looks at the first byte.
    #[must_use]
    #[inline]
    pub const fn of(bytes: &[u8]) -> Self {
        match bytes.first() {
            Some(0x00..=0x3f) => Self::Stun,
            Some(0x40..=0x7f) => Self::ChannelData,
            _ => Self::Other,
        }
    }
}
