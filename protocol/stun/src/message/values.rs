//! Attributes that hold texts, numbers and flags.

use super::attribute::{AttributeType, Value, fill};
use super::{Family, TransactionId};

/// Bytes of a text at most that must be readable (RFC 8489 sections 14.3, 14.9, 14.10, 14.14): what RFC 5389 allowed.
const MAX_TEXT: usize = 763;

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $kind:ident, $lengths:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name<'a>(pub &'a str);

        impl<'a> Value<'a> for $name<'a> {
            const TYPE: AttributeType = AttributeType::$kind;

            fn read(bytes: &'a [u8], _: &TransactionId) -> Option<Self> {
                $lengths.contains(&bytes.len()).then_some(Self(std::str::from_utf8(bytes).ok()?))
            }

            fn len(&self) -> usize {
                self.0.len()
            }

            fn write(&self, out: &mut [u8], _: &TransactionId) {
                fill(out, &[self.0.as_bytes()]);
            }
        }
    )*};
}

pub(super) use texts;

texts! {
    /// Who asks. Compared byte by byte: names are not prepared by the OpaqueString profile.
    Username = USERNAME, 0..=MAX_TEXT;
    /// Whose names and passwords count.
    Realm = REALM, 0..=MAX_TEXT;
    /// What the server wants to see again.
    Nonce = NONCE, 0..=MAX_TEXT;
    /// Who made this.
    Software = SOFTWARE, 0..=MAX_TEXT;
}

macro_rules! bytes {
    ($($(#[$doc:meta])* $name:ident = $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name<'a>(pub &'a [u8]);

        impl<'a> Value<'a> for $name<'a> {
            const TYPE: AttributeType = AttributeType::$kind;

            fn read(bytes: &'a [u8], _: &TransactionId) -> Option<Self> {
                Some(Self(bytes))
            }

            fn len(&self) -> usize {
                self.0.len()
            }

            fn write(&self, out: &mut [u8], _: &TransactionId) {
                fill(out, &[self.0]);
            }
        }
    )*};
}

bytes! {
    /// What is relayed.
    Data = DATA;
    /// Nothing, to make a message long.
    Padding = PADDING;
    /// What lets an allocation move to another five-tuple.
    MobilityTicket = MOBILITY_TICKET;
    /// SHA-256 of `username:realm`.
    UserHash = USERHASH;
}

/// Attributes of a fixed length: a name, its fields, and both directions in terms of an array.
macro_rules! fixed {
    ($($(#[$doc:meta])* $name:ident = $kind:ident, $length:literal: |$bytes:pat_param| $read:expr, |$value:pat_param| $write:expr;)*) => {$(
        impl Value<'_> for $name {
            const TYPE: AttributeType = AttributeType::$kind;

            fn read(bytes: &[u8], _: &TransactionId) -> Option<Self> {
                let $bytes = <[u8; $length]>::try_from(bytes).ok()?;
                $read
            }

            fn len(&self) -> usize {
                $length
            }

            fn write(&self, out: &mut [u8], _: &TransactionId) {
                let $value = *self;
                let bytes: [u8; $length] = $write;
                fill(out, &[&bytes]);
            }
        }
    )*};
}

pub(super) use fixed;

/// Asks for the response from elsewhere (RFC 5780 section 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangeRequest {
    /// From the other address.
    pub address: bool,
    /// From the other port.
    pub port: bool,
}

/// Asks for the response to another port of the sender's address (RFC 5780 section 7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponsePort(pub u16);

/// A channel; those in use are 0x4000 to 0x7ffe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelNumber(pub u16);

/// Seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(pub u32);

/// An IP protocol's number; 17 is UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedTransport(pub u8);

/// The family that an allocation relays in, or that a Refresh is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedAddressFamily(pub Family);

/// A second family to relay in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdditionalAddressFamily(pub Family);

/// Asks for an even relay port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvenPort {
    /// And to keep the next one for a later allocation.
    pub reserve_next: bool,
}

/// Asks for the DF bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DontFragment;

/// Of a check by the controlling peer: this address pair is the one (RFC 8445 section 7.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UseCandidate;

/// Names a relay port that was kept by [`EvenPort`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationToken(pub [u8; 8]);

/// An ICMP error that came for what was relayed (RFC 8656 section 18.13): 16 bits reserved, 7 of type, 9 of code, 32 of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// ICMP or ICMPv6 type, below 128 as those of all errors are.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The next hop's MTU where that is the error, else zero.
    pub data: [u8; 4],
}

