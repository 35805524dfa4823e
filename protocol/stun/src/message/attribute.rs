//! Types of attributes, and how they follow one another.

use std::fmt;

use super::TransactionId;

/// An attribute's number in IANA's registry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttributeType(pub u16);

macro_rules! types {
    ($($(#[$doc:meta])* $constant:ident = $number:literal, $name:literal;)*) => {
        impl AttributeType {
            $($(#[$doc])* pub const $constant: Self = Self($number);)*
        }

        impl fmt::Debug for AttributeType {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($number => f.write_str($name),)*
                    number => write!(f, "attribute {number:#06x}"),
                }
            }
        }
    };
}

types! {
    /// RFC 8489 section 14.1; all that a classic client knows.
    MAPPED_ADDRESS = 0x0001, "MAPPED-ADDRESS";
    /// RFC 3489 section 11.2.2; asks to answer to a third party, so never done.
    RESPONSE_ADDRESS = 0x0002, "RESPONSE-ADDRESS";
    /// RFC 5780 section 7.2.
    CHANGE_REQUEST = 0x0003, "CHANGE-REQUEST";
    /// RFC 3489 section 11.2.5.
    SOURCE_ADDRESS = 0x0004, "SOURCE-ADDRESS";
    /// RFC 3489 section 11.2.3.
    CHANGED_ADDRESS = 0x0005, "CHANGED-ADDRESS";
    /// RFC 8489 section 14.3.
    USERNAME = 0x0006, "USERNAME";
    /// RFC 3489 section 11.2.7.
    PASSWORD = 0x0007, "PASSWORD";
    /// RFC 8489 section 14.5.
    MESSAGE_INTEGRITY = 0x0008, "MESSAGE-INTEGRITY";
    /// RFC 8489 section 14.8.
    ERROR_CODE = 0x0009, "ERROR-CODE";
    /// RFC 8489 section 14.13.
    UNKNOWN_ATTRIBUTES = 0x000a, "UNKNOWN-ATTRIBUTES";
    /// RFC 3489 section 11.2.11.
    REFLECTED_FROM = 0x000b, "REFLECTED-FROM";
    /// RFC 8656 section 18.1.
    CHANNEL_NUMBER = 0x000c, "CHANNEL-NUMBER";
    /// RFC 8656 section 18.2.
    LIFETIME = 0x000d, "LIFETIME";
    /// RFC 8656 section 18.3.
    XOR_PEER_ADDRESS = 0x0012, "XOR-PEER-ADDRESS";
    /// RFC 8656 section 18.4.
    DATA = 0x0013, "DATA";
    /// RFC 8489 section 14.9.
    REALM = 0x0014, "REALM";
    /// RFC 8489 section 14.10.
    NONCE = 0x0015, "NONCE";
    /// RFC 8656 section 18.5.
    XOR_RELAYED_ADDRESS = 0x0016, "XOR-RELAYED-ADDRESS";
    /// RFC 8656 section 18.6.
    REQUESTED_ADDRESS_FAMILY = 0x0017, "REQUESTED-ADDRESS-FAMILY";
    /// RFC 8656 section 18.7.
    EVEN_PORT = 0x0018, "EVEN-PORT";
    /// RFC 8656 section 18.8.
    REQUESTED_TRANSPORT = 0x0019, "REQUESTED-TRANSPORT";
    /// RFC 8656 section 18.9.
    DONT_FRAGMENT = 0x001a, "DONT-FRAGMENT";
    /// RFC 8489 section 14.6.
    MESSAGE_INTEGRITY_SHA256 = 0x001c, "MESSAGE-INTEGRITY-SHA256";
    /// RFC 8489 section 14.12.
    PASSWORD_ALGORITHM = 0x001d, "PASSWORD-ALGORITHM";
    /// RFC 8489 section 14.4.
    USERHASH = 0x001e, "USERHASH";
    /// RFC 8489 section 14.2.
    XOR_MAPPED_ADDRESS = 0x0020, "XOR-MAPPED-ADDRESS";
    /// RFC 8656 section 18.10.
    RESERVATION_TOKEN = 0x0022, "RESERVATION-TOKEN";
    /// RFC 8445 section 16.1.
    USE_CANDIDATE = 0x0025, "USE-CANDIDATE";
    /// RFC 5780 section 7.6.
    PADDING = 0x0026, "PADDING";
    /// RFC 5780 section 7.5.
    RESPONSE_PORT = 0x0027, "RESPONSE-PORT";
    /// docs/punch.md, and the six below.
    PEER_ID = 0x7a01, "PEER-ID";
    /// The other peer's.
    TARGET = 0x7a02, "TARGET";
    /// A channel's id.
    CHANNEL = 0x7a03, "CHANNEL";
    /// What opens a channel.
    TICKET = 0x7a04, "TICKET";
    /// A NAT as its peer found it.
    NAT = 0x7a05, "NAT";
    /// A secret between a peer and its node.
    REGISTRATION = 0x7a06, "REGISTRATION";
    /// How and when to punch.
    PUNCH = 0x7a07, "PUNCH";
    /// RFC 8656 section 18.11.
    ADDITIONAL_ADDRESS_FAMILY = 0x8000, "ADDITIONAL-ADDRESS-FAMILY";
    /// RFC 8656 section 18.12.
    ADDRESS_ERROR_CODE = 0x8001, "ADDRESS-ERROR-CODE";
    /// RFC 8489 section 14.11.
    PASSWORD_ALGORITHMS = 0x8002, "PASSWORD-ALGORITHMS";
    /// RFC 8656 section 18.13.
    ICMP = 0x8004, "ICMP";
    /// RFC 8489 section 14.14.
    SOFTWARE = 0x8022, "SOFTWARE";
    /// RFC 8489 section 14.15.
    ALTERNATE_SERVER = 0x8023, "ALTERNATE-SERVER";
    /// RFC 8489 section 14.7.
    FINGERPRINT = 0x8028, "FINGERPRINT";
    /// RFC 5780 section 7.3.
    RESPONSE_ORIGIN = 0x802b, "RESPONSE-ORIGIN";
    /// RFC 5780 section 7.4.
    OTHER_ADDRESS = 0x802c, "OTHER-ADDRESS";
    /// RFC 8016 section 3.4.
    MOBILITY_TICKET = 0x8030, "MOBILITY-TICKET";
}

impl AttributeType {
    /// Whether a receiver that does not know it must refuse the message (RFC 8489 section 14).
    #[must_use]
    pub const fn is_comprehension_required(self) -> bool {
        self.0 < 0x8000
    }
}

/// Type and value as they came; the value without its padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// What it is.
    pub kind: AttributeType,
    /// Its bytes.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The first attribute, and what follows it and its padding.
    pub(super) fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[k0, k1, l0, l1], rest) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(..length)?;
        // Whatever the padding's bytes are (RFC 8489 section 14): they only have to be there.
        let rest = rest.get(padded(length)..)?;
        Some((Self { kind: AttributeType(u16::from_be_bytes([k0, k1])), value }, rest))
    }
}

/// A length with the padding of its attribute.
pub(super) const fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The attributes of a message, one after the other.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (attribute, rest) = Attribute::split(self.rest)?;
        self.rest = rest;
        Some(attribute)
    }
}

/// What an attribute of one type means: read from and written to its bytes.
#[expect(clippy::len_without_is_empty, reason = "of a value nobody asks whether it is empty")]
pub trait Value<'a>: Sized {
    /// Its type.
    const TYPE: AttributeType;

    /// Reads a value; `None` when it breaks the format.
    fn read(bytes: &'a [u8], id: &TransactionId) -> Option<Self>;

    /// Bytes that [`write`](Self::write) fills, below 65,536.
    fn len(&self) -> usize;

    /// Writes the value over `out`, whose length is [`len`](Self::len).
    fn write(&self, out: &mut [u8], id: &TransactionId);
}

/// Copies parts behind one another over `out`, as far as there is room.
pub(super) fn fill(out: &mut [u8], parts: &[&[u8]]) {
    let bytes = parts.iter().flat_map(|part| part.iter());
    for (place, byte) in out.iter_mut().zip(bytes) {
        *place = *byte;
    }
}