fixed! {
    ChangeRequest = CHANGE_REQUEST, 4:
        |[.., flags]| Some(Self { address: flags & 4 != 0, port: flags & 2 != 0 }),
        |Self { address, port }| [0, 0, 0, u8::from(address) << 2 | u8::from(port) << 1];
    ChannelNumber = CHANNEL_NUMBER, 4:
        |[a, b, _, _]| Some(Self(u16::from_be_bytes([a, b]))),
        |Self(number)| { let [a, b] = number.to_be_bytes(); [a, b, 0, 0] };
    Lifetime = LIFETIME, 4:
        |bytes| Some(Self(u32::from_be_bytes(bytes))),
        |Self(seconds)| seconds.to_be_bytes();
    RequestedTransport = REQUESTED_TRANSPORT, 4:
        |[protocol, ..]| Some(Self(protocol)),
        |Self(protocol)| [protocol, 0, 0, 0];
    RequestedAddressFamily = REQUESTED_ADDRESS_FAMILY, 4:
        |[family, ..]| Some(Self(Family::from_number(family)?)),
        |Self(family)| [family.number(), 0, 0, 0];
    AdditionalAddressFamily = ADDITIONAL_ADDRESS_FAMILY, 4:
        |[family, ..]| Some(Self(Family::from_number(family)?)),
        |Self(family)| [family.number(), 0, 0, 0];
    EvenPort = EVEN_PORT, 1:
        |[flags]| Some(Self { reserve_next: flags & 0x80 != 0 }),
        |Self { reserve_next }| [u8::from(reserve_next) << 7];
    DontFragment = DONT_FRAGMENT, 0:
        |[]| Some(Self),
        |Self| [];
    UseCandidate = USE_CANDIDATE, 0:
        |[]| Some(Self),
        |Self| [];
    ReservationToken = RESERVATION_TOKEN, 8:
        |token| Some(Self(token)),
        |Self(token)| token;
    Icmp = ICMP, 8:
        |[_, _, high, low, data @ ..]| Some(Self { kind: high >> 1, code: low, data }).filter(|_| high & 1 == 0),
        |Self { kind, code, data: [a, b, c, d] }| [0, 0, kind << 1, code, a, b, c, d];
}

impl Value<'_> for ResponsePort {
    const TYPE: AttributeType = AttributeType::RESPONSE_PORT;

    /// The RFC draws two bytes of padding and says length 4 in one place, 2 in another; clients send either.
    fn read(bytes: &[u8], _: &TransactionId) -> Option<Self> {
        match *bytes {
            [a, b] | [a, b, _, _] => Some(Self(u16::from_be_bytes([a, b]))),
            _ => None,
        }
    }

    fn len(&self) -> usize {
        4
    }

    fn write(&self, out: &mut [u8], _: &TransactionId) {
        fill(out, &[&self.0.to_be_bytes(), &[0, 0]]);
    }
}

/// The algorithm a client made its key with: number and parameters (RFC 8489 section 14.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordAlgorithmValue<'a> {
    /// 1: MD5, 2: SHA-256.
    pub number: u16,
    /// Empty for both.
    pub parameters: &'a [u8],
}

impl<'a> Value<'a> for PasswordAlgorithmValue<'a> {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHM;

    fn read(bytes: &'a [u8], _: &TransactionId) -> Option<Self> {
        let (&[n0, n1, l0, l1], rest) = bytes.split_first_chunk()?;
        let parameters = rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?;
        // Some count the parameters' padding in, some do not.
        (rest.len() - parameters.len() < 4).then_some(Self { number: u16::from_be_bytes([n0, n1]), parameters })
    }

    fn len(&self) -> usize {
        4 + self.parameters.len()
    }

    fn write(&self, out: &mut [u8], _: &TransactionId) {
        fill(out, &[&self.number.to_be_bytes(), &(self.parameters.len() as u16).to_be_bytes(), self.parameters]);
    }
}

/// The algorithms a server offers, best first, as they are on the wire: a client repeats them byte by byte, and a
/// server compares them so (RFC 8489 section 9.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordAlgorithms<'a>(pub &'a [u8]);

impl<'a> Value<'a> for PasswordAlgorithms<'a> {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHMS;

    fn read(bytes: &'a [u8], _: &TransactionId) -> Option<Self> {
        Some(Self(bytes))
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn write(&self, out: &mut [u8], _: &TransactionId) {
        fill(out, &[self.0]);
    }
}
